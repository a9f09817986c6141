//! The `cluster` commands but `up` and `status`.

use std::io::{BufRead, IsTerminal, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use serde_json::json;

use super::home::ClusterSpec;
use super::{members, process, rollback, status, up};
use crate::args::ClusterCommand;
use crate::exit::{Failure, Result, written};
use crate::output::Rows;

pub async fn run(command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Up(args) => {
            let started = up::up(&args).await?;
            print_started(&started, args.json);
            Ok(())
        }
        ClusterCommand::Status { name, json } => {
            status::print(&ClusterSpec::existing(&name.name)?, json).await
        }
        ClusterCommand::Logs { node, follow, name } => {
            logs(&ClusterSpec::existing(&name.name)?, node, follow).await
        }
        ClusterCommand::Kill { node, name } => kill(&ClusterSpec::existing(&name.name)?, node),
        ClusterCommand::Restart { node, name, .. } => {
            let spec = ClusterSpec::existing(&name.name)?;
            match node {
                Some(node) => restart(&spec, node).await,
                None => members::restart_rolling(&spec).await,
            }
        }
        ClusterCommand::Pause { node, name } => {
            pause(&ClusterSpec::existing(&name.name)?, node, true)
        }
        ClusterCommand::Resume { node, name } => {
            pause(&ClusterSpec::existing(&name.name)?, node, false)
        }
        ClusterCommand::Add { node, name } => {
            members::add(ClusterSpec::existing(&name.name)?, node).await
        }
        ClusterCommand::Remove { node, name } => {
            members::remove(ClusterSpec::existing(&name.name)?, node).await
        }
        ClusterCommand::Rollback {
            to,
            yes,
            json,
            name,
        } => rollback::run(&ClusterSpec::existing(&name.name)?, &to, yes, json).await,
        ClusterCommand::Down { name } => {
            let spec = ClusterSpec::existing(&name.name)?;
            let stopped = process::stop(&spec, spec.ids().into_iter())?;
            println!(
                "cluster {}: {stopped} nodes stopped; data kept in {}",
                spec.name,
                spec.data.display()
            );
            Ok(())
        }
        ClusterCommand::List { json } => list(json),
        ClusterCommand::Destroy { name, yes, all } => destroy_asking(&name.name, yes, all),
    }
}

fn print_started(started: &up::Started, json: bool) {
    let spec = &started.spec;
    if json {
        let nodes = spec
            .ids()
            .into_iter()
            .map(|n| json!({"node": n, "url": spec.url(n), "log": spec.log_path(n)}));
        let nodes: Vec<_> = nodes.collect();
        println!(
            "{}",
            json!({"name": spec.name, "created": started.created, "started": started.started, "nodes": nodes})
        );
        return;
    }
    let what = match (started.created, started.started.is_empty()) {
        (true, _) => "created and running",
        (false, true) => "already running",
        (false, false) => "running again on its data",
    };
    println!(
        "cluster {} is {what}: {} nodes, {} partitions, {} replicas, durability {}",
        spec.name,
        spec.ids().len(),
        spec.partitions,
        spec.replicas,
        spec.durability()
    );
    for node in spec.ids() {
        let paused = match process::paused(spec, node) {
            true => "   paused",
            false => "",
        };
        println!(
            "  node {node}: {}   log {}{paused}",
            spec.url(node),
            spec.log_path(node).display()
        );
    }
    println!(
        "try: psql {}    or: dbos sql --name {}",
        spec.url(1),
        spec.name
    );
}

async fn logs(spec: &ClusterSpec, node: u16, follow: bool) -> Result<()> {
    spec.check_node(node)?;
    let path = spec.log_path(node);
    let mut file = std::fs::File::open(&path)
        .map_err(|e| Failure::not_found(format!("{}: {e}", path.display())))?;
    let mut out = std::io::stdout();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = file.read(&mut chunk)?;
        if n > 0 {
            written(out.write_all(&chunk[..n]))?;
            continue;
        }
        if !follow {
            return Ok(());
        }
        written(out.flush())?;
        if file.metadata()?.len() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn kill(spec: &ClusterSpec, node: u16) -> Result<()> {
    spec.check_node(node)?;
    match process::kill(spec, node)? {
        true => println!("node {node} killed"),
        false => println!("node {node} was not running"),
    }
    Ok(())
}

fn pause(spec: &ClusterSpec, node: u16, stop: bool) -> Result<()> {
    spec.check_node(node)?;
    if !process::pause(spec, node, stop)? {
        return Err(
            Failure::not_found(format!("node {node} is not running")).hint(format!(
                "`dbos cluster restart {node} --name {}` starts it",
                spec.name
            )),
        );
    }
    println!("node {node} {}", if stop { "paused" } else { "goes on" });
    Ok(())
}

async fn restart(spec: &ClusterSpec, node: u16) -> Result<()> {
    spec.check_node(node)?;
    spec.check_data(node)?;
    process::stop(spec, [node].into_iter())?;
    process::start(spec, node)?;
    up::wait_ready(spec, &[node]).await?;
    println!("node {node} is running: {}", spec.url(node));
    Ok(())
}

fn list(json: bool) -> Result<()> {
    let row = |spec: &ClusterSpec| {
        let running = spec
            .ids()
            .into_iter()
            .filter(|n| process::running(spec, *n).is_some())
            .count();
        let cells = [
            spec.name.clone(),
            spec.ids().len().to_string(),
            running.to_string(),
            spec.partitions.to_string(),
            spec.replicas.to_string(),
            spec.durability(),
            spec.url(1),
            spec.data.display().to_string(),
        ];
        cells.map(Some).to_vec()
    };
    let columns = [
        "name",
        "nodes",
        "running",
        "partitions",
        "replicas",
        "durability",
        "url",
        "data",
    ];
    Rows {
        columns: columns.map(str::to_string).to_vec(),
        rows: ClusterSpec::all()?.iter().map(row).collect(),
    }
    .print(json)
}

fn destroy_asking(name: &str, yes: bool, all: bool) -> Result<()> {
    let specs = match all {
        true => ClusterSpec::all()?,
        false => ClusterSpec::load(name)?.into_iter().collect(),
    };
    if specs.is_empty() {
        println!("nothing to destroy");
        return Ok(());
    }
    for spec in specs {
        if !yes && std::io::stdin().is_terminal() && !confirmed(&spec)? {
            println!("cluster {} kept", spec.name);
            continue;
        }
        destroy(&spec)?;
        println!("cluster {} destroyed", spec.name);
    }
    Ok(())
}

fn confirmed(spec: &ClusterSpec) -> Result<bool> {
    eprint!(
        "destroy cluster {} and its data in {}? [y/N] ",
        spec.name,
        spec.data.display()
    );
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Kills what runs and removes everything. Does nothing if the data is not this cluster's.
pub fn destroy(spec: &ClusterSpec) -> Result<()> {
    spec.owns_data()?;
    for node in spec.ids() {
        process::kill(spec, node)?;
    }
    spec.remove()
}
