//! Connections from the other nodes: Raft messages go to the core's inbox, calls to the gateway.
//!
//! Calls are started in the order in which they arrive and answered in the order in which they finish.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::clock::NodeClock;
use super::core::Core;
use super::peers::write_frames;
use crate::error::{Error, Result};
use crate::partition::Input;
use crate::storage::transfer::read_piece;
use crate::wire::peer::{
    Answer, Call, FetchPiece, FrameReader, Hello, PROTOCOL, REFUSAL_ID, RaftBatch, answer, call,
    encode_frame, frame, to_failure,
};

/// Calls of one peer under way at once.
const CALLS_MAX: usize = 65_536;
/// Bytes of a checkpoint sent at once at most, whatever is asked for.
const PIECE_BYTES_MAX: u64 = 4 << 20;

/// Answers the calls of peers. Must start the work before it returns, so that order is kept.
pub trait Calls {
    /// `cancel` is set when the caller gives up.
    fn call(
        &self,
        from: u64,
        body: call::Body,
        cancel: Arc<AtomicBool>,
    ) -> LocalBoxFuture<'static, Result<answer::Body>>;
}

/// What every connection of peers needs.
pub struct PeerServer {
    pub own: u64,
    pub cluster: u128,
    pub core: Rc<Core>,
    pub arrivals: Rc<Arrivals>,
    pub calls: Rc<dyn Calls>,
}

impl PeerServer {
    /// Accepts connections for ever; they end with this.
    pub async fn run(self: Rc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without it small frames wait for the peer's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let server = Rc::clone(&self);
                    connections.spawn_local(async move {
                        if let Err(error) = server.serve(stream).await {
                            tracing::info!("connection of a peer ended: {error}");
                        }
                    });
                }
                // Out of file descriptors: it may pass.
                Err(error) => {
                    tracing::warn!("cannot accept a peer: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self: Rc<Self>, stream: TcpStream) -> Result<()> {
        let (read, write) = stream.into_split();
        let mut frames = FrameReader::new(read);
        let Some(frame::Body::Hello(hello)) = frames.next().await? else {
            return Err(Error::retry("08P01", "a peer did not say hello"));
        };
        let from = match self.check(&hello) {
            Ok(from) => from,
            Err(error) => {
                let refusal = frame::Body::Answer(Answer {
                    id: REFUSAL_ID,
                    seen: 0,
                    body: Some(answer::Body::Failure(to_failure(&error))),
                });
                let mut write = write;
                write_frames(&mut write, &[encode_frame(refusal)]).await?;
                return Err(error);
            }
        };
        let answers = Rc::new(Answers::new(self.core.clock()));
        tokio::select! {
            result = self.read(from, frames, &answers) => result,
            result = answers.write(write) => result,
        }
    }

    fn check(&self, hello: &Hello) -> Result<u64> {
        if hello.protocol != PROTOCOL {
            return Err(Error::new(
                "08P01",
                format!(
                    "node {} speaks version {} of the protocol between nodes, node {} version {PROTOCOL}",
                    hello.from, hello.protocol, self.own
                ),
            )
            .hint("run versions of the program that speak the same protocol on all nodes"));
        }
        if hello.cluster[..] != self.cluster.to_be_bytes() || hello.to != self.own {
            return Err(Error::new(
                "08004",
                format!(
                    "node {} of another cluster, or one that takes this for node {}",
                    hello.from, hello.to
                ),
            )
            .hint("`nodes` must be the same list in every node's configuration"));
        }
        Ok(hello.from)
    }

    async fn read(
        &self,
        from: u64,
        mut frames: FrameReader<tokio::net::tcp::OwnedReadHalf>,
        answers: &Rc<Answers>,
    ) -> Result<()> {
        while let Some(body) = frames.next().await? {
            match body {
                frame::Body::Raft(batch) => self.raft(batch)?,
                frame::Body::Call(call) => self.start(from, call, answers),
                _ => return Err(Error::retry("08P01", "unexpected frame")),
            }
        }
        Ok(())
    }

    fn raft(&self, batch: RaftBatch) -> Result<()> {
        for message in batch.messages {
            let decoded = Message::parse_from_bytes(&message.message)
                .map_err(|e| Error::retry("08P01", format!("Raft message: {e}")))?;
            // The leader of a group that this node is to have a replica of.
            let fills = matches!(
                decoded.get_msg_type(),
                MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
            );
            if fills && let Err(error) = self.core.join(message.group) {
                // The leader says it again.
                tracing::warn!(group = message.group, "no replica made: {error}");
            }
            if decoded.get_msg_type() == MessageType::MsgSnapshot {
                self.arrivals.arrive(message.group, decoded);
            } else {
                self.core.send(message.group, Input::Message(decoded));
            }
        }
        Ok(())
    }

    /// A piece of a checkpoint that is offered here.
    fn piece(&self, from: u64, ask: FetchPiece) -> LocalBoxFuture<'static, Result<answer::Body>> {
        let Some(group) = self.core.group(ask.group) else {
            let error = Error::retry("DB004", "no replica of this partition is here");
            return std::future::ready(Err(error)).boxed_local();
        };
        self.core
            .send(ask.group, Input::SnapshotProgress { to: from });
        let store = Arc::clone(&group.store);
        let work = tokio::task::spawn_blocking(move || {
            let limit = ask.limit.min(PIECE_BYTES_MAX);
            read_piece(store.dir(), ask.checkpoint, &ask.file, ask.offset, limit)
        });
        async move {
            let piece = work
                .await
                .unwrap_or_else(|e| Err(Error::internal(format!("checkpoint: {e}"))));
            piece.map(answer::Body::Reply)
        }
        .boxed_local()
    }

