//! Real tasks while a worker and then a leader die.

use std::sync::Mutex;
use std::time::Duration;

use super::tasks::{self, Work, Workers};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point};
use crate::action::{Action, Outcome};
use crate::record::{Metric, Results, Row, Status};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::{Cluster, System};

const SERIES: &str = "3 nodes, fsync, 4 worker processes";
const RATE: f64 = 200.0;
const STEP_S: f64 = 0.25;
/// As shares of the run.
const WORKER_DIES: f64 = 0.15;
const LEADER_DIES: f64 = 0.6;
const LEADER_RETURNS: f64 = 0.8;
/// Node 1 leads some partition: first voters are spread over the nodes.
const LEADER: u16 = 1;

/// A dead worker is reaped after five seconds: the run is longer than that.
fn length(scale: Scale) -> Duration {
    match scale {
        Scale::Smoke => Duration::from_secs(8),
        Scale::Default => Duration::from_secs(14),
        Scale::Full => Duration::from_secs(60),
    }
}

/// Does the deaths; returns what failed.
fn disturb(cluster: &Cluster, workers: &Mutex<Workers>, length: Duration) -> Vec<String> {
    let start = std::time::Instant::now();
    let until = |share| std::thread::sleep(length.mul_f64(share).saturating_sub(start.elapsed()));
    until(WORKER_DIES);
    if let Ok(mut workers) = workers.lock() {
        // Dropping its handle kills the process.
        workers.processes[0].pop();
    }
    let mut failed = Vec::new();
    for (verb, share) in [("kill", LEADER_DIES), ("restart", LEADER_RETURNS)] {
        until(share);
        if let Err(error) = cluster.node(verb, LEADER) {
            failed.push(format!("{error:#}"));
        }
    }
    failed
}

fn action(work: Work) -> Action {
    Box::new(move |systems| {
        let cluster = systems.cluster(&System::three(Fsync))?;
        tasks::install(&cluster)?;
        let workers = Workers::start(&cluster, work)?;
        let (first_key, workers) = (workers.first_key, Mutex::new(workers));
        let (done, failed) = std::thread::scope(|scope| {
            let mut disturber = None;
            let begin =
                || disturber = Some(scope.spawn(|| disturb(&cluster, &workers, work.duration)));
            let done = tasks::run(&cluster, first_key, work, begin);
            (done, disturber.map(|thread| thread.join()))
        });
        let done = done?;
        let failed = failed.and_then(Result::ok).unwrap_or_default();
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
        let end = done.finished_s.last().copied().unwrap_or_default();
        let mut counts = vec![0_u64; (end / STEP_S) as usize + 1];
        for at in &done.finished_s {
            counts[(at / STEP_S) as usize] += 1;
        }
        let rows = counts.iter().enumerate().map(|(at, count)| Row {
            x: at as f64 * STEP_S,
            count: *count,
            errors: if at == 0 { done.error_count } else { 0 },
            value: *count as f64 / STEP_S,
            ..Row::default()
        });
        Ok(Outcome {
            rows: rows.collect(),
            version: format!(
                "{} submitted, {} started more than once",
                done.submitted, done.again
            ),
            latency: Some(done.latency),
            errors: done.errors,
        })
    })
}

pub fn experiment(scale: Scale) -> Experiment {
    let work = Work {
        keys: 2,
        workers_per_key: 2,
        rate: RATE,
        duration: length(scale),
    };
    let seconds = work.duration.as_secs_f64();
    let mut chart = Chart::new(Metric::Value);
    chart.each_repeat = true;
    chart.events = vec![
        (seconds * WORKER_DIES, "worker dies".into()),
        (seconds * LEADER_DIES, format!("node {LEADER} dies")),
        (seconds * LEADER_RETURNS, "it returns".into()),
    ];
    Experiment {
        name: "sched-deaths",
        title: "Real tasks while a worker and a leader die",
        claim: "None: the papers' experiments neither execute tasks nor have replicas.",
        papers: "Not measured.",
        ours: format!(
            "{RATE} tasks/s submitted for {seconds} s on three nodes with three replicas; four `dbos worker` processes on two keys; one is \
             killed, and later a node that leads partitions. The run ends when every submitted task is finished, and fails if one is not."
        ),
        differ: "Nothing to compare with. A dead worker's tasks run again when another worker of its key has not seen it for 5 s.",
        unit: "tasks finished/s",
        x: Axis {
            label: "seconds",
            kind: AxisKind::Linear,
        },
        charts: vec![chart],
        points: vec![Point::new(SERIES, 0.0, action(work))],
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let all = results.records.iter();
    let done: Vec<&str> = all
        .filter(|r| r.status == Status::Ok)
        .map(|r| r.version.as_str())
        .collect();
    let whole = done.len() == results.records.len();
    let measured = (!done.is_empty()).then(|| {
        let text = format!(
            "{} of {} runs: every task finished ({})",
            done.len(),
            results.records.len(),
            done.join("; ")
        );
        (text, Some(whole))
    });
    vec![Finding::new(
        "real tasks through the deaths of a worker and a leader",
        "every submitted task finishes",
        measured,
    )]
}
