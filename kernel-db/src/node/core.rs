//! The core loop: all replicas of the node, stepped on one thread.
//!
//! Whatever arrives (requests of connections, messages of peers, reports of the threads, ticks) goes to one inbox. When
//! the loop's turn comes it steps everything that waits, flushes each touched group once, so that requests which arrived
//! together share a batch, and carries the outputs out: messages of all groups for one node leave in one frame.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::channel::oneshot;
use protobuf::Message as _;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::State;
use super::peers::Peers;
use super::threads::{Report, Threads, WriteJob};
use crate::error::{Error, Result};
use crate::partition::{
    Input, Now, Output, Replica, ReplicaStatus, Request, RoleChange, Task, Transaction,
};
use crate::storage::LogStore;
use crate::txn::messages::{TxnId, Work};
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

/// What a partition led from here wants of other partitions, to finish a transaction that nobody else finishes.
#[derive(Debug)]
pub enum Chore {
    /// Ask `coordinator` and settle in `group`.
    Resolve {
        group: u32,
        txn: TxnId,
        coordinator: u32,
        deadline_ts: u64,
    },
    /// Settle in `others`, then forget in `group`.
    Finish {
        group: u32,
        txn: TxnId,
        commit_ts: u64,
        others: Vec<u32>,
    },
}

enum Waiter {
    Reply(oneshot::Sender<Result<Bytes>>),
    Ts(oneshot::Sender<Result<u64>>),
    Ready(oneshot::Sender<Result<()>>),
}

/// All replicas of this node.
pub struct Core {
    groups: BTreeMap<u32, Group>,
    inbox: RefCell<Vec<(u32, Input)>>,
    wake: Notify,
    waiting: RefCell<HashMap<u64, Waiter>>,
    next_id: Cell<u64>,
    /// Waiters for a snapshot.
    snapshots: Cell<usize>,
    threads: RefCell<Threads>,
    log: Arc<dyn LogStore>,
    peers: Rc<Peers>,
    started: Instant,
    chores: RefCell<Option<UnboundedSender<Chore>>>,
}

impl Core {
    pub fn new(
        replicas: Vec<(u32, Replica<State>, Arc<State>)>,
        log: Arc<dyn LogStore>,
        threads: Threads,
        peers: Rc<Peers>,
    ) -> Rc<Self> {
        let group = |(group, replica, store): (u32, Replica<State>, Arc<State>)| {
            let role = RoleChange {
                leader: None,
                term: 0,
                is_leader: false,
                open: false,
            };
            let group_state = Group {
                replica: RefCell::new(replica),
                store,
                role: Cell::new(role),
                unflushed_bytes: Cell::new(0),
            };
            (group, group_state)
        };
        Rc::new(Self {
            groups: replicas.into_iter().map(group).collect(),
            inbox: RefCell::default(),
            wake: Notify::new(),
            waiting: RefCell::default(),
            next_id: Cell::new(1),
            snapshots: Cell::new(0),
            threads: RefCell::new(threads),
            log,
            peers,
            started: Instant::now(),
            chores: RefCell::default(),
        })
    }

    /// Groups with a replica here.
    pub fn groups(&self) -> &BTreeMap<u32, Group> {
        &self.groups
    }

    /// Who leads `group`, as its replica here knows it.
    pub fn role(&self, group: u32) -> Option<RoleChange> {
        self.groups.get(&group).map(|g| g.role.get())
    }

    pub fn status(&self, group: u32) -> Option<ReplicaStatus> {
        self.groups.get(&group).map(|g| g.replica.borrow().status())
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
        self.request(group, Task::Run(txn), session, cancel)
    }

    /// Submits work of a transaction that runs elsewhere; resolves to an encoded `Answer`.
    pub fn submit_work(
        &self,
        group: u32,
        work: Work,
        cancel: Option<Arc<AtomicBool>>,
    ) -> oneshot::Receiver<Result<Bytes>> {
        self.request(group, Task::Txn(Arc::new(work)), None, cancel)
    }

    fn request(
        &self,
        group: u32,
        task: Task,
        session: Option<(u128, u64)>,
        cancel: Option<Arc<AtomicBool>>,
    ) -> oneshot::Receiver<Result<Bytes>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(Waiter::Reply(sender));
        self.send(
            group,
            Input::Request(Request {
                id,
                task,
                session,
                cancel,
            }),
        );
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
            while let Ok(report) = reports.try_recv() {
                batch.push(report);
            }
            for report in batch.drain(..) {
                self.report(report);
            }
            self.turn();
        }
    }

    fn report(&self, report: Report) {
        let (group, input) = match report {
            Report::Persisted { group, token } => (group, Input::Persisted { token }),
            Report::Applied { group, report } => (group, Input::Applied(report)),
            Report::Fatal(error) => fatal(&error),
        };
        self.inbox.borrow_mut().push((group, input));
    }

    /// Steps everything that waits.
    pub fn turn(&self) {
        let inputs = std::mem::take(&mut *self.inbox.borrow_mut());
        let mut outputs = Vec::new();
        let mut touched = Vec::new();
        for (number, input) in inputs {
            let Some(group) = self.groups.get(&number) else {
                self.refuse(input);
                continue;
            };
            if !touched.contains(&number) {
                touched.push(number);
            }
            self.step(number, group, input, &mut outputs);
        }
        for number in touched {
            if let Some(group) = self.groups.get(&number) {
                self.step(number, group, Input::Flush, &mut outputs);
            }
        }
        self.peers.flush();
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
            Input::SnapshotTs { id } | Input::SnapshotAt { id, .. } => id,
            _ => return,
        };
        let error = Error::retry("DB002", "not leader: no replica of this partition is here");
        match self.waiting.borrow_mut().remove(&id) {
            Some(Waiter::Reply(sender)) => drop(sender.send(Err(error))),
            Some(Waiter::Ts(sender)) => drop(sender.send(Err(error))),
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
                    group
                        .unflushed_bytes
                        .set(group.unflushed_bytes.get() + bytes as u64);
                    self.threads.borrow().write(WriteJob {
                        group: number,
                        token,
                        write,
                        sync,
                    });
                }
                Output::Apply(job) => {
                    self.threads.borrow().apply(job);
                    self.hurry_apply(group);
                }
                Output::Reply { id, result } => {
                    if let Some(Waiter::Reply(sender)) = self.waiting.borrow_mut().remove(&id) {
                        // A receiver that is gone was given up by its timeout.
                        let _ = sender.send(result);
                    }
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
                Output::Role(role) => {
                    tracing::info!(group = number, leader = ?role.leader, term = role.term, open = role.open, "role");
                    group.role.set(role);
                }
                Output::Resolve {
                    txn,
                    coordinator,
                    deadline_ts,
                } => self.delegate(Chore::Resolve {
                    group: number,
                    txn,
                    coordinator,
                    deadline_ts,
                }),
                Output::Finish {
                    txn,
                    commit_ts,
                    others,
                } => self.delegate(Chore::Finish {
                    group: number,
                    txn,
                    commit_ts,
                    others,
                }),
                Output::Truncate { index } => self.truncate(number, index),
            }
        }
    }

    /// From now on what partitions here want asked of, or told to, other partitions goes to `chores`.
    pub fn set_chores(&self, chores: UnboundedSender<Chore>) {
        *self.chores.borrow_mut() = Some(chores);
    }

    /// What is not taken now comes again.
    fn delegate(&self, chore: Chore) {
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
        for message in messages {
            match message.write_to_bytes() {
                Ok(bytes) => {
                    self.peers.send(
                        message.to,
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
        let work = tokio::task::spawn_blocking(move || log.truncate(group, index));
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
