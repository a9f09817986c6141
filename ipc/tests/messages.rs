//! Messages arrive once, whole, and in order.

use std::time::{Duration, Instant};

use dbos_client::Class;
use dbos_client::testing::{Engine, engines};
use futures::future::join_all;
use ipc::{BATCH_MAX, Message, Messages};

/// Without waiting.
const NOW: Duration = Duration::ZERO;

async fn messages(engine: &Engine) -> Messages {
    let client = engine.client().await.unwrap();
    ipc::install(&client).await.unwrap();
    Messages::new(client)
}

fn texts(received: &[Message]) -> Vec<String> {
    received
        .iter()
        .map(|message| String::from_utf8(message.data.clone()).unwrap())
        .collect()
}

#[tokio::test]
async fn messages_come_once_and_in_order() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        messages.send(7, 1, b"a").await.unwrap();
        messages.send_batch(7, 2, &[b"b", b"", b"d"]).await.unwrap();
        messages.send(8, 1, b"for another").await.unwrap();
        assert_eq!(messages.unread(7).await.unwrap(), 4);
        let two = messages.receive(7, 2, NOW).await.unwrap();
        assert_eq!(texts(&two), ["a", "b"]);
        assert_eq!((two[0].sender_id, two[1].sender_id), (1, 2));
        assert_eq!(
            texts(&messages.receive(7, 100, NOW).await.unwrap()),
            ["", "d"]
        );
        assert!(messages.receive(7, 100, NOW).await.unwrap().is_empty());
        assert_eq!(messages.unread_by_receiver().await.unwrap(), [(8, 1)]);
    }
}

#[tokio::test]
async fn an_unacknowledged_message_comes_again() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        let ids = messages
            .send_batch(7, 1, &[b"a", b"b", b"c"])
            .await
            .unwrap();
        assert_eq!(
            texts(&messages.receive_ack(7, 0, 2, NOW).await.unwrap()),
            ["a", "b"]
        );
        assert_eq!(
            texts(&messages.receive_ack(7, ids[0], 2, NOW).await.unwrap()),
            ["b", "c"]
        );
        assert_eq!(
            texts(&messages.receive_ack(7, ids[0], 2, NOW).await.unwrap()),
            ["b", "c"]
        );
        assert!(
            messages
                .receive_ack(7, ids[2], 2, NOW)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(messages.unread(7).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_fan_out_reaches_every_receiver() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        let receivers: Vec<i64> = (0..40).collect();
        for sent in messages.fan_out(&receivers, 99, b"hello").await {
            sent.unwrap();
        }
        for receiver in receivers {
            assert_eq!(
                texts(&messages.receive(receiver, 10, NOW).await.unwrap()),
                ["hello"]
            );
        }
    }
}

#[tokio::test]
async fn a_multicast_reaches_every_receiver_and_tells_ids_in_their_order() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        messages.send(3, 1, b"before").await.unwrap();
        // Not in order, and one of them twice.
        let receivers: Vec<i64> = (0..300).rev().chain([3]).collect();
        let ids = messages.multicast(&receivers, 99, b"hello").await.unwrap();
        assert_eq!(ids.len(), receivers.len());
        for (receiver, id) in receivers.iter().zip(&ids).take(300) {
            let after = i64::from(*receiver == 3);
            assert_eq!(*id, 1 + after, "the first message of {receiver} is 1");
        }
        assert_eq!(ids[300], 3);
        for receiver in 0..300 {
            let received = texts(&messages.receive(receiver, 10, NOW).await.unwrap());
            match receiver {
                3 => assert_eq!(received, ["before", "hello", "hello"]),
                _ => assert_eq!(received, ["hello"]),
            }
        }
        assert!(messages.multicast(&[], 1, b"x").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_batch_too_large_is_refused_whole() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        let too_many = vec![b"x".as_slice(); BATCH_MAX + 1];
        assert!(
            messages
                .send_batch(7, 1, &too_many)
                .await
                .unwrap_err()
                .get_hint()
                .is_some()
        );
        assert_eq!(messages.unread(7).await.unwrap(), 0);
        assert_eq!(
            messages
                .send_batch(7, 1, &too_many[1..])
                .await
                .unwrap()
                .len(),
            BATCH_MAX
        );
        assert!(messages.send_batch(7, 1, &[]).await.unwrap().is_empty());
    }
}

