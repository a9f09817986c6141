//! One partition in memory with its catalogue: SQL text in, outcomes out, by the same steps as a node takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kernel_db::partition::{Budget, Scan, Slot, Store, Transaction, TxnEnv};
use kernel_db::sql::catalog::Catalog;
use kernel_db::sql::exec::Outcome;
use kernel_db::sql::prepare::{Kind, Prepared, parse_many, prepare};
use kernel_db::sql::transaction::{
    Backfill, CatalogChange, InstallSchema, Outcomes, SqlTransaction, read_catalog,
};
use kernel_db::sql::{Value, text};
use kernel_db::{Error, Result};

/// Steps that one transaction may take.
pub const STEPS: u64 = 1_000_000;

#[derive(Default)]
pub struct Database {
    pub system: Memory,
    pub rows: Memory,
    pub catalog: Arc<Catalog>,
    /// Number of this partition, and of all.
    pub partition: (u32, u32),
    seed: u64,
}

impl Database {
    pub fn new() -> Self {
        let catalog = Arc::new(Catalog::new());
        let mut database = Self {
            catalog,
            partition: (0, 1),
            ..Self::default()
        };
        database.install().expect("installs");
        database
    }

    pub fn with(sql: &str) -> Self {
        let mut database = Self::new();
        database.run(sql).expect("set-up runs");
        database
    }

    pub fn env(&mut self) -> TxnEnv {
        self.seed += 1;
        let (partition, partitions) = self.partition;
        TxnEnv {
            wall_us: 1_700_000_000_000_000,
            seed: self.seed,
            partition,
            partitions,
            budget: Budget::new(STEPS),
        }
    }

    /// Runs a transaction; nothing of it stays if it fails.
    pub fn transact(&mut self, txn: &dyn Transaction) -> Result<Bytes> {
        let mut env = self.env();
        let mark = self.rows.savepoint();
        let reply = txn.run(&mut self.rows, &mut env);
        if reply.is_err() {
            self.rows.rollback_to(mark);
        }
        reply
    }

    pub fn change(&mut self, change: &CatalogChange) -> Result<()> {
        let mut env = self.env();
        let mark = self.system.savepoint();
        if let Err(e) = change.run(&mut self.system, &mut env) {
            self.system.rollback_to(mark);
            return Err(e);
        }
        self.catalog = Arc::new(read_catalog(&mut self.system)?);
        self.install()
    }

    pub fn install(&mut self) -> Result<()> {
        let install = InstallSchema::new(&self.catalog);
        self.transact(&install).map(|_| ())
    }

    pub fn fill_indexes(&mut self) -> Result<()> {
        for (table, index) in self.catalog.unfinished_indexes() {
            let mut after = None;
            loop {
                let catalog = Arc::clone(&self.catalog);
                let fill = Backfill {
                    catalog,
                    table: table.id,
                    index,
                    after,
                    max_rows: 3,
                };
                match self.transact(&fill).map(|reply| Backfill::decode(&reply)) {
                    Ok(None) => break,
                    Ok(next) => after = next,
                    Err(e) => {
                        self.change(&CatalogChange::IndexFailed {
                            table: table.id,
                            index,
                        })?;
                        return Err(e);
                    }
                }
            }
            self.change(&CatalogChange::IndexReady {
                table: table.id,
                index,
            })?;
        }
        Ok(())
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
        let prepared = Arc::new(self.prepare(sql)?);
        if let Kind::Ddl(text) = &prepared.kind {
            self.change(&CatalogChange::Ddl(vec![text.clone()]))?;
            self.fill_indexes()?;
            return Ok(Outcome::default());
        }
        let txn = SqlTransaction::new(vec![(prepared, params.to_vec())], sql);
        let reply = self.transact(&txn)?;
        // Through the bytes that a session would keep.
        Outcomes::decode(&reply)?
            .pop()
            .ok_or_else(|| Error::internal("no outcome"))
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

/// Rows in order, with what each write replaced.
#[derive(Default)]
pub struct Memory {
    pub rows: BTreeMap<Bytes, Bytes>,
    undo: Vec<(Bytes, Option<Bytes>)>,
    /// Rows that scans have returned.
    pub scanned: usize,
}

impl Store for Memory {
    fn get(&mut self, key: &[u8], _slot: Option<Slot>) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        assert!(scan.from < scan.to, "an empty range was scanned");
        let range = self
            .rows
            .range::<[u8], _>((Bound::Included(scan.from), Bound::Excluded(scan.to)));
        let copy = |(k, v): (&Bytes, &Bytes)| (k.clone(), v.clone());
        let before = out.len();
        match scan.reverse {
            true => out.extend(range.rev().take(scan.limit).map(copy)),
            false => out.extend(range.take(scan.limit).map(copy)),
        }
        self.scanned += out.len() - before;
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
