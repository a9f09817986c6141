//! Runs a program: a walk over its tree with one frame of values.
//!
//! Each statement and each round of a loop is a step of the transaction's budget, so that no body runs forever on the
//! partition's core.

mod errors;
mod loops;

use super::code::{Code, IntoCode, Item, NextRow, Place, Program, ResultShape, Target, Value1};
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext};
use crate::sql::catalog::{Procedure, Returned};
use crate::sql::exec::{ExecCtx, row_bytes};
use crate::sql::prepare::{Kind, Prepared, PreparedExpr};
use crate::sql::{Value, text};

/// Most rows a call may return.
const ROWS_MAX: usize = 1 << 20;

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    Exit(Target),
    Continue(Target),
    Return,
}

/// One call under way.
struct Run<'p> {
    program: &'p Program,
    frame: Vec<Value>,
    result: Option<Value>,
    rows: Vec<Vec<Value>>,
    /// Of `rows`.
    bytes: u64,
    row_count: i64,
    /// Errors being handled, innermost last.
    handling: Vec<Error>,
}

impl Procedure for Program {
    fn call(&self, ctx: &mut ExecCtx<'_>, args: &[Value]) -> Result<Returned> {
        if args.len() != self.inputs {
            return Err(Error::internal(format!(
                "{} arguments for {}",
                args.len(),
                self.name
            )));
        }
        let mut frame = Vec::with_capacity(self.frame.len());
        frame.extend_from_slice(args);
        frame.extend_from_slice(&self.frame[self.inputs..]);
        let mut run = Run {
            program: self,
            frame,
            result: None,
            rows: Vec::new(),
            bytes: 0,
            row_count: 0,
            handling: Vec::new(),
        };
        run.statements(ctx, &self.body)?;
        run.finish()
    }

    fn partition_param(&self) -> Option<usize> {
        self.partition_param
    }

    fn touches_no_table(&self) -> bool {
        !self.touches_tables
    }

    fn writes(&self) -> bool {
        self.writes
    }
}