/// Senders and receivers on connections of their own: nothing is lost, doubled, or out of a sender's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_receivers_share_the_messages_without_loss_or_doubling() {
    const SENDERS: i64 = 4;
    const EACH: i64 = 100;
    for engine in engines() {
        let engine = engine.unwrap();
        messages(&engine).await;
        let send = (0..SENDERS).map(|sender| {
            let client = engine.client();
            async move {
                let messages = Messages::new(client.await.unwrap());
                for number in 0..EACH {
                    messages
                        .send(7, sender, &number.to_be_bytes())
                        .await
                        .unwrap();
                }
            }
        });
        let receive = (0..3).map(|_| {
            let client = engine.client();
            async move {
                let messages = Messages::new(client.await.unwrap());
                let mut received = Vec::new();
                let mut empty = 0;
                while empty < 50 {
                    let some = messages.receive(7, 10, NOW).await.unwrap();
                    empty = if some.is_empty() { empty + 1 } else { 0 };
                    received.extend(some);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                received
            }
        });
        let (_, received) = tokio::join!(join_all(send), join_all(receive));
        for one in &received {
            assert!(
                one.is_sorted_by_key(|message| message.message_id),
                "a receiver's ids grow"
            );
        }
        let mut all: Vec<Message> = received.into_iter().flatten().collect();
        all.sort_by_key(|message| message.message_id);
        let rest = Messages::new(engine.client().await.unwrap())
            .receive(7, 1000, NOW)
            .await
            .unwrap();
        all.extend(rest);
        for sender in 0..SENDERS {
            let of_sender = all.iter().filter(|message| message.sender_id == sender);
            let numbers: Vec<i64> = of_sender
                .map(|message| i64::from_be_bytes(message.data.clone().try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "sender {sender}");
        }
    }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_waits_for_a_message() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        let begun = Instant::now();
        assert!(messages.receive(7, 10, SHORT).await.unwrap().is_empty());
        assert!(begun.elapsed() >= SHORT, "{} did not wait", engine.name);
        let receiver = messages.clone();
        let received = tokio::spawn(async move { receiver.receive(7, 10, LONG).await });
        let acknowledging = messages.clone();
        let unremoved =
            tokio::spawn(async move { acknowledging.receive_ack(8, 0, 10, LONG).await });
        tokio::time::sleep(SHORT).await;
        let begun = Instant::now();
        // Other calls of the same client go on meanwhile.
        messages.send(7, 1, b"a").await.unwrap();
        messages.send(8, 1, b"b").await.unwrap();
        assert_eq!(texts(&received.await.unwrap().unwrap()), ["a"]);
        assert_eq!(texts(&unremoved.await.unwrap().unwrap()), ["b"]);
        assert!(begun.elapsed() < LONG / 2, "woken, not timed out");
        assert_eq!(messages.unread(7).await.unwrap(), 0);
        assert_eq!(messages.unread(8).await.unwrap(), 1);
    }
}

