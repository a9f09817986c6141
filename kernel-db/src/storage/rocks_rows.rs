//! Reading rows of the state store: what RocksDB holds, and over it what it was not given yet.

use std::collections::BTreeMap;
use std::iter::Peekable;

use bytes::Bytes;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use super::recent::{Recent, Slot};
use super::rocks_keys::{be_u64, current_key, decode_row, rocks_error};
use super::state::{Ended, Versioned};
use crate::error::Result;

/// Walks current rows in one direction.
struct Rows<'a> {
    iterator: DBRawIterator<'a>,
    reverse: bool,
    started: bool,
}

impl<'a> Rows<'a> {
    fn start(iterator: DBRawIterator<'a>, reverse: bool) -> Self {
        Self {
            iterator,
            reverse,
            started: false,
        }
    }

    fn next(&mut self) -> Result<Option<(Bytes, Versioned)>> {
        match (std::mem::replace(&mut self.started, true), self.reverse) {
            (false, false) => self.iterator.seek_to_first(),
            (false, true) => self.iterator.seek_to_last(),
            (true, false) => self.iterator.next(),
            (true, true) => self.iterator.prev(),
        }
        match self.iterator.item() {
            Some((key, value)) => Ok(Some((
                Bytes::copy_from_slice(&key[1..]),
                decode_row(value)?,
            ))),
            None => self.iterator.status().map(|()| None).map_err(rocks_error),
        }
    }
}

/// Slots of a range in the direction of the walk.
type Slots<'a> = Peekable<Box<dyn Iterator<Item = (&'a Bytes, &'a Slot)> + 'a>>;

/// Walks current rows in one direction: those of RocksDB, and over them the recent ones.
pub(super) struct Merged<'a> {
    stored: Rows<'a>,
    /// The next row of `stored`, once it was asked for.
    ahead: Option<Option<(Bytes, Versioned)>>,
    recent: Slots<'a>,
    reverse: bool,
}

impl<'a> Merged<'a> {
    /// `stored` walks `from..to`, which is not empty.
    pub(super) fn start(
        stored: DBRawIterator<'a>,
        recent: &'a Recent,
        from: &[u8],
        to: &[u8],
        reverse: bool,
    ) -> Self {
        let slots = recent.range(from, to);
        let slots: Box<dyn Iterator<Item = (&'a Bytes, &'a Slot)> + 'a> = if reverse {
            Box::new(slots.rev())
        } else {
            Box::new(slots)
        };
        Self {
            stored: Rows::start(stored, reverse),
            ahead: None,
            recent: slots.peekable(),
            reverse,
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Versioned)>> {
        loop {
            let ahead = match self.ahead.take() {
                Some(ahead) => ahead,
                None => self.stored.next()?,
            };
            let (stored_is_next, same) = match (&ahead, self.recent.peek()) {
                (None, None) => {
                    self.ahead = Some(None);
                    return Ok(None);
                }
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, false),
                (Some((key, _)), Some((recent, _))) => (
                    (key < *recent) != self.reverse && key != *recent,
                    key == *recent,
                ),
            };
            if stored_is_next {
                return Ok(ahead);
            }
            // A recent row shadows the stored one of the same key.
            self.ahead = if same { None } else { Some(ahead) };
            if let Some((key, slot)) = self.recent.next()
                && let Some(row) = &slot.row
            {
                return Ok(Some((key.clone(), row.clone())));
            }
        }
    }

    /// The next row that was already there at `ts`.
    pub(super) fn next_at(&mut self, ts: u64) -> Result<Option<(Bytes, Versioned)>> {
        while let Some((key, row)) = self.next()? {
            if row.ts <= ts {
                return Ok(Some((key, row)));
            }
        }
        Ok(None)
    }
}

/// Rows of `from..to` that were current at `ts` and are not any more; `iterator` walks what ended after
/// `ts` in RocksDB.
pub(super) fn history_in_range(
    mut iterator: DBRawIterator<'_>,
    recent: &Recent,
    from: &[u8],
    to: &[u8],
    ts: u64,
) -> Result<BTreeMap<Bytes, Versioned>> {
    let mut rows = BTreeMap::new();
    iterator.seek_to_first();
    while let Some((history_key, value)) = iterator.item() {
        let key = &history_key[9..];
        if key >= from && key < to && be_u64(value, 0)? <= ts {
            rows.insert(Bytes::copy_from_slice(key), decode_row(value)?);
        }
        iterator.next();
    }
    iterator.status().map_err(rocks_error)?;
    for past in recent.ended_after(ts) {
        if past.key >= from && past.key < to && past.row.ts <= ts {
            rows.insert(past.key.clone(), past.row.clone());
        }
    }
    Ok(rows)
}

/// Versions that `iterator` walks, `limit` at most, and those of the recent changes behind `after`.
pub(super) fn ended(
    mut iterator: DBRawIterator<'_>,
    recent: &Recent,
    ts: u64,
    after: Option<(u64, &[u8])>,
    limit: usize,
) -> Result<Vec<Ended>> {
    let mut found = Vec::new();
    iterator.seek_to_first();
    while found.len() < limit
        && let Some((history_key, value)) = iterator.item()
    {
        found.push(Ended {
            end: be_u64(history_key, 1)?,
            key: Bytes::copy_from_slice(&history_key[9..]),
            row: decode_row(value)?,
        });
        iterator.next();
    }
    iterator.status().map_err(rocks_error)?;
    let newer = recent.ended_behind(ts, after, limit).into_iter();
    found.extend(newer.map(|past| Ended {
        end: past.end,
        key: past.key.clone(),
        row: past.row.clone(),
    }));
    found.sort_by(|a, b| (a.end, &a.key).cmp(&(b.end, &b.key)));
    found.truncate(limit);
    Ok(found)
}

/// All records of a key space.
pub(super) fn each(
    db: &DB,
    space: u8,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound([space]);
    options.set_iterate_upper_bound([space + 1]);
    let mut iterator = db.raw_iterator_opt(options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(rocks_error)
}

pub(super) fn read_row(db: &DB, key: &[u8]) -> Result<Option<Versioned>> {
    match db.get_pinned(current_key(key)).map_err(rocks_error)? {
        Some(bytes) => decode_row(&bytes).map(Some),
        None => Ok(None),
    }
}
