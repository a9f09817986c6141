//! Connections to the other nodes: one per node and direction, kept open, with a bounded queue.
//!
//! A node that is silent for `SILENCE_MAX` although it was asked counts as gone, as if its connection had broken: a stopped
//! process keeps its sockets open.
//!
//! Raft messages to a node that is not connected are dropped: raft-rs sends them again. A call to it is refused at once
//! with an error to try again. When a connection breaks, calls that were under way end as *outcome unknown*, unless
//! they change nothing. A call to a group's leader ends so earlier, once the group has another leader and the old one is
//! quiet.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::clock::NodeClock;
use super::{NodeAddress, NodeConfig};
use crate::error::{Error, Result};
use crate::wire::peer::{
    Answer, Call, Cancel, FrameReader, GroupMessage, Hello, PROTOCOL, Ping, REFUSAL_ID, RaftBatch,
    answer, call, encode_frame, frame, from_failure,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts: short at first, so that a node that starts is found at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A peer that nothing was heard of for this long is asked.
const SILENCE: Duration = Duration::from_millis(250);
/// A peer that nothing was heard of for this long, although it was asked, has no answers on their way.
const QUIET: Duration = Duration::from_millis(500);
/// A peer that nothing was heard of for this long is gone: above an election timeout, so that its groups have a new leader
/// when calls to it end.
const SILENCE_MAX: Duration = Duration::from_millis(1500);
/// Nobody waits for the answer to a ping or a cancel.
const PING_ID: u64 = 0;
/// How often the silence is looked at.
const WATCH: Duration = Duration::from_millis(100);

/// What becomes of a call whose connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// It changes nothing: try again.
    Retry,
    /// It may have been done.
    Unknown,
}

/// A call without an answer.
struct Waiting {
    /// The group whose leader it is for.
    group: Option<u32>,
    on_loss: OnLoss,
    sender: oneshot::Sender<Result<answer::Body>>,
}

/// Who leads which group, as far as this node's replicas know.
type Leaders = Rc<RefCell<BTreeMap<u32, u64>>>;

/// How busy the way to one node is.
pub struct LinkLoad {
    pub node: u64,
    pub connected: bool,
    pub queued_bytes: u64,
    /// Calls without an answer.
    pub calls: usize,
}

/// The way to one node.
struct Link {
    node: u64,
    address: SocketAddr,
    connected: Cell<bool>,
    heard: Cell<tokio::time::Instant>,
    queue: RefCell<Vec<Bytes>>,
    queued_bytes: Cell<u64>,
    bytes_max: u64,
    /// Raft messages of this turn.
    batch: RefCell<Vec<GroupMessage>>,
    calls: RefCell<HashMap<u64, Waiting>>,
    leaders: Leaders,
    next_call: Cell<u64>,
    wake: Notify,
    clock: Rc<NodeClock>,
}

/// The ways to all other nodes.
pub struct Peers {
    own: u64,
    cluster: u128,
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    tasks: RefCell<BTreeMap<u64, JoinHandle<()>>>,
    bytes_max: u64,
    leaders: Leaders,
    clock: Rc<NodeClock>,
}

impl Peers {
    pub fn new(config: &NodeConfig, nodes: &[NodeAddress]) -> Rc<Self> {
        let peers = Self {
            own: config.node_id,
            cluster: config.cluster_number(),
            links: RefCell::default(),
            tasks: RefCell::default(),
            bytes_max: config.peer_queue_bytes_max,
            leaders: Leaders::default(),
            clock: NodeClock::new(),
        };
        peers.know(nodes);
        Rc::new(peers)
    }

    /// What calls and answers carry.
    pub fn clock(&self) -> Rc<NodeClock> {
        Rc::clone(&self.clock)
    }

    /// Makes links to new nodes, without starting them, and drops those to nodes that are gone.
    fn know(&self, nodes: &[NodeAddress]) {
        let mut links = self.links.borrow_mut();
        let is_there = |node: u64, address| {
            nodes
                .iter()
                .any(|n| n.id == node && n.peer == address && n.id != self.own)
        };
        links.retain(|node, link| {
            let stays = is_there(*node, link.address);
            if !stays {
                if let Some(task) = self.tasks.borrow_mut().remove(node) {
                    task.abort();
                }
                link.disconnected();
            }
            stays
        });
        for node in nodes.iter().filter(|n| n.id != self.own) {
            let new = || {
                let leaders = Rc::clone(&self.leaders);
                let (address, clock) = (node.peer, self.clock());
                Rc::new(Link::new(node.id, address, self.bytes_max, leaders, clock))
            };
            links.entry(node.id).or_insert_with(new);
        }
    }

