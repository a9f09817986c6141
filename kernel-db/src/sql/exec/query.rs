//! Queries: rows of FROM, grouping, projection, DISTINCT, ORDER BY, LIMIT.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::eval::{eval, eval_all};
use super::kept::Kept;
use super::truth::truth;
use super::{ExecCtx, Frame, recursive, row_locks, steps, window};
use crate::error::{Error, Result};
use crate::sql::Value;
use crate::sql::aggregate::State;
use crate::sql::compare::{GroupKey, compare};
use crate::sql::plan::{AggregateCall, Expr, Grouping, Query, QueryBody, SetKind, SortKey};

/// Receives each result row; false stops the query.
pub type Sink<'s> = dyn FnMut(&mut ExecCtx<'_>, Vec<Value>) -> Result<bool> + 's;

/// Runs a query. `frame` brings parameters and the outer row; its own row is empty.
pub fn run(
    query: &Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let limit = count(query.limit.as_ref(), "LIMIT", "2201W", frame, ctx)?;
    let mut skip = count(query.offset.as_ref(), "OFFSET", "2201X", frame, ctx)?.unwrap_or(0);
    let mut left = limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    let width = query.columns.len();
    let mut seen: Option<HashSet<GroupKey>> = query.distinct.then(HashSet::new);
    let mut firsts: HashSet<GroupKey> = HashSet::new();
    let (mut kept_firsts, mut kept_seen) = (Kept::new("DISTINCT ON"), Kept::new("DISTINCT"));
    let mut last = |ctx: &mut ExecCtx<'_>, mut row: Vec<Value>| {
        if !query.distinct_on.is_empty() {
            let key = query.distinct_on.iter().map(|place| &row[*place]);
            if !firsts.insert(GroupKey::new(key)) {
                return Ok(true);
            }
            kept_firsts.add(ctx, &row)?;
        }
        if skip > 0 {
            skip -= 1;
            return Ok(true);
        }
        row.truncate(width);
        left -= 1;
        Ok(sink(ctx, row)? && left > 0)
    };
    let mut distinct = |ctx: &ExecCtx<'_>, row: &[Value]| {
        let new = seen
            .as_mut()
            .is_none_or(|seen| seen.insert(GroupKey::new(row)));
        if new && query.distinct {
            kept_seen.add(ctx, row)?;
        }
        Ok::<_, Error>(new)
    };
    if !query.locks.is_empty() && ctx.store.may_be_locked() {
        return row_locks::body(query, frame, ctx, &mut last);
    }
    if query.sort.is_empty() {
        return body(query, frame, ctx, &mut |ctx, row| {
            if distinct(ctx, &row)? {
                last(ctx, row)
            } else {
                Ok(true)
            }
        });
    }
    let (mut rows, mut kept) = (Vec::new(), Kept::new("ORDER BY"));
    body(query, frame, ctx, &mut |ctx, row| {
        if distinct(ctx, &row)? {
            kept.add(ctx, &row)?;
            rows.push(row);
        }
        Ok(true)
    })?;
    sort_rows(&mut rows, &query.sort, |row| row);
    for row in rows {
        if !last(ctx, row)? {
            break;
        }
    }
    Ok(())
}

fn count(
    e: Option<&Expr>,
    what: &str,
    code: &str,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<u64>> {
    let Some(e) = e else { return Ok(None) };
    match eval(e, frame, ctx)?.as_int() {
        None => Ok(None),
        Some(n) => match u64::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::new(code, format!("{what} must not be negative"))),
        },
    }
}

/// Puts things in the order of their rows.
pub(super) fn sort_rows<T>(things: &mut [T], keys: &[SortKey], row: impl Fn(&T) -> &Vec<Value>) {
    if !keys.is_empty() {
        things.sort_by(|a, b| order(row(a), row(b), keys));
    }
}

