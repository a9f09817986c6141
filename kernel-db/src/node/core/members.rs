//! Replicas that come and go while the node runs, changes of members, checkpoints for others.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;

use super::super::metrics::Counters;
use super::super::threads::WriteJob;
use super::{Core, Group, Groups, Waiter};
use crate::error::{Error, Result};
use crate::node::State;
use crate::partition::{Input, MemberChange};
use crate::raft::member_id;
use crate::storage::{LogWrite, StateStore};

/// A replica that was dropped and is not quite gone.
pub struct Leaving {
    /// The end of its log is written.
    pub(super) persisted: bool,
    /// Until then: its directory tells a start in between to bring that to an end.
    held: Option<Arc<State>>,
    store: std::sync::Weak<State>,
    /// Its store was gone at the last turn.
    gone: bool,
}

impl Core {
    /// Makes an empty replica of `group`, which its leader then fills; nothing happens if there is one, or if what is left of
    /// an earlier one still goes.
    pub fn join(&self, group: u32) -> Result<()> {
        if self.group(group).is_some() || self.leaving.borrow().contains_key(&group) {
            return Ok(());
        }
        let (replica, store) = (self.opener)(group)?;
        tracing::info!(group, "a replica is made here");
        let mut groups = Groups::clone(&self.groups());
        groups.insert(group, Rc::new(Group::new(replica, store)));
        *self.groups.borrow_mut() = Rc::new(groups);
        Ok(())
    }

    /// Drops the replica of `group`, which is a member no more: log, state and all.
    pub fn leave(&self, group: u32) {
        let mut groups = Groups::clone(&self.groups());
        let Some(gone) = groups.remove(&group) else {
            return;
        };
        tracing::info!(group, "the replica here is dropped");
        *self.groups.borrow_mut() = Rc::new(groups);
        // The state goes first: one that is there without its log would not open.
        match gone.store.doom() {
            Ok(()) => self.end_log(group, &gone),
            Err(error) => tracing::error!(
                group,
                "the replica stays on disk until the next start: {error}"
            ),
        }
        let leaving = Leaving {
            persisted: false,
            held: Some(Arc::clone(&gone.store)),
            store: Arc::downgrade(&gone.store),
            gone: false,
        };
        self.leaving.borrow_mut().insert(group, leaving);
    }

    /// Behind everything that it had written. Term and vote stay: they were promised. What is sent to this member is not for
    /// the next one.
    fn end_log(&self, group: u32, gone: &Group) {
        let replica = gone.replica.borrow();
        let mut hard_state = raft::eraftpb::HardState::default();
        (hard_state.term, hard_state.vote) = (replica.status().term, replica.vote());
        self.threads.borrow().write(vec![WriteJob {
            group,
            token: 0,
            write: LogWrite {
                group,
                entries: Vec::new(),
                hard_state: Some(hard_state),
                reset: true,
                member: Some(member_id::dropped(replica.member())),
            },
            // By the log writer, and so behind what it has.
            sync: true,
        }]);
    }

    /// What is left of replicas that were dropped: reports about them that are under way are taken before they are forgotten.
    pub(super) fn forget_left(&self) {
        self.leaving.borrow_mut().retain(|_, leaving| {
            if leaving.persisted {
                leaving.held = None;
            }
            let done = leaving.persisted && leaving.gone;
            leaving.gone = leaving.store.strong_count() == 0;
            !done
        });
    }

    /// Off the core: it reads all of the state once.
    pub(super) fn checkpoint(&self, number: u32, group: &Group, members: Bytes) {
        Counters::add(&self.counters.checkpoints, 1);
        let (store, this) = (Arc::clone(&group.store), Weak::clone(&self.this));
        tokio::task::spawn_local(async move {
            let made = tokio::task::spawn_blocking(move || store.checkpoint(&members)).await;
            let made = made.unwrap_or_else(|e| Err(Error::internal(format!("checkpoint: {e}"))));
            match &made {
                Ok(made) => tracing::info!(group = number, index = made.index, "checkpoint made"),
                Err(error) => tracing::error!(group = number, "checkpoint: {error}"),
            }
            if let Some(core) = this.upgrade() {
                core.send(number, Input::Checkpointed(made));
            }
        });
    }

    /// Makes one change of members on the leader here.
    pub fn change_members(
        &self,
        group: u32,
        version: u64,
        change: MemberChange,
    ) -> oneshot::Receiver<Result<()>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(Waiter::Members(sender));
        let input = Input::ChangeMembers {
            id,
            version,
            change,
        };
        self.send(group, input);
        receiver
    }
}
