//! Adding and removing nodes.
//!
//! The topology is a row of the system group. The system group's leader compares it with how replicas should be spread and
//! moves one group at a time: it writes down which (so that whoever leads after it goes on), lets that group's leader take one
//! step after the other (learner, caught up, joint change), and writes down the result. Every node follows the row, by being
//! told and by asking; it drops a replica only after a read of the row that began when the replica was there already, so that
//! one which is just being filled is safe.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use tokio::time::Instant;

use super::Gateway;
use super::leader::{Upkeep, gone};
use crate::error::{Error, Result};
use crate::node::NodeAddress;
use crate::node::datadir;
use crate::node::peers::OnLoss;
use crate::node::placement::SYSTEM;
use crate::node::steps::{Step, Stepper};
use crate::node::topology::{Move, Topology};
use crate::node::upkeep::give_away;
use crate::partition::{Input, ReplicaStatus, Store, Transaction, TxnEnv};
use crate::sql::transaction::topology_key;
use crate::wire::peer::{Admin, Advance, admin, answer, call, maintain};

/// How often a node reads the row.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
/// Between two steps of a move.
const STEP_PAUSE: Duration = Duration::from_millis(100);
/// For one read or change of the row, or one step of a move.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// For telling the other nodes; one that is down finds out by itself.
const TELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads the row through the system group's leader, so that it is the newest.
#[derive(Debug)]
pub(super) struct ReadTopology;

impl Transaction for ReadTopology {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        Ok(store.get(&topology_key(), None)?.unwrap_or_default())
    }

    fn read_only(&self) -> bool {
        true
    }

    fn label(&self) -> &str {
        "read topology"
    }
}

/// Replaces the row by its next version.
#[derive(Debug)]
pub(super) struct WriteTopology(pub Topology);

impl Transaction for WriteTopology {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let before = match store.get(&topology_key(), None)? {
            Some(bytes) => Topology::from_bytes(&bytes)?.version,
            None => 0,
        };
        // Said twice because the first answer was lost.
        if before + 1 != self.0.version {
            return Err(Error::retry(
                "40001",
                format!(
                    "the topology has version {before}, not the one before {}",
                    self.0.version
                ),
            ));
        }
        store.put(topology_key(), self.0.to_bytes()?.into())?;
        Ok(Bytes::new())
    }

    fn label(&self) -> &str {
        "change topology"
    }
}

impl Gateway {
    /// The newest topology.
    async fn read_topology(&self) -> Result<Topology> {
        let work = Upkeep {
            txn: Arc::new(ReadTopology),
            wire: maintain::Work::TopologyRead(true),
        };
        let bytes = self
            .upkeep(SYSTEM, &work, Instant::now() + STEP_TIMEOUT)
            .await?;
        match bytes.is_empty() {
            true => Ok(Topology::clone(&self.placement.topology())),
            false => Topology::from_bytes(&bytes),
        }
    }

    /// Writes the next version and tells everybody. 40001 if somebody else did.
    async fn write_topology(&self, next: Topology) -> Result<()> {
        let work = Upkeep {
            wire: maintain::Work::TopologyWrite(next.to_bytes()?.into()),
            txn: Arc::new(WriteTopology(next.clone())),
        };
        self.upkeep(SYSTEM, &work, Instant::now() + STEP_TIMEOUT)
            .await?;
        let bytes = Bytes::from(next.to_bytes()?);
        self.adopt_topology(next);
        let told = self.peers.nodes().into_iter().map(|node| {
            let body = call::Body::Topology(bytes.clone());
            self.peers.call(node, body, OnLoss::Retry)
        });
        // Whoever does not hear it asks.
        let _ = tokio::time::timeout(TELL_TIMEOUT, join_all(told)).await;
        Ok(())
    }

    fn adopt_topology(&self, topology: Topology) {
        if !self.placement.adopt(topology) {
            return;
        }
        let topology = self.placement.topology();
        tracing::info!(
            version = topology.version,
            nodes = topology.nodes.len(),
            "topology"
        );
        self.peers.set_nodes(&topology.nodes);
        if let Err(error) = datadir::keep_topology(&self.config.data_dir, &topology) {
            tracing::warn!("topology not kept: {error}");
        }
    }

