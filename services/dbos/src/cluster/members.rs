//! `cluster add`, `cluster remove`, `cluster restart --rolling`: changes of a cluster's nodes while it serves.
//!
//! The cluster itself does the work and remembers how far it is; these commands start or stop processes, ask, and wait.

use std::time::{Duration, Instant};

use kernel_db::error::Error;
use kernel_db::node::admin::{Administration, Progress};

use super::home::ClusterSpec;
use super::{process, up};
use crate::db;
use crate::exit::{Failure, Result, UNKNOWN};
use crate::output::spinner;

/// Without any progress for this long a command gives up; the cluster goes on by itself.
const STALLED: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);
/// For a node's leaderships to move away before it stops.
const HAND_OVER: Duration = Duration::from_secs(10);
/// For a restarted node to catch up.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Entries that a replica may be behind to count as caught up.
const LAG_MAX: i64 = 64;

/// Adds a node: a new process, then its share of the replicas. Goes on with an addition that was not brought to its end.
pub async fn add(mut spec: ClusterSpec, node: Option<u16>) -> Result<()> {
    let node = node.unwrap_or_else(|| spec.next_id());
    if spec.ids().contains(&node) {
        return match spec.added.contains(&node) {
            true => add_again(&spec, node).await,
            false => Err(Failure::new(format!("node {node} is there already"))
                .hint("`dbos cluster add` without a number takes the next free id")),
        };
    }
    if node < spec.next_id() {
        return Err(
            Failure::new(format!("node {node} was removed: ids are not used twice")).hint(format!(
                "the next free id is {}: `dbos cluster add`",
                spec.next_id()
            )),
        );
    }
    spec.check_new(node)?;
    let asked = any_running(&spec)?;
    spec.added.push(node);
    up::check_ports(&spec, &[node])?;
    spec.save_node(node)?;
    spec.save_description()?;
    process::start(&spec, node)?;
    if let Err(failure) = ask_to_add(&spec, asked, node).await {
        // The cluster may count on a node that it may have.
        if failure.code != UNKNOWN {
            process::kill(&spec, node)?;
            spec.remove_node(node)?;
            spec.added.retain(|added| *added != node);
            spec.save_description()?;
        }
        return Err(failure);
    }
    watch_added(&spec, node).await
}

/// The node has its process and its data; the cluster may know of it or not.
async fn add_again(spec: &ClusterSpec, node: u16) -> Result<()> {
    let asked = running_beside(spec, node)?;
    let progress = with(spec, asked, async |a| a.progress().await).await?;
    if progress.leaving.contains(&node.into()) {
        return Err(
            Failure::new(format!("node {node} is being removed")).hint(format!(
                "`dbos cluster remove {node} --name {}` goes on with that",
                spec.name
            )),
        );
    }
    if process::running(spec, node).is_none() {
        up::check_ports(spec, &[node])?;
        process::start(spec, node)?;
    }
    if !progress.nodes.contains(&node.into())
        && let Err(failure) = ask_to_add(spec, asked, node).await
    {
        // What was asked for before may have been done just now.
        let progress = with(spec, asked, async |a| a.progress().await).await;
        if !progress.is_ok_and(|p| p.nodes.contains(&node.into())) {
            return Err(failure);
        }
    }
    watch_added(spec, node).await
}

async fn ask_to_add(spec: &ClusterSpec, asked: u16, node: u16) -> Result<()> {
    let address = spec.node_address(node);
    let added = with(spec, asked, async |a| {
        let added = settle("42710", async || a.add(&address).await).await;
        added.map_err(|error| match error.sqlstate() {
            "42710" => error.hint(
                "a node needs an id and ports of its own; `dbos cluster remove ID` removes a node that is only in dbos.nodes",
            ),
            _ => error,
        })
    });
    added.await.map_err(|failure| match failure.code {
        UNKNOWN => failure.hint(format!(
            "node {node} is kept, as the cluster may have it: `dbos cluster add {node} --name {0}` goes on, \
             `dbos cluster remove {node} --name {0}` takes it back",
            spec.name
        )),
        _ => failure,
    })
}

