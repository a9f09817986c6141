//! Locks of transactions that run elsewhere: blocks, and transactions over several partitions. In memory at the leader.
//!
//! Transactions that the partition runs itself take no locks: they run one after another. They look at this table, only when
//! it holds anything, for what others must not see changed or may change yet.
//!
//! What holds: locks of one owner on one span are one lock of the stronger mode, and so are ranges that follow one another, as
//! the pages of a scan do; no two owners hold conflicting locks,
//! but for a range that was locked, and read, before a key in it was locked for a prepare that then is refused, and for what a
//! prepare has read although somebody not prepared holds it, who is refused in his turn; an owner not
//! prepared that was silent for its lease is gone with all its locks; a prepared one stays until it is settled (I12).

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;

use crate::txn::messages::{LockMode, Span, TxnId};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub txn: TxnId,
    pub mode: LockMode,
    /// The owner is prepared and has written the key, or what is in the range: nobody may read it.
    pub written: bool,
}

/// A lock in somebody's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub txn: TxnId,
    /// Its owner waits for nobody any more.
    pub prepared: bool,
}

#[derive(Debug, Default)]
struct Owner {
    keys: Vec<Bytes>,
    ranges: usize,
    prepared: bool,
    /// When it was last heard of, on the monotonic clock.
    heard_us: u64,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Locks {
    keys: BTreeMap<Bytes, Vec<Holder>>,
    ranges: Vec<(Span, Holder)>,
    owners: HashMap<TxnId, Owner>,
    /// Spans held by all owners together.
    count: usize,
}

impl Locks {
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Spans locked, for bounds and views.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn owns(&self, txn: TxnId) -> bool {
        self.owners.contains_key(&txn)
    }

    /// Locks of others that a lock of `mode` on `span` would conflict with.
    pub fn conflicts(&self, me: Option<TxnId>, span: &Span, mode: LockMode) -> Vec<Conflict> {
        self.others(me, span, |holder| holder.mode.conflicts(mode))
    }

    /// The first lock that a write of `key` by the partition's own transaction meets.
    pub fn write_conflict(&self, key: &[u8], mode: LockMode) -> Option<TxnId> {
        let meets = |holder: &&Holder| holder.mode.conflicts(mode);
        let of_key = self.keys.get(key).into_iter().flatten();
        let of_ranges = || {
            let around = self.ranges.iter().filter(|(span, _)| span.contains(key));
            around.map(|(_, holder)| holder)
        };
        let found = of_key.chain(of_ranges()).find(meets);
        found.map(|holder| holder.txn)
    }

    /// A prepared write of `key` by another than `me`.
    pub fn read_conflict(&self, me: Option<TxnId>, key: &[u8]) -> Option<TxnId> {
        let mut of_key = self.keys.get(key).into_iter().flatten();
        let of_ranges = || {
            let mut ranges = self.ranges.iter();
            ranges.find_map(|(span, holder)| {
                (holder.written && Some(holder.txn) != me && span.contains(key)).then_some(holder)
            })
        };
        let written = |holder: &&Holder| holder.written && Some(holder.txn) != me;
        let found = of_key.find(written).or_else(of_ranges);
        found.map(|holder| holder.txn)
    }

    /// Prepared writes by others than `me` in `span`.
    pub fn undecided(&self, me: Option<TxnId>, span: &Span) -> Vec<Conflict> {
        self.others(me, span, |holder| holder.written)
    }

    /// True if some lock that has to do with `span` is such a one.
    pub fn any(&self, span: &Span, such: impl Fn(&Holder) -> bool) -> bool {
        self.of_keys(span).any(&such)
            || (self.ranges.iter()).any(|(range, holder)| range.overlaps(span) && such(holder))
    }

    /// Who holds `span`, if that is a key, or keys in it.
    fn of_keys(&self, span: &Span) -> impl Iterator<Item = &Holder> {
        let one = span.is_key().then(|| self.keys.get(&span.from));
        let many = (!span.is_key() && span.from < span.to).then(|| {
            let bounds = (Included(&span.from[..]), Excluded(&span.to[..]));
            self.keys.range::<[u8], _>(bounds)
        });
        let many = many.into_iter().flatten().map(|(_, holders)| holders);
        one.flatten().into_iter().chain(many).flatten()
    }

