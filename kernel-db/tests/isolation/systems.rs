//! The two systems: a node in this process, and a private PostgreSQL.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kernel_db::node::{NodeAddress, NodeConfig};
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};

use crate::ports::free;

/// What happens by itself has happened by then, on a machine that stands still for seconds too.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long PostgreSQL looks for a deadlock, and ends who waited so long first: the other one must wait by then.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(4);

/// A node with four partitions; stopped when dropped.
pub struct Node {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = || SocketAddr::from(([127, 0, 0, 1], free(1)));
        let (sql, peer): (SocketAddr, SocketAddr) = (address(), address());
        let config = NodeConfig {
            nodes: vec![NodeAddress { id: 1, sql, peer }],
            data_dir: dir.path().join("data"),
            log_file: dir.path().join("log"),
            log_prefill_bytes: 0,
            ..NodeConfig::default()
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let stopped = async { drop(stopped.await) };
            if let Err(error) = kernel_db::node::run(config, stopped) {
                panic!("{error}");
            }
        });
        let node = Self {
            port: sql.port(),
            stop: Some(stop),
            thread: Some(thread),
            _dir: dir,
        };
        let client = node.connect().await;
        let leaderless = "SELECT 1 FROM dbos.partitions WHERE leader IS NULL";
        let until = Instant::now() + PATIENCE;
        while !client
            .query(leaderless, &[])
            .await
            .is_ok_and(|rows| rows.is_empty())
        {
            assert!(Instant::now() < until, "no leaders");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        node
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn connect(&self) -> Client {
        self.connect_with("").await
    }

    /// With startup options.
    pub async fn connect_with(&self, options: &str) -> Client {
        let url = format!(
            "host=127.0.0.1 port={} user=dbos dbname=dbos options='{options}'",
            self.port
        );
        connect(&url).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the node panicked"
            );
        }
    }
}

/// Tries until the server is up.
async fn connect(url: &str) -> Client {
    let until = Instant::now() + PATIENCE;
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) if Instant::now() > until => panic!("{url}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Removed when it goes out of scope.
pub struct Postgres {
    bin: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    pub async fn start() -> Self {
        let bin = PathBuf::from("/usr/lib/postgresql/15/bin");
        let message = "PostgreSQL 15 is needed for this test: apt-get install postgresql-15";
        assert!(bin.join("initdb").exists(), "{message}");
        let folder = tempfile::Builder::new()
            .prefix("isolation")
            .tempdir()
            .unwrap();
        run(Command::new("chmod").arg("777").arg(folder.path()));
        let port = free(1);
        let postgres = Self { bin, folder, port };
        let data = postgres.folder.path().join("data");
        run(postgres
            .server("initdb")
            .args(["-A", "trust", "-U", "dbos", "-D"])
            .arg(&data));
        let options = format!(
            "-k {} -c listen_addresses=127.0.0.1 -p {port} -c fsync=off -c shared_buffers=16MB \
             -c deadlock_timeout={}",
            postgres.folder.path().display(),
            DEADLOCK_TIMEOUT.as_millis()
        );
        let log = postgres.folder.path().join("log");
        run(postgres
            .server("pg_ctl")
            .arg("-w")
            .arg("-D")
            .arg(&data)
            .arg("-l")
            .arg(&log)
            .args(["-o", &options, "start"]));
        postgres
    }

    pub async fn connect(&self) -> Client {
        let host = self.folder.path().display();
        let port = self.port;
        connect(&format!(
            "host={host} port={port} user=dbos dbname=postgres"
        ))
        .await
    }

    /// On the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// PostgreSQL refuses to run as root.
    fn server(&self, program: &str) -> Command {
        let path: &Path = &self.bin.join(program);
        let root = std::fs::metadata("/proc/self")
            .is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        let mut command = match root {
            true => Command::new("runuser"),
            false => Command::new(path),
        };
        if root {
            command.args(["-u", "postgres", "--"]).arg(path);
        }
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let mut stop = self.server("pg_ctl");
        let _ = stop
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "stop"])
            .output();
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
