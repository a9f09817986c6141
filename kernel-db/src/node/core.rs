//! The core loop: all replicas of the node, stepped on one thread.
//!
//! Whatever arrives (requests of connections, messages of peers, reports of the threads, ticks) goes to one inbox. When
//! the loop's turn comes it steps everything that waits, flushes each touched group once, so that requests which arrived
//! together share a batch, and carries the outputs out: messages of all groups for one node leave in one frame.

mod members;

use members::Leaving;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::channel::oneshot;
use protobuf::Message as _;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::State;
use super::chore::Chore;
use super::clock::NodeClock;
use super::metrics::Counters;
use super::peers::Peers;
use super::placement::Placement;
use super::threads::{Report, Threads, WriteJob};
use crate::error::{Error, Result};
use crate::partition::{
    Input, Now, Output, Replica, ReplicaStatus, Request, RoleChange, Task, Transaction, Waited,
};
use crate::raft::member_id::node_of;
use crate::storage::LogStore;
use crate::txn::messages::Work;
use crate::wire::peer::GroupMessage;

/// Exit code of a node that stopped itself because it could not keep its promises (sysexits: internal error).
const EXIT_FATAL: i32 = 70;

/// A replica and what the shell keeps beside it.
pub struct Group {
    replica: RefCell<Replica<State>>,
    pub store: Arc<State>,
    role: Cell<RoleChange>,
    /// Bytes written to the log since the state was last flushed.
    pub unflushed_bytes: Cell<u64>,
}

impl Group {
    fn new(replica: Replica<State>, store: Arc<State>) -> Self {
        let role = RoleChange {
            leader: None,
            term: 0,
            is_leader: false,
            open: false,
        };
        Self {
            replica: RefCell::new(replica),
            store,
            role: Cell::new(role),
            unflushed_bytes: Cell::new(0),
        }
    }
}

/// Groups with a replica here, by number.
pub type Groups = BTreeMap<u32, Rc<Group>>;

/// Opens or makes the replica of a group that had none here.
pub type Opener = Box<dyn Fn(u32) -> Result<(Replica<State>, Arc<State>)>>;

enum Waiter {
    Reply(oneshot::Sender<Result<Bytes>>),
    Ts(oneshot::Sender<Result<u64>>),
    Ready(oneshot::Sender<Result<()>>),
    Members(oneshot::Sender<Result<()>>),
}

/// All replicas of this node.
pub struct Core {
    groups: RefCell<Rc<Groups>>,
    opener: Opener,
    inbox: RefCell<Vec<(u32, Input)>>,
    wake: Notify,
    waiting: RefCell<HashMap<u64, Waiter>>,
    next_id: Cell<u64>,
    /// Waiters for a snapshot.
    snapshots: Cell<usize>,
    threads: RefCell<Threads>,
    /// What replicas want in the log, until the end of their step.
    writes: RefCell<Vec<WriteJob>>,
    log: Arc<dyn LogStore>,
    peers: Rc<Peers>,
    clock: Rc<NodeClock>,
    placement: Placement,
    started: Instant,
    this: Weak<Self>,
    counters: Counters,
    leaving: RefCell<BTreeMap<u32, Leaving>>,
    chores: RefCell<Option<UnboundedSender<Chore>>>,
}

