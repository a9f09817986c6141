//! Real clusters of node processes: their life, and what is left after every node was killed under load.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dbos_client::testing::LocalCluster;
use dbos_client::{Client, Options};
use ipc::Messages;
use scheduler::{Policy, Registration, Scheduler};
use serde_json::Value;
use tokio::task::JoinHandle;

/// The clients' threads; the test's own thread waits for commands.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn status(cluster: &LocalCluster) -> Value {
    serde_json::from_str(&cluster.dbos(&["cluster", "status", "--json"]).unwrap()).unwrap()
}

/// What happens by itself has happened by then, on a machine that stands still for seconds too.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first value that is `wanted`. A node that is late is shown as one that is dead, without what it holds.
fn eventually<T: Debug>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let value = ask();
        if wanted(&value) {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "still {value:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A cluster is ready when a majority is: a node may not listen yet.
fn sql(cluster: &LocalCluster, node: u16, text: &str) -> Result<Vec<Value>, String> {
    let said = |answer: &Result<_, String>| !matches!(answer, Err(error) if error.contains("cannot connect"));
    eventually(|| sql_once(cluster, node, text), said)
}

fn sql_once(cluster: &LocalCluster, node: u16, text: &str) -> Result<Vec<Value>, String> {
    let url = cluster.url(node);
    let output = cluster
        .dbos(&["sql", "--json", "--target", &url, "-c", text])
        .map_err(|e| e.to_string())?;
    Ok(output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect())
}

#[test]
fn a_cluster_lives_stops_and_starts_on_its_data() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "2"]).unwrap();
    let shown = || {
        let status = status(&cluster);
        ["nodes", "dbos.partitions", "dbos.replicas"]
            .map(|of| status[of].as_array().map_or(0, Vec::len))
    };
    eventually(shown, |shown| *shown == [3, 2, 6]);

    sql(
        &cluster,
        1,
        "CREATE TABLE note (id int4 PRIMARY KEY, text text NOT NULL)",
    )
    .unwrap();
    for id in 0..10 {
        // Any node answers any client.
        let node = 1 + id % 3;
        sql(
            &cluster,
            node,
            &format!("INSERT INTO note VALUES ({id}, 'note {id}')"),
        )
        .unwrap();
    }
    for node in 1..=3 {
        let rows = sql(&cluster, node, "SELECT count(*) AS n FROM note").unwrap();
        assert_eq!(rows[0]["n"], "10", "node {node}");
    }
    let duplicate = sql(&cluster, 2, "INSERT INTO note VALUES (3, 'again')").unwrap_err();
    assert!(duplicate.contains("23505"), "{duplicate}");

    let differing = cluster
        .dbos(&["cluster", "up", "--partitions", "3"])
        .unwrap_err()
        .to_string();
    assert!(
        differing.contains("--partitions is 2, not 3"),
        "{differing}"
    );
    assert!(
        cluster
            .dbos(&["cluster", "up"])
            .unwrap()
            .contains("already running")
    );

    cluster.dbos(&["cluster", "down"]).unwrap();
    assert!(sql_once(&cluster, 1, "SELECT 1").is_err());
    assert!(
        cluster
            .dbos(&["cluster", "status"])
            .unwrap()
            .contains("no node answers SQL")
    );
    assert!(
        cluster
            .dbos(&["cluster", "up"])
            .unwrap()
            .contains("running again on its data")
    );
    let rows = sql(&cluster, 3, "SELECT id, text FROM note ORDER BY id").unwrap();
    assert_eq!(rows.len(), 10);
    assert_eq!(rows[7]["text"], "note 7");
}

