//! Events in order of time, the network, faults, and one run from start to verdict.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use raft::eraftpb::Message;
use xxhash_rust::xxh3::Xxh3;

use super::check::{self, Known};
use super::clients::{Ask, Clients, Heard, Want};
use super::member::{Member, WaitingWrite};
use super::rng::Rng;
use super::transcript;
use super::work::Picture;
use crate::error::Error;
use crate::partition::{Durability, Input, Now, Output, ReplicaConfig, Request, Task};
use crate::storage::{SessionRecord, StateStore};

const TICK_US: u64 = 50_000;
/// A client gives up on an answer after this time, and asks again.
const PATIENCE_US: u64 = 700_000;
/// The wall clock at the start of every run.
const EPOCH_US: i64 = 1_700_000_000_000_000;
/// After the faults everything must have come to rest within this time.
const REST_US: u64 = 60_000_000;

/// What goes wrong, and for how long.
#[derive(Clone, Debug)]
pub struct Faults {
    pub nodes: u64,
    /// Length of the time with faults and clients, in microseconds.
    pub length_us: u64,
    /// Thousandths of messages that are lost, doubled, and very late.
    pub loss: u64,
    pub double: u64,
    pub late: u64,
    /// Crashes, cuts, pauses and transfers happen at all.
    pub disasters: bool,
    pub durability: Durability,
    pub sessions_max: usize,
    pub log_bytes_max: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            nodes: 3,
            length_us: 6_000_000,
            loss: 10,
            double: 10,
            late: 5,
            disasters: true,
            durability: Durability::Fsync,
            sessions_max: 64,
            log_bytes_max: 1 << 20,
        }
    }
}

/// What a checked run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Hash of every input and output with its time.
    pub transcript: u64,
    pub inputs: u64,
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    pub snapshots: usize,
    pub leaders: u64,
    pub crashes: u64,
    pub truncations: u64,
}

enum Event {
    Tick(u64),
    Deliver(Message),
    WriteDone(u64, u64),
    ApplyDone(u64, u64),
    Drained(u64, u64),
    StateFlush(u64),
    Fault,
    Restart(u64),
    Ask(u64, u64, Ask),
    Hear(usize, u64, Heard),
    Wake(usize),
}

impl Event {
    /// The node it happens to.
    fn node(&self) -> Option<u64> {
        match self {
            Event::Tick(node)
            | Event::StateFlush(node)
            | Event::Ask(node, ..)
            | Event::WriteDone(node, _)
            | Event::ApplyDone(node, _)
            | Event::Drained(node, _) => Some(*node),
            Event::Deliver(message) => Some(message.to),
            Event::Fault | Event::Restart(_) | Event::Hear(..) | Event::Wake(_) => None,
        }
    }
}

struct Node {
    member: Member,
    paused_until: u64,
    drain_due: bool,
    write_free: u64,
    apply_free: u64,
    mono_offset: u64,
    drift_ppm: i64,
    skew_us: i64,
}

struct World {
    now: u64,
    rng: Rng,
    faults: Faults,
    calm: bool,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    nodes: Vec<Node>,
    cut: BTreeSet<(u64, u64)>,
    clients: Clients,
    /// Present question of each lane, and the lane and node of each question under way.
    asked: Vec<u64>,
    questions: BTreeMap<u64, (usize, u64)>,
    promised: BTreeMap<u64, u64>,
    hash: Xxh3,
    summary: Summary,
}

/// Runs one seed and checks it.
pub fn run(seed: u64, faults: &Faults) -> Result<Summary, String> {
    let mut world = World::new(seed, faults).map_err(|e| e.to_string())?;
    world
        .play()
        .map_err(|error| format!("seed {seed}: at {} us: {error}", world.now))?;
    world
        .verdict()
        .map_err(|error| format!("seed {seed}: {error}"))
}

