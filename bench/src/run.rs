//! One benchmark run: set up, load, check, report.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use dbos_client::{CacheStats, Client};

use hdrhistogram::Histogram;

use crate::load::{self, BySource, Load, Measured, Source};
use crate::peers::Background;
use crate::peers::bindfs::Bindfs;
use crate::peers::{etcd, ext4, slurm};
use crate::processors::Watch;
use crate::report::{BeforeAfter, Cache, Latency, Report, Timed};
use crate::target::Peer;
use crate::target::Target;
use crate::{files, messages, sched, transfers};

/// Operations in flight that are tried when none are named.
pub const IN_FLIGHT_TRIED: [u32; 4] = [1, 4, 16, 64];
/// Operations that may be outstanding in the open loop.
const OPEN_LOOP_IN_FLIGHT: u32 = 1024;

/// Calls outstanding of all operations together: the window of one session.
pub(crate) const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// The longest: rows that nobody changes are asked for again that often.
const CACHE_LEASE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One scheduling call.
    Sched(sched::Spec),
    /// One round of messages.
    Ipc(messages::Spec),
    /// One file operation.
    Fs {
        shape: files::Shape,
        /// Bytes of a block; the shape's own if `None`.
        size: Option<usize>,
        /// Bytes of the client's read cache; 0: none. All clients share it, as processes of a machine share a page cache.
        cache_bytes: usize,
    },
    /// One transfer between accounts, this fraction of them between partitions; all from one account if `hot`.
    Txn {
        multi_partition: f64,
        accounts: u32,
        hot: bool,
    },
    /// One account read by its key: a prepared SELECT of one row.
    Read { accounts: u32 },
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

/// An operation that failed may have been done.
const NOT_COUNTED: &str =
    "what is there was not compared with what was acknowledged, as operations failed";

/// Called about once a second with a line to show.
pub type Progress<'a> = &'a dyn Fn(String);

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// One operation; `n` counts from 0 within a run.
pub(crate) type Operation<T = ()> = Rc<dyn Fn(u64) -> Task<Result<T, String>>>;

/// A benchmark that is set up on its target.
pub(crate) struct Prepared {
    pub operation: Operation<Option<Source>>,
    /// Of what filled a cache.
    pub filling: BySource,
    /// Compares the target's tables with the number of acknowledged operations.
    pub check: Box<dyn FnOnce(u64) -> Task<anyhow::Result<()>>>,
    /// The check makes no use of that number, and so holds though operations failed.
    holds_always: bool,
    /// Operations after which there is nothing left to do.
    pub operations_max: Option<u64>,
    /// What answers while the benchmark runs.
    responders: Option<Background>,
}

impl Prepared {
    pub fn new<F>(operation: Operation, check: impl FnOnce(u64) -> F + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let operation = move |n| -> Task<Result<Option<Source>, String>> {
            let result = operation(n);
            Box::pin(async move { result.await.map(|()| None) })
        };
        Self::reading(Rc::new(operation), BySource::default(), check)
    }

    /// As [`Prepared::new`], of operations that say where their answers come from.
    pub fn reading<F>(
        operation: Operation<Option<Source>>,
        filling: BySource,
        check: impl FnOnce(u64) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        Self {
            operation,
            filling,
            check: Box::new(move |acknowledged| Box::pin(check(acknowledged))),
            holds_always: false,
            operations_max: None,
            responders: None,
        }
    }

    /// As [`Prepared::new`], with a check that holds whatever was acknowledged.
    pub fn conserving<F>(operation: Operation, check: impl FnOnce() -> F + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        Self {
            holds_always: true,
            ..Self::new(operation, move |_| check())
        }
    }

    /// Fails if what is there is wrong. Where there were errors, of which some may be done, nothing is counted.
    async fn verify(
        self,
        acknowledged: u64,
        errors: &[String],
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        if errors.is_empty() {
            return (self.check)(acknowledged).await;
        }
        let errors = errors.join("; ");
        if !self.holds_always {
            progress(format!("errors: {errors}; {NOT_COUNTED}"));
            return Ok(());
        }
        progress(format!("errors: {errors}"));
        match (self.check)(acknowledged).await {
            // What made operations fail may not have ended.
            Err(error) if error.is::<dbos_client::Error>() => {
                progress(format!("errors: what is there was not checked: {error}"));
                Ok(())
            }
            checked => checked,
        }
    }

