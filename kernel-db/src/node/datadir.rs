//! A node's data directory: one process at a time, and never the directory of another cluster, node or newer format.
//!
//! `LOCK` is held for the life of the process; `NODE` names whose directory it is; `TOPOLOGY` is the newest list of nodes
//! heard of. Below it: `log/` (the log of all
//! groups) and `state/<group>/` (one store per replica).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::NodeConfig;
use super::topology::Topology;
use crate::error::{Error, Result};

/// Version of the directory's layout; a directory with a higher one was written by a newer program.
const FORMAT: u32 = 1;

const LOG: &str = "log";

/// Present while a node runs with durability `memory`; holds the identity of the operating system's boot.
const OPEN_MARK: &str = "OPEN";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An open data directory; the lock goes with it.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens or creates the directory that `config` names.
    pub fn open(config: &NodeConfig) -> Result<Self> {
        let path = config.data_dir.clone();
        std::fs::create_dir_all(&path).map_err(|e| io_error("create", &path, &e))?;
        let lock = lock(&path)?;
        let stamp = path.join("NODE");
        let own = Stamp::of(config);
        match std::fs::read_to_string(&stamp) {
            Ok(text) => Stamp::parse(&text, &path)?.check(&own, &path)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // It is written before anything else, so whose data these are is not known.
                if path.join(LOG).exists() {
                    return Err(damaged(&path).hint("it has a log, but its file NODE is gone"));
                }
                write_durably(&stamp, &own.text())?
            }
            Err(e) => return Err(io_error("read", &stamp, &e)),
        }
        Ok(Self { path, _lock: lock })
    }

    /// True if the operating system went down while a node had this directory open: what was written and not synced is
    /// lost. Marks the directory as open until `stopped_cleanly`.
    pub fn system_went_down(&self) -> bool {
        let mark = self.path.join(OPEN_MARK);
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        if let Ok(before) = std::fs::read_to_string(&mark) {
            // The old mark stays until a clean stop: another start must not forget the loss.
            return before != boot;
        }
        if let Err(error) = write_durably(&mark, &boot) {
            tracing::warn!("cannot mark the data directory as open: {error}");
        }
        false
    }

    /// Everything is synced, and nothing lost is missed any more.
    pub fn stopped_cleanly(&self) {
        // Without a mark there is nothing to remove.
        let _ = std::fs::remove_file(self.path.join(OPEN_MARK));
    }

    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The newest topology that this node has heard of; none before the first change.
    pub fn topology(&self) -> Result<Option<Topology>> {
        let path = topology_path(&self.path);
        match std::fs::read(&path) {
            Ok(bytes) => Topology::from_bytes(&bytes).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", &path, &e)),
        }
    }

    /// Where the states of all groups are.
    pub fn states(&self) -> PathBuf {
        self.path.join("state")
    }

    pub fn state(&self, group: u32) -> PathBuf {
        self.states().join(group.to_string())
    }
}

fn topology_path(data_dir: &Path) -> PathBuf {
    data_dir.join("TOPOLOGY")
}

/// Keeps the newest topology for the next start.
pub fn keep_topology(data_dir: &Path, topology: &Topology) -> Result<()> {
    let text = topology.to_bytes()?;
    write_durably(&topology_path(data_dir), &String::from_utf8_lossy(&text))
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|e| io_error("open", &name, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            "55006",
            format!(
                "data directory {} is open in another process",
                path.display()
            ),
        )
        .hint("stop that node first, or give this one a data_dir of its own")),
        Err(TryLockError::Error(e)) => Err(io_error("lock", &name, &e)),
    }
}

/// Writes a small file so that after a crash it is there whole or not at all.
fn write_durably(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|e| io_error("write", path, &e))
}

/// What the directory must agree on with the configuration.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    format: u32,
    cluster: u128,
    node: u64,
    partitions: u32,
}

impl Stamp {
    fn of(config: &NodeConfig) -> Self {
        Self {
            format: FORMAT,
            cluster: config.cluster_number(),
            node: config.node_id,
            partitions: config.partitions,
        }
    }

