//! When to try again: a pure state machine, given the time and randomness from outside.
//!
//! The class of a failure comes from its SQLSTATE. `Retry` failures changed nothing and are tried again, but 53400: there a
//! limit is reached below which only another user makes room (a full mailbox), and perhaps nobody will. A failure of
//! unknown outcome is tried again only where trying twice is harmless: a read, or a call with a number in a session.
//! Waits double from 2 ms to 250 ms with full jitter, until the deadline.

use std::time::Duration;

use crate::error::{Class, Error};

const WAIT_FIRST: Duration = Duration::from_millis(2);
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What one attempt came to when it did not work.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with an error.
    Answered(Error),
    /// The connection was lost, or nothing was heard in time, after the request was sent.
    Lost(Error),
    /// The server forgot the session before the request first reached it: nothing was done.
    SessionGone(Error),
    /// The request was never sent: there was no connection.
    NotSent(Error),
}

/// What a call must not do twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// Reads, idempotent scripts, and calls numbered within a session.
    Yes,
    /// Calls on a server without sessions.
    No,
}

impl Failure {
    pub fn into_error(self) -> Error {
        match self {
            Self::Answered(error)
            | Self::Lost(error)
            | Self::SessionGone(error)
            | Self::NotSent(error) => error,
        }
    }
}

