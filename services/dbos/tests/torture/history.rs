//! What clients were told, and what must hold of it.
//!
//! * Operations that add something carry a number of their own. In the end an acknowledged number is there exactly once, a
//!   refused one is absent, one of unknown outcome is there at most once, and there is nothing else.
//! * Registers are written by one client each, with growing values. A read of one register returns at least the largest
//!   value that was acknowledged, or read by anybody, before the read began, and at most the largest that was sent before
//!   it ended: that is linearizability here. A sum over all of them is only promised to include what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

#[derive(Default)]
pub struct History {
    pub stop: AtomicBool,
    next: AtomicU64,
    told: Mutex<Told>,
    registers: Vec<Register>,
    pub reads: AtomicU64,
    pub sums: AtomicU64,
    violations: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
    refused: u64,
    received: BTreeMap<u64, u64>,
    /// Mailboxes of which a receive may have removed messages that nobody got.
    leaks: BTreeSet<i64>,
}

#[derive(Default)]
struct Register {
    sent: AtomicI64,
    acknowledged: AtomicI64,
    /// Acknowledged or read.
    seen: AtomicI64,
}

/// How an operation ended that adds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

impl Outcome {
    pub fn of<T>(result: &dbos_client::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Acknowledged,
            Err(error) if error.is_unknown() => Self::Unknown,
            Err(_) => Self::Refused,
        }
    }

    /// Of a plain connection: 08007, and a connection that went away under the request.
    pub fn of_plain<T>(result: &Result<T, tokio_postgres::Error>) -> Self {
        match result
            .as_ref()
            .map_err(|error| error.code().map(|code| code.code()))
        {
            Ok(_) => Self::Acknowledged,
            Err(None | Some("08007" | "57P01" | "57P02")) => Self::Unknown,
            Err(Some(_)) => Self::Refused,
        }
    }
}

/// What was promised to a read when it began.
#[derive(Clone, Copy)]
pub struct ReadBegan {
    at_least: i64,
}

