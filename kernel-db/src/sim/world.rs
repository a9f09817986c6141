//! Events in order of time, the nodes that they happen to, and one run from start to verdict.
//!
//! * here: the loop, inputs and outputs of replicas, disks. * [`super::network`]: messages and clients' questions.
//! * [`super::faults`]: disasters. * [`super::watch`]: invariants looked at on the way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft::eraftpb::Message;
use xxhash_rust::xxh3::Xxh3;

use super::check::{self, End, Known};
use super::chores::Chore;
use super::clients::{Ask, Clients, Heard};
use super::load::{all_rows, rows_at};
use super::machine::Machine;
use super::member::WaitingWrite;
use super::network::{Links, Owner};
use super::plan::Plan;
use super::rng::Rng;
use super::totals::Totals;
use super::transcript;
use super::watch::Watch;
use crate::error::Error;
use crate::partition::records::{self, Record};
use crate::partition::{Input, Now, Output, Task};
use crate::storage::{SessionRecord, StateStore};

pub const TICK_US: u64 = 50_000;
/// The wall clock at the start of every run.
pub const EPOCH_US: i64 = 1_700_000_000_000_000;
/// A run goes on until it has seen as much as this.
const OPERATIONS_MIN: usize = 1_000;
const FAULTS_MIN: u64 = 20;
/// Ticks that a timer sends at once after a stall: a replica must not count what comes too fast.
const BURST: u64 = 12;
/// After the faults everything must have come to rest within this time.
const REST_US: u64 = 30_000_000;

/// A checked run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Hash of every input and output with its time.
    pub transcript: u64,
    /// Simulated time until everything was at rest.
    pub length_us: u64,
    pub totals: Totals,
}

/// A run that did not end as it must.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub error: String,
}

/// A transcript that is kept; shared, so that it outlives a run that panics.
pub type Lines = Arc<Mutex<Vec<String>>>;

pub enum Event {
    Tick(u64),
    /// The ticks that a timer missed during a pause, all at once.
    Burst(u64),
    /// With the number of the message on its link.
    Deliver(u32, u64, Message),
    LogDone(u64, u64),
    ApplyDone(u64, u32, u64),
    Drained(u64, u32, u64),
    StateFlush(u64, u32),
    /// Time to make one, off the core.
    Checkpoint(u64, u32, u64, Bytes),
    /// At the sender of a checkpoint: whether it arrived.
    Shipped(u64, u32, u64, bool),
    /// A read that nobody waits for, at a leader of an earlier term when a later one begins.
    Probe(u64, u32),
    Fault,
    Join(BTreeSet<(u64, u64)>),
    Restart(u64),
    Ask(u64, Ask),
    Hear(Owner, u64, Heard),
    Chore(u64),
    /// With the number of the sleep that ends.
    Wake(usize, u64),
}

impl Event {
    /// The node it happens to.
    fn node(&self) -> Option<u64> {
        match self {
            Event::Tick(node)
            | Event::Burst(node)
            | Event::StateFlush(node, _)
            | Event::LogDone(node, _)
            | Event::ApplyDone(node, ..)
            | Event::Drained(node, ..)
            | Event::Checkpoint(node, ..)
            | Event::Probe(node, _)
            | Event::Shipped(node, ..) => Some(*node),
            Event::Deliver(_, _, message) => Some(message.to),
            Event::Ask(_, ask) => Some(ask.node),
            Event::Fault | Event::Join(_) | Event::Restart(_) => None,
            Event::Hear(..) | Event::Wake(..) | Event::Chore(_) => None,
        }
    }
}

pub struct Node {
    pub machine: Machine,
    pub paused_until: u64,
    pub slow_until: u64,
    /// Its next write to the log fails.
    pub disk_fails: bool,
    /// It crashes when it has carried out this many more outputs.
    pub armed: Option<u64>,
    drain_due: Vec<bool>,
    write_due: bool,
    pub write_free: u64,
    pub apply_free: Vec<u64>,
    mono_offset: u64,
    drift_ppm: i64,
    pub skew_us: i64,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub plan: Plan,
    pub calm: bool,
    pub calm_since: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    pub sequence: u64,
    pub nodes: Vec<Node>,
    pub links: Links,
    pub clients: Clients,
    pub chores: BTreeMap<u64, Chore>,
    pub watch: Watch,
    pub totals: Totals,
    hash: Xxh3,
    lines: Option<Lines>,
}

