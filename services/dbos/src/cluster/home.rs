//! Where a local cluster lives: its description, its nodes' directories, its logs.
//!
//! `$XDG_DATA_HOME/dbos/NAME/cluster.toml` describes cluster NAME, wherever its data is; without `--data` the data is
//! beside it: `.dbos-cluster` (the cluster's identity), `node-1/` (config.toml, pid, data/), `node-2/`, ... and `logs/node-1.log`, ....

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use kernel_db::node::{Durability, NodeAddress, NodeConfig};
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Result};

/// First SQL port tried for a new cluster; peers listen `PEER_PORTS` above.
const BASE_PORT: u16 = 5440;
const PEER_PORTS: u16 = 100;
/// And a node's metrics are this much above its SQL port.
const METRICS_PORTS: u16 = 150;
/// File in a cluster's data folder with the cluster's identity: what has it may be removed with the cluster.
const MARK: &str = ".dbos-cluster";
/// How far apart the bases of clusters without `--port` are.
const PORT_STEP: u16 = 10;

/// A local cluster as it was created; `cluster up` refuses flags that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    pub name: String,
    pub cluster_id: String,
    /// Nodes that it was created with: 1 to this.
    pub nodes: u16,
    /// Nodes that were added later, and nodes that are gone; ids are not used twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<u16>,
    pub partitions: u32,
    pub replicas: u32,
    pub durability: Durability,
    pub data: PathBuf,
    pub port: u16,
}

/// `$XDG_DATA_HOME/dbos`, or `~/.local/share/dbos`.
pub fn home() -> Result<PathBuf> {
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(data).join("dbos"));
    }
    match std::env::var_os("HOME").filter(|v| !v.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/dbos")),
        None => Err(Failure::new("neither XDG_DATA_HOME nor HOME is set")
            .hint("set one of them, or pass --data")),
    }
}

/// Names become folder names, so they are kept simple.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 40 || !name.chars().all(good) {
        return Err(Failure::usage(format!(
            "cluster name {name:?}: use 1 to 40 letters, digits, - and _"
        )));
    }
    Ok(())
}

