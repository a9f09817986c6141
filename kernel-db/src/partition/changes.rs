//! What changed in a partition lately: for transactions that read at a timestamp, and must know at their end whether what
//! they read is still so.
//!
//! A proposed batch leaves its timestamp and its keys here. Bounded in bytes; whoever began before what is kept is told so.
//! Keys are shared with the tip; a batch is sorted when it is first asked about, which most never are.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;

use super::tip::Record;
use crate::storage::{Op, Section};
use crate::txn::messages::Span;

/// Bytes of a kept key beside its own.
const KEY_OVERHEAD: usize = 32;

/// Answer to "did it change?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    No,
    Yes,
    /// The timestamp is before everything that is kept.
    TooOld,
}

struct Group {
    /// Of the entry, and of these changes: a settled transaction's is lower.
    entry_ts: u64,
    ts: u64,
    keys: Vec<Bytes>,
    ranges: Vec<Span>,
    sorted: bool,
    bytes: usize,
}

/// See the module's description.
pub struct Changes {
    /// In order of entries.
    groups: VecDeque<Group>,
    bytes: usize,
    bytes_max: usize,
    /// Everything after it is known.
    floor: u64,
    /// Keys of the open batch as far as they were looked at: the first `seen` of its records.
    open: BTreeMap<Bytes, ()>,
    seen: usize,
}

/// The batch that is open.
pub struct Open<'a> {
    pub records: &'a [Record],
    pub ranges: &'a [(Bytes, Bytes)],
    /// Keys whose change has a timestamp of its own.
    pub stamped: &'a std::collections::HashMap<Bytes, u64>,
}

impl Changes {
    /// Nothing is known of the time up to `floor`.
    pub fn new(floor: u64, bytes_max: usize) -> Self {
        Self {
            groups: VecDeque::new(),
            bytes: 0,
            bytes_max,
            floor,
            open: BTreeMap::new(),
            seen: 0,
        }
    }

    /// The open batch was closed with these changes.
    pub fn closed(&mut self, entry_ts: u64, ops: &[Op], sections: &[Section]) {
        self.open.clear();
        self.seen = 0;
        self.push(entry_ts, entry_ts, ops);
        for section in sections {
            self.push(entry_ts, section.ts, &section.ops);
        }
        while self.bytes > self.bytes_max {
            let Some(group) = self.groups.pop_front() else {
                break;
            };
            self.bytes -= group.bytes;
            self.floor = group.entry_ts;
        }
        // Groups of one entry go together.
        while self
            .groups
            .front()
            .is_some_and(|group| group.entry_ts <= self.floor)
        {
            let gone = self.groups.pop_front();
            self.bytes -= gone.map_or(0, |group| group.bytes);
        }
    }

    fn push(&mut self, entry_ts: u64, ts: u64, ops: &[Op]) {
        if ops.is_empty() {
            return;
        }
        let mut group = Group {
            entry_ts,
            ts,
            keys: Vec::with_capacity(ops.len()),
            ranges: Vec::new(),
            sorted: false,
            bytes: 0,
        };
        for op in ops {
            match op {
                Op::Put { key, .. } | Op::Delete { key } => {
                    group.bytes += key.len() + KEY_OVERHEAD;
                    group.keys.push(key.clone());
                }
                Op::DeleteRange { from, to } => {
                    group.bytes += from.len() + to.len() + KEY_OVERHEAD;
                    group.ranges.push(Span::range(from.clone(), to.clone()));
                }
            }
        }
        self.bytes += group.bytes;
        self.groups.push_back(group);
    }

    /// True if anything in `span` changed after `since`, by what is proposed or by the open batch.
    pub fn after(&mut self, span: &Span, since: u64, open: &Open<'_>) -> Changed {
        if since < self.floor {
            return Changed::TooOld;
        }
        if self.in_open(span, since, open) {
            return Changed::Yes;
        }
        for group in self.groups.iter_mut().rev() {
            if group.entry_ts <= since {
                break;
            }
            if group.ts > since && group.touches(span) {
                return Changed::Yes;
            }
        }
        Changed::No
    }

