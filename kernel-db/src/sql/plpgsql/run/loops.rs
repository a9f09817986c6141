//! CASE and loops.

use super::super::code::{Code, ForRangeCode, Place, Target, Value1};
use super::{Flow, Run};
use crate::error::{Error, Result};
use crate::sql::Value;
use crate::sql::exec::ExecCtx;
use crate::sql::prepare::{Prepared, PreparedExpr};

impl Run<'_> {
    pub(super) fn case(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        operand: Option<&(usize, PreparedExpr)>,
        arms: &[(PreparedExpr, Vec<Code>)],
        otherwise: &Option<Vec<Code>>,
    ) -> Result<Flow> {
        if let Some((slot, expr)) = operand {
            self.frame[*slot] = expr.eval(ctx, &self.frame)?;
        }
        for (condition, body) in arms {
            if self.test(ctx, condition)? {
                return self.statements(ctx, body);
            }
        }
        match otherwise {
            Some(body) => self.statements(ctx, body),
            None => {
                Err(Error::new("20000", "case not found")
                    .hint("CASE statement is missing ELSE part."))
            }
        }
    }

    /// Runs a loop's body once. `None`: go on; otherwise the loop ends with this flow.
    fn round(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        target: Target,
        body: &[Code],
    ) -> Result<Option<Flow>> {
        ctx.step()?;
        Ok(match self.statements(ctx, body)? {
            Flow::Next => None,
            Flow::Continue(t) if t == target => None,
            Flow::Exit(t) if t == target => Some(Flow::Next),
            other => Some(other),
        })
    }

    pub(super) fn plain_loop(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        target: Target,
        condition: Option<&PreparedExpr>,
        body: &[Code],
    ) -> Result<Flow> {
        loop {
            if let Some(condition) = condition
                && !self.test(ctx, condition)?
            {
                return Ok(Flow::Next);
            }
            if let Some(flow) = self.round(ctx, target, body)? {
                return Ok(flow);
            }
        }
    }

    pub(super) fn for_range(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        range: &ForRangeCode,
    ) -> Result<Flow> {
        let mut next = self.bound(ctx, &range.from, "lower bound of FOR loop")?;
        let last = self.bound(ctx, &range.to, "upper bound of FOR loop")?;
        let by = match &range.by {
            Some(by) => self.bound(ctx, by, "BY value of FOR loop")?,
            None => 1,
        };
        if by <= 0 {
            return Err(Error::new(
                "22023",
                "BY value of FOR loop must be greater than zero",
            ));
        }
        let step = if range.reverse { -by } else { by };
        let mut found = false;
        let mut flow = Flow::Next;
        while if range.reverse {
            next >= last
        } else {
            next <= last
        } {
            found = true;
            // The bounds are int4, so every value between them is.
            self.frame[range.slot] = Value::Int4(i32::try_from(next).unwrap_or(i32::MAX));
            if let Some(end) = self.round(ctx, range.target, &range.body)? {
                flow = end;
                break;
            }
            next += step;
        }
        self.set_found(found);
        Ok(flow)
    }

    fn bound(&mut self, ctx: &mut ExecCtx<'_>, value: &Value1, what: &str) -> Result<i64> {
        match self.value(ctx, value)? {
            Value::Int4(v) => Ok(i64::from(v)),
            Value::Null => Err(Error::new("22004", format!("{what} cannot be null"))),
            other => Err(Error::internal(format!("{what} is {other:?}"))),
        }
    }

    /// All rows are read before the first round: the loop sees the query's state at its start.
    pub(super) fn for_query(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        target: Target,
        query: &Prepared,
        into: &[Place],
        body: &[Code],
    ) -> Result<Flow> {
        let outcome = query.run_quiet(ctx, &self.frame)?;
        let found = !outcome.rows.is_empty();
        if !found {
            self.store_row(into, Vec::new())?;
        }
        let mut flow = Flow::Next;
        for row in outcome.rows {
            self.store_row(into, row)?;
            if let Some(end) = self.round(ctx, target, body)? {
                flow = end;
                break;
            }
        }
        self.set_found(found);
        Ok(flow)
    }
}
