//! A transaction over rows of several groups, or a block, as a gateway runs it: locks or a snapshot, then two-phase commit
//! (`txn::messages` has the order of work). One attempt is one `TxnId`; the client begins another after a conflict.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::chores::Chore;
use super::clients::What;
use super::load::{BACK, Job, Row, Serial, encode, group_of, key};
use crate::error::{Class, Error, Result};
use crate::partition::{Budget, Scan, Store, Transaction, TxnEnv, decode_outcome, encode_outcome};
use crate::txn::messages::{
    self, Answer, Commit, Lock, LockMode, LookUp, Part, Prepare, Release, Resolve, Settle, Span,
    TxnId, WaitPolicy, Work, Write,
};

/// A transaction that is not decided after this time is aborted, in microseconds.
const DEADLINE_US: u64 = 8_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The group's latest timestamp; then its rows at the highest.
    Ts(usize),
    Rows(usize),
    /// Locks of one mode in one group.
    Lock(usize),
    /// Going back in time: the range of all rows in one group; then what must change there, step by step.
    LockRange(usize),
    StepBack(usize, bool),
    Prepare(usize),
    Commit,
    /// The commit's answer was lost.
    Resolve,
    LookUp,
}

/// What comes of an answer.
pub enum Turn {
    /// Ask on.
    On,
    /// The client is told this.
    Done(Result<Bytes>),
    /// Nothing has happened; another attempt may.
    Again(Error),
    /// Nobody can tell what happened.
    Lost,
}

pub struct Attempt {
    pub txn: TxnId,
    task: Serial,
    groups: u32,
    session: Option<(u128, u64)>,
    coordinator: u32,
    deadline_ts: u64,
    /// Reads without locks, at this time, and has them checked at the end.
    optimistic: bool,
    since: u64,
    /// To go back to, and how far this stage is.
    to_ts: Option<u64>,
    after: Bytes,
    stage: Stage,
    parts: Vec<u32>,
    locks: Vec<(u32, LockMode, Vec<Row>)>,
    terms: BTreeMap<u32, u64>,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    result: Result<Bytes>,
    prepared_ts: u64,
    /// It was given up, or is done.
    over: bool,
    /// What is to be done in the background.
    pub chores: Vec<Chore>,
}

impl Attempt {
    pub fn new(
        txn: TxnId,
        task: Serial,
        groups: u32,
        session: Option<(u128, u64)>,
        optimistic: bool,
        wall_us: u64,
    ) -> Self {
        let touched = task.rows();
        let to_ts = match task.job {
            Job::Rollback { to_ts } => Some(to_ts),
            _ => None,
        };
        let of: BTreeSet<u32> = match to_ts {
            Some(_) => (1..=groups).collect(),
            None => touched
                .iter()
                .map(|(row, _)| group_of(row.1, groups))
                .collect(),
        };
        // The group that has no part in it decides about a rollback.
        let first = match to_ts {
            Some(_) => groups + 1,
            None => of.first().copied().unwrap_or(1),
        };
        // I11: the session's home is the coordinator, whether or not it has a part in the work.
        let coordinator = session.map_or(first, |(id, _)| 1 + (id % u128::from(groups)) as u32);
        let mut locks: Vec<(u32, LockMode, Vec<Row>)> = Vec::new();
        for (row, writes) in touched {
            let group = group_of(row.1, groups);
            let mode = if writes {
                LockMode::Update
            } else {
                LockMode::Share
            };
            match locks.iter_mut().find(|(g, m, _)| (*g, *m) == (group, mode)) {
                Some((_, _, rows)) => rows.push(row),
                None => locks.push((group, mode, vec![row])),
            }
        }
        let parts: Vec<u32> = of.into_iter().collect();
        Self {
            txn,
            task,
            groups,
            session,
            coordinator,
            deadline_ts: wall_us + DEADLINE_US,
            optimistic,
            since: 0,
            to_ts,
            after: Bytes::new(),
            stage: if to_ts.is_some() {
                Stage::LockRange(0)
            } else if optimistic {
                Stage::Ts(0)
            } else {
                Stage::Lock(0)
            },
            parts,
            locks,
            terms: BTreeMap::new(),
            rows: BTreeMap::new(),
            writes: BTreeMap::new(),
            result: Ok(Bytes::new()),
            prepared_ts: 0,
            over: false,
            chores: Vec::new(),
        }
    }

