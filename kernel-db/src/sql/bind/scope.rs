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
        let column = column.or_else(|| self.whole_row(&name));
        match (column, self.variable(&name)) {
            (Some(found), Some(_)) if self.columns_win => Ok(found),
            (Some(_), Some(_)) => Err(self.at(either(&name), id.span)),
            (Some(found), None) | (None, Some(found)) => Ok(found),
            (None, None) => {
                let error = Error::new("42703", format!("column \"{name}\" does not exist"));
                Err(self.at(error, id.span))
            }
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

    /// `table.column`, `record.field` or `label.variable`; what two of them have is 42702 as in PostgreSQL.
    pub(super) fn qualified_name(&mut self, parts: &[ast::Ident]) -> Result<Typed> {
        let names: Vec<String> = parts.iter().map(ident).collect();
        let (Some(column), Some(table)) =
            (names.last(), names.len().checked_sub(2).map(|i| &names[i]))
        else {
            return Err(Error::new("42601", "a name is missing"));
        };
        let place = self.column_of(table, column);
        let variable = self.variable(&names.join("."));
        let record = self.names.get(&names[..names.len() - 1].join("."));
        let error = match (place, variable, record) {
            (Some(Some(found)), Some(_), _) if self.columns_win => return Ok(found),
            (Some(Some(_)), Some(_), _) => either(&names.join(".")),
            (Some(Some(found)), None, None | Some(Name::Slot(_))) => return Ok(found),
            (_, Some(variable), _) => return Ok(variable),
            (_, None, Some(Name::Row(fields))) => match fields.is_empty() {
                true => Error::new("55000", format!("record \"{table}\" is not assigned yet")),
                false => {
                    let message = format!("record \"{table}\" has no field \"{column}\"");
                    Error::new("42703", message)
                }
            },
            (Some(None), ..) => {
                Error::new("42703", format!("column {table}.{column} does not exist"))
            }
            (None, ..) => {
                let message = format!("missing FROM-clause entry for table \"{table}\"");
                Error::new("42P01", message)
            }
        };
        Err(self.at(error, parts[0].span))
    }

    /// The column of the nearest table of that name: none without such a table, none in it without such a column.
    fn column_of(&self, table: &str, column: &str) -> Option<Option<Typed>> {
        let mut levels = self.scopes.iter().rev().enumerate();
        let (depth, found) = levels.find_map(|(depth, scope)| {
            let found = scope.tables.iter().find(|t| t.alias == table)?;
            Some((depth, found))
        })?;
        let at = found.columns.iter().position(|(n, _)| n == column);
        Some(at.map(|i| Self::place(depth, found.offset + i, found.columns[i].1)))
    }

    /// 42702 for `name.*` where the name is a record's too.
    pub(super) fn check_is_no_record(&self, name: &str) -> Result<()> {
        match self.names.get(name) {
            Some(Name::Row(_)) => Err(either(&format!("{name}.*"))),
            _ => Ok(()),
        }
    }
}

fn either(name: &str) -> Error {
    Error::new("42702", format!("column reference \"{name}\" is ambiguous"))
        .detail("It could refer to either a PL/pgSQL variable or a table column.")
}
