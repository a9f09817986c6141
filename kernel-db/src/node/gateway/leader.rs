//! Work at the leader of a group, wherever that is: handed to the replica here, or sent to the leader's node.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::Gateway;
use super::plans::Plan;
use super::txn::given_up;
use crate::error::{Class, Error, Result};
use crate::node::peers::OnLoss;
use crate::partition::{Transaction, Waited};
use crate::sql::transaction::SqlTransaction;
use crate::txn::messages::{Answer, Work};
use crate::wire::peer::{self, Execute, Maintain, Transact, answer, call, encode_values, maintain};

/// Between two attempts while a group has no leader: short beside an election.
const RETRY_PAUSE: Duration = Duration::from_millis(15);

/// SQL statements as one transaction of one partition.
pub struct SqlWork {
    pub plans: Vec<Arc<Plan>>,
    pub txn: Arc<SqlTransaction>,
    pub session: Option<(u128, u64)>,
    pub cancel: Arc<AtomicBool>,
    pub waited: Waited,
}

/// Kernel's own work on one group.
#[derive(Clone)]
pub struct Upkeep {
    pub txn: Arc<dyn Transaction>,
    pub wire: maintain::Work,
}

/// Where to try.
enum Place {
    Here,
    Node(u64),
    Nowhere,
}

impl Gateway {
    /// One attempt; submitted when this returns.
    pub(super) fn attempt_sql(
        &self,
        group: u32,
        work: &SqlWork,
    ) -> LocalBoxFuture<'static, Result<Bytes>> {
        match self.place(group) {
            Place::Here => {
                let txn = Arc::clone(&work.txn) as Arc<dyn Transaction>;
                let cancel = Some(Arc::clone(&work.cancel));
                let waited = work.waited.clone();
                let reply = self
                    .core
                    .submit_waited(group, txn, work.session, cancel, waited);
                local(reply)
            }
            Place::Node(node) => {
                let on_loss = if work.txn.read_only() {
                    OnLoss::Retry
                } else {
                    OnLoss::Unknown
                };
                self.remote_sql(group, node, work, on_loss)
            }
            Place::Nowhere => no_leader(group),
        }
    }

    /// Runs at the leader's node, which hears of it if the statement is given up here.
    fn remote_sql(
        &self,
        group: u32,
        node: u64,
        work: &SqlWork,
        on_loss: OnLoss,
    ) -> LocalBoxFuture<'static, Result<Bytes>> {
        let body = call::Body::Execute(execute(group, work));
        let (id, mut receiver) = self.peers.call_leader(Some(group), node, body, on_loss);
        let (peers, cancel) = (Rc::clone(&self.peers), Arc::clone(&work.cancel));
        async move {
            let answer = tokio::select! {
                biased;
                answer = &mut receiver => answer,
                () = given_up(&cancel) => {
                    peers.cancel(node, id);
                    receiver.await
                }
            };
            reply_of(group, node, answer.unwrap_or_else(|_| Err(gone())))
        }
        .boxed_local()
    }

    fn attempt_upkeep(&self, group: u32, work: &Upkeep) -> LocalBoxFuture<'static, Result<Bytes>> {
        match self.place(group) {
            Place::Here => local(self.core.submit(group, Arc::clone(&work.txn), None, None)),
            Place::Node(node) => {
                // All of it may be done twice, but for DDL: the second time a table would be there already.
                let on_loss = match work.wire {
                    maintain::Work::CatalogChange(_) => OnLoss::Unknown,
                    _ => OnLoss::Retry,
                };
                let body = Maintain {
                    group,
                    work: Some(work.wire.clone()),
                };
                self.remote(group, node, call::Body::Maintain(body), on_loss)
            }
            Place::Nowhere => no_leader(group),
        }
    }

    /// One attempt at a transaction's work in `group`; submitted when this returns. Errors of `is_routing` class mean that
    /// nothing was done; an unknown outcome of `Prepare` or `Commit` is the coordinator's to tell (`Work::Resolve`).
    pub(super) fn transact(
        &self,
        group: u32,
        work: Work,
    ) -> LocalBoxFuture<'static, Result<Answer>> {
        let reply = match self.place(group) {
            Place::Here => local(self.core.submit_work(group, work, None)),
            Place::Node(node) => {
                let on_loss = if work.may_repeat() {
                    OnLoss::Retry
                } else {
                    OnLoss::Unknown
                };
                let work = work.into_bytes();
                self.remote(
                    group,
                    node,
                    call::Body::Transact(Transact { group, work }),
                    on_loss,
                )
            }
            Place::Nowhere => no_leader(group),
        };
        async move { Answer::from_bytes(reply.await?) }.boxed_local()
    }

    /// Repeats `work` until the group's leader has done it, an error says that it cannot be done, or time is up.
    pub(super) async fn upkeep(
        &self,
        group: u32,
        work: &Upkeep,
        deadline: Instant,
    ) -> Result<Bytes> {
        loop {
            match self.attempt_upkeep(group, work).await {
                Err(error) if is_routing(&error) && Instant::now() < deadline => {
                    self.pause(group, &error).await
                }
                result => return result,
            }
        }
    }

    /// Asks the leader of `group` something that changes nothing.
    pub(super) async fn ask_leader(
        &self,
        group: u32,
        body: call::Body,
        deadline: Instant,
    ) -> Result<(u64, answer::Body)> {
        loop {
            let (node, attempt) = match self.place(group) {
                Place::Here => (self.config.node_id, self.answer(body.clone())),
                Place::Node(node) => {
                    let (_, receiver) =
                        self.peers
                            .call_leader(Some(group), node, body.clone(), OnLoss::Retry);
                    (
                        node,
                        async move { receiver.await.unwrap_or_else(|_| Err(gone())) }.boxed_local(),
                    )
                }
                Place::Nowhere => (0, async move { Err(leaderless(group)) }.boxed_local()),
            };
            match attempt.await {
                Err(error) if is_routing(&error) && Instant::now() < deadline => {
                    self.pause(group, &error).await
                }
                result => return Ok((node, result?)),
            }
        }
    }

    /// After a routing error: learns the leader it names, or waits a little.
    pub(super) async fn pause(&self, group: u32, error: &Error) {
        let named = error
            .get_detail()
            .and_then(leader_in)
            .filter(|n| *n != self.config.node_id);
        if self.core.role(group).is_none() || !self.is_member(group) {
            let voters = self.placement.voters(group);
            let tried = self.hints.borrow().get(&group).copied();
            let next = voters
                .iter()
                .position(|v| Some(*v) == tried)
                .map_or(0, |i| (i + 1) % voters.len().max(1));
            if let Some(node) = named.or(voters.get(next).copied()) {
                self.hints.borrow_mut().insert(group, node);
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }

    fn is_member(&self, group: u32) -> bool {
        self.placement
            .topology()
            .concerns(group, self.config.node_id)
    }

    fn place(&self, group: u32) -> Place {
        // A replica that is being filled knows no leader to ask.
        let role = self
            .core
            .role(group)
            .filter(|role| role.leader.is_some() || self.is_member(group));
        match role {
            Some(role) if role.is_leader => Place::Here,
            Some(role) => match role.leader {
                Some(node) if node != self.config.node_id => Place::Node(node),
                _ => Place::Nowhere,
            },
            None => {
                let preferred = || self.placement.preferred_leader(group);
                Place::Node(
                    self.hints
                        .borrow()
                        .get(&group)
                        .copied()
                        .unwrap_or_else(preferred),
                )
            }
        }
    }

    fn remote(
        &self,
        group: u32,
        node: u64,
        body: call::Body,
        on_loss: OnLoss,
    ) -> LocalBoxFuture<'static, Result<Bytes>> {
        let (_, receiver) = self.peers.call_leader(Some(group), node, body, on_loss);
        async move { reply_of(group, node, receiver.await.unwrap_or_else(|_| Err(gone()))) }
            .boxed_local()
    }
}