#[test]
fn tables_go_back_by_one_command_and_forth_by_another() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "2"]).unwrap();
    let run = |text: &str| sql(&cluster, 1, text).unwrap();
    let count = || run("SELECT count(*) AS n FROM note")[0]["n"].clone();
    run("CREATE TABLE note (id int4 PRIMARY KEY, text text NOT NULL)");
    run("INSERT INTO note SELECT g, 'note ' || g FROM generate_series(1, 10) g");
    let clock = eventually(|| run("SELECT stamp FROM dbos.clock"), |c| !c.is_empty());
    let stamp = clock[0]["stamp"].as_str().unwrap();
    run("DELETE FROM note WHERE id < 10");
    run("INSERT INTO note VALUES (11, 'new')");

    let back = |to: &str, more: &[&str]| {
        let words = [&["cluster", "rollback", "--to", to], more].concat();
        cluster.dbos(&words).map_err(|e| e.to_string())
    };
    assert!(back(stamp, &[]).unwrap_err().contains("say --yes"));
    assert_eq!(count(), "2");
    let told = back(stamp, &["--yes", "--json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        told["tables"],
        serde_json::json!([{"table": "note", "restored": 9, "removed": 1}])
    );
    assert_eq!(count(), "10");
    let before = told["before"].to_string();
    let undone = back(&before, &["--yes"]).unwrap();
    assert!(undone.contains("to undo this"), "{undone}");
    assert_eq!(count(), "2");
    let old = back("-400s", &["--yes"]).unwrap_err();
    assert!(old.contains("72000"), "{old}");
}

#[test]
fn a_paused_node_is_shown_as_such_and_can_be_stopped() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let paused = |cluster: &LocalCluster| -> Vec<bool> {
        let nodes = status(cluster)["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| node["paused"] == true).collect()
    };
    assert_eq!(paused(&cluster), [false; 3]);
    cluster.dbos(&["cluster", "pause", "2"]).unwrap();
    assert_eq!(paused(&cluster), [false, true, false]);
    cluster.dbos(&["cluster", "resume", "2"]).unwrap();
    assert_eq!(paused(&cluster), [false; 3]);
    sql(&cluster, 2, "SELECT 1").unwrap();
    assert!(cluster.dbos(&["cluster", "pause", "4"]).is_err());

    cluster.dbos(&["cluster", "pause", "2"]).unwrap();
    let down = cluster.command(&["cluster", "down"]).output().unwrap();
    let said = String::from_utf8(down.stderr).unwrap();
    assert!(down.status.success(), "{said}");
    assert!(
        !said.contains("node 2 did not stop"),
        "it was waited for: {said}"
    );
    assert!(
        cluster
            .dbos(&["cluster", "resume", "2"])
            .unwrap_err()
            .to_string()
            .contains("not running")
    );
    cluster.dbos(&["cluster", "up"]).unwrap();
}

/// A process whose pid was never written down, as after the death of `cluster up`, is found all the same.
#[test]
fn destroy_leaves_no_process_and_nothing_of_others() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().display().to_string();
    let cluster = LocalCluster::start(&["--nodes", "1", "--data", &folder]).unwrap();
    let node = status(&cluster)["nodes"][0].clone();
    let pid = node["pid"].as_u64().unwrap();
    std::fs::remove_file(data.path().join("node-1/pid")).unwrap();
    assert_eq!(status(&cluster)["nodes"][0]["pid"], pid);

    let mark = data.path().join(".dbos-cluster");
    let own = std::fs::read_to_string(&mark).unwrap();
    std::fs::write(&mark, "somebody else's").unwrap();
    let refused = cluster
        .dbos(&["cluster", "destroy", "--yes"])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("is not removed"), "{refused}");
    assert!(data.path().join("node-1/data").exists());
    sql(&cluster, 1, "SELECT 1").unwrap();

    std::fs::write(&mark, own).unwrap();
    std::fs::write(data.path().join("letter"), "mine").unwrap();
    cluster.dbos(&["cluster", "destroy", "--yes"]).unwrap();
    // A zombie has given back its ports and files; its parent may not have looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(
        stat.is_empty() || stat.contains(") Z "),
        "the process outlived destroy: {stat}"
    );
    let left: Vec<_> = std::fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["letter"]);
}

