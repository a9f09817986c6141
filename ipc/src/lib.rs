//! Messages between processes: SQL in `sql/`, and this thin client.
//!
//! All state is in the tables `mailbox` and `message`, partitioned by receiver; sending and receiving are one transaction
//! each on the receiver's partition. A receiver's messages come in the order of their ids.
//!
//! How often a message arrives: [`Messages::receive`] reads and deletes in one transaction. On a kernel cluster its reply is
//! kept under the client's session, so a message arrives exactly once even when a connection or a leader is lost on the
//! way. On a plain PostgreSQL a lost reply loses its messages; [`Messages::receive_ack`] deletes only what the caller has
//! acknowledged, and is right on every engine.
//!
//! A receive may wait for a message. On a kernel cluster it is parked at the receiver's partition, unproposed, and woken by
//! the send; on PostgreSQL the same procedure looks again and again.
//!
//! A mailbox holds `mailbox.message_limit` messages; a send past it is refused with 53400, of class `Retry`: at
//! once, because the client does not know whether anybody empties it. A sender that does may try again.

use std::time::{Duration, SystemTime};

use dbos_client::{Client, Error, Params, Result, Row, ToSql, field, first_field, first_row};
use futures::future::{join_all, try_join_all};

/// The service's SQL files, in the order in which they are installed.
pub const FILES: [(&str, &str); 4] = [
    dbos_client::WAIT_FOR_CHANGE,
    ("ipc/sql/schema.sql", include_str!("../sql/schema.sql")),
    ("ipc/sql/send.sql", include_str!("../sql/send.sql")),
    ("ipc/sql/receive.sql", include_str!("../sql/receive.sql")),
];

/// Messages in one batch: each is a parameter of one statement.
pub const BATCH_MAX: usize = 256;

/// Creates the tables and procedures; harmless if they are there.
pub async fn install(client: &Client) -> Result<()> {
    client.install_schema(&FILES).await
}

/// A message as its receiver gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Grows with each message of the receiver.
    pub message_id: i64,
    pub sender_id: i64,
    pub sent_at: SystemTime,
    pub data: Vec<u8>,
}

/// The procedures, by a client's connections.
#[derive(Clone, Debug)]
pub struct Messages {
    client: Client,
}

impl Messages {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the message's id.
    pub async fn send(&self, receiver: i64, sender: i64, data: &[u8]) -> Result<i64> {
        let rows = self
            .client
            .call(
                receiver,
                "SELECT msg_send($1, $2, $3)",
                &[&receiver, &sender, &data],
            )
            .await?;
        first_field(&rows)
    }

