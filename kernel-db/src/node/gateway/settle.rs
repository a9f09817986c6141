//! Finishes transactions that nobody else finishes: their gateway, or a leader on the way, died.
//!
//! Partitions led from here say what they want to know or to be known (I12); it is asked once and, if that fails, asked
//! again when they say so again. Two nodes that do the same at the same time do no harm.

use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::Gateway;
use super::leader::is_routing;
use crate::error::{Class, Error, Result};
use crate::node::chore::Chore;
use crate::txn::messages::{Answer, Decision, Forget, Resolve, Settle, TxnId, Work};

/// Longer than a failover; partitions repeat what was not done.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gateway {
    pub(super) async fn serve_chores(self: Rc<Self>, mut wanted: UnboundedReceiver<Chore>) {
        while let Some(chore) = wanted.recv().await {
            let gateway = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let shown = format!("{chore:?}");
                match gateway.finish_transaction(chore).await {
                    Ok(()) => tracing::info!("finished: {shown}"),
                    Err(error) => tracing::info!("not finished yet: {shown}: {error}"),
                }
            });
        }
    }

    async fn finish_transaction(&self, chore: Chore) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        match chore {
            Chore::Resolve {
                group,
                txn,
                coordinator,
                deadline_ts,
            } => {
                let resolve = Work::Resolve(Resolve { txn, deadline_ts });
                match self.transact_until(coordinator, resolve, deadline).await? {
                    Answer::Decided(Decision { commit_ts }) => {
                        self.settle(group, txn, commit_ts, deadline).await
                    }
                    other => Err(unexpected(&other)),
                }
            }
            Chore::Finish {
                group,
                txn,
                commit_ts,
                others,
            } => {
                let settle = |other| self.settle(other, txn, Some(commit_ts), deadline);
                for settled in join_all(others.into_iter().map(settle)).await {
                    settled?;
                }
                let more = Vec::new();
                let forget = Work::Forget(Forget { txn, more });
                self.transact_until(group, forget, deadline).await.map(drop)
            }
        }
    }

    async fn settle(
        &self,
        group: u32,
        txn: TxnId,
        commit_ts: Option<u64>,
        deadline: Instant,
    ) -> Result<()> {
        let settle = Work::Settle(Settle { txn, commit_ts });
        while let Answer::More(_) = self.transact_until(group, settle.clone(), deadline).await? {}
        Ok(())
    }

    /// Repeats work that may be repeated until the group's leader has done it, an error says that it cannot be done, or
    /// time is up.
    pub(in crate::node) async fn transact_until(
        &self,
        group: u32,
        work: Work,
        deadline: Instant,
    ) -> Result<Answer> {
        loop {
            match self.transact(group, work.clone()).await {
                Err(error) if may_ask_again(&error, &work) && Instant::now() < deadline => {
                    self.pause(group, &error).await
                }
                result => return result,
            }
        }
    }
}

/// True if a later attempt may do better, and one that came through does no harm.
pub(super) fn may_ask_again(error: &Error, work: &Work) -> bool {
    is_routing(error) || (error.class() == Class::Unknown && work.may_repeat())
}

fn unexpected(answer: &Answer) -> Error {
    Error::internal(format!("a partition answered something else: {answer:?}"))
}
