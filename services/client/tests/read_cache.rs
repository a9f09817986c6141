//! The read cache: whatever writes, dies or stands still, a read after an acknowledged write never gives an older row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dbos_client::testing::{Engine, LocalCluster, leader};
use dbos_client::{Client, Options, PartitionKey, Target};
use tokio_postgres::NoTls;

const READ: &str = "SELECT v FROM t WHERE k = $1";
const WRITE: &str = "UPDATE t SET v = $2 WHERE k = $1";
/// The longest there is.
const LEASE: Duration = Duration::from_secs(10);
/// Writers wait for nothing but an answer of a reader that lives: below the lease.
const AT_ONCE: Duration = Duration::from_millis(7_500);
/// What is not promised: how busy the machine is.
const SLACK: Duration = Duration::from_secs(15);
/// What happens by itself has happened by then, on a machine that stands still for seconds too.
const PATIENCE: Duration = Duration::from_secs(30);

async fn caching(target: &Target, lease: Duration) -> Client {
    let options = Options {
        cache_bytes: 1 << 20,
        cache_lease: lease,
        deadline: Duration::from_secs(30),
        ..Options::default()
    };
    Client::connect_with(target, options).await.unwrap()
}

async fn writing(target: &Target) -> Client {
    let options = Options {
        deadline: Duration::from_secs(30),
        ..Options::default()
    };
    Client::connect_with(target, options).await.unwrap()
}

async fn table(client: &Client) {
    client
        .script("CREATE TABLE t (k int8 PRIMARY KEY, v int8)")
        .await
        .unwrap();
    for k in 0..8_i64 {
        let insert = "INSERT INTO t (k, v) VALUES ($1, 0)";
        client.call(k, insert, &[&k]).await.unwrap();
    }
}

/// None: there is no such row.
async fn read(client: &Client, k: i64) -> Option<i64> {
    let rows = client
        .read_cached(READ, &[PartitionKey::Int(k)])
        .await
        .unwrap();
    (!rows.is_empty()).then(|| rows.field(0, 0).unwrap())
}

async fn write(client: &Client, k: i64, v: i64) {
    client.call(k, WRITE, &[&k, &v]).await.unwrap();
}

fn hits(client: &Client) -> u64 {
    client.cache_stats().unwrap().hits
}

/// Reads until the row is read from memory.
async fn read_until_hit(client: &Client, k: i64) -> Option<i64> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let before = hits(client);
        let value = read(client, k).await;
        if hits(client) > before {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing is kept: {:?}", client.cache_stats());
}

#[tokio::test]
async fn what_another_client_has_written_is_read() {
    let engine = Engine::kernel().unwrap();
    let (reader, writer) = (
        caching(&engine.target, LEASE).await,
        writing(&engine.target).await,
    );
    table(&writer).await;
    for v in 1..=30 {
        for k in 0..4 {
            let begun = Instant::now();
            write(&writer, k, v).await;
            assert!(begun.elapsed() < AT_ONCE, "the reader lives and answers");
            assert_eq!(read(&reader, k).await, Some(v));
            assert_eq!(read_until_hit(&reader, k).await, Some(v));
        }
    }
    let stats = reader.cache_stats().unwrap();
    assert!(stats.recalls >= 4 * 29, "{stats:?}");
    // The reader's own writes too.
    write(&reader, 1, 77).await;
    assert_eq!(read(&reader, 1).await, Some(77));
    // A row that is not there, and comes.
    assert_eq!(read(&reader, 100).await, None);
    let insert = "INSERT INTO t (k, v) VALUES (100, 1)";
    writer.call(100, insert, &[]).await.unwrap();
    assert_eq!(read(&reader, 100).await, Some(1));
}

