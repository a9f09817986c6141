//! The numbers of a session's requests: which comes next, and which are still in flight.
//!
//! The server remembers the replies of the last [`WINDOW`] numbers of a session (I11). So a number may be given out only
//! while it is less than `WINDOW` above the oldest one whose outcome the client does not know: a retry of that one must
//! still find its reply.

use std::collections::BTreeSet;

/// How many numbers of a session the server remembers.
pub const WINDOW: u64 = 1024;

#[derive(Debug)]
pub struct Numbers {
    next: u64,
    in_flight: BTreeSet<u64>,
}

impl Numbers {
    /// Numbers start at 1.
    pub fn new() -> Self {
        Self {
            next: 1,
            in_flight: BTreeSet::new(),
        }
    }

    /// The next number, or `None` while the oldest in flight would leave the window.
    pub fn take(&mut self) -> Option<u64> {
        let oldest = self.in_flight.first().copied().unwrap_or(self.next);
        // I11: the server must still hold the reply of every number that may be retried.
        if self.next - oldest >= WINDOW {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.in_flight.insert(number);
        Some(number)
    }

    /// The outcome of a number is known, or nobody waits for it any more.
    pub fn done(&mut self, number: u64) {
        self.in_flight.remove(&number);
    }

    /// The number that will be given out next.
    pub fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_in_flight_holds_the_window_even_when_all_others_are_done() {
        let mut numbers = Numbers::new();
        let oldest = numbers.take().unwrap();
        for _ in 1..WINDOW {
            let number = numbers.take().unwrap();
            numbers.done(number);
        }
        assert_eq!(numbers.take(), None);
        numbers.done(oldest);
        assert_eq!(numbers.take(), Some(WINDOW + 1));
    }

    #[test]
    fn numbers_are_never_given_out_twice() {
        let mut numbers = Numbers::new();
        let given: Vec<u64> = (0..5).filter_map(|_| numbers.take()).collect();
        given.iter().for_each(|number| numbers.done(*number));
        assert_eq!(given, [1, 2, 3, 4, 5]);
        assert_eq!(numbers.next(), 6);
    }
}
