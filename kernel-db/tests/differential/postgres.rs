//! A private PostgreSQL, removed when it goes out of scope.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::outcome::Outcome;

pub struct Postgres {
    bin: PathBuf,
    folder: tempfile::TempDir,
    runtime: Runtime,
    client: Client,
}

impl Postgres {
    pub fn start() -> Self {
        let bin = find();
        let folder = tempfile::Builder::new()
            .prefix("differential")
            .tempdir()
            .expect("a temporary folder");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let data = folder.path().join("data");
        run(server(&bin, "initdb")
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
                "-D",
            ])
            .arg(&data));
        let options = format!(
            "-k {} -c listen_addresses= -c fsync=off -c timezone=UTC -c max_connections=5 -c shared_buffers=16MB",
            folder.path().display()
        );
        let log = folder.path().join("log");
        run(server(&bin, "pg_ctl")
            .arg("-w")
            .arg("-D")
            .arg(&data)
            .arg("-l")
            .arg(&log)
            .args(["-o", &options, "start"]));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let client = runtime.block_on(connect(folder.path()));
        Self {
            bin,
            folder,
            runtime,
            client,
        }
    }

    /// Drops everything that statements created.
    pub fn reset(&mut self) {
        let sql = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
        self.runtime
            .block_on(self.client.batch_execute(sql))
            .expect("a fresh schema");
    }

    pub fn run(&mut self, sql: &str) -> Outcome {
        outcome_of(self.runtime.block_on(self.client.simple_query(sql)))
    }
}

/// How a simple query of one statement ended.
pub fn outcome_of(answer: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>) -> Outcome {
    let messages = match answer {
        Ok(messages) => messages,
        Err(error) => {
            let error = error.as_db_error().expect("the server lives");
            return Outcome::error(error.code().code(), error.message());
        }
    };
    let mut columns = None;
    let mut rows = Vec::new();
    let mut touched = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(description) => {
                columns = Some(description.iter().map(|c| c.name().to_string()).collect());
            }
            SimpleQueryMessage::Row(row) => {
                rows.push(
                    (0..row.len())
                        .map(|i| row.get(i).map(str::to_string))
                        .collect(),
                );
            }
            SimpleQueryMessage::CommandComplete(count) => touched = count,
            _ => {}
        }
    }
    match columns {
        Some(columns) => Outcome::rows(columns, rows),
        None => Outcome::Touched(touched),
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let stopped = server(&self.bin, "pg_ctl")
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "stop"])
            .output();
        if let Err(error) = stopped {
            eprintln!("PostgreSQL did not stop: {error}");
        }
    }
}

async fn connect(socket: &Path) -> Client {
    let config = format!("host={} user=postgres dbname=postgres", socket.display());
    let (client, connection) = tokio_postgres::connect(&config, NoTls)
        .await
        .expect("a connection to PostgreSQL");
    tokio::spawn(connection);
    client
}

/// The newest installed server, 15 or later.
fn find() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|e| {
            Some((
                e.file_name().to_str()?.parse::<u32>().ok()?,
                e.path().join("bin"),
            ))
        })
        .filter(|(version, bin)| *version >= 15 && bin.join("initdb").exists())
        .max_by_key(|(version, _)| *version);
    if let Some((_, bin)) = newest {
        return bin;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .find(|p| p.join("initdb").exists() && p.join("pg_ctl").exists());
    on_path.expect("PostgreSQL 15 or later is needed for this test: apt-get install postgresql")
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// A server program; as root it runs under the user postgres, since it refuses to run as root.
fn server(bin: &Path, program: &str) -> Command {
    let program = bin.join(program);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command
        .args(["-u", "postgres", "--"])
        .arg(program)
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    // pg_ctl's server inherits the pipes, so output is dropped rather than read.
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .expect("a program of PostgreSQL");
    assert!(status.success(), "{command:?} failed");
}
