//! The kernel's SQL in this process: one partition over a store in memory, catalogue included.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kernel_db::Result;
use kernel_db::sql::prepare::{Kind, prepare};
use kernel_db::sql::text;

use crate::Side;
use crate::outcome::Outcome;
use crate::partition::Database;

/// Steps of one statement: more than any statement here should need.
const STEPS_MAX: u64 = 5_000_000;

pub struct Kernel {
    database: Database,
}

impl Side for Kernel {
    fn reset(&mut self) {
        *self = Self::new();
    }

    fn run(&mut self, sql: &str) -> Outcome {
        self.try_run(sql)
            .unwrap_or_else(|error| Outcome::error(error.sqlstate(), error.message()))
    }
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            database: Database::empty(STEPS_MAX, 0),
        }
    }

    fn try_run(&mut self, sql: &str) -> Result<Outcome> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a time after 1970").as_micros();
        self.database.wall_us = i64::try_from(now).expect("microseconds fit");
        self.database.rows.scanned = 0;
        let prepared = Arc::new(prepare(&self.database.catalog, sql, &[])?);
        let outcome = self.database.run_prepared(Arc::clone(&prepared), &[])?;
        if let Kind::Ddl(_) = prepared.kind {
            return Ok(Outcome::Touched(0));
        }
        // Every row that a scan returns is a step.
        assert!(self.database.rows.scanned as u64 <= STEPS_MAX, "{sql}");
        if !prepared.returns_rows() {
            return Ok(Outcome::Touched(outcome.count));
        }
        let columns = prepared.columns.iter().map(|c| c.name.clone()).collect();
        let rows = outcome
            .rows
            .iter()
            .map(|row| row.iter().map(text::to_text).collect());
        Ok(Outcome::rows(columns, rows.collect()))
    }
}
