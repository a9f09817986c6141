//! Tables that show the system itself: schema `dbos`, `information_schema`, and enough of `pg_catalog` that clients
//! fail clearly.

use std::sync::{Arc, LazyLock};

use super::Catalog;
use super::table::{ColumnDef, Table};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

/// Rows of the schema `dbos` that only the node knows: `nodes`, `partitions`, `replicas`, `sessions`, `statements`. Columns
/// are those of [`table`], in order.
pub trait SystemTables: Send + Sync {
    fn rows(&self, table: &str) -> Result<Vec<Vec<Value>>>;
}

/// `name:type` lists; a `?` says that the column can be null.
const TABLES: [(&str, &str, &str); 13] = [
    (
        "dbos",
        "nodes",
        "node_id:int4 sql_address:text peer_address:text alive:bool data_dir:text version:text \
         memory_bytes:int8",
    ),
    (
        "dbos",
        "partitions",
        "partition_id:int4 group_id:int4 slots:int4 leader:int4 term:int8 schema_version:int8",
    ),
    (
        "dbos",
        "replicas",
        "partition_id:int4 node_id:int4 role:text term:int8 commit_index:int8 applied_index:int8 durable_index:int8 \
         last_index:int8 lag:int8",
    ),
    (
        "dbos",
        "sessions",
        "node_id:int4 session_id:text client:text state:text statements:int8",
    ),
    (
        "dbos",
        "statements",
        "node_id:int4 session_id:text started:timestamptz query:text",
    ),
    ("dbos", "clock", "stamp:int8 moment:timestamptz"),
    (
        "dbos",
        "tables",
        "table_id:int8 table_schema:text table_name:text partition_key:text primary_key:text",
    ),
    (
        "dbos",
        "indexes",
        "table_name:text index_name:text columns:text is_unique:bool state:text",
    ),
    (
        "dbos",
        "functions",
        "function_name:text arguments:text returns:text language:text partition_parameter:text",
    ),
    (
        "information_schema",
        "tables",
        "table_catalog:text table_schema:text table_name:text table_type:text",
    ),
    (
        "information_schema",
        "columns",
        "table_catalog:text table_schema:text table_name:text column_name:text ordinal_position:int4 column_default:text \
         is_nullable:text data_type:text character_maximum_length:int4",
    ),
    (
        "pg_catalog",
        "pg_tables",
        "schemaname:text tablename:text tableowner:text",
    ),
    (
        "pg_catalog",
        "pg_indexes",
        "schemaname:text tablename:text indexname:text",
    ),
];

static SYSTEM: LazyLock<Vec<Arc<Table>>> = LazyLock::new(|| {
    let postgres = super::postgres::TABLES
        .iter()
        .map(|(name, columns)| ("pg_catalog", *name, *columns));
    let made = TABLES.into_iter().chain(postgres).enumerate();
    made.map(|(i, (schema, name, columns))| Arc::new(make(i, schema, name, columns)))
        .collect()
});

fn make(position: usize, schema: &str, name: &str, columns: &str) -> Table {
    let columns = columns.split_whitespace().map(|column| {
        let (name, type_name) = column.split_once(':').unwrap_or((column, "text"));
        let data_type = DataType::from_name(type_name).unwrap_or(DataType::Text);
        ColumnDef {
            name: name.to_string(),
            data_type,
            max_len: None,
            not_null: false,
            default: None,
        }
    });
    Table {
        id: super::postgres::system_id(position, name),
        schema: schema.to_string(),
        name: name.to_string(),
        columns: columns.collect(),
        primary_key: Vec::new(),
        primary_key_name: String::new(),
        hidden_row_id: false,
        indexes: Vec::new(),
        checks: Vec::new(),
        next_index_id: 1,
        is_system: true,
    }
}

pub fn table(schema: &str, name: &str) -> Option<&'static Arc<Table>> {
    SYSTEM.iter().find(|t| t.schema == schema && t.name == name)
}

/// `pg_catalog` is on every search path.
pub fn table_on_path(name: &str) -> Option<&'static Arc<Table>> {
    table("pg_catalog", name)
}

pub(super) fn text(s: impl AsRef<str>) -> Value {
    Value::Text(s.as_ref().into())
}

pub(super) fn opt(s: Option<String>) -> Value {
    s.map_or(Value::Null, text)
}

