//! The node's clock: the highest timestamp that anything here has seen. Every call to another node and every answer carries it,
//! and every request takes it to its partition, which commits above it.
//!
//! So what a client does through one node is in its order everywhere, and what it learned from another client is too. A
//! timestamp further ahead than `OFFSET_MAX_US` is not learned: it would carry this node away. Calls that bring one are
//! refused; of an answer that brings one the effect is there, so it is told, with a warning in the log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::txn::HybridClock;

/// Between two warnings.
const QUIET: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Default)]
pub struct NodeClock {
    clock: RefCell<HybridClock>,
    warned: Cell<Option<Instant>>,
}

impl NodeClock {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Hybrid logical microseconds; 0 before anything was seen.
    pub fn seen(&self) -> u64 {
        self.clock.borrow().last()
    }

    /// 55000 if `ts` is too far ahead of this node's clock.
    pub fn observe(&self, ts: u64) -> Result<()> {
        self.clock.borrow_mut().observe(ts, wall_us())
    }

    /// Of a client, which could carry the node away step by step: bounded by the wall clock alone. 55000 above that.
    pub fn observe_client(&self, ts: u64) -> Result<()> {
        HybridClock::default().observe(ts, wall_us())?;
        self.observe(ts)
    }

    /// Of an answer.
    pub fn learn(&self, ts: u64) {
        if let Err(error) = self.observe(ts) {
            let warned = self.warned.get();
            if warned.is_none_or(|at| at.elapsed() > QUIET) {
                self.warned.set(Some(Instant::now()));
                tracing::warn!("an answer's time is not kept, so causality is not either: {error}");
            }
        }
    }
}

/// The wall clock, in microseconds since the epoch.
pub fn wall_us() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.map_or(0, |d| d.as_micros() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::OFFSET_MAX_US;

    #[test]
    fn what_is_too_far_ahead_is_not_learned() {
        let clock = NodeClock::new();
        let now = wall_us() as u64;
        clock.learn(now);
        assert_eq!(clock.seen(), now);
        clock.learn(now + 2 * OFFSET_MAX_US + 1);
        assert_eq!(clock.seen(), now);
        let ahead = now + OFFSET_MAX_US / 2;
        clock.observe_client(ahead).unwrap();
        assert_eq!(clock.seen(), ahead);
        // The second step is refused although it is a small one.
        assert!(clock.observe_client(ahead + OFFSET_MAX_US).is_err());
        assert_eq!(clock.seen(), ahead);
        assert_eq!(
            clock
                .observe(u64::MAX / 2)
                .map_err(|e| e.sqlstate().to_owned()),
            Err("55000".to_owned())
        );
    }
}
