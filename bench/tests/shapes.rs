//! Every shape runs on every kind of target: rounds and operations are counted, none fails, and what each benchmark checks
//! at its end holds. Nothing is said about speed.
//!
//! Peers that this machine does not have are listed as ignored, "not installed"; with `DBOS_PEERS` set they fail.

use std::time::Duration;

use bench::peers::NotInstalled;
use bench::{Kind, Options, Target, files, measure, messages, sched};
use dbos_client::testing::LocalCluster;
use libtest_mimic::{Arguments, Trial};

/// No run is tried again when it was longer than this.
const LONGEST: Duration = Duration::from_secs(5);
const DURATION: Duration = Duration::from_millis(300);

fn run(target: &Target, kind: Kind, in_flight: u32) {
    let mut options = Options {
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
    let run = loop {
        let measured = measure(target, &options, in_flight, &quiet);
        let run = runtime
            .block_on(tokio::task::LocalSet::new().run_until(measured))
            .unwrap_or_else(|error| panic!("{:?} on {}: {error:#}", options.kind, target.name));
        assert_eq!(run.report.errors, 0, "{}", run.report);
        // A disk that is busy with something else may take longer than that for one operation.
        if !run.latency.is_empty() || options.duration > LONGEST {
            break run;
        }
        options.duration *= 4;
    };
    assert!(!run.latency.is_empty(), "{}", run.report);
    let cache_bytes = match options.kind {
        Kind::Fs { cache_bytes, .. } => cache_bytes as u64,
        _ => 0,
    };
    match run.report.cache {
        Some(cache) => assert!(
            cache.hits > 0
                && cache.misses > 0
                && cache.hit.is_some_and(|timed| timed.operations > 0)
                && cache.miss.is_some_and(|timed| timed.operations > 0)
                && (1..=cache_bytes).contains(&cache.bytes),
            "{cache:?}"
        ),
        None => assert_eq!(cache_bytes, 0),
    }
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

fn peer(name: &str) -> Target {
    match Target::peer(name) {
        Ok(target) => target.expect("a known name"),
        Err(error) => panic!("{name}: {error:#}"),
    }
}

fn tasks(target: &Target, in_flight: u32) {
    let fifo = sched::Spec::new(sched::Policy::Fifo);
    run(target, Kind::Sched(fifo), in_flight);
}

fn files_by_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    for sync in ["ext4", "ext4-fsync"] {
        let target = peer(&format!("{sync}:{}", folder.path().display()));
        for (_, shape) in files::Shape::ALL {
            run(
                &target,
                Kind::Fs {
                    shape,
                    size: None,
                    cache_bytes: 0,
                },
                2,
            );
        }
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "files are removed");
}

fn every_benchmark(target: &Target) {
    rounds(target);
    for (_, shape) in files::Shape::ALL {
        run(
            target,
            Kind::Fs {
                shape,
                size: None,
                cache_bytes: 0,
            },
            2,
        );
    }
    if target.name != "local-postgres" {
        let cache_bytes = 64 << 20;
        let shape = files::Shape::Read20x1;
        let size = None;
        run(
            target,
            Kind::Fs {
                shape,
                size,
                cache_bytes,
            },
            2,
        );
    }
    let accounts = 640;
    let transfers = Kind::Txn {
        multi_partition: 0.5,
        accounts,
        hot: false,
    };
    // Reads fail unless every account is opened anew.
    run(target, transfers, 4);
    run(target, Kind::Read { accounts }, 4);
    for (_, policy) in sched::Policy::ALL {
        let spec = sched::Spec {
            keys: 2,
            multi_partition: 0.5,
            // Only `scan` reads tasks that are there before.
            tasks: if policy == sched::Policy::Scan { 50 } else { 0 },
            ..sched::Spec::new(policy)
        };
        run(target, Kind::Sched(spec), 4);
    }
}

fn on_a_cluster(nodes: u16) {
    let count = nodes.to_string();
    let cluster = LocalCluster::start(&["--nodes", &count, "--partitions", "2"]).unwrap();
    let urls = (1..=nodes).map(|node| cluster.url(node)).collect();
    let replicas = if nodes < 3 { 1 } else { 3 };
    let shape = [u32::from(nodes), 2, replicas];
    let target = Target::cluster("test", urls, std::env::temp_dir(), shape, "fsync");
    every_benchmark(&target);
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// A test with a server that may not be on this machine: starting it is what tells.
fn with_server(name: &'static str, test: fn(&Target)) -> Trial {
    let missing = match Target::peer(name) {
        Err(error) if error.is::<NotInstalled>() => Some(format!("{error}")),
        _ => None,
    };
    let kind = missing.clone().unwrap_or_default();
    let trial = Trial::test(name, move || {
        test(&peer(name));
        Ok(())
    });
    trial.with_kind(kind).with_ignored_flag(missing.is_some())
}

fn main() {
    let arguments = Arguments::from_args();
    let trials = vec![
        trial("messages_go_round_on_connections", || {
            for name in ["tcp", "grpc", "grpc-stream"] {
                rounds(&peer(name));
            }
        }),
        trial("files_by_system_calls", files_by_system_calls),
        trial("postgres_does_every_benchmark", || {
            every_benchmark(&Target::local_postgres().unwrap());
        }),
        trial("one_node_does_every_benchmark", || on_a_cluster(1)),
        trial("three_nodes_do_every_benchmark", || on_a_cluster(3)),
        with_server("redis", rounds),
        with_server("nats", rounds),
        with_server("etcd", |target| tasks(target, 4)),
        with_server("slurm", |target| tasks(target, 2)),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