    fn text(&self) -> String {
        format!(
            "format {}\ncluster {:032x}\nnode {}\npartitions {}\n",
            self.format, self.cluster, self.node, self.partitions
        )
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let field = |name: &str| -> Result<&str> {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| damaged(path))
        };
        let format = field("format")?.parse().map_err(|_| damaged(path))?;
        // A newer format may have changed the other lines, so it is refused before they are looked at.
        if format > FORMAT {
            return Err(Error::new(
                "F0000",
                format!(
                    "data directory {} has format {format}, and this program knows {FORMAT} at most",
                    path.display()
                ),
            )
            .hint("run the newer program that wrote it"));
        }
        Ok(Self {
            format,
            cluster: u128::from_str_radix(field("cluster")?, 16).map_err(|_| damaged(path))?,
            node: field("node")?.parse().map_err(|_| damaged(path))?,
            partitions: field("partitions")?.parse().map_err(|_| damaged(path))?,
        })
    }

    fn check(&self, own: &Self, path: &Path) -> Result<()> {
        let complaint = if self.cluster != own.cluster {
            format!("belongs to another cluster ({:032x})", self.cluster)
        } else if self.node != own.node {
            format!("belongs to node {} of this cluster", self.node)
        } else if self.partitions != own.partitions {
            format!("was created with partitions = {}", self.partitions)
        } else {
            return Ok(());
        };
        Err(Error::new(
            "F0000",
            format!("data directory {} {complaint}", path.display()),
        )
        .hint("correct the configuration, or choose another data_dir"))
    }
}

fn damaged(path: &Path) -> Error {
    Error::new(
        "F0000",
        format!(
            "{} is not a data directory of a node",
            path.join("NODE").display()
        ),
    )
}

fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull => "53100",
        std::io::ErrorKind::PermissionDenied => "42501",
        _ => "58030",
    };
    Error::new(code, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> NodeConfig {
        NodeConfig {
            data_dir: dir.to_path_buf(),
            ..NodeConfig::default()
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(&config(dir.path())).unwrap();
        let error = DataDir::open(&config(dir.path())).err().unwrap();
        assert_eq!(error.sqlstate(), "55006");
        drop(first);
        DataDir::open(&config(dir.path())).unwrap();
    }

    #[test]
    fn a_crash_of_the_system_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let open = DataDir::open(&config(dir.path())).unwrap();
        assert!(!open.system_went_down());
        // The process died: nothing is lost that was written.
        assert!(!open.system_went_down());
        std::fs::write(dir.path().join(OPEN_MARK), "another boot").unwrap();
        assert!(open.system_went_down());
        open.stopped_cleanly();
        assert!(!open.system_went_down());
    }

    #[test]
    fn another_cluster_node_or_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = config(dir.path());
        drop(DataDir::open(&own).unwrap());
        for (other, expected) in [
            (
                NodeConfig {
                    cluster: "b".into(),
                    ..own.clone()
                },
                "another cluster",
            ),
            (
                NodeConfig {
                    node_id: 2,
                    ..own.clone()
                },
                "node 1",
            ),
            (
                NodeConfig {
                    partitions: 8,
                    ..own.clone()
                },
                "partitions = 4",
            ),
        ] {
            let error = DataDir::open(&other).err().unwrap();
            assert!(error.message().contains(expected), "{error}");
        }
        std::fs::write(dir.path().join("NODE"), "format 2\nelsewhere\n").unwrap();
        assert!(
            DataDir::open(&own)
                .err()
                .unwrap()
                .message()
                .contains("format 2")
        );
        std::fs::write(dir.path().join("NODE"), "rubbish").unwrap();
        assert!(DataDir::open(&own).is_err());
        std::fs::remove_file(dir.path().join("NODE")).unwrap();
        std::fs::create_dir(dir.path().join(LOG)).unwrap();
        assert!(DataDir::open(&own).is_err());
        assert!(!dir.path().join("NODE").exists(), "nothing is written");
    }
}
