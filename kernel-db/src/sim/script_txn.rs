//! Work of distributed transactions in golden scripts: commands to messages, answers to text.
//!
//! `txn N ID KIND TXN ...` sends a work of transaction TXN (its age) to node N. Keys are counters.
//!
//! | KIND | Then |
//! |---|---|
//! | `lock` | mode (`key-share`, `share`, `no-key`, `update`), counters or `FROM..TO`, `nowait`, `skip` or `patient`, `since` |
//! | `read` | mode or `none`, the first counter and the one behind the last, `limit COUNT`, `reverse` |
//! | `prepare` | `at GROUP` for the coordinator, and a part |
//! | `commit` | `others GROUP,GROUP`, `session SESSION NUMBER`, and a part |
//! | `settle`, `abort` | the first at the last timestamp answered to a prepare or commit plus one |
//! | `stage` | `back` or `new`: one step of going back to the last snapshot timestamp |
//! | `resolve` | `deadline MS` |
//! | `forget`, `release`, `alive`, `lookup SESSION NUMBER` | |
//!
//! A part: `put COUNTER=VALUE`, `del COUNTER`, `check COUNTER` or `check FROM..TO` (what was read), `since` (at the last
//! snapshot timestamp), `staged`, `held TERM` (locks were taken), `guard COUNTER=VALUE`, `deadline MS` from now (10000 if not given).
//!
//! `take N ID COUNTER [nowait|skip]` is a transaction of the partition that asks for a row as FOR UPDATE does, then adds.
//! `await N ID COUNTER MS [SESSION NUMBER] [remote]` is one that takes 1 from a counter; while that is 0 it waits for a
//! change. `remote`: from another node, so that nobody tells when its client is gone.

use std::str::FromStr;

use bytes::Bytes;

use super::work::counter_key;
use crate::error::{Error, Result};
use crate::partition::{Store, Transaction, TxnEnv, decode_outcome, encode_outcome};
use crate::txn::messages::{
    Answer, Commit, Forget, Guard, KeepAlive, Lock, LockMode, LookUp, Part, Prepare, Read, Release,
    Resolve, Settle, Span, Stage, TxnId, WaitPolicy, Work, Write,
};

/// What a scenario has come to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Hybrid time.
    pub now_us: u64,
    /// Last timestamp of a snapshot.
    pub snapshot_ts: u64,
    /// Last timestamp of a prepare or commit.
    pub stamp: u64,
}

struct Words<'a> {
    words: std::iter::Peekable<std::slice::Iter<'a, &'a str>>,
    known: Known,
}

