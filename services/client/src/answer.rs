//! What a server answered, in memory of its own: what the read cache keeps and gives.

use std::fmt;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::error::{Error, Result};

/// Rows as a server gave them.
pub struct Rows {
    types: Box<[Type]>,
    /// All values of all rows.
    body: Bytes,
    /// Where each value is in `body`, row by row; None: NULL.
    cells: Box<[Cell]>,
}

type Cell = Option<(u32, u32)>;

impl Rows {
    /// All columns but the last `hidden` ones.
    pub(crate) fn copy(rows: &[Row], hidden: usize) -> Result<Self> {
        let columns = rows.first().map_or(&[][..], |row| row.columns());
        let shown = columns.len().saturating_sub(hidden);
        let (mut body, mut cells) = (Vec::new(), Vec::new());
        for row in rows {
            for column in 0..shown {
                let Raw(value) = crate::rows::field(row, column)?;
                let Some(value) = value else {
                    cells.push(None);
                    continue;
                };
                let from = body.len();
                body.extend_from_slice(value);
                let place = |at: usize| u32::try_from(at).map_err(|_| too_large());
                cells.push(Some((place(from)?, place(body.len())?)));
            }
        }
        Ok(Self {
            types: columns[..shown].iter().map(|c| c.type_().clone()).collect(),
            body: body.into(),
            cells: cells.into(),
        })
    }

    /// One row of one bytea.
    pub(crate) fn of_bytes(value: &[u8]) -> Result<Self> {
        let length = u32::try_from(value.len()).map_err(|_| too_large())?;
        Ok(Self {
            types: [Type::BYTEA].into(),
            body: Bytes::copy_from_slice(value),
            cells: [Some((0, length))].into(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        // Without a row there are no types.
        self.cells.len().checked_div(self.types.len()).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value of a row, both from 0. An error if it is of another type, or there is no such row or column.
    pub fn field<'a, T: FromSql<'a>>(&'a self, row: usize, column: usize) -> Result<T> {
        let (kind, cell) = self.cell(row, column)?;
        if !T::accepts(kind) {
            return Err(unexpected(&format!("a value of type {kind}")));
        }
        let value = cell.map(|(from, to)| &self.body[from as usize..to as usize]);
        T::from_sql_nullable(kind, value).map_err(|error| unexpected(&error.to_string()))
    }

    /// As [`Rows::field`], of a bytea, without copying it: all the rows stay in memory as long as it does. `None`: NULL.
    pub fn bytes(&self, row: usize, column: usize) -> Result<Option<Bytes>> {
        let (kind, cell) = self.cell(row, column)?;
        if *kind != Type::BYTEA {
            return Err(unexpected(&format!("a value of type {kind}")));
        }
        Ok(cell.map(|(from, to)| self.body.slice(from as usize..to as usize)))
    }

    fn cell(&self, row: usize, column: usize) -> Result<(&Type, Cell)> {
        let kind = self.types.get(column);
        let cell = self.cells.get(row * self.types.len() + column);
        kind.zip(cell.copied())
            .ok_or_else(|| unexpected("no such row or column"))
    }

    /// Bytes of memory.
    pub(crate) fn size(&self) -> usize {
        let cell = std::mem::size_of::<Cell>();
        let kind = std::mem::size_of::<Type>();
        self.body.len() + self.cells.len() * cell + self.types.len() * kind
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of {} columns", self.len(), self.types.len())
    }
}

/// A value as it came.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn unexpected(why: &str) -> Error {
    Error::request(format!("unexpected answer: {why}"))
}

fn too_large() -> Error {
    Error::request("an answer of more than 4 GiB").sqlstate_is("54000")
}