    /// Groups that prepare: all but the coordinator.
    fn others(&self) -> Vec<u32> {
        let others = self
            .parts
            .iter()
            .filter(|group| **group != self.coordinator);
        others.copied().collect()
    }

    /// The present question, and whether a copy of it may come twice.
    pub fn question(&self) -> (u32, What, bool) {
        let work = |group, work| (group, What::Work(work), true);
        match self.stage {
            Stage::Ts(at) => (self.parts[at], What::SnapshotTs, true),
            Stage::Rows(at) => {
                let (ts, group) = (self.since, self.parts[at]);
                let rows = self.task.rows().into_iter().map(|(row, _)| row);
                let rows = rows.filter(|row| group_of(row.1, self.groups) == group);
                let rows = rows.collect();
                (group, What::SnapshotAt { ts, rows }, true)
            }
            Stage::Lock(at) => {
                let (group, mode, rows) = &self.locks[at];
                let mut lock = Lock {
                    txn: self.txn,
                    keys: rows.iter().map(|row| key(*row)).collect(),
                    ..Lock::default()
                };
                lock.set_mode(*mode);
                // Before the first lock it holds none.
                lock.set_wait(match at {
                    0 => WaitPolicy::Patient,
                    _ => WaitPolicy::Wait,
                });
                work(*group, Work::Lock(lock))
            }
            Stage::LockRange(at) => work(self.parts[at], self.lock_all()),
            Stage::StepBack(at, inserted) => work(self.parts[at], self.step_back(inserted)),
            Stage::Prepare(at) => {
                let group = self.others()[at];
                let prepare = Prepare {
                    part: self.part(group),
                    coordinator: self.coordinator,
                };
                (group, What::Work(Work::Prepare(prepare)), false)
            }
            Stage::Commit => {
                let (session, number) = self.session_bytes();
                let commit = Commit {
                    part: self.part(self.coordinator),
                    others: self.others(),
                    prepared_ts: self.prepared_ts,
                    outcome: encode_outcome(&self.result).unwrap_or_default(),
                    session,
                    number,
                };
                (self.coordinator, What::Work(Work::Commit(commit)), false)
            }
            Stage::Resolve => {
                let (txn, deadline_ts) = (self.txn, self.deadline_ts);
                work(
                    self.coordinator,
                    Work::Resolve(Resolve { txn, deadline_ts }),
                )
            }
            Stage::LookUp => {
                let (session, number) = self.session_bytes();
                work(self.coordinator, Work::LookUp(LookUp { session, number }))
            }
        }
    }

    fn lock_all(&self) -> Work {
        let mut lock = Lock {
            txn: self.txn,
            ranges: vec![all_of_back()],
            ..Lock::default()
        };
        lock.set_mode(LockMode::Update);
        lock.set_wait(WaitPolicy::Wait);
        Work::Lock(lock)
    }

    fn step_back(&self, inserted: bool) -> Work {
        Work::Stage(messages::Stage {
            txn: self.txn,
            to_ts: self.to_ts.unwrap_or(0),
            inserted,
            after: self.after.clone(),
        })
    }

    fn session_bytes(&self) -> (Bytes, u64) {
        self.session.map_or((Bytes::new(), 0), |(id, number)| {
            (Bytes::copy_from_slice(&id.to_be_bytes()), number)
        })
    }

    fn part(&self, group: u32) -> Part {
        let of_group = |key: &&Bytes| group_of_key(key, self.groups) == group;
        let own_count = |key: &Bytes| *key == key_of_done(self.task.op);
        let writes = self.writes.iter().filter(|(key, _)| match own_count(key) {
            // How often it ran is counted where it is decided.
            true => group == self.coordinator,
            false => of_group(key),
        });
        let writes = writes.map(|(key, value)| Write {
            key: key.clone(),
            value: value.clone(),
        });
        let reads = self.rows.keys().filter(of_group).cloned().map(Span::key);
        Part {
            txn: self.txn,
            term: self.terms.get(&group).copied(),
            since: self.optimistic.then_some(self.since),
            reads: if self.optimistic {
                reads.collect()
            } else {
                Vec::new()
            },
            writes: writes.collect(),
            guards: Vec::new(),
            staged: self.to_ts.is_some(),
            deadline_ts: self.deadline_ts,
        }
    }

