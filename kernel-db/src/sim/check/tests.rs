//! Each checker passes a right history and finds the anomaly that it is for.

use super::*;
use crate::sim::load::Row;

fn op(number: u64, (begun_us, ended_us): (u64, u64), job: Job, known: Known) -> Operation {
    Operation {
        op: number,
        lane: number as usize,
        job,
        begun_us,
        ended_us,
        known,
    }
}

fn done(numbers: &[u64]) -> Known {
    Known::Done(numbers.to_vec())
}

fn end(rows: &[(Row, &[u64])], executed: &[u64]) -> End {
    End {
        rows: rows
            .iter()
            .map(|(row, held)| (*row, held.to_vec()))
            .collect(),
        done: executed.iter().map(|op| (*op, 1)).collect(),
        ..End::default()
    }
}

fn put(number: u64, at: (u64, u64), value: u64) -> Operation {
    op(number, at, Job::Put { register: 1, value }, done(&[]))
}

fn get(number: u64, at: (u64, u64), value: u64) -> Operation {
    op(number, at, Job::Get { register: 1 }, done(&[value]))
}

fn holds(value: u64) -> End {
    end(&[((REGISTER, 1), &[value])], &[])
}

fn count(number: u64, at: (u64, u64), value: u64) -> Operation {
    op(number, at, Job::Count { counter: 1 }, done(&[value]))
}

fn lists(number: u64, at: (u64, u64), steps: &[Step], told: &[u64]) -> Operation {
    op(number, at, Job::Lists(steps.to_vec()), done(told))
}

fn fails(checked: Result<(), String>, with: &str) {
    let error = checked.expect_err(with);
    assert!(error.contains(with), "{error}");
}

#[test]
fn a_register_has_an_order() {
    let unknown = op(
        2,
        (0, u64::MAX),
        Job::Put {
            register: 1,
            value: 9,
        },
        Known::Unknown,
    );
    let history = [
        put(1, (0, 10), 5),
        unknown.clone(),
        get(3, (20, 30), 9),
        get(4, (40, 50), 9),
    ];
    linear::registers(&history, &holds(9)).unwrap();
    // The unknown one may also never happen, or happen at the very end.
    linear::registers(
        &[put(1, (0, 10), 5), unknown.clone(), get(3, (20, 30), 5)],
        &holds(5),
    )
    .unwrap();
    linear::registers(
        &[put(1, (0, 10), 5), unknown, get(3, (20, 30), 5)],
        &holds(9),
    )
    .unwrap();
}

#[test]
fn a_stale_read_of_a_register_is_found() {
    let history = [put(1, (0, 10), 5), put(2, (20, 30), 6), get(3, (40, 50), 5)];
    fails(linear::registers(&history, &holds(6)), "no order fits");
    // At the same time either value is right.
    linear::registers(
        &[put(1, (0, 10), 5), put(2, (20, 45), 6), get(3, (40, 50), 5)],
        &holds(6),
    )
    .unwrap();
}

#[test]
fn a_lost_write_of_a_register_is_found() {
    fails(
        linear::registers(&[put(1, (0, 10), 5)], &holds(0)),
        "no order fits",
    );
    let swap = |told| {
        let job = Job::Swap {
            register: 1,
            from: 5,
            to: 6,
        };
        [put(1, (0, 10), 5), op(2, (20, 30), job, done(&[told]))]
    };
    linear::registers(&swap(1), &holds(6)).unwrap();
    fails(linear::registers(&swap(1), &holds(5)), "no order fits");
    fails(linear::registers(&swap(0), &holds(5)), "no order fits");
}

#[test]
fn a_second_execution_and_a_lost_one_are_found() {
    let history = [count(1, (0, 10), 1)];
    at_most_once(&history, &end(&[], &[1])).unwrap();
    fails(at_most_once(&history, &end(&[], &[])), "executed 0 times");
    let mut twice = end(&[], &[1]);
    twice.done.insert(1, 2);
    fails(at_most_once(&history, &twice), "executed 2 times");
    fails(at_most_once(&history, &end(&[], &[1, 2])), "never sent");
    let refused = [op(
        1,
        (0, 10),
        Job::Spoil(Vec::new()),
        Known::Failed(Vec::new()),
    )];
    fails(at_most_once(&refused, &end(&[], &[1])), "executed 1 times");
}

#[test]
fn sums_and_totals_are_checked() {
    let moved = [op(
        1,
        (0, 10),
        Job::Transfer {
            from: 1,
            to: 2,
            amount: 7,
        },
        done(&[]),
    )];
    let right = end(
        &[
            ((ACCOUNT, 1), &[7_u64.wrapping_neg()]),
            ((ACCOUNT, 2), &[7]),
        ],
        &[1],
    );
    sums(&moved, &right).unwrap();
    totals(&moved, &right).unwrap();
    let half = end(&[((ACCOUNT, 2), &[7])], &[1]);
    fails(sums(&moved, &half), "is empty, not");
    fails(totals(&moved, &half), "do not add up");
    let audit = [op(1, (0, 10), Job::Audit(vec![1, 2]), done(&[1, 2]))];
    fails(totals(&audit, &right), "do not add up");
    fails(
        sums(&[count(1, (0, 9), 1)], &end(&[((COUNTER, 1), &[2])], &[1])),
        "holds [2], not 1",
    );
    let append = [lists(1, (0, 9), &[Step::Append(1, 8)], &[])];
    sums(&append, &end(&[((LIST, 1), &[8])], &[1])).unwrap();
    fails(
        sums(&append, &end(&[((LIST, 1), &[8, 8])], &[1])),
        "or twice",
    );
    fails(sums(&append, &end(&[], &[1])), "has lost 8");
}

