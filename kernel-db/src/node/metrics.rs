//! Numbers for Prometheus: text over HTTP at `GET /metrics`, on loopback.
//!
//! Gauges are read from the replicas when somebody asks; only counts of what happens in between are kept. The log store's own
//! histograms (raft-engine's, `raft_engine_sync_log_duration_seconds` among them: the latency of fdatasync) come along.
//! Requests are answered one at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Encoder, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::core::Core;
use super::peers::Peers;
use crate::error::{Error, Result};
use crate::partition::{ReplicaStatus, Role};
use crate::storage::StateStore;

/// Bytes of one request's head.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// For one request to arrive and be answered.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What happened since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Transactions given to replicas here.
    pub requests: Cell<u64>,
    /// Replies that are errors, and those of them that say *busy* (53xxx).
    pub errors: Cell<u64>,
    pub busy: Cell<u64>,
    /// Writes given to the log writer, and their bytes.
    pub log_writes: Cell<u64>,
    pub log_bytes: Cell<u64>,
    /// Jobs given to apply.
    pub applies: Cell<u64>,
    /// Raft messages, before they are put together per node.
    pub raft_messages: Cell<u64>,
    pub checkpoints: Cell<u64>,
}

impl Counters {
    /// Adds to one of the counts.
    pub fn add(count: &Cell<u64>, n: u64) {
        count.set(count.get() + n);
    }
}

/// See the module's documentation.
pub struct Metrics {
    pub core: Rc<Core>,
    pub peers: Rc<Peers>,
}

type GroupValue = fn(&(ReplicaStatus, u64)) -> u64;

/// Of a replica and the bytes of its state: name, help, value.
const GROUP_GAUGES: [(&str, &str, GroupValue); 14] = [
    (
        "role",
        "0 follower, 1 candidate, 2 leader",
        |(s, _)| match s.role {
            Role::Follower => 0,
            Role::Candidate => 1,
            Role::Leader => 2,
        },
    ),
    ("open", "1 if requests are executed here", |(s, _)| {
        s.open.into()
    }),
    ("term", "Raft term", |(s, _)| s.term),
    (
        "commit_index",
        "Last committed entry known here",
        |(s, _)| s.commit,
    ),
    (
        "applied_index",
        "Last entry applied to the state",
        |(s, _)| s.applied,
    ),
    (
        "durable_index",
        "Last entry whose state is flushed",
        |(s, _)| s.durable,
    ),
    ("apply_lag", "Committed entries not applied", |(s, _)| {
        s.commit.saturating_sub(s.applied)
    }),
    (
        "follower_lag_max",
        "Entries the slowest member is behind, at the leader",
        |(s, _)| s.followers.iter().map(|f| f.lag).max().unwrap_or(0),
    ),
    (
        "log_bytes",
        "Bytes between the first and the last entry",
        |(s, _)| s.log_bytes,
    ),
    (
        "state_bytes",
        "Bytes of the state, roughly",
        |(_, bytes)| *bytes,
    ),
    ("tip_bytes", "Bytes of current rows in memory", |(s, _)| {
        s.tip_bytes as u64
    }),
    ("sessions", "Client sessions remembered", |(s, _)| {
        s.sessions as u64
    }),
    (
        "queue",
        "Requests waiting for execution, commit or a lease",
        |(s, _)| s.requests as u64,
    ),
    (
        "batches_in_flight",
        "Proposed batches that are not committed",
        |(s, _)| s.batches_in_flight as u64,
    ),
];

