//! Checkpoints that arrive here: fetched from the leader piece by piece, beside Raft's own messages.
//!
//! Raft's message waits here until every file is there, verified and synced, and only then goes to the replica. One
//! checkpoint per group at a time; an interrupted one goes on where it stopped. The rate is bounded by
//! `snapshot_bytes_per_s`. The leader hears how it ended, and tries again after a failure.
//!
//! A checkpoint is over as soon as its leader is known to have a successor, or the replica is another member: Raft would refuse
//! it then, and nobody waits for an answer. What has arrived of it stays, in case that it is offered again. The newest message
//! that comes while another checkpoint is on its way begins when that one ends. Not interrupted is the reading through of what
//! has arrived.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::Message;
use tokio::time::Instant;

use super::State;
use super::core::Core;
use super::peers::{OnLoss, Peers};
use crate::error::{Class, Error, Result};
use crate::partition::Input;
use crate::raft::member_id::node_of;
use crate::storage::StateStore;
use crate::storage::transfer::{Incoming, Manifest, Missing};
use crate::wire::peer::{FetchPiece, SnapshotDone, answer, call};

/// Bytes of one piece: small beside what heartbeats share the connection with, large beside a round trip.
const PIECE_BYTES: u64 = 1 << 20;
/// For one piece; the sender may be busy.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the sender to be reached again.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(20);

/// See the module's documentation.
pub struct Arrivals {
    core: Rc<Core>,
    peers: Rc<Peers>,
    bytes_per_s: u64,
    /// Groups with a checkpoint on its way.
    active: RefCell<BTreeMap<u32, Active>>,
}

/// Messages about checkpoints of one group by age: term, member, index.
type Age = (u64, u64, u64);

struct Active {
    /// Of the one on its way, or of the one that is to be next.
    newest: Age,
    next: Option<Message>,
}

impl Arrivals {
    pub fn new(core: Rc<Core>, peers: Rc<Peers>, bytes_per_s: u64) -> Rc<Self> {
        Rc::new(Self {
            core,
            peers,
            bytes_per_s,
            active: RefCell::default(),
        })
    }

    /// Takes Raft's message about a checkpoint; the replica gets it when the checkpoint is here.
    pub fn arrive(self: &Rc<Self>, group: u32, message: Message) {
        let Some(store) = self.core.group(group).map(|g| Arc::clone(&g.store)) else {
            return;
        };
        if self.is_over(group, &message) {
            return;
        }
        if store.meta().applied_index >= index_of(&message) {
            // Raft answers that by itself.
            self.core.send(group, Input::Message(message));
        } else if self.begins(group, &message) {
            tokio::task::spawn_local(Rc::clone(self).bring(group, store, message));
        }
    }

    /// False while another one is on its way: the newest of those that come meanwhile is kept, but not what is sent again.
    fn begins(&self, group: u32, message: &Message) -> bool {
        let age = (message.term, message.to, index_of(message));
        match self.active.borrow_mut().entry(group) {
            Entry::Vacant(none) => {
                none.insert(Active {
                    newest: age,
                    next: None,
                });
                true
            }
            Entry::Occupied(mut active) => {
                if age > active.get().newest {
                    active.insert(Active {
                        newest: age,
                        next: Some(message.clone()),
                    });
                }
                false
            }
        }
    }

    /// True if the message is of a leader that has a successor, or to a replica that was here before.
    fn is_over(&self, group: u32, message: &Message) -> bool {
        let status = self.core.status(group);
        status.is_none_or(|s| s.term > message.term) || !self.core.is_for(group, message)
    }

    /// Waits for `work` until the checkpoint is over.
    async fn while_wanted<T>(
        &self,
        group: u32,
        message: &Message,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let over = async {
            while !self.is_over(group, message) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = over => Err(Error::retry("DB004", "the leader, or the replica here, is another by now")),
            done = work => Ok(done),
        }
    }

