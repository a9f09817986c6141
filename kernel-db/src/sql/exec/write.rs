//! INSERT, UPDATE, DELETE: rows, their rules, and their index entries.
//!
//! UPDATE and DELETE collect their targets before they write (no row is met twice). An index entry is written only if it
//! changes. Uniqueness is checked where the key lives: a unique index contains the partition key, so that is here.

use std::collections::HashSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::eval::{eval, eval_all};
use super::truth::truth;
use super::{Done, ExecCtx, Frame, keys, query, steps};
use crate::error::{Error, Result};
use crate::partition::{RowLock, SLOTS, Scan, Slot};
use crate::sql::Value;
use crate::sql::catalog::{Index, Table};
use crate::sql::codec;
use crate::sql::codec::key::prefix_end;
use crate::sql::plan::{
    Assignment, ConflictAction, ConflictTarget, Delete, Insert, InsertSource, RowRules, Step,
    Update,
};
use crate::sql::text;
use crate::txn::messages::{LockMode, WaitPolicy};

/// Largest encoded row.
pub const ROW_BYTES_MAX: usize = 8 << 20;
/// Rows up to this size share an allocation with their key.
const SHARED_BYTES_MAX: usize = 256;

/// What DELETE and ON CONFLICT DO UPDATE take.
const WRITE_LOCK: RowLock = RowLock {
    mode: LockMode::Update,
    wait: WaitPolicy::Wait,
};

/// The next number (from 1) of a counter of this partition.
pub fn next_counter(id: u32, ctx: &mut ExecCtx<'_>) -> Result<u64> {
    let key = keys::counter_key(id);
    // Every partition has a counter of its own under this key.
    let slot = Slot::try_from(ctx.env.partition).ok();
    let last = match ctx.store.get_to_write(&key, slot)? {
        None => 0,
        Some(bytes) => {
            let bytes: [u8; 8] = bytes[..]
                .try_into()
                .map_err(|_| Error::internal("a counter is damaged"))?;
            u64::from_be_bytes(bytes)
        }
    };
    ctx.step()?;
    let next = Bytes::copy_from_slice(&(last + 1).to_be_bytes());
    ctx.store.put_at(key, next, slot)?;
    Ok(last + 1)
}

/// A row id of this partition: its slot is one that this partition owns, now and after slots move.
fn new_row_id(table: &Table, ctx: &mut ExecCtx<'_>) -> Result<Value> {
    let count = next_counter(table.id, ctx)?;
    let slot = u64::from(ctx.env.partition % u32::from(SLOTS));
    let id = count
        .checked_mul(u64::from(SLOTS))
        .and_then(|n| i64::try_from(n + slot).ok());
    id.map(Value::Int8).ok_or_else(|| {
        Error::new(
            "54000",
            format!("table \"{}\" has no row ids left", table.name),
        )
    })
}