/// What clients were told.
#[derive(Default)]
struct Told {
    acknowledged: Mutex<BTreeSet<i64>>,
    unknown: Mutex<BTreeSet<i64>>,
    refused: Mutex<Vec<String>>,
    next: AtomicI64,
    stop: AtomicBool,
}

impl Told {
    fn note<T>(&self, number: i64, result: dbos_client::Result<T>) {
        match result {
            Ok(_) => drop(self.acknowledged.lock().unwrap().insert(number)),
            Err(error) if error.is_unknown() => drop(self.unknown.lock().unwrap().insert(number)),
            Err(error) => self.refused.lock().unwrap().push(error.to_string()),
        }
    }
}

async fn client(cluster: &LocalCluster) -> Client {
    let options = Options {
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    Client::connect_with(&cluster.target().unwrap(), options)
        .await
        .unwrap()
}

const KEYS: i64 = 16;

/// Even numbers are tasks, odd ones messages.
async fn work(client: Client, told: Arc<Told>) {
    let (scheduler, messages) = (Scheduler::new(client.clone()), Messages::new(client));
    while !told.stop.load(Ordering::Relaxed) {
        let number = told.next.fetch_add(1, Ordering::Relaxed);
        let key = number / 2 % KEYS;
        if number % 2 == 0 {
            told.note(
                number,
                scheduler.schedule(Policy::Fifo, key as i32, number).await,
            );
        } else {
            told.note(number, messages.send(key, 0, &number.to_be_bytes()).await);
        }
    }
}

/// Installs the services and lets eight clients work.
async fn begin(cluster: &LocalCluster) -> (Client, Arc<Told>, Vec<JoinHandle<()>>) {
    let first = client(cluster).await;
    scheduler::install(&first).await.unwrap();
    ipc::install(&first).await.unwrap();
    let scheduler = Scheduler::new(first.clone());
    for key in 0..KEYS as i32 {
        let worker = Registration {
            key,
            worker_id: 1,
            slots: 1 << 27,
            shard: 0,
            url: None,
        };
        scheduler.register(&worker).await.unwrap();
    }
    let told = Arc::new(Told::default());
    let mut workers = Vec::new();
    for _ in 0..8 {
        workers.push(tokio::spawn(work(client(cluster).await, told.clone())));
    }
    (first, told, workers)
}

#[test]
fn what_was_acknowledged_is_there_once_after_every_node_was_killed() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "4"]).unwrap();
    runtime().block_on(async {
        let (first, told, workers) = begin(&cluster).await;
        for node in ["1", "2", "3"] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.dbos(&["cluster", "kill", node]).unwrap();
            let acknowledged = || told.acknowledged.lock().unwrap().len();
            let at_kill = acknowledged();
            tokio::time::sleep(Duration::from_secs(4)).await;
            // Work goes on with a node down.
            eventually(acknowledged, |done| *done > at_kill);
            let output = cluster.dbos(&["cluster", "restart", node]).unwrap();
            assert!(output.contains("is running"), "{output}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        end(&told, workers).await;
        check(&first, &told).await;
    });
}

async fn end(told: &Told, workers: Vec<JoinHandle<()>>) {
    told.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
}

/// Waits until there are so many replicas on a node, as another one tells.
fn has_replicas(cluster: &LocalCluster, asked: u16, node: u16, replicas: &str) {
    let text = format!("SELECT count(*) AS n FROM dbos.replicas WHERE node_id = {node}");
    let count = || sql(cluster, asked, &text).unwrap()[0]["n"].clone();
    eventually(count, |count| count == replicas);
}