impl Run<'_> {
    fn finish(mut self) -> Result<Returned> {
        match &self.program.result {
            // As in PostgreSQL, void is a value, and no NULL.
            ResultShape::Void => Ok(Returned::One(Value::text(""))),
            ResultShape::Set => Ok(Returned::Set(self.rows)),
            ResultShape::Out(slots) => {
                let mut values: Vec<Value> = slots.iter().map(|s| self.frame[*s].clone()).collect();
                match values.len() {
                    1 => Ok(Returned::One(values.pop().unwrap_or(Value::Null))),
                    _ => Ok(Returned::One(Value::Record(values.into()))),
                }
            }
            ResultShape::Scalar(_) => match self.result.take() {
                Some(value) => Ok(Returned::One(value)),
                None => Err(Error::new(
                    "2F005",
                    "control reached end of function without RETURN",
                )),
            },
        }
    }

    fn statements(&mut self, ctx: &mut ExecCtx<'_>, codes: &[Code]) -> Result<Flow> {
        for code in codes {
            let flow = self.statement(ctx, code)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, ctx: &mut ExecCtx<'_>, code: &Code) -> Result<Flow> {
        ctx.step()?;
        match code {
            Code::Block(block) => return self.block(ctx, block),
            Code::Assign(place, value) => {
                let value = self.value(ctx, value)?;
                self.store(place, value)?;
            }
            Code::AssignRow { query, into } => self.assign_row(ctx, query.as_ref(), into)?,
            Code::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.test(ctx, condition)? {
                        return self.statements(ctx, body);
                    }
                }
                return self.statements(ctx, otherwise);
            }
            Code::Case {
                operand,
                arms,
                otherwise,
            } => return self.case(ctx, operand.as_ref(), arms, otherwise),
            Code::Loop {
                target,
                condition,
                body,
            } => return self.plain_loop(ctx, *target, condition.as_ref(), body),
            Code::ForRange(range) => return self.for_range(ctx, range),
            Code::ForQuery {
                target,
                query,
                into,
                body,
            } => return self.for_query(ctx, *target, query, into, body),
            Code::Leave {
                again,
                target,
                when,
            } => {
                let leaves = match when {
                    Some(condition) => self.test(ctx, condition)?,
                    None => true,
                };
                if leaves {
                    return Ok(if *again {
                        Flow::Continue(*target)
                    } else {
                        Flow::Exit(*target)
                    });
                }
            }
            Code::Return(value) => {
                self.result = value.as_ref().map(|v| self.value(ctx, v)).transpose()?;
                return Ok(Flow::Return);
            }
            Code::ReturnNext(row) => self.return_next(ctx, row)?,
            Code::ReturnQuery(query) => self.return_query(ctx, query)?,
            Code::Raise(raise) => self.raise(ctx, raise)?,
            Code::Assert { condition, message } => self.assert(ctx, condition, message.as_ref())?,
            Code::Sql { statement, into } => self.sql(ctx, statement, into.as_ref())?,
            Code::Diagnostics(items) => self.diagnostics(items)?,
            Code::Fail(error) => return Err(error.clone()),
        }
        Ok(Flow::Next)
    }

    /// True only for true: NULL counts as false.
    fn test(&mut self, ctx: &mut ExecCtx<'_>, condition: &PreparedExpr) -> Result<bool> {
        Ok(matches!(
            condition.eval(ctx, &self.frame)?,
            Value::Bool(true)
        ))
    }

    fn value(&mut self, ctx: &mut ExecCtx<'_>, value: &Value1) -> Result<Value> {
        let result = value.expr.eval(ctx, &self.frame)?;
        match value.convert {
            None => Ok(result),
            Some(to) => convert(&result, to),
        }
    }

    fn store(&mut self, place: &Place, mut value: Value) -> Result<()> {
        if let Some(to) = place.convert {
            value = convert(&value, to)?;
        }
        if let Some(length) = place.max_len {
            value = cast::fit_varchar(value, length, CastContext::Assignment)?;
        }
        if let (Value::Null, Some(name)) = (&value, &place.not_null) {
            let message =
                format!("null value cannot be assigned to variable \"{name}\" declared NOT NULL");
            return Err(Error::new("22004", message));
        }
        self.frame[place.slot] = value;
        Ok(())
    }

    /// Stores a row: its first values in `places`, NULL in those left over.
    /// One row, or none for NULLs, into the places of a record.
    fn assign_row(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        query: Option<&Prepared>,
        into: &[Place],
    ) -> Result<()> {
        let query = query.map(|q| q.run_quiet(ctx, &self.frame));
        let rows = query.transpose()?.map_or_else(Vec::new, |done| done.rows);
        if rows.len() > 1 {
            return Err(Error::new("21000", "query returned more than one row"));
        }
        self.store_row(into, rows.into_iter().next().unwrap_or_default())
    }

    fn store_row(&mut self, places: &[Place], row: Vec<Value>) -> Result<()> {
        let mut values = row.into_iter();
        for place in places {
            self.store(place, values.next().unwrap_or(Value::Null))?;
        }
        Ok(())
    }

    fn set_found(&mut self, found: bool) {
        self.frame[self.program.found] = Value::Bool(found);
    }

    fn sql(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        statement: &Prepared,
        into: Option<&IntoCode>,
    ) -> Result<()> {
        let mut outcome = statement.run_quiet(ctx, &self.frame)?;
        let returned = outcome.rows.len();
        self.row_count = match statement.kind {
            Kind::Select => i64::try_from(returned).unwrap_or(i64::MAX),
            _ => i64::try_from(outcome.count).unwrap_or(i64::MAX),
        };
        if let Some(into) = into {
            if returned > 1 && (into.strict || into.single) {
                let error = Error::new("P0003", "query returned more than one row");
                return Err(error.hint("Make sure the query returns a single row, or use LIMIT 1."));
            }
            if returned == 0 && into.strict {
                return Err(Error::new("P0002", "query returned no rows"));
            }
            if !into.single {
                self.row_count = self.row_count.min(1);
            }
            let row = if returned == 0 {
                Vec::new()
            } else {
                outcome.rows.swap_remove(0)
            };
            self.store_row(&into.places, row)?;
        }
        self.set_found(self.row_count > 0);
        Ok(())
    }

    fn return_next(&mut self, ctx: &mut ExecCtx<'_>, row: &NextRow) -> Result<()> {
        let row = match row {
            NextRow::Value(value) => vec![self.value(ctx, value)?],
            NextRow::Slots(slots) => slots.iter().map(|s| self.frame[*s].clone()).collect(),
        };
        self.bytes += row_bytes(&row);
        self.rows.push(row);
        self.check_rows(ctx)
    }

    fn return_query(&mut self, ctx: &mut ExecCtx<'_>, query: &Prepared) -> Result<()> {
        let mut outcome = query.run_quiet(ctx, &self.frame)?;
        self.row_count = i64::try_from(outcome.rows.len()).unwrap_or(i64::MAX);
        self.set_found(self.row_count > 0);
        self.bytes += outcome.rows.iter().map(|row| row_bytes(row)).sum::<u64>();
        self.rows.append(&mut outcome.rows);
        self.check_rows(ctx)
    }

    fn check_rows(&self, ctx: &ExecCtx<'_>) -> Result<()> {
        ctx.env.budget.check_result(self.bytes)?;
        if self.rows.len() <= ROWS_MAX {
            return Ok(());
        }
        Err(Error::new(
            "54000",
            format!("{} returned more than {ROWS_MAX} rows", self.program.name),
        ))
    }

    fn diagnostics(&mut self, items: &[(Place, Item)]) -> Result<()> {
        for (place, item) in items {
            let text = |t: Option<&str>| Value::text(t.unwrap_or_default());
            let value = match (item, self.handling.last()) {
                (Item::RowCount, _) => Value::Int8(self.row_count),
                (Item::State, error) => text(error.map(Error::sqlstate)),
                (Item::Message, error) => text(error.map(Error::message)),
                (Item::Detail, error) => text(error.and_then(Error::get_detail)),
                (Item::Hint, error) => text(error.and_then(Error::get_hint)),
            };
            self.store(place, value)?;
        }
        Ok(())
    }
}

/// Converts as an assignment in plpgsql does: by a cast if there is one, else through the value's text.
fn convert(value: &Value, to: crate::sql::DataType) -> Result<Value> {
    match cast::cast(value, to, CastContext::Assignment) {
        Err(error) if error.sqlstate() == "42846" => match text::to_text(value) {
            Some(text) => text::from_text(&text, to),
            None => Ok(Value::Null),
        },
        result => result,
    }
}
