//! Subqueries inside of expressions.

use sqlparser::ast;

use super::{Binder, Typed};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plan::{Expr, SubqueryKind};

impl Binder<'_> {
    pub(super) fn exists(&mut self, query: &ast::Query, negated: bool) -> Result<Typed> {
        let query = Box::new(self.query(query)?);
        let expr = Expr::Subquery {
            kind: SubqueryKind::Exists,
            query,
        };
        Ok(Typed::new(
            if negated {
                Expr::Not(Box::new(expr))
            } else {
                expr
            },
            DataType::Bool,
        ))
    }

    pub(super) fn scalar_subquery(&mut self, query: &ast::Query) -> Result<Typed> {
        let query = self.query(query)?;
        let [column] = query.columns.as_slice() else {
            return Err(Error::new("42601", "subquery must return only one column"));
        };
        let data_type = column.data_type;
        Ok(Typed::new(
            Expr::Subquery {
                kind: SubqueryKind::Scalar,
                query: Box::new(query),
            },
            data_type,
        ))
    }

    pub(super) fn in_subquery(
        &mut self,
        x: &ast::Expr,
        query: &ast::Query,
        negated: bool,
    ) -> Result<Typed> {
        let x = self.expr(x)?;
        let mut query = self.query(query)?;
        let [column] = query.columns.as_slice() else {
            return Err(Error::new("42601", "subquery has too many columns"));
        };
        let right = column.data_type;
        let placeholder = Typed::new(Expr::Column(0), right);
        let (expr, as_right) = self.comparable("=", x, placeholder)?;
        if let Expr::Cast { to, .. } = as_right {
            query = super::query::cast_output(query, to);
        }
        let kind = SubqueryKind::In {
            expr: Box::new(expr),
            negated,
        };
        Ok(Typed::new(
            Expr::Subquery {
                kind,
                query: Box::new(query),
            },
            DataType::Bool,
        ))
    }
}
