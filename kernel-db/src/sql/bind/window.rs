//! Window functions: calls with OVER.

use sqlparser::ast::{self, WindowFrameBound, WindowFrameUnits, WindowType};

use super::call::Call;
use super::{Binder, Typed};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::aggregate::is_aggregate;
use crate::sql::cast::{CastContext, common_type};
use crate::sql::functions::{does_not_exist, is_function};
use crate::sql::plan::{Expr, FrameBound, WindowCall, WindowFrame, WindowFunction};

const NESTED: &str = "window function calls cannot be nested";

/// PARTITION BY, and ORDER BY as (key, descending, nulls first).
pub(super) type Keys = (Vec<Expr>, Vec<(Expr, bool, bool)>);

/// The window function of this name that is no aggregate.
fn own_function(name: &str) -> Option<WindowFunction> {
    Some(match name {
        "row_number" => WindowFunction::RowNumber,
        "rank" => WindowFunction::Rank,
        "dense_rank" => WindowFunction::DenseRank,
        "percent_rank" => WindowFunction::PercentRank,
        "cume_dist" => WindowFunction::CumeDist,
        "ntile" => WindowFunction::Ntile,
        "lag" => WindowFunction::Lag,
        "lead" => WindowFunction::Lead,
        "first_value" => WindowFunction::FirstValue,
        "last_value" => WindowFunction::LastValue,
        "nth_value" => WindowFunction::NthValue,
        _ => return None,
    })
}

/// 42809 for a window function without OVER.
pub fn check_has_over(name: &str) -> Result<()> {
    match own_function(name) {
        None => Ok(()),
        Some(_) => Err(Error::new(
            "42809",
            format!("window function {name} requires an OVER clause"),
        )),
    }
}

pub(super) fn windowing(message: impl Into<String>) -> Error {
    Error::new("42P20", message)
}

