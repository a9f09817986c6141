//! Reading a procedure's answer without panics: a column of another type than expected is an error.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::error::{Error, Result};

/// Column `column` of a row, from 0.
pub fn field<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column)
        .map_err(|error| Error::request(format!("unexpected answer of a procedure: {error}")))
}

/// The only row of a procedure that always returns one.
pub fn first_row(rows: &[Row]) -> Result<&Row> {
    rows.first()
        .ok_or_else(|| Error::request("unexpected answer of a procedure: no row"))
}

/// The only value of a procedure that always returns one.
pub fn first_field<'a, T: FromSql<'a>>(rows: &'a [Row]) -> Result<T> {
    field(first_row(rows)?, 0)
}
