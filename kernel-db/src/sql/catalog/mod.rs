//! The catalogue: what tables, indexes, sequences and functions exist at one schema version.
//!
//! A catalogue is immutable and shared (`Arc<Catalog>`); DDL makes the next version from it. It is serialised as one row of
//! the system group's store. Names are kept as `schema.name`; unqualified names mean `public`, then `dbos`, then the
//! PostgreSQL views. What a function compiles to is cached in the version it was compiled for.

mod function;
mod lookup;
mod postgres;
mod serial;
mod system;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use function::{
    ArgMode, ColumnType, FunctionArg, FunctionDef, Language, Procedure, Returned, Returns,
};
pub use lookup::Lookup;
pub use postgres::oid;
pub use system::{SystemTables, rows as system_rows};
pub use table::{CheckDef, ColumnDef, Index, IndexColumn, IndexState, Sequence, Table};

use crate::error::{Error, Result};
use crate::sql::DataType;

/// Table ids below are the kernel's own.
pub const FIRST_TABLE_ID: u32 = 100;
/// Table id under which every partition keeps its own metadata, and the system group the catalogue.
pub const META_TABLE_ID: u32 = 0;
/// Table id of the counters behind sequences and hidden row ids; one row per sequence or table and partition.
pub const COUNTER_TABLE_ID: u32 = 1;
// 2 is the table of unfinished transactions (`partition::records`).

/// A dropped table (`index` none) or index, so that partitions can drop its keys when they install `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub table: u32,
    pub index: Option<u16>,
    pub version: u64,
}

/// All schema objects at one version.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Grows by one with every change.
    pub version: u64,
    next_id: u32,
    #[serde(with = "serial::arc_map")]
    tables: BTreeMap<String, Arc<Table>>,
    #[serde(with = "serial::arc_map")]
    sequences: BTreeMap<String, Arc<Sequence>>,
    /// Overloads by name, in order of creation.
    #[serde(with = "serial::arc_lists")]
    functions: BTreeMap<String, Vec<Arc<FunctionDef>>>,
    pub dropped: Vec<Dropped>,
}

impl Catalog {
    /// The catalogue of a new cluster: version 1, no objects of the user's.
    pub fn new() -> Self {
        Self {
            version: 1,
            next_id: FIRST_TABLE_ID,
            ..Self::default()
        }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("catalogue: {e}")))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::internal(format!("catalogue: {e}")))
    }

    /// Looks `name` up as `schema.name` or along the search path.
    pub fn table(&self, schema: Option<&str>, name: &str) -> Option<&Arc<Table>> {
        match schema {
            Some(schema) => self
                .tables
                .get(&qualified(schema, name))
                .or_else(|| system::table(schema, name)),
            None => self
                .tables
                .get(&qualified("public", name))
                .or_else(|| system::table_on_path(name)),
        }
    }

    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }

    pub fn sequence(&self, name: &str) -> Option<&Arc<Sequence>> {
        self.sequences.get(&with_schema(name))
    }

    pub fn sequences(&self) -> impl Iterator<Item = &Arc<Sequence>> {
        self.sequences.values()
    }

    /// Overloads of `name` (schema `public`).
    pub fn functions_named(&self, name: &str) -> &[Arc<FunctionDef>] {
        self.functions
            .get(&with_schema(name))
            .map_or(&[], Vec::as_slice)
    }

    pub fn functions(&self) -> impl Iterator<Item = &Arc<FunctionDef>> {
        self.functions.values().flatten()
    }

    /// The table an index belongs to, and the index.
    pub fn index(&self, name: &str) -> Option<(&Arc<Table>, &Index)> {
        self.tables
            .values()
            .find_map(|t| t.indexes.iter().find(|i| i.name == name).map(|i| (t, i)))
    }

    /// Indexes that still have to be filled: (table, index).
    pub fn unfinished_indexes(&self) -> Vec<(Arc<Table>, u16)> {
        let mut found = Vec::new();
        for table in self.tables.values() {
            for index in table
                .indexes
                .iter()
                .filter(|i| i.state == IndexState::WriteOnly)
            {
                found.push((Arc::clone(table), index.id));
            }
        }
        found
    }

    pub(crate) fn take_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn put_table(&mut self, table: Table) {
        self.tables
            .insert(qualified(&table.schema, &table.name), Arc::new(table));
    }

    pub(crate) fn remove_table(&mut self, schema: &str, name: &str) -> Option<Arc<Table>> {
        self.tables.remove(&qualified(schema, name))
    }

    pub(crate) fn put_sequence(&mut self, sequence: Sequence) {
        self.sequences
            .insert(qualified("public", &sequence.name), Arc::new(sequence));
    }

    pub(crate) fn remove_sequence(&mut self, name: &str) -> Option<Arc<Sequence>> {
        self.sequences.remove(&with_schema(name))
    }

    /// Removes the sequences that go with a table.
    pub(crate) fn remove_sequences_of(&mut self, table: &str) {
        self.sequences
            .retain(|_, s| s.owner.as_deref() != Some(table));
    }

    /// Adds `def`, replacing an overload with the same argument types.
    pub(crate) fn put_function(&mut self, def: FunctionDef) {
        let list = self.functions.entry(with_schema(&def.name)).or_default();
        list.retain(|f| f.arg_types() != def.arg_types());
        list.push(Arc::new(def));
    }

    pub(crate) fn remove_function(&mut self, name: &str, args: &[DataType]) {
        let key = with_schema(name);
        if let Some(list) = self.functions.get_mut(&key) {
            list.retain(|f| f.arg_types() != args);
            if list.is_empty() {
                self.functions.remove(&key);
            }
        }
    }

    /// Ends a change: the next version, in which every function is compiled anew.
    pub(crate) fn bump(&mut self) {
        self.version += 1;
        for def in self.functions.values_mut().flatten() {
            *def = Arc::new(def.fresh());
        }
    }
}

fn qualified(schema: &str, name: &str) -> String {
    format!("{schema}.{name}")
}

fn with_schema(name: &str) -> String {
    if name.contains('.') {
        name.to_string()
    } else {
        qualified("public", name)
    }
}
