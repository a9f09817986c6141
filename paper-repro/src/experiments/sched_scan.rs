//! Throughput against the rows a scheduling query reads: the artifact's run_scantask_scale.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const SCHEDULERS: u32 = 8;

pub fn experiment(scale: Scale) -> Experiment {
    let tasks = scale.pick(
        &[1, 100],
        &[1, 100, 10_000],
        &[1, 10, 100, 1000, 10_000, 100_000],
    );
    let mut points = Vec::new();
    for count in &tasks {
        for system in [System::one(Fsync), System::Postgres] {
            let load = Load {
                system: system.clone(),
                kind: Kind::Sched(Spec {
                    keys: 1,
                    workers_per_key: 16,
                    tasks: *count,
                    ..Spec::new(Policy::Scan)
                }),
                connections: SCHEDULERS,
                in_flight: SCHEDULERS,
                rate: None,
                duration: scale.duration(),
            };
            points.push(Point::load(system.name(), f64::from(*count), load));
        }
    }
    Experiment {
        name: "sched-scan",
        title: "Queries against the number of tasks they read",
        claim: "The papers sweep the rows that a scheduling query reads within a partition; no number is known.",
        papers: "P = 1, W = 16, N = 8, T = 1 to 100,000 by factors of ten: count tasks by worker, take the largest.",
        ours: format!(
            "one key, 16 workers, {SCHEDULERS} calls in flight, tasks {tasks:?}, the same query."
        ),
        differ: "The same, on two shared cores.",
        unit: "queries/s",
        x: Axis {
            label: "tasks read",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let most = |system: &System| {
        results
            .spreads(&system.name(), Metric::Value)
            .last()
            .map(|l| l.1)
    };
    vec![Finding::ratio(
        "a query over the most tasks of this run, against PostgreSQL",
        "no number",
        (most(&System::one(Fsync)), most(&System::Postgres)),
        None,
    )]
}