async fn watch_added(spec: &ClusterSpec, node: u16) -> Result<()> {
    watch(spec, node, &format!("adding node {node}"), |p| {
        p.moves_left == 0 && p.nodes.contains(&node.into())
    })
    .await?;
    println!("node {node} is added: {}", spec.url(node));
    Ok(())
}

/// Removes a node, whether it runs or not. Goes on with a removal that was not brought to its end.
pub async fn remove(mut spec: ClusterSpec, node: u16) -> Result<()> {
    if let Err(unknown) = spec.check_node(node) {
        // The cluster may have a node of which nothing is left here.
        let asked = any_running(&spec).map_err(|_| unknown)?;
        let progress = with(&spec, asked, async |a| a.progress().await).await?;
        if !progress.nodes.contains(&node.into()) {
            return spec.check_node(node);
        }
        spec.added.push(node);
    }
    let asked = running_beside(&spec, node)?;
    let removed = with(&spec, asked, async |a| {
        match settle("42704", async || a.remove(node.into()).await).await {
            // Another command came that far.
            Err(error) if error.sqlstate() == "42704" => Ok(()),
            result => result,
        }
    });
    removed.await.map_err(|failure| match failure.code {
        UNKNOWN => failure.hint(format!(
            "`dbos cluster remove {node} --name {}` goes on",
            spec.name
        )),
        _ => failure,
    })?;
    let what = format!("removing node {node}");
    watch(&spec, asked, &what, |p| !p.nodes.contains(&node.into())).await?;
    process::stop(&spec, [node].into_iter())?;
    spec.remove_node(node)?;
    spec.removed.push(node);
    spec.save_description()?;
    println!("node {node} is removed");
    Ok(())
}

