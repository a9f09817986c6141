//! What is done to the nodes, and how long it takes until the partition of a lost leader works again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio_postgres::Client;

use super::cluster::{self, Cluster, PARTITIONS};
use super::load::number;

/// A partition without its leader must work again by then.
const FAILOVER_MAX: Duration = Duration::from_secs(20);
/// Every partition must work through every node this long after everything was healed.
const SETTLE_MAX: Duration = Duration::from_secs(40);

/// All but `Reset` and `KillAll` strike the leader of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9.
    Kill,
    /// SIGTERM and a new start.
    Restart,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// Cut off from the other nodes; clients still reach it.
    Isolate,
    /// Hears nothing of the others.
    Deaf,
    /// The others hear nothing of it.
    Mute,
    /// Every connection between nodes breaks at once.
    Reset,
    /// kill -9 of all nodes.
    KillAll,
}

pub const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Isolate,
    Fault::Restart,
    Fault::Mute,
    Fault::Deaf,
    Fault::Reset,
    Fault::KillAll,
];

/// Times from the strike to the first success on the struck leader's partition, of one kind of fault.
#[derive(Default)]
pub struct Failovers(BTreeMap<Fault, Vec<Duration>>);

/// The kinds whose names are in `names`, separated by commas.
pub fn chosen(names: &str) -> Vec<Fault> {
    let named = |name: &str| {
        FAULTS
            .into_iter()
            .find(|fault| format!("{fault:?}") == name)
    };
    let find = |name| named(name).unwrap_or_else(|| panic!("{name:?} is none of {FAULTS:?}"));
    names.split(',').map(find).collect()
}

impl Failovers {
    pub fn count(&self, fault: Fault) -> usize {
        self.0.get(&fault).map_or(0, Vec::len)
    }
}

impl std::fmt::Display for Failovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (fault, times) in &self.0 {
            let mut times = times.clone();
            times.sort();
            let at = |percent: usize| {
                times[(times.len() * percent).div_ceil(100).max(1) - 1].as_millis()
            };
            writeln!(
                f,
                "{:<8} {:>4} times, failover p50 {:>5} ms, p99 {:>5} ms, max {:>5} ms",
                format!("{fault:?}"),
                times.len(),
                at(50),
                at(99),
                at(100)
            )?;
        }
        Ok(())
    }
}

/// Strikes once, heals, and waits until everything works again.
pub async fn strike(cluster: &mut Cluster, fault: Fault, random: u64, failovers: &mut Failovers) {
    let partition = (random % u64::from(PARTITIONS)) as u32;
    let hold = Duration::from_millis(2000 + random / 7 % 2500);
    let victim = until_leader(cluster, partition).await;
    let others: Vec<u64> = cluster.nodes().filter(|n| *n != victim).collect();
    let mut ways = Vec::new();
    for node in others {
        ways.push((cluster.url(node), cluster.connect(node).await));
    }
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    println!("{now} {fault:?} of node {victim}, which leads partition {partition}");
    let struck = Instant::now();
    match fault {
        Fault::Kill => cluster.kill(victim),
        Fault::Restart => assert_eq!(cluster.stop(victim).await, Some(0), "exit code"),
        Fault::Pause => cluster.signal(victim, Signal::STOP),
        Fault::Isolate => {
            cluster.network.close_to(victim);
            cluster.network.close_from(victim);
        }
        Fault::Deaf => cluster.network.close_to(victim),
        Fault::Mute => cluster.network.close_from(victim),
        Fault::Reset => cluster.network.reset_all(),
        Fault::KillAll => cluster.nodes().for_each(|node| cluster.kill(node)),
    }
    if fault == Fault::KillAll {
        cluster.nodes().for_each(|node| cluster.spawn(node));
    }
    match first_success(ways, partition).await {
        Some(at) => failovers.0.entry(fault).or_default().push(at - struck),
        None => cluster.give_up(&format!(
            "partition {partition} did not work again after {fault:?}"
        )),
    }
    tokio::time::sleep(hold).await;
    match fault {
        Fault::Kill | Fault::Restart => cluster.spawn(victim),
        Fault::Pause => cluster.signal(victim, Signal::CONT),
        Fault::Isolate | Fault::Deaf | Fault::Mute => cluster.network.open_all(),
        Fault::Reset | Fault::KillAll => {}
    }
    settled(cluster).await;
}

/// The node that leads `partition`, once there is one.
pub async fn until_leader(cluster: &Cluster, partition: u32) -> u64 {
    let client = cluster.connect(1).await;
    let sql = format!("SELECT leader FROM dbos.partitions WHERE partition_id = {partition}");
    let start = Instant::now();
    loop {
        if let Some(node) = number(&client, &sql).await {
            return node as u64;
        }
        if start.elapsed() > SETTLE_MAX {
            cluster.give_up(&format!("partition {partition} has no leader"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When the first write to `partition`, sent through any of `ways`, was acknowledged.
async fn first_success(ways: Vec<(String, Client)>, partition: u32) -> Option<Instant> {
    let tries = ways
        .into_iter()
        .map(|(url, client)| Box::pin(until_success(url, client, partition)));
    let first = futures::future::select_all(tries);
    let (at, _, _) = tokio::time::timeout(FAILOVER_MAX, first).await.ok()?;
    Some(at)
}

async fn until_success(url: String, mut client: Client, partition: u32) -> Instant {
    let sql = format!("UPDATE probe SET n = n + 1 WHERE k = {partition}");
    loop {
        if client.is_closed() {
            match cluster::connect(&url).await {
                Some(new) => client = new,
                None => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            }
        }
        match client.simple_query(&sql).await {
            Ok(_) => return Instant::now(),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Every partition works through every node.
pub async fn settled(cluster: &Cluster) {
    for node in cluster.nodes() {
        for partition in 0..PARTITIONS {
            let client = cluster.connect(node).await;
            let success = until_success(cluster.url(node), client, partition);
            if tokio::time::timeout(SETTLE_MAX, success).await.is_err() {
                cluster.give_up(&format!(
                    "partition {partition} does not work through node {node}"
                ));
            }
        }
    }
}