impl Repeatable {
    /// Repeatable if either says so.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Yes { self } else { other }
    }
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub enum Next {
    /// Try again after this time.
    Wait(Duration),
    /// Tell the caller.
    Give(Error),
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Attempts {
    repeatable: Repeatable,
    deadline: Duration,
    failed: u32,
    /// An earlier attempt may have taken effect.
    maybe_done: bool,
}

impl Attempts {
    /// `deadline` is counted from the first attempt.
    pub fn new(repeatable: Repeatable, deadline: Duration) -> Self {
        Self {
            repeatable,
            deadline,
            failed: 0,
            maybe_done: false,
        }
    }

    /// After `elapsed` since the first attempt; `jitter` is uniform in 0..1.
    pub fn failed(&mut self, failure: Failure, elapsed: Duration, jitter: f64) -> Next {
        let error = match failure {
            Failure::NotSent(error) | Failure::SessionGone(error) => error.with_class(Class::Retry),
            Failure::Lost(error) => error.with_class(Class::Unknown),
            Failure::Answered(error) => error,
        };
        match error.class() {
            Class::Request | Class::Environment if self.maybe_done && is_about_attempt(&error) => {
                return Next::Give(error.with_class(Class::Unknown));
            }
            Class::Request | Class::Environment => return Next::Give(error),
            Class::Retry if is_at_a_limit(&error) => return Next::Give(error),
            Class::Unknown if self.repeatable == Repeatable::No => return Next::Give(error),
            Class::Unknown => self.maybe_done = true,
            Class::Retry => {}
        }
        let wait = self.wait(jitter);
        self.failed += 1;
        if elapsed + wait <= self.deadline {
            return Next::Wait(wait);
        }
        let class = if self.maybe_done {
            Class::Unknown
        } else {
            Class::Retry
        };
        Next::Give(error.with_class(class))
    }

    fn wait(&self, jitter: f64) -> Duration {
        let most = WAIT_FIRST
            .saturating_mul(1 << self.failed.min(16))
            .min(WAIT_MAX);
        most.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// A session or number that the server no longer knows is answered with a protocol violation.
pub fn is_about_session(error: &Error) -> bool {
    error.sqlstate().is_some_and(|code| code == "08P01")
}

/// Such an answer does not tell what an earlier attempt did: it is about the number itself, or about this attempt's time
/// (cancelled, a lock not had), while the earlier one may still run.
fn is_about_attempt(error: &Error) -> bool {
    let about_time = |code| matches!(code, "57014" | "55P03");
    is_about_session(error) || error.sqlstate().is_some_and(about_time)
}

/// Somebody has to make room first, and is not known to be about to.
fn is_at_a_limit(error: &Error) -> bool {
    error.sqlstate().is_some_and(|code| code == "53400")
}

/// The class of a server's SQLSTATE (design.md section 6).
pub fn classify(sqlstate: &str) -> Class {
    match sqlstate {
        // The kernel's own: schema changed, not leader. Then serialization failure, deadlock, starting up.
        "DB001" | "DB002" | "40001" | "40P01" | "57P03" => Class::Retry,
        "08007" => Class::Unknown,
        // The server is going down: what it was running may have been committed.
        "57P01" | "57P02" | "08006" | "08003" => Class::Unknown,
        code if code.starts_with("53") => Class::Retry,
        _ => Class::Request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);

    fn answered(sqlstate: &str) -> Failure {
        Failure::Answered(Error::new(classify(sqlstate), "answer").sqlstate_is(sqlstate))
    }

    fn lost() -> Failure {
        Failure::Lost(Error::new(Class::Unknown, "connection lost"))
    }

    fn given(next: Next) -> Class {
        match next {
            Next::Give(error) => error.class(),
            Next::Wait(_) => panic!("expected the error to be given to the caller"),
        }
    }

    #[test]
    fn a_wrong_request_is_never_repeated() {
        for code in ["23505", "42P01", "57014", "54000", "P0001", "0A000"] {
            let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
            assert_eq!(
                given(attempts.failed(answered(code), Duration::ZERO, 0.5)),
                Class::Request,
                "{code}"
            );
        }
    }

    #[test]
    fn a_retry_is_repeated_until_the_deadline_with_growing_waits() {
        let mut attempts = Attempts::new(Repeatable::No, DEADLINE);
        let mut waits = Vec::new();
        for code in [
            "DB001", "DB002", "40001", "40P01", "53300", "53100", "57P03", "40001", "40001",
            "40001",
        ] {
            match attempts.failed(answered(code), Duration::ZERO, 1.0) {
                Next::Wait(wait) => waits.push(wait.as_millis()),
                Next::Give(error) => panic!("{error}"),
            }
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 250, 250, 250]);
        assert_eq!(
            given(attempts.failed(answered("40001"), DEADLINE, 0.5)),
            Class::Retry
        );
    }

    #[test]
    fn a_limit_that_others_make_room_under_is_told_at_once() {
        let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
        let refused = attempts.failed(answered("53400"), Duration::ZERO, 0.5);
        assert_eq!(given(refused), Class::Retry);
        // Under a number the answer is about that number: what was lost before it did nothing either.
        let mut again = Attempts::new(Repeatable::Yes, DEADLINE);
        let lost = again.failed(lost(), Duration::ZERO, 0.5);
        assert!(matches!(lost, Next::Wait(_)));
        let refused = again.failed(answered("53400"), Duration::ZERO, 0.5);
        assert_eq!(given(refused), Class::Retry);
    }

    #[test]
    fn an_unknown_outcome_is_repeated_only_under_a_session() {
        let mut plain = Attempts::new(Repeatable::No, DEADLINE);
        assert_eq!(
            given(plain.failed(lost(), Duration::ZERO, 0.5)),
            Class::Unknown
        );
        let mut session = Attempts::new(Repeatable::Yes, DEADLINE);
        assert!(matches!(
            session.failed(lost(), Duration::ZERO, 0.5),
            Next::Wait(_)
        ));
        assert!(matches!(
            session.failed(answered("08007"), Duration::ZERO, 0.5),
            Next::Wait(_)
        ));
    }

    #[test]
    fn exhausted_retries_behind_an_unknown_outcome_stay_unknown() {
        let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
        assert!(matches!(
            attempts.failed(lost(), Duration::ZERO, 0.5),
            Next::Wait(_)
        ));
        assert_eq!(
            given(attempts.failed(answered("DB002"), DEADLINE, 0.5)),
            Class::Unknown
        );
    }

    #[test]
    fn a_forgotten_session_behind_an_unknown_outcome_stays_unknown() {
        let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
        assert!(matches!(
            attempts.failed(lost(), Duration::ZERO, 0.5),
            Next::Wait(_)
        ));
        assert_eq!(
            given(attempts.failed(answered("08P01"), Duration::ZERO, 0.5)),
            Class::Unknown
        );
    }

    #[test]
    fn a_later_attempt_that_took_too_long_tells_nothing_of_an_earlier_one() {
        for code in ["57014", "55P03"] {
            let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
            let first = attempts.failed(lost(), Duration::ZERO, 0.5);
            assert!(matches!(first, Next::Wait(_)));
            let second = attempts.failed(answered(code), Duration::ZERO, 0.5);
            assert_eq!(given(second), Class::Unknown, "{code}");
        }
        // The statement's own fault is found whatever an earlier attempt did.
        let mut attempts = Attempts::new(Repeatable::Yes, DEADLINE);
        let first = attempts.failed(lost(), Duration::ZERO, 0.5);
        assert!(matches!(first, Next::Wait(_)));
        let second = attempts.failed(answered("42P01"), Duration::ZERO, 0.5);
        assert_eq!(given(second), Class::Request);
    }

    #[test]
    fn what_was_never_sent_may_always_be_repeated() {
        let mut attempts = Attempts::new(Repeatable::No, DEADLINE);
        let failure = || Failure::NotSent(Error::environment("connection refused"));
        assert!(matches!(
            attempts.failed(failure(), Duration::ZERO, 0.5),
            Next::Wait(_)
        ));
        assert_eq!(
            given(attempts.failed(failure(), DEADLINE, 0.5)),
            Class::Retry
        );
    }
}
