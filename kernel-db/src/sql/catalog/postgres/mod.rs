//! The tables of `pg_catalog`, as far as psql and drivers ask for them, made from the catalogue.
//!
//! Numbers of objects: a table, sequence or function is [`oid::object`] of its id; indexes and constraints, which have no id of
//! their own across tables, get a number by hashing what names them for good. System tables have PostgreSQL's numbers where
//! clients know those by heart. A column that is not set below has its type's empty value.

mod tables;

use super::lookup::columns_of;
use super::system::{all_tables, text};
use super::{Catalog, CheckDef, Index, Table};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value, array};
pub(super) use tables::TABLES;

pub(super) const NAMESPACES: [(i64, &str); 4] = [
    (PG_CATALOG, "pg_catalog"),
    (2200, "public"),
    (13_000, "information_schema"),
    (13_001, "dbos"),
];

const PG_CATALOG: i64 = 11;
/// The one role and its number.
const OWNER: i64 = 10;
const DATABASE: i64 = 5;
const HEAP: i64 = 2;
const BTREE: i64 = 403;
const SQL: i64 = 14;
const PLPGSQL: i64 = 13_563;
const DEFAULT_COLLATION: i64 = 100;

/// Numbers that name objects.
pub mod oid {
    use xxhash_rust::xxh3::xxh3_64;

    use super::super::{CheckDef, Index, Table};

    /// Numbers below belong to PostgreSQL's own objects.
    const FIRST: i64 = 16_384;
    const HASHED: u64 = 1 << 30;

    /// Of a table, sequence or function.
    pub fn object(id: u32) -> i64 {
        FIRST + i64::from(id)
    }

    pub fn table(table: &Table) -> i64 {
        if table.is_system {
            return i64::from(table.id);
        }
        object(table.id)
    }

    fn hashed(kind: &str, table: u32, name: &[u8]) -> i64 {
        let mut bytes = kind.as_bytes().to_vec();
        bytes.extend_from_slice(&table.to_be_bytes());
        bytes.extend_from_slice(name);
        // Above every object's number, below the end of PostgreSQL's oid (32 bits).
        (HASHED + xxh3_64(&bytes) % HASHED) as i64
    }

    pub fn primary_key(table: &Table) -> i64 {
        hashed("index", table.id, &0_u16.to_be_bytes())
    }

    pub fn index(table: &Table, index: &Index) -> i64 {
        hashed("index", table.id, &index.id.to_be_bytes())
    }

    pub fn primary_constraint(table: &Table) -> i64 {
        hashed("primary", table.id, &[])
    }

    pub fn check(table: &Table, check: &CheckDef) -> i64 {
        hashed("check", table.id, check.name.as_bytes())
    }

    pub fn default(table: &Table, column: usize) -> i64 {
        hashed("default", table.id, &column.to_be_bytes())
    }
}

/// Id of the n-th system table: PostgreSQL's number if clients know it by heart.
pub(super) fn system_id(position: usize, name: &str) -> u32 {
    match name {
        "pg_type" => 1247,
        "pg_attribute" => 1249,
        "pg_proc" => 1255,
        "pg_class" => 1259,
        "pg_database" => 1262,
        "pg_constraint" => 2606,
        "pg_namespace" => 2615,
        "pg_extension" => 3079,
        _ => 12_000 + u32::try_from(position).unwrap_or(0),
    }
}

/// What `pg_class` lists.
pub(super) struct Relation<'a> {
    pub oid: i64,
    pub name: &'a str,
    pub schema: &'a str,
    kind: &'static str,
    access: i64,
    columns: usize,
    checks: usize,
    has_index: bool,
}

/// Tables, then their indexes, then sequences.
pub(super) fn relations(catalog: &Catalog) -> impl Iterator<Item = Relation<'_>> {
    let tables = all_tables(catalog).map(|t| Relation {
        oid: oid::table(t),
        name: &t.name,
        schema: &t.schema,
        kind: if t.is_system { "v" } else { "r" },
        access: if t.is_system { 0 } else { HEAP },
        columns: t.visible_columns().len(),
        checks: t.checks.len(),
        has_index: !t.is_system && (!t.hidden_row_id || !t.indexes.is_empty()),
    });
    let indexes = indexes(catalog).map(|i| Relation {
        oid: i.oid,
        name: i.name,
        schema: &i.table.schema,
        kind: "i",
        access: BTREE,
        columns: columns_of(i.table, i.index).len(),
        checks: 0,
        has_index: false,
    });
    let sequences = catalog.sequences().map(|s| Relation {
        oid: oid::object(s.id),
        name: &s.name,
        schema: "public",
        kind: "S",
        access: 0,
        columns: 3,
        checks: 0,
        has_index: false,
    });
    tables.chain(indexes).chain(sequences)
}

