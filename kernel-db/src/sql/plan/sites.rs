//! Walks a plan for the partitions it touches: every table access and every routine call is a site.

use std::sync::Arc;

use super::expr::{Expr, RoutineCall};
use super::query::{Query, QueryBody, SiteKeys, Source, Step};
use super::route::{Routing, Site};
use super::write::{Assignment, Insert, InsertSource};
use super::{ConflictAction, Plan};
use crate::sql::catalog::{Catalog, Table};

/// True if rows and the entries that stand for them may be in different partitions.
fn table_is_scattered(table: &Table) -> bool {
    table.indexes.iter().any(|i| table.is_global(i))
}

pub struct Found<'a> {
    catalog: &'a Arc<Catalog>,
    sites: Vec<Site>,
    writes: bool,
    /// What is known of each query level's places, outermost first.
    levels: Vec<Vec<(usize, Expr)>>,
}

impl<'a> Found<'a> {
    pub fn new(catalog: &'a Arc<Catalog>) -> Self {
        Self {
            catalog,
            sites: Vec::new(),
            writes: false,
            levels: Vec::new(),
        }
    }

    pub fn finish(self) -> (Routing, bool) {
        (Routing::from_sites(self.sites), self.writes)
    }

    pub fn plan(&mut self, plan: &Plan) {
        match plan {
            Plan::Query(query) | Plan::Do(query) => self.query(query),
            Plan::Insert(insert) => self.insert(insert),
            Plan::Update(update) => {
                self.levels.push(update.known.clone());
                self.steps(&update.steps);
                update.filter.iter().for_each(|e| self.expr(e));
                update.assignments.iter().for_each(|a| self.expr(&a.value));
                update.returning.iter().flatten().for_each(|e| self.expr(e));
                update.rules.checks.iter().for_each(|(_, e)| self.expr(e));
                let table = &update.rules.table;
                let moves = |a: &Assignment| {
                    let mut global = table.indexes.iter().filter(|i| table.is_global(i));
                    table.primary_key.contains(&a.column)
                        || global.any(|i| i.columns.iter().any(|c| c.column == a.column))
                };
                if table_is_scattered(table) && update.assignments.iter().any(moves) {
                    self.sites.push(Site::Unknown);
                }
                let key = update.rules.table.partition_column();
                for moved in update.assignments.iter().filter(|a| Some(a.column) == key) {
                    self.key_site(&moved.value);
                }
                self.levels.pop();
            }
            Plan::Delete(delete) => {
                if table_is_scattered(&delete.rules.table) {
                    self.sites.push(Site::Unknown);
                }
                self.levels.push(delete.known.clone());
                self.steps(&delete.steps);
                delete.filter.iter().for_each(|e| self.expr(e));
                delete.returning.iter().flatten().for_each(|e| self.expr(e));
                self.levels.pop();
            }
            Plan::Explain(_) | Plan::Nothing => {}
        }
    }

    fn query(&mut self, query: &Query) {
        self.writes |= !query.locks.is_empty();
        match &query.body {
            QueryBody::SetOperation { left, right, .. } => {
                self.query(left);
                self.query(right);
                self.limits(query);
            }
            QueryBody::Recursive(recursive) => {
                self.query(&recursive.base);
                self.query(&recursive.step);
                self.limits(query);
            }
            body => {
                self.levels.push(query.known_below());
                if let QueryBody::Select { steps, .. } = body {
                    self.step_sites(steps);
                }
                query.expressions_below(&mut |e| self.expr(e));
                self.levels.pop();
                self.levels.push(query.known_above());
                query.expressions_above(&mut |e| self.expr(e));
                self.levels.pop();
            }
        }
    }

    /// LIMIT and OFFSET behind more than one select list.
    fn limits(&mut self, query: &Query) {
        self.levels.push(Vec::new());
        query.expressions_above(&mut |e| self.expr(e));
        self.levels.pop();
    }

    fn steps(&mut self, steps: &[Step]) {
        self.step_sites(steps);
        for step in steps {
            step.expressions(&mut |e| self.expr(e));
        }
    }

    fn step_sites(&mut self, steps: &[Step]) {
        for step in steps {
            match &step.source {
                Source::Table { .. } => {
                    let site = self.step_site(step);
                    self.sites.push(site);
                }
                Source::Query(query) => self.query(query),
                Source::System { .. }
                | Source::Working { .. }
                | Source::Series(_)
                | Source::Unnest(_)
                | Source::Routine { .. } => {}
            }
        }
    }

