//! The buffer over fetched rows, against a map that holds both.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::store::{Buffer, Intent, Row, Rows, TxnStore};
use crate::error::Result;
use crate::node::NodeConfig;
use crate::node::placement::Placement;
use crate::node::topology::Topology;
use crate::partition::{RowLock, Scan, Slot, Store};

/// Rows of three partitions: key `n` belongs to slot `n`.
struct Base(BTreeMap<Bytes, Bytes>);

fn placement() -> Placement {
    Placement::new(Topology::new(&NodeConfig {
        partitions: 3,
        ..NodeConfig::default()
    }))
}

fn key(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'k', n])
}

fn slot(key: &[u8]) -> Slot {
    Slot::from(key[1])
}

impl Rows for Base {
    fn get(&mut self, group: u32, key: &[u8], _: Intent) -> Result<Option<Bytes>> {
        let here = placement().group_of(slot(key)) == group;
        Ok(self.0.get(key).filter(|_| here).cloned())
    }

    fn scan(&mut self, groups: &[u32], scan: Scan<'_>, _: Intent) -> Result<Vec<Vec<Row>>> {
        let place = placement();
        let of = |group: &u32| {
            let rows = self.0.iter().filter(|(k, _)| {
                place.group_of(slot(k)) == *group && scan.from <= &k[..] && &k[..] < scan.to
            });
            let mut rows: Vec<Row> = rows.map(|(k, v)| (k.clone(), v.clone())).collect();
            if scan.reverse {
                rows.reverse();
            }
            rows.truncate(scan.limit);
            rows
        };
        Ok(groups.iter().map(of).collect())
    }

    fn expect(&mut self, _: &[(u32, Bytes)]) -> Result<()> {
        Ok(())
    }

    fn lock(&mut self, keys: &[(u32, Bytes)], _: RowLock) -> Result<Vec<bool>> {
        Ok(vec![true; keys.len()])
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Mark,
    Back,
    Get(u8),
    Scan {
        from: u8,
        to: u8,
        reverse: bool,
        limit: usize,
        slot: Option<u8>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..24_u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        (0..24_u8).prop_map(Step::Delete),
        Just(Step::Mark),
        Just(Step::Back),
        (0..24_u8).prop_map(Step::Get),
        (
            0..24_u8,
            0..26_u8,
            any::<bool>(),
            0..8_usize,
            proptest::option::of(0..3_u8)
        )
            .prop_map(|(from, to, reverse, limit, slot)| Step::Scan {
                from,
                to,
                reverse,
                limit,
                slot
            }),
    ]
}

proptest! {
    #[test]
    fn a_transaction_reads_what_it_wrote_over_what_is_there(
        base in proptest::collection::btree_map(0..24_u8, any::<u8>(), 0..20),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let base: BTreeMap<Bytes, Bytes> =
            base.into_iter().map(|(k, v)| (key(k), Bytes::from(vec![v]))).collect();
        let mut model = base.clone();
        let mut rows = Base(base);
        let mut buffer = Buffer::new(1 << 20);
        let placement = placement();
        let mut store = TxnStore::new(&mut buffer, &mut rows, &placement, &[1, 2, 3], false);
        let mut marks = Vec::new();
        for step in steps {
            match step {
                Step::Put(k, v) => {
                    let value = Bytes::from(vec![v]);
                    store.put_at(key(k), value.clone(), Some(k.into())).unwrap();
                    model.insert(key(k), value);
                }
                Step::Delete(k) => {
                    store.delete_at(&key(k), Some(k.into())).unwrap();
                    model.remove(&key(k));
                }
                Step::Mark => marks.push((store.savepoint(), model.clone())),
                Step::Back => {
                    if let Some((mark, before)) = marks.pop() {
                        store.rollback_to(mark);
                        model = before;
                    }
                }
                Step::Get(k) => {
                    let found = store.get(&key(k), Some(k.into())).unwrap();
                    prop_assert_eq!(found.as_ref(), model.get(&key(k)));
                    let anywhere = store.get(&key(k), None).unwrap();
                    prop_assert_eq!(anywhere.as_ref(), model.get(&key(k)));
                }
                Step::Scan { from, to, reverse, limit, slot: only } => {
                    let (from, to) = (key(from), key(to));
                    let only = only.map(Slot::from);
                    let scan = Scan { from: &from, to: &to, reverse, limit, slot: only };
                    let mut found = Vec::new();
                    store.scan(scan, &mut found).unwrap();
                    let group = only.map(|s| placement.group_of(s));
                    let mut expected: Vec<Row> = model
                        .iter()
                        .filter(|(k, _)| from <= **k && **k < to)
                        // Another partition's own writes are merged too: a range has rows of its slot only.
                        .filter(|(k, _)| group.is_none_or(|g| placement.group_of(slot(k)) == g))
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    if reverse {
                        expected.reverse();
                    }
                    expected.truncate(limit);
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

#[test]
fn the_buffer_is_bounded_and_gives_room_back() {
    let mut rows = Base(BTreeMap::new());
    let mut buffer = Buffer::new(20);
    let placement = placement();
    let mut store = TxnStore::new(&mut buffer, &mut rows, &placement, &[1, 2, 3], false);
    let mark = store.savepoint();
    let value = |n: usize| Bytes::from(vec![0; n]);
    store.put_at(key(1), value(18), Some(1)).unwrap();
    let error = store.put_at(key(2), Bytes::new(), Some(2)).unwrap_err();
    assert_eq!(error.sqlstate(), "54000");
    store.rollback_to(mark);
    store.put_at(key(2), value(16), Some(2)).unwrap();
    store.delete_at(&key(2), Some(2)).unwrap();
    store.put_at(key(1), value(16), Some(1)).unwrap();
}

#[test]
fn a_read_only_transaction_writes_and_locks_nothing() {
    let mut rows = Base(BTreeMap::new());
    let mut buffer = Buffer::new(20);
    let placement = placement();
    let mut store = TxnStore::new(&mut buffer, &mut rows, &placement, &[1, 2, 3], true);
    let error = store.put_at(key(1), Bytes::new(), Some(1)).unwrap_err();
    assert_eq!(error.sqlstate(), "25006");
    assert!(buffer.rows().is_empty());
}