    fn others(
        &self,
        me: Option<TxnId>,
        span: &Span,
        meets: impl Fn(&Holder) -> bool,
    ) -> Vec<Conflict> {
        let mut found = Vec::new();
        let mut note = |holder: &Holder| {
            let known = |conflict: &Conflict| conflict.txn == holder.txn;
            if Some(holder.txn) != me && meets(holder) && !found.iter().any(known) {
                let owner = self.owners.get(&holder.txn);
                found.push(Conflict {
                    txn: holder.txn,
                    prepared: owner.is_some_and(|owner| owner.prepared),
                });
            }
        };
        self.of_keys(span).for_each(&mut note);
        for (range, holder) in &self.ranges {
            if range.overlaps(span) {
                note(holder);
            }
        }
        found
    }

    /// Takes a lock, or strengthens the one held. The caller has looked for conflicts.
    pub fn acquire(&mut self, txn: TxnId, span: Span, mode: LockMode, now_us: u64) {
        self.hold(txn, span, mode, false, now_us);
    }

    /// What a prepared transaction has written, or may have.
    pub fn acquire_written(&mut self, txn: TxnId, span: Span, now_us: u64) {
        self.hold(txn, span, LockMode::Update, true, now_us);
    }

    fn hold(&mut self, txn: TxnId, span: Span, mode: LockMode, written: bool, now_us: u64) {
        let owner = self.owners.entry(txn).or_default();
        owner.heard_us = owner.heard_us.max(now_us);
        let holder = Holder { txn, mode, written };
        if span.is_key() {
            let holders = self.keys.entry(span.from.clone()).or_default();
            if let Some(held) = holders.iter_mut().find(|held| held.txn == txn) {
                held.mode = held.mode.max(mode);
                held.written |= written;
                return;
            }
            holders.push(holder);
            owner.keys.push(span.from);
        } else {
            let mut mine = self.ranges.iter_mut().filter(|(_, held)| held.txn == txn);
            if mine.any(|(held, by)| take_in(held, by, &span, holder)) {
                return;
            }
            self.ranges.push((span, holder));
            owner.ranges += 1;
        }
        self.count += 1;
    }

    /// Locks of one owner.
    pub fn count_of(&self, txn: TxnId) -> usize {
        let owner = self.owners.get(&txn);
        owner.map_or(0, |owner| owner.keys.len() + owner.ranges)
    }

    pub fn holds_key(&self, txn: TxnId, key: &[u8]) -> bool {
        let mut holders = self.keys.get(key).into_iter().flatten();
        holders.any(|holder| holder.txn == txn)
    }

    /// From now on the owner keeps its locks until it is settled.
    pub fn set_prepared(&mut self, txn: TxnId) {
        self.owners.entry(txn).or_default().prepared = true;
    }

    /// Everything an owner holds.
    pub fn held(&self, txn: TxnId) -> Vec<(Span, LockMode)> {
        let Some(owner) = self.owners.get(&txn) else {
            return Vec::new();
        };
        let of_key = |key: &Bytes| {
            let mut holders = self.keys.get(key)?.iter();
            let holder = holders.find(|holder| holder.txn == txn)?;
            Some((Span::key(key.clone()), holder.mode))
        };
        let ranges = self.ranges.iter().filter(|(_, holder)| holder.txn == txn);
        let ranges = ranges.map(|(span, holder)| (span.clone(), holder.mode));
        owner.keys.iter().filter_map(of_key).chain(ranges).collect()
    }