/// Every statement that removes or changes rows, each behind a hit.
#[tokio::test]
async fn however_a_row_is_changed_it_is_read_as_it_is() {
    let engine = Engine::kernel().unwrap();
    let (reader, writer) = (
        caching(&engine.target, LEASE).await,
        writing(&engine.target).await,
    );
    table(&writer).await;
    let url = engine.target.to_string();
    let (block, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let run = async |sql: &str| {
        let begun = Instant::now();
        block.batch_execute(sql).await.unwrap();
        // The reader cannot ask any more for what it is to give back.
        let most = match sql.starts_with("DROP") {
            true => LEASE * 9 / 8 + SLACK,
            false => AT_ONCE,
        };
        assert!(begun.elapsed() < most, "{sql}");
    };
    let changes = [
        ("UPDATE t SET v = v + 1", Some(1)),
        ("BEGIN; UPDATE t SET v = v + 1; COMMIT", Some(2)),
        ("BEGIN; UPDATE t SET v = 50; ROLLBACK", Some(2)),
        ("BEGIN; UPDATE t SET v = v + 1 WHERE k = 3; COMMIT", Some(3)),
        ("DELETE FROM t WHERE k = 3", None),
        ("INSERT INTO t VALUES (3, 4)", Some(4)),
        (
            "INSERT INTO t VALUES (3, 9), (4, 9) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v",
            Some(9),
        ),
        (
            "BEGIN; DELETE FROM t; INSERT INTO t VALUES (3, 5); COMMIT",
            Some(5),
        ),
        ("TRUNCATE t", None),
        ("INSERT INTO t VALUES (3, 6)", Some(6)),
        (
            "DROP TABLE t; CREATE TABLE t (k int8 PRIMARY KEY, v int8)",
            None,
        ),
        ("INSERT INTO t VALUES (3, 7)", Some(7)),
    ];
    for (sql, expected) in changes {
        if read(&reader, 3).await.is_some() {
            read_until_hit(&reader, 3).await;
        }
        run(sql).await;
        assert_eq!(read(&reader, 3).await, expected, "{sql}");
    }
    // A lock that is held: others read what is there.
    let before = read_until_hit(&reader, 3).await;
    run("BEGIN; SELECT * FROM t WHERE k = 3 FOR UPDATE; UPDATE t SET v = 8 WHERE k = 3").await;
    assert_eq!(read(&reader, 3).await, before);
    run("COMMIT").await;
    assert_eq!(read(&reader, 3).await, Some(8));
}

/// Readers all the time, and what was acknowledged when each read began.
struct Watch {
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    k: i64,
    readers: Vec<(Client, tokio::task::JoinHandle<()>)>,
}

impl Watch {
    fn start(clients: &[Client], k: i64) -> Self {
        let (acknowledged, stop) = (
            Arc::new(AtomicI64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let reader = |client: &Client| {
            let (watched, acknowledged, stop) =
                (client.clone(), acknowledged.clone(), stop.clone());
            let reading = tokio::spawn(async move {
                let mut last = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let value = read(&watched, k).await.unwrap();
                    assert!(value >= before, "{value} read after {before} was written");
                    assert!(value >= last, "{value} read after {last} was read");
                    last = value;
                }
            });
            (client.clone(), reading)
        };
        let readers = clients.iter().map(reader).collect();
        Self {
            acknowledged,
            stop,
            k,
            readers,
        }
    }

    async fn end(self) {
        for (client, _) in &self.readers {
            read_until_hit(client, self.k).await;
        }
        self.stop.store(true, Ordering::SeqCst);
        for (_, reading) in self.readers {
            reading.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_writers_never_go_back() {
    let engine = Engine::kernel().unwrap();
    let writer = writing(&engine.target).await;
    table(&writer).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(caching(&engine.target, LEASE).await);
    }
    let watch = Watch::start(&readers, 2);
    for v in 1..=100 {
        write(&writer, 2, v).await;
        watch.acknowledged.store(v, Ordering::SeqCst);
        if v % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    watch.end().await;
}

/// A client on a thread of its own that does nothing between commands: as a process that is stopped.
fn stopped_reader(
    target: &Target,
    lease: Duration,
) -> (
    std::sync::mpsc::Sender<()>,
    std::sync::mpsc::Receiver<Option<i64>>,
) {
    let (go, wait) = std::sync::mpsc::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let target = target.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(caching(&target, lease));
        tell.send(runtime.block_on(read_until_hit(&client, 5)))
            .unwrap();
        // Nothing of the client runs meanwhile, also not what listens.
        while wait.recv().is_ok() {
            tell.send(runtime.block_on(read(&client, 5))).unwrap();
        }
    });
    (go, told)
}

#[tokio::test]
async fn a_reader_that_stands_still_is_waited_for_until_its_lease_ends() {
    let engine = Engine::kernel().unwrap();
    let writer = writing(&engine.target).await;
    table(&writer).await;
    let lease = Duration::from_secs(2);
    let (go, told) = stopped_reader(&engine.target, lease);
    assert_eq!(told.recv().unwrap(), Some(0));
    let begun = Instant::now();
    write(&writer, 5, 1).await;
    let waited = begun.elapsed();
    assert!(waited < lease * 9 / 8 + SLACK, "{waited:?}");
    // It goes on, past its lease.
    go.send(()).unwrap();
    assert_eq!(told.recv().unwrap(), Some(1));
    // It stands still, or is gone for ever, with a row that was just read.
    go.send(()).unwrap();
    assert_eq!(told.recv().unwrap(), Some(1));
    let begun = Instant::now();
    write(&writer, 5, 2).await;
    let waited = begun.elapsed();
    assert!(waited > lease / 4, "it was waited for: {waited:?}");
    assert!(waited < lease * 9 / 8 + SLACK, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_takes_no_lease_with_it() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let target = cluster.target().unwrap();
    let lease = Duration::from_secs(3);
    let (reader, writer) = (caching(&target, lease).await, writing(&target).await);
    table(&writer).await;
    let mut v = 0;
    for _ in 0..2 {
        read_until_hit(&reader, 2).await;
        // Whom nobody can ask: he reads from memory as long as he may.
        let (go, told) = stopped_reader(&target, lease);
        told.recv().unwrap();
        let watch = Watch::start(std::slice::from_ref(&reader), 2);
        watch.acknowledged.store(v, Ordering::SeqCst);
        let leader = leader(&writer, 0).await.unwrap();
        cluster
            .dbos(&["cluster", "kill", &leader.to_string()])
            .unwrap();
        for _ in 0..20 {
            v += 1;
            write(&writer, 2, v).await;
            watch.acknowledged.store(v, Ordering::SeqCst);
        }
        write(&writer, 5, v).await;
        go.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), Some(v));
        watch.end().await;
        cluster
            .dbos(&["cluster", "restart", &leader.to_string()])
            .unwrap();
    }
}

/// A time to go back to. On a machine that stands still nobody may know one in time.
async fn stamp(client: &Client) -> i64 {
    let begun = Instant::now();
    loop {
        let clock = client.read_all("SELECT stamp FROM dbos.clock", &[]);
        match clock.await.unwrap().first() {
            Some(row) => return row.get(0),
            None => assert!(begun.elapsed() < PATIENCE, "no time"),
        }
    }
}

#[tokio::test]
async fn going_back_in_time_is_seen() {
    let cluster = LocalCluster::start(&["--nodes", "1", "--partitions", "2"]).unwrap();
    let target = cluster.target().unwrap();
    let reader = caching(&target, LEASE).await;
    table(&reader).await;
    write(&reader, 2, 1).await;
    let stamp = stamp(&reader).await;
    write(&reader, 2, 2).await;
    assert_eq!(read_until_hit(&reader, 2).await, Some(2));
    let stamp = stamp.to_string();
    let begun = Instant::now();
    // The reader answers meanwhile.
    let rollback = {
        let mut command = cluster.command(&["cluster", "rollback", "--to", &stamp, "--yes"]);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = rollback.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(9), "it answered");
    assert_eq!(read(&reader, 2).await, Some(1));
}

#[tokio::test]
async fn keys_of_any_type_are_kept_and_large_answers_are_not() {
    let engine = Engine::kernel().unwrap();
    let client = caching(&engine.target, Duration::from_secs(10)).await;
    client
        .script(
            "CREATE TABLE c (a text, b uuid, c int4, data bytea, n int4, PRIMARY KEY (a, b, c))",
        )
        .await
        .unwrap();
    let id = uuid::Uuid::from_u128(7);
    let data = vec![9_u8; 1000];
    let insert = "INSERT INTO c VALUES ($1, $2, $3, $4, NULL)";
    client
        .call("x", insert, &[&"x", &id, &3_i32, &data])
        .await
        .unwrap();
    let read = "SELECT data, n, c FROM c WHERE a = $1 AND b = $2 AND c = $3";
    let key = [
        PartitionKey::Text("x"),
        PartitionKey::Uuid(id),
        PartitionKey::Int(3),
    ];
    for _ in 0..3 {
        let rows = client.read_cached(read, &key).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows.field::<&[u8]>(0, 0).unwrap(), data);
        assert_eq!(rows.field::<Option<i32>>(0, 1).unwrap(), None);
        assert_eq!(rows.field::<i32>(0, 2).unwrap(), 3);
        assert!(rows.field::<i64>(0, 2).is_err() && rows.field::<i32>(1, 0).is_err());
    }
    assert_eq!(hits(&client), 2);
    // Ranges, and what is read in several partitions, are read each time.
    for (sql, key) in [
        ("SELECT n FROM c WHERE a = $1", PartitionKey::Text("x")),
        ("SELECT n FROM c WHERE c = $1", PartitionKey::Int(3)),
    ] {
        for _ in 0..3 {
            let rows = client.read_cached(sql, &[key]).await.unwrap();
            assert_eq!(rows.len(), 1, "{sql}");
        }
    }
    assert_eq!(hits(&client), 2);
    let wrong = client.read_cached(read, &[PartitionKey::Int(1); 3]).await;
    assert!(wrong.is_err());
}

#[tokio::test]
async fn a_plain_postgresql_has_no_cache_and_reads_the_same() {
    let engine = Engine::postgres().unwrap();
    let client = caching(&engine.target, Duration::from_secs(1)).await;
    table(&client).await;
    assert!(!client.caches() && client.cache_stats().is_none());
    write(&client, 2, 5).await;
    assert_eq!(read(&client, 2).await, Some(5));
    let options = Options {
        cache_bytes: 1,
        cache_lease: Duration::from_secs(11),
        ..Options::default()
    };
    let refused = Client::connect_with(&engine.target, options).await;
    assert_eq!(refused.unwrap_err().sqlstate(), Some("22023"));
}