impl Metrics {
    /// Answers for ever.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Whoever asks badly, or slowly, gets no answer.
                    let _ = tokio::time::timeout(TIMEOUT, self.answer(stream)).await;
                }
                Err(error) => {
                    tracing::warn!("cannot accept a request for metrics: {error}");
                    tokio::time::sleep(TIMEOUT).await;
                }
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut chunk = [0; 1024];
            let n = stream.read(&mut chunk).await?;
            if n == 0 || head.len() + n > HEAD_BYTES_MAX {
                return Ok(());
            }
            head.extend_from_slice(&chunk[..n]);
        }
        let (status, body) = match head.starts_with(b"GET /metrics ") {
            true => match self.text() {
                Ok(text) => ("200 OK", text),
                Err(error) => ("500 Internal Server Error", error.to_string()),
            },
            false => ("404 Not Found", "metrics are at GET /metrics\n".into()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    }

    /// All numbers in the text format.
    pub fn text(&self) -> Result<String> {
        let registry = Registry::new();
        self.counts(&registry)?;
        self.groups(&registry)?;
        self.links(&registry)?;
        let mut families = registry.gather();
        // The log store's, which counts for the whole process.
        families.extend(prometheus::gather());
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut out)
            .map_err(broken)?;
        String::from_utf8(out).map_err(broken)
    }

    fn counts(&self, registry: &Registry) -> Result<()> {
        let counters = self.core.counters();
        for (name, help, count) in [
            (
                "requests_total",
                "Transactions given to replicas here",
                &counters.requests,
            ),
            ("errors_total", "Replies that are errors", &counters.errors),
            (
                "busy_total",
                "Replies that say busy (53xxx)",
                &counters.busy,
            ),
            (
                "log_writes_total",
                "Writes given to the log writer",
                &counters.log_writes,
            ),
            (
                "log_written_bytes_total",
                "Bytes given to the log writer",
                &counters.log_bytes,
            ),
            ("applies_total", "Jobs given to apply", &counters.applies),
            (
                "raft_messages_total",
                "Raft messages to other nodes",
                &counters.raft_messages,
            ),
            (
                "checkpoints_total",
                "Checkpoints made for other nodes",
                &counters.checkpoints,
            ),
        ] {
            let counter = prometheus::IntCounter::with_opts(options(name, help)).map_err(broken)?;
            counter.inc_by(count.get());
            register(registry, counter)?;
        }
        let gauge = IntGauge::with_opts(options(
            "requests_open",
            "Requests that wait for their answer",
        ));
        let gauge = gauge.map_err(broken)?;
        gauge.set(self.core.waiting() as i64);
        register(registry, gauge)?;
        let gauge = IntGauge::with_opts(options("log_disk_bytes", "Bytes of the log on disk"));
        let gauge = gauge.map_err(broken)?;
        gauge.set(self.core.log_disk_bytes() as i64);
        register(registry, gauge)?;
        let Some(bytes) = resident_bytes() else {
            return Ok(());
        };
        let gauge = IntGauge::with_opts(options(
            "process_resident_memory_bytes",
            "Bytes of physical memory of this node",
        ));
        let gauge = gauge.map_err(broken)?;
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        register(registry, gauge)
    }

    fn groups(&self, registry: &Registry) -> Result<()> {
        let groups = self.core.groups();
        let statuses: Vec<(ReplicaStatus, u64)> = groups
            .iter()
            .filter_map(|(number, group)| {
                Some((self.core.status(*number)?, group.store.size_bytes()))
            })
            .collect();
        for (name, help, value) in GROUP_GAUGES {
            let vector = IntGaugeVec::new(options(&format!("group_{name}"), help), &["group"]);
            let vector = vector.map_err(broken)?;
            for status in &statuses {
                let group = status.0.group.to_string();
                vector
                    .with_label_values(&[&group])
                    .set(i64::try_from(value(status)).unwrap_or(i64::MAX));
            }
            register(registry, vector)?;
        }
        Ok(())
    }

    fn links(&self, registry: &Registry) -> Result<()> {
        let vector = |name, help| IntGaugeVec::new(options(name, help), &["node"]).map_err(broken);
        let connected = vector("peer_connected", "1 if the node is reached")?;
        let queued = vector("peer_queued_bytes", "Bytes queued for the node")?;
        let calls = vector("peer_calls", "Calls that the node has not answered")?;
        for link in self.peers.loads() {
            let node = link.node.to_string();
            let set = |vector: &IntGaugeVec, value: u64| {
                vector
                    .with_label_values(&[&node])
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&connected, link.connected.into());
            set(&queued, link.queued_bytes);
            set(&calls, link.calls as u64);
        }
        register(registry, connected)?;
        register(registry, queued)?;
        register(registry, calls)
    }
}

/// Bytes of physical memory that this process has. `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let pages = procfs::process::Process::myself().ok()?.statm().ok()?;
    Some(pages.resident * procfs::page_size())
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("dbos_{name}"), help)
}

fn register(registry: &Registry, collector: impl Collector + 'static) -> Result<()> {
    registry.register(Box::new(collector)).map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("metrics: {error}"))
}
