//! Rows that a part of a query keeps in memory, within bounds.

use super::{ExecCtx, row_bytes};
use crate::error::{Error, Result};
use crate::sql::Value;

/// Most rows that a sort, a grouping, a DISTINCT or the like keeps.
const ROWS_MAX: usize = 2_000_000;

/// Counts what one part of a query keeps: at most `ROWS_MAX` rows, and as many bytes as a result may have.
pub(super) struct Kept {
    what: &'static str,
    rows: usize,
    bytes: u64,
}

impl Kept {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            rows: 0,
            bytes: 0,
        }
    }

    /// One more; 54000 past a bound.
    pub fn add(&mut self, ctx: &ExecCtx<'_>, row: &[Value]) -> Result<()> {
        self.rows += 1;
        self.bytes += row_bytes(row);
        let bytes_max = ctx.env.budget.result_bytes_max();
        let most = match (self.rows > ROWS_MAX, self.bytes > bytes_max) {
            (true, _) => format!("{ROWS_MAX} rows"),
            (_, true) => format!("{bytes_max} bytes"),
            _ => return Ok(()),
        };
        let message = format!("{} would keep more than {most} in memory", self.what);
        Err(Error::new("54000", message)
            .hint("narrow the WHERE clause; result_bytes_max in the node's configuration bounds the bytes"))
    }
}
