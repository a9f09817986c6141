//! Simulated clients: lanes that do one operation after another and retry as design.md section 6 says. Some lanes share a
//! session, whose requests they number; some requests have no number, and are lost when their outcome is.

mod draw;
mod kept;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::check::{Known, Operation};
use super::chores::Chore;
use super::gateway::{Attempt, Turn};
use super::load::{Job, Picture, Row, Serial};
use super::load::{decode, group_of};
use super::plan::Plan;
use super::recalls::Recalls;
use super::rng::Rng;
use super::world::EPOCH_US;
use crate::error::{Class, Error};
use crate::partition::{Fence, WAITS, Waited};
use crate::txn::messages::{Answer, TxnId, Work};
use draw::{Active, LISTS, REGISTERS};
use kept::Kept;
pub use kept::lease_told;

/// Lanes of one session, and sessions.
const LANES: usize = 3;
const SESSIONS: usize = 4;

/// What a lane wants next.
// Made and taken apart at once: there is never a list of them.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Want {
    /// Send this; true if a copy of it may arrive too.
    Send(Box<Ask>, bool),
    /// Nothing before this time has passed.
    Sleep(u64),
    /// It has stopped.
    Rest,
}

#[derive(Clone, Debug)]
pub struct Ask {
    pub node: u64,
    pub group: u32,
    pub what: What,
    /// The highest timestamp that the asker has seen.
    pub seen: u64,
}

#[derive(Clone, Debug)]
pub enum What {
    Run {
        task: Serial,
        session: Option<(u128, u64)>,
        waited: Waited,
    },
    /// Of a transaction that a gateway runs.
    Work(Work),
    SnapshotTs,
    SnapshotAt {
        ts: u64,
        rows: Vec<Row>,
    },
    /// Of whoever moves the group.
    Fence(Fence),
    /// Of a lane that keeps something.
    Recalls(Recalls),
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Heard {
    /// With the timestamp that it rests on.
    Reply(Result<Bytes, Error>, u64),
    Ts(Result<u64, Error>),
    /// With the rows asked for.
    Rows(Vec<Row>, Result<Picture, Error>),
    Timeout,
}

/// How far a snapshot is.
struct Snapshot {
    /// The groups asked so far in this round.
    asked: u32,
    ts: u64,
    reading: bool,
    seen: Picture,
}

struct Current {
    operation: usize,
    session: Option<(u128, u64)>,
    snapshot: Snapshot,
    /// A gateway runs it, and whether it reads without locks.
    gateway: Option<bool>,
    attempt: Option<Attempt>,
    /// When it began, for its age.
    start_us: u64,
    /// How long it has waited for a change.
    waited_us: u64,
    /// The leader can tell when the client is gone, and is told so here.
    gone: Option<Arc<AtomicBool>>,
}

pub struct Lane {
    session: usize,
    current: Option<Current>,
    /// The node to ask for each group.
    nodes: Vec<u64>,
    /// The node whose gateway it uses.
    home: u64,
    /// The last value seen of a register, for swaps.
    seen: (u64, u64),
    /// The highest timestamp it was told, carried by its next request: hybrid logical, microseconds.
    clock: u64,
    pub kept: Kept,
}

impl Lane {
    /// Place of the present operation in the history.
    pub fn operation(&self) -> Option<usize> {
        self.current.as_ref().map(|current| current.operation)
    }

    pub fn ask(&self, group: u32, what: What) -> Box<Ask> {
        Box::new(Ask {
            node: self.nodes[group as usize - 1],
            group,
            what,
            seen: self.clock,
        })
    }

