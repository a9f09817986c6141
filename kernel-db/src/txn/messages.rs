//! What a gateway asks of partitions in a transaction over several of them, or in a block: plain data, the same on the wire.
//!
//! The order of a transaction's work:
//!
//! 1. While it executes: `Lock` and `Read` at the leaders, each under a lock; `KeepAlive` every second to every group it
//!    has locks in, because locks not yet prepared are dropped `lock_lease_ms` (5 s) after the last word of their owner.
//! 2. One group only: `Commit` there with `others` empty, in one step.
//! 3. Several: `Prepare` in all but the coordinator's group, in parallel; when all are `Prepared`, `Commit` at the coordinator
//!    with the highest timestamp; then `Settle` at the others and `Forget` at the coordinator, in the background: the client is
//!    answered at `Committed`. If a prepare failed: `Settle` with no timestamp everywhere, and `Release` at the coordinator.
//!
//! To go back to an earlier time (`Part::staged`): `Lock` the whole range everywhere, `Prepare` everywhere, so that the locks
//! outlive leaders, `Stage` until nothing is left, `Commit` at a coordinator without a part, `Settle` until nothing is left.
//!
//! * Every leader's answer is given when what it rests on is committed (I4), so rows of `Lock` and `Read` may be shown.
//! * `Prepare` and `Commit` are sent once. If their answer is lost, ask `Resolve` at the coordinator, which decides; with
//!   `others` empty nobody else knows, and only the session's record tells (`LookUp`).
//! * `Settle`, `Stage`, `Resolve`, `Forget`, `Release`, `KeepAlive` and `LookUp` may be repeated.
//! * A gateway that dies leaves nothing to a human: participants ask the coordinator for what is prepared longer than a
//!   second, the coordinator tells participants what it decided, and locks not prepared run out.
//! * I11: numbered work has its coordinator in the session's home partition (which must be the coordinator even if it has
//!   no part in the work: its part is then empty). `Commit` records `outcome` for (session, number), or answers `Repeated` with
//!   what was recorded earlier and changes nothing: the others must then be settled with an abort. A failure whose class is
//!   Request is recorded by a `Commit` that holds nothing but the outcome. Before a failure is told to a client that numbers
//!   its requests, `LookUp` says whether the number was executed already.
//! * Errors: 40001 (changed after `since`, prepare or commit refused), 40P01 (wait-die: a younger one must not wait for an
//!   older one), 55P03 (NOWAIT), DB001 (a guard differs), DB002 (not leader), 53300 (queue full). All of class Retry. After one
//!   of them the transaction is to be aborted everywhere: `Release`, or `Settle` where it is or may be prepared.

use bytes::Bytes;
use prost::Message as _;

use crate::error::{Error, Result};

/// A transaction's name and age. Smaller is older.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct TxnId {
    /// When it began: hybrid logical, microseconds. A one-shot that starts anew keeps it and so grows old.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// The gateway's node.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// Never used twice by that node with the same `start`: a second attempt has another number.
    #[prost(uint64, tag = "3")]
    pub number: u64,
}

impl TxnId {
    /// `start` of going back to an earlier time: older than every other transaction.
    pub const OLDEST: u64 = 1;
}

/// Strength of a lock. PostgreSQL's row locks and their conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LockMode {
    KeyShare = 0,
    Share = 1,
    NoKeyUpdate = 2,
    Update = 3,
}

/// What to do about a lock that another transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum WaitPolicy {
    /// Wait for a younger holder, and for one that is prepared; 40P01 before an older one.
    Wait = 0,
    /// 55P03 at once.
    NoWait = 1,
    /// Leave the row out.
    SkipLocked = 2,
    /// Wait for any holder. Only for who holds no lock anywhere: nobody can be waiting for him, so no circle closes.
    Patient = 3,
}

/// A key, or a range of keys.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Span {
    /// Inclusive.
    #[prost(bytes = "bytes", tag = "1")]
    pub from: Bytes,
    /// Exclusive; empty: the one key `from`.
    #[prost(bytes = "bytes", tag = "2")]
    pub to: Bytes,
}

/// Locks keys, all or none of them (but for `SkipLocked`). Answer: `Locked`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lock {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    #[prost(enumeration = "LockMode", tag = "3")]
    pub mode: i32,
    #[prost(enumeration = "WaitPolicy", tag = "4")]
    pub wait: i32,
    /// 40001 if one of the keys changed after this timestamp.
    #[prost(uint64, optional, tag = "5")]
    pub since: Option<u64>,
    /// Locked as the keys are; there is no row of them in the answer.
    #[prost(message, repeated, tag = "6")]
    pub ranges: Vec<Span>,
}

