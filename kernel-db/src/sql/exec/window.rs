//! Window functions over rows that were kept: each call sorts them by partition and order, and adds one value to each.
//!
//! A frame that begins with its partition is carried on from row to row; one whose start moves is read anew for each row,
//! every row read being a step of the budget. Rows leave in the order of the last call's window; until then they stand as they
//! came, so that equal windows have equal rows in the same order.

use std::cmp::Ordering;
use std::ops::Range;

use super::eval::{eval, eval_all};
use super::query::compare_key;
use super::truth::truth;
use super::{ExecCtx, Frame};
use crate::error::{Error, Result};
use crate::sql::Value;
use crate::sql::aggregate::{Aggregate, AggregateKind};
use crate::sql::plan::{FrameBound, WindowCall, WindowFunction};

/// Most bytes that `string_agg` may make for the rows of one query: over a growing frame each row has a longer text. As much as
/// a result may have (`result_bytes_max`) unless that is configured otherwise.
const BYTES_MAX: usize = 256 << 20;

/// What a call needs of a row.
struct Entry {
    /// Which row.
    at: usize,
    partition: Vec<Value>,
    order: Vec<Value>,
    args: Vec<Value>,
    /// FILTER lets it through.
    counts: bool,
}

/// The frame with its offsets: rows before (negative) or after the current one.
#[derive(Clone, Copy)]
enum Edge {
    Unbounded,
    Current,
    Offset(i64),
}

struct Bounds {
    rows: bool,
    start: Edge,
    end: Edge,
}

/// Adds each call's value to each row, in the order of the calls.
pub fn extend(
    rows: &mut Vec<Vec<Value>>,
    calls: &[WindowCall],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<()> {
    let mut order: Vec<usize> = Vec::new();
    let mut left = BYTES_MAX;
    for call in calls {
        let bounds = bounds(call, frame, ctx)?;
        let mut entries = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            ctx.step()?;
            entries.push(entry(call, at, &frame.with_row(row), ctx)?);
        }
        entries.sort_by(|a, b| by_partition(a, b).then_with(|| by_order(call, a, b)));
        let mut values: Vec<Value> = Vec::with_capacity(rows.len());
        let mut from = 0;
        while from < entries.len() {
            let same = |e: &Entry| by_partition(e, &entries[from]).is_eq();
            let length = entries[from..].iter().take_while(|e| same(e)).count();
            let partition = Partition::new(call, &entries[from..from + length]);
            partition.values(&bounds, ctx, &mut values, &mut left)?;
            from += length;
        }
        for (entry, value) in entries.iter().zip(values) {
            rows[entry.at].push(value);
        }
        order = entries.iter().map(|entry| entry.at).collect();
    }
    let mut take = |at: usize| std::mem::take(&mut rows[at]);
    let ordered = order.into_iter().map(&mut take).collect();
    *rows = ordered;
    Ok(())
}

