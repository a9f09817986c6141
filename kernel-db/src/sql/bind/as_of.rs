//! AS OF SYSTEM TIME: the moment a query reads at, as in CockroachDB.
//!
//! A text is an interval back from now (`'-10s'`), a commit stamp (`'1766000000000000'`) or a time; a number is a commit stamp in
//! microseconds; a `timestamptz` or an `interval` is what it says.

use sqlparser::ast;

use super::Binder;
use crate::error::{Error, Result};
use crate::partition::{Budget, TxnEnv};
use crate::sql::catalog::Catalog;
use crate::sql::exec::{self, ExecCtx};
use crate::sql::plan::Expr;
use crate::sql::{DataType, Value, text, time};

impl Binder<'_> {
    /// The time's expression: it reads no row and changes nothing.
    pub(super) fn as_of(&mut self, e: &ast::Expr) -> Result<Expr> {
        let bound = self.expr(e)?;
        let bound = self.settle(bound)?;
        let known = matches!(
            bound.data_type,
            DataType::Text
                | DataType::Varchar
                | DataType::Int4
                | DataType::Int8
                | DataType::Numeric
                | DataType::Timestamptz
                | DataType::Interval
        );
        let mut plain = known;
        bound.expr.walk(&mut |e| {
            plain &= !matches!(
                e,
                Expr::Subquery { .. } | Expr::Routine(_) | Expr::NextVal(_) | Expr::Lookup { .. }
            );
        });
        if plain {
            return Ok(bound.expr);
        }
        let message = format!("AS OF SYSTEM TIME cannot be {e}");
        Err(Error::new("42804", message).hint(HINT))
    }
}

const HINT: &str = "write a time such as '2026-01-31 12:00:00+00', an interval such as '-10s', or a commit stamp in microseconds";

/// The commit stamp meant by the expression when it is `wall_us`. Whether that is in the future is the caller's to say.
pub fn stamp(expr: &Expr, params: &[Value], wall_us: i64) -> Result<u64> {
    let mut store = crate::sql::exec::NoStore;
    let mut env = TxnEnv {
        wall_us,
        seed: 0,
        partition: 0,
        partitions: 1,
        budget: Budget::new(1_000),
        wait: None,
        lease: None,
    };
    let catalog = std::sync::Arc::new(Catalog::default());
    let mut ctx = ExecCtx::new(&mut store, &mut env, &catalog, None);
    let value = exec::eval_expr(expr, &mut ctx, params)?;
    moment(&value, wall_us)
}

/// The commit stamp meant by `value` when it is `wall_us`; 22023 if it is none.
pub fn moment(value: &Value, wall_us: i64) -> Result<u64> {
    let invalid = || {
        let shown = text::to_text(value).unwrap_or_else(|| "NULL".to_string());
        Error::new("22023", format!("AS OF SYSTEM TIME: no time: {shown}")).hint(HINT)
    };
    let back = |interval: &Value| match interval {
        Value::Interval {
            months,
            days,
            micros,
        } => time::add_interval(wall_us, *months, *days, *micros),
        _ => Err(invalid()),
    };
    let micros = match value {
        Value::Text(said) => {
            let said = said.trim();
            if !said.is_empty() && said.bytes().all(|b| b.is_ascii_digit()) {
                said.parse().map_err(|_| invalid())?
            } else if said.starts_with('-') {
                back(&text::from_text(said, DataType::Interval)?)?
            } else {
                time::parse(said, Some(wall_us))?
            }
        }
        Value::Timestamptz(micros) => *micros,
        Value::Interval { .. } => back(value)?,
        Value::Numeric(number) => crate::sql::numeric::to_i64(number).ok_or_else(invalid)?,
        other => other.as_int().ok_or_else(invalid)?,
    };
    u64::try_from(micros).map_err(|_| invalid())
}