    /// Sends up to [`BATCH_MAX`] messages to one receiver in one transaction: all or none. Returns their ids in order.
    pub async fn send_batch(
        &self,
        receiver: i64,
        sender: i64,
        batch: &[&[u8]],
    ) -> Result<Vec<i64>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if batch.len() > BATCH_MAX {
            return Err(Error::request(format!(
                "a batch of {} messages, at most {BATCH_MAX}",
                batch.len()
            ))
            .hint("send several batches"));
        }
        let calls: Vec<String> = (0..batch.len())
            .map(|i| format!("msg_send($1, $2, ${})", i + 3))
            .collect();
        let sql = format!("SELECT {}", calls.join(", "));
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&receiver, &sender];
        params.extend(batch.iter().map(|data| data as &(dyn ToSql + Sync)));
        let rows = self.client.call(receiver, &sql, &params).await?;
        let row = first_row(&rows)?;
        (0..batch.len()).map(|column| field(row, column)).collect()
    }

    /// Sends the same data to several receivers in one transaction: to all or to none. Returns receivers and ids, by receiver.
    pub async fn broadcast(
        &self,
        receivers: &[i64],
        sender: i64,
        data: &[u8],
    ) -> Result<Vec<(i64, i64)>> {
        let Some(first) = receivers.first() else {
            return Ok(Vec::new());
        };
        let sql = "SELECT receiver_id, message_id FROM msg_broadcast($1, $2, $3)";
        let rows = self
            .client
            .call(*first, sql, &[&receivers, &sender, &data])
            .await?;
        rows.iter()
            .map(|row| Ok((field(row, 0)?, field(row, 1)?)))
            .collect()
    }

    /// Sends the same data to many receivers, pipelined: one transaction each, in no common order. What some of them cannot
    /// take the others get; on a cluster it is quicker than a broadcast.
    pub async fn fan_out(&self, receivers: &[i64], sender: i64, data: &[u8]) -> Vec<Result<i64>> {
        join_all(
            receivers
                .iter()
                .map(|receiver| self.send(*receiver, sender, data)),
        )
        .await
    }

    /// Sends the same data to many receivers: one transaction, all or none, for those of each partition, side by side. Between
    /// a broadcast and a fan-out, and quicker than both. Returns the ids in the order of `receivers`; after an error some
    /// partitions may have it.
    pub async fn multicast(&self, receivers: &[i64], sender: i64, data: &[u8]) -> Result<Vec<i64>> {
        let partition = |at: &usize| self.client.partition(receivers[*at]);
        let mut order: Vec<usize> = (0..receivers.len()).collect();
        // By receiver within a partition, so that two of them on PostgreSQL do not wait for each other's mailboxes.
        order.sort_by_key(|at| (partition(at), receivers[*at]));
        let parts = order.chunk_by(|a, b| partition(a) == partition(b));
        let batches = parts.flat_map(|part| part.chunks(BATCH_MAX));
        let sends = batches.map(|batch| {
            let batch = batch.iter().map(|at| receivers[*at]).collect();
            self.send_to_partition(batch, sender, data)
        });
        let ids = try_join_all(sends).await?.into_iter().flatten();
        let mut ids: Vec<(usize, i64)> = order.iter().copied().zip(ids).collect();
        ids.sort_unstable();
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    async fn send_to_partition(
        &self,
        receivers: Vec<i64>,
        sender: i64,
        data: &[u8],
    ) -> Result<Vec<i64>> {
        let calls: Vec<String> = (0..receivers.len())
            .map(|i| format!("msg_send(${}, $1, $2)", i + 3))
            .collect();
        let sql = format!("SELECT {}", calls.join(", "));
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&sender, &data];
        params.extend(receivers.iter().map(|r| r as &(dyn ToSql + Sync)));
        let rows = self.client.call(receivers[0], &sql, &params).await?;
        let row = first_row(&rows)?;
        (0..receivers.len())
            .map(|column| field(row, column))
            .collect()
    }

    /// Takes up to `limit` messages, oldest first: read and deleted in one transaction. If there are none, waits up to
    /// `wait` for one; that must be below the server's statement timeout.
    ///
    /// Dropping the future while it waits may lose the messages that it was about to return: use [`Messages::receive_ack`]
    /// where that happens.
    pub async fn receive(&self, receiver: i64, limit: i32, wait: Duration) -> Result<Vec<Message>> {
        let sql = "SELECT message_id, sender_id, sent_at, data FROM msg_receive($1, $2, $3)";
        let seconds = wait.as_secs_f64();
        self.messages(receiver, sql, &[&receiver, &limit, &seconds], wait)
            .await
    }

    /// Deletes messages with ids up to `ack_up_to` (0 for none) and returns up to `limit` of those that follow, without
    /// deleting them; waits as [`Messages::receive`] does.
    pub async fn receive_ack(
        &self,
        receiver: i64,
        ack_up_to: i64,
        limit: i32,
        wait: Duration,
    ) -> Result<Vec<Message>> {
        let sql =
            "SELECT message_id, sender_id, sent_at, data FROM msg_receive_ack($1, $2, $3, $4)";
        let seconds = wait.as_secs_f64();
        let params: Params<'_> = &[&receiver, &ack_up_to, &limit, &seconds];
        self.messages(receiver, sql, params, wait).await
    }

    /// Number of messages waiting for a receiver.
    pub async fn unread(&self, receiver: i64) -> Result<i64> {
        let rows = self
            .client
            .read(receiver, "SELECT msg_unread($1)", &[&receiver])
            .await?;
        first_field(&rows)
    }

    /// Receivers with waiting messages and their numbers, most first.
    pub async fn unread_by_receiver(&self) -> Result<Vec<(i64, i64)>> {
        let sql =
            "SELECT receiver_id, count(*) FROM message GROUP BY receiver_id ORDER BY 2 DESC, 1";
        let rows = self.client.read_all(sql, &[]).await?;
        rows.iter()
            .map(|row| Ok((field(row, 0)?, field(row, 1)?)))
            .collect()
    }

    async fn messages(
        &self,
        receiver: i64,
        sql: &str,
        params: Params<'_>,
        wait: Duration,
    ) -> Result<Vec<Message>> {
        let rows = self
            .client
            .call_waiting(receiver, sql, params, wait)
            .await?;
        let message = |row: &Row| {
            Ok(Message {
                message_id: field(row, 0)?,
                sender_id: field(row, 1)?,
                sent_at: field(row, 2)?,
                data: field(row, 3)?,
            })
        };
        rows.iter().map(message).collect()
    }
}
