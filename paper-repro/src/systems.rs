//! What is measured: clusters of this kernel, PostgreSQL, and the peers of `bench`, started when they are first needed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use bench::Target;
use bench::peers::NotInstalled;
use dbos_client::local_postgres;

/// Systems that are up at the same time; the one not used for longest is stopped for the next.
const UP_MAX: usize = 8;
/// Ports tried for a cluster.
const PORTS_TRIED: u16 = 40;
const PORT_STEP: u16 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    Fsync,
    Memory,
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Memory => "memory",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum System {
    Cluster {
        nodes: u16,
        partitions: u32,
        durability: Durability,
    },
    Postgres,
    /// By its name in [`bench::PEERS`].
    Peer(&'static str),
    /// System calls in a folder of the clusters' file system.
    Ext4 {
        fsync: bool,
    },
    /// The same through FUSE, above that file system.
    Bindfs {
        fsync: bool,
    },
}

impl System {
    /// One node with four partitions.
    pub fn one(durability: Durability) -> Self {
        Self::Cluster {
            nodes: 1,
            partitions: 4,
            durability,
        }
    }

    /// Three nodes on this machine, four partitions, three replicas of each.
    pub fn three(durability: Durability) -> Self {
        Self::Cluster {
            nodes: 3,
            partitions: 4,
            durability,
        }
    }

    /// As the report names it.
    pub fn name(&self) -> String {
        match self {
            Self::Cluster {
                nodes: 1,
                durability,
                ..
            } => format!("1 node, {}", durability.name()),
            Self::Cluster {
                nodes, durability, ..
            } => format!("{nodes} nodes, {}", durability.name()),
            Self::Postgres => "PostgreSQL".into(),
            Self::Peer("etcd") => "etcd, 3 nodes".into(),
            Self::Peer(name) => (*name).to_string(),
            Self::Ext4 { fsync: true } => "ext4, fsync".into(),
            Self::Ext4 { fsync: false } => "ext4, no fsync".into(),
            Self::Bindfs { fsync: true } => "bindfs, fsync".into(),
            Self::Bindfs { fsync: false } => "bindfs, no fsync".into(),
        }
    }
}

/// A cluster of `dbos` processes, removed on drop.
pub struct Cluster {
    binary: PathBuf,
    home: PathBuf,
    name: String,
    urls: Vec<String>,
}

impl Cluster {
    fn start(systems: &Systems, system: &System) -> anyhow::Result<Self> {
        let System::Cluster {
            nodes,
            partitions,
            durability,
        } = system
        else {
            bail!("{} is no cluster", system.name());
        };
        let name = format!("c{nodes}-{partitions}-{}", durability.name());
        let mut last = None;
        for attempt in 0..PORTS_TRIED {
            let port = systems.port + attempt * PORT_STEP;
            let cluster = Self {
                binary: systems.binary.clone(),
                home: systems.folder.clone(),
                name: name.clone(),
                urls: (0..*nodes)
                    .map(|node| format!("postgres://dbos@127.0.0.1:{}/dbos", port + node))
                    .collect(),
            };
            let up = cluster.dbos(&[
                "cluster",
                "up",
                "--name",
                &name,
                "--nodes",
                &nodes.to_string(),
                "--partitions",
                &partitions.to_string(),
                "--durability",
                durability.name(),
                "--port",
                &port.to_string(),
            ]);
            match up {
                Ok(_) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no port was tried")?)
    }

    /// Runs `dbos` on this cluster's home; a failure is an error with what it said.
    fn dbos(&self, args: &[&str]) -> anyhow::Result<String> {
        run_dbos(&self.binary, &self.home, args)
    }

    /// `dbos cluster VERB NODE`.
    pub fn node(&self, verb: &str, node: u16) -> anyhow::Result<()> {
        self.dbos(&["cluster", verb, &node.to_string(), "--name", &self.name])
            .map(drop)
    }

    pub fn urls(&self) -> String {
        self.urls.join(",")
    }

    /// A `dbos worker` process.
    pub fn worker(&self, key: i32, id: i32, slots: i32) -> anyhow::Result<Worker> {
        let mut command = Command::new(&self.binary);
        command.env("XDG_DATA_HOME", &self.home);
        command.args(["worker", "--name", &self.name]);
        for (flag, value) in [("--key", key), ("--id", id), ("--capacity", slots)] {
            command.arg(flag).arg(value.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Ok(Worker(command.spawn().context("starting a worker")?))
    }

    /// What a cluster that is running can do without being borrowed from its pool.
    pub fn handle(&self) -> Self {
        Self {
            binary: self.binary.clone(),
            home: self.home.clone(),
            name: self.name.clone(),
            urls: self.urls.clone(),
        }
    }

    fn destroy(&self) {
        if let Err(error) = self.dbos(&["cluster", "destroy", "--yes", "--name", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn run_dbos(binary: &Path, home: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(binary);
    command.args(args).env("XDG_DATA_HOME", home);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", binary.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("dbos {}: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Killed on drop.
pub struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Up {
    target: Target,
    cluster: Option<Cluster>,
    used: u64,
}

/// Systems that are up. What was started goes on drop.
pub struct Systems {
    binary: PathBuf,
    /// Of all clusters and files; on the disk that is measured.
    folder: PathBuf,
    /// First SQL port of a cluster.
    port: u16,
    up: HashMap<System, Up>,
    /// Systems that did not start are not tried again: why.
    refused: HashMap<System, (String, bool)>,
    uses: u64,
}

impl Systems {
    /// Removes what a killed run left in `folder`.
    pub fn new(binary: PathBuf, folder: PathBuf, port: u16) -> anyhow::Result<Self> {
        if folder.exists() {
            run_dbos(&binary, &folder, &["cluster", "destroy", "--all", "--yes"])?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            binary,
            folder,
            port,
            up: HashMap::new(),
            refused: HashMap::new(),
            uses: 0,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The system as a benchmark's target. [`NotInstalled`] if this machine does not have it.
    pub fn target(&mut self, system: &System) -> anyhow::Result<&Target> {
        Ok(&self.ensure(system)?.target)
    }

    pub fn cluster(&mut self, system: &System) -> anyhow::Result<Cluster> {
        let up = self.ensure(system)?;
        let cluster = up.cluster.as_ref();
        Ok(cluster.context("this system is no cluster")?.handle())
    }

    fn ensure(&mut self, system: &System) -> anyhow::Result<&Up> {
        if let Some((why, not_installed)) = self.refused.get(system) {
            return Err(match not_installed {
                true => NotInstalled(why.clone()).into(),
                false => anyhow::anyhow!("{why}"),
            });
        }
        if !self.up.contains_key(system) {
            while self.up.len() >= UP_MAX {
                self.stop_oldest();
            }
            match self.start(system) {
                Ok(up) => drop(self.up.insert(system.clone(), up)),
                Err(error) => {
                    let missing = error.downcast_ref::<NotInstalled>();
                    let why = missing.map_or_else(|| format!("{error:#}"), |m| m.0.clone());
                    let entry = (why, missing.is_some());
                    self.refused.insert(system.clone(), entry);
                    return Err(error);
                }
            }
        }
        self.uses += 1;
        let uses = self.uses;
        let up = self.up.get_mut(system).context("it was just started")?;
        up.used = uses;
        Ok(up)
    }

    fn start(&self, system: &System) -> anyhow::Result<Up> {
        let peer = |name: &str| {
            let target = Target::peer(name)?;
            target.with_context(|| format!("there is no peer {name}"))
        };
        let in_folder = |kind: &str| format!("{kind}:{}", self.folder.display());
        let mut cluster = None;
        let target = match system {
            System::Cluster {
                nodes,
                partitions,
                durability,
            } => {
                let started = Cluster::start(self, system)?;
                let replicas = if *nodes < 3 { 1 } else { 3 };
                let target = Target::cluster(
                    &started.name,
                    started.urls.clone(),
                    self.folder.clone(),
                    [u32::from(*nodes), *partitions, replicas],
                    durability.name(),
                );
                cluster = Some(started);
                target
            }
            System::Postgres => {
                local_postgres::find_bin().map_err(|e| NotInstalled(e.to_string()))?;
                Target::local_postgres()?
            }
            System::Peer(name) => peer(name)?,
            System::Ext4 { fsync: true } => peer(&in_folder("ext4-fsync"))?,
            System::Ext4 { fsync: false } => peer(&in_folder("ext4"))?,
            System::Bindfs { fsync: true } => peer(&in_folder("bindfs-fsync"))?,
            System::Bindfs { fsync: false } => peer(&in_folder("bindfs"))?,
        };
        Ok(Up {
            target,
            cluster,
            used: 0,
        })
    }

    fn stop_oldest(&mut self) {
        let oldest = self.up.iter().min_by_key(|(_, up)| up.used);
        if let Some(system) = oldest.map(|(system, _)| system.clone()) {
            self.stop(&system);
        }
    }

    fn stop(&mut self, system: &System) {
        if let Some(up) = self.up.remove(system)
            && let Some(cluster) = &up.cluster
        {
            cluster.destroy();
        }
    }

    /// Stops everything: the next experiment begins on fresh systems.
    pub fn stop_all(&mut self) {
        let all: Vec<System> = self.up.keys().cloned().collect();
        for system in all {
            self.stop(&system);
        }
    }
}

impl Drop for Systems {
    fn drop(&mut self) {
        self.stop_all();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
