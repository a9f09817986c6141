//! Reads of more than may be kept in memory.

use kernel_db::node::Durability;

use crate::cluster::{Cluster, query, state};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_read_may_be_larger_than_what_is_kept() {
    let mut cluster = Cluster::prepare(3, 4, 1, Durability::Memory);
    for id in 1..=3 {
        let path = cluster.dir().join(format!("{id}.toml"));
        let config = std::fs::read_to_string(&path).unwrap();
        let small = config.replace("result_bytes_max = 268435456", "result_bytes_max = 1048576");
        assert_ne!(small, config);
        std::fs::write(&path, small).unwrap();
        cluster.spawn(id);
    }
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY, v text)").await;
    // Four times as much as a result may have, here and on other nodes.
    for k in 0..40 {
        let insert = format!("INSERT INTO t VALUES ({k}, repeat('x', 100000) || {k})");
        query(&client, &insert).await;
    }
    let counted = query(&client, "SELECT count(*) || ' ' || sum(length(v)) FROM t").await;
    assert_eq!(counted, "40 4000070");
    let last = query(&client, "SELECT k FROM t ORDER BY k DESC LIMIT 1").await;
    assert_eq!(last, "39");
    assert_eq!(state(&client, "SELECT v FROM t").await, "54000");
    assert_eq!(state(&client, "SELECT k FROM t ORDER BY v").await, "54000");
    assert_eq!(
        state(&client, "SELECT repeat(v, 20) FROM t WHERE k = 1").await,
        "54000"
    );
    assert_eq!(
        query(&client, "SELECT length(v) FROM t WHERE k = 7").await,
        "100001"
    );
}