/// Rows of a system table: from the catalogue if it knows them, else from the node.
pub fn rows(
    catalog: &Arc<Catalog>,
    node: Option<&dyn SystemTables>,
    table: &Table,
) -> Result<Vec<Vec<Value>>> {
    match (table.schema.as_str(), table.name.as_str()) {
        ("dbos", "tables") => Ok(catalog.tables().map(|t| dbos_table(t)).collect()),
        ("dbos", "indexes") => Ok(catalog.tables().flat_map(|t| dbos_indexes(t)).collect()),
        ("dbos", "functions") => Ok(dbos_functions(catalog)),
        ("dbos", name) => match node {
            Some(node) => node.rows(name),
            None => Err(Error::unsupported(format!("reading dbos.{name} here"))
                .hint("it is answered by a node: query it on its own, outside of procedures")),
        },
        ("information_schema", "tables") => {
            Ok(all_tables(catalog).map(|t| information_table(t)).collect())
        }
        ("information_schema", "columns") => Ok(all_tables(catalog)
            .flat_map(|t| information_columns(t))
            .collect()),
        ("pg_catalog", "pg_tables") => Ok(all_tables(catalog)
            .map(|t| vec![text(&t.schema), text(&t.name), text("dbos")])
            .collect()),
        ("pg_catalog", "pg_indexes") => {
            let rows = catalog.tables().flat_map(|t| {
                t.indexes
                    .iter()
                    .map(|i| vec![text(&t.schema), text(&t.name), text(&i.name)])
                    .collect::<Vec<_>>()
            });
            Ok(rows.collect())
        }
        _ => super::postgres::rows(catalog, table),
    }
}

pub(super) fn all_tables(catalog: &Catalog) -> impl Iterator<Item = &Arc<Table>> {
    catalog.tables().chain(SYSTEM.iter())
}

fn names(table: &Table, columns: impl Iterator<Item = usize>) -> String {
    columns
        .map(|c| table.columns[c].name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn dbos_table(t: &Table) -> Vec<Value> {
    let key = (!t.hidden_row_id).then(|| names(t, t.primary_key.iter().copied()));
    let partition = (!t.hidden_row_id).then(|| names(t, t.primary_key.iter().copied().take(1)));
    vec![
        Value::Int8(i64::from(t.id)),
        text(&t.schema),
        text(&t.name),
        opt(partition),
        opt(key),
    ]
}

fn dbos_indexes(t: &Table) -> Vec<Vec<Value>> {
    let one = |index: &super::Index| {
        let columns = index.columns.iter().map(|c| {
            let name = &t.columns[c.column].name;
            if c.desc {
                format!("{name} DESC")
            } else {
                name.clone()
            }
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        let state = match index.state {
            super::IndexState::WriteOnly => "being filled",
            super::IndexState::Ready => "ready",
        };
        vec![
            text(&t.name),
            text(&index.name),
            text(columns),
            Value::Bool(index.unique),
            text(state),
        ]
    };
    t.indexes.iter().map(one).collect()
}

fn dbos_functions(catalog: &Arc<Catalog>) -> Vec<Vec<Value>> {
    let one = |f: &Arc<super::FunctionDef>| {
        let args: Vec<String> = f
            .inputs()
            .map(|a| {
                format!("{} {}", a.name, a.data_type.name())
                    .trim()
                    .to_string()
            })
            .collect();
        let param = f.compiled(catalog).ok().and_then(|c| c.partition_param());
        let param = param
            .and_then(|i| f.inputs().nth(i))
            .map(|a| a.name.clone());
        let set = if f.returns.set { "SETOF " } else { "" };
        let language = match f.language {
            super::Language::Sql => "sql",
            super::Language::Plpgsql => "plpgsql",
        };
        let returns = format!("{set}{}", f.returns.data_type.name());
        vec![
            text(&f.name),
            text(args.join(", ")),
            text(returns),
            text(language),
            opt(param),
        ]
    };
    catalog.functions().map(one).collect()
}

fn information_table(t: &Table) -> Vec<Value> {
    let kind = if t.is_system { "VIEW" } else { "BASE TABLE" };
    vec![text("dbos"), text(&t.schema), text(&t.name), text(kind)]
}

fn information_columns(t: &Table) -> Vec<Vec<Value>> {
    let one = |(i, c): (usize, &ColumnDef)| {
        vec![
            text("dbos"),
            text(&t.schema),
            text(&t.name),
            text(&c.name),
            Value::Int4(i32::try_from(i + 1).unwrap_or(i32::MAX)),
            opt(c.default.clone()),
            text(if c.not_null { "NO" } else { "YES" }),
            text(c.data_type.name()),
            c.max_len
                .and_then(|n| i32::try_from(n).ok())
                .map_or(Value::Null, Value::Int4),
        ]
    };
    t.visible_columns().iter().enumerate().map(one).collect()
}
