//! The network between nodes, and between clients and nodes: what is lost, late, doubled, cut off, overtaken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft::eraftpb::{Message, MessageType};

use super::clients::{Ask, Heard, Want, What};
use super::load::{Row, rows_at};
use super::world::{Event, World};
use crate::error::Error;
use crate::partition::{Input, Request, Task, Waited};
use crate::raft::member_id::node_of;

/// A client gives up on an answer after this time, and asks again.
const PATIENCE_US: u64 = 700_000;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Lane(usize),
    Chore(u64),
    /// Who moves groups between nodes.
    Mover,
    /// Of a lane: what a group wants back.
    Listener(usize, u32),
}

/// Which links are cut, what is on its way, and who waits for what.
pub struct Links {
    /// How many faults have cut a link.
    cut: BTreeMap<(u64, u64), u64>,
    /// Extra time on a link, in microseconds, and until when.
    slow: BTreeMap<(u64, u64), (u64, u64)>,
    sent: u64,
    /// The newest message that has arrived on a link.
    arrived: BTreeMap<(u64, u64), u64>,
    /// Present question of each lane, and the owner and node of each question under way.
    asked: Vec<u64>,
    /// Number of each lane's last sleep; it wakes from no other.
    sleeps: Vec<u64>,
    questions: BTreeMap<u64, (Owner, u64)>,
    /// Time and rows of the snapshots asked for.
    promised: BTreeMap<u64, (u64, Vec<Row>)>,
}

impl Links {
    pub fn new(lanes: usize) -> Self {
        Self {
            cut: BTreeMap::new(),
            slow: BTreeMap::new(),
            sent: 0,
            arrived: BTreeMap::new(),
            asked: vec![0; lanes],
            sleeps: vec![0; lanes],
            questions: BTreeMap::new(),
            promised: BTreeMap::new(),
        }
    }

    pub fn cut(&mut self, links: &BTreeSet<(u64, u64)>) {
        for link in links {
            *self.cut.entry(*link).or_default() += 1;
        }
    }

    pub fn join(&mut self, links: &BTreeSet<(u64, u64)>) {
        for link in links {
            if let Some(count) = self.cut.get_mut(link) {
                *count = count.saturating_sub(1);
            }
        }
    }

    pub fn slow(&mut self, link: (u64, u64), extra_us: u64, until_us: u64) {
        self.slow.insert(link, (extra_us, until_us));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
    }

    pub fn no_questions(&self) -> bool {
        self.questions.is_empty()
    }
}

