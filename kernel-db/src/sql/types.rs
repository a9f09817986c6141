//! Types: their names, object ids, and which of them are alike.

use std::fmt;

use sqlparser::ast::{self, CharacterLength, ExactNumberInfo, TimezoneInfo};

use crate::error::{Error, Result};

/// Types a value can have. Columns can have all but `Numeric`, `Interval`, `Unknown`, `Void`, `Record` and arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum DataType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float8,
    Text,
    Varchar,
    Bytea,
    Timestamptz,
    Uuid,
    /// Results of sum(int8), avg and numeric literals.
    Numeric,
    /// Only in expressions: `now() - interval '5 s'`.
    Interval,
    /// A literal or parameter whose type is not settled yet.
    Unknown,
    /// A function's result without columns.
    Void,
    /// A whole row.
    Record,
    BoolArray,
    Int2Array,
    Int4Array,
    Int8Array,
    Float8Array,
    TextArray,
    VarcharArray,
    TimestamptzArray,
    UuidArray,
}

/// Types of one category are candidates for one another in overload resolution (pg_type.typcategory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    Bool,
    Number,
    String,
    DateTime,
    Timespan,
    User,
    Array,
    Unknown,
    Pseudo,
}

impl DataType {
    pub const ALL: [DataType; 24] = [
        DataType::Bool,
        DataType::Int2,
        DataType::Int4,
        DataType::Int8,
        DataType::Float8,
        DataType::Text,
        DataType::Varchar,
        DataType::Bytea,
        DataType::Timestamptz,
        DataType::Uuid,
        DataType::Numeric,
        DataType::Interval,
        DataType::Unknown,
        DataType::Void,
        DataType::Record,
        DataType::BoolArray,
        DataType::Int2Array,
        DataType::Int4Array,
        DataType::Int8Array,
        DataType::Float8Array,
        DataType::TextArray,
        DataType::VarcharArray,
        DataType::TimestamptzArray,
        DataType::UuidArray,
    ];

