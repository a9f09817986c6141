//! Messages arrive once, whole, and in order.

use dbos_client::testing::{Engine, engines};
use futures::future::join_all;
use ipc::{BATCH_MAX, Message, Messages};

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
        let two = messages.receive(7, 2).await.unwrap();
        assert_eq!(texts(&two), ["a", "b"]);
        assert_eq!((two[0].sender_id, two[1].sender_id), (1, 2));
        assert_eq!(texts(&messages.receive(7, 100).await.unwrap()), ["", "d"]);
        assert!(messages.receive(7, 100).await.unwrap().is_empty());
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
            texts(&messages.receive_ack(7, 0, 2).await.unwrap()),
            ["a", "b"]
        );
        assert_eq!(
            texts(&messages.receive_ack(7, ids[0], 2).await.unwrap()),
            ["b", "c"]
        );
        assert_eq!(
            texts(&messages.receive_ack(7, ids[0], 2).await.unwrap()),
            ["b", "c"]
        );
        assert!(messages.receive_ack(7, ids[2], 2).await.unwrap().is_empty());
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
                texts(&messages.receive(receiver, 10).await.unwrap()),
                ["hello"]
            );
        }
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
                    let some = messages.receive(7, 10).await.unwrap();
                    empty = if some.is_empty() { empty + 1 } else { 0 };
                    received.extend(some);
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
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
            .receive(7, 1000)
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
