//! The tables of schema `dbos` that only the nodes know: gathered from all of them before a statement runs.
//!
//! Every node tells what it sees of itself. A node that does not answer in time is shown as not alive; what others know
//! of its partitions is shown all the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all};

use super::Gateway;
use crate::error::Result;
use crate::node::metrics::resident_bytes;
use crate::node::peers::OnLoss;
use crate::partition::{ReplicaStatus, Role};
use crate::sql::Value;
use crate::sql::catalog::SystemTables;
use crate::sql::transaction::schema_version_key;
use crate::storage::StateSnapshot;
use crate::wire::peer::{
    NodeStatus, Status, TableRows, answer, call, decode_values, encode_values,
};

/// A node that takes longer is shown as not alive.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Of `dbos.nodes`.
const NODE_COLUMNS: usize = 7;

/// What one node knows of a partition: input of `dbos.partitions`, not a table of its own.
const LEADERS: &str = "leaders";

/// Gathered rows by table.
#[derive(Debug, Default)]
pub(super) struct SystemRows(HashMap<String, Vec<Vec<Value>>>);

impl SystemTables for SystemRows {
    fn rows(&self, table: &str) -> Result<Vec<Vec<Value>>> {
        Ok(self.0.get(table).cloned().unwrap_or_default())
    }
}

impl Gateway {
    /// Asks every node.
    pub(super) async fn gather(&self) -> SystemRows {
        let deadline = tokio::time::Instant::now() + STATUS_TIMEOUT;
        let others = self.peers.nodes().into_iter().map(|node| {
            let answer = self
                .peers
                .call(node, call::Body::Status(Status {}), OnLoss::Retry);
            async move { (node, tokio::time::timeout(STATUS_TIMEOUT, answer).await) }
        });
        let mut statuses = BTreeMap::from([(self.config.node_id, self.node_status())]);
        let (stamp, answers) = join(self.fresh_stamp(deadline), join_all(others)).await;
        for (node, answer) in answers {
            if let Ok(Ok(Ok(answer::Body::Status(status)))) = answer {
                statuses.insert(node, status);
            }
        }
        let mut rows: HashMap<String, Vec<Vec<Value>>> = HashMap::new();
        for status in statuses.values() {
            for table in &status.tables {
                let decoded = table
                    .rows
                    .iter()
                    .filter_map(|r| decode_values(r.clone()).ok());
                rows.entry(table.table.clone()).or_default().extend(decoded);
            }
        }
        let leaders = rows.remove(LEADERS).unwrap_or_default();
        // No row while a partition has no leader: nobody can say then what is newest.
        let clock = stamp.ok().and_then(|s| i64::try_from(s).ok());
        let clock = clock.map(|s| vec![Value::Int8(s), Value::Timestamptz(s)]);
        rows.insert("clock".into(), clock.into_iter().collect());
        rows.insert("partitions".into(), self.partitions(&leaders));
        let mut nodes = rows.remove("nodes").unwrap_or_default();
        let known = self.placement.nodes();
        for node in known.iter().filter(|n| !statuses.contains_key(&n.id)) {
            nodes.push(self.node_row(node, false));
        }
        // A node of an earlier version does not know the last.
        nodes
            .iter_mut()
            .for_each(|r| r.resize(NODE_COLUMNS, Value::Null));
        nodes.sort_by_key(|r| number(&r[0]));
        rows.insert("nodes".into(), nodes);
        if let Some(replicas) = rows.get_mut("replicas") {
            replicas.sort_by_key(|r| (number(&r[0]), number(&r[1])));
        }
        SystemRows(rows)
    }

    /// This node's part.
    pub(super) fn node_status(&self) -> NodeStatus {
        let mut own = Vec::new();
        if let Ok(node) = self.config.own() {
            own.push(self.node_row(node, true));
        }
        let (mut replicas, mut leaders) = (Vec::new(), Vec::new());
        for group in self.placement.partition_groups() {
            if let Some(status) = self.core.status(group) {
                replicas.push(replica_row(&status));
                leaders.push(self.leader_row(&status));
            }
        }
        let (sessions, statements) = self.client_rows();
        let table = |name: &str, rows: Vec<Vec<Value>>| TableRows {
            table: name.to_string(),
            rows: rows
                .iter()
                .map(|r| encode_values(r))
                .collect::<Vec<Bytes>>(),
        };
        NodeStatus {
            tables: vec![
                table("nodes", own),
                table("replicas", replicas),
                table(LEADERS, leaders),
                table("sessions", sessions),
                table("statements", statements),
            ],
        }
    }