#[test]
fn nodes_come_and_go_while_clients_work() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "4"]).unwrap();
    runtime().block_on(async {
        let (first, told, workers) = begin(&cluster).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = |args: &[&str]| cluster.dbos(args).unwrap_err().to_string();
        let error = refused(&["cluster", "add", "2"]);
        assert!(error.contains("node 2 is there already"), "{error}");
        let error = refused(&["cluster", "remove", "3"]);
        assert!(error.contains("2 nodes would be left"), "{error}");
        let before = told.acknowledged.lock().unwrap().len();
        let output = cluster.dbos(&["cluster", "add"]).unwrap();
        assert!(output.contains("node 4 is added"), "{output}");
        // Twelve replicas over four nodes.
        has_replicas(&cluster, 2, 4, "3");
        let output = cluster.dbos(&["cluster", "remove", "1"]).unwrap();
        assert!(output.contains("node 1 is removed"), "{output}");
        has_replicas(&cluster, 2, 1, "0");
        has_replicas(&cluster, 3, 4, "4");
        assert!(refused(&["cluster", "kill", "1"]).contains("has nodes 2, 3, 4"));
        // A disk is lost: the node goes, and another comes in its place.
        cluster.dbos(&["cluster", "kill", "2"]).unwrap();
        cluster.dbos(&["cluster", "add"]).unwrap();
        cluster.dbos(&["cluster", "remove", "2"]).unwrap();
        has_replicas(&cluster, 3, 5, "4");
        tokio::time::sleep(Duration::from_secs(1)).await;
        end(&told, workers).await;
        let after = told.acknowledged.lock().unwrap().len();
        assert!(after > before, "work went on");
        check(&first, &told).await;
        // All of it, the new nodes included, comes back.
        cluster.dbos(&["cluster", "down"]).unwrap();
        cluster.dbos(&["cluster", "up"]).unwrap();
        has_replicas(&cluster, 3, 5, "4");
        check(&first, &told).await;
    });
}

#[test]
fn a_rolling_restart_fails_nothing() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "4"]).unwrap();
    runtime().block_on(async {
        let (first, told, workers) = begin(&cluster).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let output = cluster.dbos(&["cluster", "restart", "--rolling"]).unwrap();
        assert_eq!(output.matches("restarted in").count(), 3, "{output}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        end(&told, workers).await;
        let refused = told.refused.lock().unwrap().clone();
        let unknown = told.unknown.lock().unwrap().clone();
        assert!(
            refused.is_empty() && unknown.is_empty(),
            "{refused:?} {unknown:?}"
        );
        check(&first, &told).await;
    });
}

async fn check(client: &Client, told: &Told) {
    let mut found = BTreeSet::new();
    let rows = client
        .read_all("SELECT task_id FROM task", &[])
        .await
        .unwrap();
    for row in &rows {
        assert!(found.insert(row.get::<_, i64>(0)), "a task twice");
    }
    let rows = client
        .read_all("SELECT data FROM message", &[])
        .await
        .unwrap();
    for row in &rows {
        let number = i64::from_be_bytes(row.get::<_, &[u8]>(0).try_into().unwrap());
        assert!(found.insert(number), "message {number} twice");
    }
    let acknowledged = told.acknowledged.lock().unwrap().clone();
    let unknown = told.unknown.lock().unwrap().clone();
    let lost: Vec<&i64> = acknowledged.difference(&found).collect();
    assert!(
        lost.is_empty(),
        "{} acknowledged, lost: {lost:?}",
        acknowledged.len()
    );
    let claimed: BTreeSet<i64> = acknowledged.union(&unknown).copied().collect();
    let foreign: Vec<&i64> = found.difference(&claimed).collect();
    assert!(
        foreign.is_empty(),
        "there, although refused or never sent: {foreign:?}"
    );
    // A scheduling call that ran twice would have taken two slots for one task.
    let sql =
        "SELECT (SELECT sum(slots - capacity) FROM worker)::int8, (SELECT count(*) FROM task)";
    let rows = client.read_all(sql, &[]).await.unwrap();
    assert_eq!(
        rows[0].get::<_, i64>(0),
        rows[0].get::<_, i64>(1),
        "slots taken, tasks"
    );
}
