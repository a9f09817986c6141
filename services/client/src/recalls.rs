//! Listening to what a partition wants back: one call that waits at its leader, again and again, as long as the cache has
//! something of it.
//!
//! Nothing rests on it but how long writers wait: a cache that does not listen gives nothing back, and its leases end by
//! themselves.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cache::Cache;
use crate::cluster::Place;
use crate::key::OwnedKey;
use crate::lane::{Lane, Shared};
use crate::retry::Repeatable;
use crate::rows::first_field;

/// How long one call waits: a cache that is gone stops listening after it.
const LISTEN: Duration = Duration::from_secs(1);

/// Ends when the cache is gone, or has nothing of the partition.
pub fn listen(shared: &Arc<Shared>, cache: &Arc<Cache>, partition: u32) {
    let lane = Lane::without_session(shared.clone(), Place::Partition(partition), Repeatable::Yes);
    tokio::spawn(until_nothing_is_left(
        lane,
        Arc::downgrade(cache),
        cache.holder,
        partition,
    ));
}

async fn until_nothing_is_left(lane: Lane, cache: Weak<Cache>, holder: i64, partition: u32) {
    let (mut returned, mut question) = (0_i64, None);
    loop {
        // What is to be given back is, also when nothing else is left.
        if returned == 0 {
            question = cache.upgrade().and_then(|cache| cache.question(partition));
        }
        let Some(question) = &question else {
            return;
        };
        let count = question.params.len();
        // What was read once leads to its partition; the call itself reads nothing that it waits for.
        let sql = format!(
            "SELECT lease_recalls(${}, ${}, ${}) FROM (SELECT count(*) FROM ({}) q) c",
            count + 1,
            count + 2,
            count + 3,
            question.sql
        );
        let keys: Vec<_> = question.params.iter().map(OwnedKey::borrowed).collect();
        let seconds = LISTEN.as_secs_f64();
        let mut params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = Vec::new();
        for key in &keys {
            params.push(key);
        }
        params.push(&holder);
        params.push(&returned);
        params.push(&seconds);
        let answer = lane
            .query_waiting(&sql, &params, Repeatable::Yes, LISTEN)
            .await
            .and_then(|rows| first_field::<Option<i64>>(&rows));
        let Some(cache) = cache.upgrade() else {
            return;
        };
        match answer {
            Ok(Some(lease)) => {
                cache.recall((partition, lease));
                returned = lease;
            }
            Ok(None) => returned = 0,
            Err(error) => {
                tracing::debug!(%error, "recalls are not heard");
                cache.not_listening(partition);
                return;
            }
        }
    }
}
