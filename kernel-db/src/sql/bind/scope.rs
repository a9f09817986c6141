//! Names that a query level can see.

use sqlparser::ast;

use super::{Binder, Typed, ident};
use crate::error::{Error, Result};
use crate::sql::plan::Expr;
use crate::sql::prepare::Name;
use crate::sql::{DataType, Value};

/// A table of FROM under its alias.
#[derive(Clone, Debug)]
pub struct ScopeTable {
    pub alias: String,
    pub columns: Vec<(String, DataType)>,
    /// Columns that `*` shows (the others are at the end).
    pub visible: usize,
    /// First place in the row.
    pub offset: usize,
}

/// One query level.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub tables: Vec<ScopeTable>,
    /// Columns of the right side of JOIN USING that an unqualified name or `*` does not mean.
    pub merged: Vec<usize>,
}

impl Scope {
    pub fn width(&self) -> usize {
        self.tables.last().map_or(0, |t| t.offset + t.columns.len())
    }

    /// Place and type of an unqualified column; an error text if it is ambiguous.
    fn find(&self, name: &str) -> Result<Option<(usize, DataType)>> {
        let mut found = None;
        for table in &self.tables {
            for (i, (column, data_type)) in table.columns.iter().enumerate() {
                let place = table.offset + i;
                if column != name || self.merged.contains(&place) {
                    continue;
                }
                if found.is_some() {
                    return Err(Error::new(
                        "42702",
                        format!("column reference \"{name}\" is ambiguous"),
                    ));
                }
                found = Some((place, *data_type));
            }
        }
        Ok(found)
    }
}

impl Binder<'_> {
    pub(super) fn scope(&mut self) -> Result<&mut Scope> {
        self.scopes
            .last_mut()
            .ok_or_else(|| Error::internal("no query level"))
    }

    fn place(depth: usize, column: usize, data_type: DataType) -> Typed {
        let expr = if depth == 0 {
            Expr::Column(column)
        } else {
            Expr::Outer { depth, column }
        };
        Typed::new(expr, data_type)
    }

    /// A variable of the procedure.
    fn variable(&self, name: &str) -> Option<Typed> {
        Some(match self.names.get(name)? {
            Name::Slot(slot) => {
                let data_type = self.params.get(*slot).copied().flatten();
                Typed::new(Expr::Param(*slot), data_type.unwrap_or(DataType::Unknown))
            }
            Name::Row(slots) if slots.is_empty() => {
                Typed::new(Expr::Const(Value::Null), DataType::Record)
            }
            Name::Row(slots) => {
                let fields = slots.iter().map(|slot| Expr::Param(*slot));
                Typed::new(Expr::Row(fields.collect()), DataType::Record)
            }
        })
    }

    /// An unqualified name: a column of the nearest level that has it, or a variable; both is 42702 as in PostgreSQL.
    pub(super) fn name(&mut self, id: &ast::Ident) -> Result<Typed> {
        let name = ident(id);
        let mut column = None;
        for (depth, scope) in self.scopes.iter().rev().enumerate() {
            let found = scope.find(&name).map_err(|e| self.at(e, id.span))?;
            if let Some((place, data_type)) = found {
                column = Some(Self::place(depth, place, data_type));
                break;
            }
        }
        match (column, self.variable(&name)) {
            (Some(_), Some(_)) => {
                let error =
                    Error::new("42702", format!("column reference \"{name}\" is ambiguous"))
                        .detail("It could refer to either a PL/pgSQL variable or a table column.");
                Err(self.at(error, id.span))
            }
            (Some(found), None) | (None, Some(found)) => Ok(found),
            (None, None) => match self.whole_row(&name) {
                Some(row) => Ok(row),
                None => {
                    let error = Error::new("42703", format!("column \"{name}\" does not exist"));
                    Err(self.at(error, id.span))
                }
            },
        }
    }

    /// A table's alias used as a value.
    fn whole_row(&self, name: &str) -> Option<Typed> {
        for (depth, scope) in self.scopes.iter().rev().enumerate() {
            if let Some(table) = scope.tables.iter().find(|t| t.alias == name) {
                let fields = (0..table.visible)
                    .map(|i| Self::place(depth, table.offset + i, table.columns[i].1).expr);
                return Some(Typed::new(Expr::Row(fields.collect()), DataType::Record));
            }
        }
        None
    }

    /// `table.column`, `record.field` or `label.variable`.
    pub(super) fn qualified_name(&mut self, parts: &[ast::Ident]) -> Result<Typed> {
        let names: Vec<String> = parts.iter().map(ident).collect();
        let (Some(column), Some(table)) =
            (names.last(), names.len().checked_sub(2).map(|i| &names[i]))
        else {
            return Err(Error::new("42601", "a name is missing"));
        };
        let span = parts[0].span;
        for (depth, scope) in self.scopes.iter().rev().enumerate() {
            let Some(found) = scope.tables.iter().find(|t| t.alias == *table) else {
                continue;
            };
            let Some(i) = found.columns.iter().position(|(n, _)| n == column) else {
                let error = Error::new("42703", format!("column {table}.{column} does not exist"));
                return Err(self.at(error, span));
            };
            return Ok(Self::place(depth, found.offset + i, found.columns[i].1));
        }
        if let Some(variable) = self.variable(&names.join(".")) {
            return Ok(variable);
        }
        if let Some(Name::Row(fields)) = self.names.get(table) {
            let error = match fields.is_empty() {
                true => Error::new("55000", format!("record \"{table}\" is not assigned yet")),
                false => {
                    let message = format!("record \"{table}\" has no field \"{column}\"");
                    Error::new("42703", message)
                }
            };
            return Err(self.at(error, span));
        }
        let error = Error::new(
            "42P01",
            format!("missing FROM-clause entry for table \"{table}\""),
        );
        Err(self.at(error, span))
    }
}
