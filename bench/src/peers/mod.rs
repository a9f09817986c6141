//! What users would pick instead: message systems, stores, schedulers and file systems, under the same driver.
//!
//! Servers that are programs of their own (Redis, NATS, etcd, Slurm) are private ones: started for one run on free loopback
//! ports with their data in a temporary folder, and killed on drop; bindfs is asked to end. They are looked for in the folder
//! that `DBOS_PEERS` names (`scripts/peers.sh` fills one from Debian packages) and in `PATH`. A peer that is not there is
//! [`NotInstalled`]; with `DBOS_PEERS` set it is an error.
//! gRPC and TCP responders run on a thread of their own in this process.

pub(crate) mod bindfs;
pub(crate) mod etcd;
pub(crate) mod ext4;
pub(crate) mod nats;
pub(crate) mod redis;
pub(crate) mod rpc;
pub(crate) mod slurm;
pub(crate) mod tcp;
pub(crate) mod tree_walk;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a private server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one that is asked to end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that this machine does not have, or cannot run; the text says which and why.
#[derive(Debug)]
pub struct NotInstalled(pub String);

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not installed: {}", self.0)
    }
}

impl std::error::Error for NotInstalled {}

/// The folder of `DBOS_PEERS`, if that is set and not empty.
fn peers_root() -> Option<PathBuf> {
    let folder = std::env::var_os("DBOS_PEERS").filter(|folder| !folder.is_empty());
    folder.map(PathBuf::from)
}

/// A peer that is not there or does not run: [`NotInstalled`], but a plain error where `DBOS_PEERS` promises it.
pub(crate) fn missing(why: String) -> anyhow::Error {
    match peers_root() {
        Some(root) => anyhow::anyhow!("{why}, though DBOS_PEERS is {}", root.display()),
        None => NotInstalled(why).into(),
    }
}

/// Where a program is: below `DBOS_PEERS` first, then in `PATH` and the system's folders for servers.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(root) = peers_root() {
        folders.extend(["usr/bin", "usr/sbin"].map(|folder| root.join(folder)));
    }
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.iter().map(|f| f.join(name)).find(|f| f.is_file());
    found.ok_or_else(|| missing(format!("no program {name}")))
}

/// Folders of the libraries that came with a program of [`program`], if it is one of `DBOS_PEERS`.
pub(crate) fn libraries(program: &Path) -> Option<OsString> {
    let root = peers_root().filter(|root| program.starts_with(root))?;
    let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usr = root.join("usr/lib").join(&arch);
    let folders = [root.join("lib").join(arch), usr.join("slurm-wlm"), usr];
    std::env::join_paths(folders).ok()
}

/// A command for a program of [`program`], with the libraries that came with it.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.envs(libraries(program).map(|paths| ("LD_LIBRARY_PATH", paths)));
    command.stdin(Stdio::null());
    command
}

/// A server process with its folder. Both go on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    name: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts `command` with its output in a log in `folder`.
    pub fn start(
        name: &str,
        mut command: Command,
        folder: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        let log = File::create(folder.path().join("server.log"))?;
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            child,
            name: name.to_string(),
            folder,
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until the server accepts connections.
    pub fn wait_for(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let patience = Duration::from_millis(200);
        self.wait_until(|| TcpStream::connect_timeout(&address, patience).is_ok())
    }

    /// Waits until `is_up`; the error is what the server said last.
    pub fn wait_until(&mut self, is_up: impl Fn() -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if is_up() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(self.folder().join("server.log"));
                let log = log.unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("{} does not start: {}", self.name, tail.join(" | "));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let mut runs = || matches!(self.child.try_wait(), Ok(None));
        if runs() {
            // Once: a second signal may end a process that is cleaning up.
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while runs() && asked.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A temporary folder for a private server.
pub(crate) fn server_folder(name: &str) -> anyhow::Result<tempfile::TempDir> {
    let prefix = format!("dbos-bench-{name}-");
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Loopback addresses that are free and given to nobody else.
pub(crate) fn free_addresses(count: u16) -> Vec<SocketAddr> {
    let first = dbos_client::ports::free(count);
    (first..first + count)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .collect()
}

/// The first line that a program prints about its version.
pub(crate) fn version_of(program: &Path, flag: &str) -> String {
    let output = command(program).arg(flag).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_string()
}

/// A thread with a runtime of its own, ended on drop.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Runs `work` on a new thread until it ends or the value is dropped.
    pub fn start<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            let both = async {
                tokio::select! {
                    () = work() => {}
                    _ = stopped => {}
                }
            };
            runtime.block_on(tokio::task::LocalSet::new().run_until(both));
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
