//! Client sessions: which numbered requests were executed, and what was answered (I11).
//!
//! A session's requests carry numbers; of the newest 1,024 the outcome is kept, so that a retry, or a duplicate that comes
//! late, is answered and not executed. A number below that window is refused. Sessions are bounded: the longest unused is
//! evicted, which the log records; a request under an evicted session is refused for ever. Outcomes that say "try again"
//! are not kept: nothing was executed.
//!
//! This is the leader's copy, rebuilt from the state store at each opening; recency of sessions is not stored, so it
//! begins anew then.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use lru::LruCache;
use prost::Message as _;

use super::apply::payload::ErrorReply;
use crate::error::{Class, Error, Result};
use crate::storage::StateStore;

/// Requests of one session whose outcome is kept.
pub const WINDOW: u64 = 1024;

/// First byte of a kept outcome.
const OK: u8 = 0;
const FAILED: u8 = 1;

/// The outcome of a request as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reply(Bytes),
    /// An `ErrorReply`, encoded.
    Failed(Bytes),
}

/// What is known of a numbered request.
pub enum Seen {
    /// Never executed.
    New,
    /// Executed; the outcome as it was recorded.
    Done(Outcome),
    /// Cannot be told any more, or was never valid.
    Refused(Error),
}

#[derive(Default)]
struct Session {
    newest: u64,
    /// By number modulo the window; grows to what the session uses.
    ring: Vec<Option<(u64, Outcome)>>,
}

pub struct Sessions {
    live: LruCache<u128, Session>,
    evicted: HashSet<u128>,
    max: usize,
}

impl Sessions {
    pub fn load<S: StateStore>(store: &S, max: usize) -> Result<Self> {
        let mut by_session: BTreeMap<u128, Session> = BTreeMap::new();
        for record in store.sessions()? {
            let session = by_session.entry(record.session).or_default();
            session.put(record.number, Outcome::from_record(&record.reply)?);
        }
        let mut live = LruCache::unbounded();
        for (id, session) in by_session {
            live.put(id, session);
        }
        Ok(Self {
            live,
            evicted: store.evicted_sessions()?.into_iter().collect(),
            max: max.max(1),
        })
    }

    pub fn look_up(&mut self, id: u128, number: u64) -> Seen {
        if self.evicted.contains(&id) {
            return Seen::Refused(
                Error::new("08P01", "the session was evicted: too many newer sessions")
                    .hint("open a new session; of requests without a reply the outcome is unknown"),
            );
        }
        let Some(session) = self.live.get(&id) else {
            return Seen::New;
        };
        if number.saturating_add(WINDOW) <= session.newest {
            return Seen::Refused(
                Error::new(
                    "08P01",
                    format!(
                        "request {number} is too old: the session is at {}",
                        session.newest
                    ),
                )
                .hint(format!(
                    "at most {WINDOW} requests of a session may be in flight"
                )),
            );
        }
        match session.ring.get((number % WINDOW) as usize) {
            Some(Some((held, outcome))) if *held == number => Seen::Done(outcome.clone()),
            _ => Seen::New,
        }
    }

    /// Keeps an outcome. Returns the session that had to go for it.
    pub fn record(&mut self, id: u128, number: u64, outcome: Outcome) -> Option<u128> {
        let mut gone = None;
        if !self.live.contains(&id) {
            if self.live.len() >= self.max {
                gone = self.live.pop_lru().map(|(id, _)| id);
                // I11: remembered for ever, so that its requests are never executed a second time.
                self.evicted.extend(gone);
            }
            self.live.put(id, Session::default());
        }
        if let Some(session) = self.live.get_mut(&id) {
            session.put(number, outcome);
        }
        gone
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// (session, newest number), most recently used first.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.live.iter().map(|(id, session)| (*id, session.newest))
    }
}

impl Session {
    fn put(&mut self, number: u64, outcome: Outcome) {
        self.newest = self.newest.max(number);
        let place = (number % WINDOW) as usize;
        if self.ring.len() <= place {
            self.ring.resize(place + 1, None);
        }
        let older = self.ring[place].as_ref().is_none_or(|(n, _)| *n < number);
        if older {
            self.ring[place] = Some((number, outcome));
        }
    }
}

impl Outcome {
    /// None if it must not be kept: the request may be tried again.
    pub fn of(result: &Result<Bytes>) -> Option<Self> {
        match result {
            Ok(reply) => Some(Self::Reply(reply.clone())),
            Err(error) if error.class() == Class::Request => {
                let reply = ErrorReply {
                    class: 0,
                    sqlstate: error.sqlstate().to_owned(),
                    message: error.message().to_owned(),
                    detail: error.get_detail().map(str::to_owned),
                    hint: error.get_hint().map(str::to_owned),
                    position: error.position(),
                };
                Some(Self::Failed(reply.encode_to_vec().into()))
            }
            Err(_) => None,
        }
    }

    /// The first byte of its record, and the others.
    pub fn parts(&self) -> (u8, &Bytes) {
        match self {
            Self::Reply(reply) => (OK, reply),
            Self::Failed(error) => (FAILED, error),
        }
    }

    /// As it is stored.
    pub fn record(&self) -> Bytes {
        let (tag, rest) = self.parts();
        [&[tag], &rest[..]].concat().into()
    }

    /// The reverse of `record`.
    pub fn from_record(record: &Bytes) -> Result<Self> {
        match record.first() {
            Some(&OK) => Ok(Self::Reply(record.slice(1..))),
            Some(&FAILED) => Ok(Self::Failed(record.slice(1..))),
            _ => Err(Error::internal("a kept outcome is malformed")),
        }
    }

    /// What the request was answered.
    pub fn result(self) -> Result<Bytes> {
        let encoded = match self {
            Self::Reply(reply) => return Ok(reply),
            Self::Failed(encoded) => encoded,
        };
        let reply = ErrorReply::decode(encoded)
            .map_err(|error| Error::internal(format!("kept outcome: {error}")))?;
        let mut error = Error::new(&reply.sqlstate, reply.message);
        if let Some(detail) = reply.detail {
            error = error.detail(detail);
        }
        if let Some(hint) = reply.hint {
            error = error.hint(hint);
        }
        if let Some(position) = reply.position {
            error = error.at(position);
        }
        Err(error)
    }
}

/// What a client will be told, as a commit records it for a numbered request; None if it must not be kept: the request may
/// be tried again.
pub fn encode_outcome(result: &Result<Bytes>) -> Option<Bytes> {
    Outcome::of(result).map(|outcome| outcome.record())
}

/// The reverse of `encode_outcome`.
pub fn decode_outcome(recorded: &Bytes) -> Result<Bytes> {
    Outcome::from_record(recorded)?.result()
}
