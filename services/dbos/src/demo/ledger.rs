//! What clients were told, against what the tables hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

/// Every operation has a number of its own; messages carry it as content, files as name.
#[derive(Default)]
pub struct Ledger {
    acknowledged: BTreeSet<u64>,
    /// Sent, and the outcome never became known.
    unknown: BTreeSet<u64>,
    /// How often each was found: rows, and messages received.
    found: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acked: u64,
    /// Acknowledged and there.
    pub found: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    pub unknown: u64,
    /// There, although nobody was told so and nobody is in doubt.
    pub foreign: u64,
}

impl Ledger {
    pub fn acknowledged(&mut self, number: u64) {
        self.acknowledged.insert(number);
    }

    pub fn unknown(&mut self, number: u64) {
        self.unknown.insert(number);
    }

    pub fn found(&mut self, number: u64) {
        *self.found.entry(number).or_default() += 1;
    }

    pub fn counts(&self) -> Counts {
        let there = |number: &&u64| self.found.contains_key(number);
        let claimed =
            |number: &u64| self.acknowledged.contains(number) || self.unknown.contains(number);
        Counts {
            acked: self.acknowledged.len() as u64,
            found: self.acknowledged.iter().filter(there).count() as u64,
            lost: self.acknowledged.iter().filter(|n| !there(n)).count() as u64,
            doubled: self.found.values().filter(|times| **times > 1).count() as u64,
            unknown: self.unknown.len() as u64,
            foreign: self.found.keys().filter(|n| !claimed(n)).count() as u64,
        }
    }
}

impl Counts {
    pub fn json(&self, leader_killed: bool, failover_ms: Option<u64>) -> Value {
        json!({
            "acked": self.acked,
            "found": self.found,
            "lost": self.lost,
            "doubled": self.doubled,
            "unknown": self.unknown,
            "leader_killed": leader_killed,
            "failover_ms": failover_ms,
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations acknowledged, {} of them found, {} lost, {} doubled; {} of unknown outcome; {} that nobody sent",
            self.acked, self.found, self.lost, self.doubled, self.unknown, self.foreign
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_foreign_are_told_apart() {
        let mut ledger = Ledger::default();
        (1..=4).for_each(|n| ledger.acknowledged(n));
        ledger.unknown(5);
        for n in [1, 2, 2, 3, 5, 9] {
            ledger.found(n);
        }
        let counts = ledger.counts();
        assert_eq!(
            counts,
            Counts {
                acked: 4,
                found: 3,
                lost: 1,
                doubled: 1,
                unknown: 1,
                foreign: 1
            }
        );
    }
}
