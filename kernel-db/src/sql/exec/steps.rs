//! FROM: steps extend the row one after another (nested loops; hashed or kept rows where the planner said so).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use bytes::Bytes;

use super::eval::{eval, routine};
use super::truth::truth;
use super::{ExecCtx, Frame, query, scan};
use crate::error::{Error, Result};
use crate::sql::catalog::Returned;
use crate::sql::compare::{GroupKey, compare};
use crate::sql::plan::{Each, Expr, Source, Step};
use crate::sql::{Value, array};

/// Rows of a step that does not depend on the rows before it.
struct Kept {
    rows: Vec<Vec<Value>>,
    /// By hash key, if the step is hashed.
    index: Option<HashMap<GroupKey, Vec<usize>>>,
}

type Kepts = Vec<Option<Rc<Kept>>>;

/// For each right or full join, which of its kept rows have met a match.
type Matches = Vec<Vec<bool>>;

/// Receives each complete row.
pub type RowSink<'s> = dyn FnMut(&mut ExecCtx<'_>, &[Value]) -> Result<ControlFlow<()>> + 's;

/// Runs all steps; `outer` brings parameters and outer rows.
pub fn run(
    steps: &[Step],
    outer: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut RowSink<'_>,
) -> Result<ControlFlow<()>> {
    let keeps = steps.iter().any(|s| s.hash.is_some() || s.keep);
    let mut kept: Kepts = vec![None; if keeps { steps.len() } else { 0 }];
    let width = steps.last().map_or(0, |s| s.offset + s.width);
    let mut row = Vec::with_capacity(width);
    let mut walk = Walk {
        steps,
        outer,
        kept: &mut kept,
        matches: vec![Vec::new(); steps.len()],
    };
    if walk.step(0, &mut row, ctx, sink)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    for (i, step) in steps.iter().enumerate() {
        if step.kind.keeps_right() && walk.unmatched(i, step, &mut row, ctx, sink)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

struct Walk<'w> {
    steps: &'w [Step],
    outer: &'w Frame<'w>,
    kept: &'w mut Kepts,
    matches: Matches,
}

impl Walk<'_> {
    fn step(
        &mut self,
        i: usize,
        row: &mut Vec<Value>,
        ctx: &mut ExecCtx<'_>,
        sink: &mut RowSink<'_>,
    ) -> Result<ControlFlow<()>> {
        let Some(step) = self.steps.get(i) else {
            return sink(ctx, row);
        };
        let mut matched = false;
        let flow = if step.hash.is_some() || step.keep {
            self.kept_rows(i, step, row, ctx, &mut matched, sink)?
        } else {
            let prefix = row.clone();
            source_rows(
                step,
                &self.outer.with_row(&prefix),
                ctx,
                &mut |ctx, fill| {
                    row.truncate(step.offset);
                    fill(row)?;
                    self.candidate(i, step, row, ctx, &mut matched, sink)
                },
            )?
        };
        if flow.is_break() || matched || !step.kind.keeps_left() {
            row.truncate(step.offset);
            return Ok(flow);
        }
        row.truncate(step.offset);
        row.resize(step.offset + step.width, Value::Null);
        let flow = self.after(i, step, row, ctx, sink)?;
        row.truncate(step.offset);
        Ok(flow)
    }

    /// A row of this step beside the prefix: does it match, and then the next step.
    fn candidate(
        &mut self,
        i: usize,
        step: &Step,
        row: &mut Vec<Value>,
        ctx: &mut ExecCtx<'_>,
        matched: &mut bool,
        sink: &mut RowSink<'_>,
    ) -> Result<ControlFlow<()>> {
        if let Some(on) = &step.on
            && truth(on, &self.outer.with_row(row), ctx)? != Some(true)
        {
            return Ok(ControlFlow::Continue(()));
        }
        *matched = true;
        self.after(i, step, row, ctx, sink)
    }

    fn after(
        &mut self,
        i: usize,
        step: &Step,
        row: &mut Vec<Value>,
        ctx: &mut ExecCtx<'_>,
        sink: &mut RowSink<'_>,
    ) -> Result<ControlFlow<()>> {
        if let Some(after) = &step.after
            && truth(after, &self.outer.with_row(row), ctx)? != Some(true)
        {
            return Ok(ControlFlow::Continue(()));
        }
        self.step(i + 1, row, ctx, sink)
    }

    fn kept_rows(
        &mut self,
        i: usize,
        step: &Step,
        row: &mut Vec<Value>,
        ctx: &mut ExecCtx<'_>,
        matched: &mut bool,
        sink: &mut RowSink<'_>,
    ) -> Result<ControlFlow<()>> {
        let kept = self.kept(i, step, ctx)?;
        let chosen = match (&step.hash, &kept.index) {
            (Some(hash), Some(index)) => {
                let mut probe = Vec::with_capacity(hash.probe.len());
                for e in &hash.probe {
                    probe.push(eval(e, &self.outer.with_row(row), ctx)?);
                }
                if probe.iter().any(Value::is_null) {
                    return Ok(ControlFlow::Continue(()));
                }
                Some(
                    index
                        .get(&GroupKey::new(&probe))
                        .map_or(&[][..], Vec::as_slice),
                )
            }
            _ => None,
        };
        let count = chosen.map_or(kept.rows.len(), <[usize]>::len);
        for n in 0..count {
            let own = &kept.rows[chosen.map_or(n, |c| c[n])];
            ctx.step()?;
            row.truncate(step.offset);
            row.extend_from_slice(own);
            let mut this = false;
            let flow = self.candidate(i, step, row, ctx, &mut this, sink)?;
            *matched |= this;
            if this && step.kind.keeps_right() {
                self.matches[i][chosen.map_or(n, |c| c[n])] = true;
            }
            if flow.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The step's rows, read at the first call.
    fn kept(&mut self, i: usize, step: &Step, ctx: &mut ExecCtx<'_>) -> Result<Rc<Kept>> {
        if let Some(kept) = &self.kept[i] {
            return Ok(Rc::clone(kept));
        }
        let kept = Rc::new(keep(step, self.outer, ctx)?);
        self.kept[i] = Some(Rc::clone(&kept));
        self.matches[i] = vec![false; kept.rows.len()];
        Ok(kept)
    }

    /// Rows of a right or full join that met no match.
    fn unmatched(
        &mut self,
        i: usize,
        step: &Step,
        row: &mut Vec<Value>,
        ctx: &mut ExecCtx<'_>,
        sink: &mut RowSink<'_>,
    ) -> Result<ControlFlow<()>> {
        let kept = self.kept(i, step, ctx)?;
        let matches = std::mem::take(&mut self.matches[i]);
        for (own, _) in kept.rows.iter().zip(matches).filter(|(_, m)| !m) {
            ctx.step()?;
            row.clear();
            row.resize(step.offset, Value::Null);
            row.extend_from_slice(own);
            if self.after(i, step, row, ctx, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Reads a step's rows once.
fn keep(step: &Step, outer: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Kept> {
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut kept = super::kept::Kept::new("a join");
    let flow = source_rows(step, &outer.with_row(&[]), ctx, &mut |ctx, fill| {
        let mut own = Vec::with_capacity(step.width);
        fill(&mut own)?;
        kept.add(ctx, &own)?;
        rows.push(own);
        Ok(ControlFlow::Continue(()))
    })?;
    debug_assert!(flow.is_continue());
    let index = step.hash.as_ref().map(|hash| {
        let mut index: HashMap<GroupKey, Vec<usize>> = HashMap::with_capacity(rows.len());
        for (n, row) in rows.iter().enumerate() {
            let key = hash.own.iter().map(|c| &row[*c]);
            if !key.clone().any(Value::is_null) {
                index.entry(GroupKey::new(key)).or_default().push(n);
            }
        }
        index
    });
    Ok(Kept { rows, index })
}

/// Appends a source row's columns to the row given to it.
type Fill<'f> = &'f dyn Fn(&mut Vec<Value>) -> Result<()>;

/// Calls `f` for each row of the source.
fn source_rows(
    step: &Step,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, Fill<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    match &step.source {
        Source::Table {
            table,
            access,
            types,
            ..
        } => {
            let mut found = |ctx: &mut ExecCtx<'_>, bytes: &Bytes| {
                f(ctx, &|row| {
                    crate::sql::codec::row::decode_into(bytes, types, row)
                })
            };
            let Some(list) = &step.each else {
                return scan::rows(table, access, frame, ctx, &mut found);
            };
            let mut prefix = frame.row.to_vec();
            prefix.resize(step.offset, Value::Null);
            for value in each_value(list, frame, ctx)? {
                prefix.truncate(step.offset);
                prefix.push(value);
                let frame = frame.with_row(&prefix);
                if scan::rows(table, access, &frame, ctx, &mut found)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        Source::System { table } => {
            let rows = crate::sql::catalog::system_rows(ctx.catalog, ctx.system, table)?;
            each(rows, ctx, f)
        }
        Source::Working { id, name } => {
            let rows = ctx.working.get(id).cloned();
            let rows = rows.ok_or_else(|| Error::internal(format!("{name} outside of itself")))?;
            each(rows.to_vec(), ctx, f)
        }
        Source::Query(query) => {
            let inner = Frame {
                params: frame.params,
                row: &[],
                outer: Some(frame),
            };
            let mut flow = ControlFlow::Continue(());
            query::run(query, &inner, ctx, &mut |ctx, own| {
                flow = f(ctx, &|row| {
                    row.extend_from_slice(&own);
                    Ok(())
                })?;
                Ok(flow.is_continue())
            })?;
            Ok(flow)
        }
        Source::Series(args) => series(args, frame, ctx, f),
        Source::Unnest(list) => {
            let list = eval(list, frame, ctx)?;
            let items = array::items(&list).map_or(&[][..], |i| &i[..]);
            each(items.iter().map(|i| vec![i.clone()]).collect(), ctx, f)
        }
        Source::Routine { call, columns } => {
            let rows = routine_rows(call, *columns, frame, ctx)?;
            each(rows, ctx, f)
        }
    }
}

/// The distinct values that an access path is walked for, in order, without NULL.
fn each_value(list: &Each, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Vec<Value>> {
    let mut values = match list {
        Each::List(list) => super::eval::eval_all(list, frame, ctx)?,
        Each::Elements(list) => {
            let list = eval(list, frame, ctx)?;
            array::items(&list).map_or_else(Vec::new, |items| items.to_vec())
        }
    };
    values.retain(|v| !v.is_null());
    values.sort_by(compare);
    values.dedup_by(|a, b| compare(a, b).is_eq());
    Ok(values)
}

fn each(
    rows: Vec<Vec<Value>>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, Fill<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    for own in rows {
        ctx.step()?;
        let flow = f(ctx, &|row| {
            row.extend_from_slice(&own);
            Ok(())
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn routine_rows(
    call: &Expr,
    columns: usize,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Vec<Vec<Value>>> {
    let returned = match call {
        Expr::Routine(call) => routine(call, frame, ctx)?,
        other => Returned::One(eval(other, frame, ctx)?),
    };
    Ok(match returned {
        Returned::Set(rows) => rows,
        Returned::One(Value::Record(fields)) if fields.len() == columns && columns > 1 => {
            vec![fields.to_vec()]
        }
        Returned::One(Value::Null) => vec![vec![Value::Null; columns]],
        Returned::One(value) => vec![vec![value]],
    })
}

fn series(
    args: &[Expr],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, Fill<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let args = super::eval::eval_all(args, frame, ctx)?;
    if args.iter().any(Value::is_null) {
        return Ok(ControlFlow::Continue(()));
    }
    let small = matches!(args[0], Value::Int4(_));
    let (Some(from), Some(to)) = (args[0].as_int(), args[1].as_int()) else {
        return Err(Error::unsupported("generate_series over timestamps"));
    };
    let step = args.get(2).map_or(Some(1), Value::as_int).unwrap_or(1);
    if step == 0 {
        return Err(Error::new("22023", "step size cannot equal zero"));
    }
    let mut at = from;
    while (step > 0 && at <= to) || (step < 0 && at >= to) {
        ctx.step()?;
        // Bounded by `to`, which is an int4 itself when the first bound is.
        let value = match i32::try_from(at) {
            Ok(at) if small => Value::Int4(at),
            _ => Value::Int8(at),
        };
        let flow = f(ctx, &|row| {
            row.push(value.clone());
            Ok(())
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
        match at.checked_add(step) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(ControlFlow::Continue(()))
}