    fn step_site(&self, step: &Step) -> Site {
        let keys = match &step.site {
            None => return Site::Unknown,
            Some(SiteKeys::Elements(array)) => {
                return self.resolve(array).map_or(Site::Unknown, Site::Elements);
            }
            Some(SiteKeys::AnyOf(keys)) => keys,
        };
        let resolved: Option<Vec<Expr>> = keys.iter().map(|e| self.resolve(e)).collect();
        match resolved {
            Some(mut keys) if keys.len() == 1 => keys.pop().map_or(Site::Unknown, Site::Key),
            Some(keys) => Site::AnyOf(keys),
            None => Site::Unknown,
        }
    }

    fn insert(&mut self, insert: &Insert) {
        let key = insert
            .rules
            .table
            .partition_column()
            .filter(|_| !insert.rules.table.hidden_row_id);
        match &insert.source {
            InsertSource::Values(rows) => {
                for row in rows {
                    row.iter().for_each(|e| self.expr(e));
                    if let Some(key) = key {
                        self.key_site(&row[key]);
                    }
                }
            }
            InsertSource::Query { query, columns } => {
                self.query(query);
                columns.iter().for_each(|e| self.expr(e));
                if let Some(key) = key {
                    self.selected_key(query, &columns[key]);
                }
            }
        }
        if let Some(conflict) = &insert.conflict
            && let ConflictAction::Update {
                assignments,
                filter,
            } = &conflict.action
        {
            assignments.iter().for_each(|a| self.expr(&a.value));
            filter.iter().for_each(|e| self.expr(e));
            for moved in assignments.iter().filter(|a| Some(a.column) == key) {
                self.key_site(&moved.value);
            }
        }
        if table_is_scattered(&insert.rules.table) {
            self.sites.push(Site::Unknown);
        }
        insert.rules.checks.iter().for_each(|(_, e)| self.expr(e));
        insert.returning.iter().flatten().for_each(|e| self.expr(e));
    }

    /// The partition key of INSERT ... SELECT: what the query's column is known to be.
    fn selected_key(&mut self, query: &Query, column: &Expr) {
        let QueryBody::Select { project, .. } = &query.body else {
            return self.sites.push(Site::Unknown);
        };
        match strip(column) {
            Expr::Column(c) => {
                self.levels.push(query.known_above());
                let selected = project.get(*c).cloned();
                match selected {
                    Some(selected) => self.key_site(&selected),
                    None => self.sites.push(Site::Unknown),
                }
                self.levels.pop();
            }
            other => {
                let other = other.clone();
                self.key_site(&other);
            }
        }
    }

    fn key_site(&mut self, expr: &Expr) {
        let site = self.resolve(expr).map_or(Site::Unknown, Site::Key);
        self.sites.push(site);
    }

    /// An expression over constants and parameters that `expr` is equal to.
    fn resolve(&self, expr: &Expr) -> Option<Expr> {
        let mut expr = strip(expr).clone();
        let mut level = self.levels.len();
        // Each round follows one column to what it is known to be; chains are no longer than the levels are many.
        for _ in 0..=self.levels.len() * 2 {
            let column = match &expr {
                Expr::Column(c) => *c,
                Expr::Outer { depth, column } => {
                    level = level.checked_sub(*depth)?;
                    *column
                }
                pure if pure.is_pure() => return Some(expr),
                _ => return None,
            };
            let known = self.levels.get(level.checked_sub(1)?)?;
            let (_, value) = known.iter().find(|(c, _)| *c == column)?;
            expr = strip(value).clone();
        }
        None
    }

    pub fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Subquery { query, .. } => self.query(query),
            Expr::Routine(call) => self.routine(call),
            Expr::NextVal(_) => self.writes = true,
            _ => {}
        }
        expr.children(&mut |e| self.expr(e));
    }

    fn routine(&mut self, call: &RoutineCall) {
        if call.def.compiling() {
            // A recursive call: nothing is known of it yet.
            self.writes = true;
            return self.sites.push(Site::Unknown);
        }
        let Ok(compiled) = call.def.compiled(self.catalog) else {
            // The call will fail; where it does so does not matter.
            return;
        };
        self.writes |= compiled.writes();
        if compiled.touches_no_table() {
            return;
        }
        match compiled.partition_param().and_then(|i| call.args.get(i)) {
            Some(arg) => self.key_site(arg),
            None => self.sites.push(Site::Unknown),
        }
    }
}

/// Without casts between integers: they keep the slot.
fn strip(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast {
            expr: inner,
            keeps_slot: true,
            ..
        } => strip(inner),
        _ => expr,
    }
}