    /// The name PostgreSQL prints (format_type).
    pub fn name(self) -> &'static str {
        match self {
            DataType::Bool => "boolean",
            DataType::Int2 => "smallint",
            DataType::Int4 => "integer",
            DataType::Int8 => "bigint",
            DataType::Float8 => "double precision",
            DataType::Text => "text",
            DataType::Varchar => "character varying",
            DataType::Bytea => "bytea",
            DataType::Timestamptz => "timestamp with time zone",
            DataType::Uuid => "uuid",
            DataType::Numeric => "numeric",
            DataType::Interval => "interval",
            DataType::Unknown => "unknown",
            DataType::Void => "void",
            DataType::Record => "record",
            DataType::BoolArray => "boolean[]",
            DataType::Int2Array => "smallint[]",
            DataType::Int4Array => "integer[]",
            DataType::Int8Array => "bigint[]",
            DataType::Float8Array => "double precision[]",
            DataType::TextArray => "text[]",
            DataType::VarcharArray => "character varying[]",
            DataType::TimestamptzArray => "timestamp with time zone[]",
            DataType::UuidArray => "uuid[]",
        }
    }

    /// pg_type.typname: also the name of a column made by a cast.
    pub fn internal_name(self) -> &'static str {
        match self {
            DataType::Bool => "bool",
            DataType::Int2 => "int2",
            DataType::Int4 => "int4",
            DataType::Int8 => "int8",
            DataType::Float8 => "float8",
            DataType::Varchar => "varchar",
            DataType::Timestamptz => "timestamptz",
            DataType::BoolArray => "_bool",
            DataType::Int2Array => "_int2",
            DataType::Int4Array => "_int4",
            DataType::Int8Array => "_int8",
            DataType::Float8Array => "_float8",
            DataType::TextArray => "_text",
            DataType::VarcharArray => "_varchar",
            DataType::TimestamptzArray => "_timestamptz",
            DataType::UuidArray => "_uuid",
            other => other.name(),
        }
    }

    /// pg_type.oid.
    pub fn oid(self) -> u32 {
        match self {
            DataType::Bool => 16,
            DataType::Bytea => 17,
            DataType::Int8 => 20,
            DataType::Int2 => 21,
            DataType::Int4 => 23,
            DataType::Text => 25,
            DataType::Float8 => 701,
            DataType::Unknown => 705,
            DataType::Varchar => 1043,
            DataType::Timestamptz => 1184,
            DataType::Interval => 1186,
            DataType::Numeric => 1700,
            DataType::Record => 2249,
            DataType::Void => 2278,
            DataType::Uuid => 2950,
            DataType::BoolArray => 1000,
            DataType::Int2Array => 1005,
            DataType::Int4Array => 1007,
            DataType::Int8Array => 1016,
            DataType::Float8Array => 1022,
            DataType::TextArray => 1009,
            DataType::VarcharArray => 1015,
            DataType::TimestamptzArray => 1185,
            DataType::UuidArray => 2951,
        }
    }

    pub fn from_oid(oid: u32) -> Option<DataType> {
        DataType::ALL
            .into_iter()
            .find(|data_type| data_type.oid() == oid)
    }

    /// pg_type.typlen: bytes of a fixed-width type, -1 for variable width, -2 for C strings.
    pub fn typlen(self) -> i16 {
        match self {
            DataType::Bool => 1,
            DataType::Int2 => 2,
            DataType::Int4 | DataType::Void => 4,
            DataType::Int8 | DataType::Float8 | DataType::Timestamptz => 8,
            DataType::Uuid | DataType::Interval => 16,
            DataType::Unknown => -2,
            _ => -1,
        }
    }

    pub fn category(self) -> Category {
        match self {
            DataType::Bool => Category::Bool,
            DataType::Int2
            | DataType::Int4
            | DataType::Int8
            | DataType::Float8
            | DataType::Numeric => Category::Number,
            DataType::Text | DataType::Varchar => Category::String,
            DataType::Timestamptz => Category::DateTime,
            DataType::Interval => Category::Timespan,
            DataType::Bytea | DataType::Uuid => Category::User,
            DataType::Unknown => Category::Unknown,
            DataType::Void | DataType::Record => Category::Pseudo,
            _ => Category::Array,
        }
    }

    /// pg_type.typispreferred: the type of its category that overload resolution prefers.
    pub fn is_preferred(self) -> bool {
        matches!(
            self,
            DataType::Bool
                | DataType::Float8
                | DataType::Text
                | DataType::Timestamptz
                | DataType::Interval
        )
    }

    pub fn is_number(self) -> bool {
        self.category() == Category::Number
    }

    pub fn is_int(self) -> bool {
        matches!(self, DataType::Int2 | DataType::Int4 | DataType::Int8)
    }

    pub fn is_string(self) -> bool {
        self.category() == Category::String
    }

    /// Whether a table's column can have this type.
    pub fn is_storable(self) -> bool {
        !matches!(
            self,
            DataType::Numeric
                | DataType::Interval
                | DataType::Unknown
                | DataType::Void
                | DataType::Record
        ) && self.element().is_none()
    }

    /// A type as written in SQL, and the declared length of a varchar. 42704 for a name nobody knows, 0A000 for
    /// PostgreSQL's types that are not built.
    pub fn from_sql(sql: &ast::DataType) -> Result<(DataType, Option<u32>)> {
        use ast::DataType as Sql;
        let data_type = match sql {
            Sql::Bool | Sql::Boolean => DataType::Bool,
            Sql::Int2(None) | Sql::SmallInt(None) => DataType::Int2,
            Sql::Int(None) | Sql::Int4(None) | Sql::Integer(None) => DataType::Int4,
            Sql::Int8(None) | Sql::BigInt(None) => DataType::Int8,
            Sql::Float8 | Sql::DoublePrecision | Sql::Double(ExactNumberInfo::None) => {
                DataType::Float8
            }
            Sql::Float(ExactNumberInfo::None) => DataType::Float8,
            Sql::Float(ExactNumberInfo::Precision(25..=53)) => DataType::Float8,
            Sql::Text => DataType::Text,
            Sql::Varchar(length) | Sql::CharacterVarying(length) | Sql::CharVarying(length) => {
                return Ok((DataType::Varchar, varchar_length(length.as_ref())?));
            }
            Sql::Bytea => DataType::Bytea,
            Sql::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
                DataType::Timestamptz
            }
            Sql::Uuid => DataType::Uuid,
            Sql::Numeric(ExactNumberInfo::None)
            | Sql::Decimal(ExactNumberInfo::None)
            | Sql::Dec(ExactNumberInfo::None) => DataType::Numeric,
            Sql::Interval {
                fields: None,
                precision: None,
            } => DataType::Interval,
            Sql::Array(ast::ArrayElemTypeDef::SquareBracket(element, _)) => {
                DataType::from_sql(element)?.0.array()?
            }
            Sql::Custom(name, args) if args.is_empty() => {
                return from_custom_name(&name.to_string());
            }
            other => return Err(unsupported_type(&other.to_string().to_lowercase())),
        };
        Ok((data_type, None))
    }

    /// A type by one of its names, as in a function's declaration.
    pub fn from_name(name: &str) -> Option<DataType> {
        if let Some(element) = name.trim_end().strip_suffix("[]") {
            return DataType::from_name(element.trim_end())?.array().ok();
        }
        Some(match name.to_ascii_lowercase().as_str() {
            "bool" | "boolean" => DataType::Bool,
            "int2" | "smallint" => DataType::Int2,
            "int4" | "int" | "integer" => DataType::Int4,
            "int8" | "bigint" => DataType::Int8,
            "float8" | "double precision" => DataType::Float8,
            "text" => DataType::Text,
            "varchar" | "character varying" => DataType::Varchar,
            "bytea" => DataType::Bytea,
            "timestamptz" | "timestamp with time zone" => DataType::Timestamptz,
            "uuid" => DataType::Uuid,
            "numeric" | "decimal" => DataType::Numeric,
            "interval" => DataType::Interval,
            // Names of objects, and their numbers, which are 8 bytes here.
            "name" | "char" => DataType::Text,
            "oid" => DataType::Int8,
            "void" => DataType::Void,
            "record" => DataType::Record,
            _ => return None,
        })
    }
}

