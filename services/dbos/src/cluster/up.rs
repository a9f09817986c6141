//! `cluster up`: a new cluster, or an existing one on its data.

use std::path::Path;
use std::time::{Duration, Instant};

use kernel_db::node::Durability;

use super::home::{ClusterSpec, check_name, free_base_port, home, is_free};
use super::process;
use crate::args::{self, UpArgs};
use crate::db;
use crate::exit::{Failure, Result};
use crate::output::spinner;

/// How long a cluster may take until every partition has a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What `up` did.
pub struct Started {
    pub spec: ClusterSpec,
    /// False if the cluster existed before.
    pub created: bool,
    /// Nodes that were started now.
    pub started: Vec<u16>,
}

/// Starts the cluster and returns when every partition has a leader. What it started or made is undone on failure and on
/// Ctrl-C.
pub async fn up(args: &UpArgs) -> Result<Started> {
    check_name(&args.name)?;
    let (spec, created) = match ClusterSpec::load(&args.name)? {
        Some(spec) => {
            refuse_differences(&spec, args)?;
            (spec, false)
        }
        None => (new_spec(args)?, true),
    };
    let missing = to_start(&spec)?;
    check_ports(&spec, &missing)?;
    if created {
        spec.save().inspect_err(|_| drop(spec.remove()))?;
    }
    let result = tokio::select! {
        result = start_all(&spec, &missing) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    if let Err(failure) = result {
        process::stop(&spec, missing.iter().copied())?;
        if created {
            spec.remove()?;
        }
        return Err(failure);
    }
    Ok(Started {
        spec,
        created,
        started: missing,
    })
}

/// Nodes that do not run. One that has lost its data stays down, if there are others.
fn to_start(spec: &ClusterSpec) -> Result<Vec<u16>> {
    let mut missing = Vec::new();
    let mut lost = Vec::new();
    for node in spec.ids() {
        match spec.check_data(node) {
            Err(failure) => lost.push(failure),
            Ok(()) if process::running(spec, node).is_none() => missing.push(node),
            Ok(()) => {}
        }
    }
    if lost.len() == spec.ids().len() {
        return Err(lost.swap_remove(0));
    }
    for failure in lost {
        eprintln!("dbos: not started: {}", failure.message);
        failure
            .hint
            .iter()
            .for_each(|hint| eprintln!("hint: {hint}"));
    }
    Ok(missing)
}

async fn start_all(spec: &ClusterSpec, nodes: &[u16]) -> Result<()> {
    for node in nodes {
        process::start(spec, *node)?;
    }
    wait_ready(spec, nodes).await
}

/// Waits until every partition has a leader, as SQL tells; fails at once if one of `nodes` ends.
pub async fn wait_ready(spec: &ClusterSpec, nodes: &[u16]) -> Result<()> {
    let progress = spinner(format!("starting {} nodes", nodes.len()));
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < READY_TIMEOUT {
        for node in nodes {
            if process::running(spec, *node).is_none() {
                progress.finish_and_clear();
                return Err(died(spec, *node));
            }
        }
        match leaders(spec).await {
            Ok(leaders) if leaders >= spec.partitions as usize => {
                progress.finish_and_clear();
                return Ok(());
            }
            Ok(leaders) => {
                last = format!("{leaders} of {} partitions have a leader", spec.partitions)
            }
            Err(failure) => last = failure.message,
        }
        progress.set_message(format!("starting {} nodes: {last}", nodes.len()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    progress.finish_and_clear();
    Err(Failure::new(format!(
        "the cluster is not ready after {READY_TIMEOUT:?}: {last}"
    ))
    .hint(format!(
        "`dbos cluster logs 1 --name {}` shows why",
        spec.name
    )))
}

async fn leaders(spec: &ClusterSpec) -> Result<usize> {
    let client = db::connect(&spec.urls()).await?;
    let rows = db::rows(
        &client,
        "SELECT partition_id FROM dbos.partitions WHERE leader IS NOT NULL",
    )
    .await?;
    Ok(rows.rows.len())
}

pub fn died(spec: &ClusterSpec, node: u16) -> Failure {
    let log = std::fs::read_to_string(spec.log_path(node)).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(5).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Failure::new(format!(
        "node {node} ended while starting:\n{}",
        tail.join("\n")
    ))
    .hint(format!("its whole log: {}", spec.log_path(node).display()))
}

fn new_spec(args: &UpArgs) -> Result<ClusterSpec> {
    let nodes = args.nodes.unwrap_or(3);
    let replicas = args.replicas.unwrap_or(if nodes < 3 { 1 } else { 3 });
    if ![1, 3, 5].contains(&replicas) || replicas > nodes.into() {
        return Err(Failure::usage(format!(
            "--replicas {replicas} with {nodes} nodes: use 1, 3 or 5, at most the nodes"
        )));
    }
    let data = match &args.data {
        Some(data) => std::path::absolute(data)?,
        None => home()?.join(&args.name),
    };
    refuse_foreign(&data)?;
    Ok(ClusterSpec {
        name: args.name.clone(),
        cluster_id: uuid::Uuid::new_v4().simple().to_string(),
        nodes,
        added: Vec::new(),
        removed: Vec::new(),
        partitions: args.partitions.unwrap_or(4),
        replicas,
        durability: args.durability.map_or(Durability::Fsync, durability),
        data,
        port: match args.port {
            Some(port) => port,
            None => free_base_port(nodes)?,
        },
    })
}

fn durability(argument: args::Durability) -> Durability {
    match argument {
        args::Durability::Fsync => Durability::Fsync,
        args::Durability::Memory => Durability::Memory,
    }
}

/// What is removed with a cluster must have come with it: its folder must be new or empty.
fn refuse_foreign(data: &Path) -> Result<()> {
    let occupied = std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(Failure::new(format!("{} is not empty", data.display()))
            .hint("give --data a new or empty folder: `cluster destroy` removes what is in it"));
    }
    Ok(())
}

/// An existing cluster keeps what it was made with.
fn refuse_differences(spec: &ClusterSpec, args: &UpArgs) -> Result<()> {
    let mut differences = Vec::new();
    let mut check = |flag: &str, wanted: Option<String>, is: String| {
        if wanted.as_ref().is_some_and(|wanted| *wanted != is) {
            differences.push(format!(
                "--{flag} is {is}, not {}",
                wanted.unwrap_or_default()
            ));
        }
    };
    check(
        "nodes",
        args.nodes.map(|v| v.to_string()),
        spec.ids().len().to_string(),
    );
    check(
        "partitions",
        args.partitions.map(|v| v.to_string()),
        spec.partitions.to_string(),
    );
    check(
        "replicas",
        args.replicas.map(|v| v.to_string()),
        spec.replicas.to_string(),
    );
    check(
        "port",
        args.port.map(|v| v.to_string()),
        spec.port.to_string(),
    );
    let wanted = args
        .durability
        .map(|d| format!("{:?}", durability(d)).to_lowercase());
    check("durability", wanted, spec.durability());
    let data = args.data.as_ref().map(std::path::absolute).transpose()?;
    check(
        "data",
        data.map(|d| d.display().to_string()),
        spec.data.display().to_string(),
    );
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("cluster {:?} exists with other settings: {}", spec.name, differences.join("; ")))
        .hint(format!("leave the flags out to start it as it is, or use another --name, or `dbos cluster destroy --name {}`", spec.name)))
}

/// Fails if something listens where one of `nodes` is to.
pub fn check_ports(spec: &ClusterSpec, nodes: &[u16]) -> Result<()> {
    for node in nodes {
        for address in spec.node_addresses(*node) {
            if !is_free(address) {
                return Err(Failure::new(format!("port {} of node {} is in use", address.port(), node))
                    .hint("stop what listens there (`ss -ltnp` shows it), or give a new cluster another --port"));
            }
        }
    }
    Ok(())
}
