//! A lane: an ordered way to one place, and the session that goes with it.
//!
//! Calls of a lane share one connection at a time, on which they are pipelined. On a kernel cluster there is at least one
//! lane per partition, because a connection that alternates between partitions makes the server wait for one before the
//! other. When the leader moves or the connection is lost, the lane connects to where the leader is now under the same
//! session, so that calls of unknown outcome are asked for again by their numbers (I11). A connection left behind by a move
//! serves what it has in flight.
//!
//! A server forgets the sessions that are unused for longest. A call that is the first to find that out takes a new session;
//! one that was sent before under the old session is of unknown outcome.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::Row;

use crate::cluster::{Cluster, Place};
use crate::connection::{Connection, Params, Prepared, SessionStart, lock};
use crate::error::{Class, Error, Result};
use crate::numbers::Numbers;
use crate::retry::{Attempts, Failure, Next, Repeatable, is_about_session};

/// What an attempt gets that starts right before the deadline: cut shorter, its outcome would be unknown for no reason.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(500);

/// What all lanes of a client share.
pub struct Shared {
    pub cluster: Cluster,
    /// From the first attempt to the last.
    pub deadline: Duration,
    /// One attempt on a cluster; a paused node is left after it.
    pub attempt_timeout: Option<Duration>,
    pub retries: AtomicU64,
    pub connects: AtomicU64,
}

pub struct Lane {
    shared: Arc<Shared>,
    place: Place,
    /// The session of new calls.
    session: Option<Mutex<Arc<Session>>>,
    repeatable: Repeatable,
    connection: Mutex<Option<Arc<Connection>>>,
    connecting: tokio::sync::Mutex<usize>,
}

struct Session {
    id: u128,
    numbers: Mutex<Numbers>,
    room: Notify,
}

/// A number held by a call from its first attempt until its outcome is known.
struct Ticket {
    session: Arc<Session>,
    number: u64,
    /// The request may have reached a server under this number.
    used: bool,
}

impl Lane {
    /// For calls on a cluster: numbered in a session of its own.
    pub fn with_session(shared: Arc<Shared>, place: Place) -> Self {
        Self::new(
            shared,
            place,
            Some(Mutex::new(Session::new())),
            Repeatable::Yes,
        )
    }

    /// Without numbers: for reads and idempotent scripts (`Repeatable::Yes`), or calls on a plain PostgreSQL.
    pub fn without_session(shared: Arc<Shared>, place: Place, repeatable: Repeatable) -> Self {
        Self::new(shared, place, None, repeatable)
    }