impl World {
    fn new(seed: u64, faults: &Faults) -> Result<Self, Error> {
        let mut rng = Rng::new(seed);
        let voters: Vec<u64> = (1..=faults.nodes).collect();
        let mut nodes = Vec::new();
        for node in &voters {
            let config = ReplicaConfig {
                sessions_max: faults.sessions_max,
                log_bytes_max: faults.log_bytes_max,
                batch_bytes_max: 4_000,
                durability: faults.durability,
                seed,
                ..ReplicaConfig::new(*node, 1, voters.clone())
            };
            nodes.push(Node {
                member: Member::new(config)?,
                paused_until: 0,
                drain_due: false,
                write_free: 0,
                apply_free: 0,
                mono_offset: rng.range(0, 1 << 40),
                drift_ppm: rng.range(0, 6_000) as i64 - 3_000,
                skew_us: rng.range(0, 800_000) as i64 - 400_000,
            });
        }
        let clients = Clients::new(4, faults.nodes);
        Ok(Self {
            now: 0,
            rng,
            faults: faults.clone(),
            calm: false,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            nodes,
            cut: BTreeSet::new(),
            asked: vec![0; clients.lanes.len()],
            clients,
            questions: BTreeMap::new(),
            promised: BTreeMap::new(),
            hash: Xxh3::new(),
            summary: Summary::default(),
        })
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn after(&mut self, low: u64, high: u64, event: Event) {
        let time = self.now + self.rng.range(low, high);
        self.at(time, event);
    }

    fn play(&mut self) -> Result<(), Error> {
        for node in 1..=self.faults.nodes {
            self.after(0, TICK_US, Event::Tick(node));
            self.after(0, 1_000_000, Event::StateFlush(node));
        }
        for lane in 0..self.clients.lanes.len() {
            self.after(0, 1_000_000, Event::Wake(lane));
        }
        if self.faults.disasters {
            self.after(0, 1_000_000, Event::Fault);
        }
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            self.now = time;
            if !self.calm && time >= self.faults.length_us {
                self.heal()?;
            }
            if self.calm && self.clients.idle() && self.is_at_rest() {
                return Ok(());
            }
            if time > self.faults.length_us + REST_US {
                return Err(Error::internal("the cluster did not come to rest"));
            }
            if let Some(event) = self.events.remove(&sequence) {
                self.happen(event)?;
            }
        }
        Err(Error::internal("nothing more happens"))
    }

    /// The node is paused: what happens to it happens when it goes on.
    fn postpone(&mut self, node: u64, event: Event) -> Result<(), Error> {
        let until = self.node(node).paused_until;
        // A timer that bursts after a stall: the replica must not count what came too fast.
        let burst = if matches!(event, Event::Tick(_)) {
            12
        } else {
            0
        };
        self.at(until, event);
        (0..burst).try_for_each(|_| self.input(node, Input::Tick, until))
    }

    fn happen(&mut self, event: Event) -> Result<(), Error> {
        if let Some(node) = event.node()
            && self.node(node).paused_until > self.now
        {
            return self.postpone(node, event);
        }
        match event {
            Event::Tick(node) => {
                self.at(self.now + TICK_US, Event::Tick(node));
                self.input(node, Input::Tick, self.now)
            }
            Event::Deliver(message) => self.input(message.to, Input::Message(message), self.now),
            Event::WriteDone(node, life) if self.node(node).member.life == life => {
                match self.node(node).member.do_write()? {
                    Some(token) => self.input(node, Input::Persisted { token }, self.now),
                    None => Ok(()),
                }
            }
            Event::ApplyDone(node, life) if self.node(node).member.life == life => {
                match self.node(node).member.do_apply()? {
                    Some(report) => self.input(node, Input::Applied(report), self.now),
                    None => Ok(()),
                }
            }
            Event::Drained(node, life) if self.node(node).member.life == life => {
                self.node(node).drain_due = false;
                self.input(node, Input::Flush, self.now)
            }
            Event::WriteDone(..) | Event::ApplyDone(..) | Event::Drained(..) => Ok(()),
            Event::StateFlush(node) => {
                self.after(50_000, 1_500_000, Event::StateFlush(node));
                if !self.node(node).member.is_up() {
                    return Ok(());
                }
                let report = self.node(node).member.flush()?;
                self.input(node, Input::Applied(report), self.now)
            }
            Event::Fault => self.disaster(),
            Event::Restart(node) => self.restart(node),
            Event::Ask(node, question, ask) => self.ask(node, question, ask),
            Event::Hear(lane, question, heard) => {
                if self.asked[lane] == question {
                    let want = self.clients.hear(lane, self.now, heard, &mut self.rng);
                    self.obey(lane, want);
                }
                Ok(())
            }
            Event::Wake(lane) => {
                let want = self.clients.wake(lane, self.now, &mut self.rng);
                self.obey(lane, want);
                Ok(())
            }
        }
    }

