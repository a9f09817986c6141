//! What the state store on RocksDB promises beside what its twin does: bounded memory, and what a crash leaves.

use bytes::Bytes;

use super::memory::MemState;
use super::rocks::{RocksShared, RocksState};
use super::twin_tests::{IDENTITY, copy_dir};
use super::{AppliedEntry, Op, StateSnapshot, StateStore};

/// Entry `index` writes one key of its own and one that all entries write, and deletes the key of three entries ago.
fn busy_entry(index: u64) -> AppliedEntry {
    let key = |number: u64| Bytes::from(format!("0000row {number:08}"));
    let put = |key: Bytes, fresh| Op::Put {
        key,
        value: Bytes::from(vec![index as u8; 200]),
        fresh,
    };
    let mut ops = vec![put(key(index), true), put(key(0), index == 1)];
    if index > 3 {
        ops.push(Op::Delete {
            key: key(index - 3),
        });
    }
    AppliedEntry {
        index,
        term: 1,
        ts: index,
        ceiling: index,
        ops,
        ..AppliedEntry::default()
    }
}

#[test]
fn i8_recent_changes_are_bounded_and_a_crash_between_spills_replays_to_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let shared = RocksShared::new(1 << 20, 100 << 10).with_files_only();
    let real = RocksState::open(&dir.path().join("a"), &shared, IDENTITY).unwrap();
    let twin = MemState::new();
    let entries: Vec<AppliedEntry> = (1..=2000).map(busy_entry).collect();
    for some in entries.chunks(7) {
        real.apply(some).unwrap();
        twin.apply(some).unwrap();
        assert!(shared.recent_bytes() < 110 << 10);
    }
    let durable = real.durable_index();
    assert!((1900..2000).contains(&durable), "durable up to {durable}");
    copy_dir(&dir.path().join("a"), &dir.path().join("b"));
    let again = RocksState::open(&dir.path().join("b"), &shared, IDENTITY).unwrap();
    assert_eq!(again.meta().applied_index, durable);
    again.apply(&entries).unwrap();
    for store in [&real, &again] {
        assert_eq!(store.meta(), twin.meta());
        for ts in [1995, 1500, 3, 2000] {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            store
                .scan_at(b"0000", b"0001", false, usize::MAX, ts, &mut left)
                .unwrap();
            twin.scan_at(b"0000", b"0001", false, usize::MAX, ts, &mut right)
                .unwrap();
            assert_eq!(left, right, "at {ts}");
            assert_eq!(left.len(), 4, "at {ts}");
        }
    }
}
