//! Blocks: declarations and exception handlers.

use sqlparser::parser::Parser;

use super::{Compiler, Enclosing};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::parse::DIALECT;
use crate::sql::plpgsql::ast::{
    Block, Declaration, DeclarationKind, Fragment, Handler, Name, TypeName,
};
use crate::sql::plpgsql::code::{BlockCode, Code, HandlerCode, Place, Value1};
use crate::sql::plpgsql::scope::Variable;
use crate::sql::prepare::Column;

/// What a variable is declared as.
enum Declared {
    Scalar(DataType, Option<u32>),
    Record,
    Row(Vec<Column>),
}

impl Compiler<'_> {
    pub(super) fn block(&mut self, block: &Block) -> Result<Code> {
        let target = self.new_target();
        self.scopes.push(block.label.clone());
        let mut variables = Vec::with_capacity(block.declarations.len());
        for declaration in &block.declarations {
            self.declaration(declaration, &mut variables)?;
        }
        self.enclosing.push(Enclosing {
            label: block.label.clone(),
            target,
            is_loop: false,
        });
        let body = self.statements(&block.body)?;
        let (state, message, handlers) = self.handlers(&block.handlers)?;
        self.enclosing.pop();
        self.scopes.pop();
        Ok(Code::Block(Box::new(BlockCode {
            target,
            variables,
            body,
            handlers,
            state,
            message,
        })))
    }

    fn declaration(
        &mut self,
        declaration: &Declaration,
        out: &mut Vec<(Place, Option<Value1>)>,
    ) -> Result<()> {
        let name = &declaration.name;
        let DeclarationKind::Variable {
            of,
            constant,
            not_null,
            default,
        } = &declaration.kind
        else {
            return self.alias(declaration);
        };
        if *not_null && default.is_none() {
            let message = format!(
                "variable \"{name}\" must have a default value, since it's declared NOT NULL"
            );
            return Err(Error::new("42601", message));
        }
        match self.declared(of)? {
            Declared::Scalar(data_type, max_len) => {
                // The default sees what was declared before, not the variable itself.
                let value = default
                    .as_ref()
                    .map(|d| self.value(d, data_type))
                    .transpose()?;
                let slot = self.scopes.declare(name, data_type, *constant)?;
                self.scopes.slots[slot].max_len = max_len;
                self.scopes.slots[slot].not_null = not_null.then(|| name.clone());
                out.push((self.place(slot, data_type), value));
            }
            Declared::Record | Declared::Row(_) if default.is_some() => {
                return Err(Error::unsupported("a default of a record variable"));
            }
            Declared::Record => {
                self.scopes.declare_record(name)?;
            }
            Declared::Row(columns) => {
                let record = self.scopes.declare_record(name)?;
                let slots = self.scopes.shape(record, &columns)?;
                self.scopes.fix(record);
                for slot in slots {
                    let data_type = self.scopes.slots[slot].data_type;
                    out.push((self.place(slot, data_type), None));
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, declaration: &Declaration) -> Result<()> {
        let DeclarationKind::Alias(other) = &declaration.kind else {
            return Ok(());
        };
        let (variable, constant) = match other.as_slice() {
            [one] if one.starts_with('$') => (self.positional(one)?, false),
            _ => self.resolve(other)?,
        };
        self.scopes.bind(&declaration.name, variable, constant)
    }

    fn positional(&self, dollar: &str) -> Result<Variable> {
        let number: Option<usize> = dollar[1..].parse().ok();
        let slot = number.and_then(|n| self.scopes.positional.get(n.wrapping_sub(1)));
        slot.map(|s| Variable::Scalar(*s))
            .ok_or_else(|| Error::new("42P02", format!("there is no parameter {dollar}")))
    }

    fn resolve(&self, name: &Name) -> Result<(Variable, bool)> {
        let unknown = || {
            Error::new(
                "42704",
                format!("variable \"{}\" does not exist", name.join(".")),
            )
        };
        self.scopes.resolve(name).ok_or_else(unknown)
    }

    fn declared(&self, of: &TypeName) -> Result<Declared> {
        match of {
            TypeName::Record => Ok(Declared::Record),
            TypeName::Sql(fragment) => self.sql_type(fragment),
            TypeName::RowOf(name) => Ok(Declared::Row(self.columns_of(name)?)),
            TypeName::SameAs(name) => {
                if let Some((Variable::Scalar(slot), _)) = self.scopes.resolve(name) {
                    let slot = &self.scopes.slots[slot];
                    return Ok(Declared::Scalar(slot.data_type, slot.max_len));
                }
                let (column, table) = name
                    .split_last()
                    .ok_or_else(|| Error::internal("name without parts"))?;
                if table.is_empty() {
                    return Err(Error::new(
                        "42704",
                        format!("variable \"{column}\" does not exist"),
                    ));
                }
                let columns = self.columns_of(&table.to_vec())?;
                let found = columns.iter().find(|c| c.name == *column);
                let missing = || {
                    let message = format!(
                        "column \"{column}\" of relation \"{}\" does not exist",
                        table.join(".")
                    );
                    Error::new("42703", message)
                };
                Ok(Declared::Scalar(found.ok_or_else(missing)?.data_type, None))
            }
        }
    }

    /// A type's name, or a table's for its row type.
    fn sql_type(&self, fragment: &Fragment) -> Result<Declared> {
        let text = fragment.text.trim();
        let words = text
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        if words && DataType::from_name(text).is_none() {
            let name: Name = text.to_lowercase().split('.').map(str::to_string).collect();
            if let Ok(columns) = self.columns_of(&name) {
                return Ok(Declared::Row(columns));
            }
        }
        let unknown = || Error::new("42704", format!("type \"{text}\" does not exist"));
        let mut parser = Parser::new(&DIALECT)
            .try_with_sql(text)
            .map_err(|_| unknown())?;
        let parsed = parser.parse_data_type().map_err(|_| unknown())?;
        let (data_type, max_len) = DataType::from_sql(&parsed)?;
        Ok(Declared::Scalar(data_type, max_len))
    }

    fn columns_of(&self, name: &Name) -> Result<Vec<Column>> {
        let (table, schema) = match name.as_slice() {
            [table] => (table, None),
            [schema, table] => (table, Some(schema.as_str())),
            _ => {
                return Err(Error::new(
                    "42601",
                    format!("improper relation name {}", name.join(".")),
                ));
            }
        };
        let found = self.catalog.table(schema, table);
        let found = found.ok_or_else(|| {
            Error::new(
                "42P01",
                format!("relation \"{}\" does not exist", name.join(".")),
            )
        })?;
        let columns = found.visible_columns().iter();
        Ok(columns
            .map(|c| Column {
                name: c.name.clone(),
                data_type: c.data_type,
            })
            .collect())
    }

    /// Slots of SQLSTATE and SQLERRM, and the handlers, which see these two.
    fn handlers(&mut self, handlers: &[Handler]) -> Result<(usize, usize, Vec<HandlerCode>)> {
        if handlers.is_empty() {
            return Ok((0, 0, Vec::new()));
        }
        self.scopes.push(None);
        let state = self.scopes.declare("sqlstate", DataType::Text, true)?;
        let message = self.scopes.declare("sqlerrm", DataType::Text, true)?;
        self.handling += 1;
        let mut codes = Vec::with_capacity(handlers.len());
        for handler in handlers {
            codes.push(HandlerCode {
                conditions: handler.conditions.clone(),
                body: self.statements(&handler.body)?,
            });
        }
        self.handling -= 1;
        self.scopes.pop();
        Ok((state, message, codes))
    }
}