    fn node(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    /// Gives an input to a node and carries its outputs out.
    fn input(&mut self, node: u64, input: Input, time: u64) -> Result<(), Error> {
        if !self.node(node).member.is_up() {
            return Ok(());
        }
        self.note(node, &transcript::input(&input));
        self.summary.inputs += 1;
        let is_flush = matches!(input, Input::Flush);
        let place = self.node(node);
        let drift = time as i64 / 1_000_000 * place.drift_ppm;
        let now = Now {
            mono_us: place.mono_offset + time.saturating_add_signed(drift),
            wall_us: EPOCH_US + time as i64 + place.skew_us,
        };
        let mut out = Vec::new();
        place.member.step(now, input, &mut out)?;
        if !is_flush && !place.drain_due {
            place.drain_due = true;
            let life = place.member.life;
            self.after(0, 300, Event::Drained(node, life));
        }
        for output in out {
            self.note(node, &transcript::output(&output));
            self.carry_out(node, output)?;
        }
        Ok(())
    }

    fn note(&mut self, node: u64, line: &str) {
        self.hash.update(&self.now.to_be_bytes());
        self.hash.update(&node.to_be_bytes());
        self.hash.update(line.as_bytes());
    }

    fn carry_out(&mut self, node: u64, output: Output) -> Result<(), Error> {
        match output {
            Output::Send(messages) => messages.into_iter().for_each(|m| self.send(m)),
            Output::Write { token, write, sync } => {
                let took = self.disk_time();
                let (now, place) = (self.now, self.node(node));
                place
                    .member
                    .writes
                    .push_back(WaitingWrite { token, write, sync });
                place.write_free = place.write_free.max(now) + took;
                let (free, life) = (place.write_free, place.member.life);
                self.at(free, Event::WriteDone(node, life));
            }
            Output::Apply(job) => {
                let took = self.disk_time();
                let (now, place) = (self.now, self.node(node));
                place.member.applies.push_back(job);
                place.apply_free = place.apply_free.max(now) + took;
                let (free, life) = (place.apply_free, place.member.life);
                self.at(free, Event::ApplyDone(node, life));
            }
            Output::Reply { id, result } => self.answer(id, Heard::Reply(result)),
            Output::SnapshotTs { id, result } => self.answer(id, Heard::Ts(result)),
            Output::SnapshotReady { id, result } => {
                let ts = self.promised.remove(&id).unwrap_or(0);
                let picture = Picture::at(self.node(node).member.store(), ts)?;
                let picture = result.is_ok().then(|| Box::new(picture));
                self.answer(id, Heard::Snapshot(result, picture));
            }
            Output::Role(role) => self.summary.leaders += u64::from(role.open),
            Output::Checkpoint { .. } | Output::Members { .. } => {}
            Output::Resolve { .. } | Output::Finish { .. } => {
                return Err(Error::internal("nothing is prepared in this world"));
            }
            Output::Truncate { index } => {
                self.summary.truncations += 1;
                self.node(node).member.truncate(index)?;
            }
        }
        Ok(())
    }

    fn disk_time(&mut self) -> u64 {
        if self.rng.permille(20) {
            self.rng.range(5_000, 100_000)
        } else {
            self.rng.range(50, 1_500)
        }
    }

    fn send(&mut self, message: Message) {
        let lost = !self.calm && self.rng.permille(self.faults.loss);
        if lost || self.cut.contains(&(message.from, message.to)) {
            return;
        }
        if !self.calm && self.rng.permille(self.faults.double) {
            self.after(50, 400_000, Event::Deliver(message.clone()));
        }
        let late = !self.calm && self.rng.permille(self.faults.late);
        let high = if late { 1_500_000 } else { 2_000 };
        self.after(50, high, Event::Deliver(message));
    }

    /// A client's question arrives.
    fn ask(&mut self, node: u64, question: u64, ask: Ask) -> Result<(), Error> {
        if !self.node(node).member.is_up() {
            self.answer(
                question,
                Heard::Reply(Err(Error::retry("08006", "node down"))),
            );
            return Ok(());
        }
        let input = match ask {
            Ask::Run { work, session } => Input::Request(Request {
                id: question,
                task: Task::Run(Arc::new(work)),
                session,
                cancel: None,
            }),
            Ask::SnapshotTs => Input::SnapshotTs { id: question },
            Ask::SnapshotAt { ts } => {
                self.promised.insert(question, ts);
                Input::SnapshotAt { id: question, ts }
            }
        };
        self.input(node, input, self.now)
    }

    fn answer(&mut self, question: u64, heard: Heard) {
        if let Some((lane, _)) = self.questions.remove(&question)
            && (self.calm || !self.rng.permille(self.faults.loss))
        {
            self.after(50, 1_000, Event::Hear(lane, question, heard));
        }
    }

    fn obey(&mut self, lane: usize, want: Want) {
        match want {
            Want::Send(ask) => {
                let node = self.clients.lanes[lane].node;
                // A copy that arrives much later must not be executed again; nobody waits for its answer.
                if !self.calm && self.rng.permille(self.faults.double) {
                    self.sequence += 1;
                    let copy = u64::MAX - self.sequence;
                    self.after(0, 1_500_000, Event::Ask(node, copy, ask));
                }
                self.sequence += 1;
                let question = self.sequence;
                self.asked[lane] = question;
                self.questions.insert(question, (lane, node));
                self.after(50, 1_000, Event::Ask(node, question, ask));
                self.at(
                    self.now + PATIENCE_US,
                    Event::Hear(lane, question, Heard::Timeout),
                );
            }
            Want::Sleep(us) => {
                self.asked[lane] = 0;
                self.at(self.now + us, Event::Wake(lane));
            }
            Want::Rest => {}
        }
    }

    fn disaster(&mut self) -> Result<(), Error> {
        if self.calm {
            return Ok(());
        }
        self.after(100_000, 1_000_000, Event::Fault);
        let node = self.rng.range(1, self.faults.nodes + 1);
        match self.rng.range(0, 10) {
            0..3 => self.crash(node),
            3..4 => {
                // Alone, or unable to hear, or unable to speak.
                let way = self.rng.range(0, 3);
                for other in (1..=self.faults.nodes).filter(|other| *other != node) {
                    if way != 1 {
                        self.cut.insert((node, other));
                    }
                    if way != 2 {
                        self.cut.insert((other, node));
                    }
                }
                Ok(())
            }
            4..7 => {
                self.cut.clear();
                Ok(())
            }
            7..9 => {
                let pause = self.rng.range(50_000, 1_500_000);
                self.node(node).paused_until = self.now + pause;
                Ok(())
            }
            _ => {
                let from = self.rng.range(1, self.faults.nodes + 1);
                self.input(from, Input::TransferLeader(node), self.now)
            }
        }
    }

    fn crash(&mut self, node: u64) -> Result<(), Error> {
        if !self.node(node).member.is_up() {
            return Ok(());
        }
        self.summary.crashes += 1;
        let (machine, seed) = (self.rng.permille(500), self.rng.next());
        // Memory mode promises to survive one machine at a time, once the others have caught up.
        let machine = machine && self.faults.durability == Durability::Fsync;
        self.node(node).member.crash(machine, seed)?;
        self.node(node).drain_due = false;
        self.note(node, "crash");
        let lost: Vec<u64> = self
            .questions
            .iter()
            .filter(|(_, (_, at))| *at == node)
            .map(|(question, _)| *question)
            .collect();
        for question in lost {
            let error = Error::unknown("connection lost");
            self.answer(question, Heard::Reply(Err(error)));
        }
        self.after(10_000, 1_500_000, Event::Restart(node));
        Ok(())
    }

    fn restart(&mut self, node: u64) -> Result<(), Error> {
        if !self.node(node).member.is_up() {
            self.note(node, "start");
            self.node(node).member.start()?;
            let now = self.now;
            let place = self.node(node);
            (place.write_free, place.apply_free) = (now, now);
        }
        Ok(())
    }

    /// The end of all faults: the clients finish what they began.
    fn heal(&mut self) -> Result<(), Error> {
        self.calm = true;
        self.clients.stopping = true;
        self.cut.clear();
        for node in 1..=self.faults.nodes {
            self.node(node).paused_until = 0;
            self.restart(node)?;
        }
        Ok(())
    }

    /// One leader, and every member has applied all of its log.
    fn is_at_rest(&self) -> bool {
        let all: Option<Vec<_>> = self
            .nodes
            .iter()
            .map(|node| Some(node.member.replica()?.status()))
            .collect();
        let Some(all) = all else {
            return false;
        };
        let leaders = all.iter().filter(|status| status.open).count();
        let end = all[0].last_index;
        leaders == 1
            && self.questions.is_empty()
            && all.iter().all(|s| s.last_index == end && s.applied == end)
    }

    fn verdict(mut self) -> Result<Summary, String> {
        let read = |picture: Result<Picture, Error>| picture.map_err(|error| error.to_string());
        let end = read(Picture::now(self.nodes[0].member.store()))?;
        let sessions = sorted_sessions(self.nodes[0].member.state())?;
        for node in &self.nodes[1..] {
            if read(Picture::now(node.member.store()))? != end {
                return Err("the replicas hold different rows".into());
            }
            if sorted_sessions(node.member.state())? != sessions {
                return Err("the replicas remember different sessions".into());
            }
        }
        let operations = &self.clients.operations;
        check::history(operations, &end)?;
        for node in &self.nodes {
            let store = node.member.store();
            self.summary.snapshots =
                check::snapshots(operations, |ts| read(Picture::at(store, ts)))?;
        }
        for operation in operations {
            match operation.known {
                Known::Done(_) | Known::Saw(..) => self.summary.acknowledged += 1,
                Known::Failed(_) => self.summary.refused += 1,
                Known::Unknown => self.summary.unknown += 1,
            }
        }
        self.summary.transcript = self.hash.digest();
        Ok(self.summary)
    }
}

fn sorted_sessions(store: &impl StateStore) -> Result<Vec<SessionRecord>, String> {
    let mut records = store.sessions().map_err(|error| error.to_string())?;
    records.sort_by_key(|record| (record.session, record.number));
    Ok(records)
}
