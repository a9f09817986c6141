//! Filling a new index, some rows at a time, beside the writes that already keep it.

use bytes::Bytes;

use super::{keys, write};
use crate::error::{Error, Result};
use crate::partition::{Scan, Store, TxnEnv};
use crate::sql::codec;
use crate::sql::codec::key::prefix_end;
use crate::sql::transaction::Backfill;

/// Indexes the rows after `job.after`; returns where to go on, none at the end.
pub fn run(job: &Backfill, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Option<Bytes>> {
    let table = job.catalog.tables().find(|t| t.id == job.table);
    let index = table.and_then(|t| t.indexes.iter().find(|i| i.id == job.index));
    let (Some(table), Some(index)) = (table, index) else {
        return Err(Error::new(
            "42704",
            "the index was dropped while it was being filled",
        ));
    };
    let types = table.types();
    let (mut from, to) = keys::range_of(table.id, Some(0));
    if let Some(after) = &job.after {
        from = after.to_vec();
        from.push(0);
    }
    let mut rows = Vec::new();
    let limit = job.max_rows.max(1);
    store.scan(
        Scan {
            from: &from,
            to: &to,
            reverse: false,
            limit,
            slot: None,
        },
        &mut rows,
    )?;
    for (_, bytes) in &rows {
        env.budget.step(1)?;
        let row = codec::row::decode(bytes, &types)?;
        let (key, value) = keys::index_entry(table, index, &row)?;
        if index.unique && !index.columns.iter().any(|c| row[c.column].is_null()) {
            let from = keys::index_prefix(table, index, &row);
            let to = prefix_end(&from).unwrap_or_else(|| vec![0xff; from.len() + 1]);
            let mut found = Vec::new();
            store.scan(
                Scan {
                    from: &from,
                    to: &to,
                    reverse: false,
                    limit: 1,
                    slot: None,
                },
                &mut found,
            )?;
            if found.first().is_some_and(|(k, _)| k[..] != key[..]) {
                let columns: Vec<usize> = index.columns.iter().map(|c| c.column).collect();
                let cause = write::duplicate_key(table, &index.name, &columns, &row);
                let detail = cause
                    .get_detail()
                    .unwrap_or_default()
                    .replace("already exists", "is duplicated");
                return Err(Error::new(
                    "23505",
                    format!("could not create unique index \"{}\"", index.name),
                )
                .detail(detail));
            }
        }
        store.put(key.into(), value)?;
    }
    Ok(rows
        .last()
        .filter(|_| rows.len() >= limit)
        .map(|(key, _)| key.clone()))
}
