//! What goes into a replica and what comes out: the whole interface between the state machine and its shell.
//!
//! Times, messages, finished writes and requests are inputs; messages, writes, apply jobs and replies are outputs. The
//! shell carries outputs out in the order in which they appear.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use raft::eraftpb::Message;

use super::super::Transaction;
use super::super::apply::{AppliedReport, ApplyJob};
use crate::error::Result;
use crate::planted::Planted;
use crate::storage::{Checkpoint, LogWrite};
use crate::txn::messages::{TxnId, Work};

/// What "committed" means to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk on a majority before the reply.
    Fsync,
    /// Written (write(2) returned) on a majority before the reply; synced in the background. Terms and votes are synced.
    Memory,
}

/// Everything a replica must be told at its start. All members of a group have the same values but for `node`.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// This node, from 1.
    pub node: u64,
    /// Raft group: 0 is the system group, group p + 1 is partition p.
    pub group: u32,
    /// The nodes that hold a replica.
    pub voters: Vec<u64>,
    /// This partition's number and how many there are, for `TxnEnv`.
    pub partition: u32,
    pub partitions: u32,
    /// Length of a tick in milliseconds. The shell sends `Input::Tick` at that rate; what comes faster is ignored.
    pub tick_ms: u64,
    /// A follower that hears nothing for this many ticks (to twice as many) campaigns.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Steps of one transaction on the core (57014 past it).
    pub run_limit_steps: u64,
    /// Bytes that one statement's result may have.
    pub result_bytes_max: u64,
    /// Bytes written by one transaction (54000 past it).
    pub write_set_bytes_max: usize,
    /// A batch is closed at this size of keys, values and replies.
    pub batch_bytes_max: usize,
    /// Proposed batches that are not committed yet; later requests collect in the next batch.
    pub batches_in_flight_max: usize,
    /// Requests that are waiting for execution, commit or a lease; busy past it.
    pub queue_max: usize,
    /// Bytes of log: past half of it the log is cut although a member still needs it, which then gets a checkpoint; past
    /// all of it, when what is not flushed here holds the log, requests get 53100 (I10).
    pub log_bytes_max: u64,
    /// Bytes of committed entries handed to apply and not applied yet; nothing more is proposed past it.
    pub apply_backlog_bytes_max: u64,
    /// Bytes of current state held in memory.
    pub tip_bytes_max: usize,
    /// Client sessions remembered; the longest unused is evicted past it (I11).
    pub sessions_max: usize,
    /// Locks of a transaction that is not prepared go when it was silent for this long, in milliseconds.
    pub lock_lease_ms: u64,
    /// Keys and ranges locked by transactions that run elsewhere; 53200 past it.
    pub locks_max: usize,
    /// Keys that clients may read from their own memory; what is read past it is leased to nobody.
    pub leases_max: usize,
    /// Keys of recent changes, in bytes, for transactions that ask at their end whether what they read is still so: one
    /// that began before what is kept ends with 40001.
    pub changes_bytes_max: usize,
    /// A prepared transaction, or a decision, that others do not finish in this time is asked for or told again.
    pub resolve_after_ms: u64,
    pub durability: Durability,
    /// The log may have lost its tail: the operating system went down while durability was `Memory`. The replica does not
    /// vote until it has caught up with a later leader.
    pub log_tail_lost: bool,
    /// Ticks for which a member with a checkpoint on its way may show no progress.
    pub snapshot_patience_ticks: u64,
    /// Seed of election timeouts and of `TxnEnv::seed`.
    pub seed: u64,
    /// A fault planted by a test.
    pub planted: Planted,
}

impl ReplicaConfig {
    /// Working values for one group; the node's configuration overrides them.
    pub fn new(node: u64, group: u32, voters: Vec<u64>) -> Self {
        Self {
            node,
            group,
            voters,
            partition: group.saturating_sub(1),
            partitions: 1,
            tick_ms: 50,
            election_ticks: 10,
            heartbeat_ticks: 2,
            run_limit_steps: 100_000,
            result_bytes_max: 256 << 20,
            write_set_bytes_max: 8 << 20,
            batch_bytes_max: 1 << 20,
            batches_in_flight_max: 3,
            queue_max: 10_000,
            log_bytes_max: 256 << 20,
            apply_backlog_bytes_max: 64 << 20,
            tip_bytes_max: 256 << 20,
            sessions_max: 4096,
            lock_lease_ms: 5_000,
            locks_max: 200_000,
            leases_max: 100_000,
            changes_bytes_max: 16 << 20,
            resolve_after_ms: 1_000,
            durability: Durability::Fsync,
            log_tail_lost: false,
            snapshot_patience_ticks: 200,
            seed: 0,
            planted: Planted::default(),
        }
    }
}

