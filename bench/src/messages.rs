//! Messages: one operation is a whole round, answered.
//!
//! `send-receive`: one message of 64 bytes is sent and received. `fan-out`: one message to each of 40 receivers, pipelined.

use std::rc::Rc;

use anyhow::bail;
use dbos_client::Client;

use crate::run::{Operation, Prepared, expect_equal};

const RECEIVERS: i64 = 256;
/// The benchmark's own receivers: other mailboxes of the target are left alone.
const FIRST_RECEIVER: i64 = 1_000_000_000;
const FAN_OUT: i64 = 40;
const BYTES: usize = 64;
const SEND: &str = "SELECT msg_send($1, $2, $3)";
const RECEIVE: &str = "SELECT message_id, data FROM msg_receive($1, $2)";

pub(crate) async fn prepare(client: Client, shape: &str) -> anyhow::Result<Prepared> {
    ipc::install(&client).await?;
    for receiver in FIRST_RECEIVER..FIRST_RECEIVER + RECEIVERS {
        while !client
            .call(receiver, RECEIVE, &[&receiver, &1000_i32])
            .await?
            .is_empty()
        {}
    }
    let (operation, left_per_operation): (Operation, i64) = match shape {
        "send-receive" => (send_receive(client.clone()), 0),
        "fan-out" => (fan_out(client.clone()), FAN_OUT),
        other => bail!("unknown shape {other:?}: send-receive or fan-out"),
    };
    let check =
        move |acknowledged: u64| -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>> {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM message WHERE receiver_id BETWEEN $1 AND $2";
                let rows = client
                    .read_all(sql, &[&FIRST_RECEIVER, &(FIRST_RECEIVER + RECEIVERS - 1)])
                    .await?;
                expect_equal(
                    "messages left",
                    rows[0].get(0),
                    acknowledged * left_per_operation as u64,
                )
            })
        };
    Ok(Prepared {
        operation,
        check: Box::new(check),
    })
}

/// Sender n and receiver n share a mailbox that others use too, so a receive may bring another's message: what counts is
/// that every message is received once.
fn send_receive(client: Client) -> Operation {
    Rc::new(move |n| {
        let (client, receiver) = (
            client.clone(),
            FIRST_RECEIVER + (n % RECEIVERS as u64) as i64,
        );
        Box::pin(async move {
            let data = [n as u8; BYTES];
            let sent = client
                .call(receiver, SEND, &[&receiver, &(n as i64), &&data[..]])
                .await;
            sent.map_err(|e| e.to_string())?;
            client
                .call(receiver, RECEIVE, &[&receiver, &100_i32])
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
    })
}

fn fan_out(client: Client) -> Operation {
    Rc::new(move |n| {
        let client = client.clone();
        Box::pin(async move {
            let data = [n as u8; BYTES];
            let sends = (0..FAN_OUT).map(|i| {
                let (client, receiver) =
                    (client.clone(), FIRST_RECEIVER + (n as i64 + i) % RECEIVERS);
                async move {
                    client
                        .call(receiver, SEND, &[&receiver, &(n as i64), &&data[..]])
                        .await
                }
            });
            futures::future::try_join_all(sends)
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
    })
}