    /// Releases everything the owner holds. False if it is unknown.
    pub fn release(&mut self, txn: TxnId) -> bool {
        let Some(owner) = self.owners.remove(&txn) else {
            return false;
        };
        self.count -= owner.keys.len() + owner.ranges;
        for key in owner.keys {
            if let Some(holders) = self.keys.get_mut(&key) {
                holders.retain(|holder| holder.txn != txn);
                if holders.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
        if owner.ranges > 0 {
            self.ranges.retain(|(_, holder)| holder.txn != txn);
        }
        true
    }

    /// The owner lives. False if it is unknown: its locks are gone.
    pub fn keep_alive(&mut self, txn: TxnId, now_us: u64) -> bool {
        let owner = self.owners.get_mut(&txn);
        owner.is_some_and(|owner| {
            owner.heard_us = owner.heard_us.max(now_us);
            true
        })
    }

    /// A rollback to an earlier time has locks that would not outlive this leader.
    pub fn rolls_back(&self) -> bool {
        let mut owners = self.owners.iter();
        owners.any(|(txn, owner)| txn.start == TxnId::OLDEST && !owner.prepared)
    }

    /// Owners not prepared that were silent since `before_us`, oldest transaction first.
    pub fn silent(&self, before_us: u64) -> Vec<TxnId> {
        let silent = self
            .owners
            .iter()
            .filter(|(_, owner)| !owner.prepared && owner.heard_us < before_us);
        let mut txns: Vec<_> = silent.map(|(txn, _)| *txn).collect();
        txns.sort_unstable();
        txns
    }
}

/// True if the owner's lock on the range `held` is all that one on `span` would add, or became so.
fn take_in(held: &mut Span, by: &mut Holder, span: &Span, more: Holder) -> bool {
    if held == span {
        by.mode = by.mode.max(more.mode);
        by.written |= more.written;
        return true;
    }
    let (within, alike) = (
        held.from <= span.from && span.to <= held.to,
        (by.mode, by.written) == (more.mode, more.written),
    );
    if within && by.mode >= more.mode && by.written >= more.written {
        return true;
    }
    let touch = held.from <= span.to && span.from <= held.to;
    if alike && touch {
        let from = (&held.from).min(&span.from).clone();
        let to = (&held.to).max(&span.to).clone();
        *held = Span { from, to };
    }
    alike && touch
}

#[cfg(test)]
mod tests {
    use super::LockMode::{KeyShare, NoKeyUpdate, Share, Update};
    use super::*;

    fn txn(start: u64) -> TxnId {
        TxnId {
            start,
            node: 1,
            number: 0,
        }
    }

    fn key(name: &'static str) -> Span {
        Span::key(Bytes::from_static(name.as_bytes()))
    }

    fn range(from: &'static str, to: &'static str) -> Span {
        Span::range(Bytes::from(from), Bytes::from(to))
    }

    fn who(conflicts: &[Conflict]) -> Vec<u64> {
        conflicts
            .iter()
            .map(|conflict| conflict.txn.start)
            .collect()
    }

    #[test]
    fn a_rollback_depends_on_the_leader_until_it_is_prepared() {
        let mut locks = Locks::default();
        locks.acquire(txn(7), range("b", "d"), Share, 0);
        assert!(!locks.rolls_back());
        locks.acquire(txn(TxnId::OLDEST), range("k", "m"), Update, 0);
        assert!(locks.rolls_back());
        locks.set_prepared(txn(TxnId::OLDEST));
        assert!(!locks.rolls_back());
    }

    #[test]
    fn a_range_lock_covers_keys_that_are_not_there() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), range("b", "d"), Share, 0);
        assert_eq!(locks.write_conflict(b"c", NoKeyUpdate), Some(txn(1)));
        assert_eq!(locks.write_conflict(b"d", NoKeyUpdate), None);
        assert_eq!(who(&locks.conflicts(Some(txn(2)), &key("b"), Update)), [1]);
        assert!(locks.conflicts(Some(txn(1)), &key("b"), Update).is_empty());
        assert!(locks.conflicts(None, &range("c", "e"), Share).is_empty());
        assert_eq!(who(&locks.conflicts(None, &range("c", "e"), Update)), [1]);
    }

