//! Assignments, SQL statements, and what a procedure gives back.

use super::Compiler;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plpgsql::ast::{Fragment, Into, Name, Raise};
use crate::sql::plpgsql::code::{
    Code, IntoCode, Item, NextRow, Place, RaiseCode, ResultShape, UsingOption,
};
use crate::sql::plpgsql::scope::Variable;
use crate::sql::prepare::{Column, Kind};

impl Compiler<'_> {
    pub(super) fn assign(&mut self, target: &Name, value: &Fragment) -> Result<Code> {
        let slot = match self.scopes.target(target)? {
            Variable::Scalar(slot) => slot,
            Variable::Record(record) => return self.assign_record(record, value),
        };
        let data_type = self.scopes.slots[slot].data_type;
        let value = self.value(value, data_type)?;
        Ok(Code::Assign(self.place(slot, data_type), value))
    }

    /// Where the columns of a row go: one record, or a list of variables.
    pub(super) fn row_places(
        &mut self,
        targets: &[Name],
        columns: &[Column],
    ) -> Result<Vec<Place>> {
        let mut slots = Vec::with_capacity(targets.len());
        for target in targets {
            match self.scopes.target(target)? {
                Variable::Scalar(slot) => slots.push(slot),
                Variable::Record(record) if targets.len() == 1 => {
                    slots = self.scopes.shape(record, columns)?
                }
                Variable::Record(_) => {
                    let message = format!(
                        "record variable \"{}\" cannot be part of multiple-item INTO list",
                        target.join(".")
                    );
                    return Err(Error::new("42601", message));
                }
            }
        }
        // What the row lacks becomes NULL; what it has too much is dropped.
        let from = |i: usize| columns.get(i).map_or(DataType::Unknown, |c| c.data_type);
        Ok(slots
            .iter()
            .enumerate()
            .map(|(i, slot)| self.place(*slot, from(i)))
            .collect())
    }

    pub(super) fn sql(&mut self, text: &Fragment, into: Option<&Into>) -> Result<Code> {
        let statement = self.prepare(text)?;
        let Some(into) = into else {
            if statement.returns_rows() {
                self.deferred = true;
                let error = self.syntax_error(text.at, "query has no destination for result data");
                return Err(error
                    .hint("If you want to discard the results of a SELECT, use PERFORM instead."));
            }
            return Ok(Code::Sql {
                statement,
                into: None,
            });
        };
        if !statement.returns_rows() {
            self.deferred = true;
            return Err(
                self.syntax_error(text.at, "INTO used with a command that cannot return data")
            );
        }
        let places = self.row_places(&into.targets, &statement.columns)?;
        let single = statement.kind != Kind::Select;
        Ok(Code::Sql {
            statement,
            into: Some(IntoCode {
                strict: into.strict,
                single,
                places,
            }),
        })
    }

    pub(super) fn return_value(&mut self, value: Option<&Fragment>) -> Result<Code> {
        let refuse = |what: &str| {
            Err(Error::new(
                "42804",
                format!("RETURN cannot have a parameter in function {what}"),
            ))
        };
        let want = match (&self.shape, value) {
            (ResultShape::Scalar(want), Some(_)) => *want,
            (ResultShape::Scalar(_), None) => {
                return Err(Error::new("42601", "missing expression at or near \";\""));
            }
            (_, None) => return Ok(Code::Return(None)),
            (ResultShape::Void, Some(_)) => return refuse("returning void"),
            (ResultShape::Out(_), Some(_)) => return refuse("with OUT parameters"),
            (ResultShape::Set, Some(_)) => {
                let error = Error::new(
                    "42804",
                    "RETURN cannot have a parameter in function returning set",
                );
                return Err(error.hint("Use RETURN NEXT or RETURN QUERY."));
            }
        };
        let value = value.map(|v| self.value(v, want)).transpose()?;
        Ok(Code::Return(value))
    }

    pub(super) fn return_next(&mut self, value: Option<&Fragment>) -> Result<Code> {
        if self.shape != ResultShape::Set {
            return Err(Error::new(
                "42804",
                "cannot use RETURN NEXT in a non-SETOF function",
            ));
        }
        let Some(fragment) = value else {
            if self.outs.is_empty() {
                return Err(Error::new("42601", "missing expression at or near \";\""));
            }
            return Ok(Code::ReturnNext(NextRow::Slots(self.outs.clone())));
        };
        if !self.outs.is_empty() {
            return Err(Error::new(
                "42804",
                "RETURN NEXT cannot have a parameter in function with OUT parameters",
            ));
        }
        if self.def.returns.columns.is_empty() {
            let value = self.value(fragment, self.def.returns.data_type)?;
            return Ok(Code::ReturnNext(NextRow::Value(value)));
        }
        let name: Name = fragment
            .text
            .trim()
            .to_lowercase()
            .split('.')
            .map(str::to_string)
            .collect();
        let Some((Variable::Record(record), _)) = self.scopes.resolve(&name) else {
            return Err(Error::new(
                "42804",
                "cannot return non-composite value from function returning composite type",
            ));
        };
        let slots = self.scopes.record_slots(record);
        let types: Vec<DataType> = slots
            .iter()
            .map(|s| self.scopes.slots[*s].data_type)
            .collect();
        self.deferred = true;
        self.check_row(&types)?;
        self.deferred = false;
        Ok(Code::ReturnNext(NextRow::Slots(slots)))
    }

    pub(super) fn return_query(&mut self, query: &Fragment) -> Result<Code> {
        if self.shape != ResultShape::Set {
            return Err(Error::new(
                "42804",
                "cannot use RETURN QUERY in a non-SETOF function",
            ));
        }
        let prepared = self.prepare(query)?;
        let types: Vec<DataType> = prepared.columns.iter().map(|c| c.data_type).collect();
        self.deferred = true;
        self.check_row(&types)?;
        self.deferred = false;
        Ok(Code::ReturnQuery(prepared))
    }

    /// 42804 unless a row of these types is a row of the result.
    fn check_row(&self, types: &[DataType]) -> Result<()> {
        let returns = &self.def.returns;
        let wanted: Vec<DataType> = match returns.columns.is_empty() {
            true => vec![returns.data_type],
            false => returns.columns.iter().map(|(_, t)| t.0).collect(),
        };
        let mismatch = |detail: String| {
            let error = Error::new(
                "42804",
                "structure of query does not match function result type",
            );
            Err(error.detail(detail))
        };
        if wanted.len() != types.len() {
            let detail = format!(
                "Number of returned columns ({}) does not match expected column count ({}).",
                types.len(),
                wanted.len()
            );
            return mismatch(detail);
        }
        match types.iter().zip(&wanted).position(|(t, w)| t != w) {
            None => Ok(()),
            Some(i) => mismatch(format!(
                "Returned type {} does not match expected type {} in column {}.",
                types[i].name(),
                wanted[i].name(),
                i + 1
            )),
        }
    }

    pub(super) fn raise(&mut self, raise: &Raise) -> Result<Code> {
        if raise.again && self.handling == 0 {
            let message = "RAISE without parameters cannot be used outside an exception handler";
            return Err(Error::new("0Z002", message));
        }
        let mut arguments = Vec::with_capacity(raise.arguments.len());
        for argument in &raise.arguments {
            arguments.push(self.expr(argument, None)?);
        }
        let mut using = Vec::with_capacity(raise.using.len());
        for (option, value) in &raise.using {
            let option = match option.as_str() {
                "message" => UsingOption::Message,
                "detail" => UsingOption::Detail,
                "hint" => UsingOption::Hint,
                "errcode" => UsingOption::Errcode,
                _ => UsingOption::Other,
            };
            using.push((option, self.expr(value, None)?));
        }
        Ok(Code::Raise(Box::new(RaiseCode {
            level: raise.level,
            format: raise.format.clone(),
            arguments,
            state: raise.state.clone(),
            name: raise.name.clone(),
            using,
            again: raise.again,
        })))
    }

    pub(super) fn assert(
        &mut self,
        condition: &Fragment,
        message: Option<&Fragment>,
    ) -> Result<Code> {
        let condition = self.condition(condition)?;
        let message = message.map(|m| self.expr(m, None)).transpose()?;
        Ok(Code::Assert { condition, message })
    }

    pub(super) fn diagnostics(&mut self, stacked: bool, items: &[(Name, String)]) -> Result<Code> {
        if stacked && self.handling == 0 {
            let message = "GET STACKED DIAGNOSTICS cannot be used outside an exception handler";
            return Err(Error::new("0Z002", message));
        }
        let mut codes = Vec::with_capacity(items.len());
        for (target, item) in items {
            let Variable::Scalar(slot) = self.scopes.target(target)? else {
                return Err(Error::new(
                    "42601",
                    format!("\"{}\" is not a scalar variable", target.join(".")),
                ));
            };
            let (item, from) = match item.as_str() {
                "returned_sqlstate" => (Item::State, DataType::Text),
                "message_text" => (Item::Message, DataType::Text),
                "pg_exception_detail" => (Item::Detail, DataType::Text),
                "pg_exception_hint" => (Item::Hint, DataType::Text),
                _ => (Item::RowCount, DataType::Int8),
            };
            codes.push((self.place(slot, from), item));
        }
        Ok(Code::Diagnostics(codes))
    }
}
