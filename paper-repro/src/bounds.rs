//! What bounds an experiment on this machine: where processor time went in this run, and what is known of what falls short.

use std::fmt::Write as _;

use bench::Processors;

use crate::experiments::{Experiment, number};
use crate::record::{Metric, Results};
use crate::report::{Parts, escaped};
use crate::scale::Scale;

/// By experiment: why it falls short, and what was tried. docs/performance.md has the details.
const KNOWN: [(&str, &str); 11] = [
    (
        "sched-load",
        "A call that meets nobody is some 40 µs of work and four hand-offs between sleeping threads (client, node, client; 8 to 19 µs \
         each on such a machine). Under load it waits for its turn on two processors that the load generator shares.",
    ),
    (
        "sched-schedulers",
        "Every call is a transaction: read from a socket, run, logged, made durable, applied, answered. Its rate is two processors \
         divided by the time of all threads for a call, the load generator's included. Three nodes do log and apply three times on \
         the same two processors; an etcd put has no procedure to run.",
    ),
    (
        "ipc-ping-pong",
        "A round is two commits, and each client is answered twice (its send, its receive): more wake-ups than gRPC's four, and the \
         SQL of two sends and two receives, one after another on one core.",
    ),
    (
        "ipc-pairs",
        "As ping-pong: what a round costs in processor time bounds the rate of ten.",
    ),
    (
        "ipc-batch",
        "Twenty messages and twenty answers are 40 rows inserted and deleted by SQL in four transactions; gRPC's stream moves bytes. \
         Unary gRPC, which makes a call of each message, is about as quick.",
    ),
    (
        "ipc-fan-out",
        "Forty receivers are forty calls that wait at a partition, run again when their message comes, and are answered; then forty \
         answers are sent. That is 81 transactions, gRPC's 40 calls.",
    ),
    (
        "fs-delete",
        "A delete is a transaction of the same cost as a create (read, run, logged, applied, answered). ext4 joins the deletes of all \
         threads in one commit of its journal, and without fsync a delete is a change in memory.",
    ),
    (
        "fs-mixes",
        "A block is a row: it crosses a socket, is copied into a log entry, made durable, and written again by apply; the version before \
         it goes to the history. ext4's write is one copy into the page cache and one fdatasync. Reads ask the server for each block unless \
         the client keeps it.",
    ),
    (
        "fs-sizes",
        "As the random blocks: large blocks are copied and written three times (log, table, history), ext4's once.",
    ),
    (
        "fs-clients",
        "As the random blocks: with many clients processor time for a block bounds the rate.",
    ),
    (
        "fs-parallel",
        "Every replica writes a block twice (log, table) and sends it through its core: the processors are busy before the disk is.",
    ),
];

/// Experiments with a statement that does not hold: what is known, and the profile of this run.
pub fn shortfalls(page: &mut String, parts: &Parts<'_>) {
    let findings = parts.findings();
    let missed = |name| {
        findings
            .iter()
            .any(|(of, finding)| *of == name && finding.holds == Some(false))
    };
    let all = parts.experiments.iter().zip(parts.results);
    let short: Vec<_> = all
        .filter(|(experiment, _)| missed(experiment.name))
        .collect();
    if short.is_empty() || parts.scale == Scale::Smoke {
        return;
    }
    *page += "<h3>What falls short, and why</h3><dl>";
    for (experiment, results) in short {
        let known = KNOWN.iter().find(|(name, _)| *name == experiment.name);
        let known = known.map_or("Not looked into yet.", |(_, text)| text);
        let _ = write!(
            page,
            "<dt><a href=\"#{}\">{}</a></dt><dd>{}",
            experiment.name,
            escaped(experiment.title),
            escaped(known)
        );
        for series in results.series() {
            if let Some(line) = at_its_best(results, series) {
                let _ = write!(page, "<br>{}", escaped(&line));
            }
        }
        *page += "</dd>";
    }
    *page +=
        "</dl><p>What was tried to make these quicker, and what it gave: docs/performance.md.</p>";
}

/// The profile of a series where its value is largest.
fn at_its_best(results: &Results, series: &str) -> Option<String> {
    let all = results.spreads(series, Metric::Value).into_iter();
    let (x, best) = all.max_by(|a, b| a.1.median.total_cmp(&b.1.median))?;
    let processors = results.processors(series, x)?;
    Some(format!(
        "{series}, at {}/s: processors {:.0} % busy, {:.0} wake-ups, waiting for a processor {} µs; µs on it: {processors}.",
        number(best.median),
        processors.busy * 100.0,
        turns(processors),
        number(waits(processors)),
    ))
}

fn turns(processors: &Processors) -> f64 {
    processors.threads.iter().map(|thread| thread.turns).sum()
}

fn waits(processors: &Processors) -> f64 {
    processors.threads.iter().map(|thread| thread.wait_us).sum()
}

/// Every point's profile.
pub fn table(page: &mut String, experiment: &Experiment, results: &Results) {
    let mut lines = String::new();
    for series in results.series() {
        for (x, _) in results.spreads(series, Metric::Value) {
            let Some(processors) = results.processors(series, x) else {
                continue;
            };
            let point = experiment
                .points
                .iter()
                .find(|p| p.series == series && p.x == x);
            let _ = writeln!(
                lines,
                "<tr><td>{}</td><td>{}</td><td>{:.0} %</td><td>{:.0} %</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(series),
                escaped(&point.map_or_else(|| x.to_string(), |point| point.label.clone())),
                processors.busy * 100.0,
                processors.stolen * 100.0,
                number(turns(processors)),
                number(waits(processors)),
                escaped(&processors.to_string()),
            );
        }
    }
    if !lines.is_empty() {
        let _ = write!(
            page,
            "<details><summary>Where the time goes</summary><table><tr><th>series</th><th>x</th><th>processors busy</th>\
             <th>taken by the hypervisor</th><th>wake-ups for an operation</th><th>µs waiting for a processor</th><th>µs on a processor, by thread</th></tr>\
             {lines}</table></details>"
        );
    }
}