    fn new(
        shared: Arc<Shared>,
        place: Place,
        session: Option<Mutex<Arc<Session>>>,
        repeatable: Repeatable,
    ) -> Self {
        Self {
            shared,
            place,
            session,
            repeatable,
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Runs one prepared statement to its end, retries included.
    pub async fn query(
        &self,
        sql: &str,
        params: Params<'_>,
        repeatable: Repeatable,
    ) -> Result<Vec<Row>> {
        self.query_waiting(sql, params, repeatable, Duration::ZERO)
            .await
    }

    /// As `query`, of a statement that the server may hold for `wait`.
    pub async fn query_waiting(
        &self,
        sql: &str,
        params: Params<'_>,
        repeatable: Repeatable,
        wait: Duration,
    ) -> Result<Vec<Row>> {
        let mut ticket = None;
        let deadline = self.shared.deadline.saturating_add(wait);
        let mut attempts = Attempts::new(self.repeatable.or(repeatable), deadline);
        let started = Instant::now();
        loop {
            let sent = AtomicBool::new(false);
            let attempt = self.attempt_query(sql, params, &mut ticket, &sent);
            match self.in_time(started, wait, &sent, attempt).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => {
                    if matches!(failure, Failure::SessionGone(_)) {
                        ticket = None;
                    }
                    self.wait_after(failure, &mut attempts, started).await?;
                }
            }
        }
    }

    /// Runs a script that may be run twice.
    pub async fn script(&self, sql: &str) -> Result<()> {
        let mut attempts = Attempts::new(Repeatable::Yes, self.shared.deadline);
        let started = Instant::now();
        loop {
            let result = async { self.connection(None).await?.batch(sql).await }.await;
            match result {
                Ok(()) => return Ok(()),
                Err(failure) => self.wait_after(failure, &mut attempts, started).await?,
            }
        }
    }

    async fn attempt_query(
        &self,
        sql: &str,
        params: Params<'_>,
        ticket: &mut Option<Ticket>,
        sent: &AtomicBool,
    ) -> Result<Vec<Row>, Failure> {
        let session = ticket
            .as_ref()
            .map(|ticket| ticket.session.clone())
            .or_else(|| self.current_session());
        let connection = self.connection(session.as_ref()).await?;
        let prepared = connection.prepare(sql).await?;
        let result = match session {
            Some(session) if !prepared.is_uncounted() => {
                if ticket.is_none() {
                    *ticket = Some(Session::ticket(session).await);
                }
                match ticket {
                    Some(ticket) => {
                        self.call(ticket, &connection, &prepared, params, sent)
                            .await
                    }
                    None => {
                        return Err(Failure::NotSent(Error::environment("no number was given")));
                    }
                }
            }
            _ => connection.query(&prepared, params, sent).await,
        };
        if let Err(Failure::Answered(error)) = &result
            && error.sqlstate() == Some("26000")
        {
            connection.forget(sql);
        }
        result
    }

    async fn call(
        &self,
        ticket: &mut Ticket,
        connection: &Connection,
        prepared: &Prepared,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<Vec<Row>, Failure> {
        let first_time = !std::mem::replace(&mut ticket.used, true);
        match connection.call(ticket.number, prepared, params, sent).await {
            // I11: only a request that was never sent before may move to another session.
            Err(Failure::Answered(error)) if first_time && is_about_session(&error) => {
                self.leave_session(&ticket.session);
                Err(Failure::SessionGone(error))
            }
            result => result,
        }
    }

    fn current_session(&self) -> Option<Arc<Session>> {
        self.session.as_ref().map(|session| lock(session).clone())
    }

    /// New calls take a new session, unless another call already saw to that.
    fn leave_session(&self, gone: &Arc<Session>) {
        if let Some(session) = &self.session {
            let mut session = lock(session);
            if Arc::ptr_eq(&session, gone) {
                *session = Session::new();
            }
        }
    }

    /// Bounds an attempt by the attempt timeout and by what is left until the deadline.
    async fn in_time<T>(
        &self,
        started: Instant,
        wait: Duration,
        sent: &AtomicBool,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let left = self
            .shared
            .deadline
            .saturating_add(wait)
            .saturating_sub(started.elapsed())
            .max(ATTEMPT_TIME_MIN);
        let timeout = self
            .shared
            .attempt_timeout
            .map_or(left, |timeout| timeout.saturating_add(wait).min(left));
        let late = match tokio::time::timeout(timeout, attempt).await {
            Ok(result) => return result,
            Err(late) => late,
        };
        if let Some(connection) = lock(&self.connection).take() {
            connection.retire();
        }
        let error = Error::new(
            Class::Unknown,
            format!("no answer in {} ms: {late}", timeout.as_millis()),
        );
        Err(if sent.load(Ordering::Relaxed) {
            Failure::Lost(error)
        } else {
            Failure::NotSent(error)
        })
    }

    async fn wait_after(
        &self,
        failure: Failure,
        attempts: &mut Attempts,
        started: Instant,
    ) -> Result<()> {
        let may_have_moved = match &failure {
            Failure::Answered(error) => matches!(error.sqlstate(), Some("DB002" | "08007")),
            _ => true,
        };
        match attempts.failed(failure, started.elapsed(), rand::random()) {
            Next::Give(error) => Err(error),
            Next::Wait(wait) => {
                self.shared.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
                if may_have_moved && let Err(error) = self.shared.cluster.refresh().await {
                    tracing::debug!(%error, "no node tells who leads");
                }
                Ok(())
            }
        }
    }

    /// The connection to use now for a session; opens one if there is none, it is lost, or the leader is elsewhere.
    async fn connection(&self, session: Option<&Arc<Session>>) -> Result<Arc<Connection>, Failure> {
        let id = session.map(|session| session.id);
        if let Some(connection) = self.current(id) {
            return Ok(connection);
        }
        // One task opens the connection; the others wait for it here.
        let mut attempt = self.connecting.lock().await;
        if let Some(connection) = self.current(id) {
            return Ok(connection);
        }
        let endpoint = self.shared.cluster.endpoint(self.place, *attempt);
        *attempt += 1;
        let start = session.map(|s| SessionStart {
            id: s.id,
            next: lock(&s.numbers).next(),
        });
        let connection = Arc::new(Connection::open(&endpoint, start).await?);
        self.shared.connects.fetch_add(1, Ordering::Relaxed);
        *lock(&self.connection) = Some(connection.clone());
        Ok(connection)
    }

    fn current(&self, session: Option<u128>) -> Option<Arc<Connection>> {
        let connection = lock(&self.connection);
        let usable = connection.as_ref().filter(|connection| {
            connection.is_usable()
                && connection.session() == session
                && !self
                    .shared
                    .cluster
                    .has_moved(self.place, connection.endpoint())
        });
        usable.cloned()
    }
}

impl Session {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: rand::random(),
            numbers: Mutex::new(Numbers::new()),
            room: Notify::new(),
        })
    }

    /// Waits until the window has room.
    async fn ticket(self: Arc<Self>) -> Ticket {
        let number = loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if let Some(number) = lock(&self.numbers).take() {
                break number;
            }
            room.await;
        };
        Ticket {
            session: self,
            number,
            used: false,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.session.numbers).done(self.number);
        self.session.room.notify_waiters();
    }
}
