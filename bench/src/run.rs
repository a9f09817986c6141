//! One benchmark run: set up, load, check, report.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use dbos_client::Client;

use crate::load::{self, Load, Measured};
use crate::report::{BeforeAfter, Latency, Report};
use crate::target::Target;
use crate::{files, messages, sched, transfers};

/// Operations in flight that are tried when none are named.
pub const IN_FLIGHT_TRIED: [u32; 4] = [1, 4, 16, 64];
/// Operations that may be outstanding in the open loop.
const OPEN_LOOP_IN_FLIGHT: u32 = 1024;

/// Calls outstanding of all operations together: the window of one session.
const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One scheduling call; the policy's name.
    Sched { policy: String },
    /// One message sent and received, or one fan-out; the shape's name.
    Ipc { shape: String },
    /// One file operation; the shape's name.
    Fs { shape: String },
    /// One transfer between accounts, this fraction of them between partitions; all from one account if `hot`.
    Txn {
        multi_partition: f64,
        accounts: u32,
        hot: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub connections: u32,
    /// `None`: tries `IN_FLIGHT_TRIED` and reports the best.
    pub in_flight: Option<u32>,
    /// Operations per second; `None` is the closed loop.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// Called about once a second with a line to show.
pub type Progress<'a> = &'a dyn Fn(String);

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// One operation; `n` counts from 0 within a run.
pub(crate) type Operation = Rc<dyn Fn(u64) -> Task<Result<(), String>>>;

/// A benchmark that is set up on its target.
pub(crate) struct Prepared {
    pub operation: Operation,
    /// Compares the target's tables with the number of acknowledged operations.
    pub check: Box<dyn FnOnce(u64) -> Task<anyhow::Result<()>>>,
}

/// Runs a benchmark, at each number in flight that `options` asks for, and returns the best.
pub async fn run(
    target: &Target,
    options: &Options,
    progress: Progress<'_>,
) -> anyhow::Result<Report> {
    let tried: Vec<u32> = match (options.in_flight, options.rate) {
        (Some(n), _) => vec![n],
        (None, Some(_)) => vec![OPEN_LOOP_IN_FLIGHT],
        (None, None) => IN_FLIGHT_TRIED.to_vec(),
    };
    let mut best: Option<Report> = None;
    for in_flight in tried {
        let report = run_at(target, options, in_flight, progress).await?;
        if report.errors > 0 {
            return Ok(report);
        }
        if best
            .as_ref()
            .is_none_or(|best| report.throughput_per_s > best.throughput_per_s)
        {
            best = Some(report);
        }
    }
    best.context("nothing was run")
}

async fn run_at(
    target: &Target,
    options: &Options,
    in_flight: u32,
    progress: Progress<'_>,
) -> anyhow::Result<Report> {
    let connect = dbos_client::Options {
        connections: options.connections as usize,
        // One operation may be many calls (fan-out).
        in_flight: CALLS_IN_FLIGHT_MAX,
        application_name: "dbos-bench".into(),
        ..dbos_client::Options::default()
    };
    let client = Client::connect_with(&target.urls.join(",").parse()?, connect).await?;
    let prepared = match &options.kind {
        Kind::Sched { policy } => sched::prepare(client.clone(), policy).await,
        Kind::Ipc { shape } => messages::prepare(client.clone(), shape).await,
        Kind::Fs { shape } => files::prepare(client.clone(), shape).await,
        Kind::Txn {
            multi_partition,
            accounts,
            hot,
        } => transfers::prepare(client.clone(), *multi_partition, *accounts, *hot).await,
    }
    .context("setting up the benchmark")?;
    let before = target.fdatasync_p50_us();
    let retries = client.stats().retries;
    let load = Load {
        in_flight,
        rate: options.rate,
        warm_up: (options.duration / 5).min(Duration::from_secs(2)),
        duration: options.duration,
    };
    let operation = prepared.operation.clone();
    let measured = load::run(
        load,
        move |n| operation(n),
        |passed, done| {
            progress(format!(
                "{in_flight} in flight: {done} done after {} s",
                passed.as_secs()
            ));
        },
    )
    .await;
    let after = target.fdatasync_p50_us();
    let mut report = report(target, options, &load, &measured);
    report.target_version = target.version().await?;
    report.retries = Some(client.stats().retries - retries);
    report.fdatasync_p50_us = BeforeAfter { before, after };
    if measured.errors == 0 {
        (prepared.check)(measured.acknowledged).await?;
    } else {
        progress(format!("errors: {}", measured.first_errors.join("; ")));
    }
    Ok(report)
}

fn report(target: &Target, options: &Options, load: &Load, measured: &Measured) -> Report {
    let (bench, policy, shape) = match &options.kind {
        Kind::Sched { policy } => ("sched", Some(policy.clone()), None),
        Kind::Ipc { shape } => ("ipc", None, Some(shape.clone())),
        Kind::Fs { shape } => ("fs", None, Some(shape.clone())),
        Kind::Txn { hot, .. } => (
            "txn",
            None,
            Some(if *hot { "hot" } else { "uniform" }.into()),
        ),
    };
    let multi_partition = match options.kind {
        Kind::Txn {
            multi_partition, ..
        } => Some(multi_partition),
        _ => None,
    };
    Report {
        bench,
        target: target.name.clone(),
        target_version: String::new(),
        policy,
        shape,
        multi_partition,
        connections: options.connections,
        in_flight: load.in_flight,
        rate: load.rate,
        duration_s: load.duration.as_secs_f64(),
        throughput_per_s: measured.throughput_per_s(),
        latency_us: Latency::from(&measured.latency),
        errors: measured.errors,
        retries: None,
        nodes: target.nodes,
        replicas: target.replicas,
        partitions: target.partitions,
        durability: target.durability.clone(),
        fdatasync_p50_us: BeforeAfter {
            before: None,
            after: None,
        },
    }
}

/// Fails with both numbers unless they are equal.
pub(crate) fn expect_equal(what: &str, found: i64, acknowledged: u64) -> anyhow::Result<()> {
    if u64::try_from(found) != Ok(acknowledged) {
        bail!("{what}: {found} are there, {acknowledged} were acknowledged");
    }
    Ok(())
}
