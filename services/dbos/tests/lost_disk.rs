//! A node whose data is gone.

use dbos_client::testing::LocalCluster;

fn rows(cluster: &LocalCluster, node: u16) -> String {
    let url = cluster.url(node);
    let count = "SELECT count(*) AS n FROM t";
    cluster
        .dbos(&["sql", "--json", "--target", &url, "-c", count])
        .unwrap()
}

fn insert(cluster: &LocalCluster, row: u32) {
    let sql = format!("INSERT INTO t VALUES ({row})");
    let url = cluster.url(1);
    cluster
        .dbos(&["sql", "--target", &url, "-c", &sql])
        .unwrap();
}

/// What was acknowledged by nodes 1 and 2 must not be forgotten by 2, without its disk, and 3, which was not there.
#[test]
fn a_node_that_lost_its_data_does_not_vote_and_is_replaced() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let table = "CREATE TABLE t (k int4 PRIMARY KEY)";
    cluster.dbos(&["sql", "-c", table]).unwrap();
    insert(&cluster, 0);
    cluster.dbos(&["cluster", "pause", "3"]).unwrap();
    for row in 1..=5 {
        insert(&cluster, row);
    }
    cluster.dbos(&["cluster", "kill", "2"]).unwrap();
    std::fs::remove_dir_all(cluster.data().join("node-2").join("data")).unwrap();
    cluster.dbos(&["cluster", "kill", "1"]).unwrap();
    cluster.dbos(&["cluster", "resume", "3"]).unwrap();
    for command in [
        &["cluster", "restart", "2"][..],
        &["cluster", "restart", "--rolling"],
    ] {
        let refused = cluster.dbos(command).unwrap_err().to_string();
        assert!(refused.contains("node 2"), "{refused}");
        assert!(refused.contains("cluster remove 2"), "{refused}");
    }
    // The others can be started, and have everything; the one that lost its data stays down.
    cluster.dbos(&["cluster", "up"]).unwrap();
    assert_eq!(rows(&cluster, 1).trim(), r#"{"n":"6"}"#);
    assert!(!cluster.data().join("node-2").join("data").exists());
    cluster.dbos(&["cluster", "add"]).unwrap();
    cluster.dbos(&["cluster", "remove", "2"]).unwrap();
    insert(&cluster, 6);
    assert_eq!(rows(&cluster, 4).trim(), r#"{"n":"7"}"#);
}

#[test]
fn a_cluster_that_lost_everything_says_so() {
    let cluster = LocalCluster::start(&["--nodes", "1", "--partitions", "1"]).unwrap();
    cluster.dbos(&["cluster", "down"]).unwrap();
    std::fs::remove_dir_all(cluster.data().join("node-1").join("data")).unwrap();
    let refused = cluster.dbos(&["cluster", "up"]).unwrap_err().to_string();
    assert!(refused.contains("cluster destroy"), "{refused}");
}