    fn start(&self, from: u64, call: Call, answers: &Rc<Answers>) {
        let id = call.id;
        let Some(body) = call.body else {
            answers.push(id, Err(Error::unsupported("this call between nodes")));
            return;
        };
        if answers.open.get() >= CALLS_MAX {
            answers.push(id, Err(Error::busy("too many calls of one node")));
            return;
        }
        if let Err(error) = self.core.clock().observe(call.seen)
            && is_for_a_partition(&body)
        {
            answers.push(id, Err(error));
            return;
        }
        answers.open.set(answers.open.get() + 1);
        let cancel = Arc::new(AtomicBool::new(false));
        answers.cancels.borrow_mut().insert(id, Arc::clone(&cancel));
        let work = match body {
            call::Body::FetchPiece(ask) => self.piece(from, ask),
            call::Body::SnapshotDone(done) => {
                let (to, arrived) = (from, done.arrived);
                self.core
                    .send(done.group, Input::SnapshotDone { to, arrived });
                std::future::ready(Ok(answer::Body::Reply(Bytes::new()))).boxed_local()
            }
            call::Body::Cancel(given_up) => {
                // What is over already has no flag any more.
                if let Some(cancel) = answers.cancels.borrow().get(&given_up.call) {
                    cancel.store(true, Ordering::Relaxed);
                }
                std::future::ready(Ok(answer::Body::Reply(Bytes::new()))).boxed_local()
            }
            body => self.calls.call(from, body, cancel),
        };
        let answers = Rc::clone(answers);
        tokio::task::spawn_local(async move {
            let result = work.await;
            answers.open.set(answers.open.get() - 1);
            answers.cancels.borrow_mut().remove(&id);
            answers.push(id, result);
        });
    }
}

/// It is done at a time, which must be above what the caller has seen.
fn is_for_a_partition(body: &call::Body) -> bool {
    matches!(
        body,
        call::Body::Execute(_)
            | call::Body::Transact(_)
            | call::Body::SnapshotTs(_)
            | call::Body::SnapshotAt(_)
    )
}

/// Answers waiting to be written; at most `CALLS_MAX`.
struct Answers {
    clock: Rc<NodeClock>,
    queue: RefCell<Vec<Bytes>>,
    open: Cell<usize>,
    /// Of the calls under way, by their ids.
    cancels: RefCell<HashMap<u64, Arc<AtomicBool>>>,
    wake: Notify,
}

impl Answers {
    fn new(clock: Rc<NodeClock>) -> Self {
        Self {
            clock,
            queue: RefCell::default(),
            open: Cell::new(0),
            cancels: RefCell::default(),
            wake: Notify::new(),
        }
    }

    fn push(&self, id: u64, result: Result<answer::Body>) {
        let body = result.unwrap_or_else(|error| answer::Body::Failure(to_failure(&error)));
        let frame = encode_frame(frame::Body::Answer(Answer {
            id,
            seen: self.clock.seen(),
            body: Some(body),
        }));
        self.queue.borrow_mut().push(frame);
        self.wake.notify_one();
    }

    async fn write(&self, mut write: OwnedWriteHalf) -> Result<()> {
        loop {
            let frames = std::mem::take(&mut *self.queue.borrow_mut());
            if frames.is_empty() {
                self.wake.notified().await;
                continue;
            }
            write_frames(&mut write, &frames).await?;
        }
    }
}