/// Runs a seed and checks it; `lines` take the transcript.
pub fn run(seed: u64, plan: &Plan, lines: Option<Lines>) -> Result<Summary, Failure> {
    let failed = |error| Failure { seed, error };
    let mut world = World::new(seed, plan, lines).map_err(|e| failed(e.to_string()))?;
    let played = world.play().map_err(|error| {
        let at = world.now as f64 / 1e6;
        format!("at {at:.6} s: {error}")
    });
    played.and_then(|()| world.verdict()).map_err(failed)
}

impl World {
    fn new(seed: u64, plan: &Plan, lines: Option<Lines>) -> Result<Self, Error> {
        let mut rng = Rng::new(seed);
        let mut nodes = Vec::new();
        for node in 1..=plan.nodes {
            let configs = (1..=plan.groups).map(|group| plan.config(node, group, seed));
            nodes.push(Node {
                machine: Machine::new(configs.collect(), plan.durability)?,
                paused_until: 0,
                slow_until: 0,
                disk_fails: false,
                armed: None,
                drain_due: vec![false; plan.groups as usize],
                write_due: false,
                write_free: 0,
                apply_free: vec![0; plan.groups as usize],
                mono_offset: rng.range(0, 1 << 40),
                // Four in a hundred: less than the lease's margin, which is two ticks of ten, one of them for this.
                drift_ppm: rng.range(0, 80_000) as i64 - 40_000,
                skew_us: rng.range(0, 800_000) as i64 - 400_000,
            });
        }
        let clients = Clients::new(plan.nodes, plan.groups);
        Ok(Self {
            now: 0,
            rng,
            plan: plan.clone(),
            calm: false,
            calm_since: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            nodes,
            links: Links::new(clients.lanes.len()),
            clients,
            chores: BTreeMap::new(),
            watch: Watch::new(plan),
            totals: Totals::default(),
            hash: Xxh3::new(),
            lines,
        })
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    pub fn after(&mut self, low: u64, high: u64, event: Event) {
        let time = self.now + self.rng.range(low, high);
        self.at(time, event);
    }

    fn play(&mut self) -> Result<(), Error> {
        for node in 1..=self.plan.nodes {
            self.after(0, TICK_US, Event::Tick(node));
            for group in 1..=self.plan.groups {
                self.after(0, 1_000_000, Event::StateFlush(node, group));
            }
        }
        for lane in 0..self.clients.lanes.len() {
            self.after(0, 1_000_000, Event::Wake(lane, 0));
        }
        self.after(0, 1_000_000, Event::Fault);
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            self.now = time;
            if !self.calm && time >= self.plan.length_us && self.is_enough() {
                self.heal()?;
            }
            if self.calm && self.clients.idle() && self.is_at_rest() {
                return Ok(());
            }
            if time > self.plan.length_us * 3 || (self.calm && time > self.calm_since + REST_US) {
                return Err(Error::internal("the cluster did not come to rest"));
            }
            if let Some(event) = self.events.remove(&sequence) {
                self.happen(event)?;
            }
        }
        Err(Error::internal("nothing more happens"))
    }

    /// A run in which little happens shows little.
    fn is_enough(&self) -> bool {
        self.clients.operations.len() >= OPERATIONS_MIN && self.totals.faults() >= FAULTS_MIN
    }