    /// The latest timestamp of a group.
    pub fn ts(&mut self, ts: u64) -> Turn {
        if let Stage::Ts(at) = self.stage {
            self.since = self.since.max(ts);
            self.stage = match at + 1 < self.parts.len() {
                true => Stage::Ts(at + 1),
                false => Stage::Rows(0),
            };
        }
        Turn::On
    }

    /// The rows of a group at the snapshot's time.
    pub fn seen(&mut self, asked: &[Row], rows: &BTreeMap<Row, Vec<u64>>) -> Turn {
        for row in asked {
            let value = rows.get(row).map(|numbers| super::load::encode(numbers));
            self.rows.insert(key(*row), value);
        }
        match self.stage {
            Stage::Rows(at) if at + 1 < self.parts.len() => self.stage = Stage::Rows(at + 1),
            _ => self.execute(),
        }
        Turn::On
    }

    /// An answer to work, or why there is none.
    pub fn answered(&mut self, reply: Result<Answer>) -> Turn {
        match (self.stage, reply) {
            (Stage::Lock(at), Ok(Answer::Locked(locked))) => {
                let (group, _, rows) = &self.locks[at];
                // Locks of two terms do not go together.
                let term = *self.terms.entry(*group).or_insert(locked.term);
                if term != locked.term {
                    return self.abort(Error::retry("40001", "the leader changed"));
                }
                for (row, locked) in rows.iter().zip(locked.rows) {
                    self.rows.insert(key(*row), locked.value);
                }
                match at + 1 < self.locks.len() {
                    true => self.stage = Stage::Lock(at + 1),
                    false => self.execute(),
                }
                Turn::On
            }
            (Stage::LockRange(at), Ok(Answer::Locked(locked))) => {
                self.terms.insert(self.parts[at], locked.term);
                self.stage = match at + 1 < self.parts.len() {
                    true => Stage::LockRange(at + 1),
                    false => Stage::Prepare(0),
                };
                Turn::On
            }
            (Stage::StepBack(at, inserted), Ok(Answer::Staged(staged))) => {
                self.staged(at, inserted, staged.next)
            }
            (Stage::Prepare(at), Ok(Answer::Prepared(stamp))) => {
                self.prepared_ts = self.prepared_ts.max(stamp.ts);
                self.stage = match at + 1 < self.others().len() {
                    true => Stage::Prepare(at + 1),
                    false if self.to_ts.is_some() => Stage::StepBack(0, false),
                    false => Stage::Commit,
                };
                Turn::On
            }
            (Stage::Commit, Ok(Answer::Committed(stamp))) => self.committed(stamp.ts),
            (Stage::Commit, Ok(Answer::Repeated(outcome))) => {
                self.clean_up();
                Turn::Done(recorded(outcome.recorded))
            }
            (Stage::Resolve, Ok(Answer::Decided(decision))) => match decision.commit_ts {
                Some(ts) => self.committed(ts),
                None => self.abort(Error::retry("40001", "decided to abort")),
            },
            (Stage::LookUp, Ok(Answer::Known(outcome))) if outcome.recorded.is_some() => {
                self.clean_up();
                Turn::Done(recorded(outcome.recorded))
            }
            (Stage::LookUp, Ok(Answer::Known(_))) => {
                self.abort(Error::retry("40001", "not executed yet"))
            }
            (_, Ok(answer)) => Turn::Done(Err(Error::internal(format!("unexpected {answer:?}")))),
            (_, Err(error)) => self.failed(error),
        }
    }

    /// A step is done; the next begins behind it, or is of the next kind, or in the next group.
    fn staged(&mut self, at: usize, inserted: bool, next: Option<Bytes>) -> Turn {
        match next {
            Some(next) if next == self.after => {
                return Turn::Again(Error::retry("53100", "not applied yet"));
            }
            Some(next) => self.after = next,
            None => {
                self.after = Bytes::new();
                self.stage = match (inserted, at + 1 < self.parts.len()) {
                    (false, _) => Stage::StepBack(at, true),
                    (true, true) => Stage::StepBack(at + 1, false),
                    (true, false) => Stage::Commit,
                };
            }
        }
        Turn::On
    }