fn reply_of(group: u32, node: u64, answer: Result<answer::Body>) -> Result<Bytes> {
    match answer? {
        answer::Body::Reply(reply) => Ok(reply),
        _ => Err(Error::unknown(format!(
            "node {node} answered something else for group {group}"
        ))),
    }
}

fn execute(group: u32, work: &SqlWork) -> Execute {
    let statement = |(plan, (_, params)): (&Arc<Plan>, &(_, Vec<_>))| peer::Statement {
        text: plan.text.to_string(),
        param_oids: plan.param_oids.clone(),
        params: encode_values(params),
    };
    Execute {
        group,
        schema_version: work.txn.schema_version,
        statements: work
            .plans
            .iter()
            .zip(&work.txn.statements)
            .map(statement)
            .collect(),
        session: work.session.map_or(Bytes::new(), |(s, _)| {
            Bytes::copy_from_slice(&s.to_be_bytes())
        }),
        number: work.session.map_or(0, |(_, n)| n),
        waited_us: work.waited.us,
    }
}

fn local(receiver: oneshot::Receiver<Result<Bytes>>) -> LocalBoxFuture<'static, Result<Bytes>> {
    async move { receiver.await.unwrap_or_else(|_| Err(gone())) }.boxed_local()
}

/// The core dropped the request: the node is stopping.
pub(super) fn gone() -> Error {
    Error::unknown("the node is stopping")
}

fn leaderless(group: u32) -> Error {
    let name = if group == 0 {
        "the system group".to_string()
    } else {
        format!("partition {}", group - 1)
    };
    Error::retry("DB002", format!("not leader: {name} has no leader now"))
        .hint("a majority of its replicas must be alive and reach each other")
}

fn no_leader(group: u32) -> LocalBoxFuture<'static, Result<Bytes>> {
    async move { Err(leaderless(group)) }.boxed_local()
}

/// True if nothing happened and another node, or the same one a little later, may do it.
pub(super) fn is_routing(error: &Error) -> bool {
    error.class() == Class::Retry
        && matches!(error.sqlstate(), "DB002" | "57P03" | "08006" | "08P01")
}

/// The node id in a not-leader error's detail: the only number there.
fn leader_in(detail: &str) -> Option<u64> {
    detail
        .split(|c: char| !c.is_ascii_digit())
        .find(|s| !s.is_empty())?
        .parse()
        .ok()
}
