//! PostgreSQL's functions over its catalogue: the definition of an index, the name of a type, whether a table is on the path.

use std::fmt::Write;

use super::postgres::{self, oid};
use super::{ArgMode, Catalog, FunctionArg, FunctionDef, Index, Language, Table};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

use DataType::{Bool, Int4, Int8, Text};

macro_rules! lookups {
    ($($variant:ident $name:literal ($($arg:ident),*) $least:literal -> $ret:ident),* $(,)?) => {
        /// A function that is answered from the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Lookup { $($variant),* }

        impl Lookup {
            /// The function of this name that takes this number of arguments.
            pub fn named(name: &str, args: usize) -> Option<Self> {
                $(if name == $name && ($least..=[$($arg as DataType),*].len()).contains(&args) {
                    return Some(Self::$variant);
                })*
                None
            }

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Types of its arguments; a call may leave out the last ones.
            pub fn args(self) -> &'static [DataType] {
                match self { $(Self::$variant => &[$($arg),*]),* }
            }

            pub fn returns(self) -> DataType {
                match self { $(Self::$variant => $ret),* }
            }
        }
    };
}

lookups! {
    TableIsVisible "pg_table_is_visible" (Int8) 1 -> Bool,
    TypeIsVisible "pg_type_is_visible" (Int8) 1 -> Bool,
    FunctionIsVisible "pg_function_is_visible" (Int8) 1 -> Bool,
    UserById "pg_get_userbyid" (Int8) 1 -> Text,
    FormatType "format_type" (Int8, Int4) 2 -> Text,
    GetExpr "pg_get_expr" (Text, Int8, Bool) 2 -> Text,
    IndexDef "pg_get_indexdef" (Int8, Int4, Bool) 1 -> Text,
    ConstraintDef "pg_get_constraintdef" (Int8, Bool) 1 -> Text,
    FunctionResult "pg_get_function_result" (Int8) 1 -> Text,
    FunctionArguments "pg_get_function_arguments" (Int8) 1 -> Text,
    IdentityArguments "pg_get_function_identity_arguments" (Int8) 1 -> Text,
    FunctionDefinition "pg_get_functiondef" (Int8) 1 -> Text,
    SqlBody "pg_get_function_sqlbody" (Int8) 1 -> Text,
    ObjDescription "obj_description" (Int8, Text) 1 -> Text,
    ColDescription "col_description" (Int8, Int4) 2 -> Text,
    SharedDescription "shobj_description" (Int8, Text) 2 -> Text,
    EncodingName "pg_encoding_to_char" (Int4) 1 -> Text,
    IsPublishable "pg_relation_is_publishable" (Int8) 1 -> Bool,
    StatisticsColumns "pg_get_statisticsobjdef_columns" (Int8) 1 -> Text,
    TablespaceLocation "pg_tablespace_location" (Int8) 1 -> Text,
    TableSize "pg_table_size" (Int8) 1 -> Int8,
    RelationSize "pg_relation_size" (Int8) 1 -> Int8,
    TotalSize "pg_total_relation_size" (Int8) 1 -> Int8,
    DatabaseSize "pg_database_size" (Text) 1 -> Int8,
    SizePretty "pg_size_pretty" (Int8) 1 -> Text,
    SerialSequence "pg_get_serial_sequence" (Text, Text) 2 -> Text,
    ToRegclass "to_regclass" (Text) 1 -> Int8,
    ToRegproc "to_regproc" (Text) 1 -> Int8,
    ToRegtype "to_regtype" (Text) 1 -> Int8,
    ToRegnamespace "to_regnamespace" (Text) 1 -> Int8,
    ClassName "regclassout" (Int8) 1 -> Text,
    ProcName "regprocout" (Int8) 1 -> Text,
    TypeName "regtypeout" (Int8) 1 -> Text,
    NamespaceName "regnamespaceout" (Int8) 1 -> Text,
}

