//! Arrays in expressions: constructors, subscripts, `op ANY (array)` and `op ALL (array)`.

use sqlparser::ast::{self, AccessExpr, BinaryOperator, Subscript};

use super::expr::compare_op;
use super::{Binder, Typed};
use crate::error::{Error, Result};
use crate::sql::cast::CastContext;
use crate::sql::plan::{AnyOf, CompareOp, Expr, InList, SubqueryKind};
use crate::sql::{DataType, Value, array};

impl Binder<'_> {
    /// `ARRAY[a, b]`.
    pub(super) fn array(&mut self, list: &[ast::Expr]) -> Result<Typed> {
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            items.push(self.expr(item)?);
        }
        if items.is_empty() {
            let error = Error::new("42P18", "cannot determine type of empty array");
            return Err(
                error.hint("Explicitly cast to the desired type, for example ARRAY[]::integer[].")
            );
        }
        let (items, element) = self.unify(items, "ARRAY")?;
        Ok(Typed::new(Expr::Array { element, items }, element.array()?))
    }

    /// `ARRAY(SELECT ...)`.
    pub(super) fn array_subquery(&mut self, query: &ast::Query) -> Result<Typed> {
        let query = self.query(query)?;
        let [column] = query.columns.as_slice() else {
            return Err(Error::new("42601", "subquery must return only one column"));
        };
        let element = column.data_type;
        let data_type = element.array()?;
        let expr = Expr::Subquery {
            kind: SubqueryKind::Array(element),
            query: Box::new(query),
        };
        Ok(Typed::new(expr, data_type))
    }

    /// `left op ANY (right)` or, with `all`, `left op ALL (right)`.
    pub(super) fn quantified(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        all: bool,
    ) -> Result<Typed> {
        let Some(op) = compare_op(op) else {
            return Err(Error::unsupported(format!("{op} ANY")));
        };
        let mut inner = right;
        while let ast::Expr::Nested(e) = inner {
            inner = e;
        }
        if let ast::Expr::Subquery(query) = inner {
            match (op, all) {
                (CompareOp::Eq, false) => return self.in_subquery(left, query, false),
                (CompareOp::Ne, true) => return self.in_subquery(left, query, true),
                _ => {}
            }
        }
        let left = self.expr(left)?;
        let right = match inner {
            ast::Expr::Subquery(query) => self.array_subquery(query)?,
            other => self.expr(other)?,
        };
        let (expr, array) = self.element_comparable(op, left, right)?;
        let listed = match (op, all, &array) {
            (CompareOp::Eq, false, _) | (CompareOp::Ne, true, _) => listed(&array),
            _ => None,
        };
        let made = match listed {
            Some(list) => Expr::In(Box::new(InList {
                expr,
                list,
                negated: all,
            })),
            None => Expr::Any(Box::new(AnyOf {
                op,
                expr,
                array,
                all,
            })),
        };
        Ok(Typed::new(made, DataType::Bool))
    }

    /// Brings a value and an array to types whose elements compare.
    fn element_comparable(
        &mut self,
        op: CompareOp,
        left: Typed,
        right: Typed,
    ) -> Result<(Expr, Expr)> {
        if right.data_type == DataType::Unknown {
            let left = self.settle(left)?;
            let want = left.data_type.array()?;
            let array = self.coerce(right, want, CastContext::Implicit)?;
            let array = array.ok_or_else(|| Error::internal("an unknown value has no type"))?;
            return Ok((left.expr, array));
        }
        let Some(element) = right.data_type.element() else {
            return Err(Error::new(
                "42809",
                "op ANY/ALL (array) requires array on right side",
            ));
        };
        let placeholder = Typed::new(Expr::Column(usize::MAX), element);
        let (expr, side) = self.comparable(op.symbol(), left, placeholder)?;
        let array = match side {
            Expr::Cast { to, .. } => {
                let array = self.coerce(right, to.array()?, CastContext::Explicit)?;
                array.ok_or_else(|| Error::internal("elements compare and do not cast"))?
            }
            _ => right.expr,
        };
        Ok((expr, array))
    }

    /// `array[i]`.
    pub(super) fn subscript(&mut self, root: &ast::Expr, chain: &[AccessExpr]) -> Result<Typed> {
        let [AccessExpr::Subscript(Subscript::Index { index })] = chain else {
            return Err(Error::unsupported("this kind of subscript"));
        };
        let root = self.expr(root)?;
        let Some(element) = root.data_type.element() else {
            let message = format!(
                "cannot subscript type {} because it does not support subscripting",
                root.data_type
            );
            return Err(Error::new("42804", message));
        };
        let index = self.expr(index)?;
        let from = index.data_type;
        let Some(index) = self.coerce(index, DataType::Int4, CastContext::Assignment)? else {
            let message = format!("array subscript must have type integer, not {from}");
            return Err(Error::new("42804", message));
        };
        let expr = Expr::Element {
            array: Box::new(root.expr),
            index: Box::new(index),
        };
        Ok(Typed::new(expr, element))
    }
}

/// The elements of an array that is written out.
fn listed(array: &Expr) -> Option<Vec<Expr>> {
    match array {
        Expr::Array { items, .. } => Some(items.clone()),
        Expr::Const(Value::Null) => None,
        Expr::Const(value) => {
            let items = array::items(value)?;
            Some(items.iter().cloned().map(Expr::Const).collect())
        }
        _ => None,
    }
}
