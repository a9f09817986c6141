//! `cluster rollback`: the tables of a whole cluster as they were at an earlier moment.
//!
//! A node does the work, as one transaction; this command asks it to begin, and how far it is.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use kernel_db::node::admin::{Administration, RollbackProgress, RollbackStage};
use serde_json::json;

use super::home::ClusterSpec;
use super::members::{any_running, with};
use super::process;
use crate::exit::{Failure, Result, UNKNOWN};
use crate::output::{Rows, spinner};

const LOOK: Duration = Duration::from_millis(100);

pub async fn run(spec: &ClusterSpec, to: &str, yes: bool, json: bool) -> Result<()> {
    let node = any_running(spec)?;
    if !yes && !confirmed(spec, to)? {
        println!("nothing is changed");
        return Ok(());
    }
    with(spec, node, async |a| a.roll_back(to).await).await?;
    let progress = watch(spec, node).await?;
    if let Some(failure) = progress.failure {
        let code = if failure.unknown { UNKNOWN } else { 1 };
        let failed =
            Failure::with_code(code, format!("{} ({})", failure.message, failure.sqlstate));
        return Err(match failure.hint {
            Some(hint) => failed.hint(hint),
            None => failed,
        });
    }
    print(spec, &progress, json)
}

fn confirmed(spec: &ClusterSpec, to: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "rollback changes all tables of the cluster: say --yes",
        ));
    }
    eprint!(
        "bring all tables of cluster {} back to {to}? Everybody waits meanwhile. [y/N] ",
        spec.name
    );
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Until it has ended, in whichever way.
async fn watch(spec: &ClusterSpec, node: u16) -> Result<RollbackProgress> {
    let bar = spinner("rollback");
    loop {
        let progress = ask(spec, node).await?;
        bar.set_message(match progress.stage {
            RollbackStage::Waiting => "waiting for transactions under way".to_owned(),
            RollbackStage::Staging => format!("{} rows and index entries staged", progress.staged),
            RollbackStage::Deciding => "deciding".to_owned(),
            _ => format!("writing {} rows and index entries", progress.staged),
        });
        if matches!(progress.stage, RollbackStage::Done | RollbackStage::Failed) {
            bar.finish_and_clear();
            return Ok(progress);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Only this node knows.
async fn ask(spec: &ClusterSpec, node: u16) -> Result<RollbackProgress> {
    let config = spec.node_config(node);
    let administration = Administration {
        config: &config,
        node: node.into(),
        address: spec.node_address(node).peer,
    };
    administration.rollback_progress().await.map_err(|error| {
        let lost = match process::running(spec, node) {
            Some(_) => format!("node {node} does not tell how the rollback ended: {error}"),
            None => format!("node {node}, which ran the rollback, is gone"),
        };
        Failure::with_code(UNKNOWN, lost).hint(
            "it happened as a whole or not at all: the tables tell; the other nodes bring it to its end",
        )
    })
}

fn print(spec: &ClusterSpec, progress: &RollbackProgress, json: bool) -> Result<()> {
    let before = progress.before.unwrap_or_default();
    if json {
        let tables = serde_json::to_value(&progress.tables).unwrap_or_default();
        println!(
            "{}",
            json!({"to": progress.to, "before": before, "tables": tables})
        );
        return Ok(());
    }
    let cell = |text: String| Some(text);
    let row = |t: &kernel_db::node::admin::RestoredTable| {
        vec![
            cell(t.table.clone()),
            cell(t.restored.to_string()),
            cell(t.removed.to_string()),
        ]
    };
    let rows = Rows {
        columns: ["table", "restored", "removed"].map(String::from).to_vec(),
        rows: progress.tables.iter().map(row).collect(),
    };
    rows.print(false)?;
    println!("all tables are as they were at {}", progress.to);
    println!(
        "to undo this: dbos cluster rollback --name {} --to {before}",
        spec.name
    );
    Ok(())
}
