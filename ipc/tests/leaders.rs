//! A receive that waits outlives the leader it waits at.

use std::time::Duration;

use dbos_client::testing::{LocalCluster, leader};
use ipc::Messages;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_receive_goes_on_under_the_next_leader() {
    let cluster = LocalCluster::start(&["--nodes", "3", "--partitions", "1"]).unwrap();
    let client = cluster.client().await.unwrap();
    ipc::install(&client).await.unwrap();
    let messages = Messages::new(client.clone());
    messages.send(7, 1, b"before").await.unwrap();
    assert_eq!(messages.receive(7, 10, LONG).await.unwrap().len(), 1);

    let receiver = messages.clone();
    let waiting = tokio::spawn(async move { receiver.receive(7, 10, LONG).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let leader = leader(&client, 0).await.unwrap().to_string();
    cluster.dbos(&["cluster", "kill", &leader]).unwrap();
    let sent = messages.send(7, 1, b"after").await.unwrap();
    let received = waiting.await.unwrap().unwrap();
    let seen: Vec<_> = received
        .iter()
        .map(|m| (m.message_id, &m.data[..]))
        .collect();
    assert_eq!(seen, [(sent, b"after".as_slice())]);
    assert_eq!(messages.unread(7).await.unwrap(), 0);
}