pub fn insert(insert: &Insert, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Done> {
    let mut returned = Vec::new();
    let mut count = 0;
    let frame = Frame::new(params);
    let mut put = |ctx: &mut ExecCtx<'_>,
                   mut row: Vec<Value>,
                   updated: &mut HashSet<Vec<u8>>|
     -> Result<()> {
        let table = &insert.rules.table;
        if table.hidden_row_id
            && let Some(last) = row.last_mut()
        {
            *last = new_row_id(table, ctx)?;
        }
        let Some(row) = insert_row(insert, row, &frame, ctx, updated)? else {
            return Ok(());
        };
        count += 1;
        if let Some(returning) = &insert.returning {
            returned.push(eval_all(returning, &frame.with_row(&row), ctx)?);
        }
        Ok(())
    };
    let mut updated = HashSet::new();
    match &insert.source {
        // Beside other transactions each key is locked, at another node perhaps: all of them at once.
        InsertSource::Values(rows) if rows.len() > 1 && ctx.store.takes_locks() => {
            let made: Result<Vec<_>> = rows.iter().map(|e| eval_all(e, &frame, ctx)).collect();
            let made = made?;
            expect(&insert.rules.table, &made, ctx)?;
            for row in made {
                put(ctx, row, &mut updated)?;
            }
        }
        InsertSource::Values(rows) => {
            for exprs in rows {
                let row = eval_all(exprs, &frame, ctx)?;
                put(ctx, row, &mut updated)?;
            }
        }
        InsertSource::Query { query, columns } => {
            // The query is read to its end before the first row is written.
            let mut rows = Vec::new();
            query::run(query, &frame, ctx, &mut |_, row| {
                rows.push(row);
                Ok(true)
            })?;
            if ctx.store.takes_locks() {
                for row in &mut rows {
                    *row = eval_all(columns, &frame.with_row(row), ctx)?;
                }
                expect(&insert.rules.table, &rows, ctx)?;
                for row in rows {
                    put(ctx, row, &mut updated)?;
                }
            } else {
                for row in rows {
                    let row = eval_all(columns, &frame.with_row(&row), ctx)?;
                    put(ctx, row, &mut updated)?;
                }
            }
        }
    }
    Ok(Done::new("INSERT 0", count, returned))
}

fn expect(table: &Table, rows: &[Vec<Value>], ctx: &mut ExecCtx<'_>) -> Result<()> {
    // A hidden row id is not known yet, and nobody else's.
    if table.hidden_row_id {
        return Ok(());
    }
    let keys: Vec<_> = rows.iter().map(|row| lock_of(table, row)).collect();
    ctx.store.expect(&keys)
}

/// The row written; none if a conflict left everything as it was.
fn insert_row(
    insert: &Insert,
    row: Vec<Value>,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
    updated: &mut HashSet<Vec<u8>>,
) -> Result<Option<Vec<Value>>> {
    let rules = &insert.rules;
    let table = &rules.table;
    check_row(rules, &row, frame, ctx)?;
    let key = keys::row_key(table, &row);
    let Some((existing, target)) = conflict_of(rules, &row, &key, ctx)? else {
        if insert
            .conflict
            .as_ref()
            .is_some_and(|c| matches!(c.action, ConflictAction::Update { .. }))
        {
            updated.insert(key.clone());
        }
        store_row(rules, &row, key, ctx)?;
        return Ok(Some(row));
    };
    let handled = insert
        .conflict
        .as_ref()
        .filter(|c| c.target == ConflictTarget::Any || c.target == target);
    let Some(conflict) = handled else {
        return Err(duplicate(table, target, &row));
    };
    let ConflictAction::Update {
        assignments,
        filter,
    } = &conflict.action
    else {
        return Ok(None);
    };
    let old = codec::row::decode(&existing, &rules.types)?;
    if ctx.store.takes_locks() {
        ctx.store.lock_rows(&[lock_of(table, &old)], WRITE_LOCK)?;
    }
    let old_key = keys::row_key(table, &old);
    if updated.contains(&old_key) {
        return Err(Error::new("21000", "ON CONFLICT DO UPDATE command cannot affect row a second time")
            .hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values."));
    }
    let mut both = old.clone();
    both.extend(row);
    let seen = frame.with_row(&both);
    if let Some(filter) = filter
        && truth(filter, &seen, ctx)? != Some(true)
    {
        return Ok(None);
    }
    let new = assigned(&old, assignments, &seen, ctx)?;
    updated.insert(keys::row_key(table, &new));
    replace_row(rules, &old, &new, frame, ctx)?;
    Ok(Some(new))
}

/// A row that is in the way, and which key it shares with the new one.
fn conflict_of(
    rules: &RowRules,
    row: &[Value],
    key: &[u8],
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<(Bytes, ConflictTarget)>> {
    let table = &rules.table;
    if !table.hidden_row_id
        && let Some(found) = ctx.store.get_to_write(key, keys::slot_of(table, row))?
    {
        return Ok(Some((found, ConflictTarget::PrimaryKey)));
    }
    for (i, index) in table.indexes.iter().enumerate().filter(|(_, x)| x.unique) {
        if let Some(found) = unique_row(table, index, row, ctx)? {
            return Ok(Some((found, ConflictTarget::Index(i))));
        }
    }
    Ok(None)
}

/// The row that has the same values in a unique index; nulls are never the same.
fn unique_row(
    table: &Table,
    index: &Index,
    row: &[Value],
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<Bytes>> {
    let Some((key, value)) = entry_of(table, index, row, ctx)? else {
        return Ok(None);
    };
    let row_key = keys::row_key_of_entry(table.id, &key, &value)?;
    let slot = keys::slot_of_key(table, &row_key);
    let row = ctx.store.get_to_write(&row_key, slot)?;
    row.map(Some).ok_or_else(|| {
        Error::new(
            "XX001",
            format!("index \"{}\" names a row that is not there", index.name),
        )
    })
}

/// The entry with the same values in a unique index.
fn entry_of(
    table: &Table,
    index: &Index,
    row: &[Value],
    ctx: &mut ExecCtx<'_>,
) -> Result<Option<(Bytes, Bytes)>> {
    if index.columns.iter().any(|c| row[c.column].is_null()) {
        return Ok(None);
    }
    let from = keys::index_prefix(table, index, row);
    let to = prefix_end(&from).unwrap_or_else(|| vec![0xff; from.len() + 1]);
    let slot = keys::slot_of_entry(table, index, row);
    let mut found = Vec::new();
    ctx.store.scan_to_write(
        Scan {
            from: &from,
            to: &to,
            reverse: false,
            limit: 1,
            slot,
        },
        &mut found,
    )?;
    Ok(found.pop())
}

/// Makes others that want the values of this entry wait until it is decided whether they are free.
fn hold_unique(table: &Table, index: &Index, row: &[Value], ctx: &mut ExecCtx<'_>) -> Result<()> {
    if index.unique && ctx.store.takes_locks() {
        entry_of(table, index, row, ctx)?;
    }
    Ok(())
}

fn duplicate(table: &Table, target: ConflictTarget, row: &[Value]) -> Error {
    let (name, columns) = match target {
        ConflictTarget::Index(i) => {
            let index = &table.indexes[i];
            (
                index.name.as_str(),
                index.columns.iter().map(|c| c.column).collect(),
            )
        }
        _ => (table.primary_key_name.as_str(), table.primary_key.clone()),
    };
    duplicate_key(table, name, &columns, row)
}

/// 23505 naming the constraint and the values.
pub fn duplicate_key(table: &Table, name: &str, columns: &[usize], row: &[Value]) -> Error {
    let names: Vec<&str> = columns
        .iter()
        .map(|c| table.columns[*c].name.as_str())
        .collect();
    let values: Vec<String> = columns.iter().map(|c| shown(&row[*c])).collect();
    Error::new(
        "23505",
        format!("duplicate key value violates unique constraint \"{name}\""),
    )
    .detail(format!(
        "Key ({})=({}) already exists.",
        names.join(", "),
        values.join(", ")
    ))
}

fn shown(value: &Value) -> String {
    text::to_text(value).map_or_else(|| "null".to_string(), |t| t.to_string())
}

/// NOT NULL and CHECK.
fn check_row(
    rules: &RowRules,
    row: &[Value],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<()> {
    let table = &rules.table;
    for (column, value) in table.columns.iter().zip(row) {
        if column.not_null && value.is_null() {
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, table.name
            );
            return Err(Error::new("23502", message).detail(failing_row(table, row)));
        }
    }
    for (name, check) in &rules.checks {
        // Unknown is not a violation.
        if truth(check, &frame.with_row(row), ctx)? == Some(false) {
            let message = format!(
                "new row for relation \"{}\" violates check constraint \"{name}\"",
                table.name
            );
            return Err(Error::new("23514", message).detail(failing_row(table, row)));
        }
    }
    Ok(())
}

fn failing_row(table: &Table, row: &[Value]) -> String {
    let visible = table.visible_columns().len();
    let values: Vec<String> = row[..visible].iter().map(shown).collect();
    format!("Failing row contains ({}).", values.join(", "))
}

/// Key and value of a row. Small ones share one allocation: the store keeps keys longer than values, and may so keep the
/// first value of a key for as long as the key.
fn row_record(table: &Table, mut key: Vec<u8>, row: &[Value]) -> Result<(Bytes, Bytes)> {
    let length_max = codec::row::length_max(row);
    if length_max > SHARED_BYTES_MAX {
        let mut value = Vec::with_capacity(length_max);
        codec::row::encode_into(&mut value, row)?;
        check_length(table, value.len())?;
        key.shrink_to_fit();
        return Ok((key.into(), value.into()));
    }
    let begins = key.len();
    key.reserve_exact(length_max);
    codec::row::encode_into(&mut key, row)?;
    let mut key = Bytes::from(key);
    let value = key.split_off(begins);
    Ok((key, value))
}

fn check_length(table: &Table, length: usize) -> Result<()> {
    if length <= ROW_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        "54000",
        format!(
            "row of \"{}\" is {length} bytes long; at most {ROW_BYTES_MAX} are allowed",
            table.name,
        ),
    )
    .hint("split large values over several rows"))
}

/// Writes a row that is known to be new.
fn store_row(rules: &RowRules, row: &[Value], key: Vec<u8>, ctx: &mut ExecCtx<'_>) -> Result<()> {
    let table = &rules.table;
    ctx.step()?;
    let slot = keys::slot_of(table, row);
    let (key, value) = row_record(table, key, row)?;
    ctx.store.put_new_at(key, value, slot)?;
    for index in &table.indexes {
        // An entry ends with its row's primary key: as the row was absent, so is the entry.
        let (key, value) = keys::index_entry(table, index, row)?;
        let slot = keys::slot_of_entry(table, index, row);
        ctx.store.put_new_at(key.into(), value, slot)?;
    }
    Ok(())
}

fn remove_row(table: &Table, row: &[Value], ctx: &mut ExecCtx<'_>) -> Result<()> {
    ctx.step()?;
    let slot = keys::slot_of(table, row);
    ctx.store.delete_at(&keys::row_key(table, row), slot)?;
    for index in &table.indexes {
        hold_unique(table, index, row, ctx)?;
        let (key, _) = keys::index_entry(table, index, row)?;
        let slot = keys::slot_of_entry(table, index, row);
        ctx.store.delete_at(&key, slot)?;
    }
    Ok(())
}

fn assigned(
    old: &[Value],
    list: &[Assignment],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Vec<Value>> {
    let mut new = old.to_vec();
    for assignment in list {
        new[assignment.column] = eval(&assignment.value, frame, ctx)?;
    }
    Ok(new)
}

/// Writes `new` in the place of `old`; another primary key moves the row.
fn replace_row(
    rules: &RowRules,
    old: &[Value],
    new: &[Value],
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<()> {
    let table = &rules.table;
    check_row(rules, new, frame, ctx)?;
    let moved = table.primary_key.iter().any(|c| old[*c] != new[*c]);
    let key = keys::row_key(table, new);
    let (slot_before, slot) = (keys::slot_of(table, old), keys::slot_of(table, new));
    let moved = moved && key != keys::row_key(table, old);
    if moved && ctx.store.get_to_write(&key, slot)?.is_some() {
        return Err(duplicate(table, ConflictTarget::PrimaryKey, new));
    }
    for (i, index) in table.indexes.iter().enumerate() {
        let changed = index.columns.iter().any(|c| old[c.column] != new[c.column]);
        if !changed && !moved {
            continue;
        }
        if changed
            && index.unique
            && differs_in(table, index, old, new)
            && unique_row(table, index, new, ctx)?.is_some()
        {
            return Err(duplicate(table, ConflictTarget::Index(i), new));
        }
        let (before, _) = keys::index_entry(table, index, old)?;
        let (after, value) = keys::index_entry(table, index, new)?;
        if before != after {
            if changed {
                hold_unique(table, index, old, ctx)?;
            }
            let slot_before = keys::slot_of_entry(table, index, old);
            let slot = keys::slot_of_entry(table, index, new);
            ctx.store.delete_at(&before, slot_before)?;
            ctx.store.put_at(after.into(), value, slot)?;
        }
    }
    ctx.step()?;
    if moved {
        ctx.store
            .delete_at(&keys::row_key(table, old), slot_before)?;
    }
    let (key, value) = row_record(table, key, new)?;
    ctx.store.put_at(key, value, slot)
}

/// As PostgreSQL: an update of other columns than keys leaves FOR KEY SHARE alone.
fn update_lock(table: &Table, assignments: &[Assignment]) -> RowLock {
    let in_key = |column: usize| {
        let mut unique = table.indexes.iter().filter(|i| i.unique);
        table.primary_key.contains(&column)
            || unique.any(|i| i.columns.iter().any(|c| c.column == column))
    };
    let mode = match assignments.iter().any(|a| in_key(a.column)) {
        true => LockMode::Update,
        false => LockMode::NoKeyUpdate,
    };
    RowLock { mode, ..WRITE_LOCK }
}

/// What locks a row: its key and slot.
pub(super) fn lock_of(table: &Table, row: &[Value]) -> (Bytes, Option<Slot>) {
    (keys::row_key(table, row).into(), keys::slot_of(table, row))
}

/// Whether two rows have different keys in an index (0.0 and -0.0 have the same).
fn differs_in(table: &Table, index: &Index, old: &[Value], new: &[Value]) -> bool {
    keys::index_prefix(table, index, old) != keys::index_prefix(table, index, new)
}

/// Rows that a statement writes to, each with the rows of FROM beside it; each row of the table once.
fn targets(
    rules: &RowRules,
    steps: &[Step],
    filter: Option<&crate::sql::plan::Expr>,
    lock: RowLock,
    frame: &Frame<'_>,
    ctx: &mut ExecCtx<'_>,
) -> Result<Vec<Vec<Value>>> {
    let mut found: Vec<Vec<Value>> = Vec::new();
    if let Some(filter) = filter
        && truth(filter, frame, ctx)? != Some(true)
    {
        return Ok(found);
    }
    let joined = steps.len() > 1;
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    // The tables of FROM are only read.
    ctx.store.will_lock((!joined).then_some(lock));
    let run = steps::run(steps, frame, ctx, &mut |_, row| {
        if !joined || seen.insert(keys::row_key(&rules.table, row)) {
            found.push(row.to_vec());
        }
        Ok(ControlFlow::Continue(()))
    });
    ctx.store.will_lock(None);
    let _ = run?;
    if ctx.store.takes_locks() {
        let one = |row: &Vec<Value>| lock_of(&rules.table, row);
        let locks: Vec<_> = found.iter().map(one).collect();
        ctx.store.lock_rows(&locks, lock)?;
    }
    Ok(found)
}

pub fn update(update: &Update, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Done> {
    let frame = Frame::new(params);
    let rules = &update.rules;
    let width = rules.table.columns.len();
    let filter = update.filter.as_ref();
    let lock = update_lock(&rules.table, &update.assignments);
    let found = targets(rules, &update.steps, filter, lock, &frame, ctx)?;
    let mut returned = Vec::new();
    let count = found.len() as u64;
    for mut row in found {
        let new = assigned(
            &row[..width],
            &update.assignments,
            &frame.with_row(&row),
            ctx,
        )?;
        replace_row(rules, &row[..width], &new, &frame, ctx)?;
        if let Some(returning) = &update.returning {
            row.splice(..width, new);
            returned.push(eval_all(returning, &frame.with_row(&row), ctx)?);
        }
    }
    Ok(Done::new("UPDATE", count, returned))
}

pub fn delete(delete: &Delete, ctx: &mut ExecCtx<'_>, params: &[Value]) -> Result<Done> {
    let frame = Frame::new(params);
    let rules = &delete.rules;
    let width = rules.table.columns.len();
    let filter = delete.filter.as_ref();
    let found = targets(rules, &delete.steps, filter, WRITE_LOCK, &frame, ctx)?;
    let mut returned = Vec::new();
    let count = found.len() as u64;
    for row in found {
        remove_row(&rules.table, &row[..width], ctx)?;
        if let Some(returning) = &delete.returning {
            returned.push(eval_all(returning, &frame.with_row(&row), ctx)?);
        }
    }
    Ok(Done::new("DELETE", count, returned))
}