impl Core {
    pub fn new(
        replicas: Vec<(u32, Replica<State>, Arc<State>)>,
        opener: Opener,
        log: Arc<dyn LogStore>,
        threads: Threads,
        peers: Rc<Peers>,
        placement: Placement,
    ) -> Rc<Self> {
        let groups = replicas
            .into_iter()
            .map(|(group, replica, store)| (group, Rc::new(Group::new(replica, store))))
            .collect();
        Rc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            groups: RefCell::new(Rc::new(groups)),
            opener,
            inbox: RefCell::default(),
            wake: Notify::new(),
            waiting: RefCell::default(),
            next_id: Cell::new(1),
            snapshots: Cell::new(0),
            threads: RefCell::new(threads),
            writes: RefCell::default(),
            log,
            clock: peers.clock(),
            peers,
            placement,
            started: Instant::now(),
            chores: RefCell::default(),
            counters: Counters::default(),
            leaving: RefCell::default(),
        })
    }

    /// Groups with a replica here, at this moment.
    pub fn groups(&self) -> Rc<Groups> {
        Rc::clone(&self.groups.borrow())
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The highest timestamp seen here.
    pub fn clock(&self) -> Rc<NodeClock> {
        Rc::clone(&self.clock)
    }

    /// Requests whose answers are waited for.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub fn log_disk_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// Where everything is, as far as is known here.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The replica of `group` here.
    pub fn group(&self, group: u32) -> Option<Rc<Group>> {
        self.groups.borrow().get(&group).cloned()
    }

    /// Who leads `group`, as its replica here knows it.
    pub fn role(&self, group: u32) -> Option<RoleChange> {
        self.group(group).map(|g| g.role.get())
    }

    /// Which member of `group` its replica here is.
    pub fn member(&self, group: u32) -> Option<u64> {
        self.group(group).map(|g| g.replica.borrow().member())
    }

    /// False for a message to a replica of `group` that was here before.
    pub fn is_for(&self, group: u32, message: &raft::eraftpb::Message) -> bool {
        let group = self.group(group);
        group.is_some_and(|g| g.replica.borrow().is_for(message))
    }

    pub fn status(&self, group: u32) -> Option<ReplicaStatus> {
        self.group(group).map(|g| g.replica.borrow().status())
    }

    /// Puts an input into the inbox.
    pub fn send(&self, group: u32, input: Input) {
        self.inbox.borrow_mut().push((group, input));
        self.wake.notify_one();
    }

    /// Submits a transaction to the replica here; resolves at commit. Submitted when this returns, in order of calls.
    pub fn submit(
        &self,
        group: u32,
        txn: Arc<dyn Transaction>,
        session: Option<(u128, u64)>,
        cancel: Option<Arc<AtomicBool>>,
    ) -> oneshot::Receiver<Result<Bytes>> {
        self.submit_waited(group, txn, session, cancel, Waited::default())
    }

    /// As `submit`, of a request that may have waited for a change already.
    pub fn submit_waited(
        &self,
        group: u32,
        txn: Arc<dyn Transaction>,
        session: Option<(u128, u64)>,
        cancel: Option<Arc<AtomicBool>>,
        waited: Waited,
    ) -> oneshot::Receiver<Result<Bytes>> {
        self.request(group, |id| Request {
            id,
            task: Task::Run(txn),
            session,
            seen: self.clock.seen(),
            cancel,
            waited,
        })
    }

    /// Submits work of a transaction that runs elsewhere; resolves to an encoded `Answer`.
    pub fn submit_work(
        &self,
        group: u32,
        work: Work,
        cancel: Option<Arc<AtomicBool>>,
    ) -> oneshot::Receiver<Result<Bytes>> {
        self.request(group, |id| Request {
            id,
            task: Task::Txn(Arc::new(work)),
            session: None,
            seen: self.clock.seen(),
            cancel,
            waited: Waited::default(),
        })
    }

    fn request(
        &self,
        group: u32,
        request: impl FnOnce(u64) -> Request,
    ) -> oneshot::Receiver<Result<Bytes>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(Waiter::Reply(sender));
        Counters::add(&self.counters.requests, 1);
        self.send(group, Input::Request(request(id)));
        receiver
    }

    /// Latest committed timestamp of `group`, led from here.
    pub fn snapshot_ts(&self, group: u32) -> oneshot::Receiver<Result<u64>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(Waiter::Ts(sender));
        self.send(group, Input::SnapshotTs { id });
        receiver
    }

    /// Resolves when everything at or below `ts` is applied here and later commits are above it.
    pub fn snapshot_at(&self, group: u32, ts: u64) -> oneshot::Receiver<Result<()>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(Waiter::Ready(sender));
        self.snapshots.set(self.snapshots.get() + 1);
        self.threads.borrow().hurry();
        self.send(group, Input::SnapshotAt { id, ts });
        receiver
    }

    fn wait_for(&self, waiter: Waiter) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.waiting.borrow_mut().insert(id, waiter);
        id
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_us: self.started.elapsed().as_micros() as u64,
            wall_us: wall.map_or(0, |d| d.as_micros() as i64),
        }
    }

    /// Runs until the process ends. Every other task of the runtime may run between two turns.
    pub async fn run(self: Rc<Self>, mut reports: UnboundedReceiver<Report>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = self.wake.notified() => {}
                n = reports.recv_many(&mut batch, 1024) => {
                    if n == 0 {
                        return;
                    }
                }
            }
            if self.waiting() > 1 {
                // Whoever is ready goes first: what he asks for shares this turn's batches.
                tokio::task::yield_now().await;
            }
            while let Ok(report) = reports.try_recv() {
                batch.push(report);
            }
            for report in batch.drain(..) {
                self.report(report);
            }
            self.turn();
        }
    }

    /// Takes what a thread has told.
    fn report(&self, report: Report) {
        if matches!(report, Report::Persisted { .. }) {
            self.threads.borrow().written();
        }
        self.put(report);
    }

    fn put(&self, report: Report) {
        if let Report::Persisted { group, token: 0 } = report
            && let Some(leaving) = self.leaving.borrow_mut().get_mut(&group)
        {
            leaving.persisted = true;
            return;
        }
        let (group, input) = match report {
            Report::Persisted { group, token } => (group, Input::Persisted { token }),
            Report::Applied { group, report } => (group, Input::Applied(report)),
            Report::Fatal(error) => fatal(&error),
        };
        self.inbox.borrow_mut().push((group, input));
    }

    /// Steps everything that waits, and what follows from writes that are done at once.
    pub fn turn(&self) {
        loop {
            let inputs = std::mem::take(&mut *self.inbox.borrow_mut());
            self.step_all(inputs);
            // Followers write side by side with this node.
            self.peers.flush();
            let writes = std::mem::take(&mut *self.writes.borrow_mut());
            if !writes.is_empty() {
                let done = self.threads.borrow().write(writes);
                done.into_iter().for_each(|report| self.put(report));
            }
            if self.inbox.borrow().is_empty() {
                break;
            }
        }
        self.forget_left();
    }

    fn step_all(&self, inputs: Vec<(u32, Input)>) {
        let mut outputs = Vec::new();
        let mut touched = Vec::new();
        for (number, input) in inputs {
            let Some(group) = self.group(number) else {
                self.refuse(input);
                continue;
            };
            if !touched.contains(&number) {
                touched.push(number);
            }
            self.step(number, &group, input, &mut outputs);
        }
        for number in touched {
            if let Some(group) = self.group(number) {
                self.step(number, &group, Input::Flush, &mut outputs);
            }
        }
    }

    fn step(&self, number: u32, group: &Group, input: Input, outputs: &mut Vec<Output>) {
        // An error is a broken store.
        if let Err(error) = group.replica.borrow_mut().step(self.now(), input, outputs) {
            fatal(&error);
        }
        self.carry_out(number, group, outputs);
    }

    /// Answers what was sent to a group that has no replica here.
    fn refuse(&self, input: Input) {
        let id = match input {
            Input::Request(request) => request.id,
            Input::SnapshotTs { id }
            | Input::SnapshotAt { id, .. }
            | Input::ChangeMembers { id, .. } => id,
            _ => return,
        };
        let error = Error::retry("DB002", "not leader: no replica of this partition is here");
        match self.waiting.borrow_mut().remove(&id) {
            Some(Waiter::Reply(sender)) => drop(sender.send(Err(error))),
            Some(Waiter::Ts(sender)) => drop(sender.send(Err(error))),
            Some(Waiter::Members(sender)) => drop(sender.send(Err(error))),
            Some(Waiter::Ready(sender)) => {
                self.snapshots.set(self.snapshots.get() - 1);
                drop(sender.send(Err(error)));
            }
            None => {}
        }
    }

    fn carry_out(&self, number: u32, group: &Group, outputs: &mut Vec<Output>) {
        for output in outputs.drain(..) {
            match output {
                Output::Send(messages) => self.send_raft(number, messages),
                Output::Write { token, write, sync } => {
                    let bytes: usize = write.entries.iter().map(|e| e.data.len() + 32).sum();
                    Counters::add(&self.counters.log_writes, 1);
                    Counters::add(&self.counters.log_bytes, bytes as u64);
                    group
                        .unflushed_bytes
                        .set(group.unflushed_bytes.get() + bytes as u64);
                    self.writes.borrow_mut().push(WriteJob {
                        group: number,
                        token,
                        write,
                        sync,
                    });
                }
                Output::Apply(job) => {
                    Counters::add(&self.counters.applies, 1);
                    self.threads.borrow().apply(&group.store, job);
                    self.hurry_apply(group);
                }
                Output::Reply { id, result, ts } => {
                    self.clock.learn(ts);
                    self.reply(id, result);
                }
                Output::SnapshotTs { id, result } => {
                    if let Some(Waiter::Ts(sender)) = self.waiting.borrow_mut().remove(&id) {
                        let _ = sender.send(result);
                    }
                }
                Output::SnapshotReady { id, result } => {
                    if let Some(Waiter::Ready(sender)) = self.waiting.borrow_mut().remove(&id) {
                        self.snapshots.set(self.snapshots.get() - 1);
                        let _ = sender.send(result);
                    }
                }
                Output::Members { id, result } => {
                    if let Some(Waiter::Members(sender)) = self.waiting.borrow_mut().remove(&id) {
                        let _ = sender.send(result);
                    }
                }
                Output::Checkpoint { members } => self.checkpoint(number, group, members),
                Output::Role(role) => {
                    tracing::info!(group = number, leader = ?role.leader, term = role.term, open = role.open, "role");
                    self.peers.set_leader(number, role.leader);
                    group.role.set(role);
                }
                chore @ (Output::Resolve { .. } | Output::Finish { .. }) => {
                    self.delegate(number, chore)
                }
                Output::Truncate { index } => self.truncate(number, index),
            }
        }
    }

    fn reply(&self, id: u64, result: Result<Bytes>) {
        if let Err(error) = &result {
            let busy = error.sqlstate().starts_with("53");
            Counters::add(&self.counters.errors, 1);
            Counters::add(&self.counters.busy, busy.into());
        }
        if let Some(Waiter::Reply(sender)) = self.waiting.borrow_mut().remove(&id) {
            // A receiver that is gone was given up by its timeout.
            let _ = sender.send(result);
        }
    }

    /// From now on what partitions here want asked of, or told to, other partitions goes to `chores`.
    pub fn set_chores(&self, chores: UnboundedSender<Chore>) {
        *self.chores.borrow_mut() = Some(chores);
    }

    /// What is not taken now comes again.
    fn delegate(&self, group: u32, output: Output) {
        let Some(chore) = Chore::of(group, output) else {
            return;
        };
        if let Some(chores) = &*self.chores.borrow() {
            let _ = chores.send(chore);
        }
    }

    /// Snapshot reads wait for apply, and so does the opening of a new leader (I2).
    fn hurry_apply(&self, group: &Group) {
        let role = group.role.get();
        if self.snapshots.get() > 0 || (role.is_leader && !role.open) {
            self.threads.borrow().hurry();
        }
    }

    fn send_raft(&self, group: u32, messages: Vec<raft::eraftpb::Message>) {
        Counters::add(&self.counters.raft_messages, messages.len() as u64);
        for message in messages {
            match message.write_to_bytes() {
                Ok(bytes) => {
                    self.peers.send(
                        node_of(message.to),
                        GroupMessage {
                            group,
                            message: bytes.into(),
                        },
                    );
                }
                Err(e) => tracing::error!(group, "message does not encode: {e}"),
            }
        }
    }

    /// Off the core: the log engine may rewrite files. I10 was the replica's to keep.
    fn truncate(&self, group: u32, index: u64) {
        let log = Arc::clone(&self.log);
        let busy = self.threads.borrow().log_busy();
        let work = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            log.truncate(group, index)
        });
        tokio::task::spawn_local(async move {
            match work.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(group, index, "log not truncated: {error}"),
                // The log engine panics when it cannot sync: what it holds is unknown.
                Err(panic) if panic.is_panic() => {
                    fatal(&Error::new("58030", format!("truncating the log: {panic}")))
                }
                Err(_) => {}
            }
        });
    }

    /// Lets the threads finish; nothing is accepted afterwards.
    pub fn stop(&self) {
        self.threads.borrow_mut().stop();
    }
}

/// Ends the process: it cannot keep its promises any more.
pub fn fatal(error: &Error) -> ! {
    tracing::error!("stopping: {error}");
    eprintln!("dbos node: stopping: {error}");
    std::process::exit(EXIT_FATAL)
}
