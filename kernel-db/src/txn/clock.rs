//! The hybrid logical clock: timestamps in microseconds since the epoch that never repeat and never go back.

use crate::error::{Error, Result};

/// Microseconds by which a timestamp from elsewhere may be ahead of this node's clock: twice the ceiling's lead (I13), so that
/// a leader that just took over elsewhere, and a clock that is off by as much, are not refused.
pub const OFFSET_MAX_US: u64 = 1_000_000;

/// A clock that gives `max(wall clock, last + 1)`.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: u64,
}

impl HybridClock {
    /// A clock all of whose timestamps will be above `last`.
    pub fn above(last: u64) -> Self {
        Self { last }
    }

    /// The timestamp of a new commit.
    pub fn next(&mut self, wall_us: i64) -> u64 {
        self.last = wall(wall_us).max(self.last + 1);
        self.last
    }

    /// The latest timestamp given or observed.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Later timestamps will be above `ts`. One further ahead than `OFFSET_MAX_US` is refused: a broken clock elsewhere
    /// must not carry this one away.
    pub fn observe(&mut self, ts: u64, wall_us: i64) -> Result<()> {
        if ts > self.last.max(wall(wall_us)) + OFFSET_MAX_US {
            return Err(Error::retry(
                "55000",
                format!("timestamp {ts} is too far ahead of this node's clock"),
            )
            .hint("compare the clocks of the nodes"));
        }
        self.last = self.last.max(ts);
        Ok(())
    }
}

fn wall(wall_us: i64) -> u64 {
    u64::try_from(wall_us).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_rise_while_the_wall_clock_stands_or_goes_back() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.next(100), 100);
        assert_eq!(clock.next(100), 101);
        assert_eq!(clock.next(50), 102);
        assert_eq!(clock.next(200), 200);
    }

    #[test]
    fn commits_follow_observed_timestamps() {
        let mut clock = HybridClock::default();
        clock.observe(5_000, 100).unwrap();
        assert_eq!(clock.next(100), 5_001);
    }

    #[test]
    fn a_timestamp_far_ahead_is_refused() {
        let mut clock = HybridClock::above(10);
        assert!(clock.observe(20 + OFFSET_MAX_US + 1, 20).is_err());
        assert_eq!(clock.last(), 10);
        assert!(clock.observe(20 + OFFSET_MAX_US, 20).is_ok());
    }
}
