//! One connection to one server: prepared statements by text, and the request counter of its session.
//!
//! A server counts the requests of a session connection in the order it receives them. Giving a request its number and
//! putting it on the wire is therefore one step under a lock ([`Connection::call`]); where the server's counter is not at
//! that number, because of a retry, `SET dbos.request TO n` goes ahead of it in the same step.
//!
//! Which statements a server counts is its own affair (those that touch tables). So behind the first run of each statement
//! goes `SHOW dbos.request`, and one that was not counted is never numbered again. What this relies on: a statement that
//! was counted once on a connection is counted whenever it is executed there, whether it succeeds or fails.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row, SimpleQueryMessage, Statement};

use crate::error::{Class, Error};
use crate::retry::{Failure, classify};
use crate::target::Endpoint;

/// Prepared statements kept by a connection; a program with more texts than this prepares them again.
const STATEMENTS_MAX: usize = 1024;

pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What tells a server which session a connection belongs to.
#[derive(Clone, Copy, Debug)]
pub struct SessionStart {
    pub id: u128,
    /// Number of the first request.
    pub next: u64,
}

/// A prepared statement, and whether the server counts it.
pub struct Prepared {
    statement: Statement,
    counting: AtomicU8,
}

/// Values of `Prepared::counting`.
const COUNTING_UNKNOWN: u8 = 0;
const COUNTED: u8 = 1;
const NOT_COUNTED: u8 = 2;

pub struct Connection {
    client: tokio_postgres::Client,
    endpoint: Endpoint,
    session: Option<u128>,
    statements: Mutex<HashMap<Box<str>, Arc<Prepared>>>,
    /// The number the server will give the next request; `None` when that is not known.
    next: Mutex<Option<u64>>,
    retired: AtomicBool,
}

impl Connection {
    pub async fn open(endpoint: &Endpoint, session: Option<SessionStart>) -> Result<Self, Failure> {
        let mut config = endpoint.config.clone();
        if let Some(SessionStart { id, next }) = session {
            config.options(format!("-c dbos.session={id:032x} -c dbos.request={next}"));
        }
        let (client, driver) = config
            .connect(NoTls)
            .await
            .map_err(|e| not_connected(endpoint, &e))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Self {
            client,
            endpoint: endpoint.clone(),
            session: session.map(|s| s.id),
            statements: Mutex::default(),
            next: Mutex::new(session.map(|s| s.next)),
            retired: AtomicBool::new(false),
        })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Id of the session it belongs to.
    pub fn session(&self) -> Option<u128> {
        self.session
    }