fn entry(call: &WindowCall, at: usize, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Entry> {
    let counts = match &call.filter {
        Some(filter) => truth(filter, frame, ctx)? == Some(true),
        None => true,
    };
    let mut order = Vec::with_capacity(call.order.len());
    for (key, ..) in &call.order {
        order.push(eval(key, frame, ctx)?);
    }
    Ok(Entry {
        at,
        partition: eval_all(&call.partition, frame, ctx)?,
        order,
        args: match counts {
            true => eval_all(&call.args, frame, ctx)?,
            false => Vec::new(),
        },
        counts,
    })
}

fn by_partition(a: &Entry, b: &Entry) -> Ordering {
    let keys = a.partition.iter().zip(&b.partition);
    let mut orders = keys.map(|(a, b)| compare_key(a, b, false, false));
    orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn by_order(call: &WindowCall, a: &Entry, b: &Entry) -> Ordering {
    let keys = call.order.iter().enumerate();
    let mut orders =
        keys.map(|(i, (_, desc, first))| compare_key(&a.order[i], &b.order[i], *desc, *first));
    orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn bounds(call: &WindowCall, frame: &Frame<'_>, ctx: &mut ExecCtx<'_>) -> Result<Bounds> {
    let mut edge = |bound: &FrameBound, what: &str| {
        let (offset, sign) = match bound {
            FrameBound::Unbounded => return Ok(Edge::Unbounded),
            FrameBound::CurrentRow => return Ok(Edge::Current),
            FrameBound::Preceding(offset) => (offset, -1),
            FrameBound::Following(offset) => (offset, 1),
        };
        match eval(offset, frame, ctx)?.as_int() {
            None => Err(Error::new(
                "22004",
                format!("frame {what} offset must not be null"),
            )),
            Some(n) if n < 0 => Err(Error::new(
                "22013",
                format!("frame {what} offset must not be negative"),
            )),
            Some(n) => Ok(Edge::Offset(sign * n)),
        }
    };
    Ok(Bounds {
        rows: call.frame.rows,
        start: edge(&call.frame.start, "starting")?,
        end: edge(&call.frame.end, "ending")?,
    })
}

/// Rows of one partition, in order.
struct Partition<'a> {
    call: &'a WindowCall,
    rows: &'a [Entry],
    /// For each row where its peers begin and end.
    peers: Vec<Range<usize>>,
    /// For each row how many groups of peers begin at it or before it.
    groups: Vec<i64>,
    /// ntile: the first row that says how many buckets there are. Those before it are in none.
    tiled_from: usize,
}

impl<'a> Partition<'a> {
    fn new(call: &'a WindowCall, rows: &'a [Entry]) -> Self {
        let mut peers = Vec::with_capacity(rows.len());
        let mut groups = Vec::with_capacity(rows.len());
        let (mut from, mut group) = (0, 0);
        while from < rows.len() {
            let same = |e: &&Entry| by_order(call, e, &rows[from]).is_eq();
            let to = from + rows[from..].iter().take_while(same).count();
            group += 1;
            for _ in from..to {
                peers.push(from..to);
                groups.push(group);
            }
            from = to;
        }
        let says = |e: &Entry| !e.args.first().is_none_or(Value::is_null);
        let tiled_from = match call.function {
            WindowFunction::Ntile => rows.iter().position(says).unwrap_or(rows.len()),
            _ => 0,
        };
        Self {
            call,
            rows,
            peers,
            groups,
            tiled_from,
        }
    }

    /// `left`: bytes that texts may still take.
    fn values(
        &self,
        bounds: &Bounds,
        ctx: &mut ExecCtx<'_>,
        out: &mut Vec<Value>,
        left: &mut usize,
    ) -> Result<()> {
        if let WindowFunction::Aggregate(aggregate) = &self.call.function {
            return self.aggregates(aggregate, bounds, ctx, out, left);
        }
        for i in 0..self.rows.len() {
            ctx.step()?;
            out.push(self.own(i, bounds)?);
        }
        Ok(())
    }

    /// Rows of the frame of row `i`; the range may be empty.
    fn frame(&self, bounds: &Bounds, i: usize) -> Range<usize> {
        let count = self.rows.len();
        let beside = |offset: i64| {
            let at = i64::try_from(i).unwrap_or(i64::MAX).saturating_add(offset);
            usize::try_from(at.max(0)).unwrap_or(usize::MAX).min(count)
        };
        let start = match (bounds.start, bounds.rows) {
            (Edge::Unbounded, _) => 0,
            (Edge::Current, true) => i,
            (Edge::Current, false) => self.peers[i].start,
            (Edge::Offset(offset), _) => beside(offset),
        };
        let end = match (bounds.end, bounds.rows) {
            (Edge::Unbounded, _) => count,
            (Edge::Current, true) => i + 1,
            (Edge::Current, false) => self.peers[i].end,
            (Edge::Offset(offset), _) => beside(offset.saturating_add(1)),
        };
        start..end.max(start)
    }

    fn aggregates(
        &self,
        aggregate: &Aggregate,
        bounds: &Bounds,
        ctx: &mut ExecCtx<'_>,
        out: &mut Vec<Value>,
        left: &mut usize,
    ) -> Result<()> {
        let mut state = aggregate.start();
        let mut done = 0..0;
        let mut last: Option<Value> = None;
        for i in 0..self.rows.len() {
            ctx.step()?;
            let frame = self.frame(bounds, i);
            if let Some(last) = last.as_ref().filter(|_| frame == done) {
                out.push(last.clone());
                continue;
            }
            if frame.start != done.start || frame.end < done.end {
                state = aggregate.start();
                done = frame.start..frame.start;
            }
            for row in &self.rows[done.end..frame.end] {
                ctx.step()?;
                if row.counts {
                    aggregate.update(&mut state, &row.args)?;
                }
            }
            done = frame;
            let value = aggregate.finish(state.clone())?;
            if aggregate.kind == AggregateKind::StringAgg {
                *left = left.checked_sub(size(&value)).ok_or_else(too_long)?;
            }
            last = Some(value.clone());
            out.push(value);
        }
        Ok(())
    }

    /// What the functions that are no aggregates give for row `i`.
    fn own(&self, i: usize, bounds: &Bounds) -> Result<Value> {
        use WindowFunction as W;
        let count = self.rows.len();
        let first = self.peers[i].start;
        Ok(match &self.call.function {
            W::RowNumber => number(i + 1),
            W::Rank => number(first + 1),
            W::DenseRank => Value::Int8(self.groups[i]),
            W::PercentRank if count == 1 => Value::Float8(0.0),
            W::PercentRank => Value::Float8(first as f64 / (count - 1) as f64),
            W::CumeDist => Value::Float8(self.peers[i].end as f64 / count as f64),
            W::Ntile => self.ntile(i)?,
            W::Lag => self.beside(i, -1),
            W::Lead => self.beside(i, 1),
            W::FirstValue => self.of_frame(self.frame(bounds, i).next()),
            W::LastValue => self.of_frame(self.frame(bounds, i).next_back()),
            W::NthValue => match self.rows[i].args[1].as_int() {
                None => Value::Null,
                Some(n) if n < 1 => {
                    let message = "argument of nth_value must be greater than zero";
                    return Err(Error::new("22016", message));
                }
                Some(n) => {
                    let n = usize::try_from(n - 1).unwrap_or(usize::MAX);
                    self.of_frame(self.frame(bounds, i).nth(n))
                }
            },
            W::Aggregate(_) => return Err(Error::internal("an aggregate among window functions")),
        })
    }

    fn of_frame(&self, row: Option<usize>) -> Value {
        row.map_or(Value::Null, |row| self.rows[row].args[0].clone())
    }

    /// lag and lead: the value so many rows away, or the default.
    fn beside(&self, i: usize, sign: i64) -> Value {
        let args = &self.rows[i].args;
        let offset = match args.get(1) {
            None => Some(1),
            Some(given) => given.as_int(),
        };
        let Some(offset) = offset else {
            return Value::Null;
        };
        let at = i64::try_from(i)
            .ok()
            .and_then(|i| i.checked_add(sign * offset));
        let row = at
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| self.rows.get(at));
        match row {
            Some(row) => row.args[0].clone(),
            None => args.get(2).cloned().unwrap_or(Value::Null),
        }
    }

    /// The number of the bucket: the first ones have a row more. How many there are is the first argument that is not null; as in
    /// PostgreSQL, rows before that one count for the size of the buckets but are in none.
    fn ntile(&self, i: usize) -> Result<Value> {
        let Some(i) = i.checked_sub(self.tiled_from) else {
            return Ok(Value::Null);
        };
        let Some(buckets) = self.rows[self.tiled_from].args[0].as_int() else {
            return Err(Error::internal("ntile of no integer"));
        };
        let Some(buckets) = usize::try_from(buckets).ok().filter(|n| *n > 0) else {
            let message = "argument of ntile must be greater than zero";
            return Err(Error::new("22014", message));
        };
        let (size, longer) = (self.rows.len() / buckets, self.rows.len() % buckets);
        let of_longer = longer * (size + 1);
        let bucket = match i < of_longer {
            true => i / (size + 1),
            false => longer + (i - of_longer) / size.max(1),
        };
        Ok(Value::Int4(i32::try_from(bucket + 1).unwrap_or(i32::MAX)))
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Bytea(bytes) => bytes.len(),
        _ => 0,
    }
}

fn too_long() -> Error {
    let message =
        format!("string_agg would keep more than {BYTES_MAX} bytes for the rows of one query");
    Error::new("54000", message).hint("use a frame that does not grow, or fewer rows")
}

fn number(n: usize) -> Value {
    Value::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}