    /// Starts one task per peer on the current `LocalSet`.
    pub fn start(self: &Rc<Self>) {
        for link in self.links.borrow().values() {
            let hello = Hello {
                protocol: PROTOCOL,
                cluster: Bytes::copy_from_slice(&self.cluster.to_be_bytes()),
                from: self.own,
                to: link.node,
            };
            let start = || tokio::task::spawn_local(Rc::clone(link).keep(hello));
            self.tasks
                .borrow_mut()
                .entry(link.node)
                .or_insert_with(start);
        }
    }

    /// From now on the cluster has these nodes.
    pub fn set_nodes(self: &Rc<Self>, nodes: &[NodeAddress]) {
        self.know(nodes);
        self.start();
    }

    /// Closes all connections, for good.
    pub fn stop(&self) {
        for task in self.tasks.take().into_values() {
            task.abort();
        }
        for link in self.links.borrow().values() {
            link.disconnected();
        }
    }

    pub fn nodes(&self) -> Vec<u64> {
        self.links.borrow().keys().copied().collect()
    }

    fn link(&self, node: u64) -> Option<Rc<Link>> {
        self.links.borrow().get(&node).cloned()
    }

    /// How busy the ways to all other nodes are.
    pub fn loads(&self) -> Vec<LinkLoad> {
        let load = |link: &Rc<Link>| LinkLoad {
            node: link.node,
            connected: link.connected.get(),
            queued_bytes: link.queued_bytes.get(),
            calls: link.calls.borrow().len(),
        };
        self.links.borrow().values().map(load).collect()
    }

    pub fn connected(&self, node: u64) -> bool {
        self.link(node).is_some_and(|l| l.connected.get())
    }

    /// Adds a Raft message to this turn's batch for `node`.
    pub fn send(&self, node: u64, message: GroupMessage) {
        if let Some(link) = self.link(node)
            && link.connected.get()
        {
            link.batch.borrow_mut().push(message);
        }
    }

    /// Sends the batches of this turn.
    pub fn flush(&self) {
        for link in self.links.borrow().values() {
            let messages = std::mem::take(&mut *link.batch.borrow_mut());
            if !messages.is_empty() {
                let frame = encode_frame(frame::Body::Raft(RaftBatch { messages }));
                if !link.enqueue(frame) {
                    tracing::debug!(node = link.node, "queue full, messages dropped");
                }
            }
        }
    }

    /// A replica here has learned who leads `group`.
    pub fn set_leader(&self, group: u32, leader: Option<u64>) {
        if let Some(leader) = leader {
            self.leaders.borrow_mut().insert(group, leader);
        }
    }

    /// Calls `node`. Queued when this returns, in order of calls.
    pub fn call(
        &self,
        node: u64,
        body: call::Body,
        on_loss: OnLoss,
    ) -> oneshot::Receiver<Result<answer::Body>> {
        self.call_leader(None, node, body, on_loss).1
    }

    /// Calls `node` as the leader of `group`. With the number by which the call can be given up.
    pub fn call_leader(
        &self,
        group: Option<u32>,
        node: u64,
        body: call::Body,
        on_loss: OnLoss,
    ) -> (u64, oneshot::Receiver<Result<answer::Body>>) {
        let (sender, receiver) = oneshot::channel();
        let Some(link) = self.link(node).filter(|l| l.connected.get()) else {
            let _ = sender.send(Err(Error::retry(
                "57P03",
                format!("node {node} is not reachable"),
            )));
            return (PING_ID, receiver);
        };
        let id = link.next_call.get();
        link.next_call.set(id + 1);
        if link.enqueue(encode_frame(frame::Body::Call(Call {
            id,
            seen: self.clock.seen(),
            body: Some(body),
        }))) {
            let waiting = Waiting {
                group,
                on_loss,
                sender,
            };
            link.calls.borrow_mut().insert(id, waiting);
        } else {
            let _ = sender.send(Err(Error::busy(format!(
                "the queue to node {node} is full (peer_queue_bytes_max)"
            ))));
        }
        (id, receiver)
    }

    /// Tells `node` that nobody needs what the call asked for. Its answer comes all the same.
    pub fn cancel(&self, node: u64, call: u64) {
        if let Some(link) = self.link(node).filter(|l| l.connected.get()) {
            // A full queue delays the end of the statement to its own; nothing is lost.
            link.enqueue(encode_frame(frame::Body::Call(Call {
                id: PING_ID,
                seen: self.clock.seen(),
                body: Some(call::Body::Cancel(Cancel { call })),
            })));
        }
    }
}

