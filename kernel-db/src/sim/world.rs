//! Events in order of time, the nodes that they happen to, and one run from start to verdict.
//!
//! * here: the loop, inputs and outputs of replicas, disks. * [`super::network`]: messages and clients' questions.
//! * [`super::faults`]: disasters. * [`super::moves`]: nodes that come and go. * [`super::watch`]: invariants looked at on the
//!   way. * [`super::verdict`]: the end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft::eraftpb::Message;
use xxhash_rust::xxh3::Xxh3;

use super::chores::Chore;
use super::clients::{Ask, Clients, Heard};
use super::machine::Machine;
use super::member::WaitingWrite;
use super::moves::Moves;
use super::network::{Links, Owner};
use super::plan::Plan;
use super::rng::Rng;
use super::totals::Totals;
use super::transcript;
use super::watch::Watch;
use crate::error::Error;
use crate::partition::{Input, MemberChange, Now, Output, Task};
use crate::raft::member_id::node_of;

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
    /// Whoever moves groups between nodes takes a look.
    Direct,
    /// A step of an earlier version of the topology, at what may be the group's leader.
    LateStep(u32, u64, MemberChange),
    Join(BTreeSet<(u64, u64)>),
    Restart(u64),
    Ask(u64, Ask),
    Hear(Owner, u64, Heard),
    Chore(u64),
    /// A lane asks what a group wants back.
    Listen(usize, u32),
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
            Event::Deliver(_, _, message) => Some(node_of(message.to)),
            Event::Ask(_, ask) => Some(ask.node),
            Event::Fault | Event::Direct | Event::LateStep(..) => None,
            Event::Join(_) | Event::Restart(_) => None,
            Event::Hear(..) | Event::Wake(..) | Event::Chore(_) | Event::Listen(..) => None,
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

impl Node {
    /// With an empty disk.
    pub fn new(plan: &Plan, node: u64, seed: u64, rng: &mut Rng) -> Result<Self, Error> {
        let configs = (1..=plan.all_groups()).map(|group| plan.config(node, group, seed));
        Ok(Self {
            machine: Machine::new(configs.collect(), plan.durability)?,
            paused_until: 0,
            slow_until: 0,
            disk_fails: false,
            armed: None,
            drain_due: vec![false; plan.all_groups() as usize],
            write_due: false,
            write_free: 0,
            apply_free: vec![0; plan.all_groups() as usize],
            mono_offset: rng.range(0, 1 << 40),
            // Four in a hundred: less than the lease's margin, which is two ticks of ten, one of them for this.
            drift_ppm: rng.range(0, 80_000) as i64 - 40_000,
            skew_us: rng.range(0, 800_000) as i64 - 400_000,
        })
    }
}

pub struct World {
    pub now: u64,
    pub seed: u64,
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
    pub moves: Moves,
    pub chores: BTreeMap<u64, Chore>,
    pub watch: Watch,
    pub totals: Totals,
    pub hash: Xxh3,
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
            nodes.push(Node::new(plan, node, seed, &mut rng)?);
        }
        let clients = Clients::new(plan);
        Ok(Self {
            now: 0,
            seed,
            rng,
            plan: plan.clone(),
            moves: Moves::new(plan, seed)?,
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
        for node in self.node_ids() {
            self.set_going(node);
        }
        for lane in 0..self.clients.lanes.len() {
            self.after(0, 1_000_000, Event::Wake(lane, 0));
        }
        self.after(0, 1_000_000, Event::Fault);
        if self.plan.moves {
            self.at(0, Event::Direct);
        }
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

    /// All nodes there ever were.
    pub fn node_ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.nodes.len() as u64
    }

    /// The timers of a node.
    pub fn set_going(&mut self, node: u64) {
        self.after(0, TICK_US, Event::Tick(node));
        for group in 1..=self.plan.all_groups() {
            self.after(0, 1_000_000, Event::StateFlush(node, group));
        }
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
            Event::Direct => self.direct(),
            Event::LateStep(group, version, change) => self.late_step(group, version, change),
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
            Event::Listen(lane, group) => {
                self.listen(lane, group);
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
        if self.moves.is_gone(node) {
            return Ok(());
        }
        // Timers run on the node's own clock.
        let drift = TICK_US as i64 * self.node(node).drift_ppm / 1_000_000;
        self.at(
            self.now + TICK_US.saturating_add_signed(-drift),
            Event::Tick(node),
        );
        self.tick_groups(node)
    }

    fn tick_groups(&mut self, node: u64) -> Result<(), Error> {
        (1..=self.plan.all_groups()).try_for_each(|group| self.input(node, group, Input::Tick))
    }

    fn state_flush(&mut self, node: u64, group: u32) -> Result<(), Error> {
        if self.moves.is_gone(node) {
            return Ok(());
        }
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
        let lost = self.wake_up_lost(node, group);
        for output in out {
            if self.armed_crash(node)? {
                return Ok(());
            }
            self.note(node, group, || transcript::output(&output));
            self.look(node, group, &output, asked)?;
            self.carry_out(node, group, output)?;
        }
        match lost {
            Some(lost) => Err(Error::internal(format!("n{node} g{group}: {lost}"))),
            None => Ok(()),
        }
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
            Output::Members { result, .. } => {
                let late = result.as_ref().is_err_and(|e| e.sqlstate() == "40001");
                self.totals.add("late steps refused", u64::from(late));
                self.totals
                    .add("changes of members made", u64::from(result.is_ok()));
            }
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
}