/// An index, or a primary key (`index` none).
struct Keyed<'a> {
    table: &'a Table,
    index: Option<&'a Index>,
    oid: i64,
    name: &'a str,
}

fn indexes(catalog: &Catalog) -> impl Iterator<Item = Keyed<'_>> {
    catalog.tables().flat_map(|t| {
        let primary = (!t.hidden_row_id).then(|| Keyed {
            table: t,
            index: None,
            oid: oid::primary_key(t),
            name: &t.primary_key_name,
        });
        let others = t.indexes.iter().map(|i| Keyed {
            table: t,
            index: Some(i),
            oid: oid::index(t, i),
            name: &i.name,
        });
        primary.into_iter().chain(others)
    })
}

fn namespace(schema: &str) -> Value {
    let found = NAMESPACES.iter().find(|(_, name)| *name == schema);
    found.map_or(Value::Null, |(oid, _)| Value::Int8(*oid))
}

fn small(n: usize) -> Value {
    Value::Int2(i16::try_from(n).unwrap_or(i16::MAX))
}

fn numbers(list: impl Iterator<Item = usize>) -> Result<Value> {
    array::value(DataType::Int2, list.map(small).collect())
}

/// A row of `table` in which only these columns are set.
fn row(table: &Table, set: Vec<(&str, Value)>) -> Result<Vec<Value>> {
    let empty = |c: &super::ColumnDef| match c.data_type {
        DataType::Bool => Value::Bool(false),
        DataType::Int2 => Value::Int2(0),
        DataType::Int4 => Value::Int4(0),
        DataType::Int8 => Value::Int8(0),
        DataType::Float8 => Value::Float8(0.0),
        _ => Value::Null,
    };
    let mut row: Vec<Value> = table.columns.iter().map(empty).collect();
    for (name, value) in set {
        let place = table
            .column(name)
            .ok_or_else(|| Error::internal(format!("{} has no column {name}", table.name)))?;
        row[place] = value;
    }
    Ok(row)
}

/// Rows of a table of `pg_catalog`.
pub(super) fn rows(catalog: &Catalog, table: &Table) -> Result<Vec<Vec<Value>>> {
    let made: Vec<Vec<(&str, Value)>> = match table.name.as_str() {
        "pg_class" => relations(catalog).map(|r| class(&r)).collect(),
        "pg_namespace" => NAMESPACES
            .iter()
            .map(|(oid, name)| {
                vec![
                    ("oid", Value::Int8(*oid)),
                    ("nspname", text(name)),
                    ("nspowner", Value::Int8(OWNER)),
                ]
            })
            .collect(),
        "pg_attribute" => attributes(catalog),
        "pg_attrdef" => defaults(catalog),
        "pg_type" => DataType::ALL.iter().map(|t| type_row(*t)).collect(),
        "pg_index" => indexes(catalog).map(|i| index(&i)).collect::<Result<_>>()?,
        "pg_constraint" => constraints(catalog)?,
        "pg_proc" => catalog
            .functions()
            .map(|f| function(f))
            .collect::<Result<_>>()?,
        "pg_sequence" => catalog.sequences().map(|s| sequence(s)).collect(),
        name => tables::fixed(name),
    };
    made.into_iter().map(|set| row(table, set)).collect()
}

fn class(r: &Relation<'_>) -> Vec<(&'static str, Value)> {
    vec![
        ("oid", Value::Int8(r.oid)),
        ("relname", text(r.name)),
        ("relnamespace", namespace(r.schema)),
        ("relowner", Value::Int8(OWNER)),
        ("relam", Value::Int8(r.access)),
        ("relfilenode", Value::Int8(r.oid)),
        // Not kept.
        ("reltuples", Value::Float8(-1.0)),
        ("relhasindex", Value::Bool(r.has_index)),
        ("relpersistence", text("p")),
        ("relkind", text(r.kind)),
        ("relnatts", small(r.columns)),
        ("relchecks", small(r.checks)),
        ("relispopulated", Value::Bool(true)),
        ("relreplident", text(if r.kind == "r" { "d" } else { "n" })),
    ]
}

