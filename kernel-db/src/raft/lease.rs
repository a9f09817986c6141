//! The leader's lease: until when no other leader can have been elected.
//!
//! A follower that accepted an entry, or answered a heartbeat, votes for nobody during the election timeout that follows
//! (raft-rs with `check_quorum`; a voter that just booted stays silent as long). So from the time at which such an entry
//! was proposed, or such a round was started, the leader is alone for that time less a margin. Times are the raw
//! monotonic clock's; raft-rs's own LeaseBased reads are not used.

/// Ticks by which the lease ends before the earliest election: one for the first tick of a follower, which may come at
/// once, and one for clocks that run at different speed.
const MARGIN_TICKS: u64 = 2;

/// The lease of one term.
#[derive(Clone, Debug)]
pub struct Lease {
    length_us: u64,
    until_us: u64,
    suspended: bool,
}

impl Lease {
    /// A lease that is not valid yet. A group of one has nobody to be deposed by.
    pub fn new(tick_us: u64, election_ticks: usize) -> Self {
        Self {
            length_us: (election_ticks as u64).saturating_sub(MARGIN_TICKS) * tick_us,
            until_us: 0,
            suspended: false,
        }
    }

    /// A quorum confirmed something that left at `started_us`: a committed entry of the own term, or a read-index round.
    pub fn renew(&mut self, started_us: u64) {
        self.until_us = self.until_us.max(started_us + self.length_us);
    }

    /// A leadership transfer lets the other member campaign at once, and its go-ahead may arrive at any later time: no
    /// lease for the rest of the term, every read asks the quorum.
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    pub fn valid(&self, now_us: u64) -> bool {
        !self.suspended && now_us < self.until_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ends_before_the_earliest_election() {
        let mut lease = Lease::new(50_000, 10);
        assert!(!lease.valid(0));
        lease.renew(1_000_000);
        assert!(lease.valid(1_000_000 + 399_999));
        assert!(!lease.valid(1_000_000 + 400_000));
        lease.renew(500_000);
        assert!(lease.valid(1_399_999), "an older round must not shorten it");
    }

    #[test]
    fn no_lease_after_a_transfer_began() {
        let mut lease = Lease::new(50_000, 10);
        lease.renew(0);
        lease.suspend();
        lease.renew(100_000);
        assert!(!lease.valid(100_001));
    }
}
