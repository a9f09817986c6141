//! SQL work as partition transactions: statements, schema installation, index filling, catalogue changes.
//!
//! Each partition keeps the schema version it has installed as a row (`META_TABLE_ID`). A transaction planned for another
//! version ends with a `DB001` of class Retry and changes nothing; the gateway then refreshes, installs, and replans.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::Value;
use super::catalog::{Catalog, Dropped, META_TABLE_ID};
use super::ddl;
use super::exec::{ExecCtx, Outcome};
use super::prepare::Prepared;
use crate::error::{Error, Result};
use crate::partition::{Store, Transaction, TxnEnv};

/// SQLSTATE of "the partition has another schema version installed" (class Retry).
pub const SCHEMA_CHANGED: &str = "DB001";

/// The row under which a partition keeps its installed schema version (8 bytes, big endian).
pub fn schema_version_key() -> Bytes {
    // Every transaction reads it: its bytes are made once.
    static KEY: LazyLock<Bytes> = LazyLock::new(|| meta_key(b"schema"));
    KEY.clone()
}

/// The row of the system group's store that holds the catalogue.
pub fn catalog_key() -> Bytes {
    meta_key(b"catalog")
}

/// The row of the system group's store that holds the nodes and where every group's replicas are.
pub fn topology_key() -> Bytes {
    meta_key(b"topology")
}

fn meta_key(name: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(6 + name.len());
    key.extend_from_slice(&META_TABLE_ID.to_be_bytes());
    key.extend_from_slice(&0u16.to_be_bytes());
    key.extend_from_slice(name);
    key.into()
}

/// Statements that run as one transaction in one partition. Its reply decodes with [`Outcomes::decode`].
#[derive(Clone, Debug)]
pub struct SqlTransaction {
    pub statements: Vec<(Arc<Prepared>, Vec<Value>)>,
    /// Schema version the statements were planned for.
    pub schema_version: u64,
    /// Text shown in dbos.statements.
    pub label: Arc<str>,
}

impl SqlTransaction {
    pub fn new(statements: Vec<(Arc<Prepared>, Vec<Value>)>, label: impl Into<Arc<str>>) -> Self {
        let schema_version = statements.first().map_or(0, |(p, _)| p.version);
        Self {
            statements,
            schema_version,
            label: label.into(),
        }
    }
}

impl Transaction for SqlTransaction {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let result = self.run_all(store, env);
        if env.wait.as_ref().is_some_and(|w| w.until_us.is_some())
            && let Some((first, _)) = self.statements.first()
        {
            first.has_waited.store(true, Ordering::Relaxed);
        }
        result
    }

    fn read_only(&self) -> bool {
        self.statements.iter().all(|(p, _)| !p.writes())
    }

    fn may_wait(&self) -> bool {
        let first = self.statements.first();
        first.is_some_and(|(first, _)| first.has_waited.load(Ordering::Relaxed))
    }

    fn label(&self) -> &str {
        &self.label
    }
}

impl SqlTransaction {
    fn run_all(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let installed = installed_version(store)?;
        if installed != self.schema_version {
            return Err(schema_changed(self.schema_version, installed));
        }
        let mut outcomes = Vec::with_capacity(self.statements.len());
        let Some((first, _)) = self.statements.first() else {
            return Ok(Outcomes::encode(&outcomes));
        };
        let mut ctx = ExecCtx::new(store, env, &first.catalog, None);
        for (statement, params) in &self.statements {
            if statement.version != self.schema_version {
                return Err(schema_changed(statement.version, installed));
            }
            let outcome = statement.run_alone(&mut ctx, params);
            outcomes.push(outcome.map_err(|error| Outcomes::before(&outcomes, error))?);
        }
        Ok(Outcomes::encode(&outcomes))
    }
}

fn schema_changed(planned: u64, installed: u64) -> Error {
    Error::retry(
        SCHEMA_CHANGED,
        format!(
            "schema changed: planned for version {planned}, the partition has version {installed}"
        ),
    )
}

