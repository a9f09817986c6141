//! One partition in memory with its catalogue: statements in, outcomes out, by the same steps as a node takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kernel_db::partition::{Budget, Scan, Slot, Store, Transaction, TxnEnv};
use kernel_db::sql::Value;
use kernel_db::sql::catalog::Catalog;
use kernel_db::sql::exec::Outcome;
use kernel_db::sql::prepare::{Kind, Prepared};
use kernel_db::sql::transaction::{
    Backfill, CatalogChange, InstallSchema, Outcomes, SqlTransaction, read_catalog,
};
use kernel_db::{Error, Result};

pub struct Database {
    pub system: Memory,
    pub rows: Memory,
    pub catalog: Arc<Catalog>,
    /// Number of this partition, and of all.
    pub partition: (u32, u32),
    /// Steps that one transaction may take.
    pub steps_max: u64,
    pub wall_us: i64,
    seed: u64,
}

impl Database {
    /// An empty one: the first of one partition.
    pub fn empty(steps_max: u64, wall_us: i64) -> Self {
        let mut database = Self {
            system: Memory::default(),
            rows: Memory::default(),
            catalog: Arc::new(Catalog::new()),
            partition: (0, 1),
            steps_max,
            wall_us,
            seed: 0,
        };
        database.install().expect("installs");
        database
    }

    pub fn env(&mut self) -> TxnEnv {
        self.seed += 1;
        let (partition, partitions) = self.partition;
        TxnEnv {
            wall_us: self.wall_us,
            seed: self.seed,
            partition,
            partitions,
            budget: Budget::new(self.steps_max),
            wait: None,
            lease: None,
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

    /// What each statement of the change is answered.
    pub fn change(&mut self, change: &CatalogChange) -> Result<Vec<Outcome>> {
        let mut env = self.env();
        let mark = self.system.savepoint();
        let reply = match change.run(&mut self.system, &mut env) {
            Ok(reply) => reply,
            Err(e) => {
                self.system.rollback_to(mark);
                return Err(e);
            }
        };
        self.catalog = Arc::new(read_catalog(&mut self.system)?);
        self.install()?;
        Ok(CatalogChange::decode(&reply)?.outcomes)
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

    pub fn run_prepared(&mut self, prepared: Arc<Prepared>, params: &[Value]) -> Result<Outcome> {
        if let Kind::Ddl(text) = &prepared.kind {
            let mut outcomes = self.change(&CatalogChange::Ddl(vec![text.clone()]))?;
            self.fill_indexes()?;
            let outcome = outcomes.pop();
            return outcome.ok_or_else(|| Error::internal("no outcome"));
        }
        let txn = SqlTransaction::new(vec![(prepared, params.to_vec())], "test");
        let reply = self.transact(&txn)?;
        // Through the bytes that a session would keep.
        Outcomes::decode(&reply)?
            .pop()
            .ok_or_else(|| Error::internal("no outcome"))
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
