//! What a point of an experiment does when it is its turn.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bench::{Kind, Options, Run};
use hdrhistogram::Histogram;

use crate::record::{Cache, Latency, Row, Timed};
use crate::systems::{System, Systems};

/// Beyond its measured time and this, a run has hung: filling tables takes part of it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs in which nothing ended are done again with four times the time, up to this.
const LONGEST: Duration = Duration::from_secs(10);

/// What a run gave.
pub struct Outcome {
    pub rows: Vec<Row>,
    pub version: String,
    /// Microseconds.
    pub latency: Option<Histogram<u64>>,
    pub errors: Vec<String>,
}

/// `FnMut` is not needed: a point may be run again and again.
pub type Action = Box<dyn Fn(&mut Systems) -> anyhow::Result<Outcome>>;

/// One run of the load generator.
#[derive(Clone, Debug)]
pub struct Load {
    pub system: System,
    pub kind: Kind,
    pub connections: u32,
    pub in_flight: u32,
    /// Operations per second; `None` is the closed loop.
    pub rate: Option<f64>,
    pub duration: Duration,
}

impl Load {
    /// The row gets this x.
    pub fn action(self, x: f64) -> Action {
        Box::new(move |systems| {
            let (mut run, mut errors) = self.run(systems, &OnceLock::new())?;
            let mut longer = self.clone();
            // Nothing ended within the time: it was too short for this load on this machine.
            while run.latency.is_empty() && run.report.errors == 0 && longer.duration < LONGEST {
                longer.duration *= 4;
                (run, errors) = longer.run(systems, &OnceLock::new())?;
            }
            let mut row = row_of(&run);
            row.x = x;
            Ok(Outcome {
                rows: vec![row],
                version: run.report.target_version,
                latency: Some(run.latency),
                errors,
            })
        })
    }

    /// The run, and its first errors. `began` is set, about a second late, to the start of the run's time line.
    pub fn run(
        &self,
        systems: &mut Systems,
        began: &OnceLock<Instant>,
    ) -> anyhow::Result<(Run, Vec<String>)> {
        let options = Options {
            kind: self.kind.clone(),
            connections: self.connections,
            in_flight: Some(self.in_flight),
            rate: self.rate,
            duration: self.duration,
        };
        let target = systems.target(&self.system)?;
        let errors = RefCell::new(Vec::new());
        let show = |line: String| {
            if let Some(errors_of_run) = line.strip_prefix("errors: ") {
                errors.borrow_mut().push(errors_of_run.to_string());
            } else {
                // The first line of progress comes after one second.
                began.get_or_init(|| Instant::now() - Duration::from_secs(1));
            }
        };
        let run = block_on(async {
            let measure = bench::measure(target, &options, self.in_flight, &show);
            tokio::time::timeout(self.duration * 2 + PATIENCE, measure).await
        })?;
        let run = run.map_err(|_| anyhow::anyhow!("no end after {PATIENCE:?}"))??;
        Ok((run, errors.into_inner()))
    }
}

/// A run as one line, at x = 0.
fn row_of(run: &Run) -> Row {
    let report = &run.report;
    // Only what is durable depends on the disk.
    let durable = report.durability.as_deref() == Some("fsync");
    let both = |times: bench::BeforeAfter| times.before.zip(times.after).filter(|_| durable);
    Row {
        x: 0.0,
        count: run.latency.len(),
        errors: report.errors,
        value: report.throughput_per_s,
        latency: (!run.latency.is_empty()).then(|| latency(&run.latency)),
        fdatasync: both(report.fdatasync_p50_us),
        fdatasync_p99: both(report.fdatasync_p99_us),
        processors: report.processors.clone(),
        cache: report.cache.map(|cache| Cache {
            hits: cache.hit.map(timed),
            misses: cache.miss.map(timed),
        }),
    }
}

fn timed(operations: bench::Timed) -> Timed {
    Timed {
        count: operations.operations,
        p50_ns: operations.latency_ns.p50,
        p99_ns: operations.latency_ns.p99,
    }
}

pub fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Latency {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max(),
    }
}

/// On this thread, as the load generators need it.
pub fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(tokio::task::LocalSet::new().run_until(work)))
}
