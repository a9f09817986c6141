//! WITH RECURSIVE: round after round over the rows of the last one, until a round adds none.

use std::collections::HashSet;
use std::rc::Rc;

use super::kept::Kept;
use super::query::{Sink, run as run_query};
use super::{ExecCtx, Frame};
use crate::error::Result;
use crate::sql::Value;
use crate::sql::compare::GroupKey;
use crate::sql::plan::{Query, Recursive};

const WHAT: &str = "WITH RECURSIVE";

/// Each round's rows are given away before the next begins: a LIMIT outside ends what would not end itself.
pub fn run(
    recursive: &Recursive,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut seen: Option<HashSet<GroupKey>> = (!recursive.all).then(HashSet::new);
    let mut kept = Kept::new(WHAT);
    let mut round = rows(&recursive.base, &mut seen, &mut kept, frame, ctx)?;
    while !round.is_empty() {
        for row in &round {
            if !sink(ctx, row.clone())? {
                return Ok(());
            }
        }
        // A function called in this round may run the same query.
        let before = ctx.working.insert(recursive.id, Rc::new(round));
        if recursive.all {
            kept = Kept::new(WHAT);
        }
        let next = rows(&recursive.step, &mut seen, &mut kept, frame, ctx);
        match before {
            Some(before) => drop(ctx.working.insert(recursive.id, before)),
            None => drop(ctx.working.remove(&recursive.id)),
        }
        round = next?;
    }
    Ok(())
}

/// The query's rows; with UNION those that no round had before.
fn rows(
    query: &Query,
    seen: &mut Option<HashSet<GroupKey>>,
    kept: &mut Kept,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    run_query(query, frame, ctx, &mut |ctx, row| {
        if let Some(seen) = seen
            && !seen.insert(GroupKey::new(&row))
        {
            return Ok(true);
        }
        kept.add(ctx, &row)?;
        rows.push(row);
        Ok(true)
    })?;
    Ok(rows)
}