/// One column of a relation.
fn attribute(
    relation: i64,
    number: usize,
    column: &super::ColumnDef,
    of_table: bool,
) -> Vec<(&'static str, Value)> {
    let modifier = column.max_len.map_or(-1, |n| i64::from(n) + 4);
    let is_text = column.data_type.is_string();
    vec![
        ("attrelid", Value::Int8(relation)),
        ("attname", text(&column.name)),
        ("atttypid", Value::Int8(column.data_type.oid().into())),
        ("attstattarget", Value::Int4(-1)),
        ("attlen", Value::Int2(column.data_type.typlen())),
        ("attnum", small(number)),
        (
            "atttypmod",
            Value::Int4(i32::try_from(modifier).unwrap_or(-1)),
        ),
        (
            "attbyval",
            Value::Bool((1..=8).contains(&column.data_type.typlen())),
        ),
        (
            "attstorage",
            text(if column.data_type.typlen() < 0 {
                "x"
            } else {
                "p"
            }),
        ),
        ("attcompression", text("")),
        ("attnotnull", Value::Bool(of_table && column.not_null)),
        (
            "atthasdef",
            Value::Bool(of_table && column.default.is_some()),
        ),
        ("attidentity", text("")),
        ("attgenerated", text("")),
        ("attislocal", Value::Bool(true)),
        (
            "attcollation",
            Value::Int8(if is_text { DEFAULT_COLLATION } else { 0 }),
        ),
    ]
}

fn attributes(catalog: &Catalog) -> Vec<Vec<(&'static str, Value)>> {
    let mut made = Vec::new();
    for table in all_tables(catalog) {
        for (i, column) in table.visible_columns().iter().enumerate() {
            made.push(attribute(oid::table(table), i + 1, column, true));
        }
    }
    for keyed in indexes(catalog) {
        for (i, (place, _)) in columns_of(keyed.table, keyed.index).into_iter().enumerate() {
            let column = &keyed.table.columns[place];
            made.push(attribute(keyed.oid, i + 1, column, false));
        }
    }
    made
}

fn defaults(catalog: &Catalog) -> Vec<Vec<(&'static str, Value)>> {
    let mut made = Vec::new();
    for table in catalog.tables() {
        for (i, column) in table.visible_columns().iter().enumerate() {
            if let Some(default) = &column.default {
                made.push(vec![
                    ("oid", Value::Int8(oid::default(table, i))),
                    ("adrelid", Value::Int8(oid::table(table))),
                    ("adnum", small(i + 1)),
                    ("adbin", text(default)),
                ]);
            }
        }
    }
    made
}

fn type_row(t: DataType) -> Vec<(&'static str, Value)> {
    use crate::sql::Category;
    let category = match t.category() {
        Category::Bool => "B",
        Category::Number => "N",
        Category::String => "S",
        Category::DateTime => "D",
        Category::Timespan => "T",
        Category::User => "U",
        Category::Unknown => "X",
        Category::Array => "A",
        Category::Pseudo => "P",
    };
    let pseudo = matches!(t, DataType::Unknown | DataType::Void | DataType::Record);
    let number = |t: Option<DataType>| Value::Int8(t.map_or(0, |t| t.oid().into()));
    let collation = t.is_string() || t.element().is_some_and(DataType::is_string);
    vec![
        ("oid", Value::Int8(t.oid().into())),
        ("typname", text(t.internal_name())),
        ("typnamespace", Value::Int8(PG_CATALOG)),
        ("typowner", Value::Int8(OWNER)),
        ("typlen", Value::Int2(t.typlen())),
        ("typbyval", Value::Bool((1..=8).contains(&t.typlen()))),
        ("typtype", text(if pseudo { "p" } else { "b" })),
        ("typcategory", text(category)),
        ("typispreferred", Value::Bool(t.is_preferred())),
        ("typisdefined", Value::Bool(true)),
        ("typdelim", text(",")),
        ("typelem", number(t.element())),
        ("typarray", number(t.array().ok())),
        ("typtypmod", Value::Int4(-1)),
        (
            "typcollation",
            Value::Int8(if collation { DEFAULT_COLLATION } else { 0 }),
        ),
    ]
}

