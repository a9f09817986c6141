//! Throughput against the size of the worker table at constant capacity: the artifact's run_synthetic_index.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, show};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const CAPACITY: i32 = 2_000_000;
const CONNECTIONS: u32 = 8;
const SCHEDULERS: u32 = 8;

fn series(policy: &str, system: &System) -> String {
    format!("{policy}; {}", system.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let workers = scale.pick(
        &[1, 100],
        &[1, 100, 10_000],
        &[1, 10, 100, 1000, 10_000, 100_000],
    );
    let mut points = Vec::new();
    for count in &workers {
        for (name, policy) in [
            ("fifo", Policy::Fifo),
            ("least-loaded", Policy::LeastLoaded),
        ] {
            for system in [System::one(Fsync), System::Postgres] {
                let load = Load {
                    system: system.clone(),
                    kind: Kind::Sched(Spec {
                        keys: 1,
                        workers_per_key: *count,
                        slots: CAPACITY / *count,
                        ..Spec::new(policy)
                    }),
                    connections: CONNECTIONS,
                    in_flight: SCHEDULERS,
                    rate: None,
                    duration: scale.duration(),
                };
                points.push(Point::load(series(name, &system), f64::from(*count), load));
            }
        }
    }
    Experiment {
        name: "sched-table",
        title: "Throughput against the number of workers in the table",
        claim: "The papers sweep the table's size at constant total capacity to isolate the effect of the index; no number is known.",
        papers: "P = 1, N = 8; (workers, capacity) = (1, 2M), (10, 200K), (100, 20K), (1K, 2K), (10K, 200), (100K, 20).",
        ours: format!(
            "one key, {SCHEDULERS} calls in flight, workers {workers:?}, total capacity {CAPACITY}."
        ),
        differ: "Capacity is in no index here, since it changes with every task: FIFO stops at the first worker with a free slot, \
                 least-loaded reads all workers of its key.",
        unit: "tasks/s",
        x: Axis {
            label: "workers of the key",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let finding = |policy: &str| {
        let all = results.spreads(&series(policy, &System::one(Fsync)), Metric::Value);
        let ends = all.first().zip(all.last());
        let measured = ends.map(|((few, a), (many, b))| {
            (
                format!(
                    "{} with {few} worker(s), {} with {many}",
                    show(*a),
                    show(*b)
                ),
                None,
            )
        });
        Finding::new(
            &format!("{policy}: tasks/s as the table grows, one key"),
            "swept, no number",
            measured,
        )
    };
    vec![finding("fifo"), finding("least-loaded")]
}
