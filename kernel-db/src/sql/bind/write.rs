//! INSERT, UPDATE, DELETE.

use std::sync::Arc;

use sqlparser::ast;

use super::from::From;
use super::scope::Scope;
use super::{Binder, ident, object_name, parse};
use crate::error::{Error, Result};
use crate::sql::catalog::Table;
use crate::sql::plan::choose::{self, Planned};
use crate::sql::plan::{
    Access, Assignment, Conflict, ConflictAction, ConflictTarget, Delete, Expr, Insert,
    InsertSource, JoinKind, RowRules, Source, Step, Update,
};
use crate::sql::prepare::Column;
use crate::sql::{DataType, Value};

impl Binder<'_> {
    fn rules(&mut self, table: &Arc<Table>) -> Result<RowRules> {
        let mut checks = Vec::with_capacity(table.checks.len());
        for check in &table.checks {
            checks.push((check.name.clone(), self.check(table, &check.expr)?));
        }
        Ok(RowRules {
            table: Arc::clone(table),
            types: table.types(),
            checks,
        })
    }

    /// SQL text of the catalogue as a condition over a table's columns.
    pub(super) fn check(&mut self, table: &Table, text: &str) -> Result<Expr> {
        let parsed = parse::parse_expression(text)?;
        let outer = (
            std::mem::take(&mut self.scopes),
            self.text.take(),
            std::mem::take(&mut self.aggregates),
        );
        self.scopes.push(Scope {
            tables: vec![Self::target_scope(table, table.name.clone(), 0)],
            merged: Vec::new(),
        });
        let bound = self.expr(&parsed).and_then(|b| self.condition(b, "CHECK"));
        (self.scopes, self.text, self.aggregates) = outer;
        bound
    }

    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Result<(Insert, Vec<Column>)> {
        let ast::TableObject::TableName(name) = &insert.table else {
            return Err(Error::unsupported("INSERT into anything but a table"));
        };
        if insert.or.is_some()
            || insert.overwrite
            || insert.replace_into
            || !insert.assignments.is_empty()
        {
            return Err(Error::new(
                "42601",
                "this form of INSERT is not PostgreSQL's",
            ));
        }
        let table = self.target(name)?;
        let targets = self.insert_columns(&table, &insert.columns)?;
        let source = match insert.source.as_deref() {
            None => InsertSource::Values(vec![self.full_row(&table, &targets, false, None)?]),
            Some(query) => {
                self.insert_source(&table, &targets, !insert.columns.is_empty(), query)?
            }
        };
        let alias = insert
            .table_alias
            .as_ref()
            .map_or_else(|| table.name.clone(), |a| ident(&a.alias));
        let conflict = match &insert.on {
            None => None,
            Some(ast::OnInsert::OnConflict(on)) => Some(self.on_conflict(&table, &alias, on)?),
            Some(_) => {
                return Err(Error::new("42601", "ON DUPLICATE KEY is not PostgreSQL's")
                    .hint("use ON CONFLICT"));
            }
        };
        let rules = self.rules(&table)?;
        let (returning, columns) =
            self.returning_of(&table, &alias, insert.returning.as_deref())?;
        Ok((
            Insert {
                rules,
                source,
                conflict,
                returning,
            },
            columns,
        ))
    }

    fn returning_of(
        &mut self,
        table: &Table,
        alias: &str,
        items: Option<&[ast::SelectItem]>,
    ) -> Result<(Option<Vec<Expr>>, Vec<Column>)> {
        let Some(items) = items else {
            return Ok((None, Vec::new()));
        };
        self.scopes.push(Scope {
            tables: vec![Self::target_scope(table, alias.to_string(), 0)],
            merged: Vec::new(),
        });
        let bound = self.without_aggregates("RETURNING", |b| b.returning(items));
        self.scopes.pop();
        let (exprs, columns) = bound?;
        Ok((Some(exprs), columns))
    }

    /// Places of the columns an INSERT names; all visible ones if it names none.
    fn insert_columns(&mut self, table: &Table, names: &[ast::ObjectName]) -> Result<Vec<usize>> {
        if names.is_empty() {
            return Ok((0..table.visible_columns().len()).collect());
        }
        let mut targets = Vec::with_capacity(names.len());
        for name in names {
            let (_, column) = object_name(name)?;
            let Some(place) = table
                .column(&column)
                .filter(|p| *p < table.visible_columns().len())
            else {
                let error = no_column(table, &column);
                return Err(self.at(error, super::name_span(name)));
            };
            if targets.contains(&place) {
                return Err(Error::new(
                    "42701",
                    format!("column \"{column}\" specified more than once"),
                ));
            }
            targets.push(place);
        }
        Ok(targets)
    }

    fn insert_source(
        &mut self,
        table: &Table,
        targets: &[usize],
        named: bool,
        query: &ast::Query,
    ) -> Result<InsertSource> {
        if let ast::SetExpr::Values(values) = query.body.as_ref()
            && query.order_by.is_none()
            && query.limit_clause.is_none()
        {
            let mut rows = Vec::with_capacity(values.rows.len());
            self.scopes.push(Scope::default());
            for row in &values.rows {
                let made = self.full_row(table, targets, named, Some(row));
                match made {
                    Ok(made) => rows.push(made),
                    Err(e) => {
                        self.scopes.pop();
                        return Err(e);
                    }
                }
            }
            self.scopes.pop();
            return Ok(InsertSource::Values(rows));
        }
        // DISTINCT compares, and must know the types before.
        if let ast::SetExpr::Select(select) = query.body.as_ref()
            && select.distinct.is_none()
        {
            let types = targets.iter().map(|t| table.columns[*t].data_type);
            self.target_types = types.collect();
        }
        let query = self.query(query)?;
        let types: Vec<DataType> = query.columns.iter().map(|c| c.data_type).collect();
        check_count(types.len(), targets.len(), named)?;
        let mut columns = Vec::with_capacity(table.columns.len());
        for (place, column) in table.columns.iter().enumerate() {
            columns.push(
                match targets.iter().take(types.len()).position(|t| *t == place) {
                    Some(i) => {
                        self.assign_column(super::Typed::new(Expr::Column(i), types[i]), column)?
                    }
                    None => self.column_default(column)?,
                },
            );
        }
        Ok(InsertSource::Query {
            query: Box::new(query),
            columns,
        })
    }

    /// One row of VALUES as an expression per column of the table.
    fn full_row(
        &mut self,
        table: &Table,
        targets: &[usize],
        named: bool,
        row: Option<&[ast::Expr]>,
    ) -> Result<Vec<Expr>> {
        let given = row.unwrap_or_default();
        if row.is_some() {
            check_count(given.len(), targets.len(), named)?;
        }
        let mut full = Vec::with_capacity(table.columns.len());
        for (place, column) in table.columns.iter().enumerate() {
            let value = targets
                .iter()
                .position(|t| *t == place)
                .and_then(|i| given.get(i));
            full.push(match value {
                Some(e) if !is_default(e) => {
                    let bound = self.expr(e)?;
                    let span = ast::Spanned::span(e);
                    self.assign_column(bound, column)
                        .map_err(|e| self.at(e, span))?
                }
                _ => self.column_default(column)?,
            });
        }
        Ok(full)
    }

    fn column_default(&mut self, column: &crate::sql::catalog::ColumnDef) -> Result<Expr> {
        match &column.default {
            Some(text) => self.default_value(text, column.data_type, column.max_len),
            None => Ok(Expr::Const(Value::Null)),
        }
    }

    fn on_conflict(
        &mut self,
        table: &Arc<Table>,
        alias: &str,
        on: &ast::OnConflict,
    ) -> Result<Conflict> {
        let target = match &on.conflict_target {
            None => ConflictTarget::Any,
            Some(ast::ConflictTarget::Columns(columns)) => conflict_columns(table, columns)?,
            Some(ast::ConflictTarget::OnConstraint(name)) => {
                let (_, name) = object_name(name)?;
                if name == table.primary_key_name {
                    ConflictTarget::PrimaryKey
                } else {
                    let index = table
                        .indexes
                        .iter()
                        .position(|i| i.unique && i.name == name);
                    ConflictTarget::Index(index.ok_or_else(|| {
                        Error::new(
                            "42704",
                            format!(
                                "constraint \"{name}\" for table \"{}\" does not exist",
                                table.name
                            ),
                        )
                    })?)
                }
            }
        };
        let action = match &on.action {
            ast::OnConflictAction::DoNothing => ConflictAction::Nothing,
            ast::OnConflictAction::DoUpdate(update) => {
                if target == ConflictTarget::Any {
                    return Err(Error::new(
                        "42601",
                        "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                    )
                    .hint("For example, ON CONFLICT (column_name)."));
                }
                let width = table.columns.len();
                let tables = vec![
                    Self::target_scope(table, alias.to_string(), 0),
                    Self::target_scope(table, "excluded".to_string(), width),
                ];
                // An unqualified column means the existing row's.
                let merged = (width..width * 2).collect();
                self.scopes.push(Scope { tables, merged });
                let made = self.do_update(table, update);
                self.scopes.pop();
                made?
            }
        };
        Ok(Conflict { target, action })
    }

    fn do_update(&mut self, table: &Table, update: &ast::DoUpdate) -> Result<ConflictAction> {
        let assignments = self.assignments(table, &update.assignments)?;
        let filter = match &update.selection {
            Some(selection) => {
                let bound = self.expr(selection)?;
                Some(self.condition(bound, "WHERE")?)
            }
            None => None,
        };
        Ok(ConflictAction::Update {
            assignments,
            filter,
        })
    }

    fn assignments(&mut self, table: &Table, list: &[ast::Assignment]) -> Result<Vec<Assignment>> {
        let mut made: Vec<Assignment> = Vec::with_capacity(list.len());
        for assignment in list {
            let pairs: Vec<(&ast::ObjectName, &ast::Expr)> =
                match (&assignment.target, &assignment.value) {
                    (ast::AssignmentTarget::ColumnName(name), value) => vec![(name, value)],
                    (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values))
                        if names.len() == values.len() =>
                    {
                        names.iter().zip(values).collect()
                    }
                    (ast::AssignmentTarget::Tuple(names), value) if names.len() == 1 => {
                        vec![(&names[0], value)]
                    }
                    _ => {
                        return Err(Error::unsupported(
                            "assigning a subquery to several columns",
                        ));
                    }
                };
            for (name, value) in pairs {
                let (_, column) = object_name(name)?;
                let Some(place) = table
                    .column(&column)
                    .filter(|p| *p < table.visible_columns().len())
                else {
                    let error = no_column(table, &column);
                    return Err(self.at(error, super::name_span(name)));
                };
                if made.iter().any(|a| a.column == place) {
                    return Err(Error::new(
                        "42601",
                        format!("multiple assignments to same column \"{column}\""),
                    ));
                }
                let def = &table.columns[place];
                let value = if is_default(value) {
                    self.column_default(def)?
                } else {
                    let bound = self.expr(value)?;
                    let span = ast::Spanned::span(value);
                    self.assign_column(bound, def)
                        .map_err(|e| self.at(e, span))?
                };
                made.push(Assignment {
                    column: place,
                    value,
                });
            }
        }
        Ok(made)
    }

    /// The written table and the tables of FROM or USING, with the conditions of WHERE, planned.
    fn targets(
        &mut self,
        table: &Arc<Table>,
        alias: String,
        others: &[ast::TableWithJoins],
        selection: Option<&ast::Expr>,
    ) -> Result<(Vec<Step>, Planned)> {
        let scope = self.scope()?;
        scope
            .tables
            .push(Self::target_scope(table, alias.clone(), 0));
        let width = table.columns.len();
        let source = Source::Table {
            table: Arc::clone(table),
            alias,
            types: table.types(),
            access: Access::full(),
        };
        let first = Step::new(source, JoinKind::Inner, 0, width);
        let rest = self.from(others)?;
        let mut from = From {
            steps: vec![first],
            conditions: rest.conditions,
        };
        from.steps.extend(rest.steps);
        if let Some(selection) = selection {
            let bound = self.expr(selection)?;
            from.conditions
                .extend(self.condition(bound, "WHERE")?.conjuncts());
        }
        let types = self.row_types()?;
        let planned = choose::plan(&mut from.steps, from.conditions, None, false, &types);
        Ok((from.steps, planned))
    }

    fn write_scope<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scopes.push(Scope::default());
        let made = self.without_aggregates("UPDATE and DELETE", f);
        self.scopes.pop();
        made
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Result<(Update, Vec<Column>)> {
        if !update.table.joins.is_empty() || !update.order_by.is_empty() || update.limit.is_some() {
            return Err(Error::new(
                "42601",
                "this form of UPDATE is not PostgreSQL's",
            ));
        }
        let (table, alias) = self.written_table(&update.table.relation)?;
        let others: &[ast::TableWithJoins] = match &update.from {
            None => &[],
            Some(
                ast::UpdateTableFromKind::AfterSet(list)
                | ast::UpdateTableFromKind::BeforeSet(list),
            ) => list,
        };
        let rules = self.rules(&table)?;
        self.write_scope(|binder| {
            let (steps, planned) =
                binder.targets(&table, alias, others, update.selection.as_ref())?;
            let assignments = binder.assignments(&table, &update.assignments)?;
            let (returning, columns) = match &update.returning {
                Some(items) => {
                    let (exprs, columns) = binder.returning(items)?;
                    (Some(exprs), columns)
                }
                None => (None, Vec::new()),
            };
            let (filter, known) = (planned.filter, planned.known);
            Ok((
                Update {
                    rules,
                    steps,
                    filter,
                    known,
                    assignments,
                    returning,
                },
                columns,
            ))
        })
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Result<(Delete, Vec<Column>)> {
        let (ast::FromTable::WithFromKeyword(list) | ast::FromTable::WithoutKeyword(list)) =
            &delete.from;
        let [target] = list.as_slice() else {
            return Err(Error::new("42601", "DELETE takes one table"));
        };
        if !target.joins.is_empty()
            || !delete.tables.is_empty()
            || !delete.order_by.is_empty()
            || delete.limit.is_some()
        {
            return Err(Error::new(
                "42601",
                "this form of DELETE is not PostgreSQL's",
            ));
        }
        let (table, alias) = self.written_table(&target.relation)?;
        let rules = RowRules {
            table: Arc::clone(&table),
            types: table.types(),
            checks: Vec::new(),
        };
        self.write_scope(|binder| {
            let others = delete.using.as_deref().unwrap_or_default();
            let (steps, planned) =
                binder.targets(&table, alias, others, delete.selection.as_ref())?;
            let (returning, columns) = match &delete.returning {
                Some(items) => {
                    let (exprs, columns) = binder.returning(items)?;
                    (Some(exprs), columns)
                }
                None => (None, Vec::new()),
            };
            Ok((
                Delete {
                    rules,
                    steps,
                    filter: planned.filter,
                    known: planned.known,
                    returning,
                },
                columns,
            ))
        })
    }

    fn written_table(&mut self, relation: &ast::TableFactor) -> Result<(Arc<Table>, String)> {
        let ast::TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } = relation
        else {
            return Err(Error::new("42601", "UPDATE and DELETE take a table"));
        };
        let table = self.target(name)?;
        let alias = alias
            .as_ref()
            .map_or_else(|| table.name.clone(), |a| ident(&a.name));
        Ok((table, alias))
    }
}

