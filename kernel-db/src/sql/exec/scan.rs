//! Reading a table along its access path.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::eval::eval;
use super::{ExecCtx, Frame, keys};
use crate::error::{Error, Result};
use crate::partition::{Scan, Slot};
use crate::sql::catalog::Table;
use crate::sql::codec::{self, key};
use crate::sql::plan::{Access, Bound, KeyPart, RangeAccess};
use crate::sql::{DataType, Value};

/// Rows fetched at once: few at first, fewer still if the reader may stop early. Often the first row is the one.
const CHUNKS: [usize; 5] = [1, 4, 16, 64, 256];
/// The first one of a reader that will not stop.
const FIRST_CHUNK: usize = 2;
/// Of large rows not more than this at once.
const CHUNK_BYTES: usize = 4 << 20;

/// Calls `f` with each stored row that the access path leads to, until it breaks.
pub fn rows(
    table: &Table,
    access: &Access,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, &Bytes) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    match access {
        Access::Nothing => Ok(ControlFlow::Continue(())),
        Access::Point { key } => point(table, key, frame, ctx, f),
        Access::Range(range) => range_rows(table, range, frame, ctx, f),
    }
}

fn point(
    table: &Table,
    parts: &[KeyPart],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, &Bytes) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut key = keys::start(table.id, 0);
    let mut slot = None;
    for part in parts {
        let Fit::Value(value) = fit(part, frame, ctx)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if slot.is_none() {
            slot = Some(codec::slot(&value));
        }
        key::encode_value(&mut key, &value, false);
    }
    ctx.step()?;
    match ctx.store.get(&key, slot)? {
        Some(row) => f(ctx, &row),
        None => Ok(ControlFlow::Continue(())),
    }
}

/// A key part's value in its column's type.
enum Fit {
    Value(Value),
    /// Beyond the column type's greatest or below its least value.
    Above,
    Below,
    Null,
}

fn fit(part: &KeyPart, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Fit> {
    let value = eval(&part.expr, frame, ctx)?;
    let to = part.to;
    if value.is_null() {
        return Ok(Fit::Null);
    }
    if value.data_type() == to || !to.is_int() {
        return Ok(Fit::Value(value));
    }
    let Some(int) = value.as_int() else {
        return Err(Error::internal(format!(
            "a key of type {} was compared with {}",
            to,
            value.data_type()
        )));
    };
    let made = match to {
        DataType::Int2 => i16::try_from(int).ok().map(Value::Int2),
        DataType::Int4 => i32::try_from(int).ok().map(Value::Int4),
        _ => Some(Value::Int8(int)),
    };
    Ok(match made {
        Some(value) => Fit::Value(value),
        None if int > 0 => Fit::Above,
        None => Fit::Below,
    })
}

/// First key, key after the last, and slot if known.
type KeyRange = (Vec<u8>, Vec<u8>, Option<Slot>);

/// Byte range of a range access, and the slot if the partition key is known; none if nothing can match.
fn bounds(
    table: &Table,
    range: &RangeAccess,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<KeyRange>> {
    let index = range.index.map_or(0, |i| table.indexes[i].id);
    let mut prefix = keys::start(table.id, index);
    let mut slot = None;
    for (i, part) in range.equal.iter().enumerate() {
        let Fit::Value(value) = fit(part, frame, ctx)? else {
            return Ok(None);
        };
        if range.slot_from == Some(i) {
            slot = Some(codec::slot(&value));
        }
        key::encode_value(&mut prefix, &value, part.desc);
    }
    if let Some(i) = range.index.filter(|i| table.is_global(&table.indexes[*i])) {
        let columns = table.indexes[i].columns.len();
        slot = (range.equal.len() == columns).then(|| codec::slot_of_entry(&prefix));
    }
    let desc = range
        .lower
        .as_ref()
        .or(range.upper.as_ref())
        .map(|b| b.part.desc);
    let (mut from, mut to) = (prefix.clone(), end_of(&prefix));
    if let Some(desc) = desc {
        // Only values that are not null can be within bounds; nulls are last, and first in a descending column.
        let mut null = prefix.clone();
        key::encode_value(&mut null, &Value::Null, desc);
        if desc {
            from = end_of(&null);
        } else {
            to = null;
        }
        for (bound, is_lower) in [(&range.lower, true), (&range.upper, false)] {
            let Some(bound) = bound else { continue };
            let value = match (fit(&bound.part, frame, ctx)?, is_lower) {
                (Fit::Null, _) | (Fit::Above, true) | (Fit::Below, false) => return Ok(None),
                (Fit::Above, false) | (Fit::Below, true) => continue,
                (Fit::Value(value), _) => value,
            };
            apply(bound, &value, is_lower != desc, &prefix, &mut from, &mut to);
        }
    }
    Ok((from < to).then_some((from, to, slot)))
}

/// Narrows the byte range by one bound; `first` if it limits where the bytes begin.
fn apply(
    bound: &Bound,
    value: &Value,
    first: bool,
    prefix: &[u8],
    from: &mut Vec<u8>,
    to: &mut Vec<u8>,
) {
    let mut at = prefix.to_vec();
    key::encode_value(&mut at, value, bound.part.desc);
    match (first, bound.inclusive) {
        (true, true) => *from = at,
        (true, false) => *from = end_of(&at),
        (false, true) => *to = end_of(&at),
        (false, false) => *to = at,
    }
}

fn end_of(prefix: &[u8]) -> Vec<u8> {
    key::prefix_end(prefix).unwrap_or_else(|| vec![0xff; prefix.len() + 1])
}

fn range_rows(
    table: &Table,
    range: &RangeAccess,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    f: &mut dyn FnMut(&mut ExecCtx<'_>, &Bytes) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let Some((mut from, mut to, slot)) = bounds(table, range, frame, ctx)? else {
        return Ok(ControlFlow::Continue(()));
    };
    // Rows are elsewhere than their entries.
    let scattered = range
        .index
        .is_some_and(|i| table.is_global(&table.indexes[i]));
    let mut chunk = if range.stops_early { 0 } else { FIRST_CHUNK };
    let mut found = Vec::new();
    let mut fit = usize::MAX;
    loop {
        let limit = CHUNKS[chunk].min(fit);
        found.clear();
        ctx.store.scan(
            Scan {
                from: &from,
                to: &to,
                reverse: range.reverse,
                limit,
                slot,
            },
            &mut found,
        )?;
        for (key, value) in &found {
            ctx.step()?;
            let flow = if range.index.is_none() {
                f(ctx, value)?
            } else {
                let row_key = keys::row_key_of_entry(table.id, key, value)?;
                let slot = match slot {
                    Some(slot) if !scattered => Some(slot),
                    _ => keys::slot_of_key(table, &row_key),
                };
                match ctx.store.get(&row_key, slot)? {
                    Some(row) => f(ctx, &row)?,
                    // Deleted by a function called for an earlier row of this chunk.
                    None => continue,
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        fit = rows_within(CHUNK_BYTES, &found);
        let Some((last, _)) = found.last().filter(|_| found.len() >= limit) else {
            return Ok(ControlFlow::Continue(()));
        };
        if range.reverse {
            to = last.to_vec();
        } else {
            from = last.to_vec();
            from.push(0);
        }
        chunk = (chunk + 1).min(CHUNKS.len() - 1);
    }
}

/// How many rows such as these, at least one, make up to `bytes`.
pub fn rows_within(bytes: usize, rows: &[(Bytes, Bytes)]) -> usize {
    let these: usize = rows
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    match these {
        0 => usize::MAX,
        these => (bytes.saturating_mul(rows.len()) / these).max(1),
    }
}
