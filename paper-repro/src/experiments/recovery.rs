//! Throughput while nodes die and return: no counterpart in the papers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::Kind;
use bench::load::TIMELINE_STEP;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point};
use crate::action::{Action, Load, Outcome};
use crate::record::{Metric, Results, Row, Status};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::{Cluster, System};

const IN_FLIGHT: u32 = 64;
const CONNECTIONS: u32 = 4;
const SERIES: &str = "3 nodes, fsync, FIFO";
/// Verb, node, and when, as a share of the run.
const PLAN: [(&str, u16, f64); 4] = [
    ("kill", 1, 0.2),
    ("restart", 1, 0.4),
    ("kill", 2, 0.6),
    ("restart", 2, 0.8),
];

fn length(scale: Scale) -> Duration {
    match scale {
        Scale::Smoke => Duration::from_secs(8),
        Scale::Default => Duration::from_secs(15),
        Scale::Full => Duration::from_secs(120),
    }
}

/// Does the plan's steps to the cluster when the load is on; returns what failed.
fn disturb(
    cluster: &Cluster,
    length: Duration,
    began: &OnceLock<Instant>,
    over: &AtomicBool,
) -> Vec<String> {
    let start = loop {
        match began.get() {
            Some(start) => break *start,
            None if over.load(Ordering::SeqCst) => return vec!["the load did not begin".into()],
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut failed = Vec::new();
    for (verb, node, share) in PLAN {
        std::thread::sleep(length.mul_f64(share).saturating_sub(start.elapsed()));
        if let Err(error) = cluster.node(verb, node) {
            failed.push(format!("{error:#}"));
        }
    }
    failed
}

fn action(length: Duration) -> Action {
    Box::new(move |systems| {
        let system = System::three(Fsync);
        let cluster = systems.cluster(&system)?;
        let load = Load {
            system,
            kind: Kind::Sched(Spec::new(Policy::Fifo)),
            connections: CONNECTIONS,
            in_flight: IN_FLIGHT,
            rate: None,
            duration: length,
        };
        let (began, over) = (OnceLock::new(), AtomicBool::new(false));
        let (ran, disturbed) = std::thread::scope(|scope| {
            let disturber = scope.spawn(|| disturb(&cluster, length, &began, &over));
            let ran = load.run(systems, &began);
            over.store(true, Ordering::SeqCst);
            (ran, disturber.join())
        });
        let (run, errors) = ran?;
        let failed = disturbed.map_err(|_| anyhow::anyhow!("the thread that kills panicked"))?;
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
        let step = TIMELINE_STEP.as_secs_f64();
        let rows = run.timeline.iter().enumerate().map(|(at, count)| Row {
            x: (at as f64 * step * 10.0).round() / 10.0,
            count: *count,
            errors: if at == 0 { run.report.errors } else { 0 },
            value: *count as f64 / step,
            ..Row::default()
        });
        Ok(Outcome {
            rows: rows.collect(),
            version: run.report.target_version,
            latency: Some(run.latency),
            errors,
        })
    })
}

pub fn experiment(scale: Scale) -> Experiment {
    let length = length(scale);
    let moment = |(verb, node, share): &(&str, u16, f64)| {
        (length.as_secs_f64() * share, format!("{verb} {node}"))
    };
    let mut chart = Chart::new(Metric::Value);
    chart.each_repeat = true;
    chart.events = PLAN.iter().map(moment).collect();
    Experiment {
        name: "recovery",
        title: "Throughput while nodes die and return",
        claim: "Claimed and never measured in the papers: high availability is written once, in the database, and inherited by all services.",
        papers: "None: no measured run had replicas.",
        ours: format!(
            "three nodes, three replicas, fdatasync; FIFO scheduling, {IN_FLIGHT} calls in flight for {} s; node 1 and then node 2 are \
             killed with SIGKILL and started again. Every acknowledged task is counted in the tables at the end.",
            length.as_secs()
        ),
        differ: "Nothing to compare with.",
        unit: "tasks/s",
        x: Axis {
            label: "seconds",
            kind: AxisKind::Linear,
        },
        charts: vec![chart],
        points: vec![Point::new(SERIES, 0.0, action(length))],
        conclude,
    }
}

/// The longest time with nothing acknowledged, s.
pub fn longest_gap(rows: &[Row]) -> f64 {
    let step = TIMELINE_STEP.as_secs_f64();
    let gaps = rows
        .split(|row| row.count > 0)
        .map(|gap| gap.len() as f64 * step);
    gaps.fold(0.0, f64::max)
}

fn conclude(results: &Results) -> Vec<Finding> {
    let ok = results.records.iter().filter(|r| r.status == Status::Ok);
    let mut gaps: Vec<f64> = ok.map(|record| longest_gap(&record.rows)).collect();
    gaps.sort_by(f64::total_cmp);
    let measured = gaps.last().map(|most| {
        let median = gaps[gaps.len() / 2];
        (
            format!(
                "median {median:.1} s, most {most:.1} s in {} runs with two deaths each",
                gaps.len()
            ),
            None,
        )
    });
    let errors: u64 = results
        .records
        .iter()
        .flat_map(|r| &r.rows)
        .map(|row| row.errors)
        .sum();
    let lost = (!results.records.is_empty()).then(|| {
        (
            format!("{errors} errors; acknowledged tasks were counted in the tables"),
            Some(errors == 0),
        )
    });
    vec![
        Finding::new(
            "longest time without any acknowledged task when a node dies",
            "not measured by the papers",
            measured,
        ),
        Finding::new(
            "errors that clients saw while nodes died",
            "none (retries within 10 s)",
            lost,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found() {
        let row = |count| Row {
            count,
            ..Row::default()
        };
        let rows: Vec<Row> = [3, 0, 0, 5, 0, 0, 0, 1].map(row).into();
        assert!((longest_gap(&rows) - 0.3).abs() < 1e-9);
        assert_eq!(longest_gap(&rows[..1]), 0.0);
    }
}