/// The time of an input. `mono_us` never goes back (raw monotonic clock); `wall_us` is the system clock since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono_us: u64,
    pub wall_us: i64,
}

/// What a request asks for.
#[derive(Clone)]
pub enum Task {
    /// A transaction of this partition alone, run on the core.
    Run(Arc<dyn Transaction>),
    /// Work of a transaction that runs elsewhere. The reply is an encoded `messages::Answer`.
    Txn(Arc<Work>),
}

impl Task {
    /// It may free those who wait: accepted even when they fill the queue, or they would wait for ever. There are no more of
    /// these than transactions that hold locks.
    pub fn ends_waits(&self) -> bool {
        match self {
            Task::Run(_) => false,
            Task::Txn(work) => !matches!(**work, Work::Lock(_) | Work::Read(_) | Work::LookUp(_)),
        }
    }

    /// True if it is not refused for want of room in the log.
    pub fn read_only(&self) -> bool {
        match self {
            Task::Run(txn) => txn.read_only(),
            Task::Txn(work) => {
                !matches!(**work, Work::Prepare(_) | Work::Commit(_) | Work::Stage(_))
            }
        }
    }
}

/// Something to do here.
#[derive(Clone)]
pub struct Request {
    /// Chosen by the shell, unique while the request is open; comes back in `Output::Reply`.
    pub id: u64,
    pub task: Task,
    /// (session, number) of a numbered request (I11).
    pub session: Option<(u128, u64)>,
    /// The highest timestamp that whoever asks has seen: what is done for him here is above it. 55000 if it is further
    /// ahead than `OFFSET_MAX_US`.
    pub seen: u64,
    /// Set to true by a cancel request; checked before execution.
    pub cancel: Option<Arc<AtomicBool>>,
    pub waited: Waited,
}

impl Request {
    /// Its client has cancelled it; or is gone, and it was only waiting for a change.
    pub fn has_nobody(&self) -> bool {
        let set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        self.cancel.as_ref().is_some_and(set)
            || self.waited.parked && self.waited.gone.as_ref().is_some_and(set)
    }
}

/// A request's wait for a change (`Wait`).
#[derive(Clone, Debug, Default)]
pub struct Waited {
    /// Microseconds so far, here and elsewhere.
    pub us: u64,
    /// It was parked here.
    pub parked: bool,
    /// Set to true when nobody waits for the answer any more. None: that cannot be told, so that it is not parked for long.
    pub gone: Option<Arc<AtomicBool>>,
}

/// What happened.
pub enum Input {
    Tick,
    Message(Message),
    /// The write with this token, and all before it, are done as their `sync` asked.
    Persisted {
        token: u64,
    },
    /// An apply job is done, or the state was flushed (then `floor` may be 0).
    Applied(AppliedReport),
    Request(Request),
    /// The shell's inbox is drained: close the batch if the pipeline has room.
    Flush,
    /// Campaign now (bootstrap, or to take over a preferred leadership).
    Campaign,
    TransferLeader(u64),
    /// A checkpoint was made (`StateStore::checkpoint`), or could not be.
    Checkpointed(Result<Checkpoint>),
    /// The offered checkpoint was removed.
    CheckpointGone,
    /// The checkpoint on its way to a member goes on; without this for `snapshot_patience_ticks` it counts as failed.
    SnapshotProgress {
        to: u64,
    },
    /// The checkpoint has arrived at a member and is installed there, or never will be.
    SnapshotDone {
        to: u64,
        arrived: bool,
    },
    /// Makes the group's members these, step by step; answered by `Output::Members` when they are, or cannot be.
    ChangeMembers {
        id: u64,
        /// The topology's that wants it, for which a `Fence` was committed; 0 before the first.
        version: u64,
        change: MemberChange,
    },
    /// Asks for the latest committed timestamp, under a valid lease; answered by `Output::SnapshotTs`.
    SnapshotTs {
        id: u64,
    },
    /// Asks for a promise: everything at or below `ts` is applied here, and later commits are above it.
    SnapshotAt {
        id: u64,
        ts: u64,
    },
}

