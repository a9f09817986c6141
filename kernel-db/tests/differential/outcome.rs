//! How a statement ended, in a form that both sides can be brought to.

use std::fmt;

use kernel_db::sql::prepare;
use sqlparser::ast::Statement;

type Row = Vec<Option<String>>;

#[derive(Clone, Debug)]
pub enum Outcome {
    Rows {
        columns: Vec<String>,
        rows: Vec<Row>,
    },
    /// Number of rows that INSERT, UPDATE or DELETE touched; 0 for DDL.
    Touched(u64),
    /// SQLSTATE, and the message, which is not compared.
    Error(String, String),
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Rows {
                    columns: a,
                    rows: x,
                },
                Self::Rows {
                    columns: b,
                    rows: y,
                },
            ) => a == b && x == y,
            (Self::Touched(a), Self::Touched(b)) => a == b,
            (Self::Error(a, _), Self::Error(b, _)) => a == b,
            _ => false,
        }
    }
}

impl Outcome {
    pub fn rows(columns: Vec<String>, rows: Vec<Row>) -> Self {
        Self::Rows { columns, rows }
    }

    pub fn error(sqlstate: &str, message: &str) -> Self {
        Self::Error(sqlstate.to_string(), message.to_string())
    }

    /// The first value of the first row.
    pub fn first(&self) -> Option<&str> {
        match self {
            Self::Rows { rows, .. } => rows.first()?.first()?.as_deref(),
            _ => None,
        }
    }

    /// Rows in an order of their own, unless the statement's order is to be compared.
    pub fn normalised(mut self, ordered: bool) -> Self {
        if let Self::Rows { rows, .. } = &mut self
            && !ordered
        {
            rows.sort();
        }
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(state, message) => write!(f, "error {state}: {message}"),
            Self::Touched(rows) => write!(f, "{rows} rows touched"),
            Self::Rows { columns, rows } => {
                write!(f, "{} rows ({})", rows.len(), columns.join(", "))?;
                for row in rows.iter().take(6) {
                    let values = row.iter().map(|v| v.as_deref().unwrap_or("NULL"));
                    write!(f, " [{}]", values.collect::<Vec<_>>().join(", "))?;
                }
                Ok(())
            }
        }
    }
}

/// True if the statement orders its result.
pub fn is_ordered(sql: &str) -> bool {
    match prepare::parse_many(sql).as_deref() {
        Ok([(Statement::Query(query), _)]) => query.order_by.is_some(),
        _ => false,
    }
}