/// The newest rows of a range, which is locked as far as it was read. Answer: `Rows`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Read {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// Inclusive.
    #[prost(bytes = "bytes", tag = "2")]
    pub from: Bytes,
    /// Exclusive. A range lies in one table.
    #[prost(bytes = "bytes", tag = "3")]
    pub to: Bytes,
    #[prost(bool, tag = "4")]
    pub reverse: bool,
    /// Rows at most. A page of many bytes may be shorter: `Rows::more` tells.
    #[prost(uint32, tag = "5")]
    pub limit: u32,
    /// None: no lock is taken; prepared writes are waited for all the same.
    #[prost(enumeration = "LockMode", optional, tag = "6")]
    pub mode: Option<i32>,
    /// `SkipLocked` is not for ranges: 0A000.
    #[prost(enumeration = "WaitPolicy", tag = "7")]
    pub wait: i32,
}

/// A new row, or without value a deletion.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Write {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<Bytes>,
}

/// A row that must be as it was when the transaction was planned (the schema version): DB001 if not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Guard {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<Bytes>,
}

/// What a transaction comes to in one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// The term of `Locked` or `Rows` if locks were taken here: they must all be there still. All of them are kept until
    /// the transaction is settled, in the mode in which they were taken.
    #[prost(uint64, optional, tag = "2")]
    pub term: Option<u64>,
    /// With `reads`: the timestamp they were read at.
    #[prost(uint64, optional, tag = "3")]
    pub since: Option<u64>,
    /// What was read without a lock: 40001 if it changed after `since`. Present and absent keys, and scanned ranges.
    #[prost(message, repeated, tag = "4")]
    pub reads: Vec<Span>,
    /// One for each key. The keys need not be locked.
    #[prost(message, repeated, tag = "5")]
    pub writes: Vec<Write>,
    #[prost(message, repeated, tag = "6")]
    pub guards: Vec<Guard>,
    /// Hybrid logical microseconds. The coordinator commits nothing after it, and remembers decisions at least until then.
    /// The same for all parts. At most `DEADLINE_AHEAD_US_MAX` ahead of the clock (22023).
    #[prost(uint64, tag = "7")]
    pub deadline_ts: u64,
    /// It writes in one range that it has locked exclusively, more than an entry holds: `Stage` says what, once it is prepared.
    /// Its deadline is at most `STAGED_AHEAD_US_MAX` ahead. The coordinator's part of such a transaction says so too.
    #[prost(bool, tag = "8")]
    pub staged: bool,
}

/// Makes a part durable and certain to be able to commit. Never waits: 40001. Answer: `Prepared`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepare {
    #[prost(message, required, tag = "1")]
    pub part: Part,
    /// Group that decides.
    #[prost(uint32, tag = "2")]
    pub coordinator: u32,
}

/// Decides, and writes the coordinator's own part with the decision. Answer: `Committed` or `Repeated`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Commit {
    #[prost(message, required, tag = "1")]
    pub part: Part,
    /// The other groups, all prepared. Empty: one step, nothing to settle.
    #[prost(uint32, repeated, tag = "2")]
    pub others: Vec<u32>,
    /// The highest timestamp of their `Prepared`; 0 if none.
    #[prost(uint64, tag = "3")]
    pub prepared_ts: u64,
    /// 16 bytes, big endian, or empty: not numbered.
    #[prost(bytes = "bytes", tag = "4")]
    pub session: Bytes,
    #[prost(uint64, tag = "5")]
    pub number: u64,
    /// What to record for (session, number): `partition::encode_outcome` of what the client will be told.
    #[prost(bytes = "bytes", tag = "6")]
    pub outcome: Bytes,
}

/// One step of going back to an earlier time, where a staged part is prepared: what the range must become is written down,
/// in entries of bounded size, and shown to nobody. First all steps over what was overwritten or deleted since, then all over
/// what is new. A step may be repeated, late too. Answer: `Staged`; 72000 if the history does not reach back so far.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stage {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// The range will be as it was at this timestamp.
    #[prost(uint64, tag = "2")]
    pub to_ts: u64,
    /// Over what is new since.
    #[prost(bool, tag = "3")]
    pub inserted: bool,
    /// `Staged::next` of the step before; empty: from the beginning.
    #[prost(bytes = "bytes", tag = "4")]
    pub after: Bytes,
}

/// Tells a participant the decision. Answer: `Done`, when it is durable there; `More`, when it is to be told again because of
/// a staged part only some was written or dropped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Settle {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// None: abort. Locks that are not prepared are released too, and waits for locks end.
    #[prost(uint64, optional, tag = "2")]
    pub commit_ts: Option<u64>,
}

/// Asks the coordinator for the decision; if there is none, it decides to abort, and logs that first (I12). Answer: `Decided`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resolve {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// Of the part.
    #[prost(uint64, tag = "2")]
    pub deadline_ts: u64,
}

