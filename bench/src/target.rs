//! What a benchmark runs against, and what is known about it.

use std::path::PathBuf;

use dbos_client::local_postgres::{LocalPostgres, Settings};
use tokio_postgres::NoTls;

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
            _private: Some(server),
        })
    }

    /// What version() says, up to the first comma.
    pub async fn version(&self) -> anyhow::Result<String> {
        let (client, connection) = tokio_postgres::connect(&self.urls[0], NoTls).await?;
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT version()", &[]).await?;
        drop(client);
        let _ = connection.await;
        let version: String = row.get(0);
        Ok(version.split(" on ").next().unwrap_or(&version).to_string())
    }

    pub fn fdatasync_p50_us(&self) -> Option<u64> {
        crate::fdatasync::p50_us(self.folder.as_deref()?).ok()
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
