//! Variables of a procedure: names to slots of the frame, block by block.

use std::collections::{BTreeMap, HashMap};

use super::ast::Name;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::prepare::{self, Column, ParamScope};

/// Most slots of a frame.
const SLOTS_MAX: usize = 10_000;

/// What a slot holds.
#[derive(Clone, Debug)]
pub struct Slot {
    pub data_type: DataType,
    pub max_len: Option<u32>,
    pub not_null: Option<String>,
    pub assigned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    Scalar(usize),
    Record(usize),
}

/// A record variable: the fields it has at this place of the text, and every field it ever had.
#[derive(Clone, Debug, Default)]
struct Record {
    name: String,
    shape: Vec<(String, usize)>,
    known: BTreeMap<String, usize>,
    /// Of a declared row type: never another shape.
    fixed: bool,
}

#[derive(Debug, Default)]
struct Level {
    label: Option<String>,
    names: Vec<(String, Variable, bool)>,
}

#[derive(Debug, Default)]
pub struct Scopes {
    pub slots: Vec<Slot>,
    records: Vec<Record>,
    levels: Vec<Level>,
    /// Slots of the input arguments: $1, $2, ...
    pub positional: Vec<usize>,
}

impl Scopes {
    pub fn push(&mut self, label: Option<String>) {
        self.levels.push(Level {
            label,
            names: Vec::new(),
        });
    }

    pub fn pop(&mut self) {
        self.levels.pop();
    }

    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    pub fn truncate(&mut self, depth: usize) {
        self.levels.truncate(depth);
    }

    /// A slot without a name.
    pub fn slot(&mut self, data_type: DataType) -> Result<usize> {
        if self.slots.len() >= SLOTS_MAX {
            return Err(Error::new(
                "54000",
                format!("more than {SLOTS_MAX} variables in a procedure"),
            ));
        }
        self.slots.push(Slot {
            data_type,
            max_len: None,
            not_null: None,
            assigned: false,
        });
        Ok(self.slots.len() - 1)
    }

    /// Declares a scalar variable in the innermost level.
    pub fn declare(&mut self, name: &str, data_type: DataType, constant: bool) -> Result<usize> {
        let slot = self.slot(data_type)?;
        self.bind(name, Variable::Scalar(slot), constant)?;
        Ok(slot)
    }

    pub fn declare_record(&mut self, name: &str) -> Result<usize> {
        self.records.push(Record {
            name: name.to_string(),
            ..Record::default()
        });
        let record = self.records.len() - 1;
        self.bind(name, Variable::Record(record), false)?;
        Ok(record)
    }

    /// Gives `variable` a name in the innermost level.
    pub fn bind(&mut self, name: &str, variable: Variable, constant: bool) -> Result<()> {
        let Some(level) = self.levels.last_mut() else {
            return Err(Error::internal("variable outside of a block"));
        };
        if level.names.iter().any(|(n, _, _)| n == name) {
            return Err(Error::new(
                "42601",
                format!("duplicate declaration of \"{name}\""),
            ));
        }
        level.names.push((name.to_string(), variable, constant));
        Ok(())
    }

    /// The fields a record takes from `columns`; their slots in the same order.
    pub fn shape(&mut self, record: usize, columns: &[Column]) -> Result<Vec<usize>> {
        if self.records[record].fixed {
            return Ok(self.records[record].shape.iter().map(|(_, s)| *s).collect());
        }
        let mut shape: Vec<(String, usize)> = Vec::with_capacity(columns.len());
        for column in columns {
            let slot = self.field(record, column)?;
            shape.push((column.name.clone(), slot));
        }
        let slots = shape.iter().map(|(_, s)| *s).collect();
        self.records[record].shape = shape;
        Ok(slots)
    }

    pub fn fix(&mut self, record: usize) {
        self.records[record].fixed = true;
    }

    fn field(&mut self, record: usize, column: &Column) -> Result<usize> {
        let Some(&slot) = self.records[record].known.get(&column.name) else {
            let slot = self.slot(column.data_type)?;
            self.records[record].known.insert(column.name.clone(), slot);
            return Ok(slot);
        };
        if self.slots[slot].data_type == column.data_type {
            return Ok(slot);
        }
        let what = format!(
            "a second type of field \"{}\" of record \"{}\"",
            column.name, self.records[record].name
        );
        Err(Error::unsupported(what).hint("use another record variable"))
    }

