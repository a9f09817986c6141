//! A node's configuration: one TOML file, every setting with its unit, its default and the reason for it.
//!
//! The settings are listed once, in the `settings!` table below; the struct, its defaults and the commented file that
//! `default_toml` prints all come from there. What is left out: settings that change while a node runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::raft::member_id::NODE_MAX;

/// When a commit may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On disk on a majority.
    Fsync,
    /// Written (write(2) returned) on a majority, synced in the background: survives the death of every process, not of
    /// the operating system.
    Memory,
}

/// Where one node of the cluster listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAddress {
    /// From 1, unique in the cluster.
    pub id: u64,
    /// PostgreSQL protocol, for clients.
    pub sql: SocketAddr,
    /// Node-to-node protocol.
    pub peer: SocketAddr,
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $name:ident : $type:ty = $default:expr; )+) => {
        /// All settings of one node.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct NodeConfig {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        impl Default for NodeConfig {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        /// Name and explanation of every setting, in the order of the file.
        const SETTINGS: &[(&str, &[&str])] = &[ $( (stringify!($name), &[$($doc),+]), )+ ];
    };
}

settings! {
    /// Name of the cluster. Shown to people; also the cluster's identity if `cluster_id` is empty.
    cluster: String = "default".into();
    /// Identity of the cluster, 32 hex digits: a data directory that belongs to another cluster is refused.
    /// Empty: derived from the name.
    cluster_id: String = String::new();
    /// Which of `nodes` this node is.
    node_id: u64 = 1;
    /// Every node of the cluster, the same list on every node. Addresses must be loopback until authentication exists.
    nodes: Vec<NodeAddress> = vec![NodeAddress {
        id: 1,
        sql: SocketAddr::from(([127, 0, 0, 1], 5440)),
        peer: SocketAddr::from(([127, 0, 0, 1], 5540)),
    }];
    /// This node is added to a cluster that runs: it makes no replica by itself, and waits to be given some.
    join: bool = false;
    /// Port on 127.0.0.1 at which Prometheus finds this node's numbers (`GET /metrics`). 0: none.
    metrics_port: u16 = 0;
    /// Directory of this node's log and state. One node at a time may have it open.
    data_dir: PathBuf = PathBuf::from("data");
    /// File that this node's trace goes to (appended). Empty: standard error.
    log_file: PathBuf = PathBuf::new();
    /// What is traced: error, warn, info, debug, trace, or a filter such as `info,kernel_db::raft=debug`.
    log_level: String = "info".into();
    /// Number of partitions, 1 to 1024; fixed when the cluster is created. More than cores times two buys little.
    partitions: u32 = 4;
    /// Copies of every partition: 1, 3 or 5, at most the number of nodes. A majority must live.
    replicas: u32 = 1;
    /// `fsync`: on disk on a majority before the reply. `memory`: written on a majority before the reply and synced in
    /// the background; survives the death of every process, not of the operating system.
    durability: Durability = Durability::Fsync;
    /// Milliseconds between two ticks of the Raft groups.
    tick_ms: u64 = 50;
    /// Ticks without a leader before an election; the actual wait is drawn between this and twice this.
    election_ticks: u64 = 10;
    /// Ticks between heartbeats. Elections must take several.
    heartbeat_ticks: u64 = 2;
    /// Steps (rows visited or written, procedure statements) that one transaction may use on a partition's core: a few
    /// milliseconds, well below an election timeout.
    run_limit_steps: u64 = 50_000;
    /// Milliseconds after which a statement is given up, with *outcome unknown* if it may have been proposed.
    statement_timeout_ms: u64 = 30_000;
    /// Milliseconds for which a node retries a statement by itself while a partition has no leader: longer than a
    /// failover.
    leader_wait_ms: u64 = 5_000;
    /// Bytes that one transaction may write. It must fit into one log entry and one message.
    write_set_bytes_max: u64 = 16 << 20;
    /// Bytes of one statement or message of a client: a file block with room to spare.
    message_bytes_max: u64 = 64 << 20;
    /// Bytes of write set after which a batch is proposed without waiting for the log writer.
    batch_bytes_max: u64 = 1 << 20;
    /// Batches proposed and not yet committed, per partition. Two to four beat a deep pipeline: batches grow instead.
    batches_in_flight_max: u32 = 3;
    /// Transactions waiting in one partition; past it requests get 53300.
    queue_max: u32 = 16_384;
    /// Rows and ranges of one partition that transactions over several partitions, and blocks, may have locked: one of them
    /// that wants more gets 54000, several together 53200.
    locks_max: u64 = 200_000;
    /// Bytes of keys of recent changes that one partition remembers, for SERIALIZABLE transactions that ask at their end
    /// whether what they read is still so: one that began before that gets 40001.
    changes_bytes_max: u64 = 16 << 20;
    /// Bytes of log of one partition. Past half of it the log is cut although a replica still needs it, which then gets a
    /// checkpoint; past all of it, when the disk does not keep up with flushing, requests get 53100.
    log_bytes_max: u64 = 1 << 30;
    /// Bytes of log files (of 32 MiB; half as many again) that are filled with zeroes when a node starts and has not so many to use
    /// again, so that no commit waits for a file that grows. Less than a file: none, and the first file grows; those behind it are filled
    /// while the one before is in use. Only with `fsync`.
    log_prefill_bytes: u64 = 64 << 20;
    /// Bytes of log written since the state was last flushed after which it is flushed, so that the log can be cut.
    flush_log_bytes: u64 = 64 << 20;
    /// Seconds after which changed state is flushed although little log is pinned: shortens the next restart.
    flush_interval_s: u64 = 30;
    /// Bytes of current rows that one partition keeps in memory above its store; colder rows are read from the store.
    tip_bytes_max: u64 = 512 << 20;
    /// Bytes of RocksDB's block cache, shared by all partitions of the node.
    block_cache_bytes: u64 = 256 << 20;
    /// Bytes of RocksDB's write buffers, shared by all partitions of the node.
    write_buffer_bytes: u64 = 256 << 20;
    /// Seconds for which overwritten rows are kept for snapshot reads.
    history_window_s: u64 = 300;
    /// Client connections per node; past it new ones get 53300.
    connections_max: u32 = 1_000;
    /// Sessions that a partition remembers for at-most-once execution; the longest unused goes first.
    sessions_max: u32 = 4_096;
    /// Bytes queued for one peer; past it messages are dropped (Raft sends them again) and calls get 53300.
    peer_queue_bytes_max: u64 = 64 << 20;
    /// Bytes per second at which a checkpoint is fetched by a replica that is too far behind: below what disk and network
    /// can do, so that clients do not feel it.
    snapshot_bytes_per_s: u64 = 64 << 20;
    /// Rows that one read over several partitions may visit; past it 54000.
    read_rows_max: u64 = 5_000_000;
    /// Bytes that one statement's result may have, or that a sort, a grouping, a join or the like keeps in memory for it, or
    /// that a statement of a transaction over several partitions reads; past it 54000.
    result_bytes_max: u64 = 256 << 20;
    /// Prepared plans kept per node.
    plan_cache_max: u32 = 2_048;
}