    fn in_open(&mut self, span: &Span, since: u64, open: &Open<'_>) -> bool {
        let new = open.records.get(self.seen..).unwrap_or(&[]);
        self.open
            .extend(new.iter().map(|record| (record.key.clone(), ())));
        self.seen = open.records.len();
        let counts = |key: &Bytes| open.stamped.get(key).is_none_or(|ts| *ts > since);
        let hit = if span.is_key() {
            self.open.contains_key(&span.from) && counts(&span.from)
        } else if span.from < span.to {
            let bounds = (Included(&span.from[..]), Excluded(&span.to[..]));
            self.open
                .range::<[u8], _>(bounds)
                .any(|(key, ())| counts(key))
        } else {
            false
        };
        let dropped =
            |(from, to): &(Bytes, Bytes)| Span::range(from.clone(), to.clone()).overlaps(span);
        hit || open.ranges.iter().any(dropped)
    }
}

impl Group {
    fn touches(&mut self, span: &Span) -> bool {
        if !self.sorted {
            self.keys.sort_unstable();
            self.sorted = true;
        }
        let place = self.keys.partition_point(|key| key < &span.from);
        let found = self.keys.get(place).is_some_and(|key| span.contains(key));
        found || self.ranges.iter().any(|range| range.overlaps(span))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::partition::tip_table::Base;

    fn put(key: &'static str) -> Op {
        Op::Put {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            fresh: false,
        }
    }

    fn key(name: &'static str) -> Span {
        Span::key(Bytes::from_static(name.as_bytes()))
    }

    fn ask(changes: &mut Changes, span: &Span, since: u64) -> Changed {
        let open = Open {
            records: &[],
            ranges: &[],
            stamped: &HashMap::new(),
        };
        changes.after(span, since, &open)
    }

    #[test]
    fn a_key_changed_after_what_was_read_and_not_before() {
        let mut changes = Changes::new(5, 1 << 20);
        changes.closed(10, &[put("b"), put("a")], &[]);
        changes.closed(
            20,
            &[Op::DeleteRange {
                from: "m".into(),
                to: "p".into(),
            }],
            &[],
        );
        assert_eq!(ask(&mut changes, &key("a"), 9), Changed::Yes);
        assert_eq!(ask(&mut changes, &key("a"), 10), Changed::No);
        assert_eq!(ask(&mut changes, &key("c"), 9), Changed::No);
        assert_eq!(ask(&mut changes, &key("n"), 10), Changed::Yes);
        assert_eq!(ask(&mut changes, &key("n"), 4), Changed::TooOld);
        let range = Span::range("aa".into(), "bb".into());
        assert_eq!(ask(&mut changes, &range, 9), Changed::Yes);
    }

    #[test]
    fn a_settled_change_counts_at_its_own_time() {
        let mut changes = Changes::new(0, 1 << 20);
        let section = Section {
            ts: 12,
            ops: vec![put("s")],
        };
        changes.closed(30, &[put("a")], &[section]);
        assert_eq!(ask(&mut changes, &key("s"), 11), Changed::Yes);
        assert_eq!(ask(&mut changes, &key("s"), 12), Changed::No);
        assert_eq!(ask(&mut changes, &key("a"), 12), Changed::Yes);
    }

    #[test]
    fn the_open_batch_counts_and_what_is_forgotten_is_told() {
        let record = |key: &'static str| Record {
            key: Bytes::from_static(key.as_bytes()),
            base: Base::Unknown,
            value: None,
        };
        let records = [record("a"), record("t")];
        let stamped = HashMap::from([(Bytes::from_static(b"t"), 7)]);
        let mut changes = Changes::new(0, 100);
        for (count, span, since, expected) in [
            (1, key("a"), 9, Changed::Yes),
            (1, key("t"), 9, Changed::No),
            (2, key("t"), 6, Changed::Yes),
            (2, key("t"), 7, Changed::No),
        ] {
            let open = Open {
                records: &records[..count],
                ranges: &[],
                stamped: &stamped,
            };
            assert_eq!(
                changes.after(&span, since, &open),
                expected,
                "{span:?} {since}"
            );
        }
        for ts in 1..=10 {
            changes.closed(ts * 10, &[put("a")], &[]);
        }
        assert!(changes.bytes <= 100);
        assert_eq!(ask(&mut changes, &key("a"), 60), Changed::TooOld);
        assert_eq!(ask(&mut changes, &key("a"), 99), Changed::Yes);
    }
}
