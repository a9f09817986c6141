//! What a benchmark runs against, and what is known about it.

use std::path::{Path, PathBuf};

use dbos_client::local_postgres::{LocalPostgres, Settings};
use tokio_postgres::NoTls;

use crate::messages::{Office, Requests};
use crate::peers::bindfs::Bindfs;
use crate::peers::etcd::Etcd;
use crate::peers::ext4::Folder;
use crate::peers::nats::Nats;
use crate::peers::redis::Redis;
use crate::peers::slurm::Slurm;

/// Targets that are no database, as users name them.
pub const PEERS: [&str; 12] = [
    "grpc",
    "grpc-stream",
    "tcp",
    "redis",
    "nats",
    "etcd",
    "etcd-one",
    "slurm",
    "ext4:DIR",
    "ext4-fsync:DIR",
    "bindfs:DIR",
    "bindfs-fsync:DIR",
];

/// Members of the cluster that `etcd` means.
const ETCD_MEMBERS: usize = 3;

/// A peer that is up. Private servers stop on drop.
#[derive(Debug)]
pub(crate) enum Peer {
    Requests(Requests),
    Redis(Redis),
    Nats(Nats),
    Etcd(Etcd),
    Slurm(Box<Slurm>),
    Ext4(Folder),
    Bindfs(Bindfs),
}

impl Peer {
    /// Where its mailboxes are, if it has any.
    pub fn office(&self) -> Option<Office> {
        match self {
            Self::Redis(redis) => Some(Office::Redis {
                url: redis.url.clone(),
                run: rand::random(),
            }),
            Self::Nats(nats) => Some(Office::Nats {
                url: nats.url.clone(),
            }),
            _ => None,
        }
    }

    pub fn requests(&self) -> Option<Requests> {
        match self {
            Self::Requests(requests) => Some(*requests),
            _ => None,
        }
    }

    /// Where its files are made by system calls, if it is a file system.
    pub fn files(&self) -> Option<&Folder> {
        match self {
            Self::Ext4(folder) => Some(folder),
            Self::Bindfs(bindfs) => Some(&bindfs.folder),
            _ => None,
        }
    }

    fn version(&self) -> String {
        match self {
            Self::Requests(Requests::Tcp) => "TCP, TCP_NODELAY, loopback".into(),
            Self::Requests(_) => "gRPC, tonic 0.14, loopback".into(),
            Self::Redis(redis) => redis.version.clone(),
            Self::Nats(nats) => nats.version.clone(),
            Self::Etcd(etcd) => etcd.version.clone(),
            Self::Slurm(slurm) => slurm.version.clone(),
            Self::Ext4(_) => "system calls".into(),
            Self::Bindfs(bindfs) => bindfs.version.clone(),
        }
    }

    /// Nodes and durability.
    fn shape(&self) -> (Option<u32>, Option<&'static str>) {
        if let Some(folder) = self.files() {
            return (None, Some(if folder.fsync { "fsync" } else { "none" }));
        }
        match self {
            Self::Requests(_) | Self::Ext4(_) | Self::Bindfs(_) => (None, None),
            Self::Redis(_) | Self::Nats(_) => (Some(1), Some("none")),
            Self::Etcd(etcd) => (u32::try_from(etcd.servers.len()).ok(), Some("fsync")),
            Self::Slurm(_) => (Some(1), None),
        }
    }

    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Ext4(folder) => Some(folder.path.clone()),
            Self::Bindfs(bindfs) => Some(bindfs.own()),
            Self::Redis(redis) => Some(redis.server.folder().to_path_buf()),
            Self::Nats(nats) => Some(nats.server.folder().to_path_buf()),
            Self::Etcd(etcd) => etcd.servers.first().map(|s| s.folder().to_path_buf()),
            Self::Slurm(_) | Self::Requests(_) => None,
        }
    }
}

/// A target that is up.
pub struct Target {
    /// What the user named.
    pub name: String,
    /// Connection URLs, one per node.
    pub urls: Vec<String>,
    /// A folder on the target's file system, if it is on this machine.
    pub folder: Option<PathBuf>,
    pub nodes: Option<u32>,
    pub replicas: Option<u32>,
    pub partitions: Option<u32>,
    pub durability: Option<String>,
    /// A system that is no database.
    pub(crate) peer: Option<Peer>,
    /// Stopped and removed on drop.
    _private: Option<LocalPostgres>,
}

