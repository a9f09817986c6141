//! Scheduling latency against offered load, open loop: P1 section 4.2, P2 section 4.1.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;

/// Operations that may be outstanding before later ones wait.
const OUTSTANDING_MAX: u32 = 1024;
const CONNECTIONS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;
const SUB_MS_US: f64 = 1000.0;
const HALF_LOAD: f64 = 0.5;
/// The target for the tail at half load, in fdatasync tails.
const DISK_TAILS: f64 = 4.0;

fn series(policy: &str, system: &System) -> String {
    format!("{policy}; {}", system.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let rates = scale.pick(
        &[500.0, 2000.0],
        &[1000.0, 5000.0, 12_500.0, 40_000.0],
        &[
            500.0, 1000.0, 2000.0, 4000.0, 8000.0, 12_000.0, 16_000.0, 20_000.0, 30_000.0, 50_000.0,
        ],
    );
    let policies = Policy::ALL.iter().take(5);
    let mut all: Vec<(&str, Policy, System)> = policies
        .map(|(name, policy)| (*name, *policy, System::one(Fsync)))
        .collect();
    for system in [System::one(Memory), System::three(Fsync), System::Postgres] {
        all.push(("fifo", Policy::Fifo, system));
    }
    let mut points = Vec::new();
    for rate in &rates {
        for (name, policy, system) in &all {
            let connections = match system {
                System::Postgres => POSTGRES_CONNECTIONS,
                _ => CONNECTIONS,
            };
            let load = Load {
                system: system.clone(),
                kind: Kind::Sched(Spec::new(*policy)),
                connections,
                in_flight: OUTSTANDING_MAX,
                rate: Some(*rate),
                duration: scale.duration(),
            };
            points.push(Point::load(series(name, system), *rate, load));
        }
    }
    Experiment {
        name: "sched-load",
        title: "Scheduling latency against offered load",
        claim: "C1: FIFO schedules 750,000 tasks/s with a sub-millisecond tail; the median is about 200 µs even at \
                1,000,000 tasks/s offered. C2, after tuning: 1,000,000/s with a sub-millisecond tail, 2,000,000/s with a \
                sub-millisecond median.",
        papers: "VoltDB on 2 servers with 40 cores each, 40 partitions, no replicas, no log; scheduling only. Open loop.",
        ours: format!(
            "offered {rates:?}/s, open loop; five policies on one node with fdatasync before every reply, FIFO also with \
             durability memory, on three replicated nodes, and on PostgreSQL 15 (synchronous_commit on). 64 keys, 640 workers."
        ),
        differ: "Two cores carry the nodes and the load generator, 40 times fewer than the papers' for the servers alone; and \
                 commits are durable here. Latency counts from the moment a call was meant to start.",
        unit: "tasks/s",
        x: Axis {
            label: "offered tasks/s",
            kind: AxisKind::Log,
        },
        charts: vec![
            Chart::log(Metric::P50).with(papers::level(
                "papers: 200 µs at 1M/s offered",
                papers::FIFO_P50_US,
            )),
            Chart::log(Metric::P99)
                .with(papers::level("papers: below 1 ms up to 750K/s", SUB_MS_US)),
            Chart::log(Metric::Value),
        ],
        points,
        conclude,
    }
}

/// The highest offered load at which the median run's p99 is below a millisecond and nothing piles up.
fn sub_ms(results: &Results, system: &System) -> Option<f64> {
    let series = series("fifo", system);
    let tails = results.spreads(&series, Metric::P99);
    let below = tails.iter().filter(|(_, p99)| p99.median < SUB_MS_US);
    below
        .map(|(x, _)| *x)
        .fold(None, |best, x| Some(best.map_or(x, |b: f64| b.max(x))))
}

fn conclude(results: &Results) -> Vec<Finding> {
    let memory = System::one(Memory);
    let measured = match sub_ms(results, &memory) {
        Some(rate) => format!("up to {rate:.0}/s offered (one node, memory, 2 shared cores)"),
        None => "at no offered load of this run (one node, memory)".into(),
    };
    let unloaded = results.spreads(&series("fifo", &memory), Metric::P50);
    let p50 = unloaded.first().map(|(rate, p50)| {
        let text = format!("{} µs at {rate:.0}/s offered (memory)", show(*p50));
        (text, Some(p50.median <= papers::FIFO_P50_US))
    });
    let fsync = series("fifo", &System::one(Fsync));
    let best = results.best(&fsync, Metric::Value);
    let half = best.and_then(|best| {
        let below = |metric| {
            let mut all = results.spreads(&fsync, metric).into_iter();
            all.rfind(|(rate, _)| *rate <= best.median * HALF_LOAD)
        };
        let ((rate, p99), (_, times)) = (below(Metric::P99)?, below(Metric::P99OfDisk)?);
        let text = format!(
            "{} × ({} µs at {rate:.0}/s offered, of {}/s at best)",
            show(times),
            show(p99),
            show(best)
        );
        Some((text, Some(times.median <= DISK_TAILS)))
    });
    vec![
        Finding::new(
            "C1: FIFO with a sub-millisecond p99",
            "750,000/s on 80 cores, volatile",
            Some((measured, None)),
        ),
        Finding::new(
            "C1: median of a scheduling call",
            "about 200 µs, volatile",
            p50,
        ),
        Finding::new(
            "p99 at half load, one node, fsync",
            "at most 4 × the disk's fdatasync p99 (target)",
            half,
        ),
    ]
}