impl Lookup {
    /// Answers a call. A NULL first argument gives NULL.
    pub fn eval(self, args: &[Value], catalog: &Catalog) -> Result<Value> {
        let Some(first) = args.first().filter(|a| !a.is_null()) else {
            return Ok(Value::Null);
        };
        let number = first.as_int().unwrap_or(0);
        let name = first.as_str().unwrap_or_default();
        let pretty = || args.last() == Some(&Value::Bool(true));
        let found = match self {
            Self::TableIsVisible => return Ok(visible(catalog, number)),
            Self::TypeIsVisible | Self::FunctionIsVisible => return Ok(Value::Bool(true)),
            Self::IsPublishable => return Ok(Value::Bool(false)),
            Self::UserById => Some("dbos".to_string()),
            Self::FormatType => Some(format_type(number, args.get(1).and_then(Value::as_int))),
            Self::TypeName => Some(format_type(number, None)),
            Self::GetExpr => Some(name.to_string()),
            Self::IndexDef => {
                let column = args.get(1).and_then(Value::as_int).unwrap_or(0);
                index_def(catalog, number, column, pretty())
            }
            Self::ConstraintDef => constraint_def(catalog, number, pretty()),
            Self::FunctionResult => function(catalog, number).map(result_text),
            Self::FunctionArguments => function(catalog, number).map(|f| arguments(f, true)),
            Self::IdentityArguments => function(catalog, number).map(|f| arguments(f, false)),
            Self::FunctionDefinition => function(catalog, number).map(definition),
            Self::EncodingName => (number == 6).then(|| "UTF8".to_string()),
            Self::TablespaceLocation => Some(String::new()),
            Self::SizePretty => Some(size_pretty(number)),
            Self::SerialSequence => return serial_sequence(catalog, args),
            Self::ToRegclass => return Ok(relation_named(catalog, name)),
            Self::ToRegproc => return function_named(catalog, name),
            Self::ToRegtype => {
                let found = DataType::from_name(name.trim_start_matches("pg_catalog."));
                return Ok(found.map_or(Value::Null, |t| Value::Int8(t.oid().into())));
            }
            Self::ToRegnamespace => return Ok(namespace_named(name)),
            Self::ClassName => Some(class_name(catalog, number)),
            Self::ProcName => Some(
                function(catalog, number).map_or_else(|| number.to_string(), |f| f.name.clone()),
            ),
            Self::NamespaceName => Some(namespace_name(number)),
            // Sizes, comments and statistics are not kept.
            Self::TableSize
            | Self::RelationSize
            | Self::TotalSize
            | Self::DatabaseSize
            | Self::SqlBody
            | Self::ObjDescription
            | Self::ColDescription
            | Self::SharedDescription
            | Self::StatisticsColumns => None,
        };
        Ok(found.map_or(Value::Null, Value::from))
    }
}

fn visible(catalog: &Catalog, number: i64) -> Value {
    let found = postgres::relations(catalog).find(|r| r.oid == number);
    found.map_or(Value::Null, |r| {
        Value::Bool(matches!(r.schema, "public" | "pg_catalog"))
    })
}

fn format_type(number: i64, modifier: Option<i64>) -> String {
    let known = u32::try_from(number).ok().and_then(DataType::from_oid);
    let Some(known) = known else {
        return if number == 0 { "-" } else { "???" }.to_string();
    };
    match (known, modifier) {
        (DataType::Varchar, Some(n)) if n > 4 => format!("{}({})", known.name(), n - 4),
        _ => known.name().to_string(),
    }
}