    /// Causality: whatever the lane asks for from now on comes after what it hears.
    fn learn(&mut self, heard: &Heard) {
        let ts = match heard {
            Heard::Reply(_, ts) | Heard::Ts(Ok(ts)) => *ts,
            // A snapshot's own time is that of the lane already.
            _ => 0,
        };
        self.clock = self.clock.max(ts);
    }
}

/// All lanes with their history.
pub struct Clients {
    pub lanes: Vec<Lane>,
    pub operations: Vec<Operation>,
    sessions: Vec<(u128, u64)>,
    /// Nodes that are not gone for ever, in order.
    pub nodes: Vec<u64>,
    groups: u32,
    registers: Vec<Vec<Active>>,
    lists: Vec<Vec<Active>>,
    /// Rows handed out so far in each group.
    rows: u64,
    pub retries: u64,
    /// Attempts that met another transaction.
    pub conflicts: u64,
    /// Attempts begun so far.
    attempts: u64,
    /// They send messages, and wait for them.
    waits: bool,
    /// They go back to earlier times.
    rollbacks: bool,
    /// They keep registers under leases: registers kept so far, and reads of them.
    leases: bool,
    pub kept: u64,
    pub hits: u64,
    /// Lanes that keep something new of a group.
    pub keepers: Vec<(usize, u32)>,
    pub stopping: bool,
    /// For the nodes whose gateways leave them.
    pub chores: Vec<(u64, Chore)>,
    /// An answer that no client should ever get.
    pub broken: Option<Error>,
}

impl Clients {
    pub fn new(plan: &Plan) -> Self {
        let (nodes, groups) = (plan.nodes, plan.groups);
        let lane = |lane: usize| Lane {
            session: lane / LANES,
            current: None,
            nodes: vec![1 + lane as u64 % nodes; plan.all_groups() as usize],
            home: 1 + lane as u64 % nodes,
            seen: (0, 0),
            clock: 0,
            kept: Kept::new(lane),
        };
        let mut rows = 0;
        let mut fresh = |count: usize| {
            let of_group = |group: u32, rows: &mut u64| -> Vec<Active> {
                let first = *rows;
                *rows += count as u64;
                let row = |n: u64| n * u64::from(groups) + u64::from(group);
                (first..*rows)
                    .map(|n| Active {
                        row: row(n),
                        uses: 0,
                    })
                    .collect()
            };
            (0..groups)
                .map(|group| of_group(group, &mut rows))
                .collect()
        };
        Self {
            lanes: (0..SESSIONS * LANES).map(lane).collect(),
            operations: Vec::new(),
            sessions: (1..=SESSIONS as u128).map(|id| (id, 0)).collect(),
            nodes: (1..=nodes).collect(),
            groups,
            registers: fresh(REGISTERS),
            lists: fresh(LISTS),
            rows,
            retries: 0,
            conflicts: 0,
            attempts: 0,
            waits: plan.waits,
            rollbacks: plan.rollbacks,
            leases: plan.leases,
            kept: 0,
            hits: 0,
            keepers: Vec::new(),
            stopping: false,
            chores: Vec::new(),
            broken: None,
        }
    }

