//! Settling types: unknown literals and parameters adopt their surroundings' type, other values are cast where
//! PostgreSQL casts unasked.

use super::{Binder, Typed};
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext, can_cast};
use crate::sql::plan::{CompareOp, Expr};
use crate::sql::{DataType, Value};

impl Binder<'_> {
    /// Makes `typed` a value of `to`, if it can be cast in `context`; 42804-free: the caller words the error.
    pub(super) fn coerce(
        &mut self,
        typed: Typed,
        to: DataType,
        context: CastContext,
    ) -> Result<Option<Expr>> {
        let Typed { expr, data_type } = typed;
        if data_type == to || (data_type.is_string() && to.is_string()) {
            return Ok(Some(expr));
        }
        if data_type == DataType::Unknown {
            return self.adopt(expr, to).map(Some);
        }
        if !can_cast(data_type, to, context) {
            return Ok(None);
        }
        let mut cast = cast_expr(expr, to, context == CastContext::Explicit, None)?;
        if let Expr::Cast { keeps_slot, .. } = &mut cast {
            *keeps_slot = data_type.is_int() && to.is_int();
        }
        Ok(Some(cast))
    }

    /// Gives an untyped parameter or literal the type `to`.
    pub(super) fn adopt(&mut self, expr: Expr, to: DataType) -> Result<Expr> {
        match expr {
            Expr::Param(slot) => {
                if let Some(known @ None) = self.params.get_mut(slot) {
                    *known = Some(to);
                }
                match self.params.get(slot).copied().flatten() {
                    Some(known) if known != to => cast_expr(Expr::Param(slot), to, true, None),
                    _ => Ok(Expr::Param(slot)),
                }
            }
            Expr::Const(value) => Ok(Expr::Const(cast::cast(&value, to, CastContext::Explicit)?)),
            other => cast_expr(other, to, true, None),
        }
    }

    /// Ends inference: what is still unknown is text.
    pub(super) fn settle(&mut self, typed: Typed) -> Result<Typed> {
        if typed.data_type != DataType::Unknown {
            return Ok(typed);
        }
        let expr = self.adopt(typed.expr, DataType::Text)?;
        Ok(Typed::new(expr, DataType::Text))
    }

    /// A value stored into a column or variable of type `to`.
    pub(super) fn assign(
        &mut self,
        typed: Typed,
        to: DataType,
        column: Option<&str>,
    ) -> Result<Expr> {
        let from = typed.data_type;
        if let Some(expr) = self.coerce(typed, to, CastContext::Assignment)? {
            return Ok(expr);
        }
        let message = match column {
            Some(column) => format!(
                "column \"{column}\" is of type {} but expression is of type {}",
                to.name(),
                from.name()
            ),
            None => format!("cannot cast type {} to {}", from.name(), to.name()),
        };
        let code = if column.is_some() { "42804" } else { "42846" };
        Err(Error::new(code, message).hint("You will need to rewrite or cast the expression."))
    }

    /// A value stored into a column, with its declared length.
    pub(super) fn assign_column(
        &mut self,
        typed: Typed,
        column: &crate::sql::catalog::ColumnDef,
    ) -> Result<Expr> {
        let expr = self.assign(typed, column.data_type, Some(&column.name))?;
        match column.max_len {
            Some(_) => cast_expr(expr, column.data_type, false, column.max_len),
            None => Ok(expr),
        }
    }

    /// A condition: boolean, or 42804.
    pub(super) fn condition(&mut self, typed: Typed, what: &str) -> Result<Expr> {
        let from = typed.data_type;
        match self.coerce(typed, DataType::Bool, CastContext::Implicit)? {
            Some(expr) => Ok(expr),
            None => Err(Error::new(
                "42804",
                format!(
                    "argument of {what} must be type boolean, not type {}",
                    from.name()
                ),
            )),
        }
    }

    /// Brings values to one type (CASE, COALESCE, IN, VALUES, UNION).
    pub(super) fn unify(&mut self, list: Vec<Typed>, what: &str) -> Result<(Vec<Expr>, DataType)> {
        let types: Vec<DataType> = list.iter().map(|t| t.data_type).collect();
        let common = match cast::common_type(&types, what)? {
            DataType::Unknown => DataType::Text,
            known => known,
        };
        let mut exprs = Vec::with_capacity(list.len());
        for typed in list {
            let from = typed.data_type;
            match self.coerce(typed, common, CastContext::Implicit)? {
                Some(expr) => exprs.push(expr),
                None => {
                    let message = format!(
                        "{what} could not convert type {} to {}",
                        from.name(),
                        common.name()
                    );
                    return Err(Error::new("42846", message));
                }
            }
        }
        Ok((exprs, common))
    }

    /// Brings two sides of a comparison to types that compare.
    pub(super) fn comparable(
        &mut self,
        symbol: &str,
        left: Typed,
        right: Typed,
    ) -> Result<(Expr, Expr)> {
        let (l, r) = (left.data_type, right.data_type);
        if l == r && l != DataType::Unknown || (l.is_int() && r.is_int()) {
            return Ok((left.expr, right.expr));
        }
        let common = match (l, r) {
            (DataType::Unknown, DataType::Unknown) => Some(DataType::Text),
            (DataType::Unknown, known) | (known, DataType::Unknown) => Some(known),
            (DataType::Record, _) | (_, DataType::Record) => None,
            _ => cast::common_type(&[l, r], "").ok(),
        };
        if let Some(common) = common {
            let left = self.coerce(left, common, CastContext::Implicit)?;
            let right = self.coerce(right, common, CastContext::Implicit)?;
            if let (Some(left), Some(right)) = (left, right) {
                return Ok((left, right));
            }
        }
        Err(no_operator(symbol, l, r))
    }

    pub(super) fn compare(&mut self, op: CompareOp, left: Typed, right: Typed) -> Result<Expr> {
        let (left, right) = self.comparable(op.symbol(), left, right)?;
        Ok(Expr::Compare {
            op,
            left: Box::new(left),
            right: Box::new(right),
        })
    }
}

pub fn no_operator(symbol: &str, left: DataType, right: DataType) -> Error {
    Error::new("42883", format!("operator does not exist: {} {symbol} {}", left.name(), right.name()))
        .hint("No operator matches the given name and argument types. You might need to add explicit type casts.")
}

/// A cast; of a constant at once.
pub fn cast_expr(expr: Expr, to: DataType, explicit: bool, max_len: Option<u32>) -> Result<Expr> {
    let context = if explicit {
        CastContext::Explicit
    } else {
        CastContext::Assignment
    };
    if let Expr::Const(value) = &expr {
        let value = cast::cast(value, to, context)?;
        return Ok(Expr::Const(match max_len {
            Some(length) if value != Value::Null => cast::fit_varchar(value, length, context)?,
            _ => value,
        }));
    }
    Ok(Expr::Cast {
        expr: Box::new(expr),
        to,
        explicit,
        max_len,
        keeps_slot: false,
    })
}