/// Schema version installed in this partition; 0 in a new one.
pub fn installed_version(store: &mut dyn Store) -> Result<u64> {
    let Some(value) = store.get(&schema_version_key(), None)? else {
        return Ok(0);
    };
    let bytes: [u8; 8] = value[..]
        .try_into()
        .map_err(|_| Error::internal("schema version row is damaged"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Replies of a transaction's statements, in order.
pub struct Outcomes;

impl Outcomes {
    pub fn encode(outcomes: &[Outcome]) -> Bytes {
        super::exec::reply::encode(outcomes)
    }

    pub fn decode(bytes: &Bytes) -> Result<Vec<Outcome>> {
        super::exec::reply::decode(bytes)
    }

    /// `error` of the statement that came after `outcomes`.
    pub fn before(outcomes: &[Outcome], error: Error) -> Error {
        match outcomes {
            [] => error,
            _ => error.after(Self::encode(outcomes)),
        }
    }
}

/// Makes a partition take schema version `version`: drops the keys of what was dropped since the version it has. Installing
/// an older or the same version changes nothing. The reply is empty.
#[derive(Clone, Debug)]
pub struct InstallSchema {
    version: u64,
    dropped: Vec<Dropped>,
}

impl InstallSchema {
    pub fn new(catalog: &Catalog) -> Self {
        Self {
            version: catalog.version,
            dropped: catalog.dropped.clone(),
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }
}

impl Transaction for InstallSchema {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let installed = installed_version(store)?;
        if self.version <= installed {
            return Ok(Bytes::new());
        }
        for dropped in self.dropped.iter().filter(|d| d.version > installed) {
            let (from, to) = super::exec::keys::range_of(dropped.table, dropped.index);
            store.delete_range(&from, &to)?;
        }
        store.put(
            schema_version_key(),
            Bytes::copy_from_slice(&self.version.to_be_bytes()),
        )?;
        Ok(Bytes::new())
    }

    fn label(&self) -> &str {
        "install schema"
    }
}

/// Fills an index from at most `max_rows` rows after the row key `after`. Its reply decodes with [`Backfill::decode`].
#[derive(Clone, Debug)]
pub struct Backfill {
    pub catalog: Arc<Catalog>,
    pub table: u32,
    pub index: u16,
    pub after: Option<Bytes>,
    pub max_rows: usize,
}

impl Backfill {
    /// Where to go on (`after` of the next step), none when the index is complete in this partition.
    pub fn decode(reply: &Bytes) -> Option<Bytes> {
        (!reply.is_empty()).then(|| reply.clone())
    }
}

impl Transaction for Backfill {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let installed = installed_version(store)?;
        if installed != self.catalog.version {
            return Err(schema_changed(self.catalog.version, installed));
        }
        let next = super::exec::backfill(self, store, env)?;
        Ok(next.unwrap_or_default())
    }

    fn label(&self) -> &str {
        "fill index"
    }
}

/// A change of the catalogue, run on the system group. Its reply decodes with [`CatalogChange::decode`].
#[derive(Clone, Debug)]
pub enum CatalogChange {
    /// DDL statements, all or none.
    Ddl(Vec<String>),
    /// Every partition has filled the index: it may be read.
    IndexReady { table: u32, index: u16 },
    /// Filling it failed: the index goes away.
    IndexFailed { table: u32, index: u16 },
}

/// What a catalogue change did.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogChanged {
    /// Version after it; unchanged if there was nothing to do (IF NOT EXISTS).
    pub version: u64,
    /// What each statement is answered.
    pub outcomes: Vec<Outcome>,
}

impl CatalogChange {
    pub fn decode(reply: &Bytes) -> Result<CatalogChanged> {
        let (version, outcomes) = reply
            .split_first_chunk::<8>()
            .ok_or_else(|| Error::internal("a reply about the catalogue is damaged"))?;
        Ok(CatalogChanged {
            version: u64::from_be_bytes(*version),
            outcomes: Outcomes::decode(&reply.slice_ref(outcomes))?,
        })
    }
}

/// The catalogue in the system group's store; a new one if nothing was ever created.
pub fn read_catalog(store: &mut dyn Store) -> Result<Catalog> {
    match store.get(&catalog_key(), None)? {
        Some(bytes) => Catalog::from_bytes(&bytes),
        None => Ok(Catalog::new()),
    }
}

impl Transaction for CatalogChange {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let before = read_catalog(store)?;
        let version = before.version;
        let mut change = ddl::Change::new(before);
        match self {
            Self::Ddl(statements) => {
                for (n, text) in statements.iter().enumerate() {
                    let applied = change.apply(text);
                    applied.map_err(|error| Outcomes::before(&change.done()[..n], error))?;
                }
            }
            Self::IndexReady { table, index } => change.index_ready(*table, *index),
            Self::IndexFailed { table, index } => change.index_failed(*table, *index),
        }
        let (catalog, outcomes) = change.finish()?;
        if catalog.version != version {
            store.put(catalog_key(), catalog.to_bytes()?.into())?;
        }
        let mut reply = catalog.version.to_be_bytes().to_vec();
        reply.extend_from_slice(&Outcomes::encode(&outcomes));
        Ok(reply.into())
    }

    fn label(&self) -> &str {
        "change catalogue"
    }
}