/// Each sender's messages come in order, each once, to several receivers that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_receivers_get_each_message_once_in_order() {
    const EACH: i64 = 50;
    /// Whose messages come last.
    const END: i64 = 9;
    for engine in engines() {
        let engine = engine.unwrap();
        messages(&engine).await;
        let receive = (0..3).map(|_| {
            let client = engine.client();
            async move {
                let messages = Messages::new(client.await.unwrap());
                let mut received = Vec::new();
                loop {
                    let some = messages.receive(7, 1, LONG).await.unwrap();
                    if some.is_empty() || some[0].sender_id == END {
                        return received;
                    }
                    received.extend(some);
                }
            }
        });
        let send = (0..2).map(|sender| {
            let client = engine.client();
            async move {
                let messages = Messages::new(client.await.unwrap());
                for number in 0..EACH {
                    let data = number.to_be_bytes();
                    messages.send(7, sender, &data).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let send = async {
            join_all(send).await;
            // One ends each receiver.
            let messages = Messages::new(engine.client().await.unwrap());
            messages.send_batch(7, END, &[b"", b"", b""]).await.unwrap();
        };
        let (received, ()) = tokio::join!(join_all(receive), send);
        let mut all: Vec<Message> = received.into_iter().flatten().collect();
        all.sort_by_key(|message| message.message_id);
        assert_eq!(all.len(), 2 * EACH as usize, "on {}", engine.name);
        for sender in 0..2 {
            let of_sender = all.iter().filter(|message| message.sender_id == sender);
            let numbers: Vec<i64> = of_sender
                .map(|message| i64::from_be_bytes(message.data.clone().try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "sender {sender}");
        }
    }
}

#[tokio::test]
async fn a_full_mailbox_refuses_until_there_is_room() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        messages.send(7, 1, b"a").await.unwrap();
        let sql = "UPDATE mailbox SET message_limit = 2 WHERE receiver_id = $1";
        messages.client().call(7_i64, sql, &[&7_i64]).await.unwrap();
        messages.send(7, 1, b"b").await.unwrap();
        let retries = messages.client().stats().retries;
        let refused = messages.send(7, 1, b"c").await.unwrap_err();
        assert_eq!(
            (refused.sqlstate(), refused.class()),
            (Some("53400"), Class::Retry)
        );
        assert!(refused.get_hint().is_some());
        // Told at once: whether to wait for the receiver is the sender's to decide.
        assert_eq!(
            messages.client().stats().retries,
            retries,
            "on {}",
            engine.name
        );
        // Nobody else's mailbox is full, and all or nothing goes for several.
        messages.send(8, 1, b"x").await.unwrap();
        assert_eq!(
            messages
                .broadcast(&[9, 7], 1, b"y")
                .await
                .unwrap_err()
                .sqlstate(),
            Some("53400")
        );
        assert_eq!(messages.unread(9).await.unwrap(), 0, "on {}", engine.name);
        // One that may hold nothing takes nothing.
        messages.send(10, 1, b"z").await.unwrap();
        let none = "UPDATE mailbox SET message_limit = 0 WHERE receiver_id = $1";
        messages
            .client()
            .call(10_i64, none, &[&10_i64])
            .await
            .unwrap();
        for left in [1, 0] {
            let refused = messages.send(10, 1, b"z").await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("53400"), "on {}", engine.name);
            assert_eq!(messages.receive(10, 9, NOW).await.unwrap().len(), left);
        }
        // When there is room, it gets through.
        assert_eq!(texts(&messages.receive(7, 1, NOW).await.unwrap()), ["a"]);
        assert_eq!(messages.send(7, 1, b"d").await.unwrap(), 3);
        assert_eq!(
            texts(&messages.receive(7, 9, NOW).await.unwrap()),
            ["b", "d"]
        );
    }
}

#[tokio::test]
async fn a_broadcast_reaches_every_receiver_in_one_transaction() {
    for engine in engines() {
        let engine = engine.unwrap();
        let messages = messages(&engine).await;
        messages.send(3, 9, b"first").await.unwrap();
        let sent = messages.broadcast(&[3, 1, 2, 1000], 9, b"hello").await;
        assert_eq!(
            sent.unwrap(),
            [(1, 1), (2, 1), (3, 2), (1000, 1)],
            "on {}",
            engine.name
        );
        assert_eq!(messages.broadcast(&[], 9, b"").await.unwrap(), []);
        assert_eq!(
            texts(&messages.receive(3, 9, NOW).await.unwrap()),
            ["first", "hello"]
        );
        for receiver in [1, 2, 1000] {
            assert_eq!(
                texts(&messages.receive(receiver, 9, NOW).await.unwrap()),
                ["hello"]
            );
        }
        assert!(messages.unread_by_receiver().await.unwrap().is_empty());
    }
}