/// The work that the words behind `txn N ID` ask for.
pub fn work(words: &[&str], known: Known) -> Result<Work> {
    let mut words = Words {
        words: words.iter().peekable(),
        known,
    };
    let kind = words.next()?;
    let txn = TxnId {
        start: words.number()?,
        node: 0,
        number: 0,
    };
    Ok(match kind {
        "lock" => Work::Lock(words.lock(txn)?),
        "read" => Work::Read(words.read(txn)?),
        "prepare" | "commit" => words.part(kind, txn)?,
        "settle" => Work::Settle(Settle {
            txn,
            commit_ts: Some(known.stamp + 1),
        }),
        "abort" => Work::Settle(Settle {
            txn,
            commit_ts: None,
        }),
        "resolve" => Work::Resolve(Resolve {
            txn,
            deadline_ts: match words.next() {
                Ok(_) => words.deadline()?,
                Err(_) => known.now_us + 10_000_000,
            },
        }),
        "stage" => Work::Stage(Stage {
            txn,
            to_ts: known.snapshot_ts,
            inserted: words.next()? == "new",
            after: Bytes::new(),
        }),
        "forget" => Work::Forget(Forget {
            txn,
            more: Vec::new(),
        }),
        "release" => Work::Release(Release { txn }),
        "alive" => Work::KeepAlive(KeepAlive { txns: vec![txn] }),
        "lookup" => Work::LookUp(LookUp {
            session: session(txn.start),
            number: words.number()?,
        }),
        other => return Err(unknown(other)),
    })
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str> {
        let word = self.words.next().copied();
        word.ok_or_else(|| Error::internal("a word is missing"))
    }

    fn number<T: FromStr>(&mut self) -> Result<T> {
        let word = self.next()?;
        word.parse().map_err(|_| unknown(word))
    }

    /// Milliseconds from now, which may be past.
    fn deadline(&mut self) -> Result<u64> {
        let ms: i64 = self.number()?;
        Ok(self.known.now_us.saturating_add_signed(ms * 1000))
    }

    fn mode(&mut self) -> Result<Option<LockMode>> {
        Ok(Some(match self.next()? {
            "none" => return Ok(None),
            "key-share" => LockMode::KeyShare,
            "share" => LockMode::Share,
            "no-key" => LockMode::NoKeyUpdate,
            "update" => LockMode::Update,
            other => return Err(unknown(other)),
        }))
    }

    fn lock(&mut self, txn: TxnId) -> Result<Lock> {
        let mode = self.mode()?.ok_or_else(|| unknown("none"))?;
        let mut lock = Lock {
            txn,
            ..Lock::default()
        };
        lock.set_mode(mode);
        for word in self.words.by_ref() {
            match *word {
                "nowait" => lock.set_wait(WaitPolicy::NoWait),
                "skip" => lock.set_wait(WaitPolicy::SkipLocked),
                "patient" => lock.set_wait(WaitPolicy::Patient),
                "since" => lock.since = Some(self.known.snapshot_ts),
                range if range.contains("..") => lock.ranges.push(span(range)?),
                counter => lock.keys.push(counter_of(counter)?),
            }
        }
        Ok(lock)
    }

    fn read(&mut self, txn: TxnId) -> Result<Read> {
        let mode = self.mode()?;
        let mut read = Read {
            txn,
            from: counter_of(self.next()?)?,
            to: counter_of(self.next()?)?,
            limit: 100,
            mode: mode.map(|mode| mode as i32),
            ..Read::default()
        };
        while let Some(word) = self.words.next() {
            match *word {
                "limit" => read.limit = self.number()?,
                "reverse" => read.reverse = true,
                other => return Err(unknown(other)),
            }
        }
        Ok(read)
    }

    fn part(&mut self, kind: &str, txn: TxnId) -> Result<Work> {
        let mut part = Part {
            txn,
            deadline_ts: self.known.now_us + 10_000_000,
            ..Part::default()
        };
        let (mut prepare, mut commit) = (Prepare::default(), Commit::default());
        while let Some(word) = self.words.next() {
            match *word {
                "put" | "guard" => {
                    let (key, value) = assignment(self.next()?)?;
                    let value = Some(value);
                    match *word {
                        "put" => part.writes.push(Write { key, value }),
                        _ => part.guards.push(Guard { key, value }),
                    }
                }
                "del" => part.writes.push(Write {
                    key: counter_of(self.next()?)?,
                    value: None,
                }),
                "check" => part.reads.push(span(self.next()?)?),
                "since" => part.since = Some(self.known.snapshot_ts),
                "staged" => part.staged = true,
                "held" => part.term = Some(self.number()?),
                "deadline" => {
                    part.deadline_ts = self.deadline()?;
                }
                "at" => prepare.coordinator = self.number()?,
                "others" => {
                    let groups = self.next()?.split(',');
                    commit.others = groups.filter_map(|group| group.parse().ok()).collect();
                    commit.prepared_ts = self.known.stamp;
                }
                "session" => {
                    commit.session = session(self.number()?);
                    commit.number = self.number()?;
                    let outcome = encode_outcome(&Ok(Bytes::from_static(b"told")));
                    commit.outcome = outcome.unwrap_or_default();
                }
                other => return Err(unknown(other)),
            }
        }
        if kind == "prepare" {
            prepare.part = part;
            return Ok(Work::Prepare(prepare));
        }
        commit.part = part;
        Ok(Work::Commit(commit))
    }
}

fn session(number: u64) -> Bytes {
    Bytes::copy_from_slice(&u128::from(number).to_be_bytes())
}

fn counter_of(word: &str) -> Result<Bytes> {
    word.parse().map(counter_key).map_err(|_| unknown(word))
}

fn assignment(word: &str) -> Result<(Bytes, Bytes)> {
    let (counter, value) = word.split_once('=').ok_or_else(|| unknown(word))?;
    let value: u64 = value.parse().map_err(|_| unknown(word))?;
    let value = Bytes::copy_from_slice(&value.to_be_bytes());
    Ok((counter_of(counter)?, value))
}

