//! quote_literal, quote_ident and format.

use super::{Args, FnCtx};
use crate::error::{Error, Result};
use crate::sql::{Value, text};

/// A string literal; with backslashes it becomes an escape string.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    if text.contains('\\') {
        out.push('E');
    }
    out.push('\'');
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            out.push(c);
        }
        out.push(c);
    }
    out.push('\'');
    out
}

/// An identifier, quoted unless it is lower case and no keyword.
pub fn identifier(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
    if plain && !KEYWORDS.contains(&text) {
        return text.to_string();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// PostgreSQL 15's keywords that are not unreserved.
const KEYWORDS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

pub(super) fn quote_literal(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(literal(args.text(0)?).into())
}

pub(super) fn quote_nullable(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match &args[0] {
        Value::Null => Ok("NULL".into()),
        _ => Ok(literal(args.text(0)?).into()),
    }
}

pub(super) fn quote_ident(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(identifier(args.text(0)?).into())
}

/// format(template, any...) with %s, %I, %L and %%, positions (`%2$s`) and widths (`%-10s`).
pub(super) fn format(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let mut out = String::new();
    let mut next = 1;
    let mut chars = args.text(0)?.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut number = take_number(&mut chars)?;
        if number.is_some() && chars.next_if_eq(&'$').is_some() {
            next = number.take().unwrap_or(0);
            if next == 0 {
                return Err(Error::new(
                    "22023",
                    "format specifies argument 0, but arguments are numbered from 1",
                ));
            }
        }
        let left = number.is_none() && chars.next_if_eq(&'-').is_some();
        let width = match number {
            Some(width) => width,
            None => take_number(&mut chars)?.unwrap_or(0),
        };
        super::check_size(width.saturating_add(out.len()))?;
        let kind = chars.next().ok_or_else(|| {
            Error::new("22023", "unterminated format() type specifier")
                .hint("For a single \"%\" use \"%%\".")
        })?;
        let shown = convert(kind, args.get(next))?;
        next += 1;
        out.push_str(&padded(&shown, width, left));
    }
    Ok(out.into())
}

fn padded(text: &str, width: usize, left: bool) -> String {
    if left {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

fn convert(kind: char, argument: Option<&Value>) -> Result<String> {
    if !matches!(kind, 's' | 'I' | 'L') {
        let message = format!("unrecognized format() type specifier \"{kind}\"");
        return Err(Error::new("22023", message).hint("For a single \"%\" use \"%%\"."));
    }
    let argument = argument.ok_or_else(|| Error::new("22023", "too few arguments for format()"))?;
    match (kind, text::to_text(argument)) {
        ('s', shown) => Ok(shown.unwrap_or_default()),
        ('L', None) => Ok("NULL".to_string()),
        ('L', Some(shown)) => Ok(literal(&shown)),
        (_, None) => Err(Error::new(
            "22004",
            "null values cannot be formatted as an SQL identifier",
        )),
        (_, Some(shown)) => Ok(identifier(&shown)),
    }
}

fn take_number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let so_far: usize = number.unwrap_or(0);
        let grown = so_far
            .checked_mul(10)
            .and_then(|n| n.checked_add(digit as usize));
        let fits = grown.filter(|n| *n <= i32::MAX as usize);
        number = Some(fits.ok_or_else(|| Error::new("22003", "number is out of range"))?);
    }
    Ok(number)
}