/// Restarts all nodes, one after the other.
pub async fn restart_rolling(spec: &ClusterSpec) -> Result<()> {
    for node in spec.ids() {
        let started = Instant::now();
        spec.check_data(node)?;
        if process::running(spec, node).is_some() {
            hand_over(spec, node).await?;
            process::stop(spec, [node].into_iter())?;
        }
        process::start(spec, node)?;
        up::wait_ready(spec, &[node]).await?;
        caught_up(spec, node).await?;
        println!(
            "node {node} restarted in {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// Until the node leads nothing that somebody else could lead.
async fn hand_over(spec: &ClusterSpec, node: u16) -> Result<()> {
    let until = Instant::now() + HAND_OVER;
    while with(spec, node, async |a| a.hand_over().await).await? > 0 {
        if Instant::now() > until {
            return Err(Failure::new(format!(
                "node {node} still leads partitions after {HAND_OVER:?}"
            ))
            .hint("are the other nodes alive? `dbos cluster status` shows it"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Until every replica of the node has what its partition's leader has committed.
async fn caught_up(spec: &ClusterSpec, node: u16) -> Result<()> {
    const LAGGING: &str = "SELECT partition_id, node_id, last_index FROM dbos.replicas";
    let until = Instant::now() + CATCH_UP;
    loop {
        let client = db::connect(&spec.urls()).await?;
        let rows = db::rows(&client, LAGGING).await?.rows;
        let number = |cell: &Option<String>| -> i64 {
            cell.as_deref().and_then(|c| c.parse().ok()).unwrap_or(-1)
        };
        let own = |row: &&Vec<Option<String>>| number(&row[1]) == i64::from(node);
        let behind = |row: &&Vec<Option<String>>| {
            let of_partition = rows.iter().filter(|other| other[0] == row[0]);
            let newest = of_partition
                .map(|other| number(&other[2]))
                .max()
                .unwrap_or(0);
            newest - number(&row[2]) > LAG_MAX
        };
        let mine: Vec<_> = rows.iter().filter(own).collect();
        if !mine.is_empty() && !mine.iter().any(behind) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(
                Failure::new(format!("node {node} has not caught up after {CATCH_UP:?}")).hint(
                    "`dbos cluster status` shows how far it is; run the command again to go on",
                ),
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Shows progress until `done`.
async fn watch(
    spec: &ClusterSpec,
    asked: u16,
    what: &str,
    done: impl Fn(&Progress) -> bool,
) -> Result<()> {
    let bar = spinner(what.to_string());
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        let progress = with(spec, asked, async |a| a.progress().await).await;
        if progress.as_ref().is_ok_and(&done) {
            bar.finish_and_clear();
            return Ok(());
        }
        let progress = progress.map_err(|failure| failure.message);
        if last.as_ref() != Some(&progress) {
            if let Ok(progress) = &progress {
                bar.set_message(format!(
                    "{what}: {} partitions to move",
                    progress.moves_left
                ));
            }
            (last, moved) = (Some(progress), Instant::now());
        }
        if moved.elapsed() > STALLED {
            bar.finish_and_clear();
            return Err(Failure::with_code(
                5,
                format!("{what}: no progress for {STALLED:?} ({last:?})"),
            )
            .hint("the cluster goes on by itself when it can; `dbos cluster status` shows the replicas"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks again while the outcome is unknown, as a leader may go while it writes; `done` is then the answer to what was done before,
/// and another failure tells nothing of it.
async fn settle(
    done: &str,
    ask: impl AsyncFn() -> kernel_db::error::Result<()>,
) -> kernel_db::error::Result<()> {
    let until = Instant::now() + HAND_OVER;
    let mut unknown = false;
    loop {
        match ask().await {
            Err(error) if error.sqlstate() == "08007" => {
                unknown = true;
                if Instant::now() > until {
                    return Err(error);
                }
            }
            Err(error) if unknown && error.sqlstate() == done => return Ok(()),
            Err(error) if unknown => {
                return Err(Error::unknown(format!(
                    "{} ({})",
                    error.message(),
                    error.sqlstate()
                )));
            }
            result => return result,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks node `asked`, or another that runs if it is away.
pub(super) async fn with<T>(
    spec: &ClusterSpec,
    asked: u16,
    ask: impl AsyncFn(Administration<'_>) -> kernel_db::error::Result<T>,
) -> Result<T> {
    let node = match process::running(spec, asked) {
        Some(_) => asked,
        None => any_running(spec)?,
    };
    let config = spec.node_config(node);
    let administration = Administration {
        config: &config,
        node: node.into(),
        address: spec.node_address(node).peer,
    };
    let until = Instant::now() + HAND_OVER;
    loop {
        // A process that has just started does not listen yet.
        match ask(administration).await {
            Err(error) if error.sqlstate() == "08006" && Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            result => return result.map_err(Failure::from),
        }
    }
}

/// One that runs and answers; a paused one would do what it was asked much later.
pub(super) fn any_running(spec: &ClusterSpec) -> Result<u16> {
    first_running(spec, &spec.ids())
}

/// Asking another one lets the node be away.
fn running_beside(spec: &ClusterSpec, node: u16) -> Result<u16> {
    let others: Vec<u16> = spec.ids().into_iter().filter(|n| *n != node).collect();
    first_running(spec, &others)
}

fn first_running(spec: &ClusterSpec, nodes: &[u16]) -> Result<u16> {
    let answers =
        |node: &&u16| process::running(spec, **node).is_some() && !process::paused(spec, **node);
    nodes.iter().find(answers).copied().ok_or_else(|| {
        Failure::new("no node that could be asked is running").hint(format!(
            "`dbos cluster up --name {0}` starts the cluster, `dbos cluster resume N --name {0}` lets a paused node go on",
            spec.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn an_unknown_outcome_is_asked_for_again() {
        for (answers, ends_well) in [
            (vec!["08007", ""], true),
            (vec!["08007", "42704"], true),
            (vec!["42704"], false),
            (vec!["08007", "55000"], false),
            (vec!["08007", "DB002"], false),
        ] {
            let left = RefCell::new(answers.clone());
            let ask = async || match left.borrow_mut().remove(0) {
                "" => Ok(()),
                code => Err(Error::new(code, "no")),
            };
            let result = settle("42704", ask).await;
            assert_eq!(result.is_ok(), ends_well, "{answers:?}");
            if let (Err(error), "08007") = (result, answers[0]) {
                assert_eq!(error.sqlstate(), "08007", "{answers:?}");
            }
            assert!(left.borrow().is_empty(), "{answers:?}");
        }
    }
}