    /// Names of a record's fields as they are now.
    pub fn fields(&self, record: usize) -> Vec<String> {
        let shape = self.records[record].shape.iter();
        shape.map(|(name, _)| name.clone()).collect()
    }

    /// Slots of a record's fields as they are now.
    pub fn record_slots(&self, record: usize) -> Vec<usize> {
        self.records[record].shape.iter().map(|(_, s)| *s).collect()
    }

    fn find(&self, label: Option<&str>, name: &str) -> Option<(Variable, bool)> {
        let levels = self.levels.iter().rev();
        levels
            .filter(|l| label.is_none() || l.label.as_deref() == label)
            .find_map(|l| {
                let found = l.names.iter().find(|(n, _, _)| n == name);
                found.map(|(_, variable, constant)| (*variable, *constant))
            })
    }

    fn field_slot(&self, record: usize, field: &str) -> Option<usize> {
        self.records[record]
            .shape
            .iter()
            .find(|(n, _)| n == field)
            .map(|(_, s)| *s)
    }

    /// Looks up a variable: `v`, `label.v`, `record.field`, `label.record.field`. The flag says that it is constant.
    pub fn resolve(&self, name: &Name) -> Option<(Variable, bool)> {
        let field = |(variable, constant): (Variable, bool), field: &str| match variable {
            Variable::Record(record) => self
                .field_slot(record, field)
                .map(|s| (Variable::Scalar(s), constant)),
            Variable::Scalar(_) => None,
        };
        match name.as_slice() {
            [name] => self.find(None, name),
            [a, b] => {
                let as_field = self.find(None, a).and_then(|found| field(found, b));
                as_field.or_else(|| self.find(Some(a), b))
            }
            [label, record, f] => self
                .find(Some(label), record)
                .and_then(|found| field(found, f)),
            _ => None,
        }
    }

    /// The variable to assign to; marks its slots.
    pub fn target(&mut self, name: &Name) -> Result<Variable> {
        let shown = name.join(".");
        let (variable, constant) = self
            .resolve(name)
            .ok_or_else(|| Error::new("42601", format!("\"{shown}\" is not a known variable")))?;
        if constant {
            return Err(Error::new(
                "22005",
                format!("variable \"{shown}\" is declared CONSTANT"),
            ));
        }
        if let Variable::Scalar(slot) = variable {
            self.slots[slot].assigned = true;
        }
        Ok(variable)
    }

    /// The names a statement at this place can use.
    pub fn params(&self) -> ParamScope {
        let mut names = HashMap::new();
        for level in &self.levels {
            for (name, variable, _) in &level.names {
                let qualified = level.label.as_ref().map(|label| format!("{label}.{name}"));
                for prefix in [Some(name.clone()), qualified].into_iter().flatten() {
                    self.insert_names(&mut names, prefix, *variable);
                }
            }
        }
        ParamScope {
            types: self.slots.iter().map(|s| Some(s.data_type)).collect(),
            names,
            positional: self.positional.clone(),
            columns_win: false,
        }
    }

    fn insert_names(
        &self,
        names: &mut HashMap<String, prepare::Name>,
        prefix: String,
        variable: Variable,
    ) {
        match variable {
            Variable::Scalar(slot) => {
                // An inner variable hides a record of the same name with all its fields.
                let fields = format!("{prefix}.");
                names.retain(|n, _| !n.starts_with(&fields));
                names.insert(prefix, prepare::Name::Slot(slot));
            }
            Variable::Record(record) => {
                let fields = format!("{prefix}.");
                names.retain(|n, _| !n.starts_with(&fields));
                for (field, slot) in &self.records[record].shape {
                    let name = format!("{prefix}.{field}");
                    names.insert(name, prepare::Name::Slot(*slot));
                }
                names.insert(prefix, prepare::Name::Row(self.record_slots(record)));
            }
        }
    }
}
