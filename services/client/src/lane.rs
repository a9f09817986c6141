//! A lane: an ordered way to one place, and the session that goes with it.
//!
//! Calls of a lane share one connection at a time, on which they are pipelined. On a kernel cluster there is at least one
//! lane per partition, because a connection that alternates between partitions makes the server wait for one before the
//! other. When the leader moves or the connection is lost, the lane connects to where the leader is now under the same
//! session, so that calls of unknown outcome are asked for again by their numbers (I11). A connection left behind by a move
//! serves what it has in flight.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::Row;

use crate::cluster::{Cluster, Place};
use crate::connection::{Connection, Params, SessionStart, lock};
use crate::error::{Class, Error, Result};
use crate::numbers::Numbers;
use crate::retry::{Attempts, Failure, Next, Repeatable};

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
    session: Option<Session>,
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
struct Ticket<'a> {
    session: &'a Session,
    number: u64,
}

impl Lane {
    /// For calls on a cluster: numbered in a session of its own.
    pub fn with_session(shared: Arc<Shared>, place: Place) -> Self {
        let session = Session {
            id: rand::random(),
            numbers: Mutex::new(Numbers::new()),
            room: Notify::new(),
        };
        Self::new(shared, place, Some(session), Repeatable::Yes)
    }

    /// Without numbers: for reads and idempotent scripts (`Repeatable::Yes`), or calls on a plain PostgreSQL.
    pub fn without_session(shared: Arc<Shared>, place: Place, repeatable: Repeatable) -> Self {
        Self::new(shared, place, None, repeatable)
    }

    fn new(
        shared: Arc<Shared>,
        place: Place,
        session: Option<Session>,
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
        let mut ticket = None;
        let mut attempts = Attempts::new(self.repeatable.or(repeatable), self.shared.deadline);
        let started = Instant::now();
        loop {
            let sent = AtomicBool::new(false);
            let attempt = self.attempt_query(sql, params, &mut ticket, &sent);
            match self.in_time(started, &sent, attempt).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => self.wait_after(failure, &mut attempts, started).await?,
            }
        }
    }

    /// Runs a script that may be run twice.
    pub async fn script(&self, sql: &str) -> Result<()> {
        let mut attempts = Attempts::new(Repeatable::Yes, self.shared.deadline);
        let started = Instant::now();
        loop {
            let result = async { self.connection().await?.batch(sql).await }.await;
            match result {
                Ok(()) => return Ok(()),
                Err(failure) => self.wait_after(failure, &mut attempts, started).await?,
            }
        }
    }

    async fn attempt_query<'a>(
        &'a self,
        sql: &str,
        params: Params<'_>,
        ticket: &mut Option<Ticket<'a>>,
        sent: &AtomicBool,
    ) -> Result<Vec<Row>, Failure> {
        let connection = self.connection().await?;
        let statement = connection.prepare(sql).await?;
        let result = match &self.session {
            None => connection.query(&statement, params, sent).await,
            Some(session) => {
                let number = match ticket {
                    Some(ticket) => ticket.number,
                    None => ticket.insert(session.ticket().await).number,
                };
                connection.call(number, &statement, params, sent).await
            }
        };
        if let Err(Failure::Answered(error)) = &result
            && error.sqlstate() == Some("26000")
        {
            connection.forget(sql);
        }
        result
    }

    /// Bounds an attempt by the attempt timeout and by what is left until the deadline.
    async fn in_time<T>(
        &self,
        started: Instant,
        sent: &AtomicBool,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let left = self.shared.deadline.saturating_sub(started.elapsed());
        let timeout = self
            .shared
            .attempt_timeout
            .map_or(left, |timeout| timeout.min(left));
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

    /// The connection to use now; opens one if there is none, it is lost, or the leader is elsewhere.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // One task opens the connection; the others wait for it here.
        let mut attempt = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let endpoint = self.shared.cluster.endpoint(self.place, *attempt);
        *attempt += 1;
        let session = self.session.as_ref().map(|s| SessionStart {
            id: s.id,
            next: lock(&s.numbers).next(),
        });
        let connection = Arc::new(Connection::open(&endpoint, session).await?);
        self.shared.connects.fetch_add(1, Ordering::Relaxed);
        *lock(&self.connection) = Some(connection.clone());
        Ok(connection)
    }

    fn current(&self) -> Option<Arc<Connection>> {
        let connection = lock(&self.connection);
        let usable = connection.as_ref().filter(|connection| {
            connection.is_usable()
                && !self
                    .shared
                    .cluster
                    .has_moved(self.place, connection.endpoint())
        });
        usable.cloned()
    }
}

impl Session {
    /// Waits until the window has room.
    async fn ticket(&self) -> Ticket<'_> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if let Some(number) = lock(&self.numbers).take() {
                return Ticket {
                    session: self,
                    number,
                };
            }
            room.await;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(&self.session.numbers).done(self.number);
        self.session.room.notify_waiters();
    }
}