/// All participants have settled: the coordinator need not remind them any more. Answer: `Done`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Forget {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
    /// Others of the same coordinator.
    #[prost(message, repeated, tag = "2")]
    pub more: Vec<TxnId>,
}

/// Gives up locks that are not prepared, and ends waiting `Lock`s and `Read`s of the transaction with 57014. Answer: `Done`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Release {
    #[prost(message, required, tag = "1")]
    pub txn: TxnId,
}

/// The owners of these locks live. Answer: `Kept`, of a leader that led when it was asked: what was read under a lock that is
/// kept was the newest all the time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeepAlive {
    #[prost(message, repeated, tag = "1")]
    pub txns: Vec<TxnId>,
}

/// Asks whether a numbered request was executed here. Answer: `Known`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookUp {
    /// 16 bytes, big endian.
    #[prost(bytes = "bytes", tag = "1")]
    pub session: Bytes,
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

/// One piece of work at a partition's leader.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Work {
    #[prost(message, tag = "1")]
    Lock(Lock),
    #[prost(message, tag = "2")]
    Read(Read),
    #[prost(message, tag = "3")]
    Prepare(Prepare),
    #[prost(message, tag = "4")]
    Commit(Commit),
    #[prost(message, tag = "5")]
    Settle(Settle),
    #[prost(message, tag = "6")]
    Resolve(Resolve),
    #[prost(message, tag = "7")]
    Forget(Forget),
    #[prost(message, tag = "8")]
    Release(Release),
    #[prost(message, tag = "9")]
    KeepAlive(KeepAlive),
    #[prost(message, tag = "10")]
    LookUp(LookUp),
    #[prost(message, tag = "11")]
    Stage(Stage),
}

/// One row of `Locked`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LockedRow {
    /// The newest value; None if there is no row.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub value: Option<Bytes>,
    /// Left out: another transaction has locked it (`SkipLocked`).
    #[prost(bool, tag = "2")]
    pub skipped: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Locked {
    /// Of the leader that holds the locks; `Part::term` must say the same.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// As the keys asked for.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<LockedRow>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Rows {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub values: Vec<Bytes>,
    /// Fewer rows than asked although the range goes on (size bound). Only what was read is locked.
    #[prost(bool, tag = "4")]
    pub more: bool,
}

/// Rows of a table or of an index.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Count {
    /// The first bytes of their keys: `COUNT_PREFIX` many.
    #[prost(bytes = "bytes", tag = "1")]
    pub prefix: Bytes,
    #[prost(uint64, tag = "2")]
    pub rows: u64,
}

/// Bytes of a key that name a table and one of its indexes.
pub const COUNT_PREFIX: usize = 6;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Staged {
    /// None: this was the last step of its kind. As `Stage::after`: nothing could be done yet, ask again a little later.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub next: Option<Bytes>,
    /// What was staged.
    #[prost(message, repeated, tag = "2")]
    pub counts: Vec<Count>,
}