fn index(keyed: &Keyed<'_>) -> Result<Vec<(&'static str, Value)>> {
    let columns = columns_of(keyed.table, keyed.index);
    let ready = keyed
        .index
        .is_none_or(|i| i.state == super::IndexState::Ready);
    let primary = keyed.index.is_none();
    // DESC and NULLS FIRST, one bit each.
    let options = columns.iter().map(|(_, desc)| if *desc { 3 } else { 0 });
    Ok(vec![
        ("indexrelid", Value::Int8(keyed.oid)),
        ("indrelid", Value::Int8(oid::table(keyed.table))),
        ("indnatts", small(columns.len())),
        ("indnkeyatts", small(columns.len())),
        (
            "indisunique",
            Value::Bool(keyed.index.is_none_or(|i| i.unique)),
        ),
        ("indisprimary", Value::Bool(primary)),
        ("indimmediate", Value::Bool(true)),
        ("indisvalid", Value::Bool(ready)),
        ("indisready", Value::Bool(true)),
        ("indislive", Value::Bool(true)),
        ("indkey", numbers(columns.iter().map(|(c, _)| c + 1))?),
        ("indoption", numbers(options)?),
    ])
}

fn constraints(catalog: &Catalog) -> Result<Vec<Vec<(&'static str, Value)>>> {
    let mut made = Vec::new();
    for table in catalog.tables() {
        let one = |oid: i64, name: &str, kind: &str, index: i64| {
            vec![
                ("oid", Value::Int8(oid)),
                ("conname", text(name)),
                ("connamespace", namespace(&table.schema)),
                ("contype", text(kind)),
                ("convalidated", Value::Bool(true)),
                ("conrelid", Value::Int8(oid::table(table))),
                ("conindid", Value::Int8(index)),
                ("confupdtype", text(" ")),
                ("confdeltype", text(" ")),
                ("confmatchtype", text(" ")),
                ("conislocal", Value::Bool(true)),
                ("connoinherit", Value::Bool(kind == "p")),
            ]
        };
        if !table.hidden_row_id {
            let own = oid::primary_constraint(table);
            let mut primary = one(own, &table.primary_key_name, "p", oid::primary_key(table));
            primary.push(("conkey", numbers(table.primary_key.iter().map(|c| c + 1))?));
            made.push(primary);
        }
        let check = |c: &CheckDef| {
            let mut set = one(oid::check(table, c), &c.name, "c", 0);
            set.push(("conbin", text(&c.expr)));
            set
        };
        made.extend(table.checks.iter().map(check));
    }
    Ok(made)
}

fn function(f: &super::FunctionDef) -> Result<Vec<(&'static str, Value)>> {
    let types = f.inputs().map(|a| Value::Int8(a.data_type.oid().into()));
    let names: Vec<Value> = f.args.iter().map(|a| text(&a.name)).collect();
    let defaults = f.inputs().filter(|a| a.default.is_some()).count();
    let language = match f.language {
        super::Language::Sql => SQL,
        super::Language::Plpgsql => PLPGSQL,
    };
    Ok(vec![
        ("oid", Value::Int8(oid::object(f.id))),
        ("proname", text(&f.name)),
        ("pronamespace", namespace("public")),
        ("proowner", Value::Int8(OWNER)),
        ("prolang", Value::Int8(language)),
        ("procost", Value::Float8(100.0)),
        (
            "prorows",
            Value::Float8(if f.returns.set { 1000.0 } else { 0.0 }),
        ),
        ("prokind", text("f")),
        ("proisstrict", Value::Bool(f.strict)),
        ("proretset", Value::Bool(f.returns.set)),
        ("provolatile", text("v")),
        ("proparallel", text("u")),
        ("pronargs", small(f.inputs().count())),
        ("pronargdefaults", small(defaults)),
        ("prorettype", Value::Int8(f.returns.data_type.oid().into())),
        (
            "proargtypes",
            array::value(DataType::Int8, types.collect())?,
        ),
        ("proargnames", array::value(DataType::Text, names)?),
        ("prosrc", text(&f.body)),
    ])
}

fn sequence(s: &super::Sequence) -> Vec<(&'static str, Value)> {
    vec![
        ("seqrelid", Value::Int8(oid::object(s.id))),
        ("seqtypid", Value::Int8(DataType::Int8.oid().into())),
        ("seqstart", Value::Int8(s.start)),
        ("seqincrement", Value::Int8(s.increment)),
        ("seqmax", Value::Int8(s.max)),
        ("seqmin", Value::Int8(s.min)),
        ("seqcache", Value::Int8(1)),
    ]
}