impl Binder<'_> {
    pub(super) fn window(&mut self, call: &Call<'_>, over: &WindowType) -> Result<Typed> {
        if own_function(&call.name).is_none() && !is_aggregate(&call.name) {
            return Err(self.no_window_function(call)?);
        }
        self.check_window_place()?;
        let spec = self.window_spec(over)?;
        self.forbid_windows(Some(NESTED));
        let made = self.window_call(call, &spec);
        self.forbid_windows(None);
        let made = made?;
        let data_type = made.data_type;
        let level = self.aggregates.last_mut();
        let level = level.ok_or_else(|| Error::internal("no query level"))?;
        // The same call twice is computed once.
        let shown = format!("{made:?}");
        let position = level.windows.iter().position(|c| format!("{c:?}") == shown);
        let position = position.unwrap_or_else(|| {
            level.windows.push(made);
            level.windows.len() - 1
        });
        Ok(Typed::new(Expr::Window(position), data_type))
    }

    fn no_window_function(&mut self, call: &Call<'_>) -> Result<Error> {
        let name = &call.name;
        let gives_rows = ["generate_series", "unnest"].contains(&name.as_str());
        if gives_rows || is_function(name) || !self.catalog.functions_named(name).is_empty() {
            let message = format!(
                "OVER specified, but {name} is not a window function nor an aggregate function"
            );
            return Ok(Error::new("42809", message));
        }
        let mut types = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            types.push(self.expr(arg)?.data_type);
        }
        Ok(does_not_exist(name, &types))
    }

    fn check_window_place(&self) -> Result<()> {
        let Some(level) = self.aggregates.last() else {
            return Err(windowing("window functions are not allowed here"));
        };
        match (level.forbidden, level.no_windows) {
            (Some(super::call::IN_AGGREGATE), _) => Err(Error::new(
                "42803",
                "aggregate function calls cannot contain window function calls",
            )),
            (Some(place), _) => {
                let message = format!("window functions are not allowed in {place}");
                Err(windowing(message))
            }
            (None, Some(message)) => Err(windowing(message)),
            (None, None) => Ok(()),
        }
    }

    /// With the message of the error that a window function meets, or none.
    pub(super) fn forbid_windows(&mut self, message: Option<&'static str>) {
        if let Some(level) = self.aggregates.last_mut() {
            level.no_windows = message;
        }
    }

    /// OVER with what it takes from the WINDOW clause.
    fn window_spec(&self, over: &WindowType) -> Result<ast::WindowSpec> {
        let level = self.aggregates.last();
        let windows = level.map(|l| &l.named_windows);
        let windows = windows.ok_or_else(|| Error::internal("no query level"))?;
        match over {
            WindowType::NamedWindow(name) => windows.named(name),
            WindowType::WindowSpec(spec) => windows.based(spec),
        }
    }

    fn window_call(&mut self, call: &Call<'_>, spec: &ast::WindowSpec) -> Result<WindowCall> {
        let (partition, order) = self.window_keys(spec)?;
        let frame = self.window_frame(spec.window_frame.as_ref())?;
        let (function, args, filter, data_type) = match own_function(&call.name) {
            Some(function) => {
                if call.filter.is_some() {
                    return Err(Error::unsupported(
                        "FILTER of a window function that is no aggregate",
                    ));
                }
                let (args, data_type) = self.own_arguments(&function, call)?;
                (function, args, None, data_type)
            }
            None => {
                let made = self.aggregate_call(call)?;
                let function = WindowFunction::Aggregate(made.aggregate);
                (function, made.args, made.filter, made.data_type)
            }
        };
        if call.distinct {
            return Err(Error::unsupported("DISTINCT in a window function"));
        }
        if !call.order.is_empty() {
            return Err(Error::unsupported(
                "ORDER BY in a window function's arguments",
            ));
        }
        Ok(WindowCall {
            function,
            args,
            filter,
            partition,
            order,
            frame,
            data_type,
        })
    }

    pub(super) fn window_keys(&mut self, spec: &ast::WindowSpec) -> Result<Keys> {
        let mut partition = Vec::with_capacity(spec.partition_by.len());
        for e in &spec.partition_by {
            let bound = self.expr(e)?;
            partition.push(self.settle(bound)?.expr);
        }
        let mut order = Vec::with_capacity(spec.order_by.len());
        for key in &spec.order_by {
            let bound = self.expr(&key.expr)?;
            let desc = key.options.asc == Some(false);
            let nulls_first = key.options.nulls_first.unwrap_or(desc);
            order.push((self.settle(bound)?.expr, desc, nulls_first));
        }
        Ok((partition, order))
    }

    /// Arguments, cast, and the result's type.
    fn own_arguments(
        &mut self,
        function: &WindowFunction,
        call: &Call<'_>,
    ) -> Result<(Vec<Expr>, DataType)> {
        use WindowFunction as W;
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg)?);
        }
        let types: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
        let missing = || does_not_exist(&call.name, &types);
        let allowed = match function {
            W::RowNumber | W::Rank | W::DenseRank | W::PercentRank | W::CumeDist => 0..=0,
            W::Ntile | W::FirstValue | W::LastValue => 1..=1,
            W::NthValue => 2..=2,
            _ => 1..=3,
        };
        if !allowed.contains(&args.len()) {
            return Err(missing());
        }
        // Only lag and lead with a default say that a literal of no type is a text.
        if !matches!(args.as_slice(), [_, _, _])
            && !matches!(function, W::Ntile)
            && types.first() == Some(&DataType::Unknown)
        {
            let message = "could not determine polymorphic type because input has type unknown";
            return Err(Error::new("42804", message));
        }
        // The number among them: of buckets, or of rows.
        let number = match function {
            W::Ntile => 0,
            _ => 1,
        };
        let mut number = (args.len() > number).then(|| args.remove(number));
        if let Some(given) = number.take() {
            number = Some(Typed::new(
                self.coerce(given, DataType::Int4, CastContext::Implicit)?
                    .ok_or_else(missing)?,
                DataType::Int4,
            ));
        }
        let data_type = match function {
            W::Ntile => DataType::Int4,
            W::PercentRank | W::CumeDist => DataType::Float8,
            W::RowNumber | W::Rank | W::DenseRank => DataType::Int8,
            _ => DataType::Unknown,
        };
        let (mut exprs, data_type) = match data_type {
            DataType::Unknown => {
                let values: Vec<DataType> = args.iter().map(|a| a.data_type).collect();
                common_type(&values, &call.name).map_err(|_| missing())?;
                self.unify(args, &call.name)?
            }
            known => (Vec::new(), known),
        };
        if let Some(number) = number {
            exprs.insert(exprs.len().min(1), number.expr);
        }
        Ok((exprs, data_type))
    }

    pub(super) fn window_frame(&mut self, given: Option<&ast::WindowFrame>) -> Result<WindowFrame> {
        let Some(given) = given else {
            return Ok(WindowFrame {
                rows: false,
                start: FrameBound::Unbounded,
                end: FrameBound::CurrentRow,
            });
        };
        let rows = match given.units {
            WindowFrameUnits::Rows => true,
            WindowFrameUnits::Range => false,
            WindowFrameUnits::Groups => return Err(Error::unsupported("GROUPS in a window frame")),
        };
        let current = WindowFrameBound::CurrentRow;
        let end = given.end_bound.as_ref().unwrap_or(&current);
        check_order(&given.start_bound, end)?;
        Ok(WindowFrame {
            rows,
            start: self.frame_bound(&given.start_bound, rows)?,
            end: self.frame_bound(end, rows)?,
        })
    }

    fn frame_bound(&mut self, bound: &WindowFrameBound, rows: bool) -> Result<FrameBound> {
        let (offset, make): (_, fn(Expr) -> FrameBound) = match bound {
            WindowFrameBound::CurrentRow => return Ok(FrameBound::CurrentRow),
            WindowFrameBound::Preceding(None) | WindowFrameBound::Following(None) => {
                return Ok(FrameBound::Unbounded);
            }
            WindowFrameBound::Preceding(Some(offset)) => (offset, FrameBound::Preceding),
            WindowFrameBound::Following(Some(offset)) => (offset, FrameBound::Following),
        };
        if !rows {
            return Err(Error::unsupported("an offset in a RANGE frame").hint("use ROWS"));
        }
        let offset = match offset.as_ref() {
            // The parser takes a string at this place as an interval.
            ast::Expr::Interval(written) if written.leading_field.is_none() => &written.value,
            _ => offset,
        };
        let before = self.forbid(Some("window ROWS"));
        let bound = self.expr(offset);
        self.forbid(before);
        let bound = bound?;
        let from = bound.data_type;
        let expr = self.coerce(bound, DataType::Int8, CastContext::Assignment)?;
        let expr = expr.ok_or_else(|| {
            let message = format!("argument of ROWS must be type bigint, not type {from}");
            Error::new("42804", message)
        })?;
        if expr.max_column().is_some() {
            let message = "argument of ROWS must not contain variables";
            return Err(Error::new("42P10", message));
        }
        Ok(make(expr))
    }
}

/// A frame must not end before it starts, whatever the numbers.
fn check_order(start: &WindowFrameBound, end: &WindowFrameBound) -> Result<()> {
    use WindowFrameBound as B;
    let message = match (start, end) {
        (B::Following(None), _) => "frame start cannot be UNBOUNDED FOLLOWING",
        (_, B::Preceding(None)) => "frame end cannot be UNBOUNDED PRECEDING",
        (B::CurrentRow, B::Preceding(_)) => {
            "frame starting from current row cannot have preceding rows"
        }
        (B::Following(_), B::Preceding(_) | B::CurrentRow) => {
            "frame starting from following row cannot have preceding rows"
        }
        _ => return Ok(()),
    };
    Err(windowing(message))
}
