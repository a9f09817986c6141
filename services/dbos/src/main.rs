//! `dbos`: nodes, local clusters, SQL, and every service's commands in one binary.

mod args;
mod bench;
mod cluster;
mod db;
mod demo;
mod exit;
mod fs;
mod msg;
mod node;
mod output;
mod service;
mod sql;
mod task;
mod worker;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use exit::{Failure, Result};

/// Transactions are made of small allocations that live for microseconds: this takes about a quarter off their time on the
/// core, against the C library's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exit::end_where_output_ends();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Node { config } => node::run(&config),
        Command::Config { .. } => {
            print!("{}", kernel_db::node::NodeConfig::default_toml());
            Ok(())
        }
        Command::Completions { shell } => {
            // Into memory first: it panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dbos", &mut script);
            exit::written(std::io::stdout().write_all(&script))
        }
        Command::Cluster { command } => block_on(cluster::run(command)),
        Command::Sql {
            command,
            target,
            json,
        } => block_on(sql::run(command, &target, json)),
        Command::Task { command, target } => block_on(task::run(command, &target)),
        Command::Worker(args) => block_on(worker::run(args)),
        Command::Fs {
            command,
            target,
            user,
        } => block_on(fs::run(command, &target, &user)),
        Command::Msg { command, target } => block_on(msg::run(command, &target)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Demo { json } => block_on(demo::run(json)),
    }
}

/// Commands need one thread: what they wait for is elsewhere.
fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(command))
}
