//! Every shape runs on every kind of target: rounds and operations are counted, none fails, and what each benchmark checks
//! at its end holds. Nothing is said about speed.
//!
//! Peers that this machine does not have are listed as ignored, "not installed"; with `DBOS_PEERS` set they fail.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench::peers::NotInstalled;
use bench::{Kind, Options, Target, files, measure, messages, sched};
use dbos_client::testing::{self, LocalCluster};
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal, kill_process};

/// No run is tried again when it was longer than this.
const LONGEST: Duration = Duration::from_secs(5);
const DURATION: Duration = Duration::from_millis(300);

fn options(kind: Kind, in_flight: u32, duration: Duration) -> Options {
    Options {
        kind,
        connections: 2,
        in_flight: Some(in_flight),
        rate: None,
        duration,
    }
}

fn block_on<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(work))
}

fn run(target: &Target, kind: Kind, in_flight: u32) {
    let mut options = options(kind, in_flight, DURATION);
    let quiet = |line: String| assert!(!line.starts_with("errors"), "{line}");
    let run = loop {
        let run = block_on(measure(target, &options, in_flight, &quiet))
            .unwrap_or_else(|error| panic!("{:?} on {}: {error:#}", options.kind, target.name));
        assert_eq!(run.report.errors, 0, "{}", run.report);
        // A machine that is busy with something else may take longer than that for one operation of a kind.
        let cache = run.report.cache;
        let seen = cache.is_none_or(|cache| cache.hit.is_some() && cache.miss.is_some());
        if (seen && !run.latency.is_empty()) || options.duration > LONGEST {
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

fn on_files(shape: files::Shape) -> Kind {
    Kind::Fs {
        shape,
        size: None,
        cache_bytes: 0,
    }
}

/// A peer whose files go to this folder.
fn peer_in(kind: &str, folder: &Path) -> Target {
    peer(&format!("{kind}:{}", folder.display()))
}

/// Mounts in this folder.
fn mounts(folder: &Path) -> usize {
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = format!("{}/", folder.display());
    all.lines().filter(|line| line.contains(&place)).count()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn files_by_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    for sync in ["ext4", "ext4-fsync"] {
        let target = peer_in(sync, folder.path());
        for (_, shape) in files::Shape::ALL {
            run(&target, on_files(shape), 2);
        }
    }
    assert_eq!(entries(folder.path()), 0, "files are removed");
    interrupted("ext4");
}

/// A run that is given up, while it fills its folder and while it measures, ends at once and leaves nothing.
fn interrupted(kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    for shape in [files::Shape::Delete, files::Shape::Write] {
        let target = peer_in(kind, folder.path());
        let minutes = options(on_files(shape), 2, Duration::from_secs(120));
        let cut = Duration::from_millis(500);
        let start = Instant::now();
        let ended = block_on(async {
            tokio::time::timeout(cut, measure(&target, &minutes, 2, &|_| ())).await
        });
        assert!(ended.is_err(), "it ran to its end");
        assert!(start.elapsed() < Duration::from_secs(60));
        drop(target);
        assert_eq!(entries(folder.path()), 0, "{kind}: files are removed");
        assert_eq!(mounts(folder.path()), 0, "{kind}");
    }
}

fn files_through_fuse() {
    let folder = tempfile::tempdir().unwrap();
    for sync in ["bindfs", "bindfs-fsync"] {
        let target = peer_in(sync, folder.path());
        assert_eq!(mounts(folder.path()), 1);
        for (_, shape) in files::Shape::ALL {
            let names = matches!(shape, files::Shape::Create | files::Shape::Delete);
            if sync == "bindfs" || !names {
                run(&target, on_files(shape), 2);
                continue;
            }
            let options = options(on_files(shape), 2, DURATION);
            let refused = block_on(measure(&target, &options, 2, &|_| ()));
            let why = refused.err().expect("names cannot be made durable");
            assert!(why.to_string().contains("fsync of a directory"), "{why}");
        }
        drop(target);
        assert_eq!(entries(folder.path()), 0, "files are removed");
        assert_eq!(mounts(folder.path()), 0);
    }
    interrupted("bindfs");
}

/// The daemon that mounts something in this folder.
fn daemon(folder: &Path) -> Option<Pid> {
    let place = folder.display().to_string();
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.ok()?;
        let said = std::fs::read(entry.path().join("cmdline")).ok()?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let ours = said.contains("bindfs\0-f") && said.contains(&place);
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        ours.then(|| Pid::from_raw(pid))?
    })
}

/// Whoever dies, no mount stays.
fn no_mount_outlives_its_benchmark() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let target = peer_in("bindfs", folder);
    kill_process(daemon(folder).unwrap(), Signal::KILL).unwrap();
    drop(target);
    assert_eq!((mounts(folder), entries(folder)), (0, 0), "its daemon");

    let start = || {
        let mut bench = Command::new(testing::binary().unwrap());
        let target = format!("bindfs:{}", folder.display());
        bench.args(["bench", "fs", "--shape", "write", "--duration", "10m"]);
        bench.args(["--target", &target]).stderr(Stdio::null());
        let bench = bench.spawn().unwrap();
        wait_until("it mounts", || mounts(folder) == 1);
        bench
    };
    let mut stopped = start();
    kill_process(Pid::from_child(&stopped), Signal::INT).unwrap();
    assert_eq!(stopped.wait().unwrap().code(), Some(130));
    assert_eq!((mounts(folder), entries(folder)), (0, 0), "Ctrl-C");

    let mut killed = start();
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("the daemon unmounts", || mounts(folder) == 0);
    wait_until("the daemon ends", || daemon(folder).is_none());
    assert_eq!(entries(folder), 1, "the folder stays");
}

fn every_benchmark(target: &Target) {
    rounds(target);
    for (_, shape) in files::Shape::ALL {
        run(target, on_files(shape), 2);
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

/// A test with a server that may not be on this machine.
fn with_server(name: &'static str, test: fn(&Target)) -> Trial {
    with_peer(name, name, move || test(&peer(name)))
}

/// A test with a peer that may not be on this machine: starting it is what tells.
fn with_peer(name: &str, target: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    let missing = match Target::peer(target) {
        Err(error) if error.is::<NotInstalled>() => Some(format!("{error}")),
        _ => None,
    };
    let kind = missing.clone().unwrap_or_default();
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    trial.with_kind(kind).with_ignored_flag(missing.is_some())
}

fn main() {
    let arguments = Arguments::from_args();
    let probe = tempfile::tempdir().unwrap();
    let bindfs = format!("bindfs:{}", probe.path().display());
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
        with_peer("bindfs", &bindfs, files_through_fuse),
        with_peer("bindfs_mounts", &bindfs, no_mount_outlives_its_benchmark),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