    pub fn keep(mut self, responders: Option<Background>) -> Self {
        self.responders = responders;
        self
    }
}

/// One run: its summary, and what the summary leaves out.
pub struct Run {
    pub report: Report,
    /// Microseconds.
    pub latency: Histogram<u64>,
    /// Operations of each [`load::TIMELINE_STEP`].
    pub timeline: Vec<u64>,
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
    let tried = match (&options.kind, options.in_flight) {
        // A round holds its pair's mailboxes or connections.
        (Kind::Ipc(spec), None) if spec.shape != messages::Shape::SendReceive => vec![spec.pairs],
        _ => tried,
    };
    let mut best: Option<Report> = None;
    for in_flight in tried {
        let report = measure(target, options, in_flight, progress).await?.report;
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

/// Runs a benchmark once, at one number of operations in flight.
pub async fn measure(
    target: &Target,
    options: &Options,
    in_flight: u32,
    progress: Progress<'_>,
) -> anyhow::Result<Run> {
    let mut load = Load {
        in_flight,
        rate: options.rate,
        warm_up: (options.duration / 5).min(Duration::from_secs(2)),
        duration: options.duration,
        operations_max: None,
    };
    if let Some(folder) = target.peer.as_ref().and_then(Peer::files) {
        return measure_threads(target, folder, options, load).await;
    }
    let client = connect(target, options).await?;
    // What fills the cache counts.
    let cache = client.as_ref().and_then(Client::cache_stats);
    let mut prepared = prepare(target, options, &load, client.clone())
        .await
        .context("setting up the benchmark")?;
    load.operations_max = prepared.operations_max;
    if load.operations_max.is_some() {
        // What there is to do must not be done before the measurement begins.
        load.warm_up = Duration::ZERO;
    }
    // Afterwards nobody may be there to say it.
    let version = target.version().await?;
    let before = target.fdatasync();
    let retries = client.as_ref().map(|client| client.stats().retries);
    let operation = prepared.operation.clone();
    let watch = Watch::start(load.warm_up, load.duration);
    let mut measured = load::run(
        load,
        move |n| operation(n),
        |passed, done| {
            let s = passed.as_secs();
            progress(format!("{in_flight} in flight: {done} done after {s} s"));
        },
    )
    .await;
    let processors = watch.end(measured.completed);
    drop(prepared.responders.take());
    let mut report = report(target, options, &load, &measured);
    report.processors = processors;
    report.set_fdatasync(before, target.fdatasync());
    report.target_version = version;
    let cache_after = client.as_ref().and_then(Client::cache_stats);
    measured.by_source.merge(&prepared.filling);
    report.cache = cache
        .zip(cache_after)
        .map(|(before, after)| cached(before, after, &measured.by_source));
    report.retries = retries
        .zip(client)
        .map(|(before, client)| client.stats().retries - before);
    let verified = prepared.verify(measured.acknowledged, &measured.first_errors, progress);
    verified.await?;
    Ok(Run {
        report,
        latency: measured.latency,
        timeline: measured.timeline,
    })
}

fn cached(before: CacheStats, after: CacheStats, by_source: &BySource) -> Cache {
    Cache {
        hits: after.hits - before.hits,
        misses: after.misses - before.misses,
        recalls: after.recalls - before.recalls,
        bytes: after.bytes,
        hit: Timed::of(&by_source.hits),
        miss: Timed::of(&by_source.misses),
    }
}

/// `None` for a peer that is no database.
async fn connect(target: &Target, options: &Options) -> anyhow::Result<Option<Client>> {
    if target.peer.is_some() {
        return Ok(None);
    }
    let connect = dbos_client::Options {
        connections: options.connections as usize,
        // One operation may be many calls (fan-out).
        in_flight: CALLS_IN_FLIGHT_MAX,
        // A stall of the machine is a latency, and no error.
        deadline: Duration::from_secs(30),
        application_name: "dbos-bench".into(),
        cache_bytes: match options.kind {
            Kind::Fs { cache_bytes, .. } => cache_bytes,
            _ => 0,
        },
        cache_lease: CACHE_LEASE,
        ..dbos_client::Options::default()
    };
    let wanted = connect.cache_bytes > 0;
    let client = Client::connect_with(&target.urls.join(",").parse()?, connect).await?;
    if wanted && !client.caches() {
        bail!(
            "{} does not tell when a row is changed, so nothing can be cached: leave --cache out",
            target.name
        );
    }
    Ok(Some(client))
}

/// Files for `delete` are made for so long.
fn fill_for(load: &Load) -> Duration {
    (load.warm_up + load.duration).mul_f64(1.5)
}

async fn prepare(
    target: &Target,
    options: &Options,
    load: &Load,
    client: Option<Client>,
) -> anyhow::Result<Prepared> {
    let does_not = || anyhow::anyhow!("{} does not do this benchmark", target.name);
    match (&options.kind, client, &target.peer) {
        (Kind::Sched(spec), Some(client), _) => sched::prepare(client, spec).await,
        (Kind::Sched(_), None, Some(Peer::Etcd(etcd))) => {
            etcd::prepare(etcd, options.connections).await
        }
        (Kind::Sched(_), None, Some(Peer::Slurm(slurm))) => Ok(slurm::prepare(slurm)),
        (Kind::Ipc(spec), client, peer) => {
            let spec = messages::Spec {
                pairs: load.in_flight,
                ..*spec
            };
            match (client, peer) {
                (Some(client), _) => {
                    let connections = options.connections as usize;
                    messages::prepare(client, spec, target.urls.join(","), connections).await
                }
                (None, Some(peer)) => match (peer.office(), peer.requests()) {
                    (Some(office), _) => messages::prepare_mailboxes(office, spec).await,
                    (_, Some(requests)) => messages::prepare_requests(requests, spec).await,
                    _ => Err(does_not()),
                },
                (None, None) => Err(does_not()),
            }
        }
        (Kind::Fs { shape, size, .. }, Some(client), _) => {
            files::prepare(client, *shape, *size, load.in_flight, fill_for(load)).await
        }
        (
            Kind::Txn {
                multi_partition,
                accounts,
                hot,
            },
            Some(client),
            _,
        ) => transfers::prepare(client, *multi_partition, *accounts, *hot).await,
        (Kind::Read { accounts }, Some(client), _) => {
            transfers::prepare_reads(client, *accounts).await
        }
        _ => Err(does_not()),
    }
}

async fn measure_threads(
    target: &Target,
    folder: &ext4::Folder,
    options: &Options,
    mut load: Load,
) -> anyhow::Result<Run> {
    let Kind::Fs {
        shape,
        size,
        cache_bytes,
    } = &options.kind
    else {
        bail!("{} is a file system: use `bench fs`", target.name);
    };
    if *cache_bytes > 0 {
        bail!("{} has its own page cache: leave --cache out", target.name);
    }
    let fuse = matches!(target.peer, Some(Peer::Bindfs(_)));
    if fuse && folder.fsync && !Bindfs::syncs(*shape) {
        bail!(
            "bindfs does not hand on the fsync of a directory, so that names are not durable: use bindfs:DIR for this"
        );
    }
    let layout = files::Layout::of(*shape, *size);
    let mut prepared = ext4::prepare(folder, *shape, layout, load.in_flight, fill_for(&load))
        .await
        .context("setting up the benchmark")?;
    load.operations_max = prepared.operations_max;
    if load.operations_max.is_some() {
        // What there is to do must not be done before the measurement begins.
        load.warm_up = Duration::ZERO;
    }
    let before = target.fdatasync();
    let watch = Watch::start(load.warm_up, load.duration);
    let measured = load::run_threads(load, std::mem::take(&mut prepared.operations)).await;
    let mut report = report(target, options, &load, &measured);
    report.processors = watch.end(measured.completed);
    report.target_version = target.own_version();
    report.set_fdatasync(before, target.fdatasync());
    match measured.first_errors.first() {
        None => prepared.check(measured.acknowledged)?,
        Some(error) => bail!(
            "{} operations failed: {error}; {NOT_COUNTED}",
            measured.errors
        ),
    }
    Ok(Run {
        report,
        latency: measured.latency,
        timeline: measured.timeline,
    })
}

fn report(target: &Target, options: &Options, load: &Load, measured: &Measured) -> Report {
    fn name<T: PartialEq>(known: &[(&'static str, T)], value: &T) -> Option<String> {
        let found = known.iter().find(|(_, known)| known == value);
        found.map(|(name, _)| name.to_string())
    }
    let (bench, policy, shape) = match &options.kind {
        Kind::Sched(spec) => ("sched", name(&sched::Policy::ALL, &spec.policy), None),
        Kind::Ipc(spec) => ("ipc", None, name(&messages::Shape::ALL, &spec.shape)),
        Kind::Fs { shape, .. } => ("fs", None, name(&files::Shape::ALL, shape)),
        Kind::Txn { hot, .. } => {
            let accounts = if *hot { "hot" } else { "uniform" };
            ("txn", None, Some(accounts.to_string()))
        }
        Kind::Read { .. } => ("read", None, Some("point".to_string())),
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
        per_minute_per_s: Some(measured.per_minute(load))
            .filter(|minutes| minutes.len() > 1)
            .unwrap_or_default(),
        latency_us: Latency::from(&measured.latency),
        errors: measured.errors,
        retries: None,
        cache: None,
        processors: None,
        nodes: target.nodes,
        replicas: target.replicas,
        partitions: target.partitions,
        durability: target.durability.clone(),
        fdatasync_p50_us: BeforeAfter::default(),
        fdatasync_p99_us: BeforeAfter::default(),
    }
}

/// Fails with both numbers unless they are equal.
pub(crate) fn expect_equal(what: &str, found: i64, acknowledged: u64) -> anyhow::Result<()> {
    if u64::try_from(found) != Ok(acknowledged) {
        bail!("{what}: {found} are there, {acknowledged} were acknowledged");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn nothing() -> Operation {
        Rc::new(|_| Box::pin(async { Ok(()) }))
    }

    fn failed() -> Vec<String> {
        vec!["connection lost".to_string()]
    }

    #[tokio::test]
    async fn money_is_checked_though_operations_failed() {
        let (told, failed) = (RefCell::new(Vec::new()), failed());
        let tell = |line| told.borrow_mut().push(line);
        let wrong = || async { bail!("64 accounts hold 1 in all") };
        let verified = Prepared::conserving(nothing(), wrong).verify(1, &failed, &tell);
        let error = verified.await.unwrap_err().to_string();
        assert_eq!(error, "64 accounts hold 1 in all");
        assert_eq!(told.take(), ["errors: connection lost"]);

        let right = Prepared::conserving(nothing(), || async { Ok(()) });
        right.verify(1, &failed, &tell).await.unwrap();
        assert_eq!(told.take(), ["errors: connection lost"]);

        let gone = || async { Err(dbos_client::Error::environment("nobody answers").into()) };
        let unread = Prepared::conserving(nothing(), gone);
        unread.verify(1, &failed, &tell).await.unwrap();
        let told = told.take();
        assert!(
            told[1].contains("was not checked: nobody answers"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn what_was_not_counted_is_told() {
        let told = RefCell::new(Vec::new());
        let tell = |line| told.borrow_mut().push(line);
        let counted = || Prepared::new(nothing(), |n| async move { expect_equal("rows", 3, n) });
        counted().verify(1, &failed(), &tell).await.unwrap();
        let lines = told.take();
        assert!(lines[0].contains("connection lost"), "{lines:?}");
        assert!(lines[0].contains(NOT_COUNTED), "{lines:?}");
        counted().verify(3, &[], &tell).await.unwrap();
        counted().verify(2, &[], &tell).await.unwrap_err();
    }
}
