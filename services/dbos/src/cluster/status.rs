//! `cluster status`: what the processes are, and what the cluster's own tables say.

use serde_json::{Value, json};

use super::home::ClusterSpec;
use super::process;
use crate::db;
use crate::exit::Result;
use crate::output::Rows;

const NODES: &str = "SELECT * FROM dbos.nodes ORDER BY node_id";
const PARTITIONS: &str = "SELECT * FROM dbos.partitions ORDER BY partition_id";
const REPLICAS: &str = "SELECT * FROM dbos.replicas ORDER BY partition_id, node_id";

pub async fn print(spec: &ClusterSpec, json: bool) -> Result<()> {
    let tables = tables(spec).await;
    if json {
        println!("{}", as_json(spec, &tables));
        return Ok(());
    }
    println!(
        "cluster {}: {} nodes, {} partitions, {} replicas, durability {}, data {}",
        spec.name,
        spec.ids().len(),
        spec.partitions,
        spec.replicas,
        spec.durability(),
        spec.data.display()
    );
    println!("{}", processes(spec).table());
    match tables {
        Some(tables) => tables
            .iter()
            .for_each(|(name, rows)| println!("dbos.{name}\n{}", rows.table())),
        None => println!("no node answers SQL"),
    }
    Ok(())
}

/// The kernel's own tables, if a node answers.
async fn tables(spec: &ClusterSpec) -> Option<Vec<(&'static str, Rows)>> {
    let client = db::connect(&spec.urls()).await.ok()?;
    let mut tables = Vec::new();
    for (name, sql) in [
        ("nodes", NODES),
        ("partitions", PARTITIONS),
        ("replicas", REPLICAS),
    ] {
        tables.push((name, db::rows(&client, sql).await.ok()?));
    }
    Some(tables)
}

fn processes(spec: &ClusterSpec) -> Rows {
    let columns = ["node", "process", "connection string", "log"];
    let row = |node: u16| {
        let process = match process::running(spec, node) {
            Some(pid) if process::paused(spec, node) => format!("pid {pid}, paused"),
            Some(pid) => format!("pid {pid}"),
            None => "stopped".into(),
        };
        let log = spec.log_path(node).display().to_string();
        [node.to_string(), process, spec.url(node), log]
            .map(Some)
            .to_vec()
    };
    Rows {
        columns: columns.map(str::to_string).to_vec(),
        rows: spec.ids().into_iter().map(row).collect(),
    }
}

fn as_json(spec: &ClusterSpec, tables: &Option<Vec<(&'static str, Rows)>>) -> Value {
    let node = |node: u16| {
        json!({
            "node": node,
            "url": spec.url(node),
            "pid": process::running(spec, node),
            "paused": process::paused(spec, node),
            "log": spec.log_path(node),
            "data": spec.node_dir(node),
        })
    };
    let mut status = json!({
        "name": spec.name,
        "replicas": spec.replicas,
        "partitions": spec.partitions,
        "durability": spec.durability,
        "data": spec.data,
        "nodes": spec.ids().into_iter().map(node).collect::<Vec<_>>(),
        "answers": tables.is_some(),
    });
    for (name, rows) in tables.iter().flatten() {
        status[format!("dbos.{name}")] = Value::Array(rows.json());
    }
    status
}
