//! Throughput against the number of schedulers, closed loop, beside what is used instead.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;

const CONNECTIONS: u32 = 4;
/// PostgreSQL does best with one call on each connection; more than this costs it.
const POSTGRES_CONNECTIONS_MAX: u32 = 64;
/// Jobs are submitted by processes that each take a core.
const SLURM_MAX: u32 = 4;

fn points(scale: Scale, schedulers: &[u32]) -> Vec<Point> {
    let systems = [
        System::one(Fsync),
        System::one(Memory),
        System::three(Fsync),
        System::Postgres,
        System::Peer("etcd"),
        System::Peer("slurm"),
    ];
    let mut points = Vec::new();
    for n in schedulers {
        for system in &systems {
            let in_flight = match system {
                System::Peer("slurm") => (*n).min(SLURM_MAX),
                _ => *n,
            };
            let x = f64::from(in_flight);
            if points
                .iter()
                .any(|p: &Point| p.series == system.name() && p.x == x)
            {
                continue;
            }
            let connections = match system {
                System::Postgres => (*n).min(POSTGRES_CONNECTIONS_MAX),
                System::Peer(_) => 1,
                System::Cluster { .. } | System::Ext4 { .. } | System::Bindfs { .. } => CONNECTIONS,
            };
            let load = Load {
                system: system.clone(),
                kind: Kind::Sched(Spec::new(Policy::Fifo)),
                connections,
                in_flight,
                rate: None,
                duration: scale.duration(),
            };
            points.push(Point::load(system.name(), x, load));
        }
    }
    points
}

pub fn experiment(scale: Scale) -> Experiment {
    let schedulers = scale.pick(
        &[1, 16],
        &[1, 16, 64, 240],
        &[1, 10, 20, 40, 80, 120, 160, 200, 240],
    );
    let points = points(scale, &schedulers);
    Experiment {
        name: "sched-schedulers",
        title: "FIFO throughput against the number of schedulers",
        claim: "C1 and C2: 750,000 and, after tuning, 1,000,000 tasks/s; a Spark cluster launches about 1,000 tasks/s (C3).",
        papers: "N = 1, 10, 20, 40, 80, 120, 160, 200, 240 schedulers, 40 partitions, 8,000 workers, FIFO, 15 s each.",
        ours: format!(
            "N = {schedulers:?} calls in flight, closed loop, one commit and one reply per call; 64 keys, 640 workers. \
             PostgreSQL with one connection per call up to {POSTGRES_CONNECTIONS_MAX}; etcd: one put per task by gRPC; Slurm: \
             sbatch processes, at most {SLURM_MAX} at once."
        ),
        differ: "Two shared cores; durable commits. The papers' systems to compare with were named, not measured.",
        unit: "tasks/s",
        x: Axis {
            label: "schedulers (calls in flight)",
            kind: AxisKind::Log,
        },
        charts: vec![
            Chart::log(Metric::Value)
                .with(papers::level(
                    "papers: 750K/s, volatile, 80 cores",
                    papers::FIFO_PER_S,
                ))
                .with(papers::level(
                    "papers, tuned: 1M/s",
                    papers::FIFO_TUNED_PER_S,
                )),
            Chart::log(Metric::P50).with(papers::level("papers: 200 µs", papers::FIFO_P50_US)),
            Chart::log(Metric::P99),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let best = |system: System| results.best(&system.name(), Metric::Value);
    let postgres = best(System::Postgres);
    let unloaded = results.at(&System::one(Memory).name(), 1.0, Metric::P50);
    let unloaded = unloaded.map(|p50| (format!("{} µs", show(p50)), Some(p50.median < 100.0)));
    vec![
        Finding::ratio(
            "FIFO, one node, fsync, against PostgreSQL at its best",
            "8 × (target)",
            (best(System::one(Fsync)), postgres),
            Some(8.0),
        ),
        Finding::ratio(
            "FIFO, three replicated nodes, fsync, against PostgreSQL unreplicated",
            "3 × (target)",
            (best(System::three(Fsync)), postgres),
            Some(3.0),
        ),
        Finding::ratio(
            "FIFO, three replicated nodes, fsync, against puts of three-node etcd",
            "20 × (target)",
            (best(System::three(Fsync)), best(System::Peer("etcd"))),
            Some(20.0),
        ),
        Finding::ratio(
            "FIFO, one node, fsync, against submitting to Slurm",
            "no number",
            (best(System::one(Fsync)), best(System::Peer("slurm"))),
            None,
        ),
        Finding::new(
            "median of one scheduling call, unloaded, memory, one node",
            "below 100 µs (target; papers about 200 µs)",
            unloaded,
        ),
    ]
}
