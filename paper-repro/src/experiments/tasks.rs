//! Tasks that really run: submitted here, pulled and run by `dbos worker` processes, finished in the tables.
//!
//! What is reported comes from the tables: when each task was submitted and finished.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use bench::load;
use dbos_client::Client;
use hdrhistogram::Histogram;
use scheduler::Scheduler;

use crate::action::block_on;
use crate::systems::{Cluster, Worker};

/// Keys of a run: others than those of any run before on the same cluster.
static NEXT_KEY: AtomicI32 = AtomicI32::new(1_500_000_000);
/// A reaped worker's tasks wait for this long before they run again, and then some.
const FINISH_PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: i32 = 8;
const IN_FLIGHT: u32 = 256;
const LATENCY_US_MAX: u64 = 60_000_000;
const UNFINISHED: &str =
    "SELECT p_key, task_id FROM task WHERE p_key BETWEEN $1 AND $2 AND state < 3";
const TIMES: &str = "SELECT submitted_at, finished_at, attempts FROM task WHERE p_key = $1";

/// How many workers there are, and what they get to do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub keys: i32,
    pub workers_per_key: i32,
    /// Tasks submitted a second.
    pub rate: f64,
    pub duration: Duration,
}

pub struct Done {
    pub submitted: u64,
    pub errors: Vec<String>,
    pub error_count: u64,
    /// Tasks that were started more than once.
    pub again: u64,
    /// µs from submitted to finished.
    pub latency: Histogram<u64>,
    /// Seconds from the first submission to each finish, in order.
    pub finished_s: Vec<f64>,
}

/// Worker processes of all keys: `workers[key][n]`.
pub struct Workers {
    pub first_key: i32,
    pub processes: Vec<Vec<Worker>>,
}

impl Workers {
    pub fn start(cluster: &Cluster, work: Work) -> anyhow::Result<Self> {
        let first_key = NEXT_KEY.fetch_add(work.keys, Ordering::SeqCst);
        let of_key = |key: i32| {
            let processes = 1..=work.workers_per_key;
            processes
                .map(|id| cluster.worker(first_key + key, id, SLOTS))
                .collect()
        };
        let processes: anyhow::Result<Vec<Vec<Worker>>> = (0..work.keys).map(of_key).collect();
        Ok(Self {
            first_key,
            processes: processes?,
        })
    }
}

async fn connect(cluster: &Cluster) -> anyhow::Result<Client> {
    let options = dbos_client::Options {
        connections: 4,
        deadline: Duration::from_secs(30),
        application_name: "paper-repro".into(),
        ..dbos_client::Options::default()
    };
    Ok(Client::connect_with(&cluster.urls().parse()?, options).await?)
}

/// Tables and procedures, before there are workers.
pub fn install(cluster: &Cluster) -> anyhow::Result<()> {
    block_on(async { Ok(scheduler::install(&connect(cluster).await?).await?) })?
}

/// Submits tasks that do nothing, and waits until all are finished. `began` is called when the first is submitted.
pub fn run(
    cluster: &Cluster,
    first_key: i32,
    work: Work,
    began: impl FnOnce(),
) -> anyhow::Result<Done> {
    block_on(async {
        let client = connect(cluster).await?;
        wait_for_workers(&client, first_key, work).await?;
        began();
        let scheduler = Scheduler::new(client.clone());
        let waiting = scheduler.clone();
        let submit = move |n: u64| {
            let scheduler = scheduler.clone();
            let key = first_key + (n % work.keys as u64) as i32;
            async move {
                match scheduler.submit(key, n as i64, "").await {
                    Ok(true) => Ok(None),
                    Ok(false) => Err("the task is there already".to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        };
        let offered = load::Load {
            in_flight: IN_FLIGHT,
            rate: Some(work.rate),
            warm_up: Duration::ZERO,
            duration: work.duration,
            operations_max: None,
        };
        let submitted = load::run(offered, submit, |_, _| ()).await;
        wait_until_finished(&waiting, first_key, work).await?;
        let mut done = times(&client, first_key, work, submitted.acknowledged).await?;
        done.error_count = submitted.errors;
        done.errors = submitted.first_errors;
        Ok(done)
    })?
}

/// Until every worker process has registered.
async fn wait_for_workers(client: &Client, first_key: i32, work: Work) -> anyhow::Result<()> {
    let (start, last) = (Instant::now(), first_key + work.keys - 1);
    loop {
        let sql = "SELECT count(*) FROM worker WHERE p_key BETWEEN $1 AND $2";
        let rows = client.read_all(sql, &[&first_key, &last]).await?;
        let there: i64 = rows[0].get(0);
        if there == i64::from(work.keys * work.workers_per_key) {
            return Ok(());
        }
        if start.elapsed() > FINISH_PATIENCE {
            bail!("{there} workers registered in {FINISH_PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the tasks that have not ended, one after another, by the scheduler's own procedure.
async fn wait_until_finished(
    scheduler: &Scheduler,
    first_key: i32,
    work: Work,
) -> anyhow::Result<()> {
    let (start, last) = (Instant::now(), first_key + work.keys - 1);
    let unfinished = scheduler
        .client()
        .read_all(UNFINISHED, &[&first_key, &last])
        .await?;
    for row in &unfinished {
        let (key, task): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
        let left = FINISH_PATIENCE.saturating_sub(start.elapsed());
        if scheduler.wait(key, task, left).await?.is_none() {
            bail!(
                "task {task} of key {key} has not ended {FINISH_PATIENCE:?} after the last was submitted"
            );
        }
    }
    Ok(())
}

/// Every acknowledged task is there once and finished; when.
async fn times(
    client: &Client,
    first_key: i32,
    work: Work,
    submitted: u64,
) -> anyhow::Result<Done> {
    let mut latency = Histogram::new_with_max(LATENCY_US_MAX, 3)?;
    let (mut all, mut again) = (Vec::new(), 0);
    for key in first_key..first_key + work.keys {
        for row in client.read(key, TIMES, &[&key]).await? {
            let times: (SystemTime, SystemTime) = (row.try_get(0)?, row.try_get(1)?);
            again += u64::from(row.try_get::<_, i32>(2)? > 1);
            all.push(times);
        }
    }
    // A submission whose outcome stayed unknown may be there, too.
    if (all.len() as u64) < submitted {
        bail!(
            "{} tasks are there, {submitted} were acknowledged",
            all.len()
        );
    }
    let first = all
        .iter()
        .map(|t| t.0)
        .min()
        .context("no task was submitted")?;
    let seconds = |at: SystemTime| at.duration_since(first).unwrap_or_default().as_secs_f64();
    for (from, to) in &all {
        let took = to.duration_since(*from).unwrap_or_default();
        latency.saturating_record((took.as_micros() as u64).max(1));
    }
    let mut finished_s: Vec<f64> = all.iter().map(|t| seconds(t.1)).collect();
    finished_s.sort_by(f64::total_cmp);
    Ok(Done {
        submitted,
        errors: Vec::new(),
        error_count: 0,
        again,
        latency,
        finished_s,
    })
}