/// A point in hybrid logical time, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stamp {
    #[prost(uint64, tag = "1")]
    pub ts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Decision {
    /// None: aborted.
    #[prost(uint64, optional, tag = "1")]
    pub commit_ts: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Outcome {
    /// As it was recorded: `partition::decode_outcome`. None: never executed here.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub recorded: Option<Bytes>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Kept {
    /// Asked for and not known here: their locks are gone, they cannot commit.
    #[prost(message, repeated, tag = "1")]
    pub lost: Vec<TxnId>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Nothing {}

/// What a leader answers.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "1")]
    Locked(Locked),
    #[prost(message, tag = "2")]
    Rows(Rows),
    #[prost(message, tag = "3")]
    Prepared(Stamp),
    #[prost(message, tag = "4")]
    Committed(Stamp),
    /// The request was executed before: this is what was recorded then. Nothing was changed.
    #[prost(message, tag = "5")]
    Repeated(Outcome),
    #[prost(message, tag = "6")]
    Decided(Decision),
    #[prost(message, tag = "7")]
    Known(Outcome),
    #[prost(message, tag = "8")]
    Kept(Kept),
    #[prost(message, tag = "9")]
    Done(Nothing),
    #[prost(message, tag = "10")]
    Staged(Staged),
    #[prost(message, tag = "11")]
    More(Nothing),
}

/// As `DEADLINE_AHEAD_US_MAX`, of a staged part.
pub const STAGED_AHEAD_US_MAX: u64 = 3_600_000_000;

/// A deadline further ahead of the clock is refused: decisions are remembered until then.
pub const DEADLINE_AHEAD_US_MAX: u64 = 60_000_000;

#[derive(Clone, PartialEq, prost::Message)]
struct WorkFrame {
    #[prost(oneof = "Work", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    work: Option<Work>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerFrame {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    answer: Option<Answer>,
}

impl Span {
    pub fn key(key: Bytes) -> Self {
        Self {
            from: key,
            to: Bytes::new(),
        }
    }

    pub fn range(from: Bytes, to: Bytes) -> Self {
        Self { from, to }
    }

    pub fn is_key(&self) -> bool {
        self.to.is_empty()
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_key() {
            self.from == key
        } else {
            self.from[..] <= *key && *key < self.to[..]
        }
    }

    pub fn overlaps(&self, other: &Span) -> bool {
        match (self.is_key(), other.is_key()) {
            (true, _) => other.contains(&self.from),
            (_, true) => self.contains(&other.from),
            _ => self.from < other.to && other.from < self.to,
        }
    }
}

impl LockMode {
    /// PostgreSQL's table of row-level lock conflicts.
    pub fn conflicts(self, other: LockMode) -> bool {
        // KeyShare meets Update only; Share meets both kinds of update; updates meet each other.
        self as i32 + other as i32 >= LockMode::Update as i32
    }

    pub fn is_exclusive(self) -> bool {
        self >= LockMode::NoKeyUpdate
    }
}

impl Work {
    pub fn into_bytes(self) -> Bytes {
        WorkFrame { work: Some(self) }.encode_to_vec().into()
    }

    /// From another node.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        let frame = WorkFrame::decode(bytes).map_err(malformed)?;
        frame
            .work
            .ok_or_else(|| Error::unsupported("this transaction work of another node"))
    }

    /// It may be sent again after its answer was lost.
    pub fn may_repeat(&self) -> bool {
        !matches!(self, Work::Prepare(_) | Work::Commit(_))
    }

    /// The transaction it belongs to, if it is one.
    pub fn txn(&self) -> Option<TxnId> {
        match self {
            Work::Lock(w) => Some(w.txn),
            Work::Read(w) => Some(w.txn),
            Work::Prepare(w) => Some(w.part.txn),
            Work::Commit(w) => Some(w.part.txn),
            Work::Settle(w) => Some(w.txn),
            Work::Resolve(w) => Some(w.txn),
            Work::Forget(w) => Some(w.txn),
            Work::Release(w) => Some(w.txn),
            Work::Stage(w) => Some(w.txn),
            Work::KeepAlive(_) | Work::LookUp(_) => None,
        }
    }
}

impl Answer {
    pub fn into_bytes(self) -> Bytes {
        AnswerFrame { answer: Some(self) }.encode_to_vec().into()
    }

    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        let frame = AnswerFrame::decode(bytes).map_err(malformed)?;
        frame
            .answer
            .ok_or_else(|| Error::unknown("a partition's answer is empty"))
    }
}

fn malformed(error: prost::DecodeError) -> Error {
    Error::internal(format!("malformed transaction message: {error}"))
}

#[cfg(test)]
mod tests {
    use super::LockMode::{KeyShare, NoKeyUpdate, Share, Update};
    use super::*;

    #[test]
    fn locks_conflict_as_in_postgresql() {
        let modes = [KeyShare, Share, NoKeyUpdate, Update];
        let conflicts: Vec<_> = modes
            .iter()
            .map(|a| modes.map(|b| u8::from(a.conflicts(b))))
            .collect();
        assert_eq!(
            conflicts,
            [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
        );
    }

    #[test]
    fn work_and_answers_travel() {
        let txn = TxnId {
            start: 5,
            node: 1,
            number: 2,
        };
        let work = Work::Settle(Settle {
            txn,
            commit_ts: Some(0),
        });
        assert_eq!(Work::from_bytes(work.clone().into_bytes()).unwrap(), work);
        let answer = Answer::Decided(Decision { commit_ts: None });
        assert_eq!(
            Answer::from_bytes(answer.clone().into_bytes()).unwrap(),
            answer
        );
        assert!(Work::from_bytes(Bytes::new()).is_err());
    }

    #[test]
    fn spans_overlap_where_they_share_a_key() {
        let key = |k: &'static [u8]| Span::key(Bytes::from_static(k));
        let range = |a: &'static [u8], b: &'static [u8]| {
            Span::range(Bytes::from_static(a), Bytes::from_static(b))
        };
        assert!(range(b"a", b"c").overlaps(&key(b"a")));
        assert!(!range(b"a", b"c").overlaps(&key(b"c")));
        assert!(key(b"b").overlaps(&range(b"a", b"c")));
        assert!(!range(b"a", b"b").overlaps(&range(b"b", b"c")));
        assert!(range(b"a", b"bb").overlaps(&range(b"b", b"c")));
    }
}