    pub fn failed(&mut self, error: Error) -> Turn {
        match (self.stage, error.class()) {
            // May be repeated, at another leader too.
            (Stage::StepBack(..), Class::Retry | Class::Unknown) if error.sqlstate() != "40001" => {
                Turn::Again(error)
            }
            (Stage::Commit, Class::Unknown) if !self.others().is_empty() => {
                self.stage = Stage::Resolve;
                Turn::Again(error)
            }
            (Stage::Commit, Class::Unknown) if self.session.is_some() => {
                self.stage = Stage::LookUp;
                Turn::Again(error)
            }
            (Stage::Commit, Class::Unknown) => Turn::Lost,
            // These are asked until they are answered.
            (Stage::Resolve | Stage::LookUp, Class::Retry | Class::Unknown) => Turn::Again(error),
            // The session was evicted: another attempt would not be told apart from the first.
            (Stage::Commit | Stage::LookUp, Class::Request) => {
                self.clean_up();
                Turn::Lost
            }
            (_, Class::Request) if error.sqlstate() == "25000" => self.abort(error),
            (_, Class::Request) => Turn::Done(Err(error)),
            (_, Class::Retry | Class::Unknown) => self.abort(error),
        }
    }

    /// True if the same transaction goes on after a failure: only its question is repeated.
    pub fn goes_on(&self) -> bool {
        !self.over
            && matches!(
                self.stage,
                Stage::Resolve | Stage::LookUp | Stage::StepBack(..)
            )
    }

    fn execute(&mut self) {
        let mut view = View {
            rows: &self.rows,
            writes: BTreeMap::new(),
            own_count: key_of_done(self.task.op),
        };
        let mut env = TxnEnv {
            wall_us: 0,
            seed: 0,
            partition: 0,
            partitions: self.groups,
            budget: Budget::new(1000),
            wait: None,
            lease: None,
        };
        self.result = self.task.run(&mut view, &mut env);
        self.writes = view.writes;
        self.stage = match self.others().is_empty() {
            true => Stage::Commit,
            false => Stage::Prepare(0),
        };
    }

    fn committed(&mut self, ts: u64) -> Turn {
        let (txn, others) = (self.txn, self.others());
        if !others.is_empty() {
            self.chores
                .push(Chore::finish(txn, ts, &others, self.coordinator));
        }
        Turn::Done(match self.to_ts {
            Some(_) => Ok(encode(&[ts])),
            None => self.result.clone(),
        })
    }

    fn abort(&mut self, error: Error) -> Turn {
        self.clean_up();
        Turn::Again(error)
    }

    /// Whatever may be locked or prepared anywhere is given up.
    pub fn clean_up(&mut self) {
        self.over = true;
        let txn = self.txn;
        let mut works: Vec<(u32, Work)> = Vec::new();
        for group in &self.parts {
            works.push((
                *group,
                match *group == self.coordinator {
                    true => Work::Release(Release { txn }),
                    false => Work::Settle(Settle {
                        txn,
                        commit_ts: None,
                    }),
                },
            ));
        }
        self.chores.push(Chore::new(works));
    }
}

fn all_of_back() -> Span {
    let from = |table: u32| Bytes::copy_from_slice(&table.to_be_bytes());
    Span::range(from(BACK), from(BACK + 1))
}

fn recorded(outcome: Option<Bytes>) -> Result<Bytes> {
    decode_outcome(&outcome.unwrap_or_default())
}

fn key_of_done(op: u64) -> Bytes {
    key((super::load::DONE, op))
}

fn group_of_key(key: &[u8], groups: u32) -> u32 {
    let row = super::load::decode(key.get(6..).unwrap_or(&[]))
        .first()
        .copied();
    group_of(row.unwrap_or(0), groups)
}

/// What was read, and what the transaction makes of it.
struct View<'a> {
    rows: &'a BTreeMap<Bytes, Option<Bytes>>,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    /// The row by which it counts itself: it is new, and nobody else's.
    own_count: Bytes,
}

impl Store for View<'_> {
    fn get(&mut self, key: &[u8], _slot: Option<u16>) -> Result<Option<Bytes>> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        match self.rows.get(key) {
            Some(value) => Ok(value.clone()),
            None if key == self.own_count => Ok(None),
            None => Err(Error::internal("a row that was not asked for")),
        }
    }

    fn scan(&mut self, _scan: Scan<'_>, _out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        Err(Error::internal("no job scans"))
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.writes.insert(key, Some(value));
        Ok(())
    }
}
