//! The partition in memory, as these tests speak to it: SQL text in, text out.

use std::sync::Arc;

use kernel_db::Result;
use kernel_db::sql::exec::Outcome;
use kernel_db::sql::prepare::{Prepared, parse_many, prepare};
use kernel_db::sql::{Value, text};

pub use crate::partition::Database;

/// Steps that one transaction may take.
pub const STEPS: u64 = 1_000_000;

impl Database {
    pub fn new() -> Self {
        Self::empty(STEPS, 1_700_000_000_000_000)
    }

    pub fn with(sql: &str) -> Self {
        let mut database = Self::new();
        database.run(sql).expect("set-up runs");
        database
    }

    pub fn prepare(&self, sql: &str) -> Result<Prepared> {
        prepare(&self.catalog, sql, &[])
    }

    /// Runs each statement of `sql` as a transaction of its own; the last outcome.
    pub fn run(&mut self, sql: &str) -> Result<Outcome> {
        let mut last = Outcome::default();
        for (_, text) in parse_many(sql)? {
            last = self.run_one(&text, &[])?;
        }
        Ok(last)
    }

    pub fn run_one(&mut self, sql: &str, params: &[Value]) -> Result<Outcome> {
        let prepared = Arc::new(prepare(&self.catalog, sql, &[])?);
        self.run_prepared(prepared, params)
    }

    /// Rows as text, one string a row, columns separated by `|`.
    pub fn show(&mut self, sql: &str) -> Vec<String> {
        let outcome = self.run(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let cell = |v: &Value| text::to_text(v).unwrap_or_else(|| "NULL".to_string());
        outcome
            .rows
            .iter()
            .map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|"))
            .collect()
    }

    /// SQLSTATE of a statement that must fail.
    pub fn fails(&mut self, sql: &str) -> String {
        match self.run(sql) {
            Ok(outcome) => panic!("{sql} succeeded: {outcome:?}"),
            Err(e) => e.sqlstate().to_string(),
        }
    }

    pub fn explain(&mut self, sql: &str) -> String {
        self.show(&format!("EXPLAIN {sql}")).join("\n")
    }
}