impl World {
    pub fn send(&mut self, group: u32, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.ship(group, message);
        }
        let link = (node_of(message.from), node_of(message.to));
        self.links.sent += 1;
        let number = self.links.sent;
        if self.links.cut.get(&link).is_some_and(|count| *count > 0) {
            self.totals.add("messages cut off", 1);
            return;
        }
        if self.calm {
            return self.after(50, 2_000, Event::Deliver(group, number, message));
        }
        if self.rng.permille(self.plan.loss) {
            return self.totals.add("fault: message lost", 1);
        }
        if self.rng.permille(self.plan.double) {
            self.totals.add("fault: message doubled", 1);
            self.after(50, 400_000, Event::Deliver(group, number, message.clone()));
        }
        let mut high = 2_000;
        if self.rng.permille(self.plan.late) {
            self.totals.add("fault: message late", 1);
            high = 1_500_000;
        }
        let extra = self.links.slow.get(&link);
        let extra = extra.filter(|(_, until)| *until > self.now);
        let extra = extra.map_or(0, |(extra, _)| *extra);
        self.after(
            50 + extra,
            high + extra,
            Event::Deliver(group, number, message),
        );
    }

    /// A checkpoint goes over a side channel, which takes longer and tells its sender how it ended, if both live.
    fn ship(&mut self, group: u32, message: Message) {
        self.totals.add("snapshots sent", 1);
        let (from, to) = (node_of(message.from), node_of(message.to));
        let cut = |link| self.links.cut.get(&link).is_some_and(|count| *count > 0);
        let arrives = !cut((from, to)) && !cut((to, from));
        let took = self.rng.range(10_000, 1_000_000);
        if arrives {
            self.links.sent += 1;
            let number = self.links.sent;
            self.at(self.now + took, Event::Deliver(group, number, message));
        }
        if self.calm || !self.rng.permille(100) {
            let told = self.now + took + self.rng.range(1_000, 100_000);
            self.at(told, Event::Shipped(from, group, to, arrives));
        }
    }

    pub fn deliver(&mut self, group: u32, number: u64, message: Message) -> Result<(), Error> {
        let newest = self
            .links
            .arrived
            .entry((node_of(message.from), node_of(message.to)))
            .or_default();
        let overtaken = number < *newest;
        *newest = number.max(*newest);
        self.totals
            .add("fault: message overtaken", u64::from(overtaken));
        self.input(node_of(message.to), group, Input::Message(message))
    }

    /// A client's question arrives.
    pub fn ask(&mut self, question: u64, ask: Ask) -> Result<(), Error> {
        let Ask {
            node,
            group,
            what,
            seen,
        } = ask;
        if !self.node(node).machine.is_up() {
            let error = Error::retry("08006", "node down");
            self.answer(question, Heard::Reply(Err(error), 0));
            return Ok(());
        }
        let plain = |task, waited| {
            Input::Request(Request {
                id: question,
                task,
                session: None,
                seen,
                cancel: None,
                waited,
            })
        };
        let input = match what {
            What::Run {
                task,
                session,
                waited,
            } => Input::Request(Request {
                id: question,
                task: Task::Run(Arc::new(task)),
                session,
                seen,
                cancel: None,
                waited,
            }),
            What::Work(work) => plain(Task::Txn(Arc::new(work)), Waited::default()),
            What::Fence(fence) => plain(Task::Run(Arc::new(fence)), Waited::default()),
            What::Recalls(recalls) => {
                let waited = Waited {
                    gone: Some(Arc::default()),
                    ..Waited::default()
                };
                plain(Task::Run(Arc::new(recalls)), waited)
            }
            What::SnapshotTs => Input::SnapshotTs { id: question },
            What::SnapshotAt { ts, rows } => {
                self.watch.asks(question, ts);
                self.links.promised.insert(question, (ts, rows));
                Input::SnapshotAt { id: question, ts }
            }
        };
        self.input(node, group, input)
    }

    /// A leader begins: does an earlier one still answer? Its lease must be over by now.
    pub fn probe_others(&mut self, node: u64, group: u32) {
        for other in self.node_ids().filter(|other| *other != node) {
            if self.leads(other, group) {
                self.after(0, 100, Event::Probe(other, group));
            }
        }
    }

    pub fn probe(&mut self, node: u64, group: u32) -> Result<(), Error> {
        self.totals.add("old leaders asked", 1);
        self.sequence += 1;
        // Not a read of a row: that waits for what is in flight, which is for ever at a leader that is cut off.
        let id = u64::MAX - self.sequence;
        self.input(node, group, Input::SnapshotTs { id })
    }

    pub fn snapshot_ready(
        &mut self,
        node: u64,
        group: u32,
        id: u64,
        result: Result<(), Error>,
    ) -> Result<(), Error> {
        let (ts, rows) = self.links.promised.remove(&id).unwrap_or_default();
        let heard = match result {
            Ok(()) => {
                let store = self.nodes[node as usize - 1].machine.member(group).store();
                Ok(rows_at(store, &rows, ts)?)
            }
            Err(error) => Err(error),
        };
        self.answer(id, Heard::Rows(rows, heard));
        Ok(())
    }

    pub fn answer(&mut self, question: u64, heard: Heard) {
        let Some((owner, _)) = self.links.questions.remove(&question) else {
            return;
        };
        if !self.calm && self.rng.permille(self.plan.loss) {
            return self.totals.add("fault: answer lost", 1);
        }
        self.after(50, 1_000, Event::Hear(owner, question, heard));
    }

    /// Connections to a node are gone with it.
    pub fn hang_up(&mut self, node: u64) {
        let questions = self.links.questions.iter();
        let lost = questions.filter(|(_, (_, at))| *at == node);
        let lost: Vec<u64> = lost.map(|(question, _)| *question).collect();
        for question in lost {
            let error = Error::unknown("connection lost");
            self.answer(question, Heard::Reply(Err(error), 0));
        }
    }

    pub fn hear(&mut self, owner: Owner, question: u64, heard: Heard) -> Result<(), Error> {
        let lane = match owner {
            Owner::Lane(lane) if self.links.asked[lane] == question => lane,
            Owner::Lane(_) => return Ok(()),
            Owner::Chore(number) => return self.chore_hears(number, question, heard),
            Owner::Mover => return self.mover_hears(question, heard),
            Owner::Listener(lane, group) => {
                return self.listener_hears(lane, group, question, heard);
            }
        };
        let before = self.clients.lanes[lane].operation();
        self.note(0, 0, || format!("lane {lane} hears {heard:?}"));
        let want = self.clients.hear(lane, self.now, heard, &mut self.rng);
        if let Some(operation) = before
            && self.clients.lanes[lane].operation() != before
        {
            let operation = &self.clients.operations[operation];
            let (op, known) = (operation.op, operation.known.clone());
            self.note(0, 0, || format!("lane {lane} ends {op}: {known:?}"));
        }
        self.take_chores();
        self.begin_listening();
        self.obey(lane, want);
        match self.clients.broken.take() {
            Some(error) => Err(Error::internal(format!("lane {lane} was told: {error}"))),
            None => Ok(()),
        }
    }

    fn take_chores(&mut self) {
        for (home, chore) in std::mem::take(&mut self.clients.chores) {
            self.take_up(home, chore);
        }
    }

    pub fn wake(&mut self, lane: usize, sleep: u64) {
        if self.links.sleeps[lane] != sleep {
            return;
        }
        let (before, hits) = (self.clients.lanes[lane].operation(), self.clients.hits);
        let want = self.clients.wake(lane, self.now, &mut self.rng);
        if self.clients.hits > hits
            && let Some(hit) = self.clients.operations.last()
        {
            let (op, job, known) = (hit.op, hit.job.clone(), hit.known.clone());
            self.note(0, 0, || {
                format!("lane {lane} has kept {op}: {job:?} {known:?}")
            });
        }
        if let (None, Some(operation)) = (before, self.clients.lanes[lane].operation()) {
            let operation = &self.clients.operations[operation];
            let (op, job) = (operation.op, operation.job.clone());
            self.note(0, 0, || format!("lane {lane} begins {op}: {job:?}"));
        }
        self.obey(lane, want);
    }

    fn obey(&mut self, lane: usize, want: Want) {
        match want {
            Want::Send(ask, repeatable) => {
                self.question(Owner::Lane(lane), *ask, repeatable);
            }
            Want::Sleep(us) => {
                self.links.asked[lane] = 0;
                self.links.sleeps[lane] += 1;
                let sleep = self.links.sleeps[lane];
                self.at(self.now + us, Event::Wake(lane, sleep));
            }
            Want::Rest => {}
        }
    }

    /// Sends a question; a `repeatable` one may arrive twice.
    pub fn question(&mut self, owner: Owner, ask: Ask, repeatable: bool) -> u64 {
        // A copy that arrives much later must not be executed again; nobody waits for its answer.
        if repeatable && !self.calm && self.rng.permille(self.plan.double) {
            self.totals.add("fault: request doubled", 1);
            self.sequence += 1;
            let copy = u64::MAX - self.sequence;
            self.after(0, 1_500_000, Event::Ask(copy, ask.clone()));
        }
        self.sequence += 1;
        let question = self.sequence;
        if let Owner::Lane(lane) = owner {
            self.links.asked[lane] = question;
        }
        self.links.questions.insert(question, (owner, ask.node));
        self.after(50, 1_000, Event::Ask(question, ask));
        let timeout = Event::Hear(owner, question, Heard::Timeout);
        self.at(self.now + PATIENCE_US, timeout);
        question
    }

    /// The gateways of a node are gone: what they were doing is left as it is.
    pub fn abandon(&mut self, node: u64) {
        for lane in 0..self.clients.lanes.len() {
            if let Some(want) = self.clients.abandon(lane, node, self.now, &mut self.rng) {
                self.totals.add("gateways lost in a transaction", 1);
                self.obey(lane, want);
            }
        }
    }
}