fn order(a: &[Value], b: &[Value], keys: &[SortKey]) -> Ordering {
    for key in keys {
        let order = compare_key(&a[key.column], &b[key.column], key.desc, key.nulls_first);
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

pub(super) fn compare_key(a: &Value, b: &Value, desc: bool, nulls_first: bool) -> Ordering {
    match (a.is_null(), b.is_null()) {
        (true, true) => Ordering::Equal,
        (true, false) if nulls_first => Ordering::Less,
        (true, false) => Ordering::Greater,
        (false, true) if nulls_first => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) if desc => compare(b, a),
        (false, false) => compare(a, b),
    }
}

/// Projected rows, hidden sort keys included.
fn body(
    query: &Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    match &query.body {
        QueryBody::Values(rows) => {
            for row in rows {
                ctx.step()?;
                let made = eval_all(row, frame, ctx)?;
                if !sink(ctx, made)? {
                    break;
                }
            }
            Ok(())
        }
        QueryBody::SetOperation {
            left,
            right,
            kind,
            all,
        } => set_operation(left, right, *kind, *all, frame, ctx, sink),
        QueryBody::Recursive(query) => recursive::run(query, frame, ctx, sink),
        QueryBody::Select {
            steps,
            filter,
            grouping,
            windows,
            project,
            ..
        } => {
            if !windows.is_empty() {
                return windowed(query, frame, ctx, sink);
            }
            if let Some(filter) = filter
                && truth(filter, frame, ctx)? != Some(true)
            {
                return match grouping {
                    Some(grouping) => grouped(&[], true, grouping, project, frame, ctx, sink),
                    None => Ok(()),
                };
            }
            if let Some(grouping) = grouping {
                return grouped(steps, false, grouping, project, frame, ctx, sink);
            }
            let _ = steps::run(steps, frame, ctx, &mut |ctx, row| {
                let made = eval_all(project, &frame.with_row(row), ctx)?;
                Ok(if sink(ctx, made)? {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            })?;
            Ok(())
        }
    }
}

/// Rows of FROM, or of its groups, with the results of window functions behind them.
fn windowed(
    query: &Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let QueryBody::Select {
        steps,
        filter,
        grouping,
        windows,
        project,
        ..
    } = &query.body
    else {
        return Err(Error::internal("windows outside of a SELECT"));
    };
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut kept = Kept::new("a window function");
    let mut keep = |ctx: &ExecCtx<'_>, row: Vec<Value>| {
        kept.add(ctx, &row)?;
        rows.push(row);
        Ok(true)
    };
    let nothing = match filter {
        Some(filter) => truth(filter, frame, ctx)? != Some(true),
        None => false,
    };
    if let Some(grouping) = grouping {
        group_rows(steps, nothing, grouping, frame, ctx, &mut |ctx, row| {
            keep(ctx, row)
        })?;
    } else if !nothing {
        let _ = steps::run(steps, frame, ctx, &mut |ctx, row| {
            keep(ctx, row.to_vec()).map(|_| ControlFlow::Continue(()))
        })?;
    }
    window::extend(&mut rows, windows, frame, ctx)?;
    for row in rows {
        let made = eval_all(project, &frame.with_row(&row), ctx)?;
        if !sink(ctx, made)? {
            break;
        }
    }
    Ok(())
}

fn set_operation(
    left: &Query,
    right: &Query,
    kind: SetKind,
    all: bool,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    if kind == SetKind::Union {
        let (mut seen, mut kept) = (HashSet::new(), Kept::new("UNION"));
        let mut going = true;
        for side in [left, right] {
            if !going {
                break;
            }
            run(side, frame, ctx, &mut |ctx, row| {
                if !all {
                    if !seen.insert(GroupKey::new(&row)) {
                        return Ok(true);
                    }
                    kept.add(ctx, &row)?;
                }
                going = sink(ctx, row)?;
                Ok(going)
            })?;
        }
        return Ok(());
    }
    // How often each row is on the right side; EXCEPT takes those away, INTERSECT keeps as many.
    let mut counts: HashMap<GroupKey, u64> = HashMap::new();
    let mut kept = Kept::new("the set operation");
    run(right, frame, ctx, &mut |ctx, row| {
        let count = counts.entry(GroupKey::new(&row)).or_default();
        *count += 1;
        if *count == 1 {
            kept.add(ctx, &row)?;
        }
        Ok(true)
    })?;
    let mut given: HashSet<GroupKey> = HashSet::new();
    run(left, frame, ctx, &mut |ctx, row| {
        let key = GroupKey::new(&row);
        let there = match counts.get_mut(&key) {
            Some(n) if *n > 0 => {
                if all {
                    *n -= 1;
                }
                true
            }
            _ => false,
        };
        if there != (kind == SetKind::Intersect) {
            return Ok(true);
        }
        if !all {
            if !given.insert(key) {
                return Ok(true);
            }
            kept.add(ctx, &row)?;
        }
        sink(ctx, row)
    })
}

/// One group: its keys, and a state and the seen arguments (DISTINCT) or kept arguments (ORDER BY) per call.
struct Group {
    keys: Vec<Value>,
    states: Vec<State>,
    seen: Vec<HashSet<GroupKey>>,
    kept: Vec<Vec<(Vec<Value>, Vec<Value>)>>,
}

impl Group {
    fn new(keys: Vec<Value>, calls: &[AggregateCall]) -> Self {
        Self {
            keys,
            states: calls.iter().map(|c| c.aggregate.start()).collect(),
            seen: vec![HashSet::new(); calls.len()],
            kept: vec![Vec::new(); calls.len()],
        }
    }

    fn update(
        &mut self,
        calls: &[AggregateCall],
        kept: &mut Kept,
        frame: &Frame<'_>,
        ctx: &mut ExecCtx<'_>,
    ) -> Result<()> {
        for (i, call) in calls.iter().enumerate() {
            if let Some(filter) = &call.filter
                && truth(filter, frame, ctx)? != Some(true)
            {
                continue;
            }
            let args = eval_all(&call.args, frame, ctx)?;
            if call.distinct {
                if !self.seen[i].insert(GroupKey::new(&args)) {
                    continue;
                }
                kept.add(ctx, &args)?;
            }
            if call.order.is_empty() {
                call.aggregate.update(&mut self.states[i], &args)?;
                continue;
            }
            let mut keys = Vec::with_capacity(call.order.len());
            for (key, ..) in &call.order {
                keys.push(eval(key, frame, ctx)?);
            }
            kept.add(ctx, &args)?;
            kept.add(ctx, &keys)?;
            self.kept[i].push((keys, args));
        }
        Ok(())
    }

    /// The group's row: keys, then results.
    fn finish(self, calls: &[AggregateCall]) -> Result<Vec<Value>> {
        let mut row = self.keys;
        for ((call, mut state), mut kept) in calls.iter().zip(self.states).zip(self.kept) {
            kept.sort_by(|(a, _), (b, _)| {
                let keys = call.order.iter().enumerate();
                let mut orders = keys.map(|(i, (_, desc, nulls_first))| {
                    compare_key(&a[i], &b[i], *desc, *nulls_first)
                });
                orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
            });
            for (_, args) in kept {
                call.aggregate.update(&mut state, &args)?;
            }
            row.push(call.aggregate.finish(state)?);
        }
        Ok(row)
    }
}

fn grouped(
    steps: &[crate::sql::plan::Step],
    nothing: bool,
    grouping: &Grouping,
    project: &[Expr],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    group_rows(steps, nothing, grouping, frame, ctx, &mut |ctx, row| {
        let made = eval_all(project, &frame.with_row(&row), ctx)?;
        sink(ctx, made)
    })
}

/// Rows of the groups that HAVING lets through: keys, then aggregates.
fn group_rows(
    steps: &[crate::sql::plan::Step],
    nothing: bool,
    grouping: &Grouping,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut places: HashMap<GroupKey, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let (mut kept, mut kept_args) = (Kept::new("GROUP BY"), Kept::new("an aggregate"));
    if grouping.keys.is_empty() {
        groups.push(Group::new(Vec::new(), &grouping.calls));
    }
    if !nothing {
        let _ = steps::run(steps, frame, ctx, &mut |ctx, row| {
            let frame = frame.with_row(row);
            let place = if grouping.keys.is_empty() {
                0
            } else {
                let keys = eval_all(&grouping.keys, &frame, ctx)?;
                let next = groups.len();
                let place = *places.entry(GroupKey::new(&keys)).or_insert(next);
                if place == next {
                    kept.add(ctx, &keys)?;
                    groups.push(Group::new(keys, &grouping.calls));
                }
                place
            };
            groups[place].update(&grouping.calls, &mut kept_args, &frame, ctx)?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    for group in groups {
        let row = group.finish(&grouping.calls)?;
        let frame = frame.with_row(&row);
        if let Some(having) = &grouping.having
            && truth(having, &frame, ctx)? != Some(true)
        {
            continue;
        }
        if !sink(ctx, row)? {
            break;
        }
    }
    Ok(())
}