impl Target {
    /// A kernel-db cluster with these properties.
    pub fn cluster(
        name: &str,
        urls: Vec<String>,
        folder: PathBuf,
        shape: [u32; 3],
        durability: &str,
    ) -> Self {
        let [nodes, partitions, replicas] = shape;
        Self {
            name: name.to_string(),
            urls,
            folder: Some(folder),
            nodes: Some(nodes),
            replicas: Some(replicas),
            partitions: Some(partitions),
            durability: Some(durability.to_string()),
            peer: None,
            _private: None,
        }
    }

    /// Any PostgreSQL by its URL.
    pub fn url(url: &str) -> Self {
        Self {
            name: redacted(url),
            urls: vec![url.to_string()],
            folder: None,
            nodes: None,
            replicas: None,
            partitions: None,
            durability: None,
            peer: None,
            _private: None,
        }
    }

    /// A private PostgreSQL on this machine: fsync and synchronous_commit on, shared_buffers 1 GB.
    pub fn local_postgres() -> anyhow::Result<Self> {
        let server = LocalPostgres::start(&Settings::bench())?;
        Ok(Self {
            name: "local-postgres".into(),
            urls: vec![server.url()],
            folder: Some(server.directory().to_path_buf()),
            nodes: Some(1),
            replicas: Some(1),
            partitions: None,
            durability: Some("fsync".into()),
            peer: None,
            _private: Some(server),
        })
    }

    /// Starts a peer by its name in [`PEERS`]; `None`: there is no such name. A peer that this machine does not have is a
    /// [`crate::peers::NotInstalled`].
    pub fn peer(name: &str) -> anyhow::Result<Option<Self>> {
        let folder = |path: &str| {
            let path = Path::new(path).to_path_buf();
            anyhow::ensure!(path.is_dir(), "no such folder: {}", path.display());
            Ok(path)
        };
        let ext4 = |path, fsync| {
            let path = folder(path)?;
            anyhow::Ok(Peer::Ext4(Folder { path, fsync }))
        };
        let bindfs = |path, fsync| Bindfs::start(&folder(path)?, fsync).map(Peer::Bindfs);
        let peer = match name {
            "grpc" => Peer::Requests(Requests::Grpc),
            "grpc-stream" => Peer::Requests(Requests::GrpcStream),
            "tcp" => Peer::Requests(Requests::Tcp),
            "redis" => Peer::Redis(Redis::start()?),
            "nats" => Peer::Nats(Nats::start()?),
            "etcd" => Peer::Etcd(Etcd::start(ETCD_MEMBERS)?),
            "etcd-one" => Peer::Etcd(Etcd::start(1)?),
            "slurm" => Peer::Slurm(Box::new(Slurm::start()?)),
            other => match other.split_once(':') {
                Some(("ext4", path)) => ext4(path, false)?,
                Some(("ext4-fsync", path)) => ext4(path, true)?,
                Some(("bindfs", path)) => bindfs(path, false)?,
                Some(("bindfs-fsync", path)) => bindfs(path, true)?,
                _ => return Ok(None),
            },
        };
        let (nodes, durability) = peer.shape();
        Ok(Some(Self {
            // Reports of different machines compare by name: the folder does not matter.
            name: name.split(':').next().unwrap_or(name).to_string(),
            urls: Vec::new(),
            folder: peer.folder(),
            nodes,
            replicas: nodes,
            partitions: None,
            durability: durability.map(str::to_string),
            peer: Some(peer),
            _private: None,
        }))
    }

    /// What a peer says of itself; empty for a database.
    pub(crate) fn own_version(&self) -> String {
        self.peer.as_ref().map(Peer::version).unwrap_or_default()
    }

    /// What version() says, up to the first comma.
    pub async fn version(&self) -> anyhow::Result<String> {
        if self.peer.is_some() {
            return Ok(self.own_version());
        }
        let (client, connection) = tokio_postgres::connect(&self.urls[0], NoTls).await?;
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT version()", &[]).await?;
        drop(client);
        let _ = connection.await;
        let version: String = row.get(0);
        Ok(version.split(" on ").next().unwrap_or(&version).to_string())
    }

    pub(crate) fn fdatasync(&self) -> Option<crate::fdatasync::Times> {
        crate::fdatasync::times(self.folder.as_deref()?).ok()
    }
}

/// The URL without its password.
fn redacted(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some(_), Some((credentials, rest))) if credentials.matches(':').count() > 1 => {
            let (user, _) = credentials.rsplit_once(':').unwrap_or((credentials, ""));
            format!("{user}@{rest}")
        }
        _ => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(
            redacted("postgres://ann:secret@host:1/db"),
            "postgres://ann@host:1/db"
        );
        assert_eq!(
            redacted("postgres://ann@host:1/db"),
            "postgres://ann@host:1/db"
        );
    }
}