fn conflict_columns(table: &Table, columns: &[ast::Ident]) -> Result<ConflictTarget> {
    let mut places = Vec::with_capacity(columns.len());
    for column in columns {
        let name = ident(column);
        places.push(table.column(&name).ok_or_else(|| no_column(table, &name))?);
    }
    let same = |key: &[usize]| key.len() == places.len() && key.iter().all(|c| places.contains(c));
    if same(&table.primary_key) && !table.hidden_row_id {
        return Ok(ConflictTarget::PrimaryKey);
    }
    let index = table.indexes.iter().position(|i| {
        let key: Vec<usize> = i.columns.iter().map(|c| c.column).collect();
        i.unique && same(&key)
    });
    index.map(ConflictTarget::Index).ok_or_else(|| {
        Error::new(
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        )
    })
}

fn no_column(table: &Table, column: &str) -> Error {
    Error::new(
        "42703",
        format!(
            "column \"{column}\" of relation \"{}\" does not exist",
            table.name
        ),
    )
}

/// Too many values; or too few, when the INSERT names its columns.
fn check_count(given: usize, targets: usize, named: bool) -> Result<()> {
    if named && given < targets {
        return Err(Error::new(
            "42601",
            "INSERT has more target columns than expressions",
        ));
    }
    if given > targets {
        return Err(Error::new(
            "42601",
            "INSERT has more expressions than target columns",
        ));
    }
    Ok(())
}

fn is_default(e: &ast::Expr) -> bool {
    matches!(e, ast::Expr::Identifier(id) if id.quote_style.is_none() && id.value.eq_ignore_ascii_case("default"))
}
