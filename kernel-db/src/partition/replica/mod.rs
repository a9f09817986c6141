//! A replica of one partition as a state machine: `step(now, input, outputs)`.
//!
//! It joins the Raft driver with, while this node leads, an [`Executor`]. No clock, thread, socket or file: the shell feeds
//! inputs and carries outputs out in order; the simulator does the same by seed.
//!
//! What the shell must keep to: outputs are carried out in order; `Input::Flush` follows every drained inbox (replies and
//! proposals wait for it); `Output::Write` and `Output::Apply` are done in order, and a failure of either stops the node.
//!
//! * A voter that just booted takes no part in elections for one election timeout: before the crash it may have helped a
//!   leader to a lease that still runs. So does one that may have lost acknowledged entries, until it has caught up.
//! * Ticks that come faster than configured are ignored, so that a burst after a stall elects nobody early.

mod io;
mod members;
mod snapshot;

pub use io::{
    Durability, FollowerStatus, Input, MemberChange, Now, Output, ReplicaConfig, ReplicaStatus,
    Request, Role, RoleChange, SessionStatus, Task, Waited,
};

use std::collections::VecDeque;
use std::sync::Arc;

use raft::StateRole;
use raft::eraftpb::Message;

use super::apply::{AppliedReport, ApplyJob};
use super::executor::Executor;
use crate::error::{Error, Result};
use crate::planted::Mutation;
use crate::raft::member_id::node_of;
use crate::raft::{Driver, DriverConfig, Effect, Proposed, StateEnd};
use crate::storage::{LogStore, StateStore};

/// A truncation that frees less is not worth it, unless the log's bound is small.
const TRUNCATE_BYTES_MIN: u64 = 1 << 20;

/// One member of a Raft group, with an executor while it leads.
pub struct Replica<S: StateStore> {
    config: ReplicaConfig,
    store: Arc<S>,
    driver: Driver,
    executor: Option<Executor<S>>,
    now: Now,
    /// End of the silence after boot.
    silent_until_us: Option<u64>,
    next_tick_us: u64,
    /// Applied, and applied and flushed.
    applied: u64,
    durable: u64,
    /// Every member holds the log up to here, as the leader told.
    floor: u64,
    /// (last index, bytes) of apply jobs under way.
    applying: VecDeque<(u64, u64)>,
    /// A flush came and the batch is not proposed yet.
    flush: bool,
    snapshots: snapshot::Snapshots,
    /// Change of members under way: number of the question, term and index of its entry.
    changing: Option<(u64, u64, u64)>,
    role: RoleChange,
    effects: Vec<Effect>,
    /// The tip of an earlier leadership (`Mutation::OverlayKept`).
    #[cfg(test)]
    kept: Option<super::Tip<S>>,
}

impl<S: StateStore> Replica<S> {
    /// Opens the replica on what its stores hold.
    pub fn new(config: ReplicaConfig, store: Arc<S>, log: Arc<dyn LogStore>) -> Result<Self> {
        let meta = store.meta();
        let driver = Driver::new(
            DriverConfig {
                node: config.node,
                group: config.group,
                voters: config.voters.clone(),
                election_ticks: config.election_ticks,
                heartbeat_ticks: config.heartbeat_ticks,
                sync: config.durability == Durability::Fsync,
                tail_lost: config.log_tail_lost,
                seed: config.seed,
                planted: config.planted,
            },
            log,
            &StateEnd::new(&meta, store.origin()),
        )?;
        let term = driver.view().term;
        let durable = store.durable_index();
        Ok(Self {
            config,
            store,
            driver,
            executor: None,
            now: Now::default(),
            silent_until_us: None,
            next_tick_us: 0,
            applied: meta.applied_index,
            durable,
            floor: 0,
            applying: VecDeque::new(),
            flush: false,
            snapshots: snapshot::Snapshots::default(),
            changing: None,
            role: RoleChange {
                leader: None,
                term,
                is_leader: false,
                open: false,
            },
            effects: Vec::new(),
            #[cfg(test)]
            kept: None,
        })
    }

