//! Queries that lock the rows they show.
//!
//! Rows are locked after ORDER BY and before LIMIT counts them, as in PostgreSQL: a reader of a queue that skips what is
//! locked takes the first rows that are free.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::eval::eval_all;
use super::kept::Kept;
use super::query::{Sink, sort_rows};
use super::truth::truth;
use super::write::lock_of;
use super::{ExecCtx, Frame, steps};
use crate::error::Result;
use crate::partition::Slot;
use crate::sql::Value;
use crate::sql::plan::{Query, QueryBody, TableLock};

/// A row to be shown, and for each locking clause the row of the table behind it; none in the place of an outer join.
struct Candidate {
    row: Vec<Value>,
    behind: Vec<Option<(Bytes, Option<Slot>)>>,
}

/// Rows of a locking query before LIMIT and OFFSET.
pub(super) fn body(
    query: &Query,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let QueryBody::Select {
        steps,
        filter,
        project,
        ..
    } = &query.body
    else {
        return Ok(());
    };
    if let Some(filter) = filter
        && truth(filter, frame, ctx)? != Some(true)
    {
        return Ok(());
    }
    // Without ORDER BY, a LIMIT ends the search as soon as enough rows are locked.
    let stream = query.sort.is_empty() && query.limit.is_some();
    let (mut kept, mut count) = (Vec::<Candidate>::new(), Kept::new("FOR UPDATE"));
    let intent = match (&steps[..], &query.locks[..]) {
        ([_], [one]) => Some(one.lock),
        _ => None,
    };
    ctx.store.will_lock(intent);
    let run = steps::run(steps, frame, ctx, &mut |ctx, row| {
        let candidate = Candidate {
            row: eval_all(project, &frame.with_row(row), ctx)?,
            behind: query.locks.iter().map(|l| behind(l, row)).collect(),
        };
        if !stream {
            count.add(ctx, &candidate.row)?;
            kept.push(candidate);
            return Ok(ControlFlow::Continue(()));
        }
        let [locked] = &lock(query, std::slice::from_ref(&candidate), ctx)?[..] else {
            return Ok(ControlFlow::Continue(()));
        };
        Ok(match !locked || sink(ctx, candidate.row)? {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    });
    ctx.store.will_lock(None);
    let _ = run?;
    sort_rows(&mut kept, &query.sort, |c| &c.row);
    if query.limit.is_none() {
        let locked = lock(query, &kept, ctx)?;
        for (candidate, _) in kept.into_iter().zip(locked).filter(|(_, locked)| *locked) {
            if !sink(ctx, candidate.row)? {
                break;
            }
        }
        return Ok(());
    }
    for candidate in kept {
        let locked = lock(query, std::slice::from_ref(&candidate), ctx)?;
        if locked == [true] && !sink(ctx, candidate.row)? {
            break;
        }
    }
    Ok(())
}

fn behind(lock: &TableLock, row: &[Value]) -> Option<(Bytes, Option<Slot>)> {
    let row = &row[lock.offset..lock.offset + lock.table.columns.len()];
    let absent = lock.table.primary_key.iter().any(|c| row[*c].is_null());
    (!absent).then(|| lock_of(&lock.table, row))
}

/// Which of the rows are locked with everything behind them.
fn lock(query: &Query, rows: &[Candidate], ctx: &mut ExecCtx<'_>) -> Result<Vec<bool>> {
    let mut locked = vec![true; rows.len()];
    for (n, clause) in query.locks.iter().enumerate() {
        let (mut keys, mut places) = (Vec::new(), Vec::new());
        for (place, candidate) in rows.iter().enumerate() {
            if let Some(key) = candidate.behind[n].as_ref().filter(|_| locked[place]) {
                keys.push(key.clone());
                places.push(place);
            }
        }
        let taken = ctx.store.lock_rows(&keys, clause.lock)?;
        for (place, taken) in places.into_iter().zip(taken) {
            locked[place] = taken;
        }
    }
    Ok(locked)
}