impl Link {
    fn new(
        node: u64,
        address: SocketAddr,
        bytes_max: u64,
        leaders: Leaders,
        clock: Rc<NodeClock>,
    ) -> Self {
        Self {
            node,
            address,
            connected: Cell::new(false),
            heard: Cell::new(tokio::time::Instant::now()),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            bytes_max,
            batch: RefCell::default(),
            calls: RefCell::default(),
            leaders,
            next_call: Cell::new(1),
            wake: Notify::new(),
            clock,
        }
    }

    fn enqueue(&self, frame: Bytes) -> bool {
        let bytes = self.queued_bytes.get() + frame.len() as u64;
        // A frame larger than the bound travels alone: refused, it would be sent again for ever.
        if bytes > self.bytes_max && self.queued_bytes.get() > 0 {
            return false;
        }
        self.queued_bytes.set(bytes);
        self.queue.borrow_mut().push(frame);
        self.wake.notify_one();
        true
    }

    async fn keep(self: Rc<Self>, hello: Hello) {
        let mut backoff = BACKOFF.0;
        loop {
            if let Ok(Ok(stream)) =
                tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await
            {
                // Without it small frames wait for the peer's acknowledgement.
                let _ = stream.set_nodelay(true);
                tracing::info!(node = self.node, "connected");
                let started = tokio::time::Instant::now();
                let error = self.serve(stream, hello.clone()).await;
                self.disconnected();
                if error.class() == crate::error::Class::Request {
                    tracing::warn!(node = self.node, "refused: {error}");
                } else {
                    tracing::info!(node = self.node, "disconnected: {error}");
                }
                if started.elapsed() > BACKOFF.1 {
                    backoff = BACKOFF.0;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn serve(&self, stream: TcpStream, hello: Hello) -> Error {
        let (read, write) = stream.into_split();
        self.enqueue(encode_frame(frame::Body::Hello(hello)));
        self.heard.set(tokio::time::Instant::now());
        self.ping();
        let result = tokio::select! {
            r = self.read(read) => r,
            r = self.write(write) => r,
            r = self.watch() => r,
        };
        result
            .err()
            .unwrap_or_else(|| Error::retry("08006", "closed by the peer"))
    }

    fn ping(&self) {
        self.enqueue(encode_frame(frame::Body::Call(Call {
            id: PING_ID,
            seen: self.clock.seen(),
            body: Some(call::Body::Ping(Ping {})),
        })));
    }

    /// Ends when the peer has been silent for too long.
    async fn watch(&self) -> Result<()> {
        loop {
            tokio::time::sleep(WATCH).await;
            let silence = self.heard.get().elapsed();
            if silence > SILENCE_MAX {
                return Err(Error::retry(
                    "08006",
                    format!("nothing heard for {} ms", silence.as_millis()),
                ));
            }
            if silence >= SILENCE {
                self.ping();
            }
            if silence >= QUIET {
                self.give_up_led_elsewhere();
            }
        }
    }

    async fn read(&self, read: OwnedReadHalf) -> Result<()> {
        let mut frames = FrameReader::new(read);
        while let Some(body) = frames.next().await? {
            self.heard.set(tokio::time::Instant::now());
            if let frame::Body::Answer(Answer {
                id: REFUSAL_ID,
                body: Some(answer::Body::Failure(failure)),
                ..
            }) = body
            {
                // It refuses this node: its version, or its cluster.
                return Err(from_failure(failure));
            }
            // The first answer tells that somebody is there: a stopped process accepts connections too.
            self.connected.set(true);
            let frame::Body::Answer(Answer { id, seen, body }) = body else {
                return Err(Error::retry(
                    "08P01",
                    "the peer sent something else than an answer",
                ));
            };
            // Before the caller goes on.
            self.clock.learn(seen);
            // The caller may have given up already.
            if let Some(Waiting { sender, .. }) = self.calls.borrow_mut().remove(&id) {
                let result = match body {
                    Some(answer::Body::Failure(failure)) => Err(from_failure(failure)),
                    Some(body) => Ok(body),
                    None => Err(Error::unknown("the peer's answer is empty")),
                };
                let _ = sender.send(result);
            }
        }
        Ok(())
    }

    async fn write(&self, mut write: OwnedWriteHalf) -> Result<()> {
        loop {
            let frames = std::mem::take(&mut *self.queue.borrow_mut());
            if frames.is_empty() {
                self.wake.notified().await;
                continue;
            }
            write_frames(&mut write, &frames).await?;
            let written: u64 = frames.iter().map(|f| f.len() as u64).sum();
            self.queued_bytes
                .set(self.queued_bytes.get().saturating_sub(written));
        }
    }

    fn disconnected(&self) {
        self.connected.set(false);
        self.queue.borrow_mut().clear();
        self.batch.borrow_mut().clear();
        self.queued_bytes.set(0);
        let message = format!("connection to node {} was lost", self.node);
        for (_, waiting) in self.calls.borrow_mut().drain() {
            waiting.lose(&message);
        }
    }

    /// Ends calls to a leader that has been replaced.
    fn give_up_led_elsewhere(&self) {
        let leaders = self.leaders.borrow();
        let elsewhere = |_: &u64, waiting: &mut Waiting| {
            let leader = waiting.group.and_then(|group| leaders.get(&group));
            leader.is_some_and(|leader| *leader != self.node)
        };
        let message = format!("node {} is silent and leads no longer", self.node);
        for (_, waiting) in self.calls.borrow_mut().extract_if(elsewhere) {
            waiting.lose(&message);
        }
    }
}

impl Waiting {
    fn lose(self, message: &str) {
        let _ = self.sender.send(Err(match self.on_loss {
            OnLoss::Retry => Error::retry("08006", message),
            OnLoss::Unknown => Error::unknown(message),
        }));
    }
}

/// Frames smaller than this are copied together, so that one write(2) takes many.
const COPY_BELOW: usize = 16 << 10;

/// Writes frames with few system calls: small ones together, large ones without a copy.
pub async fn write_frames(write: &mut OwnedWriteHalf, frames: &[Bytes]) -> Result<()> {
    let mut small = BytesMut::new();
    let failed =
        |e: std::io::Error| Error::retry("08006", format!("connection between nodes: {e}"));
    for frame in frames {
        if frame.len() < COPY_BELOW {
            small.extend_from_slice(frame);
            continue;
        }
        write.write_all(&small).await.map_err(failed)?;
        small.clear();
        write.write_all(frame).await.map_err(failed)?;
    }
    write.write_all(&small).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_all_groups_for_a_node_travel_in_one_frame() {
        let config = NodeConfig::default();
        let node = NodeAddress {
            id: 2,
            ..config.nodes[0].clone()
        };
        let peers = Peers::new(&config, &[node]);
        let link = peers.link(2).unwrap();
        link.connected.set(true);
        for group in 0..50 {
            let message = Bytes::from_static(b"heartbeat");
            peers.send(2, GroupMessage { group, message });
        }
        peers.flush();
        assert_eq!(link.queue.borrow().len(), 1);
        // A node that is gone, and one that was never there, get nothing.
        peers.know(&[]);
        peers.send(2, GroupMessage::default());
        assert!(peers.nodes().is_empty() && !peers.connected(2));
    }

    #[test]
    fn calls_to_a_leader_that_was_replaced_end_and_others_wait_on() {
        let config = NodeConfig::default();
        let node = NodeAddress {
            id: 2,
            ..config.nodes[0].clone()
        };
        let peers = Peers::new(&config, &[node]);
        let link = peers.link(2).unwrap();
        link.connected.set(true);
        let call = |group, on_loss| {
            peers
                .call_leader(group, 2, call::Body::Ping(Ping {}), on_loss)
                .1
        };
        let mut write = call(Some(1), OnLoss::Unknown);
        let mut read = call(Some(1), OnLoss::Retry);
        let mut led_there = call(Some(2), OnLoss::Unknown);
        let mut of_no_group = call(None, OnLoss::Unknown);
        peers.set_leader(1, Some(2));
        peers.set_leader(2, Some(2));
        link.give_up_led_elsewhere();
        assert_eq!(link.calls.borrow().len(), 4);

        peers.set_leader(1, Some(3));
        // Nobody leads for a moment: that tells nothing.
        peers.set_leader(2, None);
        link.give_up_led_elsewhere();
        let class = |ended: Option<Result<answer::Body>>| ended.unwrap().unwrap_err().class();
        assert_eq!(
            class(write.try_recv().unwrap()),
            crate::error::Class::Unknown
        );
        assert_eq!(class(read.try_recv().unwrap()), crate::error::Class::Retry);
        assert!(led_there.try_recv().unwrap().is_none());
        assert!(of_no_group.try_recv().unwrap().is_none());
    }
}