    /// Takes one input; appends what has to be done. An error is a broken store: the node must stop.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) -> Result<()> {
        self.now = Now {
            mono_us: now.mono_us.max(self.now.mono_us),
            wall_us: now.wall_us,
        };
        self.begin_silence();
        match input {
            Input::Request(request) => return self.request(request, out),
            Input::Tick => {
                if !self.tick()? {
                    return Ok(());
                }
                if let Some(executor) = &mut self.executor {
                    executor.tick(&self.config, self.now, out)?;
                }
                self.truncate(out)?;
                self.watch_snapshots();
            }
            Input::Message(message) => {
                let silent = self.is_silent();
                self.driver.receive(message, silent);
            }
            Input::Persisted { token } => self.driver.persisted(token, &mut self.effects),
            Input::Applied(report) => self.note_applied(report),
            Input::Checkpointed(result) => self.checkpointed(result)?,
            Input::CheckpointGone => self.driver.withdraw(),
            Input::SnapshotProgress { to } => self.snapshots.progress(to),
            Input::SnapshotDone { to, arrived } => self.snapshot_done(to, arrived),
            Input::ChangeMembers {
                id,
                version,
                change,
            } => self.change_members(id, version, &change, out),
            Input::Flush => self.flush = true,
            Input::Campaign => {
                if !self.is_silent() {
                    self.driver.campaign();
                }
            }
            Input::TransferLeader(to) => self.transfer(to),
            Input::SnapshotTs { id } => self.snapshot_ts(id, out),
            Input::SnapshotAt { id, ts } => self.snapshot_at(id, ts, out),
        }
        self.pump(out)
    }

    fn begin_silence(&mut self) {
        if self.silent_until_us.is_none() {
            // A member that never voted nor logged anything has promised nothing.
            let length = if self.driver.is_new() || self.is_alone() {
                0
            } else {
                self.config.tick_ms * 1000 * self.config.election_ticks as u64
            };
            self.silent_until_us = Some(self.now.mono_us + length);
        }
    }

    fn is_silent(&self) -> bool {
        self.silent_until_us
            .is_none_or(|until| self.now.mono_us < until)
    }

    fn is_alone(&self) -> bool {
        self.driver.is_alone()
    }

    /// False if the tick came too early to count.
    fn tick(&mut self) -> Result<bool> {
        if self.now.mono_us < self.next_tick_us {
            return Ok(false);
        }
        let tick_us = self.config.tick_ms * 1000;
        // Missed ticks are skipped: the next one counts from now at the earliest.
        self.next_tick_us = (self.next_tick_us + tick_us).max(self.now.mono_us);
        if !self.driver.is_leader() && self.is_alone() {
            self.driver.campaign();
        } else if !self.is_silent() || self.driver.is_leader() {
            self.driver.tick();
        }
        if let Some(executor) = &mut self.executor {
            executor.tidy();
        }
        if let Some(executor) = &mut self.executor
            && self.driver.log_bytes() > self.config.log_bytes_max / 2
        {
            executor.tell_floor(self.driver.held_by_all());
            self.flush = true;
        }
        Ok(true)
    }

    fn request(&mut self, request: Request, out: &mut Vec<Output>) -> Result<()> {
        let log_full = self.driver.log_bytes() >= self.config.log_bytes_max;
        let Some(executor) = &mut self.executor else {
            out.push(Output::Reply {
                id: request.id,
                result: Err(self.not_leader()),
                ts: 0,
            });
            return Ok(());
        };
        executor.request(&self.config, self.now, request, log_full, out);
        executor.answer_reads(self.now, out);
        if executor.is_full(&self.config) {
            self.flush = true;
            return self.pump(out);
        }
        Ok(())
    }

    fn transfer(&mut self, to: u64) {
        // One at a time: raft-rs gives one that does not succeed up after an election timeout.
        if self.driver.can_propose() && to != self.config.node {
            if let Some(executor) = &mut self.executor {
                executor.reads().lease().suspend();
            }
            self.driver.transfer(to);
        }
    }

    fn snapshot_ts(&mut self, id: u64, out: &mut Vec<Output>) {
        match &mut self.executor {
            Some(executor) => executor.snapshot_ts(&self.config, id, out),
            None => out.push(Output::SnapshotTs {
                id,
                result: Err(self.not_leader()),
            }),
        }
        self.flush = true;
    }

    fn snapshot_at(&mut self, id: u64, ts: u64, out: &mut Vec<Output>) {
        let last = self.driver.view().last;
        match &mut self.executor {
            Some(executor) => executor.snapshot_at(self.now, id, ts, last, out),
            None => out.push(Output::SnapshotReady {
                id,
                result: Err(self.not_leader()),
            }),
        }
        self.flush = true;
    }

    fn note_applied(&mut self, report: AppliedReport) {
        if report.index > self.applied {
            self.applied = report.index;
            self.driver.applied(report.index, &mut self.effects);
            if let Some(executor) = &mut self.executor {
                executor.applied(report.index);
            }
        }
        while self
            .applying
            .front()
            .is_some_and(|(last, _)| *last <= self.applied)
        {
            self.applying.pop_front();
        }
        self.durable = self.durable.max(report.durable);
        self.floor = self.floor.max(report.floor);
    }

    /// I10: the log goes only behind state that is durable here, and behind the slowest member as long as it is not too
    /// large; a member that is cut off gets a checkpoint.
    fn truncate(&mut self, out: &mut Vec<Output>) -> Result<()> {
        let held_by_all = if self.driver.is_leader() {
            self.driver.held_by_all()
        } else {
            self.floor
        };
        let excess = self
            .driver
            .log_bytes()
            .saturating_sub(self.config.log_bytes_max / 2);
        let index = match excess {
            0 => held_by_all,
            _ => held_by_all.max(self.driver.index_after(excess)),
        };
        let durable = if self.config.planted.is(Mutation::TruncationBeforeFlush) {
            self.applied
        } else {
            self.durable
        };
        let index = index.min(durable);
        let worth = TRUNCATE_BYTES_MIN.min(self.config.log_bytes_max / 8);
        if index >= self.driver.view().first && self.driver.bytes_to(index) >= worth {
            let index = self.driver.truncate(index)?;
            out.push(Output::Truncate { index });
        }
        Ok(())
    }

    /// Carries on until the driver and the executor have nothing more to say to each other.
    fn pump(&mut self, out: &mut Vec<Output>) -> Result<()> {
        let begin = out.len();
        loop {
            self.collect(out);
            self.follow_role(out)?;
            if !self.work(out) {
                break;
            }
        }
        self.answer_change(out);
        self.report_role(begin, out);
        Ok(())
    }

    fn collect(&mut self, out: &mut Vec<Output>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.driver.drain(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(messages) => out.push(Output::Send(messages)),
                Effect::Write { token, write, sync } => {
                    out.push(Output::Write { token, write, sync });
                }
                Effect::Committed { entries, members } => {
                    let last = entries.last().map_or(0, |entry| entry.index);
                    let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
                    self.applying.push_back((last, bytes));
                    out.push(Output::Apply(ApplyJob {
                        group: self.config.group,
                        entries,
                        members,
                        ..ApplyJob::default()
                    }));
                }
                Effect::Install(checkpoint) => {
                    self.applying.push_back((checkpoint.index, 0));
                    out.push(Output::Apply(ApplyJob {
                        group: self.config.group,
                        install: Some(checkpoint),
                        ..ApplyJob::default()
                    }));
                }
                Effect::WantCheckpoint => self.want_checkpoint(out),
                Effect::ReadConfirmed(round) => {
                    if let Some(executor) = &mut self.executor
                        && self.driver.is_leader()
                    {
                        executor.read_confirmed(round, out);
                    }
                }
            }
        }
        self.effects = effects;
    }

    /// `Mutation::OverlayKept`: the tip stays for the next time.
    #[cfg(test)]
    fn keep_tip(&mut self, mut executor: Executor<S>) -> Executor<S> {
        if self.config.planted.is(Mutation::OverlayKept) {
            self.kept = Some(executor.take_tip());
        }
        executor
    }

    /// Closes an executor whose term is over; opens one when this node's term has begun.
    fn follow_role(&mut self, out: &mut Vec<Output>) -> Result<()> {
        let view = self.driver.view();
        let leads = view.role == StateRole::Leader;
        let over = self
            .executor
            .as_ref()
            .is_some_and(|executor| !leads || executor.term() != view.term);
        if over && let Some(executor) = self.executor.take() {
            // I6: the lease, the tip and every speculative write go with it.
            #[cfg(test)]
            let executor = self.keep_tip(executor);
            executor.close(&self.not_leader(), out);
        }
        // I2: the last entry of a new leader's log is the empty one of its own term; it and all before it are applied.
        if leads && self.executor.is_none() && self.applied >= view.last {
            self.executor = Some(Executor::open(
                &self.config,
                &self.store,
                view.term,
                self.now,
            )?);
            #[cfg(test)]
            if let (Some(executor), Some(tip)) = (&mut self.executor, self.kept.take()) {
                executor.put_tip(tip);
            }
        }
        Ok(())
    }

    /// Lets the executor answer and propose. True if the driver was given something.
    fn work(&mut self, out: &mut Vec<Output>) -> bool {
        let commit = self.driver.view().commit;
        let mut given = false;
        loop {
            let Some(executor) = &mut self.executor else {
                return given;
            };
            executor.committed(commit, out);
            executor.answer_reads(self.now, out);
            executor.answer_snapshots(self.applied, out);
            given |= self.propose(out);
            let Some(executor) = &mut self.executor else {
                return given;
            };
            if !executor.run_queue(&self.config, self.now, out) {
                break;
            }
        }
        if let Some(executor) = &mut self.executor {
            // Replies made by the last run of the queue.
            executor.answer_reads(self.now, out);
            if let Some(round) = executor.reads().begin_round(self.now.mono_us) {
                self.driver.read_index(round);
                given = true;
            }
        }
        given
    }

    /// Proposes the open batch if the pipeline has room. True if the driver was given something.
    fn propose(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(executor) = &mut self.executor else {
            return false;
        };
        if !executor.has_batch() {
            self.flush = false;
            return false;
        }
        let backlog: u64 = self.applying.iter().map(|(_, bytes)| bytes).sum();
        let room = executor.in_flight() < self.config.batches_in_flight_max
            && backlog < self.config.apply_backlog_bytes_max
            && self.driver.can_propose();
        if !(room && (self.flush || executor.is_full(&self.config))) {
            return false;
        }
        self.flush = false;
        let index = self.driver.view().last + 1;
        let data = executor.seal(self.now, index, self.driver.held_by_all());
        if self.config.planted.is(Mutation::ReplyBeforeCommit) {
            executor.reply_early(out);
        }
        // I1: the entry must be the one this executor computed, at the index it computed it for.
        if self.driver.propose(executor.term(), data) != Proposed::At(index)
            && let Some(executor) = self.executor.take()
        {
            executor.close(&self.not_leader(), out);
        }
        true
    }

    fn report_role(&mut self, begin: usize, out: &mut Vec<Output>) {
        let view = self.driver.view();
        let role = RoleChange {
            leader: view.leader,
            term: view.term,
            is_leader: view.role == StateRole::Leader,
            open: self.executor.is_some(),
        };
        if role != self.role {
            self.role = role;
            out.insert(begin, Output::Role(role));
        }
    }

    /// DB002: nothing was executed. The detail is the leader's node number, if it is known.
    fn not_leader(&self) -> Error {
        let view = self.driver.view();
        let error = Error::retry("DB002", "not leader");
        match view.leader {
            Some(leader) => error.detail(leader.to_string()),
            None => error,
        }
    }

    /// False while this replica may have lost entries that it acknowledged, and does not vote for that reason.
    pub fn may_vote(&self) -> bool {
        self.driver.may_vote()
    }

    /// Which member of the group this replica is (`raft::member_id`).
    pub fn member(&self) -> u64 {
        self.driver.member()
    }

    /// False for a message to a replica that was here before.
    pub fn is_for(&self, message: &Message) -> bool {
        self.driver.is_for(message)
    }

    /// For whom this node voted in its term, by its number; 0 for nobody.
    pub fn vote(&self) -> u64 {
        self.driver.vote()
    }

    pub fn status(&self) -> ReplicaStatus {
        let view = self.driver.view();
        let followers = match view.role {
            StateRole::Leader => self.driver.members(),
            _ => Vec::new(),
        };
        ReplicaStatus {
            group: self.config.group,
            node: self.config.node,
            role: match view.role {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            open: self.executor.is_some(),
            term: view.term,
            leader: view.leader,
            commit: view.commit,
            applied: self.applied,
            durable: self.durable,
            first_index: view.first,
            last_index: view.last,
            log_bytes: view.log_bytes,
            last_ts: self.executor.as_ref().map_or(0, Executor::committed_ts),
            followers: followers
                .into_iter()
                .map(|member| FollowerStatus {
                    node: member.node,
                    match_index: member.matched,
                    lag: view.last.saturating_sub(member.matched),
                    active: member.active,
                    snapshot: member.snapshot,
                })
                .collect(),
            voters: nodes_of(&self.driver.conf().voters),
            learners: nodes_of(&self.driver.conf().learners),
            joint: !self.driver.conf().voters_outgoing.is_empty(),
            changing: self.driver.is_changing(),
            tip_bytes: self.executor.as_ref().map_or(0, |e| e.tip_stats().bytes),
            batches_in_flight: self.executor.as_ref().map_or(0, Executor::in_flight),
            sessions: self.executor.as_ref().map_or(0, |e| e.sessions().len()),
            rolls_back: self.executor.as_ref().is_some_and(Executor::rolls_back),
            requests: self.executor.as_ref().map_or(0, Executor::requests),
        }
    }

    /// See `Executor::parked`.
    #[cfg(test)]
    pub fn parked(&mut self) -> Vec<super::waits::Parked> {
        self.executor
            .as_mut()
            .map_or_else(Vec::new, Executor::parked)
    }

    /// The client sessions, on the leader.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let sessions = self.executor.iter().flat_map(|e| e.sessions().iter());
        sessions
            .map(|(session, newest)| SessionStatus { session, newest })
            .collect()
    }
}

fn nodes_of(members: &[u64]) -> Vec<u64> {
    let mut nodes: Vec<u64> = members.iter().map(|member| node_of(*member)).collect();
    nodes.sort_unstable();
    nodes
}
