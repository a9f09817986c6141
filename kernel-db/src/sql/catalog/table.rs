//! Tables, their indexes, and sequences.

use serde::{Deserialize, Serialize};

use super::serial;
use crate::sql::DataType;

/// One column. `default` and checks are SQL text, compiled with the statements that use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    pub name: String,
    #[serde(with = "serial::data_type")]
    pub data_type: DataType,
    /// varchar(n): n characters.
    pub max_len: Option<u32>,
    pub not_null: bool,
    pub default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDef {
    pub name: String,
    pub expr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexState {
    /// Written by every change, not read yet: being filled.
    WriteOnly,
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Position in `Table::columns`.
    pub column: usize,
    pub desc: bool,
}

/// A secondary index. Its entries are `[table][id][columns][primary key]` with an empty value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub id: u16,
    pub name: String,
    pub columns: Vec<IndexColumn>,
    pub unique: bool,
    pub state: IndexState,
}

/// A table. Rows are `[id][0][primary key columns]` -> all columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub id: u32,
    pub schema: String,
    pub name: String,
    pub columns: Vec<ColumnDef>,
    /// Positions of the primary key's columns; the first is the partition key.
    pub primary_key: Vec<usize>,
    pub primary_key_name: String,
    /// The last column is a generated row id that `*` does not show.
    pub hidden_row_id: bool,
    pub indexes: Vec<Index>,
    pub checks: Vec<CheckDef>,
    pub next_index_id: u16,
    /// Rows come from the node (schema `dbos`) or the catalogue, not from the store.
    pub is_system: bool,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Columns that `*` shows: all but a hidden row id.
    pub fn visible_columns(&self) -> &[ColumnDef] {
        let hidden = usize::from(self.hidden_row_id);
        &self.columns[..self.columns.len() - hidden]
    }

    /// Position of the partition key among the columns.
    pub fn partition_column(&self) -> Option<usize> {
        self.primary_key.first().copied()
    }

    /// True for a unique index without the partition key. Its entries are not with their rows but where the hash of the
    /// indexed values says, so that equal values meet in one partition.
    pub fn is_global(&self, index: &Index) -> bool {
        let key = self.partition_column();
        index.unique && !index.columns.iter().any(|c| Some(c.column) == key)
    }

    pub fn types(&self) -> Vec<DataType> {
        self.columns.iter().map(|c| c.data_type).collect()
    }
}

/// A sequence. Partition p of P takes the values `start + increment * (n * P + p)`: distinct, not dense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub id: u32,
    pub name: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    /// The table it goes with.
    #[serde(default)]
    pub owner: Option<String>,
}
