//! Every shape runs on every kind of target: rounds and operations are counted, none fails, and what each benchmark checks
//! at its end holds. Nothing is said about speed.

use std::time::Duration;

use bench::peers::NotInstalled;
use bench::{Kind, Options, Target, files, measure, messages, sched};

const DURATION: Duration = Duration::from_millis(300);

fn run(target: &Target, kind: Kind, in_flight: u32) {
    let options = Options {
        kind,
        connections: 2,
        in_flight: Some(in_flight),
        rate: None,
        duration: DURATION,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let quiet = |line: String| assert!(!line.starts_with("errors"), "{line}");
    let measured = measure(target, &options, in_flight, &quiet);
    let run = runtime
        .block_on(tokio::task::LocalSet::new().run_until(measured))
        .unwrap_or_else(|error| panic!("{:?} on {}: {error:#}", options.kind, target.name));
    assert_eq!(run.report.errors, 0, "{}", run.report);
    assert!(!run.latency.is_empty(), "{}", run.report);
    assert!(run.timeline.iter().sum::<u64>() >= run.latency.len());
}

fn rounds(target: &Target) {
    for (name, shape) in messages::Shape::ALL {
        if name == "send-receive" && target.urls.is_empty() {
            continue;
        }
        let spec = messages::Spec {
            shape,
            size: 64,
            outstanding: 5,
            pairs: 2,
            receivers: 4,
        };
        run(target, Kind::Ipc(spec), 2);
    }
}

fn peer(name: &str) -> Option<Target> {
    match Target::peer(name) {
        Ok(target) => Some(target.expect("a known name")),
        Err(error) if error.is::<NotInstalled>() => {
            eprintln!("{name}: {error}");
            None
        }
        Err(error) => panic!("{name}: {error:#}"),
    }
}

#[test]
fn messages_go_round_on_connections() {
    for name in ["tcp", "grpc", "grpc-stream"] {
        rounds(&peer(name).expect("part of this program"));
    }
}

#[test]
fn messages_go_round_in_mailboxes_of_peers() {
    for name in ["redis", "nats"] {
        if let Some(target) = peer(name) {
            rounds(&target);
        }
    }
}

#[test]
fn tasks_go_to_etcd() {
    if let Some(target) = peer("etcd") {
        run(
            &target,
            Kind::Sched(sched::Spec::new(sched::Policy::Fifo)),
            4,
        );
    }
}

#[test]
fn jobs_go_to_slurm() {
    if let Some(target) = peer("slurm") {
        run(
            &target,
            Kind::Sched(sched::Spec::new(sched::Policy::Fifo)),
            2,
        );
    }
}

#[test]
fn files_by_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    for sync in ["ext4", "ext4-fsync"] {
        let target = peer(&format!("{sync}:{}", folder.path().display())).unwrap();
        for (_, shape) in files::Shape::ALL {
            run(&target, Kind::Fs { shape, size: None }, 2);
        }
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "files are removed");
}

#[test]
fn a_database_does_every_benchmark() {
    let target = Target::local_postgres().unwrap();
    rounds(&target);
    for (_, shape) in files::Shape::ALL {
        run(&target, Kind::Fs { shape, size: None }, 2);
    }
    let accounts = 640;
    let transfers = Kind::Txn {
        multi_partition: 0.5,
        accounts,
        hot: false,
    };
    // Reads fail unless every account is opened anew.
    run(&target, transfers, 4);
    run(&target, Kind::Read { accounts }, 4);
    for (_, policy) in sched::Policy::ALL {
        let spec = sched::Spec {
            keys: 2,
            multi_partition: 0.5,
            // Only `scan` reads tasks that are there before.
            tasks: if policy == sched::Policy::Scan { 50 } else { 0 },
            ..sched::Spec::new(policy)
        };
        run(&target, Kind::Sched(spec), 4);
    }
}
