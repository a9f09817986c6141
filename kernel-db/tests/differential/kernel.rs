//! The kernel's SQL in this process: one partition over a store in memory, catalogue included.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kernel_db::Result;
use kernel_db::partition::{Budget, Scan, Slot, Store, Transaction, TxnEnv};
use kernel_db::sql::catalog::Catalog;
use kernel_db::sql::prepare::{self, Kind};
use kernel_db::sql::text;
use kernel_db::sql::transaction::{Backfill, CatalogChange, InstallSchema, read_catalog};

use crate::Side;
use crate::outcome::Outcome;

/// Steps of one statement: more than any statement here should need.
const STEPS_MAX: u64 = 5_000_000;

pub struct Kernel {
    rows: Memory,
    catalogue: Memory,
    catalog: Arc<Catalog>,
    seed: u64,
}

impl Side for Kernel {
    fn reset(&mut self) {
        *self = Self::new();
    }

    fn run(&mut self, sql: &str) -> Outcome {
        self.try_run_or_undo(sql)
    }
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            rows: Memory::default(),
            catalogue: Memory::default(),
            catalog: Arc::new(Catalog::new()),
            seed: 0,
        }
    }

    fn try_run_or_undo(&mut self, sql: &str) -> Outcome {
        let mark = (self.rows.savepoint(), self.catalogue.savepoint());
        match self.try_run(sql) {
            Ok(outcome) => {
                self.rows.undo.clear();
                self.catalogue.undo.clear();
                outcome
            }
            Err(error) => {
                self.rows.rollback_to(mark.0);
                self.catalogue.rollback_to(mark.1);
                Outcome::error(error.sqlstate(), error.message())
            }
        }
    }

    fn try_run(&mut self, sql: &str) -> Result<Outcome> {
        let prepared = prepare::prepare(&self.catalog, sql, &[])?;
        if let Kind::Ddl(text) = &prepared.kind {
            self.change(CatalogChange::Ddl(vec![text.clone()]))?;
            self.fill_indexes()?;
            return Ok(Outcome::Touched(0));
        }
        let mut env = self.env();
        let outcome = prepared.execute(&mut self.rows, &mut env, &[])?;
        if prepared.columns.is_empty() && prepared.kind != Kind::Select {
            return Ok(Outcome::Touched(outcome.count));
        }
        let columns = prepared.columns.iter().map(|c| c.name.clone()).collect();
        let rows = outcome
            .rows
            .iter()
            .map(|row| row.iter().map(text::to_text).collect());
        Ok(Outcome::rows(columns, rows.collect()))
    }

    fn env(&mut self) -> TxnEnv {
        self.seed += 1;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a time after 1970");
        TxnEnv {
            wall_us: i64::try_from(now.as_micros()).expect("microseconds fit"),
            seed: self.seed,
            partition: 0,
            partitions: 1,
            budget: Budget::new(STEPS_MAX),
        }
    }

    /// Changes the catalogue as the system group does, and installs the new version.
    fn change(&mut self, change: CatalogChange) -> Result<()> {
        let mut env = self.env();
        change.run(&mut self.catalogue, &mut env)?;
        self.catalog = Arc::new(read_catalog(&mut self.catalogue)?);
        InstallSchema::new(&self.catalog).run(&mut self.rows, &mut env)?;
        Ok(())
    }

    fn fill_indexes(&mut self) -> Result<()> {
        for (table, index) in self.catalog.unfinished_indexes() {
            let mut after = None;
            loop {
                let catalog = Arc::clone(&self.catalog);
                let fill = Backfill {
                    catalog,
                    table: table.id,
                    index,
                    after,
                    max_rows: 100,
                };
                let mut env = self.env();
                after = Backfill::decode(&fill.run(&mut self.rows, &mut env)?);
                if after.is_none() {
                    break;
                }
            }
            self.change(CatalogChange::IndexReady {
                table: table.id,
                index,
            })?;
        }
        Ok(())
    }
}

/// Rows in order, with what each write replaced.
#[derive(Default)]
struct Memory {
    rows: BTreeMap<Bytes, Bytes>,
    undo: Vec<(Bytes, Option<Bytes>)>,
}

impl Store for Memory {
    fn get(&mut self, key: &[u8], _slot: Option<Slot>) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        if scan.from >= scan.to {
            return Ok(());
        }
        let range = self
            .rows
            .range::<[u8], _>((Bound::Included(scan.from), Bound::Excluded(scan.to)));
        let copy = |(k, v): (&Bytes, &Bytes)| (k.clone(), v.clone());
        match scan.reverse {
            true => out.extend(range.rev().take(scan.limit).map(copy)),
            false => out.extend(range.take(scan.limit).map(copy)),
        }
        Ok(())
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let old = self.rows.insert(key.clone(), value);
        self.undo.push((key, old));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        if let Some((key, old)) = self.rows.remove_entry(key) {
            self.undo.push((key, Some(old)));
        }
        Ok(())
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let keys: Vec<Bytes> = self
            .rows
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
            .map(|(k, _)| k.clone())
            .collect();
        keys.iter().try_for_each(|key| self.delete(key))
    }

    fn savepoint(&mut self) -> usize {
        self.undo.len()
    }

    fn rollback_to(&mut self, savepoint: usize) {
        while self.undo.len() > savepoint {
            match self.undo.pop() {
                Some((key, Some(old))) => self.rows.insert(key, old),
                Some((key, None)) => self.rows.remove(&key),
                None => None,
            };
        }
    }
}
