//! For the services' own tests: every engine a service must work on, started for one test.

use std::any::Any;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::answer::Rows;
use crate::cache::{Cache, Kept, Question};
use crate::client::{Client, Options};
use crate::error::{Error, Result};
use crate::key::PartitionKey;
use crate::local_postgres::{LocalPostgres, Settings};
use crate::target::Target;

/// What happens by itself has happened by then, on a machine that stands still for seconds too.
const PATIENCE: Duration = Duration::from_secs(30);

/// One running engine; dropping it stops and removes it.
#[derive(Debug)]
pub struct Engine {
    pub name: &'static str,
    pub target: Target,
    /// Stopped when it is dropped.
    _server: Box<dyn Any + Send>,
}

impl Engine {
    /// A private PostgreSQL. A missing one is an error, never a skipped test.
    pub fn postgres() -> Result<Self> {
        let server = LocalPostgres::start(&Settings::test())?;
        Ok(Self {
            name: "PostgreSQL",
            target: Target::parse(&server.url())?,
            _server: Box::new(server),
        })
    }

    /// A kernel-db cluster of one node and four partitions.
    pub fn kernel() -> Result<Self> {
        let cluster = LocalCluster::start(&["--nodes", "1", "--partitions", "4"])?;
        Ok(Self {
            name: "kernel-db",
            target: cluster.target()?,
            _server: Box::new(cluster),
        })
    }

    /// A new client with connections of its own.
    pub async fn client(&self) -> Result<Client> {
        let options = Options {
            connections: 2,
            ..Options::default()
        };
        Client::connect_with(&self.target, options).await
    }
}

/// All engines, one after another.
pub fn engines() -> impl Iterator<Item = Result<Engine>> {
    [Engine::postgres, Engine::kernel]
        .into_iter()
        .map(|start| start())
}

/// Node id of the leader of a partition, as soon as the client knows one.
pub async fn leader(client: &Client, partition: u32) -> Result<i32> {
    let known = async {
        loop {
            if let Some(leader) = client.topology().leader(partition) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await;
    known.map_err(|_| Error::environment(format!("partition {partition} has no leader")))
}

/// A cluster of node processes in a home of its own, started and removed by the `dbos` binary.
#[derive(Debug)]
pub struct LocalCluster {
    binary: PathBuf,
    home: PathBuf,
    port: u16,
    nodes: u16,
}

/// A client's read cache without a client, for the benchmark of its hits.
pub struct FullCache(Cache);

impl FullCache {
    /// Answers of one row with one value of `bytes` bytes, to `sql` with each of the keys. They stay for an hour.
    pub fn new<'a>(
        sql: &str,
        keys: impl Iterator<Item = [PartitionKey<'a>; 3]>,
        bytes: usize,
    ) -> Result<Self> {
        let cache = Cache::new(usize::MAX, Duration::from_secs(3600));
        let question = Question {
            sql: sql.into(),
            params: Arc::new([]),
        };
        for (lease, key) in (0..).zip(keys) {
            if let Err(miss) = cache.look_up(sql, &key) {
                let rows = Arc::new(Rows::of_bytes(&vec![7; bytes])?);
                cache.keep(miss, &rows, (0, lease), &question);
            }
        }
        Ok(Self(cache))
    }

    /// As [`Client::kept`].
    pub fn kept<T>(&self, look: impl FnOnce(&mut Kept<'_>) -> Option<T>) -> Option<T> {
        self.0.kept(look)
    }
}

/// As many as a cluster takes from its `--port` on: for SQL, for nodes and for metrics.
const PORTS: u16 = 160;

impl LocalCluster {
    /// `flags` are those of `dbos cluster up`. The binary is the one built beside the running test.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let nodes = flags.iter().position(|flag| *flag == "--nodes");
        let nodes = nodes
            .and_then(|at| flags.get(at + 1)?.parse().ok())
            .unwrap_or(3);
        let mut last = None;
        for _ in 0..5 {
            // Tests run side by side, each in a home and on ports of its own.
            let port = crate::ports::free(PORTS);
            let home =
                std::env::temp_dir().join(format!("dbos-test-{}-{port}", std::process::id()));
            let cluster = Self {
                binary: binary()?,
                home,
                port,
                nodes,
            };
            let port = port.to_string();
            let mut args = vec!["cluster", "up", "--port", &port];
            args.extend(flags);
            match cluster.dbos(&args) {
                Ok(_) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::environment("no port was tried")))
    }

    /// Runs `dbos` in this cluster's home and returns its standard output; any failure is an error with its message.
    pub fn dbos(&self, args: &[&str]) -> Result<String> {
        let output = self
            .command(args)
            .output()
            .map_err(|error| Error::environment(format!("{}: {error}", self.binary.display())))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::environment(format!(
                "dbos {}: {message}",
                args.join(" ")
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `dbos` in this cluster's home, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).env("XDG_DATA_HOME", &self.home);
        command
    }

    /// Connection string of node `node`, from 1.
    pub fn url(&self, node: u16) -> String {
        format!("postgres://dbos@127.0.0.1:{}/dbos", self.port + node - 1)
    }

    /// A new client that outlives several elections.
    pub async fn client(&self) -> Result<Client> {
        let options = Options {
            deadline: PATIENCE,
            ..Options::default()
        };
        Client::connect_with(&self.target()?, options).await
    }

    pub fn target(&self) -> Result<Target> {
        let urls: Vec<String> = (1..=self.nodes).map(|node| self.url(node)).collect();
        Target::parse(&urls.join(","))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a failed test's nodes said is worth more than a clean temporary directory.
            let _ = self.dbos(&["cluster", "down"]);
            eprintln!("data and logs are kept in {}", self.home.display());
            return;
        }
        let _ = self.dbos(&["cluster", "destroy", "--yes"]);
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// `dbos` in the directory above the running test binary.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe().map_err(|error| Error::environment(error.to_string()))?;
    let binary = test
        .parent()
        .and_then(|deps| deps.parent())
        .map(|dir| dir.join("dbos"));
    binary.filter(|path| path.exists()).ok_or_else(|| {
        Error::environment("the dbos binary is not built")
            .hint("run `make build`, or `cargo build --release`, first")
    })
}
