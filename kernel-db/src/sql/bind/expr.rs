//! Expressions.

use sqlparser::ast::{self, BinaryOperator, UnaryOperator};

use super::coerce::{cast_expr, no_operator};
use super::{Binder, Typed};
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext};
use crate::sql::plan::{CompareOp, Expr, InList};
use crate::sql::{DataType, Value};

impl Binder<'_> {
    pub(super) fn expr(&mut self, e: &ast::Expr) -> Result<Typed> {
        self.enter()?;
        let bound = self.expr_inner(e);
        self.depth -= 1;
        bound
    }

    fn expr_inner(&mut self, e: &ast::Expr) -> Result<Typed> {
        use ast::Expr as E;
        match e {
            E::Identifier(id) => self.name(id),
            E::CompoundIdentifier(parts) => self.qualified_name(parts),
            E::Nested(inner) => self.expr(inner),
            E::Value(value) => self.literal(value),
            E::BinaryOp { left, op, right } => self.binary(left, op, right),
            E::UnaryOp { op, expr } => self.unary(*op, expr),
            E::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr,
                data_type,
                ..
            } => self.cast(expr, data_type),
            E::TypedString(typed) => {
                let (to, _) = DataType::from_sql(&typed.data_type)?;
                let text = self.literal(&typed.value)?;
                Ok(Typed::new(cast_expr(text.expr, to, true, None)?, to))
            }
            E::Interval(interval) => self.interval(interval),
            E::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(operand.as_deref(), conditions, else_result.as_deref()),
            E::Exists { subquery, negated } => self.exists(subquery, *negated),
            E::Subquery(query) => self.scalar_subquery(query),
            E::Function(call) => self.function(call),
            E::Tuple(list) => self.tuple(list),
            E::Array(list) => self.array(&list.elem),
            E::CompoundFieldAccess { root, access_chain } => self.subscript(root, access_chain),
            E::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => self.quantified(left, compare_op, right, false),
            E::AllOp {
                left,
                compare_op,
                right,
            } => self.quantified(left, compare_op, right, true),
            E::Collate { expr, collation } => {
                let name = collation.to_string().to_lowercase();
                match name.trim_start_matches("pg_catalog.").trim_matches('"') {
                    "c" | "posix" | "default" => self.expr(expr),
                    _ => Err(Error::unsupported(format!("collation {collation}"))
                        .hint("text sorts as COLLATE \"C\"")),
                }
            }
            other => self.predicate(other),
        }
    }

    fn predicate(&mut self, e: &ast::Expr) -> Result<Typed> {
        use ast::Expr as E;
        match e {
            E::IsNull(x) | E::IsUnknown(x) => self.is_null(x, false),
            E::IsNotNull(x) | E::IsNotUnknown(x) => self.is_null(x, true),
            E::IsTrue(x) => self.is_bool(x, true, false),
            E::IsNotTrue(x) => self.is_bool(x, true, true),
            E::IsFalse(x) => self.is_bool(x, false, false),
            E::IsNotFalse(x) => self.is_bool(x, false, true),
            E::IsDistinctFrom(l, r) => self.distinct_from(l, r, false),
            E::IsNotDistinctFrom(l, r) => self.distinct_from(l, r, true),
            E::InList {
                expr,
                list,
                negated,
            } => self.in_list(expr, list, *negated),
            E::InSubquery {
                expr,
                subquery,
                negated,
            } => self.in_subquery(expr, subquery, *negated),
            E::Between {
                expr,
                negated,
                low,
                high,
            } => self.between(expr, *negated, low, high),
            E::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(expr, pattern, escape_char.as_ref(), false, *negated),
            E::ILike {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(expr, pattern, escape_char.as_ref(), true, *negated),
            other => self.special_form(other),
        }
    }

    pub(super) fn literal(&mut self, v: &ast::ValueWithSpan) -> Result<Typed> {
        use ast::Value as V;
        let unknown = |s: &str| Typed::new(Expr::Const(Value::text(s)), DataType::Unknown);
        Ok(match &v.value {
            V::Number(digits, _) => number(digits).map_err(|e| self.at(e, v.span))?,
            V::SingleQuotedString(s) | V::EscapedStringLiteral(s) | V::UnicodeStringLiteral(s) => {
                unknown(s)
            }
            V::DollarQuotedString(s) => unknown(&s.value),
            V::Boolean(b) => Typed::new(Expr::Const(Value::Bool(*b)), DataType::Bool),
            V::Null => Typed::new(Expr::Const(Value::Null), DataType::Unknown),
            V::Placeholder(name) => self.placeholder(name).map_err(|e| self.at(e, v.span))?,
            other => return Err(self.at(Error::unsupported(format!("literal {other}")), v.span)),
        })
    }

    fn placeholder(&mut self, name: &str) -> Result<Typed> {
        let number = name
            .strip_prefix('$')
            .and_then(|n| n.parse::<usize>().ok())
            .filter(|n| (1..=65_535).contains(n));
        let Some(number) = number else {
            return Err(Error::new("42P02", format!("there is no parameter {name}")));
        };
        while self.growable && self.positional.len() < number {
            self.positional.push(self.params.len());
            self.params.push(None);
        }
        let Some(&slot) = self.positional.get(number - 1) else {
            return Err(Error::new("42P02", format!("there is no parameter {name}")));
        };
        let data_type = self
            .params
            .get(slot)
            .copied()
            .flatten()
            .unwrap_or(DataType::Unknown);
        Ok(Typed::new(Expr::Param(slot), data_type))
    }

    fn binary(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Typed> {
        let named;
        let op = match op {
            BinaryOperator::PGCustomBinaryOperator(path) => {
                named = super::system::named_operator(path)?;
                &named
            }
            op => op,
        };
        if matches!(op, BinaryOperator::And | BinaryOperator::Or) {
            return self.connected(left, op, right);
        }
        if let (ast::Expr::Tuple(l), ast::Expr::Tuple(r)) = (left, right)
            && let Some(op) = compare_op(op)
        {
            return self.compare_rows(op, l, r);
        }
        let l = self.expr(left)?;
        let r = match right {
            ast::Expr::Subquery(query) => self.scalar_subquery(query)?,
            other => self.expr(other)?,
        };
        if let Some(op) = compare_op(op) {
            let span = sqlparser::ast::Spanned::span(right);
            let compared = self.compare(op, l, r).map_err(|e| self.at(e, span))?;
            return Ok(Typed::new(compared, DataType::Bool));
        }
        match op {
            BinaryOperator::PGLikeMatch => self.like_bound(l, r, None, false, false),
            BinaryOperator::PGNotLikeMatch => self.like_bound(l, r, None, false, true),
            BinaryOperator::PGILikeMatch => self.like_bound(l, r, None, true, false),
            BinaryOperator::PGNotILikeMatch => self.like_bound(l, r, None, true, true),
            _ => self.operator(op, l, r),
        }
    }

    /// A chain of ANDs, or of ORs, of any length: it is one level deep.
    fn connected(
        &mut self,
        mut left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Typed> {
        let mut operands = vec![right];
        while let ast::Expr::BinaryOp {
            left: first,
            op: same,
            right: next,
        } = left
            && same == op
        {
            operands.push(next);
            left = first;
        }
        operands.push(left);
        let and = *op == BinaryOperator::And;
        let what = if and { "AND" } else { "OR" };
        let mut list = Vec::with_capacity(operands.len());
        for operand in operands.into_iter().rev() {
            let bound = self.expr(operand)?;
            match self.condition(bound, what)? {
                Expr::And(inner) if and => list.extend(inner),
                Expr::Or(inner) if !and => list.extend(inner),
                other => list.push(other),
            }
        }
        let expr = if and { Expr::And(list) } else { Expr::Or(list) };
        Ok(Typed::new(expr, DataType::Bool))
    }

    fn unary(&mut self, op: UnaryOperator, inner: &ast::Expr) -> Result<Typed> {
        match op {
            UnaryOperator::Not => {
                let bound = self.expr(inner)?;
                let expr = self.condition(bound, "NOT")?;
                Ok(Typed::new(Expr::Not(Box::new(expr)), DataType::Bool))
            }
            UnaryOperator::Minus => {
                if let ast::Expr::Value(ast::ValueWithSpan {
                    value: ast::Value::Number(digits, _),
                    span,
                }) = inner
                {
                    return number(&format!("-{digits}")).map_err(|e| self.at(e, *span));
                }
                let bound = self.expr(inner)?;
                self.unary_operator("-", bound)
            }
            UnaryOperator::Plus => {
                let bound = self.expr(inner)?;
                self.unary_operator("+", bound)
            }
            UnaryOperator::BitwiseNot => {
                let bound = self.expr(inner)?;
                self.unary_operator("~", bound)
            }
            other => Err(Error::unsupported(format!("operator {other}"))),
        }
    }

    fn is_null(&mut self, x: &ast::Expr, negated: bool) -> Result<Typed> {
        let bound = self.expr(x)?;
        let bound = self.settle(bound)?;
        Ok(Typed::new(
            Expr::IsNull {
                expr: Box::new(bound.expr),
                negated,
            },
            DataType::Bool,
        ))
    }

    fn is_bool(&mut self, x: &ast::Expr, want: bool, negated: bool) -> Result<Typed> {
        let bound = self.expr(x)?;
        let expr = Box::new(self.condition(bound, if want { "IS TRUE" } else { "IS FALSE" })?);
        Ok(Typed::new(
            Expr::IsBool {
                expr,
                want,
                negated,
            },
            DataType::Bool,
        ))
    }

    fn distinct_from(&mut self, l: &ast::Expr, r: &ast::Expr, negated: bool) -> Result<Typed> {
        let (l, r) = (self.expr(l)?, self.expr(r)?);
        let (left, right) = self.comparable("IS DISTINCT FROM", l, r)?;
        let expr = Expr::Distinct {
            left: Box::new(left),
            right: Box::new(right),
            negated,
        };
        Ok(Typed::new(expr, DataType::Bool))
    }

    fn in_list(&mut self, x: &ast::Expr, list: &[ast::Expr], negated: bool) -> Result<Typed> {
        if let ast::Expr::Tuple(left) = x {
            return self.tuple_in_list(left, list, negated);
        }
        let x = self.expr(x)?;
        let mut all = vec![x];
        for item in list {
            all.push(self.expr(item)?);
        }
        let types: Vec<DataType> = all.iter().map(|t| t.data_type).collect();
        if let Err(e) = cast::common_type(&types, "IN") {
            // Worded as the comparison that fails, as PostgreSQL does.
            let other = types
                .iter()
                .find(|t| **t != types[0] && **t != DataType::Unknown);
            return Err(other.map_or(e, |t| no_operator("=", types[0], *t)));
        }
        let (mut exprs, _) = self.unify(all, "IN")?;
        let expr = exprs.remove(0);
        let list = InList {
            expr,
            list: exprs,
            negated,
        };
        Ok(Typed::new(Expr::In(Box::new(list)), DataType::Bool))
    }

    /// `(a, b) IN ((1, 2), ...)` is a chain of comparisons.
    fn tuple_in_list(
        &mut self,
        left: &[ast::Expr],
        list: &[ast::Expr],
        negated: bool,
    ) -> Result<Typed> {
        let mut any = Vec::with_capacity(list.len());
        for item in list {
            let ast::Expr::Tuple(right) = item else {
                return Err(Error::new(
                    "42601",
                    "IN needs a list of rows of the same length",
                ));
            };
            any.push(self.compare_rows(CompareOp::Eq, left, right)?.expr);
        }
        let expr = Expr::Or(any);
        Ok(Typed::new(
            if negated {
                Expr::Not(Box::new(expr))
            } else {
                expr
            },
            DataType::Bool,
        ))
    }

    fn compare_rows(
        &mut self,
        op: CompareOp,
        left: &[ast::Expr],
        right: &[ast::Expr],
    ) -> Result<Typed> {
        if left.len() != right.len() {
            return Err(Error::new(
                "42601",
                "unequal number of entries in row expressions",
            ));
        }
        let mut sides = Vec::with_capacity(left.len());
        for (l, r) in left.iter().zip(right) {
            let (l, r) = (self.expr(l)?, self.expr(r)?);
            sides.push(self.comparable(op.symbol(), l, r)?);
        }
        let pair = |op, (l, r): &(Expr, Expr)| Expr::Compare {
            op,
            left: Box::new(l.clone()),
            right: Box::new(r.clone()),
        };
        let expr = match op {
            CompareOp::Eq => Expr::And(sides.iter().map(|s| pair(CompareOp::Eq, s)).collect()),
            CompareOp::Ne => Expr::Or(sides.iter().map(|s| pair(CompareOp::Ne, s)).collect()),
            _ => {
                // a < x OR (a = x AND (b < y OR ...)); only the last column decides on equality.
                let strict = if matches!(op, CompareOp::Lt | CompareOp::Le) {
                    CompareOp::Lt
                } else {
                    CompareOp::Gt
                };
                let last = sides.len().saturating_sub(1);
                let mut built: Option<Expr> = None;
                for (i, side) in sides.iter().enumerate().rev() {
                    built = Some(match built {
                        None => pair(if i == last { op } else { strict }, side),
                        Some(rest) => Expr::Or(vec![
                            pair(strict, side),
                            Expr::And(vec![pair(CompareOp::Eq, side), rest]),
                        ]),
                    });
                }
                built.ok_or_else(|| Error::new("42601", "cannot compare rows of zero length"))?
            }
        };
        Ok(Typed::new(expr, DataType::Bool))
    }

    fn between(
        &mut self,
        x: &ast::Expr,
        negated: bool,
        low: &ast::Expr,
        high: &ast::Expr,
    ) -> Result<Typed> {
        let value = self.expr(x)?;
        let low = self.expr(low)?;
        let above = self.compare(CompareOp::Ge, value, low)?;
        let value = self.expr(x)?;
        let high = self.expr(high)?;
        let below = self.compare(CompareOp::Le, value, high)?;
        let expr = Expr::And(vec![above, below]);
        Ok(Typed::new(
            if negated {
                Expr::Not(Box::new(expr))
            } else {
                expr
            },
            DataType::Bool,
        ))
    }

    fn like(
        &mut self,
        x: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::ValueWithSpan>,
        insensitive: bool,
        negated: bool,
    ) -> Result<Typed> {
        let x = self.expr(x)?;
        let pattern = self.expr(pattern)?;
        let escape = match escape.map(|v| &v.value) {
            None => Some('\\'),
            Some(ast::Value::SingleQuotedString(s)) => {
                let mut chars = s.chars();
                match (chars.next(), chars.next()) {
                    (first, None) => first,
                    _ => {
                        return Err(Error::new("22019", "invalid escape string")
                            .hint("Escape string must be empty or one character."));
                    }
                }
            }
            Some(other) => return Err(Error::unsupported(format!("escape {other}"))),
        };
        self.like_bound(x, pattern, Some(escape), insensitive, negated)
    }

    fn like_bound(
        &mut self,
        x: Typed,
        pattern: Typed,
        escape: Option<Option<char>>,
        insensitive: bool,
        negated: bool,
    ) -> Result<Typed> {
        let symbol = match (insensitive, negated) {
            (false, false) => "~~",
            (false, true) => "!~~",
            (true, false) => "~~*",
            (true, true) => "!~~*",
        };
        let (l, r) = (x.data_type, pattern.data_type);
        for side in [l, r] {
            if !side.is_string() && side != DataType::Unknown {
                return Err(no_operator(symbol, l, r));
            }
        }
        let x = self.settle(x)?.expr;
        let pattern = self.settle(pattern)?.expr;
        let escape = escape.unwrap_or(Some('\\'));
        let expr = Expr::Like {
            expr: Box::new(x),
            pattern: Box::new(pattern),
            escape,
            insensitive,
            negated,
        };
        Ok(Typed::new(expr, DataType::Bool))
    }

    fn cast(&mut self, inner: &ast::Expr, to: &ast::DataType) -> Result<Typed> {
        if let Some(made) = self.name_cast(inner, to)? {
            return Ok(made);
        }
        let (to, max_len) = DataType::from_sql(to)?;
        if let (ast::Expr::Array(list), Some(element)) = (inner, to.element())
            && list.elem.is_empty()
        {
            let empty = crate::sql::array::value(element, Vec::new())?;
            return Ok(Typed::new(Expr::Const(empty), to));
        }
        let bound = self.expr(inner)?;
        let from = bound.data_type;
        let Some(expr) = self.coerce(bound, to, CastContext::Explicit)? else {
            return Err(Error::new(
                "42846",
                format!("cannot cast type {} to {}", from.name(), to.name()),
            ));
        };
        match max_len {
            Some(_) => Ok(Typed::new(cast_expr(expr, to, true, max_len)?, to)),
            None => Ok(Typed::new(expr, to)),
        }
    }

    fn interval(&mut self, interval: &ast::Interval) -> Result<Typed> {
        let text = match interval.value.as_ref() {
            ast::Expr::Value(v) => self.literal(v)?,
            other => return Err(Error::new("42601", format!("invalid interval {other}"))),
        };
        let Expr::Const(Value::Text(text)) = text.expr else {
            return Err(Error::new("42601", "an interval is written as a string"));
        };
        let text = match &interval.leading_field {
            Some(field) => format!("{text} {}", field.to_string().to_lowercase()),
            None => text.to_string(),
        };
        let value = cast::cast(
            &Value::text(text.as_str()),
            DataType::Interval,
            CastContext::Explicit,
        )?;
        Ok(Typed::new(Expr::Const(value), DataType::Interval))
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Typed> {
        let mut whens = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            let condition = self.expr(&when.condition)?;
            whens.push(match operand {
                None => self.condition(condition, "CASE/WHEN")?,
                Some(operand) => {
                    let operand = self.expr(operand)?;
                    self.compare(CompareOp::Eq, operand, condition)?
                }
            });
            results.push(self.expr(&when.result)?);
        }
        if let Some(otherwise) = otherwise {
            results.push(self.expr(otherwise)?);
        }
        let (mut exprs, data_type) = self.unify(results, "CASE")?;
        let otherwise = otherwise.and_then(|_| exprs.pop()).map(Box::new);
        let whens = whens.into_iter().zip(exprs).collect();
        Ok(Typed::new(Expr::Case { whens, otherwise }, data_type))
    }

    fn tuple(&mut self, list: &[ast::Expr]) -> Result<Typed> {
        let mut fields = Vec::with_capacity(list.len());
        for item in list {
            let bound = self.expr(item)?;
            fields.push(self.settle(bound)?.expr);
        }
        Ok(Typed::new(Expr::Row(fields), DataType::Record))
    }
}

/// A number literal: the smallest of int4, int8 and numeric that holds it.
fn number(digits: &str) -> Result<Typed> {
    if let Ok(value) = digits.parse::<i32>() {
        return Ok(Typed::new(Expr::Const(Value::Int4(value)), DataType::Int4));
    }
    if let Ok(value) = digits.parse::<i64>() {
        return Ok(Typed::new(Expr::Const(Value::Int8(value)), DataType::Int8));
    }
    let value = cast::cast(
        &Value::text(digits),
        DataType::Numeric,
        CastContext::Explicit,
    )?;
    Ok(Typed::new(Expr::Const(value), DataType::Numeric))
}

pub fn compare_op(op: &BinaryOperator) -> Option<CompareOp> {
    Some(match op {
        BinaryOperator::Eq => CompareOp::Eq,
        BinaryOperator::NotEq => CompareOp::Ne,
        BinaryOperator::Lt => CompareOp::Lt,
        BinaryOperator::LtEq => CompareOp::Le,
        BinaryOperator::Gt => CompareOp::Gt,
        BinaryOperator::GtEq => CompareOp::Ge,
        _ => return None,
    })
}