/// What the shell has to do.
pub enum Output {
    /// To the nodes named in the messages; may be lost.
    Send(Vec<Message>),
    /// For the log writer, in order of tokens; answered by `Input::Persisted`. A failure must stop the node.
    Write {
        token: u64,
        write: LogWrite,
        sync: bool,
    },
    /// For the apply thread (`apply::run`), in order; answered by `Input::Applied`. A failure must stop the node.
    Apply(ApplyJob),
    Reply {
        id: u64,
        result: Result<Bytes>,
        /// Nothing that the answer rests on is later; 0 if it rests on nothing.
        ts: u64,
    },
    SnapshotTs {
        id: u64,
        result: Result<u64>,
    },
    SnapshotReady {
        id: u64,
        result: Result<()>,
    },
    /// A change of members is committed; the members are in `ReplicaStatus`.
    Members {
        id: u64,
        result: Result<()>,
    },
    /// A member needs a checkpoint: `StateStore::checkpoint` with these members, off the core; answered by
    /// `Input::Checkpointed`.
    Checkpoint {
        members: Bytes,
    },
    Role(RoleChange),
    /// A transaction is prepared here for long: ask the coordinator's leader (`Work::Resolve`) and bring its answer here
    /// (`Work::Settle`). Comes again, more and more rarely, until it is settled.
    Resolve {
        txn: TxnId,
        coordinator: u32,
        deadline_ts: u64,
    },
    /// A transaction was decided here long ago and may not be known everywhere: settle it in the groups `others`, and when
    /// all have answered, let it be forgotten here (`Work::Forget`). Comes again as `Resolve` does.
    Finish {
        txn: TxnId,
        commit_ts: u64,
        others: Vec<u32>,
    },
    /// Entries before `index` are needed by nobody: `LogStore::truncate(group, index)`.
    Truncate {
        index: u64,
    },
}

/// One step of a change of members. A voter comes in as a learner first, and is made a voter when it has caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// This node copies the group's log and state from now on, without a vote.
    AddLearner(u64),
    /// By joint consensus: these are the voters, and everybody else is a member no more.
    SetVoters(Vec<u64>),
}

/// Who leads, and whether this replica executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub leader: Option<u64>,
    pub term: u64,
    pub is_leader: bool,
    /// The executor is open: requests are executed here.
    pub open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

/// One line of `dbos.replicas`.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    pub group: u32,
    pub node: u64,
    pub role: Role,
    pub open: bool,
    pub term: u64,
    pub leader: Option<u64>,
    pub commit: u64,
    /// Applied to the state store.
    pub applied: u64,
    /// Applied and flushed.
    pub durable: u64,
    pub first_index: u64,
    pub last_index: u64,
    /// Bytes of log between the first and the last index.
    pub log_bytes: u64,
    /// Commit timestamp of the last committed batch; 0 unless open.
    pub last_ts: u64,
    /// The other members, as the leader knows them; empty elsewhere.
    pub followers: Vec<FollowerStatus>,
    /// Voters, and those who only copy, as this replica knows them.
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Members are changing: two majorities are needed now.
    pub joint: bool,
    /// On the leader: an entry that changes the members may be in the log and is not applied yet.
    pub changing: bool,
    /// Bytes of current rows in memory, and proposed batches that are not committed; 0 unless open.
    pub tip_bytes: usize,
    pub batches_in_flight: usize,
    pub sessions: usize,
    /// A rollback to an earlier time would begin anew if this leader went.
    pub rolls_back: bool,
    /// Requests waiting for execution, commit or a lease.
    pub requests: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    pub node: u64,
    pub match_index: u64,
    /// Entries behind the leader's last.
    pub lag: u64,
    /// Heard of since the last quorum check.
    pub active: bool,
    /// A checkpoint is on its way to it.
    pub snapshot: bool,
}

/// One line of `dbos.sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub session: u128,
    /// Highest request number executed.
    pub newest: u64,
}
