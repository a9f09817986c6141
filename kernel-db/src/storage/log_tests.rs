//! Single rules of the real log store, and of the twin where both have them.

use raft::eraftpb::{Entry, HardState};

use super::engine::{EngineLog, EngineLogOptions};
use super::memory::{MemLog, MemState};
use super::twin_tests::{IDENTITY, compare_logs, files, log_write};
use super::{LogStore, LogWrite};

#[test]
fn a_log_begins_anew_behind_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineLogOptions::default();
    let real = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    let twin = MemLog::new();
    let reset = |first: u64, count: u64| LogWrite {
        group: 1,
        entries: (first..first + count)
            .map(|index| Entry {
                index,
                term: 4,
                ..Entry::default()
            })
            .collect(),
        hard_state: Some(HardState {
            term: 4,
            vote: 2,
            commit: 20,
            ..HardState::default()
        }),
        reset: true,
        member: None,
    };
    let check = |log: &dyn LogStore, expected: (u64, u64)| {
        let (first, last, hard_state) = log.load(1).unwrap();
        assert_eq!((first, last), expected);
        assert_eq!((hard_state.term, hard_state.vote), (4, 2));
        assert_eq!(log.member(1).unwrap(), Some(8), "no reset forgets it");
        assert_eq!(log.load(2).unwrap().1, 3, "another group is untouched");
    };
    for log in [&real as &dyn LogStore, &twin] {
        let mut other = log_write(log, 2, 0, &[5, 5, 5], Some(1));
        other.group = 2;
        log.append(vec![log_write(log, 1, 0, &[9; 7], Some(1)), other], true)
            .unwrap();
        log.append(vec![reset(21, 0)], true).unwrap();
        check(log, (1, 0));
        log.append(vec![reset(21, 2)], true).unwrap();
        check(log, (21, 22));
        log.append(vec![log_write(log, 1, 0, &[1; 3], None)], true)
            .unwrap();
        check(log, (21, 25));
    }
    drop(real);
    let real = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    check(&real, (21, 25));
    compare_logs(&real, &twin);
}

#[test]
fn a_damaged_log_record_is_refused_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineLogOptions::default();
    let log = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    for index in 1..=3u64 {
        let entry = Entry {
            index,
            term: 1,
            data: vec![b'a' + index as u8; 1000].into(),
            ..Entry::default()
        };
        let write = LogWrite {
            group: 1,
            entries: vec![entry],
            ..LogWrite::default()
        };
        log.append(vec![write], true).unwrap();
    }
    drop(log);
    let damaged = files(dir.path()).into_iter().any(|(path, _)| {
        let mut bytes = std::fs::read(&path).unwrap();
        let place = bytes.windows(500).position(|w| w == [b'c'; 500]);
        if let Some(place) = place {
            bytes[place] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        place.is_some()
    });
    assert!(damaged);
    let log = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    assert_eq!(log.entries(1, 1, 2, 0).unwrap()[0].data[0], b'b');
    let error = log.entries(1, 2, 3, 0).unwrap_err();
    assert_eq!(error.sqlstate(), "XX001", "{error}");
    // The replica does not start on it.
    let log: std::sync::Arc<dyn LogStore> = std::sync::Arc::new(log);
    let replica = crate::partition::Replica::new(
        crate::partition::ReplicaConfig::new(1, 1, vec![1]),
        std::sync::Arc::new(MemState::new()),
        log,
    );
    assert_eq!(replica.err().unwrap().sqlstate(), "XX001");
}

#[test]
fn the_next_file_is_filled_while_the_present_one_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let next = dir.path().join("next-log-file");
    let options = EngineLogOptions {
        file_bytes: 256 << 10,
        fill_ahead: true,
        ..EngineLogOptions::default()
    };
    let log = EngineLog::open(dir.path(), &options, IDENTITY).unwrap();
    let append = |index| {
        let entry = Entry {
            index,
            term: 1,
            data: vec![7; 10_000].into(),
            ..Entry::default()
        };
        let write = LogWrite {
            group: 1,
            entries: vec![entry],
            ..LogWrite::default()
        };
        log.append(vec![write], true).unwrap();
    };
    let begun = |number: u32| dir.path().join(format!("raft-engine/{number:016}.raftlog"));
    (1..=12).for_each(append);
    assert!(!next.exists(), "the first half");
    append(13);
    append(14);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !log.is_next_ready() {
        assert!(std::time::Instant::now() < deadline, "it is not filled");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(std::fs::metadata(&next).unwrap().len(), options.file_bytes);
    (15..=28).for_each(append);
    assert!(!next.exists(), "it is not used");
    assert_eq!(
        std::fs::metadata(begun(2)).unwrap().len(),
        options.file_bytes
    );

    // A crash leaves its zeroes at the end.
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("raft-engine")).unwrap();
    for (path, _) in files(dir.path()) {
        let to = copy.path().join(path.strip_prefix(dir.path()).unwrap());
        std::fs::copy(&path, to).unwrap();
    }
    let after = EngineLog::open(copy.path(), &options, IDENTITY).unwrap();
    assert_eq!(after.load(1).unwrap().1, 28);
    assert_eq!(after.entries(1, 1, 29, u64::MAX).unwrap().len(), 28);
    drop(log);
    assert!(!next.exists(), "it is left behind");
}