    #[test]
    fn a_range_meets_the_keys_in_it() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), key("c"), Update, 0);
        locks.acquire(txn(2), key("x"), Update, 0);
        assert_eq!(who(&locks.conflicts(None, &range("a", "d"), Share)), [1]);
        assert!(locks.conflicts(None, &range("a", "c"), Share).is_empty());
    }

    #[test]
    fn a_lock_held_twice_is_one_of_the_stronger_mode() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), key("a"), Update, 0);
        locks.acquire(txn(1), key("a"), KeyShare, 0);
        assert_eq!(locks.held(txn(1)), [(key("a"), Update)]);
        assert_eq!(locks.len(), 1);
        assert!(locks.release(txn(1)));
        assert_eq!(
            (locks.len(), locks.keys.len(), locks.is_empty()),
            (0, 0, true)
        );
        assert!(!locks.release(txn(1)));
    }

    #[test]
    fn pages_of_a_scan_are_one_lock() {
        let mut locks = Locks::default();
        for (from, to) in [("b", "d"), ("d", "f"), ("x", "z"), ("a", "b"), ("c", "e")] {
            locks.acquire(txn(1), range(from, to), Update, 0);
        }
        assert_eq!(
            locks.held(txn(1)),
            [(range("a", "f"), Update), (range("x", "z"), Update)]
        );
        assert_eq!((locks.len(), locks.count_of(txn(1))), (2, 2));
        // Another mode is another lock, unless it is within a stronger one.
        locks.acquire(txn(1), range("b", "c"), Share, 0);
        locks.acquire(txn(1), range("f", "g"), Share, 0);
        locks.acquire(txn(2), range("g", "h"), Share, 0);
        assert_eq!((locks.len(), locks.count_of(txn(1))), (4, 3));
        locks.acquire_written(txn(1), range("f", "g"), 0);
        assert_eq!(locks.read_conflict(None, b"f"), Some(txn(1)));
        assert_eq!(locks.read_conflict(None, b"e"), None);
        assert!(locks.release(txn(1)));
        assert_eq!((locks.len(), locks.ranges.len()), (1, 1));
    }

    #[test]
    fn only_prepared_writes_are_in_the_way_of_reads() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), key("a"), Update, 0);
        assert_eq!(locks.read_conflict(None, b"a"), None);
        locks.acquire_written(txn(1), key("a"), 0);
        locks.set_prepared(txn(1));
        assert_eq!(locks.read_conflict(None, b"a"), Some(txn(1)));
        assert_eq!(locks.read_conflict(Some(txn(1)), b"a"), None);
        let undecided = locks.undecided(None, &range("a", "b"));
        assert!(undecided[0].prepared && undecided.len() == 1);
    }

    #[test]
    fn a_range_that_may_be_written_is_read_by_nobody() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), range("b", "d"), Update, 0);
        assert_eq!(locks.read_conflict(None, b"c"), None);
        locks.acquire_written(txn(1), range("b", "d"), 0);
        assert_eq!(locks.read_conflict(None, b"c"), Some(txn(1)));
        assert_eq!(locks.read_conflict(Some(txn(1)), b"c"), None);
        assert_eq!(locks.read_conflict(None, b"d"), None);
        assert_eq!(who(&locks.undecided(None, &range("a", "c"))), [1]);
    }

    #[test]
    fn silence_ends_locks_that_are_not_prepared() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), key("a"), Update, 10);
        locks.acquire(txn(2), key("b"), Update, 10);
        locks.acquire(txn(3), key("c"), Update, 10);
        locks.set_prepared(txn(2));
        assert!(locks.keep_alive(txn(3), 60));
        assert_eq!(locks.silent(50), [txn(1)]);
        assert!(!locks.keep_alive(txn(9), 60));
    }

    #[test]
    fn sharers_are_all_named() {
        let mut locks = Locks::default();
        locks.acquire(txn(1), key("a"), Share, 0);
        locks.acquire(txn(2), key("a"), Share, 0);
        assert_eq!(
            who(&locks.conflicts(Some(txn(3)), &key("a"), Update)),
            [1, 2]
        );
        locks.release(txn(1));
        assert_eq!(who(&locks.conflicts(Some(txn(3)), &key("a"), Update)), [2]);
    }
}
