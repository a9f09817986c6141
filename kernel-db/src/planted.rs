//! Faults planted on purpose: each takes away one thing that a rule of design.md rests on, so that the simulator can show
//! that it would be missed.
//!
//! Outside of tests `Planted` is empty and `is` is always false: the compiler leaves nothing of it.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The lease runs as long as the shortest election timeout.
    LeaseWithoutMargin,
    /// Entries are acknowledged when they are written, not when they are synced.
    AckBeforeFsync,
    /// The outcome of a numbered request is not in the entry of its effect (I11).
    ForgottenSessionWrite,
    /// A new leader's clock starts above the last commit, not above what readers were promised (I13).
    ForgottenReadCeiling,
    /// A leader that returns goes on with the tip that it had (I6).
    OverlayKept,
    /// Replies leave when their entry is proposed (I4).
    ReplyBeforeCommit,
    /// The log is cut behind what is applied, not behind what is flushed (I10).
    TruncationBeforeFlush,
    /// A vote is written and not synced.
    VoteNotSynced,
    /// A prepared transaction gives its locks up before it is settled (I12).
    EarlyLockRelease,
    /// A prepare keeps locks only on what it writes (I12).
    PrepareWithoutReadLocks,
    /// What the asker has seen elsewhere is not looked at: a commit here may come before it.
    SeenForgotten,
    /// Of what a transaction has written, only the first key wakes those who wait for a change.
    LostWakeUp,
    /// Going back to an earlier time writes rows before it is decided (I12).
    RollbackBeforeDecided,
    /// A leader changes members for any version of the topology.
    LateStepTaken,
    /// A read lease is told, and no write waits for it.
    LeaseNotAwaited,
    /// A new leader does not wait for the read leases of the one before.
    LeasesForgotten,
}

/// The fault planted in a replica, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(test)]
    mutation: Option<Mutation>,
}

impl Planted {
    #[cfg(test)]
    pub fn new(mutation: Option<Mutation>) -> Self {
        Self { mutation }
    }

    #[cfg(test)]
    pub fn is(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Always false: nothing is planted outside of tests.
    #[cfg(not(test))]
    #[inline(always)]
    pub fn is(self, _mutation: Mutation) -> bool {
        false
    }
}

#[cfg(test)]
impl Mutation {
    /// Every mutation with its name on the command line.
    pub const ALL: [(&'static str, Mutation); 16] = [
        ("lease-without-margin", Self::LeaseWithoutMargin),
        ("ack-before-fsync", Self::AckBeforeFsync),
        ("forgotten-session-write", Self::ForgottenSessionWrite),
        ("forgotten-read-ceiling", Self::ForgottenReadCeiling),
        ("overlay-kept", Self::OverlayKept),
        ("reply-before-commit", Self::ReplyBeforeCommit),
        ("truncation-before-flush", Self::TruncationBeforeFlush),
        ("vote-not-synced", Self::VoteNotSynced),
        ("early-lock-release", Self::EarlyLockRelease),
        ("prepare-without-read-locks", Self::PrepareWithoutReadLocks),
        ("seen-forgotten", Self::SeenForgotten),
        ("lost-wake-up", Self::LostWakeUp),
        ("rollback-before-decided", Self::RollbackBeforeDecided),
        ("late-step-taken", Self::LateStepTaken),
        ("lease-not-awaited", Self::LeaseNotAwaited),
        ("leases-forgotten", Self::LeasesForgotten),
    ];

    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, mutation)| *mutation)
    }
}