    pub fn idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.current.is_none())
    }

    /// The lane is awake: begins an operation, or repeats its question.
    pub fn wake(&mut self, lane: usize, now_us: u64, rng: &mut Rng) -> Want {
        if self.lanes[lane].current.is_none() {
            if self.stopping {
                return Want::Rest;
            }
            if self.use_kept(lane, now_us, rng) {
                return Want::Sleep(rng.range(0, 200_000));
            }
            self.begin(lane, now_us, rng);
        } else {
            self.retries += 1;
        }
        self.attempt(lane, now_us);
        self.lanes[lane].kept.asks(now_us);
        self.be_there(lane);
        self.question(lane)
    }

    /// A receiver whose home is the node that it asks is seen there when it hangs up.
    fn be_there(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        let Some(current) = &mut lane.current else {
            return;
        };
        if let Job::Receive { from, .. } = self.operations[current.operation].job {
            let node = lane.nodes[group_of(from, self.groups) as usize - 1];
            current.gone = (node == lane.home).then(Arc::default);
        }
    }

    /// The gateway's part of an operation begins, or begins anew.
    fn attempt(&mut self, lane: usize, now_us: u64) {
        let Some(current) = &self.lanes[lane].current else {
            return;
        };
        let (Some(optimistic), None) = (current.gateway, &current.attempt) else {
            return;
        };
        self.attempts += 1;
        let operation = &self.operations[current.operation];
        let txn = TxnId {
            // Going back in time is older than everything else.
            start: match operation.job {
                Job::Rollback { .. } => 1,
                _ => current.start_us,
            },
            node: self.lanes[lane].home,
            number: self.attempts,
        };
        let task = Serial {
            op: operation.op,
            job: operation.job.clone(),
            lease: None,
        };
        let wall_us = EPOCH_US as u64 + now_us;
        let (groups, session) = (self.groups, current.session);
        let attempt = Attempt::new(txn, task, groups, session, optimistic, wall_us);
        if let Some(current) = &mut self.lanes[lane].current {
            current.attempt = Some(attempt);
        }
    }

    fn question(&self, lane: usize) -> Want {
        let lane = &self.lanes[lane];
        let Some(current) = &lane.current else {
            return Want::Rest;
        };
        if let Some(attempt) = &current.attempt {
            let (group, what, repeatable) = attempt.question();
            return Want::Send(lane.ask(group, what), repeatable);
        }
        let operation = &self.operations[current.operation];
        let (group, what) = match &operation.job {
            Job::Snapshot { rows, .. } => {
                let group = current.snapshot.asked + 1;
                let of_group = |row: &&Row| group_of(row.1, self.groups) == group;
                let what = if current.snapshot.reading {
                    What::SnapshotAt {
                        ts: current.snapshot.ts,
                        rows: rows.iter().filter(of_group).copied().collect(),
                    }
                } else {
                    What::SnapshotTs
                };
                (group, what)
            }
            job => {
                let keeps = self.leases && matches!(job, Job::Get { .. });
                let task = Serial {
                    op: operation.op,
                    job: job.clone(),
                    lease: keeps.then(|| lane.kept.ask(operation.op)),
                };
                let run = What::Run {
                    task,
                    session: current.session,
                    waited: Waited {
                        us: current.waited_us,
                        gone: current.gone.clone(),
                        ..Waited::default()
                    },
                };
                (job.group(self.groups), run)
            }
        };
        let repeatable = current.session.is_some() || !operation.job.writes();
        Want::Send(lane.ask(group, what), repeatable)
    }

    fn begin(&mut self, lane: usize, now_us: u64, rng: &mut Rng) {
        let op = self.operations.len() as u64 + 1;
        let job = self.draw(lane, op, rng);
        let numbered = job.writes() && rng.range(0, 10) > 0;
        let several = job.group(self.groups) == 0;
        let block = matches!(job, Job::Lists(_) | Job::Transfer { .. }) && rng.range(0, 5) == 0;
        let by_gateway = !matches!(job, Job::Snapshot { .. }) && (several || block);
        let locks_all = matches!(job, Job::Rollback { .. });
        let gateway = by_gateway.then(|| rng.range(0, 3) == 0 && !locks_all);
        let session = numbered.then(|| {
            let (id, number) = &mut self.sessions[self.lanes[lane].session];
            *number += 1;
            (*id, *number)
        });
        self.lanes[lane].current = Some(Current {
            operation: self.operations.len(),
            session,
            snapshot: Snapshot {
                asked: 0,
                ts: 0,
                reading: false,
                seen: Picture::new(),
            },
            gateway,
            attempt: None,
            start_us: EPOCH_US as u64 + now_us,
            waited_us: 0,
            gone: None,
        });
        self.operations.push(Operation {
            op,
            lane,
            job,
            begun_us: now_us,
            ended_us: u64::MAX,
            known: Known::Unknown,
        });
    }

    /// An answer for the lane's present question.
    pub fn hear(&mut self, lane: usize, now_us: u64, heard: Heard, rng: &mut Rng) -> Want {
        self.lanes[lane].learn(&heard);
        let clock = self.lanes[lane].clock;
        let Some(current) = &mut self.lanes[lane].current else {
            return Want::Rest;
        };
        if current.attempt.is_some() {
            return self.gateway_hears(lane, now_us, heard, rng);
        }
        let job = &self.operations[current.operation].job;
        let error = match heard {
            Heard::Reply(Ok(reply), _) => return self.replied(lane, now_us, &reply, rng),
            Heard::Ts(Ok(ts)) => {
                let snapshot = &mut current.snapshot;
                snapshot.ts = snapshot.ts.max(ts).max(clock);
                snapshot.asked += 1;
                if snapshot.asked == self.groups {
                    (snapshot.asked, snapshot.reading) = (0, true);
                    if let Job::Snapshot { ahead_us, .. } = job {
                        snapshot.ts += ahead_us;
                    }
                    self.lanes[lane].clock = snapshot.ts;
                }
                return self.question(lane);
            }
            Heard::Rows(_, Ok(rows)) => {
                let snapshot = &mut current.snapshot;
                snapshot.seen.extend(rows);
                snapshot.asked += 1;
                if snapshot.asked < self.groups {
                    return self.question(lane);
                }
                let known = Known::Saw(snapshot.ts, std::mem::take(&mut snapshot.seen));
                return self.end(lane, now_us, known, rng);
            }
            Heard::Timeout => Error::unknown("no answer"),
            Heard::Reply(Err(error), _) | Heard::Ts(Err(error)) | Heard::Rows(_, Err(error)) => {
                error
            }
        };
        self.failed(lane, now_us, &error, rng)
    }

    fn replied(&mut self, lane: usize, now_us: u64, reply: &[u8], rng: &mut Rng) -> Want {
        let mut reply = decode(reply);
        self.keep(lane, &mut reply, now_us);
        let operation = self.lanes[lane].operation();
        match (operation.map(|o| &self.operations[o].job), reply.first()) {
            (Some(Job::Get { register }), Some(value)) => {
                self.lanes[lane].seen = (*register, *value);
            }
            (Some(Job::Put { register, value }), _) => {
                self.lanes[lane].seen = (*register, *value);
            }
            _ => {}
        }
        self.end(lane, now_us, Known::Done(reply), rng)
    }

    fn gateway_hears(&mut self, lane: usize, now_us: u64, heard: Heard, rng: &mut Rng) -> Want {
        let (group, home) = (self.group_asked(lane), self.lanes[lane].home);
        let Some(current) = &mut self.lanes[lane].current else {
            return Want::Rest;
        };
        let Some(attempt) = &mut current.attempt else {
            return Want::Rest;
        };
        let turn = match heard {
            Heard::Reply(reply, _) => attempt.answered(reply.and_then(Answer::from_bytes)),
            Heard::Ts(Ok(ts)) => attempt.ts(ts),
            Heard::Rows(asked, Ok(rows)) => attempt.seen(&asked, &rows),
            Heard::Ts(Err(error)) | Heard::Rows(_, Err(error)) => attempt.failed(error),
            Heard::Timeout => attempt.failed(Error::unknown("no answer")),
        };
        let left = std::mem::take(&mut attempt.chores);
        self.chores
            .extend(left.into_iter().map(|chore| (home, chore)));
        let goes_on = attempt.goes_on();
        match turn {
            Turn::On => self.question(lane),
            Turn::Done(Ok(reply)) => self.end(lane, now_us, Known::Done(decode(&reply)), rng),
            Turn::Done(Err(error)) => {
                self.broken.get_or_insert(error);
                self.end(lane, now_us, Known::Unknown, rng)
            }
            Turn::Again(error) => {
                if !goes_on {
                    current.attempt = None;
                }
                let refused = matches!(error.sqlstate(), "40001" | "40P01");
                let job = &self.operations[current.operation].job;
                let gives_up = refused && !goes_on && matches!(job, Job::Rollback { .. });
                self.conflicts += u64::from(refused);
                self.ask_another(lane, group, &error);
                if gives_up {
                    // As at a node: whoever asked for it may ask again. Older than all others, they would starve if it never
                    // gave up.
                    return self.end(lane, now_us, Known::Unknown, rng);
                }
                Want::Sleep(rng.range(1_000, 80_000))
            }
            Turn::Lost => {
                self.new_session(lane);
                self.end(lane, now_us, Known::Unknown, rng)
            }
        }
    }

    /// The node whose gateway the lane uses is gone, and nothing was cleaned up.
    pub fn abandon(&mut self, lane: usize, node: u64, now_us: u64, rng: &mut Rng) -> Option<Want> {
        if self.lanes[lane].home != node {
            return None;
        }
        self.lanes[lane].home = self.next_node(node);
        let current = self.lanes[lane].current.as_mut()?;
        current.attempt.take()?;
        if current.session.is_none() {
            return Some(self.end(lane, now_us, Known::Unknown, rng));
        }
        Some(Want::Sleep(rng.range(1_000, 80_000)))
    }

    fn group_asked(&self, lane: usize) -> u32 {
        match self.question(lane) {
            Want::Send(ask, _) => ask.group,
            Want::Sleep(_) | Want::Rest => 1,
        }
    }

    fn ask_another(&mut self, lane: usize, group: u32, error: &Error) {
        let hint = error.get_detail().and_then(|node| node.parse().ok());
        let place = group as usize - 1;
        let next = self.next_node(self.lanes[lane].nodes[place]);
        match error.sqlstate() {
            // The right node was asked.
            "40001" | "40P01" | "53300" | WAITS => {}
            _ => self.lanes[lane].nodes[place] = hint.unwrap_or(next),
        }
    }

    /// Whom to ask after `node`; as at a node, whose list of nodes is that of the cluster.
    pub fn next_node(&self, node: u64) -> u64 {
        let next = self.nodes.iter().find(|other| **other > node);
        next.or(self.nodes.first()).copied().unwrap_or(1)
    }

    fn new_session(&mut self, lane: usize) {
        let (id, number) = &mut self.sessions[self.lanes[lane].session];
        (*id, *number) = (*id + 1000, 0);
    }

    fn failed(&mut self, lane: usize, now_us: u64, error: &Error, rng: &mut Rng) -> Want {
        let group = self.group_asked(lane);
        let Some(current) = &self.lanes[lane].current else {
            return Want::Rest;
        };
        let operation = &self.operations[current.operation];
        let (writes, begun_us) = (operation.job.writes(), operation.begun_us);
        if let Some(current) = &mut self.lanes[lane].current
            && let Some(gone) = current.gone.take()
        {
            gone.store(true, Ordering::Relaxed);
        }
        let Some(current) = &mut self.lanes[lane].current else {
            return Want::Rest;
        };
        current.waited_us = now_us - begun_us;
        match error.class() {
            Class::Request if error.sqlstate() == "P0001" => {
                let told = error.message().split_whitespace();
                let told = told.filter_map(|word| word.parse().ok()).collect();
                self.end(lane, now_us, Known::Failed(told), rng)
            }
            Class::Request => {
                // An evicted session is of no use any more; what became of the request is not known.
                if !matches!(error.sqlstate(), "08P01" | "72000") {
                    self.broken.get_or_insert(error.clone());
                }
                self.new_session(lane);
                self.end(lane, now_us, Known::Unknown, rng)
            }
            // Without a number a second try could be a second execution.
            Class::Unknown if writes && current.session.is_none() => {
                self.end(lane, now_us, Known::Unknown, rng)
            }
            Class::Retry | Class::Unknown => {
                self.ask_another(lane, group, error);
                Want::Sleep(rng.range(1_000, 80_000))
            }
        }
    }

    fn end(&mut self, lane: usize, now_us: u64, known: Known, rng: &mut Rng) -> Want {
        if let Some(current) = self.lanes[lane].current.take() {
            let operation = &mut self.operations[current.operation];
            // What is not known may still happen.
            if known != Known::Unknown {
                operation.ended_us = now_us;
            }
            operation.known = known;
        }
        Want::Sleep(match rng.range(0, 10) {
            0..6 => rng.range(0, 10_000),
            _ => rng.range(0, 1_000_000),
        })
    }
}
