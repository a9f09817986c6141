//! What goes into the driver and what comes out.

use raft::StateRole;
use raft::eraftpb::{Entry, Message};

use crate::planted::Planted;
use crate::storage::{Checkpoint, LogWrite};

pub struct DriverConfig {
    pub node: u64,
    pub group: u32,
    /// The nodes of the first members.
    pub voters: Vec<u64>,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Sync every write; otherwise only changes of term and vote.
    pub sync: bool,
    /// The tail of the log may be lost (see `ReplicaConfig::log_tail_lost`).
    pub tail_lost: bool,
    pub seed: u64,
    pub planted: Planted,
}

/// What the replica has to do or to know.
pub enum Effect {
    Send(Vec<Message>),
    Write {
        token: u64,
        write: LogWrite,
        sync: bool,
    },
    /// Committed and persisted here (I9), in order, each once; with the members from each entry that changes them on.
    Committed {
        entries: Vec<Entry>,
        members: Vec<(u64, bytes::Bytes)>,
    },
    /// The state is to be replaced by this checkpoint, which has arrived; answered by `installed`. Nothing more comes until
    /// then.
    Install(Checkpoint),
    /// A member needs a checkpoint; answered by `offer`.
    WantCheckpoint,
    /// A quorum confirmed this leader after the read-index round with this number began.
    ReadConfirmed(u64),
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// The entry is in this leader's log at (its term,) this index.
    At(u64),
    /// Not taken: a transfer is under way, or too much is uncommitted. Nothing happened.
    Refused,
    /// This node does not lead the term any more; where the data went is not known.
    Deposed,
}

/// The state of the group as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub role: StateRole,
    pub term: u64,
    pub leader: Option<u64>,
    pub commit: u64,
    pub first: u64,
    pub last: u64,
    pub log_bytes: u64,
}

/// A member as the leader knows it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub node: u64,
    pub matched: u64,
    pub active: bool,
    /// A checkpoint is on its way to it.
    pub snapshot: bool,
    pub voter: bool,
}