fn span(word: &str) -> Result<Span> {
    match word.split_once("..") {
        Some((from, to)) => Ok(Span::range(counter_of(from)?, counter_of(to)?)),
        None => Ok(Span::key(counter_of(word)?)),
    }
}

fn unknown(word: &str) -> Error {
    Error::internal(format!("no such word: {word}"))
}

/// An answer in words.
pub fn told(reply: &Bytes) -> Result<String> {
    let value = |value: &Bytes| {
        let first = value.first_chunk::<8>();
        first
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
            .to_string()
    };
    let recorded = |outcome: Option<Bytes>| match outcome.map(|bytes| decode_outcome(&bytes)) {
        Some(Ok(reply)) => String::from_utf8_lossy(&reply).into_owned(),
        Some(Err(error)) => error.to_string(),
        None => "nothing".into(),
    };
    Ok(match Answer::from_bytes(reply.clone())? {
        Answer::Locked(locked) => {
            let row = |row: &crate::txn::messages::LockedRow| match &row.value {
                _ if row.skipped => "skipped".into(),
                Some(bytes) => value(bytes),
                None => "none".into(),
            };
            let rows: Vec<String> = locked.rows.iter().map(row).collect();
            format!("locked in term {}: {}", locked.term, rows.join(" "))
        }
        Answer::Rows(rows) => {
            let values: Vec<String> = rows.values.iter().map(value).collect();
            let more = if rows.more { " and more" } else { "" };
            format!("rows in term {}: {}{more}", rows.term, values.join(" "))
        }
        Answer::Prepared(stamp) => format!("prepared at {}", stamp.ts),
        Answer::Committed(stamp) => format!("committed at {}", stamp.ts),
        Answer::Repeated(outcome) => format!("repeated: {}", recorded(outcome.recorded)),
        Answer::Known(outcome) => format!("known: {}", recorded(outcome.recorded)),
        Answer::Decided(decision) => match decision.commit_ts {
            Some(ts) => format!("decided: commit at {ts}"),
            None => "decided: abort".into(),
        },
        Answer::Kept(kept) if kept.lost.is_empty() => "kept".into(),
        Answer::Kept(_) => "lost".into(),
        Answer::Done(_) => "done".into(),
        Answer::Staged(staged) => {
            let rows: u64 = staged.counts.iter().map(|count| count.rows).sum();
            let more = if staged.next.is_some() { ", more" } else { "" };
            format!("staged {rows}{more}")
        }
        Answer::More(_) => "more".into(),
    })
}

/// The timestamp that an answer tells.
pub fn stamp(reply: &Bytes) -> Option<u64> {
    match Answer::from_bytes(reply.clone()).ok()? {
        Answer::Prepared(stamp) | Answer::Committed(stamp) => Some(stamp.ts),
        _ => None,
    }
}

/// See `await`. Tells what the counter was, 0 if that was so for too long.
pub struct Await {
    pub counter: u64,
    pub until_us: u64,
}

impl Transaction for Await {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let key = counter_key(self.counter);
        let value = store.get(&key, None)?;
        let value = value.and_then(|value| value.first_chunk::<8>().copied());
        let value = value.map_or(0, u64::from_be_bytes);
        match &mut env.wait {
            Some(wait) if value == 0 => drop(wait.until(self.until_us)?),
            _ => {
                let next = value.saturating_sub(1).to_be_bytes();
                store.put(key, Bytes::copy_from_slice(&next))?;
            }
        }
        Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
    }
}

/// See `take`.
pub struct Take {
    pub counter: u64,
    pub wait: WaitPolicy,
}

impl Transaction for Take {
    fn run(&self, store: &mut dyn Store, _env: &mut TxnEnv) -> Result<Bytes> {
        let key = counter_key(self.counter);
        if !store.lock(&key, None, LockMode::Update, self.wait)? {
            return Ok(Bytes::from_static(&[0xff]));
        }
        let value = store.get(&key, None)?;
        let value = value.and_then(|value| value.first_chunk::<8>().copied());
        let next = value.map_or(0, u64::from_be_bytes) + 1;
        let next = Bytes::copy_from_slice(&next.to_be_bytes());
        store.put(key, next.clone())?;
        Ok(next)
    }
}
