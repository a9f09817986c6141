//! Simulated clients: lanes that send one operation after another and retry as design.md section 6 says. Some lanes share
//! a session, whose requests they number.

use bytes::Bytes;

use super::check::{Known, Operation};
use super::rng::Rng;
use super::work::{ACCOUNTS, COUNTERS, Work};
use crate::error::{Class, Error};

/// Lanes of one session.
const LANES: usize = 3;

/// What a lane wants next.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// Send this to the lane's node.
    Send(Ask),
    /// Nothing before this time has passed.
    Sleep(u64),
    /// It has stopped.
    Rest,
}

#[derive(Clone, Copy, Debug)]
pub enum Ask {
    Run {
        work: Work,
        session: Option<(u128, u64)>,
    },
    SnapshotTs,
    SnapshotAt {
        ts: u64,
    },
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Heard {
    Reply(Result<Bytes, Error>),
    Ts(Result<u64, Error>),
    Snapshot(Result<(), Error>, Option<Box<super::work::Picture>>),
    Timeout,
}

struct Current {
    operation: usize,
    work: Work,
    session: Option<(u128, u64)>,
    ts: Option<u64>,
}

pub struct Lane {
    session: usize,
    current: Option<Current>,
    /// The node to ask, from 1.
    pub node: u64,
}

/// All lanes with their history.
pub struct Clients {
    pub lanes: Vec<Lane>,
    pub operations: Vec<Operation>,
    sessions: Vec<(u128, u64)>,
    nodes: u64,
    ops: u64,
    pub stopping: bool,
}

impl Clients {
    pub fn new(sessions: usize, nodes: u64) -> Self {
        Self {
            lanes: (0..sessions * LANES)
                .map(|lane| Lane {
                    session: lane / LANES,
                    current: None,
                    node: 1 + lane as u64 % nodes,
                })
                .collect(),
            operations: Vec::new(),
            sessions: (1..=sessions as u128).map(|id| (id, 0)).collect(),
            nodes,
            ops: 0,
            stopping: false,
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
            self.begin(lane, now_us, rng);
        }
        match &self.lanes[lane].current {
            Some(current) => Want::Send(match (current.work, current.ts) {
                (Work::Snapshot { .. }, None) => Ask::SnapshotTs,
                (Work::Snapshot { .. }, Some(ts)) => Ask::SnapshotAt { ts },
                (work, _) => Ask::Run {
                    work,
                    session: current.session,
                },
            }),
            None => Want::Rest,
        }
    }

    fn begin(&mut self, lane: usize, now_us: u64, rng: &mut Rng) {
        self.ops += 1;
        let op = self.ops;
        let counter = rng.range(0, COUNTERS);
        let work = match rng.range(0, 100) {
            0..35 => Work::Add { counter, op },
            35..60 => Work::Transfer {
                from: rng.range(0, ACCOUNTS),
                to: rng.range(0, ACCOUNTS),
                amount: rng.range(1, 100),
                op,
            },
            60..80 => Work::Read { counter },
            80..90 => Work::Fail { counter, op },
            _ => Work::Snapshot {
                ahead_us: rng.range(0, 2) * rng.range(0, 400_000),
            },
        };
        let session = work.op().map(|_| {
            let (id, number) = &mut self.sessions[self.lanes[lane].session];
            *number += 1;
            (*id, *number)
        });
        self.lanes[lane].current = Some(Current {
            operation: self.operations.len(),
            work,
            session,
            ts: None,
        });
        self.operations.push(Operation {
            work,
            begun_us: now_us,
            ended_us: u64::MAX,
            known: Known::Unknown,
        });
    }

    /// An answer for the lane's present question.
    pub fn hear(&mut self, lane: usize, now_us: u64, heard: Heard, rng: &mut Rng) -> Want {
        let Some(current) = &mut self.lanes[lane].current else {
            return Want::Rest;
        };
        let error = match heard {
            Heard::Reply(Ok(reply)) => {
                let value = reply
                    .first_chunk::<8>()
                    .map_or(0, |b| u64::from_be_bytes(*b));
                return self.end(lane, now_us, Known::Done(value), rng);
            }
            Heard::Ts(Ok(ts)) => {
                if let Work::Snapshot { ahead_us } = current.work {
                    current.ts = Some(ts + ahead_us);
                }
                return Want::Sleep(0);
            }
            Heard::Snapshot(Ok(()), Some(picture)) => {
                let ts = current.ts.unwrap_or(0);
                return self.end(lane, now_us, Known::Saw(ts, picture), rng);
            }
            Heard::Snapshot(Ok(()), None) | Heard::Timeout => Error::unknown("no answer"),
            Heard::Reply(Err(error)) | Heard::Ts(Err(error)) | Heard::Snapshot(Err(error), _) => {
                error
            }
        };
        match error.class() {
            Class::Request if error.sqlstate() == "P0001" => {
                let value = error.message().parse().unwrap_or(u64::MAX);
                self.end(lane, now_us, Known::Failed(value), rng)
            }
            Class::Request => {
                // The session is of no use any more; what became of the request is not known.
                let (id, number) = &mut self.sessions[self.lanes[lane].session];
                (*id, *number) = (*id + 1000, 0);
                self.end(lane, now_us, Known::Unknown, rng)
            }
            Class::Retry | Class::Unknown => {
                let hint = error.get_detail().and_then(|node| node.parse().ok());
                let next = 1 + self.lanes[lane].node % self.nodes;
                self.lanes[lane].node = hint.unwrap_or(next);
                Want::Sleep(rng.range(1_000, 30_000))
            }
        }
    }

    fn end(&mut self, lane: usize, now_us: u64, known: Known, rng: &mut Rng) -> Want {
        if let Some(current) = self.lanes[lane].current.take() {
            let operation = &mut self.operations[current.operation];
            operation.known = known;
            operation.ended_us = now_us;
        }
        Want::Sleep(rng.range(0, 5_000))
    }
}
