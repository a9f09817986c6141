//! Checkpoints that arrive here: fetched from the leader piece by piece, beside Raft's own messages.
//!
//! Raft's message waits here until every file is there, verified and synced, and only then goes to the replica. One
//! checkpoint per group at a time; an interrupted one goes on where it stopped. The rate is bounded by
//! `snapshot_bytes_per_s`. The leader hears how it ended, and tries again after a failure.

use std::cell::RefCell;
use std::collections::BTreeSet;
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
/// For the replica to install what has arrived.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// See the module's documentation.
pub struct Arrivals {
    core: Rc<Core>,
    peers: Rc<Peers>,
    bytes_per_s: u64,
    /// Groups with a checkpoint on its way.
    active: RefCell<BTreeSet<u32>>,
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
        if !self.core.is_for(group, &message) {
            return;
        }
        let index = message.get_snapshot().get_metadata().index;
        if store.meta().applied_index >= index {
            // Raft answers that by itself.
            self.core.send(group, Input::Message(message));
            return;
        }
        if !self.active.borrow_mut().insert(group) {
            return;
        }
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let from = node_of(message.from);
            tracing::info!(group, from, index, "a checkpoint is on its way");
            let started = Instant::now();
            let fetched = this.fetch(group, &store, &message).await;
            let arrived = match fetched {
                Ok(_) if !this.core.is_for(group, &message) => false,
                Ok(bytes) => {
                    this.core.send(group, Input::Message(message));
                    let installed = installed(&store, index).await;
                    let ms = started.elapsed().as_millis() as u64;
                    tracing::info!(group, index, bytes, ms, installed, "checkpoint arrived");
                    installed
                }
                Err(error) => {
                    tracing::warn!(group, from, "checkpoint not fetched: {error}");
                    false
                }
            };
            this.active.borrow_mut().remove(&group);
            let done = call::Body::SnapshotDone(SnapshotDone { group, arrived });
            // A leader that does not hear it finds out by itself.
            let _ = this.peers.call(from, done, OnLoss::Retry).await;
        });
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
            let got = self.piece(node_of(message.from), ask).await?;
            let length = got.len() as u64;
            incoming = write(incoming, piece, got).await?;
            let due = Duration::from_secs_f64(length as f64 / self.bytes_per_s as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
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

/// Waits until the replica has it.
async fn installed(store: &Arc<State>, index: u64) -> bool {
    let until = Instant::now() + INSTALL_TIMEOUT;
    while Instant::now() < until {
        if store.meta().applied_index >= index {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}
