//! Calls: operators, built-in functions, aggregates, special forms, functions of the user's.

use std::sync::Arc;

use sqlparser::ast::{
    self, BinaryOperator, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator,
};

use super::coerce::cast_expr;
use super::inline::inlined;
use super::window::check_has_over;
use super::{Binder, Typed, name_span, object_name, parse};
use crate::error::{Error, Result};
use crate::sql::aggregate::{Aggregate, count_star, is_aggregate, resolve_aggregate};
use crate::sql::cast::{CastContext, can_cast};
use crate::sql::catalog::{FunctionDef, Lookup, Sequence};
use crate::sql::functions::{
    Function, does_not_exist, is_function, resolve_function, resolve_operator, resolve_unary,
};
use crate::sql::plan::{AggregateCall, CompareOp, Expr, RoutineCall};
use crate::sql::{DataType, Value};

/// Where neither aggregates nor window functions stand.
pub const IN_AGGREGATE: &str = "the arguments of an aggregate function";

/// The parts of a call that matter here.
pub struct Call<'a> {
    pub name: String,
    pub args: Vec<&'a ast::Expr>,
    pub star: bool,
    pub distinct: bool,
    pub order: &'a [ast::OrderByExpr],
    pub filter: Option<&'a ast::Expr>,
}

fn parts(call: &ast::Function) -> Result<Call<'_>> {
    let (schema, name) = object_name(&call.name)?;
    let name = match schema.as_deref() {
        None | Some("public" | "pg_catalog") => name,
        Some(schema) => format!("{schema}.{name}"),
    };
    if !call.within_group.is_empty() {
        return Err(Error::unsupported("WITHIN GROUP"));
    }
    let mut parts = Call {
        name,
        args: Vec::new(),
        star: false,
        distinct: false,
        order: &[],
        filter: call.filter.as_deref(),
    };
    let FunctionArguments::List(list) = &call.args else {
        return match &call.args {
            FunctionArguments::None => Ok(parts),
            _ => Err(Error::new(
                "42601",
                "a subquery as an argument needs its own parentheses",
            )),
        };
    };
    parts.distinct = matches!(
        list.duplicate_treatment,
        Some(ast::DuplicateTreatment::Distinct)
    );
    for arg in &list.args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => parts.args.push(e),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => parts.star = true,
            other => return Err(Error::unsupported(format!("argument {other}"))),
        }
    }
    for clause in &list.clauses {
        match clause {
            ast::FunctionArgumentClause::OrderBy(order) => parts.order = order,
            other => return Err(Error::unsupported(format!("clause {other}"))),
        }
    }
    Ok(parts)
}

/// Name a column gets from a call.
pub fn call_name(call: &ast::Function) -> String {
    object_name(&call.name).map_or_else(|_| "?column?".to_string(), |(_, n)| n)
}