    async fn bring(self: Rc<Self>, group: u32, store: Arc<State>, message: Message) {
        let (from, index) = (node_of(message.from), index_of(&message));
        tracing::info!(group, from, index, "a checkpoint is on its way");
        let started = Instant::now();
        let arrived = match self.fetch(group, &store, &message).await {
            Ok(bytes) => {
                let installed = self.install(group, &store, &message).await;
                let ms = started.elapsed().as_millis() as u64;
                tracing::info!(group, index, bytes, ms, installed, "checkpoint arrived");
                installed
            }
            Err(error) => {
                tracing::warn!(group, from, "checkpoint not fetched: {error}");
                false
            }
        };
        // A dropped replica is made anew only when nobody has its state any more.
        drop(store);
        let ended = self.active.borrow_mut().remove(&group);
        if let Some(next) = ended.and_then(|active| active.next) {
            // How this one ended would be taken for the end of the next.
            self.arrive(group, next);
        } else if !self.is_over(group, &message) {
            let done = call::Body::SnapshotDone(SnapshotDone { group, arrived });
            // A leader that does not hear it finds out by itself.
            let _ = self.peers.call(from, done, OnLoss::Retry).await;
        }
    }

    /// Gives the replica what has arrived. True when it has it.
    async fn install(&self, group: u32, store: &Arc<State>, message: &Message) -> bool {
        let index = index_of(message);
        self.core.send(group, Input::Message(message.clone()));
        // Answered behind the message, whatever the answer is: Raft has taken it by then, or never will.
        let _ = self.core.snapshot_ts(group).await;
        // What Raft takes is committed. It ends in the state, or with the process or the replica. Nothing else may arrive
        // before, since that would take the place of what is being installed.
        let taken = |group| self.core.status(group).is_some_and(|s| s.commit >= index);
        while store.meta().applied_index < index {
            if !taken(group) {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Fetches and verifies all files. Returns their bytes.
    async fn fetch(&self, group: u32, store: &Arc<State>, message: &Message) -> Result<u64> {
        let data = Bytes::copy_from_slice(message.get_snapshot().get_data());
        let manifest = Manifest::decode_checked(&data)?;
        let (checkpoint, bytes) = (manifest.id(), manifest.bytes());
        let place = Arc::clone(store);
        let mut incoming = blocking(move || Incoming::open(place.dir(), manifest)).await?;
        loop {
            // Looking for the next piece may read a whole file.
            let (back, piece) = blocking(move || {
                let piece = incoming.missing();
                Ok((incoming, piece))
            })
            .await?;
            incoming = back;
            let Some(piece) = piece? else { break };
            let began = Instant::now();
            let file = incoming.manifest().files[piece.file].name.clone();
            let ask = FetchPiece {
                group,
                checkpoint,
                file,
                offset: piece.offset,
                limit: PIECE_BYTES,
            };
            let piece_of = self.piece(node_of(message.from), ask);
            let got = self.while_wanted(group, message, piece_of).await??;
            let length = got.len() as u64;
            incoming = write(incoming, piece, got).await?;
            let due = Duration::from_secs_f64(length as f64 / self.bytes_per_s as f64);
            let pause = tokio::time::sleep(due.saturating_sub(began.elapsed()));
            self.while_wanted(group, message, pause).await?;
        }
        let store = Arc::clone(store);
        blocking(move || {
            store.verify(incoming.dir())?;
            incoming.sync()
        })
        .await?;
        Ok(bytes)
    }

    /// One piece, asked for until the sender says no or stays away too long.
    async fn piece(&self, from: u64, ask: FetchPiece) -> Result<Bytes> {
        let until = Instant::now() + PATIENCE;
        loop {
            let call = call::Body::FetchPiece(ask.clone());
            let answer = self.peers.call(from, call, OnLoss::Retry);
            let error = match tokio::time::timeout(PIECE_TIMEOUT, answer).await {
                Ok(Ok(Ok(answer::Body::Reply(bytes)))) => return Ok(bytes),
                Ok(Ok(Err(error))) => error,
                _ => Error::retry("08006", format!("node {from} sent no piece in time")),
            };
            let final_word = error.class() != Class::Retry || error.sqlstate() == "DB004";
            if final_word || Instant::now() > until {
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

async fn write(incoming: Incoming, piece: Missing, bytes: Bytes) -> Result<Incoming> {
    blocking(move || {
        incoming.write(piece, &bytes)?;
        Ok(incoming)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("checkpoint: {e}"))))
}

/// The last entry that the checkpoint holds.
fn index_of(message: &Message) -> u64 {
    message.get_snapshot().get_metadata().index
}
