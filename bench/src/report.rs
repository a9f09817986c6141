//! The result of one benchmark run, as one line of JSON or for people.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fdatasync::Times;
use crate::processors::Processors;

/// Fields in the order in which they are printed; null where a field does not apply.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub target: String,
    pub target_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_partition: Option<f64>,
    pub connections: u32,
    pub in_flight: u32,
    pub rate: Option<f64>,
    pub duration_s: f64,
    pub throughput_per_s: f64,
    /// Of each whole minute, in runs of two minutes and more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_minute_per_s: Vec<f64>,
    pub latency_us: Latency,
    pub errors: u64,
    pub retries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Null if the system does not tell.
    pub processors: Option<Processors>,
    pub nodes: Option<u32>,
    pub replicas: Option<u32>,
    pub partitions: Option<u32>,
    pub durability: Option<String>,
    pub fdatasync_p50_us: BeforeAfter,
    pub fdatasync_p99_us: BeforeAfter,
}

impl Report {
    pub(crate) fn set_fdatasync(&mut self, before: Option<Times>, after: Option<Times>) {
        let both = |of: fn(Times) -> u64| BeforeAfter {
            before: before.map(of),
            after: after.map(of),
        };
        self.fdatasync_p50_us = both(|times| times.p50);
        self.fdatasync_p99_us = both(|times| times.p99);
    }
}

/// The client's read cache. One operation may be several reads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cache {
    /// Reads, from before the cache was filled to the end.
    pub hits: u64,
    pub misses: u64,
    pub recalls: u64,
    /// Held at the end.
    pub bytes: u64,
    /// Operations that were answered from memory, within the measured time.
    pub hit: Option<Timed>,
    /// Operations that asked the cluster for something, within the measured time and while the cache was filled.
    pub miss: Option<Timed>,
}

/// So many operations.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timed {
    pub operations: u64,
    pub latency_ns: Latency,
}

impl Timed {
    /// Of a histogram of nanoseconds; `None` if it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            operations: histogram.len(),
            latency_ns: histogram.into(),
        })
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BeforeAfter {
    pub before: Option<u64>,
    pub after: Option<u64>,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |value: Option<u32>| value.map_or("-".to_string(), |v| v.to_string());
        let what = self
            .policy
            .as_deref()
            .or(self.shape.as_deref())
            .unwrap_or("");
        let what = match self.multi_partition {
            Some(fraction) => format!("{what}, {fraction} multi-partition,"),
            None => what.to_string(),
        };
        writeln!(
            f,
            "{} {what} on {} ({}): nodes {}, replicas {}, partitions {}, durability {}",
            self.bench,
            self.target,
            self.target_version,
            or_dash(self.nodes),
            or_dash(self.replicas),
            or_dash(self.partitions),
            self.durability.as_deref().unwrap_or("-"),
        )?;
        let offered = self.rate.map_or("closed loop".to_string(), |rate| {
            format!("{rate}/s offered")
        });
        writeln!(
            f,
            "  {:.0}/s over {} s, {} in flight on {} connections, {offered}, {} errors, {} retries",
            self.throughput_per_s,
            self.duration_s,
            self.in_flight,
            self.connections,
            self.errors,
            self.retries.map_or("-".to_string(), |v| v.to_string()),
        )?;
        if !self.per_minute_per_s.is_empty() {
            let rates = self
                .per_minute_per_s
                .iter()
                .map(|rate| format!("{rate:.0}"));
            let rates = rates.collect::<Vec<_>>().join(", ");
            writeln!(f, "  operations/s of each minute: {rates}")?;
        }
        self.times(f)
    }
}

impl Report {
    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let l = &self.latency_us;
        write!(
            f,
            "  latency µs: p50 {}, p95 {}, p99 {}, p99.9 {}, max {}",
            l.p50, l.p95, l.p99, l.p999, l.max
        )?;
        if let (Some(before), Some(after)) =
            (self.fdatasync_p50_us.before, self.fdatasync_p50_us.after)
        {
            write!(f, "; fdatasync p50 {before} before, {after} after")?;
        }
        if let Some(processors) = &self.processors {
            let percent = |part: f64| format!("{:.0} %", part * 100.0);
            write!(
                f,
                "\n  processors {} busy, {} taken by the hypervisor; µs of them per operation: {processors}",
                percent(processors.busy),
                percent(processors.stolen)
            )?;
        }
        if let Some(cache) = &self.cache {
            write!(f, "\n  {cache}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cache: {} hits, {} misses, {} given back, {} bytes",
            self.hits, self.misses, self.recalls, self.bytes
        )?;
        for (what, timed) in [("hits", self.hit), ("misses", self.miss)] {
            let Some(timed) = timed else { continue };
            let us = |ns: u64| ns as f64 / 1000.0;
            let l = &timed.latency_ns;
            write!(
                f,
                "\n  {} operations on {what}, µs: p50 {:.1}, p95 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
                timed.operations,
                us(l.p50),
                us(l.p95),
                us(l.p99),
                us(l.p999),
                us(l.max)
            )?;
        }
        Ok(())
    }
}
