//! What a client knows of the servers behind its target: which kind, which nodes, who leads which partition.
//!
//! A kernel cluster tells it in `dbos.nodes` and `dbos.partitions`; any node can be asked. A plain PostgreSQL is one node
//! and one partition. What is known may be out of date: it only decides where a request is tried first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;

use crate::connection::{Connection, lock};
use crate::error::{Error, Result};
use crate::retry::Failure;
use crate::target::Endpoint;

/// A refresh that ended this recently is good enough for another failed request.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// A node that does not tell in this time is passed over.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What answers at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// Sessions, partitions, leaders.
    KernelDb,
    /// A plain PostgreSQL: calls of unknown outcome are not retried.
    PostgreSql,
}

/// A node as the cluster itself lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub node_id: i32,
    /// `host:port` for SQL.
    pub address: String,
    pub alive: bool,
}

/// Nodes and leaders at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub nodes: Vec<Node>,
    /// Node id of each partition's leader; at least one partition.
    pub leaders: Vec<Option<i32>>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The leader of a partition.
    Partition(u32),
    /// Any node that is alive.
    Anywhere,
}

pub struct Cluster {
    kind: ServerKind,
    version: String,
    seeds: Vec<Endpoint>,
    topology: Mutex<Arc<Topology>>,
    control: tokio::sync::Mutex<Control>,
}

struct Control {
    connection: Option<Connection>,
    refreshed: Option<Instant>,
}

impl Cluster {
    /// Connects to the first seed that answers and learns what it is.
    pub async fn discover(seeds: Vec<Endpoint>) -> Result<Self> {
        let mut last = Error::environment("no server to connect to");
        for seed in &seeds {
            let asked = async {
                let connection = Connection::open(seed, None).await?;
                let rows = rows_of(connection.simple_query("SELECT version()").await?);
                Ok::<_, Failure>((connection, rows))
            };
            match asked.await {
                Ok((connection, rows)) => {
                    let version = rows
                        .first()
                        .and_then(|row| row[0].clone())
                        .unwrap_or_default();
                    let kind = kind_of(&version);
                    let control = Control {
                        connection: Some(connection),
                        refreshed: None,
                    };
                    let cluster = Self {
                        kind,
                        version,
                        topology: Mutex::new(Arc::new(Topology {
                            nodes: Vec::new(),
                            leaders: vec![None],
                        })),
                        seeds,
                        control: tokio::sync::Mutex::new(control),
                    };
                    cluster.refresh().await?;
                    return Ok(cluster);
                }
                Err(failure) => last = failure.into_error(),
            }
        }
        Err(last)
    }

    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn topology(&self) -> Arc<Topology> {
        lock(&self.topology).clone()
    }