    /// The node is paused: what happens to it happens when it goes on.
    fn postpone(&mut self, node: u64, event: Event) {
        let until = self.node(node).paused_until;
        let timer = matches!(event, Event::Tick(_));
        self.at(until, event);
        if timer {
            self.at(until, Event::Burst(node));
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Error> {
        if let Some(node) = event.node()
            && self.node(node).paused_until > self.now
        {
            self.postpone(node, event);
            return Ok(());
        }
        match event {
            Event::Tick(node) => self.tick(node),
            Event::Burst(node) => (0..BURST).try_for_each(|_| self.tick_groups(node)),
            Event::Deliver(group, number, message) => self.deliver(group, number, message),
            Event::LogDone(node, life) if self.lives(node, life) => self.log_done(node),
            Event::ApplyDone(node, group, life) if self.lives(node, life) => {
                let member = self.node(node).machine.member_mut(group);
                match member.do_apply()? {
                    Some(report) => self.input(node, group, Input::Applied(report)),
                    None => Ok(()),
                }
            }
            Event::Drained(node, group, life) if self.lives(node, life) => {
                self.node(node).drain_due[group as usize - 1] = false;
                self.input(node, group, Input::Flush)
            }
            Event::Checkpoint(node, group, life, members) if self.lives(node, life) => {
                self.totals.add("checkpoints made", 1);
                let made = self.node(node).machine.member(group).checkpoint(&members);
                self.input(node, group, Input::Checkpointed(made))
            }
            Event::LogDone(..) | Event::ApplyDone(..) | Event::Drained(..) => Ok(()),
            Event::Checkpoint(..) => Ok(()),
            Event::Shipped(node, group, to, arrived) => {
                self.input(node, group, Input::SnapshotDone { to, arrived })
            }
            Event::StateFlush(node, group) => self.state_flush(node, group),
            Event::Probe(node, group) => self.probe(node, group),
            Event::Fault => self.disaster(),
            Event::Join(cut) => {
                self.links.join(&cut);
                self.note(0, 0, || "the cut is over".into());
                Ok(())
            }
            Event::Restart(node) => self.restart(node),
            Event::Ask(question, ask) => self.ask(question, ask),
            Event::Hear(owner, question, heard) => self.hear(owner, question, heard),
            Event::Chore(number) => {
                self.chore(number);
                Ok(())
            }
            Event::Wake(lane, sleep) => {
                self.wake(lane, sleep);
                Ok(())
            }
        }
    }

    fn lives(&self, node: u64, life: u64) -> bool {
        let machine = &self.nodes[node as usize - 1].machine;
        machine.life == life && machine.is_up()
    }

    pub fn node(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    fn tick(&mut self, node: u64) -> Result<(), Error> {
        // Timers run on the node's own clock.
        let drift = TICK_US as i64 * self.node(node).drift_ppm / 1_000_000;
        self.at(
            self.now + TICK_US.saturating_add_signed(-drift),
            Event::Tick(node),
        );
        self.tick_groups(node)
    }

    fn tick_groups(&mut self, node: u64) -> Result<(), Error> {
        (1..=self.plan.groups).try_for_each(|group| self.input(node, group, Input::Tick))
    }

    fn state_flush(&mut self, node: u64, group: u32) -> Result<(), Error> {
        self.after(50_000, 1_500_000, Event::StateFlush(node, group));
        if !self.node(node).machine.is_up() {
            return Ok(());
        }
        let report = self.node(node).machine.member_mut(group).flush()?;
        self.input(node, group, Input::Applied(report))
    }

    /// The log writer is done with everything that waited.
    fn log_done(&mut self, node: u64) -> Result<(), Error> {
        self.node(node).write_due = false;
        if std::mem::take(&mut self.node(node).disk_fails) {
            self.totals.add("fault: fsync error", 1);
            self.note(node, 0, || "fsync error: the node stops".into());
            return self.crash(node, true);
        }
        for (group, token) in self.node(node).machine.do_writes()? {
            self.input(node, group, Input::Persisted { token })?;
        }
        Ok(())
    }

    /// Gives an input to a replica and carries its outputs out.
    pub fn input(&mut self, node: u64, group: u32, input: Input) -> Result<(), Error> {
        if !self.node(node).machine.is_up() {
            return Ok(());
        }
        self.note(node, group, || transcript::input(&input));
        self.totals.add("inputs", 1);
        let is_flush = matches!(input, Input::Flush);
        let asked = match &input {
            Input::Request(request) => match &request.task {
                Task::Run(txn) if txn.read_only() => Some(request.id),
                // Some work is answered from the leader's memory, and promises nothing.
                _ => None,
            },
            Input::SnapshotTs { id } => Some(*id),
            _ => None,
        };
        let time = self.now;
        let place = self.node(node);
        let drift = time as i64 / 1_000 * place.drift_ppm / 1_000;
        let now = Now {
            mono_us: place.mono_offset + time.saturating_add_signed(drift),
            wall_us: EPOCH_US + time as i64 + place.skew_us,
        };
        let mut out = Vec::new();
        place.machine.member_mut(group).step(now, input, &mut out)?;
        if !is_flush && !std::mem::replace(&mut place.drain_due[group as usize - 1], true) {
            let life = place.machine.life;
            self.after(0, 300, Event::Drained(node, group, life));
        }
        for output in out {
            if self.armed_crash(node)? {
                return Ok(());
            }
            self.note(node, group, || transcript::output(&output));
            self.look(node, group, &output, asked)?;
            self.carry_out(node, group, output)?;
        }
        Ok(())
    }

    /// The transcript: hashed always, kept if asked for.
    pub fn note(&mut self, node: u64, group: u32, line: impl FnOnce() -> String) {
        let line = line();
        self.hash.update(&self.now.to_be_bytes());
        self.hash.update(&[node as u8, group as u8]);
        self.hash.update(line.as_bytes());
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let (s, us) = (self.now / 1_000_000, self.now % 1_000_000);
            for line in line.lines() {
                lines.push(match (node, group) {
                    (0, _) => format!("{s:3}.{us:06}       {line}"),
                    (node, 0) => format!("{s:3}.{us:06} n{node}    {line}"),
                    (node, group) => format!("{s:3}.{us:06} n{node} g{group} {line}"),
                });
            }
        }
    }

    /// Invariants, before an output is carried out.
    fn look(
        &mut self,
        node: u64,
        group: u32,
        output: &Output,
        asked: Option<u64>,
    ) -> Result<(), Error> {
        if !self.plan.watch {
            return Ok(());
        }
        let machine = &self.nodes[node as usize - 1].machine;
        self.watch
            .output(node, group, machine, output, asked)
            .map_err(|broken| Error::internal(format!("n{node} g{group}: {broken}")))
    }

    fn carry_out(&mut self, node: u64, group: u32, output: Output) -> Result<(), Error> {
        match output {
            Output::Send(messages) => messages.into_iter().for_each(|m| self.send(group, m)),
            Output::Write { token, write, sync } => {
                let waiting = WaitingWrite { token, write, sync };
                self.node(node).machine.writes.push_back((group, waiting));
                if !std::mem::replace(&mut self.node(node).write_due, true) {
                    let took = self.disk_time(node);
                    let (now, place) = (self.now, self.node(node));
                    place.write_free = place.write_free.max(now) + took;
                    let (free, life) = (place.write_free, place.machine.life);
                    self.at(free, Event::LogDone(node, life));
                }
            }
            Output::Apply(job) => {
                self.totals
                    .add("snapshots installed", u64::from(job.install.is_some()));
                let took = self.disk_time(node);
                let (now, place) = (self.now, self.node(node));
                place.machine.member_mut(group).applies.push_back(job);
                let free = &mut place.apply_free[group as usize - 1];
                *free = (*free).max(now) + took;
                let (free, life) = (*free, place.machine.life);
                self.at(free, Event::ApplyDone(node, group, life));
            }
            Output::Reply { id, result, ts } => self.answer(id, Heard::Reply(result, ts)),
            Output::SnapshotTs { id, result } => self.answer(id, Heard::Ts(result)),
            Output::SnapshotReady { id, result } => self.snapshot_ready(node, group, id, result)?,
            Output::Role(role) => {
                self.totals
                    .add("elections won", u64::from(role.is_leader && !role.open));
                if role.open {
                    self.totals.add("leaders opened", 1);
                    self.probe_others(node, group);
                }
            }
            Output::Checkpoint { members } => {
                let life = self.node(node).machine.life;
                self.after(
                    1_000,
                    300_000,
                    Event::Checkpoint(node, group, life, members),
                );
            }
            Output::Members { .. } => {}
            Output::Resolve { .. } | Output::Finish { .. } => self.delegate(node, group, &output),
            Output::Truncate { index } => {
                self.totals.add("log truncations", 1);
                self.node(node).machine.member_mut(group).truncate(index)?;
            }
        }
        Ok(())
    }

    fn disk_time(&mut self, node: u64) -> u64 {
        let slow = self.node(node).slow_until > self.now;
        match (slow, self.rng.permille(20)) {
            (true, _) => self.rng.range(20_000, 400_000),
            (false, true) => self.rng.range(5_000, 100_000),
            (false, false) => self.rng.range(50, 1_500),
        }
    }

    /// What a node forgets about the world when it goes down.
    pub fn forget(&mut self, node: u64) {
        let place = self.node(node);
        place.drain_due.fill(false);
        place.write_due = false;
        place.armed = None;
        place.disk_fails = false;
    }

    /// Each group has one leader, and every member has applied all of its log.
    fn is_at_rest(&self) -> bool {
        let nothing_open = self.links.no_questions() && self.chores.is_empty();
        nothing_open && (1..=self.plan.groups).all(|group| self.group_rests(group))
    }

    fn group_rests(&self, group: u32) -> bool {
        let replica = |node: &Node| Some(node.machine.member(group).replica()?.status());
        let all: Option<Vec<_>> = self.nodes.iter().map(replica).collect();
        let Some(all) = all else {
            return false;
        };
        let end = all[0].last_index;
        // I12: everything prepared is settled without anybody's help.
        let prepared = |node: &Node| {
            let of = records::load(node.machine.member(group).state()).unwrap_or_default();
            of.iter()
                .any(|(_, _, record)| matches!(record, Record::Prepared(_)))
        };
        if self.nodes.iter().any(prepared) {
            return false;
        }
        all.iter().filter(|status| status.open).count() == 1
            && all.iter().all(|s| s.last_index == end && s.applied == end)
    }

    fn verdict(&mut self) -> Result<Summary, String> {
        let mut end = End::default();
        for group in 1..=self.plan.groups {
            self.replicas_agree(group)?;
            let store = self.nodes[0].machine.member(group).store();
            let (rows, done) = all_rows(store).map_err(|error| error.to_string())?;
            end.rows.extend(rows);
            for (op, times) in done {
                *end.done.entry(op).or_default() += times;
            }
        }
        let operations = &self.clients.operations;
        check::history(operations, &end)?;
        let mut snapshots = 0;
        for node in &self.nodes {
            snapshots = check::snapshots(operations, |ts, rows| {
                let mut picture = BTreeMap::new();
                for group in 1..=self.plan.groups {
                    let of_group =
                        |row: &&(u32, u64)| super::load::group_of(row.1, self.plan.groups) == group;
                    let rows: Vec<_> = rows.iter().filter(of_group).copied().collect();
                    let store = node.machine.member(group).store();
                    picture.extend(rows_at(store, &rows, ts).map_err(|e| e.to_string())?);
                }
                Ok(picture)
            })?;
        }
        self.totals.add("snapshot reads", snapshots);
        self.totals.add("operations", operations.len() as u64);
        self.totals.add("retries", self.clients.retries);
        self.totals.add("conflicts", self.clients.conflicts);
        for operation in operations {
            let name = match operation.known {
                Known::Done(_) | Known::Saw(..) => "acknowledged",
                Known::Failed(_) => "refused",
                Known::Unknown => "outcome unknown",
            };
            self.totals.add(name, 1);
        }
        Ok(Summary {
            transcript: self.hash.digest(),
            length_us: self.now,
            totals: std::mem::take(&mut self.totals),
        })
    }

    /// I7, I8: replicas that applied the same log hold the same.
    fn replicas_agree(&self, group: u32) -> Result<(), String> {
        let first = self.nodes[0].machine.member(group).state();
        for node in &self.nodes[1..] {
            let other = node.machine.member(group).state();
            if let Some(difference) = first.difference(other) {
                return Err(format!("group {group}: the replicas differ: {difference}"));
            }
            if sorted_sessions(first)? != sorted_sessions(other)? {
                return Err(format!(
                    "group {group}: the replicas remember other sessions"
                ));
            }
        }
        Ok(())
    }
}

fn sorted_sessions(store: &impl StateStore) -> Result<Vec<SessionRecord>, String> {
    let mut records = store.sessions().map_err(|error| error.to_string())?;
    records.sort_by_key(|record| (record.session, record.number));
    Ok(records)
}
