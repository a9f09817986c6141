//! Registers that a lane keeps under read leases, as `dbos-client` keeps rows: used until the lease is over by the lane's own
//! clock, counted from before it asked, or until the leader wants it back.
//!
//! A use is an operation like any other, so the search for an order (`check/linear`) finds one that is older than a write
//! that was acknowledged before it began.

use std::collections::BTreeMap;

use super::Clients;
use super::draw::USES_MAX;
use crate::partition::{Lease, LeaseAsk};
use crate::sim::check::{Known, Operation};
use crate::sim::load::{Job, group_of};
use crate::sim::rng::Rng;

/// Parts in a million by which a lane's clock may be off, both ways: together with a node's less than the eighth that a leader
/// waits beyond a lease.
const DRIFT_PPM: i64 = 40_000;

struct Entry {
    value: u64,
    until_us: u64,
    lease: u64,
}

/// What one lane keeps.
pub struct Kept {
    /// The lane's name at the leaders.
    pub holder: i64,
    drift_ppm: i64,
    entries: BTreeMap<u64, Entry>,
    /// Recalls of leases that no entry has: what was asked for before one may be what was recalled.
    surprises: u64,
    /// Of the present question.
    asked_us: u64,
    asked_surprises: u64,
    /// Groups whose recalls are listened to: the present question, and the lease that it gives back.
    pub listening: BTreeMap<u32, (u64, i64)>,
}

impl Kept {
    pub fn new(lane: usize) -> Self {
        Self {
            holder: lane as i64 + 1,
            // From one end to the other.
            drift_ppm: (lane as i64 % 5 - 2) * DRIFT_PPM / 2,
            entries: BTreeMap::new(),
            surprises: 0,
            asked_us: 0,
            asked_surprises: 0,
            listening: BTreeMap::new(),
        }
    }

    /// How long the answer to `op` is to be kept, by the lane's clock.
    fn length_us(op: u64) -> u64 {
        100_000 + op % 10 * 100_000
    }

    /// What a read that is sent asks for.
    pub fn ask(&self, op: u64) -> LeaseAsk {
        LeaseAsk::Reads {
            holder: self.holder,
            length_us: Self::length_us(op),
        }
    }

    /// A question is sent now.
    pub fn asks(&mut self, now_us: u64) {
        (self.asked_us, self.asked_surprises) = (now_us, self.surprises);
    }

    /// Keeps what it was answered. False: that may have changed since.
    pub fn keep(&mut self, op: u64, register: u64, value: u64, lease: u64, now_us: u64) -> bool {
        let drift = Self::length_us(op) as i64 * self.drift_ppm / 1_000_000;
        let length_us = Self::length_us(op).saturating_add_signed(drift);
        let until_us = self.asked_us + length_us;
        if self.surprises != self.asked_surprises || now_us >= until_us {
            return false;
        }
        let entry = Entry {
            value,
            until_us,
            lease,
        };
        self.entries.insert(register, entry);
        true
    }

    pub fn look_up(&self, register: u64, now_us: u64) -> Option<u64> {
        let entry = self.entries.get(&register)?;
        (now_us < entry.until_us).then_some(entry.value)
    }

    /// A register that it has.
    pub fn any(&self, place: u64, now_us: u64) -> Option<u64> {
        let mut usable = self.entries.iter().filter(|(_, e)| now_us < e.until_us);
        usable.nth(place as usize).map(|(register, _)| *register)
    }

    /// The leader wants a lease back. True if it was in use.
    pub fn recall(&mut self, lease: u64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.lease != lease);
        let used = self.entries.len() < before;
        self.surprises += u64::from(!used);
        used
    }

    /// Something of this group may still be used.
    pub fn has_any(&self, group: u32, groups: u32, now_us: u64) -> bool {
        let usable = |(register, entry): (&u64, &Entry)| {
            group_of(*register, groups) == group && now_us < entry.until_us
        };
        self.entries.iter().any(usable)
    }
}

/// What a transaction was told of the lease that it asked for; 0 if there is none.
pub fn lease_told(lease: &mut Option<Lease>, ask: LeaseAsk) -> u64 {
    let Some(lease) = lease else {
        return 0;
    };
    lease.asked = Some(ask);
    lease.answer.map_or(0, |number| number as u64)
}

impl Clients {
    /// Half of the time, if it keeps anything, a lane reads that. True if it did: such an operation ends as it begins.
    pub(super) fn use_kept(&mut self, lane: usize, now_us: u64, rng: &mut Rng) -> bool {
        if !self.leases || rng.range(0, 2) == 0 {
            return false;
        }
        let kept = &self.lanes[lane].kept;
        let Some(register) = kept.any(rng.range(0, 2), now_us) else {
            return false;
        };
        let mut active = self.registers.iter_mut().flatten();
        // One that is not in use any more has as many operations as can be checked.
        let active = active.find(|a| a.row == register && a.uses < USES_MAX);
        let (Some(active), Some(value)) = (active, kept.look_up(register, now_us)) else {
            return false;
        };
        active.uses += 1;
        self.hits += 1;
        self.lanes[lane].seen = (register, value);
        self.operations.push(Operation {
            op: self.operations.len() as u64 + 1,
            lane,
            job: Job::Get { register },
            begun_us: now_us,
            ended_us: now_us,
            known: Known::Done(vec![value]),
        });
        true
    }

    /// The lane keeps what it was answered, if it was given a lease; the reply loses the lease's number.
    pub(super) fn keep(&mut self, lane: usize, reply: &mut Vec<u64>, now_us: u64) {
        let Some(operation) = self.lanes[lane].operation() else {
            return;
        };
        let (op, job) = (
            self.operations[operation].op,
            &self.operations[operation].job,
        );
        let (true, Job::Get { register }) = (self.leases, job) else {
            return;
        };
        let number = reply.split_off(reply.len().min(1));
        let (Some(value), Some(number)) = (reply.first(), number.first().filter(|n| **n > 0))
        else {
            return;
        };
        let kept = &mut self.lanes[lane].kept;
        if kept.keep(op, *register, *value, *number, now_us) {
            self.kept += 1;
            self.keepers.push((lane, group_of(*register, self.groups)));
        }
    }
}