impl History {
    pub fn new(registers: usize) -> Self {
        Self {
            registers: (0..registers).map(|_| Register::default()).collect(),
            ..Self::default()
        }
    }

    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    pub fn note(&self, number: u64, outcome: Outcome) {
        let mut told = self.told.lock().unwrap();
        match outcome {
            Outcome::Acknowledged => drop(told.acknowledged.insert(number)),
            Outcome::Unknown => drop(told.unknown.insert(number)),
            Outcome::Refused => told.refused += 1,
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().acknowledged.len()
    }

    pub fn received(&self, number: u64) {
        *self
            .told
            .lock()
            .unwrap()
            .received
            .entry(number)
            .or_default() += 1;
    }

    pub fn leaks(&self, mailbox: i64) {
        self.told.lock().unwrap().leaks.insert(mailbox);
    }

    pub fn write_begins(&self, register: usize, value: i64) {
        self.registers[register]
            .sent
            .fetch_max(value, Ordering::SeqCst);
    }

    pub fn write_acknowledged(&self, register: usize, value: i64) {
        let register = &self.registers[register];
        register.acknowledged.fetch_max(value, Ordering::SeqCst);
        register.seen.fetch_max(value, Ordering::SeqCst);
    }

    pub fn read_begins(&self, register: usize) -> ReadBegan {
        ReadBegan {
            at_least: self.registers[register].seen.load(Ordering::SeqCst),
        }
    }

    pub fn read_ends(&self, register: usize, began: ReadBegan, value: i64, node: u64) {
        let at_most = self.registers[register].sent.load(Ordering::SeqCst);
        if value < began.at_least || value > at_most {
            let least = began.at_least;
            self.violation(format!(
                "node {node} read {value} of register {register}: at least {least} and at most {at_most} were right"
            ));
        }
        self.registers[register]
            .seen
            .fetch_max(value, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub fn sum_begins(&self) -> ReadBegan {
        let acknowledged = |r: &Register| r.acknowledged.load(Ordering::SeqCst);
        ReadBegan {
            at_least: self.registers.iter().map(acknowledged).sum(),
        }
    }

    pub fn sum_ends(&self, began: ReadBegan, value: i64, node: u64) {
        let sent = |r: &Register| r.sent.load(Ordering::SeqCst);
        let at_most: i64 = self.registers.iter().map(sent).sum();
        if value < began.at_least || value > at_most {
            let least = began.at_least;
            self.violation(format!(
                "node {node} summed the registers to {value}: at least {least} and at most {at_most} were right"
            ));
        }
        self.sums.fetch_add(1, Ordering::Relaxed);
    }

    pub fn violation(&self, what: String) {
        // With the time as the nodes' logs have it.
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        self.violations
            .lock()
            .unwrap()
            .push(format!("{now} {what}"));
    }

    /// Compares with what is there in the end; `mailbox` tells which mailbox a number went to, if any.
    pub fn check(&self, rows: &[u64], mailbox: impl Fn(u64) -> Option<i64>) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let mut found = told.received.clone();
        rows.iter()
            .for_each(|number| *found.entry(*number).or_default() += 1);
        let leaked = |number: &u64| mailbox(*number).is_some_and(|m| told.leaks.contains(&m));
        let mut wrong = self.violations.lock().unwrap().clone();
        for number in &told.acknowledged {
            if !found.contains_key(number) && !leaked(number) {
                wrong.push(format!("{number} was acknowledged and is lost"));
            }
        }
        for (number, times) in &found {
            if *times > 1 {
                wrong.push(format!("{number} is there {times} times"));
            }
            if !told.acknowledged.contains(number) && !told.unknown.contains(number) {
                wrong.push(format!(
                    "{number} is there, although it was refused or never sent"
                ));
            }
        }
        wrong
    }

    pub fn summary(&self) -> String {
        let told = self.told.lock().unwrap();
        format!(
            "{} acknowledged, {} refused, {} of unknown outcome, {} messages received, {} reads, {} sums",
            told.acknowledged.len(),
            told.refused,
            told.unknown.len(),
            told.received.len(),
            self.reads.load(Ordering::Relaxed),
            self.sums.load(Ordering::Relaxed)
        )
    }
}

#[test]
fn a_history_that_is_wrong_is_told() {
    let history = History::new(2);
    for outcome in [
        Outcome::Acknowledged,
        Outcome::Unknown,
        Outcome::Refused,
        Outcome::Acknowledged,
    ] {
        history.note(history.number(), outcome);
    }
    assert!(history.check(&[0, 1, 3], |_| None).is_empty());
    assert_eq!(history.check(&[0], |_| None).len(), 1, "lost");
    assert_eq!(history.check(&[0, 3, 3], |_| None).len(), 1, "doubled");
    assert_eq!(
        history.check(&[0, 2, 3], |_| None).len(),
        1,
        "refused and there"
    );
    assert_eq!(history.check(&[0, 3, 99], |_| None).len(), 1, "never sent");
    history.received(0);
    assert_eq!(
        history.check(&[0, 3], |_| None).len(),
        1,
        "received and there"
    );
    assert!(history.check(&[3], |_| None).is_empty());

    history.write_begins(0, 1);
    let before = history.read_begins(0);
    history.write_acknowledged(0, 1);
    history.read_ends(0, before, 0, 1);
    assert!(
        history.violations.lock().unwrap().is_empty(),
        "it began before the acknowledgement"
    );
    history.read_ends(0, history.read_begins(0), 0, 1);
    assert_eq!(history.violations.lock().unwrap().len(), 1, "stale");
    history.read_ends(0, history.read_begins(0), 2, 1);
    assert_eq!(
        history.violations.lock().unwrap().len(),
        2,
        "from the future"
    );
    history.sum_ends(history.sum_begins(), 0, 1);
    assert_eq!(
        history.violations.lock().unwrap().len(),
        3,
        "a sum without what was acknowledged"
    );
}