    fn node_row(&self, node: &crate::node::NodeAddress, alive: bool) -> Vec<Value> {
        let own = alive && node.id == self.config.node_id;
        let known = |s: String| if own { text(s) } else { Value::Null };
        let memory = resident_bytes().filter(|_| own).map_or(Value::Null, int8);
        vec![
            int4(node.id),
            text(node.sql.to_string()),
            text(node.peer.to_string()),
            Value::Bool(alive),
            known(self.config.data_dir.display().to_string()),
            known(env!("CARGO_PKG_VERSION").to_string()),
            memory,
        ]
    }

    /// partition_id, leader, term, schema_version, and whether it says so of itself.
    fn leader_row(&self, status: &ReplicaStatus) -> Vec<Value> {
        let store = self.core.group(status.group).map(|g| Arc::clone(&g.store));
        let version = store
            .and_then(|s| s.get(&schema_version_key()).ok().flatten())
            .and_then(|v| Some(u64::from_be_bytes(v.value[..].try_into().ok()?)));
        vec![
            int4(u64::from(status.group) - 1),
            status.leader.map_or(Value::Null, int4),
            int8(status.term),
            int8(version.unwrap_or(0)),
            Value::Bool(status.open),
        ]
    }

    /// Of all that was said of a partition, the highest term counts, and in it the leader's own word.
    fn partitions(&self, leaders: &[Vec<Value>]) -> Vec<Vec<Value>> {
        let one = |group: u32| {
            let of_group = leaders
                .iter()
                .filter(|r| number(&r[0]) == i64::from(group) - 1);
            let best = of_group.max_by_key(|r| {
                (
                    number(&r[2]),
                    r[1] != Value::Null,
                    r[4] == Value::Bool(true),
                )
            });
            let field = |i: usize| best.map_or(Value::Null, |r| r[i].clone());
            vec![
                int4(u64::from(group) - 1),
                int4(group.into()),
                int4(self.placement.slots(group).into()),
                field(1),
                field(2),
                field(3),
            ]
        };
        self.placement.partition_groups().map(one).collect()
    }

    fn client_rows(&self) -> (Vec<Vec<Value>>, Vec<Vec<Value>>) {
        let (mut sessions, mut statements) = (Vec::new(), Vec::new());
        for connection in self.connections.borrow().values() {
            let info = &connection.info;
            let id = match info.session {
                Some(session) => format!("{session:032x}"),
                None => format!("pid {}", info.pid),
            };
            let running = info.running.borrow();
            let state = if running.is_empty() { "idle" } else { "active" };
            sessions.push(vec![
                int4(self.config.node_id),
                text(id.clone()),
                text(
                    format!("{} {}", info.peer, info.application_name.borrow())
                        .trim_end()
                        .to_string(),
                ),
                text(state.to_string()),
                int8(info.submitted.get()),
            ]);
            for one in running.iter() {
                statements.push(vec![
                    int4(self.config.node_id),
                    text(id.clone()),
                    Value::Timestamptz(one.started_us),
                    text(one.query.to_string()),
                ]);
            }
        }
        (sessions, statements)
    }
}

fn replica_row(status: &ReplicaStatus) -> Vec<Value> {
    let role = match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
    };
    vec![
        int4(u64::from(status.group) - 1),
        int4(status.node),
        text(role.to_string()),
        int8(status.term),
        int8(status.commit),
        int8(status.applied),
        int8(status.durable),
        int8(status.last_index),
        // Committed entries that this replica knows of and has not applied.
        int8(status.commit.saturating_sub(status.applied)),
    ]
}

fn text(s: String) -> Value {
    Value::Text(s.into())
}

fn int4(n: u64) -> Value {
    Value::Int4(i32::try_from(n).unwrap_or(i32::MAX))
}

fn int8(n: u64) -> Value {
    Value::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int4(n) => i64::from(*n),
        Value::Int8(n) => *n,
        _ => -1,
    }
}