impl ClusterSpec {
    /// The description of an existing cluster, `None` if there is none of that name.
    pub fn load(name: &str) -> Result<Option<Self>> {
        check_name(name)?;
        let path = home()?.join(name).join("cluster.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(format!("{}: {error}", path.display()))),
        };
        let spec = toml::from_str(&text).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display())).hint(format!(
                "`dbos cluster destroy --name {name}` removes a cluster"
            ))
        })?;
        Ok(Some(spec))
    }

    /// As `load`, but a cluster that does not exist is an error.
    pub fn existing(name: &str) -> Result<Self> {
        Self::load(name)?.ok_or_else(|| {
            Failure::not_found(format!("there is no cluster {name:?}")).hint(
                "`dbos cluster list` shows the clusters, `dbos cluster up --name NAME` makes one",
            )
        })
    }

    /// All clusters of this user, by name.
    pub fn all() -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(home()?) else {
            return Ok(Vec::new());
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        let mut specs = Vec::new();
        for name in names {
            specs.extend(Self::load(&name)?);
        }
        Ok(specs)
    }

    /// The ids of its nodes, in order.
    pub fn ids(&self) -> Vec<u16> {
        let ever = (1..=self.nodes).chain(self.added.iter().copied());
        ever.filter(|node| !self.removed.contains(node)).collect()
    }

    /// The id for one node more: one that no node has or had.
    pub fn next_id(&self) -> u16 {
        self.added.iter().copied().fold(self.nodes, u16::max) + 1
    }

    /// An id to be, from 1: its ports must be there.
    pub fn check_new(&self, node: u16) -> Result<()> {
        let highest = u16::MAX - METRICS_PORTS - self.port + 1;
        if node > highest {
            return Err(Failure::usage(format!(
                "there are no ports for node {node}: with port {} the highest id is {highest}",
                self.port
            )));
        }
        Ok(())
    }

    /// Writes the description and every node's configuration.
    pub fn save(&self) -> Result<()> {
        create_dir(&self.data)?;
        // First of all: what has no mark is never removed.
        write(&self.data.join(MARK), &self.cluster_id)?;
        create_dir(&home()?.join(&self.name))?;
        for node in self.ids() {
            self.save_node(node)?;
        }
        create_dir(&self.data.join("logs"))?;
        self.save_description()
    }

    /// Writes one node's configuration.
    pub fn save_node(&self, node: u16) -> Result<()> {
        create_dir(&self.node_dir(node))?;
        write(&self.config_path(node), &self.node_config(node).to_toml())
    }

    /// Writes the description only.
    pub fn save_description(&self) -> Result<()> {
        let folder = home()?.join(&self.name);
        create_dir(&folder)?;
        let text = toml::to_string(self).map_err(Failure::new)?;
        // Written whole or not at all: a description that exists is complete.
        let temporary = folder.join("cluster.toml.new");
        write(&temporary, &text)?;
        fs::rename(&temporary, folder.join("cluster.toml"))?;
        Ok(())
    }

    /// Removes the data of a node that is gone.
    pub fn remove_node(&self, node: u16) -> Result<()> {
        remove_dir(&self.node_dir(node))
    }

    /// Removes data, logs and description, and the folders above them that are empty then. Succeeds when there is nothing.
    /// The data folder must carry this cluster's mark: a folder that somebody else put there is an error.
    pub fn remove(&self) -> Result<()> {
        if self.owns_data()? {
            for node in self.ids() {
                remove_dir(&self.node_dir(node))?;
            }
            remove_dir(&self.data.join("logs"))?;
            fs::remove_file(self.data.join(MARK))?;
        }
        // Only if empty: a directory given by --data may hold other things.
        let _ = fs::remove_dir(&self.data);
        let home = home()?;
        let folder = home.join(&self.name);
        match fs::remove_file(folder.join("cluster.toml")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let _ = fs::remove_file(folder.join("cluster.toml.new"));
        let _ = fs::remove_dir(&folder);
        let _ = fs::remove_dir(&home);
        Ok(())
    }

    /// True if the data folder carries this cluster's mark, false if nothing of a cluster is there.
    pub fn owns_data(&self) -> Result<bool> {
        match fs::read_to_string(self.data.join(MARK)) {
            Ok(id) if id.trim() == self.cluster_id => Ok(true),
            Ok(_) => Err(self.foreign("it is another cluster's")),
            Err(_) if self.ids().iter().any(|node| self.node_dir(*node).exists()) => {
                Err(self.foreign("it has no readable mark of this cluster"))
            }
            Err(_) => Ok(false),
        }
    }

    fn foreign(&self, why: &str) -> Failure {
        let data = self.data.display();
        Failure::new(format!("{data} is not removed: {why} ({MARK})")).hint(format!(
            "look into {data} and remove it by hand, then repeat this command"
        ))
    }

    /// The configuration of one node.
    pub fn node_config(&self, node: u16) -> NodeConfig {
        // The first nodes agree on where everything is by their configuration; from then on the cluster knows its nodes.
        let join = node > self.nodes;
        let known = match join {
            true => self.ids(),
            false => (1..=self.nodes).collect(),
        };
        NodeConfig {
            cluster: self.name.clone(),
            cluster_id: self.cluster_id.clone(),
            node_id: node.into(),
            nodes: known.into_iter().map(|id| self.node_address(id)).collect(),
            join,
            metrics_port: self.metrics_port(node),
            data_dir: PathBuf::from("data"),
            log_file: self.log_path(node),
            partitions: self.partitions,
            replicas: self.replicas,
            durability: self.durability,
            // Its nodes share a disk and start at once.
            log_prefill_bytes: 0,
            ..NodeConfig::default()
        }
    }

    /// Where Prometheus finds a node's numbers.
    pub fn metrics_port(&self, node: u16) -> u16 {
        self.port + METRICS_PORTS + node - 1
    }

    /// Where a node listens.
    pub fn node_address(&self, node: u16) -> NodeAddress {
        NodeAddress {
            id: node.into(),
            sql: self.sql_address(node),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + PEER_PORTS + node - 1)),
        }
    }

    pub fn node_dir(&self, node: u16) -> PathBuf {
        self.data.join(format!("node-{node}"))
    }

    pub fn config_path(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("config.toml")
    }

    pub fn pid_path(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("pid")
    }

    /// Refuses a node that ran before and whose data is gone. Under its number it would be asked for votes, and could give one
    /// against what it has promised.
    pub fn check_data(&self, node: u16) -> Result<()> {
        if !self.log_path(node).exists() || self.node_dir(node).join("data").exists() {
            return Ok(());
        }
        let name = &self.name;
        Err(Failure::new(format!(
            "node {node} has run before, and its data is gone from {}: it cannot come back under its number",
            self.node_dir(node).display()
        ))
        .hint(format!(
            "`dbos cluster add --name {name}` puts a new node in its place, then `dbos cluster remove {node} --name {name}` takes \
             it away, while the others run; if all are gone, `dbos cluster destroy --name {name}`"
        )))
    }

    pub fn log_path(&self, node: u16) -> PathBuf {
        self.data.join("logs").join(format!("node-{node}.log"))
    }

    pub fn sql_address(&self, node: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + node - 1))
    }

    /// As the flag has it.
    pub fn durability(&self) -> String {
        format!("{:?}", self.durability).to_lowercase()
    }

    /// What psql and any driver take.
    pub fn url(&self, node: u16) -> String {
        format!("postgres://dbos@{}/dbos", self.sql_address(node))
    }

    pub fn urls(&self) -> Vec<String> {
        self.ids().into_iter().map(|node| self.url(node)).collect()
    }

    /// Every address that a node listens on.
    pub fn node_addresses(&self, node: u16) -> [SocketAddr; 3] {
        let NodeAddress { sql, peer, .. } = self.node_address(node);
        let metrics = (Ipv4Addr::LOCALHOST, self.metrics_port(node));
        [sql, peer, metrics.into()]
    }

    /// Every address that the cluster's nodes listen on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ids = self.ids().into_iter();
        ids.flat_map(|id| self.node_addresses(id)).collect()
    }

    /// Not found, for a node number that the cluster does not have.
    pub fn check_node(&self, node: u16) -> Result<()> {
        if !self.ids().contains(&node) {
            let ids: Vec<String> = self.ids().iter().map(u16::to_string).collect();
            return Err(Failure::not_found(format!(
                "cluster {:?} has nodes {}, not {node}",
                self.name,
                ids.join(", ")
            )));
        }
        Ok(())
    }
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .map_err(|e| Failure::new(format!("cannot create {}: {e}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// True if nothing listens on the address.
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// The first base port at which a cluster of `nodes` nodes finds all its ports free and no other cluster's.
pub fn free_base_port(nodes: u16) -> Result<u16> {
    let taken: Vec<SocketAddr> = ClusterSpec::all()?
        .iter()
        .flat_map(ClusterSpec::addresses)
        .collect();
    let free = |port: u16| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        !taken.contains(&address) && is_free(address)
    };
    (BASE_PORT..u16::MAX - METRICS_PORTS - nodes)
        .step_by(PORT_STEP.into())
        .find(|base| {
            let ports = [0, PEER_PORTS, METRICS_PORTS];
            (0..nodes).all(|n| ports.iter().all(|above| free(base + above + n)))
        })
        .ok_or_else(|| Failure::new("no free ports on 127.0.0.1").hint("pass --port BASE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_id_has_the_last_port() {
        let spec = ClusterSpec {
            name: "ports".into(),
            cluster_id: "0".into(),
            nodes: 3,
            added: Vec::new(),
            removed: Vec::new(),
            partitions: 1,
            replicas: 3,
            durability: Durability::Fsync,
            data: PathBuf::from("ports"),
            port: 5440,
        };
        let refused = spec.check_new(60_500).unwrap_err();
        assert_eq!(refused.code, 2);
        let highest = 59_946;
        assert!(
            refused.message.ends_with("the highest id is 59946"),
            "{}",
            refused.message
        );
        spec.check_new(highest).unwrap();
        spec.check_new(highest + 1).unwrap_err();
        assert_eq!(spec.metrics_port(highest), u16::MAX);
    }
}