    /// Asks the cluster again, unless somebody just did. On a plain PostgreSQL there is nothing to learn.
    pub async fn refresh(&self) -> Result<()> {
        if self.kind == ServerKind::PostgreSql {
            return Ok(());
        }
        let mut control = self.control.lock().await;
        if control
            .refreshed
            .is_some_and(|at| at.elapsed() < REFRESH_INTERVAL_MIN)
        {
            return Ok(());
        }
        let mut last = Error::environment("no node answers");
        if let Some(connection) = control
            .connection
            .take_if(|connection| connection.is_usable())
        {
            match ask(&connection).await {
                Ok(topology) => {
                    self.learned(topology, connection, &mut control);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        for endpoint in self.ways_in() {
            let opened = Connection::open(&endpoint, None)
                .await
                .map_err(Failure::into_error);
            match opened {
                Ok(connection) => match ask(&connection).await {
                    Ok(topology) => {
                        self.learned(topology, connection, &mut control);
                        return Ok(());
                    }
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        control.refreshed = Some(Instant::now());
        Err(last)
    }

    fn learned(&self, topology: Topology, connection: Connection, control: &mut Control) {
        control.connection = Some(connection);
        control.refreshed = Some(Instant::now());
        *lock(&self.topology) = Arc::new(topology);
    }

    /// Where to try a request; `attempt` rotates through the nodes while the leader is not known.
    pub fn endpoint(&self, place: Place, attempt: usize) -> Endpoint {
        let topology = self.topology();
        if let Place::Partition(partition) = place
            && let Some(leader) = topology.leader(partition)
            && let Some(endpoint) = self.endpoint_of(&topology, leader)
        {
            return endpoint;
        }
        let alive: Vec<&Node> = topology.nodes.iter().filter(|node| node.alive).collect();
        let node = alive.get(attempt % alive.len().max(1));
        let seed = || self.seeds[attempt % self.seeds.len()].clone();
        node.and_then(|node| self.seeds[0].at(node.node_id, &node.address))
            .unwrap_or_else(seed)
    }

    /// True if the leader of `place` is known to be another node than the endpoint's.
    pub fn has_moved(&self, place: Place, endpoint: &Endpoint) -> bool {
        let Place::Partition(partition) = place else {
            return false;
        };
        let topology = self.topology();
        let leader = topology
            .leader(partition)
            .filter(|leader| topology.nodes.iter().any(|n| n.node_id == *leader));
        leader.is_some() && leader != endpoint.node_id
    }

    fn endpoint_of(&self, topology: &Topology, node_id: i32) -> Option<Endpoint> {
        let node = topology.nodes.iter().find(|node| node.node_id == node_id)?;
        self.seeds[0].at(node_id, &node.address)
    }

    /// Nodes thought alive, then the others, then the seeds.
    fn ways_in(&self) -> Vec<Endpoint> {
        let topology = self.topology();
        let (alive, dead): (Vec<&Node>, Vec<&Node>) =
            topology.nodes.iter().partition(|node| node.alive);
        let known = alive
            .into_iter()
            .chain(dead)
            .filter_map(|node| self.seeds[0].at(node.node_id, &node.address));
        known.chain(self.seeds.iter().cloned()).collect()
    }
}

impl Topology {
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.leaders.len()).unwrap_or(u32::MAX)
    }

    /// The partition that owns a slot.
    pub fn partition_of(&self, slot: u16) -> u32 {
        u32::from(slot) % self.partitions()
    }

    pub fn leader(&self, partition: u32) -> Option<i32> {
        self.leaders.get(partition as usize).copied().flatten()
    }
}

fn kind_of(version: &str) -> ServerKind {
    let version = version.to_ascii_lowercase();
    if version.contains("kernel-db") || version.contains("dbos") {
        ServerKind::KernelDb
    } else {
        ServerKind::PostgreSql
    }
}

async fn ask(connection: &Connection) -> Result<Topology> {
    let asked = async {
        let nodes = connection
            .simple_query("SELECT node_id, sql_address, alive FROM dbos.nodes")
            .await?;
        let partitions = connection
            .simple_query("SELECT partition_id, leader FROM dbos.partitions")
            .await?;
        Ok::<_, Failure>((rows_of(nodes), rows_of(partitions)))
    };
    let (nodes, partitions) = tokio::time::timeout(ASK_TIMEOUT, asked)
        .await
        .map_err(|_| Error::environment(format!("{} does not answer", connection.endpoint())))?
        .map_err(Failure::into_error)?;
    topology_of(&nodes, &partitions).ok_or_else(|| {
        Error::environment(format!("{} describes no partition", connection.endpoint()))
    })
}

fn topology_of(
    nodes: &[Vec<Option<String>>],
    partitions: &[Vec<Option<String>>],
) -> Option<Topology> {
    let nodes = nodes.iter().filter_map(|row| {
        Some(Node {
            node_id: row[0].as_ref()?.parse().ok()?,
            address: row[1].clone()?,
            alive: row[2].as_deref() == Some("t"),
        })
    });
    let nodes: Vec<Node> = nodes.collect();
    let mut leaders = vec![None; partitions.len()];
    for row in partitions {
        let partition: usize = row[0].as_ref()?.parse().ok()?;
        *leaders.get_mut(partition)? = row[1].as_ref().and_then(|leader| leader.parse().ok());
    }
    (!leaders.is_empty()).then_some(Topology { nodes, leaders })
}

fn rows_of(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<Option<String>>> {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|i| row.get(i).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cells: &[Option<&str>]) -> Vec<Option<String>> {
        cells.iter().map(|cell| cell.map(str::to_owned)).collect()
    }

    #[test]
    fn the_kind_is_in_the_version() {
        assert_eq!(
            kind_of("PostgreSQL 15.0 (kernel-db 0.1.0)"),
            ServerKind::KernelDb
        );
        assert_eq!(
            kind_of("PostgreSQL 15.14 (Debian 15.14-0+deb12u1) on x86_64"),
            ServerKind::PostgreSql
        );
    }

    #[test]
    fn a_partition_without_leader_is_known_as_such() {
        let nodes = [
            text(&[Some("1"), Some("127.0.0.1:5001"), Some("t")]),
            text(&[Some("2"), Some("x:1"), Some("f")]),
        ];
        let partitions = [text(&[Some("1"), Some("2")]), text(&[Some("0"), None])];
        let topology = topology_of(&nodes, &partitions).unwrap();
        assert_eq!(topology.leaders, [None, Some(2)]);
        assert!(topology.nodes[0].alive && !topology.nodes[1].alive);
        assert_eq!(topology.partition_of(1023), 1);
    }

    #[test]
    fn a_description_without_partitions_or_with_holes_is_refused() {
        assert!(topology_of(&[], &[]).is_none());
        assert!(topology_of(&[], &[text(&[Some("3"), None])]).is_none());
    }
}
