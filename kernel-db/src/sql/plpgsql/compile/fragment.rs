//! SQL fragments: parsing, preparing, and putting errors where the body has them.

use sqlparser::ast;

use super::Compiler;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::parse;
use crate::sql::plpgsql::ast::Fragment;
use crate::sql::plpgsql::code::{Place, Value1};
use crate::sql::prepare::{self, Kind, Prepared, PreparedExpr};

impl Compiler<'_> {
    /// A SELECT, INSERT, UPDATE or DELETE.
    pub(super) fn prepare(&mut self, fragment: &Fragment) -> Result<Prepared> {
        let located = |error| self.locate(error, fragment);
        let statements = parse::parse_many(&fragment.text).map_err(located)?;
        let [(statement, _)] = statements.as_slice() else {
            return Err(located(Error::new(
                "42601",
                "one SQL statement is expected",
            )));
        };
        let prepared =
            prepare::prepare_ast(self.catalog, statement, &self.scopes.params()).map_err(located);
        self.deferred = prepared.is_err();
        let prepared = prepared?;
        if matches!(
            prepared.kind,
            Kind::Ddl(_) | Kind::Session(_) | Kind::Explain | Kind::Empty
        ) {
            return Err(Error::unsupported("such a statement in a procedure"));
        }
        self.note(prepared.routing(), prepared.writes());
        Ok(prepared)
    }

    /// An expression of any type.
    pub(super) fn expr(
        &mut self,
        fragment: &Fragment,
        want: Option<DataType>,
    ) -> Result<PreparedExpr> {
        let expr = parse_expression(&fragment.text).map_err(|e| self.locate(e, fragment))?;
        self.expr_of(&expr, fragment, want)
    }

    pub(super) fn expr_of(
        &mut self,
        expr: &ast::Expr,
        fragment: &Fragment,
        want: Option<DataType>,
    ) -> Result<PreparedExpr> {
        let prepared = prepare::prepare_expr(self.catalog, expr, &self.scopes.params(), want);
        self.deferred = prepared.is_err();
        let prepared = prepared.map_err(|e| self.locate(e, fragment))?;
        self.note(prepared.routing(), prepared.writes());
        Ok(prepared)
    }

    /// An expression whose value is stored as `want`: by an assignment cast, else through its text.
    pub(super) fn value(&mut self, fragment: &Fragment, want: DataType) -> Result<Value1> {
        match self.expr(fragment, Some(want)) {
            Ok(expr) => Ok(Value1 {
                expr,
                convert: None,
            }),
            Err(error) if self.deferred && matches!(error.sqlstate(), "42804" | "42846") => {
                let expr = self.expr(fragment, None)?;
                Ok(Value1 {
                    expr,
                    convert: Some(want),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Where a value of type `from` goes in `slot`.
    pub(super) fn place(&self, slot: usize, from: DataType) -> Place {
        let of = &self.scopes.slots[slot];
        let convert = (from != of.data_type).then_some(of.data_type);
        Place {
            slot,
            convert,
            max_len: of.max_len,
            not_null: of.not_null.clone(),
        }
    }

    /// As `error`, with its position moved from the fragment to the body.
    pub(super) fn locate(&self, error: Error, fragment: &Fragment) -> Error {
        let Some(position) = error.position() else {
            return error;
        };
        let before = self
            .def
            .body
            .get(..fragment.at)
            .unwrap_or("")
            .chars()
            .count();
        error.moved(u32::try_from(before).unwrap_or(u32::MAX - position) + position)
    }
}

/// An expression alone, or what may follow SELECT: `count(*) FROM t`.
pub(super) fn parse_expression(text: &str) -> Result<ast::Expr> {
    let error = match parse::parse_expression(text) {
        Ok(expr) => return Ok(expr),
        Err(error) => error,
    };
    match parse::parse_many(&format!("SELECT {text}")) {
        Ok(mut statements) if statements.len() == 1 => match statements.pop() {
            Some((ast::Statement::Query(query), _)) => Ok(ast::Expr::Subquery(query)),
            _ => Err(error),
        },
        _ => Err(error),
    }
}
