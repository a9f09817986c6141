//! A private PostgreSQL: started for one run, removed afterwards.
//!
//! Tests use it as the second engine that every service must work on, and `dbos bench --target local-postgres` as the
//! peer to compare with. The server is a child process on a free loopback port with its data in a directory of its own;
//! dropping the value stops it and removes the directory. PostgreSQL refuses to run as root, so as root it runs under
//! `postgres` or, where that user is missing, `nobody`.
//!
//! Left out: TLS, passwords, replication. A parent killed with SIGKILL leaves the child behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a new server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory in which the data directory is made; the system's temporary directory if `None`.
    pub parent: Option<PathBuf>,
    /// Lines of postgresql.conf, in order; a later one wins.
    pub config: Vec<(String, String)>,
}

impl Settings {
    /// For benchmarks: durable commits (fsync and synchronous_commit on) and 1 GB of shared buffers.
    pub fn bench() -> Self {
        Self::from_pairs(&[
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("shared_buffers", "1GB"),
            ("max_wal_size", "8GB"),
            ("max_connections", "300"),
        ])
    }

    /// For tests: small and quick, nothing survives a crash of the machine.
    pub fn test() -> Self {
        Self::from_pairs(&[
            ("fsync", "off"),
            ("shared_buffers", "32MB"),
            ("max_connections", "100"),
        ])
    }

    fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        let config = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Self {
            parent: None,
            config,
        }
    }
}

/// A running private server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct LocalPostgres {
    bin: PathBuf,
    dir: PathBuf,
    owner: Option<Owner>,
    port: u16,
    child: Child,
}

/// The unprivileged user the server runs as when we are root.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl LocalPostgres {
    /// Makes a data directory, starts a server on it and waits until it accepts connections. Blocks for some seconds.
    pub fn start(settings: &Settings) -> Result<Self> {
        let bin = find_bin()?;
        let dir = new_directory(settings.parent.as_deref())?;
        match Self::start_in(bin, &dir, settings) {
            Ok(server) => Ok(server),
            Err(error) => {
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    fn start_in(bin: PathBuf, dir: &Path, settings: &Settings) -> Result<Self> {
        let owner = unprivileged_user(dir)?;
        if let Some(owner) = owner {
            chown(dir, Some(owner.uid), Some(owner.gid))
                .map_err(|e| failed("chown of the data directory", e))?;
        }
        let data = dir.join("data");
        let mut initdb = command(&bin.join("initdb"), dir, owner);
        initdb.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        run(initdb, "initdb")?;
        let port = crate::ports::free(1);
        let log =
            File::create(dir.join("log")).map_err(|e| failed("creating the server's log", e))?;
        let errors = log
            .try_clone()
            .map_err(|e| failed("creating the server's log", e))?;
        let mut postgres = command(&bin.join("postgres"), dir, owner);
        postgres.arg("-D").arg(&data).arg("-k").arg(dir);
        let fixed = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
        ];
        for (name, value) in settings
            .config
            .iter()
            .map(|(n, v)| (n.as_str(), v.clone()))
            .chain(fixed)
        {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = postgres
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| failed("starting postgres", e))?;
        let mut server = Self {
            bin,
            dir: dir.to_owned(),
            owner,
            port,
            child,
        };
        server.wait_until_ready(&data)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, data: &Path) -> Result<()> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            // Line 8 of postmaster.pid is the server's state.
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if state
                .lines()
                .nth(7)
                .is_some_and(|line| line.trim() == "ready")
            {
                return Ok(());
            }
            let exited = self
                .child
                .try_wait()
                .map_err(|e| failed("waiting for postgres", e))?;
            if exited.is_some() || Instant::now() > until {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                return Err(Error::environment(format!(
                    "the private PostgreSQL did not start: {}",
                    log.trim()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Connection string of the server's `postgres` database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where the server keeps its files.
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Ends the server at once, without a checkpoint: its data is thrown away.
    fn stop(&mut self) {
        let mut pg_ctl = command(&self.bin.join("pg_ctl"), &self.dir, self.owner);
        pg_ctl
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-m", "immediate", "-t", "10", "stop"]);
        if run(pg_ctl, "pg_ctl stop").is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The directory with PostgreSQL's programs: on PATH, or the newest version where distributions put them.
pub fn find_bin() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|dir| has_server(dir));
    on_path.or_else(newest_installed).ok_or_else(|| {
        Error::environment("PostgreSQL is not installed: no initdb found")
            .hint("install the server's package (Debian, Ubuntu: postgresql) or put its bin directory on PATH")
    })
}

fn has_server(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file() && dir.join("pg_ctl").is_file()
}

fn newest_installed() -> Option<PathBuf> {
    let roots = [
        "/usr/lib/postgresql",
        "/usr/pgsql",
        "/opt/homebrew/opt",
        "/usr/local/opt",
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in roots
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let bin = entry.path().join("bin");
        if has_server(&bin) {
            found.push((digits.parse().unwrap_or(0), bin));
        }
    }
    found.into_iter().max().map(|(_, bin)| bin)
}

/// A new directory that only we use; the name tells what it is to whoever finds it.
fn new_directory(parent: Option<&Path>) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let random: u32 = rand::random();
    let dir = parent.join(format!(
        "dbos-pg-{}-{number}-{random:08x}",
        std::process::id()
    ));
    fs::create_dir_all(&parent).map_err(|e| failed("making the parent directory", e))?;
    fs::create_dir(&dir).map_err(|e| failed("making the data directory", e))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        .map_err(|e| failed("setting permissions", e))?;
    Ok(dir)
}

/// `None` when we are not root. What we just created belongs to our effective user.
fn unprivileged_user(dir: &Path) -> Result<Option<Owner>> {
    let ours = fs::metadata(dir)
        .map_err(|e| failed("reading the data directory", e))?
        .uid();
    if ours != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(|e| failed("reading /etc/passwd", e))?;
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_wanted = fields.len() > 3 && fields[0] == wanted;
            is_wanted.then(|| {
                Some(Owner {
                    uid: fields[2].parse().ok()?,
                    gid: fields[3].parse().ok()?,
                })
            })?
        })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| {
            Error::environment(
                "PostgreSQL does not run as root, and there is no user postgres or nobody",
            )
            .hint("create one of these users, or run as another user")
        })
}

fn command(program: &Path, dir: &Path, owner: Option<Owner>) -> Command {
    let mut command = Command::new(program);
    // The working directory and the home of whoever started us may be closed to the unprivileged user.
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let inherited: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in inherited
        .iter()
        .filter(|name| name.to_string_lossy().starts_with("PG"))
    {
        command.env_remove(name);
    }
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

fn run(mut command: Command, what: &str) -> Result<()> {
    let output = command.output().map_err(|e| failed(what, e))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(
        Error::environment(format!("{what} failed: {}", text.trim()))
            .hint("the directory and its parents must be open to the user that PostgreSQL runs as"),
    )
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::environment(format!("{what} failed: {error}"))
}
