//! Tasks that really run on worker processes, from submitted to finished: what the papers left out.

use super::tasks::{self, Work, Workers};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, show};
use crate::action::{Action, Outcome, latency};
use crate::record::{Metric, Results, Row};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const WORK_KEYS: i32 = 2;
const WORKERS_PER_KEY: i32 = 1;

fn action(system: System, work: Work) -> Action {
    Box::new(move |systems| {
        let cluster = systems.cluster(&system)?;
        tasks::install(&cluster)?;
        let workers = Workers::start(&cluster, work)?;
        let done = tasks::run(&cluster, workers.first_key, work, || ())?;
        let last = done.finished_s.last().copied().unwrap_or_default();
        Ok(Outcome {
            rows: vec![Row {
                x: work.rate,
                count: done.finished_s.len() as u64,
                errors: done.error_count,
                value: done.finished_s.len() as f64 / last.max(work.duration.as_secs_f64()),
                latency: Some(latency(&done.latency)),
                ..Row::default()
            }],
            version: "dbos worker".into(),
            latency: Some(done.latency),
            errors: done.errors,
        })
    })
}

pub fn experiment(scale: Scale) -> Experiment {
    let rates = scale.pick(
        &[200.0],
        &[250.0, 1000.0],
        &[100.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0],
    );
    let mut points = Vec::new();
    for rate in &rates {
        for system in [System::one(Fsync), System::three(Fsync)] {
            let work = Work {
                keys: WORK_KEYS,
                workers_per_key: WORKERS_PER_KEY,
                rate: *rate,
                duration: scale.duration(),
            };
            points.push(Point::new(system.name(), *rate, action(system, work)));
        }
    }
    Experiment {
        name: "sched-tasks",
        title: "Real tasks on worker processes, submitted to finished",
        claim: "None: the papers' experiments choose a worker and do not execute tasks.",
        papers: "Capacity is never exhausted; nobody runs the task.",
        ours: format!(
            "tasks are submitted at {rates:?}/s, pulled by {} `dbos worker` processes with 8 slots each, run (they do nothing) and \
             finished; times are those in the task table, durable commits throughout.",
            WORK_KEYS * WORKERS_PER_KEY
        ),
        differ: "Idle workers wait at the partition's leader and are woken by the submission; nobody polls.",
        unit: "tasks finished/s",
        x: Axis {
            label: "tasks submitted/s",
            kind: AxisKind::Log,
        },
        charts: vec![
            Chart::log(Metric::Value),
            Chart::log(Metric::P50),
            Chart::log(Metric::P99),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let three = System::three(Fsync).name();
    let all = results.spreads(&three, Metric::P50);
    let measured = all
        .first()
        .map(|(rate, p50)| (format!("{} µs at {rate}/s", show(*p50)), None));
    vec![Finding::new(
        "real tasks, submitted to finished, three replicated nodes, median",
        "not measured by the papers",
        measured,
    )]
}