fn from_custom_name(name: &str) -> Result<(DataType, Option<u32>)> {
    let bare = name
        .strip_prefix("pg_catalog.")
        .unwrap_or(name)
        .trim_matches('"');
    match DataType::from_name(bare) {
        Some(data_type) => Ok((data_type, None)),
        None if KNOWN_BUT_NOT_BUILT.contains(&bare.to_ascii_lowercase().as_str()) => {
            Err(unsupported_type(bare))
        }
        None => Err(Error::new(
            "42704",
            format!("type \"{bare}\" does not exist"),
        )),
    }
}

/// PostgreSQL's types that reach us as custom names.
const KNOWN_BUT_NOT_BUILT: [&str; 11] = [
    "money",
    "cidr",
    "inet",
    "macaddr",
    "xml",
    "bpchar",
    "timetz",
    "int4range",
    "int8range",
    "hstore",
    "citext",
];

fn unsupported_type(name: &str) -> Error {
    let error = Error::unsupported(format!("type {name}"));
    error.hint(
        "types are smallint, integer, bigint, double precision, boolean, text, varchar, bytea, timestamptz and uuid",
    )
}

fn varchar_length(length: Option<&CharacterLength>) -> Result<Option<u32>> {
    const LONGEST: u64 = 10_485_760;
    match length {
        None | Some(CharacterLength::Max) => Ok(None),
        Some(CharacterLength::IntegerLength { length: 0, .. }) => Err(Error::new(
            "22023",
            "length for type varchar must be at least 1",
        )),
        Some(CharacterLength::IntegerLength { length, .. }) if *length > LONGEST => {
            Err(Error::new(
                "22023",
                format!("length for type varchar cannot exceed {LONGEST}"),
            ))
        }
        Some(CharacterLength::IntegerLength { length, .. }) => Ok(u32::try_from(*length).ok()),
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
