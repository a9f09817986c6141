//! Replies that rest on committed state only, and wait until it is certain that nobody else leads: by the lease, or by a
//! read-index round that began after the reply was made.

use std::collections::VecDeque;

use bytes::Bytes;

use super::replica::Output;
use crate::error::{Error, Result};
use crate::raft::Lease;

/// An answer that waits.
pub enum Answer {
    Reply {
        id: u64,
        result: Result<Bytes>,
    },
    /// The latest committed timestamp at the time of the answer.
    SnapshotTs {
        id: u64,
    },
}

struct Waiting {
    /// The first round that began, or will begin, after this answer was made.
    round: u64,
    answer: Answer,
}

/// The reads of one leadership.
pub struct Reads {
    lease: Lease,
    waiting: VecDeque<Waiting>,
    /// Number of the last round begun.
    round: u64,
    /// When the round under way began.
    running_since: Option<u64>,
    /// A round is repeated after this time: raft-rs may have dropped it.
    repeat_us: u64,
}

impl Reads {
    pub fn new(lease: Lease, repeat_us: u64) -> Self {
        Self {
            lease,
            waiting: VecDeque::new(),
            round: 0,
            running_since: None,
            repeat_us,
        }
    }

    pub fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub fn push(&mut self, answer: Answer) {
        self.waiting.push_back(Waiting {
            round: self.round + 1,
            answer,
        });
    }

    /// Answers everything if the lease is valid. Returns how many requests that were.
    pub fn release(&mut self, now_us: u64, committed_ts: u64, out: &mut Vec<Output>) -> usize {
        if !self.lease.valid(now_us) {
            return 0;
        }
        self.answer_up_to(u64::MAX, committed_ts, out)
    }

    /// The number of a round to begin now, if one is needed.
    pub fn begin_round(&mut self, now_us: u64) -> Option<u64> {
        let running = self
            .running_since
            .is_some_and(|since| now_us < since + self.repeat_us);
        if self.waiting.is_empty() || running {
            return None;
        }
        self.round += 1;
        self.running_since = Some(now_us);
        Some(self.round)
    }

    /// A quorum answered round `round`. Returns how many requests were answered.
    pub fn confirmed(&mut self, round: u64, committed_ts: u64, out: &mut Vec<Output>) -> usize {
        if round == self.round
            && let Some(since) = self.running_since.take()
        {
            self.lease.renew(since);
        }
        self.answer_up_to(round, committed_ts, out)
    }

    fn answer_up_to(&mut self, round: u64, committed_ts: u64, out: &mut Vec<Output>) -> usize {
        let mut answered = 0;
        while self.waiting.front().is_some_and(|w| w.round <= round) {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            match waiting.answer {
                Answer::Reply { id, result } => {
                    answered += 1;
                    out.push(Output::Reply {
                        id,
                        result,
                        ts: committed_ts,
                    });
                }
                Answer::SnapshotTs { id } => out.push(Output::SnapshotTs {
                    id,
                    result: Ok(committed_ts),
                }),
            }
        }
        answered
    }

    /// Leadership is lost: nothing of this had an effect, so all may be tried again.
    pub fn refuse(self, error: &Error, out: &mut Vec<Output>) {
        for waiting in self.waiting {
            out.push(match waiting.answer {
                Answer::Reply { id, .. } => Output::Reply {
                    id,
                    result: Err(error.clone()),
                    ts: 0,
                },
                Answer::SnapshotTs { id } => Output::SnapshotTs {
                    id,
                    result: Err(error.clone()),
                },
            });
        }
    }
}