#[test]
fn a_counter_is_fresh() {
    order::counters(&[count(1, (0, 10), 1), count(2, (20, 30), 2)]).unwrap();
    fails(
        order::counters(&[
            count(1, (0, 15), 2),
            count(2, (20, 30), 1),
            count(3, (0, 40), 3),
        ]),
        "was known before",
    );
    fails(
        order::counters(&[count(1, (0, 10), 1), count(2, (5, 30), 1)]),
        "two additions",
    );
    fails(
        order::counters(&[count(1, (0, 10), 2)]),
        "when only 1 additions",
    );
    let job = Job::Snapshot {
        ahead_us: 0,
        rows: vec![(COUNTER, 1)],
    };
    let saw = Known::Saw(5, Picture::new());
    let stale = [count(1, (0, 10), 1), op(2, (20, 30), job, saw)];
    fails(order::counters(&stale), "was known before");
}

#[test]
fn a_stale_read_of_a_list_is_found() {
    let end = end(&[((LIST, 1), &[8])], &[1]);
    let read = |told: &[u64]| {
        [
            lists(1, (0, 10), &[Step::Append(1, 8)], &[]),
            lists(2, (20, 30), &[Step::Read(1)], told),
        ]
    };
    order::lists(&read(&[1, 8]), &end).unwrap();
    fails(order::lists(&read(&[0]), &end), "was known before");
}

#[test]
fn dirty_reads_are_found() {
    let end = end(&[((LIST, 1), &[8, 9])], &[1]);
    let writer = lists(1, (0, 10), &[Step::Append(1, 8), Step::Append(1, 9)], &[]);
    let read = |told: &[u64]| [writer.clone(), lists(2, (0, 30), &[Step::Read(1)], told)];
    cycles::serializable(&read(&[2, 8, 9]), &end).unwrap();
    fails(cycles::serializable(&read(&[1, 8]), &end), "G1b");
    fails(cycles::serializable(&read(&[1, 16]), &end), "G1a");
    let own = [lists(
        1,
        (0, 10),
        &[Step::Append(1, 8), Step::Read(1)],
        &[0],
    )];
    cycles::serializable(&own, &end).unwrap();
    let other = [lists(
        1,
        (0, 10),
        &[Step::Append(1, 8), Step::Read(1)],
        &[1, 9],
    )];
    fails(cycles::serializable(&other, &end), "its own writes");
}

#[test]
fn g0_is_found() {
    let both = |n: u64| [Step::Append(1, n), Step::Append(2, n + 1)];
    let history = [
        lists(1, (0, 9), &both(10), &[]),
        lists(2, (0, 9), &both(20), &[]),
    ];
    let right = end(&[((LIST, 1), &[10, 20]), ((LIST, 2), &[11, 21])], &[1, 2]);
    cycles::serializable(&history, &right).unwrap();
    let wrong = end(&[((LIST, 1), &[10, 20]), ((LIST, 2), &[21, 11])], &[1, 2]);
    fails(cycles::serializable(&history, &wrong), "(G0)");
}

#[test]
fn g1c_is_found() {
    let history = [
        lists(1, (0, 9), &[Step::Append(1, 10), Step::Read(2)], &[1, 20]),
        lists(2, (0, 9), &[Step::Append(2, 20), Step::Read(1)], &[1, 10]),
    ];
    let end = end(&[((LIST, 1), &[10]), ((LIST, 2), &[20])], &[1, 2]);
    fails(cycles::serializable(&history, &end), "(G1c)");
}

#[test]
fn read_skew_and_write_skew_are_found() {
    let end = end(&[((LIST, 1), &[10]), ((LIST, 2), &[11])], &[1]);
    let skew = [
        lists(1, (0, 9), &[Step::Append(1, 10), Step::Append(2, 11)], &[]),
        lists(2, (0, 9), &[Step::Read(1), Step::Read(2)], &[1, 10, 0]),
    ];
    fails(cycles::serializable(&skew, &end), "(G-single)");
    let write_skew = [
        lists(1, (0, 9), &[Step::Read(1), Step::Append(2, 11)], &[0]),
        lists(2, (0, 9), &[Step::Read(2), Step::Append(1, 10)], &[0]),
    ];
    fails(cycles::serializable(&write_skew, &end), "(G2)");
}

#[test]
fn causality_within_a_session_is_checked() {
    let end = end(&[((LIST, 1), &[10]), ((LIST, 2), &[20])], &[1, 2]);
    let job = Job::Snapshot {
        ahead_us: 0,
        rows: vec![(LIST, 1), (LIST, 2)],
    };
    let saw: Picture = [((LIST, 2), vec![20])].into();
    let mut history = [
        lists(1, (0, 9), &[Step::Append(1, 10)], &[]),
        lists(2, (10, 19), &[Step::Append(2, 20)], &[]),
        op(3, (0, 30), job, Known::Saw(5, saw)),
    ];
    // Two clients that share no message promise nothing to each other; one client does.
    cycles::serializable(&history, &end).unwrap();
    history[1].lane = history[0].lane;
    fails(cycles::serializable(&history, &end), "within sessions");
}

#[test]
fn a_snapshot_that_changes_is_found() {
    let job = Job::Snapshot {
        ahead_us: 0,
        rows: vec![(LIST, 1)],
    };
    let saw = Known::Saw(5, [((LIST, 1), vec![8])].into());
    let history = [op(1, (0, 9), job, saw)];
    assert_eq!(
        snapshots(&history, |_, _| Ok([((LIST, 1), vec![8])].into())),
        Ok(1)
    );
    assert!(snapshots(&history, |_, _| Ok(Picture::new())).is_err());
}