    pub(super) fn hear_topology(
        &self,
        bytes: &Bytes,
    ) -> LocalBoxFuture<'static, Result<answer::Body>> {
        let heard = Topology::from_bytes(bytes).map(|topology| {
            self.adopt_topology(topology);
            answer::Body::Reply(Bytes::new())
        });
        std::future::ready(heard).boxed_local()
    }

    /// Follows the row, drops replicas that are members no more, and, on the system group's leader, moves what is to move.
    pub(super) async fn keep_topology(self: Rc<Self>) {
        loop {
            let groups: Vec<u32> = self.core.groups().keys().copied().collect();
            let member = |group: &u32| Some((*group, self.core.member(*group)?));
            let here = groups.iter().filter_map(member).collect::<Vec<_>>();
            match self.read_topology().await {
                Ok(topology) => {
                    self.adopt_topology(topology);
                    self.drop_replicas(&here);
                }
                Err(error) => tracing::debug!("topology not read: {error}"),
            }
            while self.core.role(SYSTEM).is_some_and(|r| r.open) {
                match self.move_on().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!("replicas not moved: {error}");
                        break;
                    }
                }
            }
            tokio::time::sleep(KEEP_INTERVAL).await;
        }
    }

    /// `here` were there before the topology was read, as these members: one that has become a later member since is not what the
    /// row was about.
    fn drop_replicas(&self, here: &[(u32, u64)]) {
        let topology = self.placement.topology();
        if topology.version == 0 {
            return;
        }
        for &(group, member) in here {
            let leads = self.core.role(group).is_some_and(|r| r.is_leader);
            let same = self.core.member(group) == Some(member);
            if same && !leads && !topology.concerns(group, self.config.node_id) {
                self.core.leave(group);
            }
        }
    }

    /// Makes one move. False if there is nothing to do.
    async fn move_on(&self) -> Result<bool> {
        let mut topology = self.read_topology().await?;
        if topology.moving.is_none() {
            let Some(next) = topology.next_move() else {
                if let Some(without) = topology.forget_left() {
                    self.write_topology(without).await?;
                }
                return Ok(false);
            };
            tracing::info!(group = next.group, to = ?next.voters, "moving");
            topology = topology.begin(next);
            self.write_topology(topology.clone()).await?;
        }
        let Some(Move { group, voters, .. }) = topology.moving.clone() else {
            return Ok(false);
        };
        loop {
            let advance = Advance {
                group,
                voters: voters.clone(),
                version: topology.version,
            };
            let deadline = Instant::now() + STEP_TIMEOUT;
            let step = self.ask_leader(group, call::Body::Advance(advance), deadline);
            match step.await {
                Ok((_, answer::Body::Reply(waits))) if waits.is_empty() => break,
                Ok((_, answer::Body::Reply(waits))) => {
                    tracing::debug!(group, "moving: {}", String::from_utf8_lossy(&waits));
                }
                Ok(_) => return Err(Error::internal("a step was answered with something else")),
                Err(error) => tracing::info!(group, "moving: {error}"),
            }
            if !self.core.role(SYSTEM).is_some_and(|r| r.open) {
                return Ok(false);
            }
            if self.placement.topology().version != topology.version {
                // A node is to leave, perhaps one that this move waits for.
                return Ok(true);
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
        self.write_topology(topology.settle()).await?;
        Ok(true)
    }

    /// One step towards `voters`, on the group's leader here. The reply says what is waited for, or nothing when all is done.
    pub(super) fn advance_members(
        &self,
        advance: Advance,
    ) -> LocalBoxFuture<'static, Result<answer::Body>> {
        let gateway = self.own();
        async move {
            let mut steps = Stepper::default();
            let step = loop {
                let fence = Arc::new(steps.fence(advance.version));
                let fenced = gateway.core.submit(advance.group, fence, None, None);
                fenced.await.unwrap_or_else(|_| Err(gone()))?;
                let status = open_status(&gateway, advance.group);
                let status = status.ok_or_else(|| Error::retry("DB002", "not leader"))?;
                if let Some(step) = steps.next(&status, &advance.voters) {
                    break step;
                }
            };
            let text = match step {
                Step::Done => String::new(),
                Step::Wait(why) => why,
                Step::Transfer(to) => {
                    gateway.core.send(advance.group, Input::TransferLeader(to));
                    format!("node {to} is to lead first")
                }
                Step::Change(change) => {
                    let text = format!("{change:?}");
                    let changed =
                        gateway
                            .core
                            .change_members(advance.group, advance.version, change);
                    changed.await.unwrap_or_else(|_| Err(gone()))?;
                    text
                }
            };
            Ok(answer::Body::Reply(text.into()))
        }
        .boxed_local()
    }

    /// What an administrator asks.
    pub(super) fn administer(&self, ask: Admin) -> LocalBoxFuture<'static, Result<answer::Body>> {
        let gateway = self.own();
        async move {
            let text = match ask.work {
                Some(admin::Work::Add(add)) => {
                    let address = |text: &str| -> Result<SocketAddr> {
                        text.parse()
                            .map_err(|_| Error::new("22023", format!("{text:?} is no address")))
                    };
                    let node = NodeAddress {
                        id: add.id,
                        sql: address(&add.sql)?,
                        peer: address(&add.peer)?,
                    };
                    if !node.sql.ip().is_loopback() || !node.peer.ip().is_loopback() {
                        return Err(Error::new("22023", "an address is not a loopback address")
                            .hint("listeners bind loopback only until there is authentication"));
                    }
                    let topology = gateway.read_topology().await?;
                    gateway.write_topology(topology.add(node)?).await?;
                    String::new()
                }
                Some(admin::Work::Remove(node)) => {
                    let topology = gateway.read_topology().await?;
                    gateway.write_topology(topology.remove(node)?).await?;
                    String::new()
                }
                Some(admin::Work::Topology(_)) => {
                    let topology = gateway.read_topology().await?;
                    String::from_utf8_lossy(&topology.to_bytes()?).into_owned()
                }
                Some(admin::Work::HandOver(_)) => {
                    give_away(&gateway.core, &gateway.peers).to_string()
                }
                Some(admin::Work::RollBack(time)) => {
                    gateway.begin_rollback(&time)?;
                    String::new()
                }
                Some(admin::Work::RollbackProgress(_)) => gateway.rollback_progress()?,
                None => return Err(Error::unsupported("this administration")),
            };
            Ok(answer::Body::Reply(text.into()))
        }
        .boxed_local()
    }
}

fn open_status(gateway: &Gateway, group: u32) -> Option<ReplicaStatus> {
    gateway.core.status(group).filter(|status| status.open)
}
