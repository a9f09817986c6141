//! WITH RECURSIVE: round after round over the rows of the last one, until a round adds none.

use std::collections::HashSet;
use std::rc::Rc;

use super::query::{ROWS_MAX, Sink, run as run_query, too_many};
use super::{ExecCtx, Frame};
use crate::error::Result;
use crate::sql::Value;
use crate::sql::compare::GroupKey;
use crate::sql::plan::{Query, Recursive};

/// Each round's rows are given away before the next begins: a LIMIT outside ends what would not end itself.
pub fn run(
    recursive: &Recursive,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut seen: Option<HashSet<GroupKey>> = (!recursive.all).then(HashSet::new);
    let mut round = rows(&recursive.base, &mut seen, frame, ctx)?;
    while !round.is_empty() {
        for row in &round {
            if !sink(ctx, row.clone())? {
                return Ok(());
            }
        }
        // A function called in this round may run the same query.
        let before = ctx.working.insert(recursive.id, Rc::new(round));
        let next = rows(&recursive.step, &mut seen, frame, ctx);
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
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    run_query(query, frame, ctx, &mut |_, row| {
        if let Some(seen) = seen
            && !seen.insert(GroupKey::new(&row))
        {
            return Ok(true);
        }
        if rows.len() >= ROWS_MAX || seen.as_ref().is_some_and(|s| s.len() > ROWS_MAX) {
            return Err(too_many("WITH RECURSIVE"));
        }
        rows.push(row);
        Ok(true)
    })?;
    Ok(rows)
}