impl Binder<'_> {
    pub(super) fn function(&mut self, call: &ast::Function) -> Result<Typed> {
        if let FunctionArguments::Subquery(query) = &call.args
            && call_name(call) == "array"
        {
            return self.array_subquery(query);
        }
        let call_parts = parts(call)?;
        let bound = match &call.over {
            Some(over) => self.window(&call_parts, over),
            None => self.call(call_parts),
        };
        bound.map_err(|e| self.at(e, name_span(&call.name)))
    }

    fn call(&mut self, call: Call<'_>) -> Result<Typed> {
        if is_aggregate(&call.name) {
            return self.aggregate(&call);
        }
        if call.star || call.distinct || call.filter.is_some() || !call.order.is_empty() {
            let message = format!("{} is not an aggregate function", call.name);
            return Err(Error::new("42809", message));
        }
        match call.name.as_str() {
            "coalesce" => return self.coalesce(&call),
            "greatest" | "least" => return self.extreme(&call),
            "nullif" => return self.null_if(&call),
            "nextval" | "currval" => return self.sequence_call(&call),
            "setval" | "lastval" => {
                return Err(Error::unsupported(call.name).hint(
                    "each partition counts for itself: only nextval and currval can be right",
                ));
            }
            "dbos.partition_of" => return self.partition_of(&call),
            "row" => return self.row(&call),
            _ => {}
        }
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg)?);
        }
        if let Some(def) = self.overload(&call.name, &args)? {
            return self.routine(&def, args);
        }
        if let Some(lookup) = Lookup::named(&call.name, args.len()) {
            return self.lookup(lookup, args);
        }
        let types: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
        check_has_over(&call.name)?;
        if !is_function(&call.name) {
            return Err(does_not_exist(&call.name, &types));
        }
        let function = resolve_function(&call.name, &types)?;
        self.apply(function, args)
    }

    /// A built-in function or operator over arguments cast to its types.
    fn apply(&mut self, function: Function, args: Vec<Typed>) -> Result<Typed> {
        let mut cast = Vec::with_capacity(args.len());
        for (arg, to) in args.into_iter().zip(function.args.clone()) {
            let arg = if to == DataType::Unknown {
                self.settle(arg)?
            } else {
                arg
            };
            let (expr, from) = (arg.expr.clone(), arg.data_type);
            cast.push(match self.coerce(arg, to, CastContext::Explicit)? {
                Some(expr) => expr,
                // "Any": taken as it is.
                None if matches!(to, DataType::Unknown | DataType::Record) => expr,
                None => {
                    return Err(Error::new(
                        "42846",
                        format!("cannot cast type {from} to {to}"),
                    ));
                }
            });
        }
        let ret = function.ret;
        Ok(Typed::new(
            Expr::Function {
                function: Arc::new(function),
                args: cast,
            },
            ret,
        ))
    }

    pub(super) fn operator(
        &mut self,
        op: &BinaryOperator,
        left: Typed,
        right: Typed,
    ) -> Result<Typed> {
        let function = resolve_operator(op, left.data_type, right.data_type)?;
        self.apply(function, vec![left, right])
    }

    pub(super) fn unary_operator(&mut self, op: &str, operand: Typed) -> Result<Typed> {
        let op = match op {
            "-" => UnaryOperator::Minus,
            "+" => UnaryOperator::Plus,
            _ => UnaryOperator::BitwiseNot,
        };
        let function = resolve_unary(&op, operand.data_type)?;
        self.apply(function, vec![operand])
    }

    fn builtin(&mut self, name: &str, args: Vec<Typed>) -> Result<Typed> {
        let types: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
        let function = resolve_function(name, &types)?;
        self.apply(function, args)
    }

    /// Syntax of its own that means a function.
    pub(super) fn special_form(&mut self, e: &ast::Expr) -> Result<Typed> {
        use ast::Expr as E;
        let (name, list): (&str, Vec<&ast::Expr>) = match e {
            E::Extract { field, expr, .. } => {
                let field = Typed::new(
                    Expr::Const(Value::text(field.to_string().to_lowercase())),
                    DataType::Text,
                );
                let from = self.expr(expr)?;
                return self.builtin("extract", vec![field, from]);
            }
            E::Ceil { expr, .. } => ("ceil", vec![expr]),
            E::Floor { expr, .. } => ("floor", vec![expr]),
            E::Position { expr, r#in } => ("strpos", vec![r#in, expr]),
            E::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                return self.substring(expr, substring_from.as_deref(), substring_for.as_deref());
            }
            E::Trim {
                trim_where,
                trim_what,
                expr,
                trim_characters,
            } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut list: Vec<&ast::Expr> = vec![expr];
                list.extend(trim_what.as_deref());
                list.extend(trim_characters.iter().flatten());
                (name, list)
            }
            other => return Err(Error::unsupported(format!("expression {other}"))),
        };
        let mut args = Vec::with_capacity(list.len());
        for arg in list {
            args.push(self.expr(arg)?);
        }
        self.builtin(name, args)
    }

    fn substring(
        &mut self,
        expr: &ast::Expr,
        from: Option<&ast::Expr>,
        length: Option<&ast::Expr>,
    ) -> Result<Typed> {
        let mut args = vec![self.expr(expr)?];
        args.push(match from {
            Some(from) => self.expr(from)?,
            None => Typed::new(Expr::Const(Value::Int4(1)), DataType::Int4),
        });
        if let Some(length) = length {
            args.push(self.expr(length)?);
        }
        self.builtin("substr", args)
    }

    fn all_args(&mut self, call: &Call<'_>, least: usize) -> Result<(Vec<Expr>, DataType)> {
        if call.args.len() < least {
            return Err(Error::new(
                "42601",
                format!("{} needs arguments", call.name),
            ));
        }
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg)?);
        }
        self.unify(args, &call.name.to_uppercase())
    }

    fn coalesce(&mut self, call: &Call<'_>) -> Result<Typed> {
        let (args, data_type) = self.all_args(call, 1)?;
        Ok(Typed::new(Expr::Coalesce(args), data_type))
    }

    fn extreme(&mut self, call: &Call<'_>) -> Result<Typed> {
        let (args, data_type) = self.all_args(call, 1)?;
        Ok(Typed::new(
            Expr::Extreme {
                greatest: call.name == "greatest",
                args,
            },
            data_type,
        ))
    }

    fn null_if(&mut self, call: &Call<'_>) -> Result<Typed> {
        let [left, right] = call.args.as_slice() else {
            return Err(Error::new("42601", "nullif takes two arguments"));
        };
        let left = self.expr(left)?;
        let right = self.expr(right)?;
        let own = left.data_type;
        let (left, right) = self.comparable("=", left, right)?;
        let data_type = if own == DataType::Unknown {
            DataType::Text
        } else {
            own
        };
        // The comparison may have widened the left side; the result keeps its own type.
        let left = match left {
            Expr::Cast {
                expr,
                keeps_slot: true,
                ..
            } => *expr,
            other => other,
        };
        Ok(Typed::new(
            Expr::NullIf(Box::new(left), Box::new(right)),
            data_type,
        ))
    }

    fn row(&mut self, call: &Call<'_>) -> Result<Typed> {
        let mut fields = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            let bound = self.expr(arg)?;
            fields.push(self.settle(bound)?.expr);
        }
        Ok(Typed::new(Expr::Row(fields), DataType::Record))
    }

    fn sequence_call(&mut self, call: &Call<'_>) -> Result<Typed> {
        let [name] = call.args.as_slice() else {
            return Err(Error::new(
                "42883",
                format!("function {} takes the name of a sequence", call.name),
            ));
        };
        let bound = self.expr(name)?;
        let Expr::Const(Value::Text(name)) = bound.expr else {
            return Err(Error::unsupported("a computed sequence name"));
        };
        let sequence = self.sequence(&name)?;
        self.writes |= call.name == "nextval";
        let expr = if call.name == "nextval" {
            Expr::NextVal(sequence)
        } else {
            Expr::CurrVal(sequence)
        };
        Ok(Typed::new(expr, DataType::Int8))
    }

    fn sequence(&self, name: &str) -> Result<Arc<Sequence>> {
        let plain = name.trim_start_matches("public.");
        let plain = match plain.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
            Some(quoted) => quoted.to_string(),
            None => plain.to_lowercase(),
        };
        let found = self.catalog.sequence(&plain).cloned();
        found.ok_or_else(|| Error::new("42P01", format!("relation \"{name}\" does not exist")))
    }

    /// dbos.partition_of('table', key): the partition that holds the key's rows.
    fn partition_of(&mut self, call: &Call<'_>) -> Result<Typed> {
        let [table, key] = call.args.as_slice() else {
            return Err(Error::new(
                "42883",
                "dbos.partition_of takes the name of a table and a key",
            ));
        };
        let table = self.expr(table)?;
        let Expr::Const(Value::Text(name)) = table.expr else {
            return Err(Error::unsupported("a computed table name"));
        };
        let found = self.catalog.table(None, &name).cloned();
        let table = found
            .ok_or_else(|| Error::new("42P01", format!("relation \"{name}\" does not exist")))?;
        let Some(column) = table.partition_column() else {
            return Err(Error::new(
                "42809",
                format!("\"{name}\" has no partition key"),
            ));
        };
        let key = self.expr(key)?;
        let key = self.assign(
            key,
            table.columns[column].data_type,
            Some(&table.columns[column].name),
        )?;
        Ok(Typed::new(Expr::PartitionOf(Box::new(key)), DataType::Int4))
    }

    /// The overload of the user's that fits best: the fewest casts.
    fn overload(&mut self, name: &str, args: &[Typed]) -> Result<Option<Arc<FunctionDef>>> {
        let mut best: Option<(usize, Arc<FunctionDef>)> = None;
        let candidates = self.catalog.functions_named(name);
        for def in candidates {
            let inputs: Vec<_> = def.inputs().collect();
            let required = inputs.iter().filter(|a| a.default.is_none()).count();
            if args.len() > inputs.len() || args.len() < required {
                continue;
            }
            let mut casts = 0;
            let fits = args.iter().zip(&inputs).all(|(arg, input)| {
                casts += usize::from(
                    arg.data_type != input.data_type && arg.data_type != DataType::Unknown,
                );
                arg.data_type == DataType::Unknown
                    || arg.data_type == input.data_type
                    || can_cast(arg.data_type, input.data_type, CastContext::Implicit)
            });
            if fits && best.as_ref().is_none_or(|(c, _)| casts < *c) {
                best = Some((casts, Arc::clone(def)));
            }
        }
        if best.is_none() && !candidates.is_empty() && !is_function(name) {
            let types: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
            return Err(does_not_exist(name, &types));
        }
        Ok(best.map(|(_, def)| def))
    }

    fn routine(&mut self, def: &Arc<FunctionDef>, args: Vec<Typed>) -> Result<Typed> {
        let given = args.len();
        let mut cast = Vec::with_capacity(given);
        let inputs: Vec<_> = def.inputs().cloned().collect();
        for (arg, input) in args.into_iter().zip(&inputs) {
            cast.push(self.assign(arg, input.data_type, None)?);
        }
        for input in &inputs[given..] {
            let text = input.default.as_deref().unwrap_or("NULL");
            cast.push(self.default_value(text, input.data_type, None)?);
        }
        let data_type = def.returns.data_type;
        if let Some(body) = inlined(def, self.catalog, &cast) {
            return self
                .assign(body, data_type, None)
                .map(|e| Typed::new(e, data_type));
        }
        let call = RoutineCall {
            def: Arc::clone(def),
            args: cast,
        };
        Ok(Typed::new(Expr::Routine(Box::new(call)), data_type))
    }

    /// SQL text of the catalogue as a value of a type: column defaults, argument defaults.
    pub(super) fn default_value(
        &mut self,
        text: &str,
        to: DataType,
        max_len: Option<u32>,
    ) -> Result<Expr> {
        let parsed = parse::parse_expression(text)?;
        let text = self.text.take();
        let bound = self.expr(&parsed);
        self.text = text;
        let expr = self.assign(bound?, to, None)?;
        match max_len {
            Some(_) => cast_expr(expr, to, false, max_len),
            None => Ok(expr),
        }
    }

    fn aggregate(&mut self, call: &Call<'_>) -> Result<Typed> {
        let Some(level) = self.aggregates.last() else {
            return Err(Error::new(
                "42803",
                "aggregate functions are not allowed here",
            ));
        };
        if let Some(place) = level.forbidden {
            return Err(Error::new(
                "42803",
                format!("aggregate functions are not allowed in {place}"),
            ));
        }
        self.forbid(Some(IN_AGGREGATE));
        let made = self.aggregate_call(call);
        let Some(level) = self.aggregates.last_mut() else {
            return Err(Error::internal("no query level"));
        };
        level.forbidden = None;
        let made = made?;
        let data_type = made.data_type;
        // The same call twice is computed once.
        let shown = format!("{made:?}");
        let position = level.calls.iter().position(|c| format!("{c:?}") == shown);
        let position = position.unwrap_or_else(|| {
            level.calls.push(made);
            level.calls.len() - 1
        });
        Ok(Typed::new(Expr::Aggregate(position), data_type))
    }

    pub(super) fn aggregate_call(&mut self, call: &Call<'_>) -> Result<AggregateCall> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg)?);
        }
        let types: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
        let aggregate: Aggregate = if call.star && call.name == "count" {
            count_star()
        } else {
            resolve_aggregate(&call.name, &types)?
                .ok_or_else(|| does_not_exist(&call.name, &types))?
        };
        let mut cast = Vec::with_capacity(args.len());
        for (arg, to) in args.into_iter().zip(aggregate.args.clone()) {
            let from = arg.data_type;
            let expr = self.coerce(arg, to, CastContext::Explicit)?;
            cast.push(
                expr.ok_or_else(|| {
                    Error::new("42846", format!("cannot cast type {from} to {to}"))
                })?,
            );
        }
        let filter = match call.filter {
            Some(filter) => {
                let before = self.forbid(Some("FILTER"));
                let bound = self.expr(filter);
                self.forbid(before);
                Some(self.condition(bound?, "FILTER")?)
            }
            None => None,
        };
        let mut order = Vec::with_capacity(call.order.len());
        for key in call.order {
            let bound = self.expr(&key.expr)?;
            let desc = key.options.asc == Some(false);
            order.push((
                self.settle(bound)?.expr,
                desc,
                key.options.nulls_first.unwrap_or(desc),
            ));
        }
        let data_type = aggregate.ret;
        Ok(AggregateCall {
            aggregate,
            args: cast,
            distinct: call.distinct,
            filter,
            order,
            data_type,
        })
    }

    /// `left = ANY (subquery)` and the like are not built; equality of two bound values is.
    pub(super) fn equal(&mut self, left: Typed, right: Typed) -> Result<Expr> {
        self.compare(CompareOp::Eq, left, right)
    }
}