    /// False once it is closed or retired: new requests go to another connection.
    pub fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.client.is_closed()
    }

    /// Takes no new requests; those in flight go on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub async fn prepare(&self, sql: &str) -> Result<Arc<Prepared>, Failure> {
        if let Some(statement) = lock(&self.statements).get(sql) {
            return Ok(statement.clone());
        }
        // Preparing has no effect, so a connection lost meanwhile means that nothing was sent.
        let statement =
            self.client
                .prepare(sql)
                .await
                .map_err(|error| match self.failure(&error, false) {
                    Failure::Lost(error) => Failure::NotSent(error),
                    failure => failure,
                })?;
        let mut statements = lock(&self.statements);
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        let prepared = Arc::new(Prepared {
            statement,
            counting: AtomicU8::new(COUNTING_UNKNOWN),
        });
        statements.insert(sql.into(), prepared.clone());
        Ok(prepared)
    }

    /// Forgets a statement that the server no longer knows.
    pub fn forget(&self, sql: &str) {
        lock(&self.statements).remove(sql);
    }

    /// Several statements in one simple query: one transaction.
    pub async fn batch(&self, sql: &str) -> Result<(), Failure> {
        self.client
            .batch_execute(sql)
            .await
            .map_err(|error| self.failure(&error, false))
    }

    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        self.client
            .simple_query(sql)
            .await
            .map_err(|error| self.failure(&error, false))
    }

    /// Runs a statement that has no number. `sent` turns true when it may be on the wire.
    pub async fn query(
        &self,
        prepared: &Prepared,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<Vec<Row>, Failure> {
        let mut query = pin!(self.client.query(&prepared.statement, params));
        let mut first = true;
        poll_fn(|cx| {
            sent.store(true, Ordering::Relaxed);
            let poll = query.as_mut().poll(cx);
            let at_once = std::mem::take(&mut first);
            poll.map(|result| result.map_err(|error| self.failure(&error, at_once)))
        })
        .await
    }

    /// Runs a statement as request `number` of this connection's session.
    pub async fn call(
        &self,
        number: u64,
        prepared: &Prepared,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<Vec<Row>, Failure> {
        let set_text = format!("SET dbos.request TO {number}");
        let mut set = pin!(self.client.batch_execute(&set_text));
        let mut set_pending = false;
        let mut query = pin!(self.client.query(&prepared.statement, params));
        let mut show = pin!(self.client.simple_query("SHOW dbos.request"));
        let mut show_pending = false;
        let first = poll_fn(|cx| {
            let mut next = lock(&self.next);
            // I11: the number and the request go onto the wire in one step, or the server would count differently.
            if *next != Some(number) {
                set_pending = set.as_mut().poll(cx).is_pending();
            }
            sent.store(true, Ordering::Relaxed);
            let first = query.as_mut().poll(cx);
            let encoded = !matches!(&first, Poll::Ready(Err(error)) if is_encoding(error));
            sent.store(encoded, Ordering::Relaxed);
            *next = Some(if encoded { number + 1 } else { number });
            if encoded && prepared.counting.load(Ordering::Relaxed) == COUNTING_UNKNOWN {
                show_pending = show.as_mut().poll(cx).is_pending();
                *next = None;
            }
            Poll::Ready(first)
        })
        .await;
        let at_once = first.is_ready();
        let result = match first {
            Poll::Ready(result) => result,
            Poll::Pending => query.await,
        };
        // The answer to the SET came before the query's. A server that refuses it is not to be given numbers.
        if set_pending && set.await.is_err() {
            self.retire();
        }
        if show_pending && result.is_ok() {
            // Not knowing is harmless: the next run asks again.
            prepared.learn_counting(number, show.await.ok());
        }
        result.map_err(|error| self.failure(&error, at_once))
    }

    /// `at_once`: the very first poll failed, so that an error which is not the connection's is one of encoding.
    fn failure(&self, error: &tokio_postgres::Error, at_once: bool) -> Failure {
        if let Some(answer) = error.as_db_error() {
            return Failure::Answered(Error::from_server(classify(answer.code().code()), answer));
        }
        if at_once && is_encoding(error) {
            let cause = error
                .source()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            return Failure::Answered(Error::request(format!("{error}{cause}")));
        }
        self.retire();
        Failure::Lost(Error::new(
            Class::Unknown,
            format!("connection to {} lost: {error}", self.endpoint),
        ))
    }
}

impl Prepared {
    /// The server does not count it: it touches no table, and may be repeated without a number.
    pub fn is_uncounted(&self) -> bool {
        self.counting.load(Ordering::Relaxed) == NOT_COUNTED
    }

    /// From what the server's counter was right behind request `number`.
    fn learn_counting(&self, number: u64, shown: Option<Vec<SimpleQueryMessage>>) {
        let row = shown
            .into_iter()
            .flatten()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
                _ => None,
            });
        match row {
            Some(next) if next == number + 1 => self.counting.store(COUNTED, Ordering::Relaxed),
            Some(next) if next == number => self.counting.store(NOT_COUNTED, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// An error that is neither the server's nor the connection's.
fn is_encoding(error: &tokio_postgres::Error) -> bool {
    let is_io = error
        .source()
        .is_some_and(|cause| cause.is::<std::io::Error>());
    error.as_db_error().is_none() && !error.is_closed() && !is_io
}

fn not_connected(endpoint: &Endpoint, error: &tokio_postgres::Error) -> Failure {
    if let Some(answer) = error.as_db_error() {
        let class = classify(answer.code().code());
        let error = Error::from_server(class, answer);
        return match class {
            Class::Request => Failure::Answered(error),
            _ => Failure::NotSent(error),
        };
    }
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    Failure::NotSent(Error::environment(format!(
        "cannot connect to {endpoint}: {error}{cause}"
    )))
}

/// A panic while a lock was held left nothing half done here: each section is a few assignments.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