impl NodeConfig {
    /// Reads and checks a configuration file. Relative paths in it are relative to the file's directory.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| invalid(format!("cannot read {}: {e}", path.display())))?;
        let mut config = Self::from_toml(&text).map_err(|e| {
            Error::new(e.sqlstate(), format!("{}: {}", path.display(), e.message())).hint(
                e.get_hint()
                    .unwrap_or("`dbos config --default` prints every setting"),
            )
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        config.data_dir = base.join(&config.data_dir);
        if !config.log_file.as_os_str().is_empty() {
            config.log_file = base.join(&config.log_file);
        }
        Ok(config)
    }

    /// Parses and checks a configuration; settings that are absent keep their defaults.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            invalid(e.to_string().trim_end().to_string())
                .hint("`dbos config --default` prints every setting")
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as a file, every setting with its explanation.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# Configuration of one node. Every setting is shown with its unit and reason.\n",
        );
        let values = toml::Value::try_from(self).unwrap_or(toml::Value::Table(toml::Table::new()));
        for (name, docs) in SETTINGS {
            text.push('\n');
            for line in *docs {
                text.push_str(&format!("#{line}\n"));
            }
            if let Some(value) = values.get(*name) {
                text.push_str(&format!("{name} = {}\n", inline(value)));
            }
        }
        text
    }

    /// All defaults as a file.
    pub fn default_toml() -> String {
        Self::default().to_toml()
    }

    /// This node's own addresses.
    pub fn own(&self) -> Result<&NodeAddress> {
        self.nodes
            .iter()
            .find(|n| n.id == self.node_id)
            .ok_or_else(|| {
                invalid(format!("node_id = {} is not in `nodes`", self.node_id))
                    .hint("list every node of the cluster in `nodes`, this one included")
            })
    }

    /// The cluster's identity as a number.
    pub fn cluster_number(&self) -> u128 {
        u128::from_str_radix(&self.cluster_id, 16)
            .unwrap_or_else(|_| xxhash_rust::xxh3::xxh3_128(self.cluster.as_bytes()))
    }

    /// Checks every setting; the error names the setting and says what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.validate_cluster()?;
        self.validate_addresses()?;
        self.validate_bounds()
    }

    fn validate_cluster(&self) -> Result<()> {
        if self.cluster.is_empty() {
            return Err(invalid("cluster must have a name"));
        }
        let hex = &self.cluster_id;
        if !hex.is_empty() && (hex.len() != 32 || u128::from_str_radix(hex, 16).is_err()) {
            return Err(invalid("cluster_id must be empty or 32 hex digits"));
        }
        within("partitions", self.partitions.into(), 1, 1024)?;
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(invalid(format!(
                "replicas = {} must be 1, 3 or 5",
                self.replicas
            )));
        }
        if self.replicas as usize > self.nodes.len() {
            return Err(invalid(format!(
                "replicas = {} needs at least as many nodes, and there are {}",
                self.replicas,
                self.nodes.len()
            ))
            .hint("lower replicas or add nodes"));
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<()> {
        self.own()?;
        let mut seen = std::collections::HashSet::new();
        for node in &self.nodes {
            within("node id", node.id, 1, NODE_MAX)?;
            if self.nodes.iter().filter(|n| n.id == node.id).count() > 1 {
                return Err(invalid(format!("node id {} must be unique", node.id)));
            }
            for address in [node.sql, node.peer] {
                if !address.ip().is_loopback() {
                    return Err(invalid(format!("{address} is not a loopback address"))
                        .hint("listeners bind loopback only until there is authentication"));
                }
                if address.port() == 0 || !seen.insert(address) {
                    return Err(invalid(format!(
                        "{address} must have a port that is used once"
                    )));
                }
            }
        }
        Ok(())
    }

    fn validate_bounds(&self) -> Result<()> {
        within("tick_ms", self.tick_ms, 5, 10_000)?;
        within("heartbeat_ticks", self.heartbeat_ticks, 1, 1_000)?;
        within(
            "election_ticks",
            self.election_ticks,
            self.heartbeat_ticks * 3,
            10_000,
        )?;
        self.validate_memory_bounds()
    }

    fn validate_memory_bounds(&self) -> Result<()> {
        within("run_limit_steps", self.run_limit_steps, 1_000, 10_000_000)?;
        within(
            "statement_timeout_ms",
            self.statement_timeout_ms,
            10,
            86_400_000,
        )?;
        within("leader_wait_ms", self.leader_wait_ms, 0, 600_000)?;
        within(
            "write_set_bytes_max",
            self.write_set_bytes_max,
            64 << 10,
            48 << 20,
        )?;
        within(
            "message_bytes_max",
            self.message_bytes_max,
            64 << 10,
            1 << 30,
        )?;
        within("batch_bytes_max", self.batch_bytes_max, 1 << 10, 16 << 20)?;
        within(
            "batches_in_flight_max",
            self.batches_in_flight_max.into(),
            1,
            64,
        )?;
        within("queue_max", self.queue_max.into(), 16, 1 << 24)?;
        within("log_bytes_max", self.log_bytes_max, 16 << 20, 1 << 40)?;
        within("log_prefill_bytes", self.log_prefill_bytes, 0, 1 << 30)?;
        within("flush_log_bytes", self.flush_log_bytes, 1 << 20, 1 << 40)?;
        within("flush_interval_s", self.flush_interval_s, 1, 86_400)?;
        within("tip_bytes_max", self.tip_bytes_max, 1 << 20, 1 << 40)?;
        within(
            "block_cache_bytes",
            self.block_cache_bytes,
            1 << 20,
            1 << 40,
        )?;
        within(
            "write_buffer_bytes",
            self.write_buffer_bytes,
            8 << 20,
            1 << 40,
        )?;
        within(
            "history_window_s",
            self.history_window_s,
            1,
            10 * 365 * 86_400,
        )?;
        within("connections_max", self.connections_max.into(), 1, 65_536)?;
        within("sessions_max", self.sessions_max.into(), 1, 1 << 20)?;
        within(
            "peer_queue_bytes_max",
            self.peer_queue_bytes_max,
            self.write_set_bytes_max * 2,
            1 << 34,
        )?;
        within(
            "snapshot_bytes_per_s",
            self.snapshot_bytes_per_s,
            1 << 16,
            1 << 40,
        )?;
        within("read_rows_max", self.read_rows_max, 1_000, u64::MAX)?;
        within("result_bytes_max", self.result_bytes_max, 1 << 20, 1 << 34)?;
        within("plan_cache_max", self.plan_cache_max.into(), 16, 1 << 20)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new("F0000", message)
}

fn within(name: &str, value: u64, low: u64, high: u64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(invalid(format!(
        "{name} = {value} must be between {low} and {high}"
    )))
}

/// One value on one line, tables included.
fn inline(value: &toml::Value) -> String {
    match value {
        toml::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        toml::Value::Table(table) => {
            let items: Vec<String> = table
                .iter()
                .map(|(k, v)| format!("{k} = {}", inline(v)))
                .collect();
            format!("{{ {} }}", items.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_is_the_default() {
        let text = NodeConfig::default_toml();
        assert_eq!(
            NodeConfig::from_toml(&text).unwrap(),
            NodeConfig::default(),
            "{text}"
        );
        for (name, docs) in SETTINGS {
            assert!(text.contains(&format!("\n{name} = ")), "{name} is missing");
            assert!(
                docs.iter().any(|d| d.len() > 20),
                "{name} has no explanation"
            );
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        for (line, expected) in [
            ("replicas = 2", "replicas"),
            ("replicas = 3", "nodes"),
            ("partitions = 0", "partitions"),
            ("tick_ms = 0", "tick_ms"),
            ("election_ticks = 2", "election_ticks"),
            ("node_id = 7", "node_id"),
            ("cluster_id = 'xyz'", "cluster_id"),
            ("colour = 'red'", "colour"),
            ("durability = 'never'", "never"),
            (
                "nodes = [{ id = 1, sql = '0.0.0.0:1', peer = '127.0.0.1:2' }]",
                "loopback",
            ),
            (
                "nodes = [{ id = 1, sql = '127.0.0.1:2', peer = '127.0.0.1:2' }]",
                "once",
            ),
        ] {
            let error = NodeConfig::from_toml(line).unwrap_err();
            assert!(error.message().contains(expected), "{line}: {error}");
        }
    }
}
