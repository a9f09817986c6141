//! Nodes that are added and removed by commands that come to no good end, and by those that go on with them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dbos_client::testing::LocalCluster;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// For the command to write down the node that it adds.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);

fn status(cluster: &LocalCluster) -> Value {
    serde_json::from_str(&cluster.dbos(&["cluster", "status", "--json"]).unwrap()).unwrap()
}

/// Where the cluster's data and its description are.
fn folder(cluster: &LocalCluster) -> PathBuf {
    PathBuf::from(status(cluster)["data"].as_str().unwrap())
}

/// As the cluster itself tells.
fn nodes(cluster: &LocalCluster) -> String {
    let told = status(cluster);
    let rows = told["dbos.nodes"].as_array().unwrap();
    let ids = rows.iter().map(|row| row["node_id"].as_str().unwrap());
    ids.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_was_interrupted_is_brought_to_its_end() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let description = folder(&cluster).join("cluster.toml");
    // A paused node is not asked: it would do what the command was told to have failed.
    cluster.dbos(&["cluster", "pause", "1"]).unwrap();
    let output = cluster.dbos(&["cluster", "add"]).unwrap();
    assert!(output.contains("node 4 is added"), "{output}");
    cluster.dbos(&["cluster", "resume", "1"]).unwrap();
    let output = cluster.dbos(&["cluster", "add", "4"]).unwrap();
    assert!(output.contains("node 4 is added"), "{output}");

    // The command ended before it wrote down that the node is gone.
    let before = std::fs::read_to_string(&description).unwrap();
    cluster.dbos(&["cluster", "remove", "4"]).unwrap();
    std::fs::write(&description, before).unwrap();
    let output = cluster.dbos(&["cluster", "remove", "4"]).unwrap();
    assert!(output.contains("node 4 is removed"), "{output}");
    let error = cluster.dbos(&["cluster", "remove", "4"]).unwrap_err();
    assert!(error.to_string().contains("has nodes 1, 2, 3, not 4"));
    assert_eq!(nodes(&cluster), "1 2 3");

    // The cluster has a node that the description lacks.
    let before = std::fs::read_to_string(&description).unwrap();
    let output = cluster.dbos(&["cluster", "add"]).unwrap();
    assert!(output.contains("node 5 is added"), "{output}");
    cluster.dbos(&["cluster", "kill", "5"]).unwrap();
    std::fs::write(&description, before).unwrap();
    let error = cluster.dbos(&["cluster", "add"]).unwrap_err().to_string();
    assert!(error.contains("42710"), "{error}");
    let output = cluster.dbos(&["cluster", "remove", "5"]).unwrap();
    assert!(output.contains("node 5 is removed"), "{output}");
    assert_eq!(nodes(&cluster), "1 2 3");
    let output = cluster.dbos(&["cluster", "add"]).unwrap();
    assert!(output.contains("node 6 is added"), "{output}");
}

#[test]
fn a_node_whose_addition_is_unknown_is_kept() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let told = status(&cluster);
    let pids: Vec<Pid> = told["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| Pid::from_raw(node["pid"].as_i64().unwrap() as i32).unwrap())
        .collect();
    let begun = folder(&cluster).join("node-4");
    let mut command = cluster.command(&["cluster", "add"]);
    let adding = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let adding = adding.spawn().unwrap();
    let until = Instant::now() + BEGINS_WITHIN;
    while !begun.exists() {
        assert!(Instant::now() < until, "the command does not begin");
        std::thread::sleep(Duration::from_micros(200));
    }
    // After it has chosen whom to ask.
    for pid in pids {
        kill_process(pid, Signal::STOP).unwrap();
    }
    let ended = adding.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(5), "{error}");
    assert!(begun.exists(), "{error}");

    for node in ["1", "2", "3"] {
        cluster.dbos(&["cluster", "resume", node]).unwrap();
    }
    let output = cluster.dbos(&["cluster", "add", "4"]).unwrap();
    assert!(output.contains("node 4 is added"), "{output}");
    assert_eq!(nodes(&cluster), "1 2 3 4");
}