/// A table's columns in a key: `a, b DESC`.
fn key_columns(table: &Table, columns: impl Iterator<Item = (usize, bool)>) -> String {
    let shown = columns.map(|(column, desc)| {
        let name = quoted(&table.columns[column].name);
        if desc { format!("{name} DESC") } else { name }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// An index or primary key by its number.
fn index_of(catalog: &Catalog, number: i64) -> Option<(&Table, Option<&Index>)> {
    catalog.tables().find_map(|t| {
        if !t.hidden_row_id && oid::primary_key(t) == number {
            return Some((&**t, None));
        }
        let found = t.indexes.iter().find(|i| oid::index(t, i) == number);
        found.map(|i| (&**t, Some(i)))
    })
}

/// Columns of an index, and whether they descend.
pub(super) fn columns_of(table: &Table, index: Option<&Index>) -> Vec<(usize, bool)> {
    match index {
        None => table.primary_key.iter().map(|c| (*c, false)).collect(),
        Some(index) => index.columns.iter().map(|c| (c.column, c.desc)).collect(),
    }
}

fn index_def(catalog: &Catalog, number: i64, column: i64, pretty: bool) -> Option<String> {
    let (table, index) = index_of(catalog, number)?;
    let columns = columns_of(table, index);
    if column > 0 {
        let (place, _) = columns.get(usize::try_from(column - 1).ok()?)?;
        return Some(quoted(&table.columns[*place].name));
    }
    let (name, unique) = match index {
        None => (&table.primary_key_name, "UNIQUE "),
        Some(index) => (&index.name, if index.unique { "UNIQUE " } else { "" }),
    };
    let schema = if pretty {
        String::new()
    } else {
        format!("{}.", quoted(&table.schema))
    };
    let keys = key_columns(table, columns.into_iter());
    Some(format!(
        "CREATE {unique}INDEX {} ON {schema}{} USING btree ({keys})",
        quoted(name),
        quoted(&table.name)
    ))
}

fn constraint_def(catalog: &Catalog, number: i64, pretty: bool) -> Option<String> {
    catalog.tables().find_map(|table| {
        if !table.hidden_row_id && oid::primary_constraint(table) == number {
            let keys = key_columns(table, columns_of(table, None).into_iter());
            return Some(format!("PRIMARY KEY ({keys})"));
        }
        let check = table
            .checks
            .iter()
            .find(|c| oid::check(table, c) == number)?;
        Some(if pretty {
            format!("CHECK ({})", check.expr)
        } else {
            format!("CHECK (({}))", check.expr)
        })
    })
}

fn function(catalog: &Catalog, number: i64) -> Option<&FunctionDef> {
    let mut all = catalog.functions();
    all.find(|f| oid::object(f.id) == number).map(|f| &**f)
}

fn result_text(f: &FunctionDef) -> String {
    if f.returns.set && f.args.iter().any(|a| a.mode == ArgMode::Table) {
        let columns = f.args.iter().filter(|a| a.mode == ArgMode::Table);
        let shown: Vec<String> = columns.map(|a| argument(a, false)).collect();
        return format!("TABLE({})", shown.join(", "));
    }
    let set = if f.returns.set { "SETOF " } else { "" };
    format!("{set}{}", f.returns.data_type.name())
}

fn argument(a: &FunctionArg, default: bool) -> String {
    let mode = match a.mode {
        ArgMode::Out => "OUT ",
        ArgMode::InOut => "INOUT ",
        ArgMode::In | ArgMode::Table => "",
    };
    let mut out = mode.to_string();
    if !a.name.is_empty() {
        out.push_str(&quoted(&a.name));
        out.push(' ');
    }
    out.push_str(a.data_type.name());
    if let (true, Some(text)) = (default, &a.default) {
        // Writing to a String cannot fail.
        let _ = write!(out, " DEFAULT {text}");
    }
    out
}

fn arguments(f: &FunctionDef, defaults: bool) -> String {
    let shown = f.args.iter().filter(|a| a.mode != ArgMode::Table);
    let shown: Vec<String> = shown.map(|a| argument(a, defaults)).collect();
    shown.join(", ")
}

fn definition(f: &FunctionDef) -> String {
    let language = match f.language {
        Language::Sql => "sql",
        Language::Plpgsql => "plpgsql",
    };
    let strict = if f.strict { "\n STRICT" } else { "" };
    format!(
        "CREATE OR REPLACE FUNCTION public.{}({})\n RETURNS {}\n LANGUAGE {language}{strict}\nAS $function${}$function$\n",
        quoted(&f.name),
        arguments(f, true),
        result_text(f),
        f.body
    )
}

/// As pg_size_pretty: halves round away from zero.
fn size_pretty(bytes: i64) -> String {
    let mut size = bytes;
    for unit in ["bytes", "kB", "MB", "GB", "TB"] {
        let limit = 10 * 1024;
        if size.unsigned_abs() < limit {
            return format!("{size} {unit}");
        }
        let half = if size < 0 { -512 } else { 512 };
        size = size.saturating_add(half) / 1024;
    }
    format!("{size} PB")
}

/// The sequence in a column's default.
fn serial_sequence(catalog: &Catalog, args: &[Value]) -> Result<Value> {
    let [table, column] = args else {
        return Ok(Value::Null);
    };
    let (Some(table), Some(column)) = (table.as_str(), column.as_str()) else {
        return Ok(Value::Null);
    };
    let missing = |code, what: String| Err(Error::new(code, format!("{what} does not exist")));
    let plain = table.trim_start_matches("public.").trim_matches('"');
    let Some(found) = catalog.table(Some("public"), plain) else {
        return missing("42P01", format!("relation \"{table}\""));
    };
    let Some(place) = found.column(column) else {
        return missing(
            "42703",
            format!("column \"{column}\" of relation \"{table}\""),
        );
    };
    let default = found.columns[place].default.as_deref().unwrap_or_default();
    let name = default
        .split_once("nextval('")
        .and_then(|(_, rest)| rest.split_once('\''));
    Ok(name.map_or(Value::Null, |(name, _)| {
        Value::from(format!("public.{}", name.trim_start_matches("public.")))
    }))
}

/// Schema, if given, and name, without quotes.
fn parts(name: &str) -> (Option<String>, String) {
    let plain = |part: &str| match part.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
        Some(quoted) => quoted.to_string(),
        None => part.to_lowercase(),
    };
    match name.split_once('.') {
        Some((schema, name)) => (Some(plain(schema)), plain(name)),
        None => (None, plain(name)),
    }
}

fn relation_named(catalog: &Catalog, name: &str) -> Value {
    let (schema, name) = parts(name);
    let fits = |r: &postgres::Relation<'_>| {
        r.name == name
            && match &schema {
                Some(schema) => r.schema == schema,
                None => matches!(r.schema, "public" | "pg_catalog"),
            }
    };
    let found = postgres::relations(catalog).find(fits);
    found.map_or(Value::Null, |r| Value::Int8(r.oid))
}

fn function_named(catalog: &Catalog, name: &str) -> Result<Value> {
    let (_, plain) = parts(name.split('(').next().unwrap_or(name));
    match catalog.functions_named(&plain) {
        [] => Ok(Value::Null),
        [only] => Ok(Value::Int8(oid::object(only.id))),
        _ => Err(Error::new(
            "42725",
            format!("more than one function named \"{name}\""),
        )),
    }
}

fn class_name(catalog: &Catalog, number: i64) -> String {
    let found = postgres::relations(catalog).find(|r| r.oid == number);
    match found {
        Some(r) if matches!(r.schema, "public" | "pg_catalog") => quoted(r.name),
        Some(r) => format!("{}.{}", quoted(r.schema), quoted(r.name)),
        None => number.to_string(),
    }
}

fn namespace_named(name: &str) -> Value {
    let name = parts(name).1;
    let found = postgres::NAMESPACES.iter().find(|(_, n)| *n == name);
    found.map_or(Value::Null, |(oid, _)| Value::Int8(*oid))
}

fn namespace_name(number: i64) -> String {
    let found = postgres::NAMESPACES.iter().find(|(oid, _)| *oid == number);
    found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_string())
}

fn quoted(name: &str) -> String {
    crate::sql::functions::quoted_identifier(name)
}
