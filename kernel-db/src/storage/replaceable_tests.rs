//! A checkpoint from one real store to another, with crashes and damage on the way.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::files::directories;
use super::format::Identity;
use super::replaceable::ReplaceableState;
use super::rocks::RocksShared;
use super::transfer::{Incoming, Manifest, incoming_dir, read_piece};
use super::{AppliedEntry, Checkpoint, Op, SessionRecord, StateSnapshot, StateStore};

const IDENTITY: Identity = Identity {
    cluster: 42,
    number: 1,
};

fn open(dir: &Path) -> crate::error::Result<ReplaceableState> {
    ReplaceableState::open(dir, &RocksShared::new(8 << 20, 8 << 20), IDENTITY)
}

/// Entries `from..=to`, each with a row and a session.
fn fill(store: &ReplaceableState, from: u64, to: u64) {
    for index in from..=to {
        let put = Op::Put {
            key: Bytes::from(format!("key {index:04}")),
            value: Bytes::from(vec![index as u8; 500]),
            fresh: true,
        };
        let entry = AppliedEntry {
            index,
            term: 3,
            ts: index * 10,
            ceiling: index * 10 + 5,
            ops: vec![put],
            sessions: vec![SessionRecord {
                session: 9,
                number: index,
                reply: Bytes::from_static(b"done"),
            }],
            ..AppliedEntry::default()
        };
        store.apply(&[entry]).unwrap();
    }
}

fn rows(store: &dyn StateSnapshot) -> usize {
    let mut rows = Vec::new();
    store
        .scan(b"key ", b"key z", false, 100_000, &mut rows)
        .unwrap();
    rows.len()
}

fn bring(from: &Path, to: &Path, checkpoint: &Checkpoint) -> crate::error::Result<PathBuf> {
    let manifest = Manifest::decode_checked(&checkpoint.data)?;
    let mut incoming = Incoming::open(to, manifest.clone())?;
    while let Some(piece) = incoming.missing()? {
        let name = &manifest.files[piece.file].name;
        let bytes = read_piece(from, manifest.id(), name, piece.offset, 4096)?;
        incoming.write(piece, &bytes)?;
    }
    incoming.sync()?;
    Ok(incoming_dir(to, &manifest))
}

fn databases(dir: &Path) -> usize {
    let is_database = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("rocksdb")
    };
    directories(dir)
        .unwrap()
        .iter()
        .filter(|path| is_database(path))
        .count()
}

#[test]
fn a_checkpoint_takes_the_place_of_a_state_and_stays_there() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (open(from.path()).unwrap(), open(to.path()).unwrap());
    fill(&source, 1, 300);
    fill(&target, 1, 5);
    let members = Bytes::from_static(b"members");
    let checkpoint = source.checkpoint(&members).unwrap();
    assert_eq!((checkpoint.index, checkpoint.term), (300, 3));
    assert_eq!(checkpoint.members, members);
    // What comes later is not in it, and does not disturb it.
    fill(&source, 301, 310);
    let arrived = bring(from.path(), to.path(), &checkpoint).unwrap();
    target.verify(&arrived).unwrap();
    target.install(&checkpoint).unwrap();
    let check = |store: &ReplaceableState| {
        assert_eq!(
            (store.meta().applied_index, store.durable_index()),
            (300, 300)
        );
        assert_eq!((rows(store), store.origin()), (300, (300, 3)));
        assert_eq!(store.meta().members, members);
        assert_eq!(store.sessions().unwrap().len(), 300);
        assert_eq!(databases(to.path()), 1);
    };
    check(&target);
    drop(target);
    let target = open(to.path()).unwrap();
    check(&target);
    // And once more, over what began as a checkpoint.
    let later = source.checkpoint(&members).unwrap();
    bring(from.path(), to.path(), &later).unwrap();
    target.install(&later).unwrap();
    assert_eq!((target.meta().applied_index, rows(&target)), (310, 310));
    source.withdraw().unwrap();
    assert!(bring(from.path(), to.path(), &later).is_err());
}

#[test]
fn a_crash_before_the_last_rename_leaves_the_old_state() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (open(from.path()).unwrap(), open(to.path()).unwrap());
    fill(&source, 1, 50);
    fill(&target, 1, 5);
    target.flush().unwrap();
    drop(target);
    let checkpoint = source.checkpoint(&Bytes::new()).unwrap();
    let arrived = bring(from.path(), to.path(), &checkpoint).unwrap();
    // The new database has its name, and CURRENT does not say so yet; a CURRENT was begun beside.
    fs::rename(arrived, to.path().join("rocksdb-0123")).unwrap();
    fs::write(to.path().join("CURRENT.new"), "rocksdb-0123 50").unwrap();
    let target = open(to.path()).unwrap();
    assert_eq!((rows(&target), target.origin()), (5, (0, 0)));
    assert_eq!(databases(to.path()), 1);
}

#[test]
fn damage_is_refused_and_never_served() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (open(from.path()).unwrap(), open(to.path()).unwrap());
    fill(&source, 1, 300);
    let checkpoint = source.checkpoint(&Bytes::new()).unwrap();
    let arrived = bring(from.path(), to.path(), &checkpoint).unwrap();
    let sst = fs::read_dir(&arrived)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "sst"))
        .unwrap();
    let mut bytes = fs::read(&sst).unwrap();
    bytes[1000] ^= 0x10;
    fs::write(&sst, bytes).unwrap();
    // Damaged at the receiver: the file's checksum tells. Damaged at the sender before it made the list: the blocks' do.
    assert_ne!(
        Manifest::of(&arrived).unwrap(),
        Manifest::decode_checked(&checkpoint.data).unwrap()
    );
    let error = target.verify(&arrived).unwrap_err();
    assert!(error.message().contains("checksum mismatch"), "{error}");
    assert_eq!(error.sqlstate(), "XX001");
    // A checkpoint that is not what it says is not installed, and the old state stays.
    let arrived = bring(from.path(), to.path(), &checkpoint).unwrap();
    let lying = Checkpoint {
        index: 299,
        ..checkpoint
    };
    assert_eq!(target.install(&lying).unwrap_err().sqlstate(), "XX001");
    assert!(!arrived.exists());
    assert_eq!((rows(&target), target.origin()), (0, (0, 0)));
    drop(target);
    assert_eq!(rows(&open(to.path()).unwrap()), 0);
    fs::write(to.path().join("CURRENT"), "rocksdb-0123 x 3").unwrap();
    let error = open(to.path()).err().unwrap();
    assert_eq!(error.sqlstate(), "XX001", "{error}");
}
