//! `dbos demo`: a cluster at work, SQL over its state, the death of a leader, and the count afterwards.
//!
//! Makes a cluster called `demo` and removes it at the end, also on Ctrl-C.

mod ledger;
mod load;
mod questions;

use std::time::Duration;

use dbos_client::{Client, Options};

use crate::args::UpArgs;
use crate::bench::of_cluster;
use crate::cluster::{self, ClusterSpec};
use crate::db;
use crate::exit::{Failure, Result};
use crate::service::failure;
use ledger::Counts;
use load::Load;

const NAME: &str = "demo";
/// Work before, and again after, the death of the leader.
const WORK: Duration = Duration::from_secs(8);
const COMPARE: Duration = Duration::from_secs(3);

pub async fn run(json: bool) -> Result<()> {
    if let Some(old) = ClusterSpec::load(NAME)? {
        println!("removing what an earlier demo left");
        cluster::destroy(&old)?;
    }
    let result = tokio::select! {
        result = show() => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    if let Some(spec) = ClusterSpec::load(NAME)? {
        cluster::stop(&spec, spec.ids().into_iter())?;
        cluster::destroy(&spec)?;
        println!("cluster stopped and removed");
    }
    let (counts, killed, failover_ms) = result?;
    let ok =
        counts.lost == 0 && counts.doubled == 0 && counts.foreign == 0 && failover_ms.is_some();
    if json {
        println!("{}", counts.json(killed, failover_ms));
    }
    match ok {
        true => Ok(()),
        false => Err(Failure::with_code(
            3,
            format!("the count is wrong: {counts:?}, failover {failover_ms:?} ms"),
        )),
    }
}

async fn show() -> Result<(Counts, bool, Option<u64>)> {
    heading("1. Three nodes, four partitions, three replicas each, fsync before every reply");
    let up = UpArgs {
        name: NAME.into(),
        nodes: Some(3),
        partitions: Some(4),
        replicas: Some(3),
        ..UpArgs::default()
    };
    let spec = cluster::up(&up).await?.spec;
    for node in spec.ids() {
        println!(
            "node {node}: psql {}   (log {})",
            spec.url(node),
            spec.log_path(node).display()
        );
    }
    let sql = db::connect(&spec.urls()).await?;
    questions::ask(&sql, &questions::CLUSTER).await?;

    heading("2. The services are SQL: tables and procedures");
    let options = Options {
        connections: 4,
        application_name: "dbos-demo".into(),
        ..Options::default()
    };
    let target = spec.urls().join(",").parse().map_err(failure)?;
    let client = Client::connect_with(&target, options)
        .await
        .map_err(failure)?;
    scheduler::install(&client).await.map_err(failure)?;
    ipc::install(&client).await.map_err(failure)?;
    dbfs::install(&client).await.map_err(failure)?;

    heading("3. Scheduling, messages and files at work");
    let load = Load::start(client.clone()).await?;
    load.watch(WORK).await;

    heading("4. Every question about the operating system is a query");
    for question in &questions::STATE {
        questions::ask(&sql, question).await?;
    }

    let (failover_ms, victim) = kill_a_leader(&spec, &load).await?;
    load.watch(WORK).await;
    cluster::start(&spec, victim)?;
    cluster::wait_ready(&spec, &[victim]).await?;
    println!("node {victim} is back and catches up from its own disk and its peers' logs");

    heading("6. The count: what was acknowledged, and what is there");
    let counts = load.stop_and_count(&client).await?;
    println!("{counts}");
    compare(&spec).await?;
    Ok((counts, true, failover_ms))
}

async fn kill_a_leader(spec: &ClusterSpec, load: &Load) -> Result<(Option<u64>, u16)> {
    let partition = 0;
    let leader = load
        .leader(partition)
        .ok_or_else(|| Failure::new("partition 0 has no leader"))?;
    heading(&format!(
        "5. kill -9 of node {leader}, the leader of partition {partition}, in the middle of the work"
    ));
    load.leader_dies(partition);
    cluster::kill(spec, leader)?;
    let failover_ms = load
        .first_success_after_death(Duration::from_secs(10))
        .await;
    match failover_ms {
        Some(ms) => println!("partition {partition} works again {ms} ms after the kill"),
        None => println!("partition {partition} did not work again within 10 s"),
    }
    Ok((failover_ms, leader))
}

/// The same scheduling calls on a private PostgreSQL, if one is installed.
async fn compare(spec: &ClusterSpec) -> Result<()> {
    heading("7. The same scheduling procedure on PostgreSQL, beside it");
    if dbos_client::local_postgres::find_bin().is_err() {
        println!("PostgreSQL is not installed here: left out (apt-get install postgresql)");
        return Ok(());
    }
    let options = bench::Options {
        kind: bench::Kind::Sched(bench::sched::Spec::new(bench::sched::Policy::Fifo)),
        connections: 4,
        in_flight: Some(64),
        rate: None,
        duration: COMPARE,
    };
    let quiet = |_: String| ();
    for target in [Ok(of_cluster(spec)), bench::Target::local_postgres()] {
        let report = match target {
            Ok(target) => bench::run(&target, &options, &quiet).await,
            Err(error) => Err(error),
        };
        match report {
            Ok(report) => println!("{report}"),
            Err(error) => println!("not measured: {error:#}"),
        }
    }
    println!(
        "(the cluster writes three copies and runs three processes on this machine; PostgreSQL writes one)"
    );
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}
