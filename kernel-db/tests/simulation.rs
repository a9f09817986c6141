//! Three simulated nodes under faults, many seeds; see `kernel_db::sim`.

use kernel_db::partition::Durability;
use kernel_db::sim::{Faults, run};

const SEEDS: u64 = 30;

#[test]
fn the_history_is_right_whatever_fails() {
    let mut acknowledged = 0;
    let mut snapshots = 0;
    for seed in 0..SEEDS {
        let summary = run(seed, &Faults::default()).unwrap();
        println!("{seed}: {summary:?}");
        acknowledged += summary.acknowledged;
        snapshots += summary.snapshots;
    }
    assert!(
        acknowledged > 300 * SEEDS as usize,
        "too little happened: {acknowledged}"
    );
    assert!(
        snapshots > 10 * SEEDS as usize,
        "too few snapshots: {snapshots}"
    );
}

#[test]
fn the_same_seed_gives_the_same_transcript() {
    let faults = Faults::default();
    let first = run(7, &faults).unwrap();
    assert_eq!(first, run(7, &faults).unwrap());
    assert_ne!(first.transcript, run(8, &faults).unwrap().transcript);
}

#[test]
fn five_nodes_agree() {
    let faults = Faults {
        nodes: 5,
        ..Faults::default()
    };
    for seed in 0..5 {
        run(seed, &faults).unwrap();
    }
}

#[test]
fn one_node_recovers_from_its_own_disk() {
    let faults = Faults {
        nodes: 1,
        ..Faults::default()
    };
    for seed in 0..5 {
        run(seed, &faults).unwrap();
    }
}

#[test]
fn memory_durability_survives_processes() {
    let faults = Faults {
        durability: Durability::Memory,
        ..Faults::default()
    };
    for seed in 100..110 {
        run(seed, &faults).unwrap();
    }
}

#[test]
fn an_evicted_session_never_executes_twice() {
    let faults = Faults {
        sessions_max: 3,
        double: 100,
        ..Faults::default()
    };
    for seed in 200..210 {
        run(seed, &faults).unwrap();
    }
}
