//! Replies of one connection, in the order of its requests.
//!
//! A part is what one Sync, simple query or Flush asked for: replies, and for some of them a transaction that was submitted
//! and is not finished. Parts are answered strictly in order; everything that is answered when the writer looks goes out in
//! one write. What holds: at most `Limits::pending` parts and about `PENDING_BYTES` of requests wait; past that the reader
//! stops reading, so a client that does not read its replies is held back by TCP.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};

use super::backend::{Column, ConnInfo, Failed, Lane, Notice, Outcome, Statement};
use super::format::Formats;
use super::reply;
use super::settings::severity_rank;
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

/// Requests' bytes whose replies are outstanding, past which the reader waits: one message of the largest size more.
const PENDING_BYTES: usize = 64 << 20;
/// Replies are written when so many bytes are ready.
const WRITE_BYTES: usize = 256 << 10;

/// Result of one Execute, kept while its portal may ask for more rows.
#[derive(Default)]
pub struct Cursor {
    state: RefCell<CursorState>,
    /// Characters before the statement in the text it was sent in.
    offset: u32,
}

#[derive(Default)]
enum CursorState {
    #[default]
    Running,
    Open {
        rows: std::vec::IntoIter<Vec<Value>>,
        tag: String,
        notices: Vec<Notice>,
    },
}

impl Cursor {
    /// Of a statement that has not run.
    pub fn new(offset: u32) -> Rc<Self> {
        let state = RefCell::default();
        Rc::new(Self { state, offset })
    }

    pub fn done(outcome: Outcome) -> Rc<Self> {
        let cursor = Rc::new(Self::default());
        cursor.fill(outcome);
        cursor
    }

    pub(super) fn fill(&self, outcome: Outcome) {
        let Outcome { rows, tag, notices } = outcome;
        *self.state.borrow_mut() = CursorState::Open {
            rows: rows.into_iter(),
            tag,
            notices,
        };
    }
}

/// One reply or group of replies.
pub enum Reply {
    ParseComplete,
    BindComplete,
    CloseComplete,
    EmptyQuery,
    ParameterDescription(Rc<[DataType]>),
    /// RowDescription, or NoData if there are none.
    Rows {
        columns: Columns,
        formats: Formats,
    },
    /// Rows and completion of an Execute. `describe`: with RowDescription before, as in simple queries.
    Result {
        cursor: Rc<Cursor>,
        columns: Columns,
        formats: Formats,
        max_rows: usize,
        describe: bool,
    },
    ParameterStatus {
        name: &'static str,
        value: String,
    },
    Error(Error),
    Fatal(Error),
    Ready(TransactionStatus),
}

/// Replies that go out together once the transaction they wait for, if any, is finished.
#[derive(Default)]
pub struct Part {
    pub replies: Vec<Reply>,
    /// Results to fill from the transaction's outcomes, in order. Empty: nothing was submitted.
    pub cursors: Vec<Rc<Cursor>>,
    /// Statements named after so many of `cursors`: a transaction that fails before takes them back, as PostgreSQL never gets
    /// there.
    pub named: Vec<(usize, String)>,
    /// What came before it in the same query is committed.
    pub partly_committed: bool,
    /// Request bytes, for the bound.
    pub bytes: usize,
}

impl Part {
    /// The statement of `cursors[done]` failed: its replies and all later ones go, but for those in the returned list.
    /// Returned too is the error as the client is to see it.
    pub fn cut(&mut self, done: usize, error: Error) -> (Error, Vec<Reply>) {
        let Some(failed) = self.cursors.get(done).or(self.cursors.last()) else {
            return (error, Vec::new());
        };
        let error = shifted(error, failed.offset);
        let is_failed = |reply: &Reply| match reply {
            Reply::Result { cursor, .. } => Rc::ptr_eq(cursor, failed),
            _ => false,
        };
        let first = self.replies.iter().position(is_failed);
        let mut rest = self.replies.split_off(first.unwrap_or(self.replies.len()));
        rest.retain(|reply| matches!(reply, Reply::Ready(_) | Reply::ParameterStatus { .. }));
        (error, rest)
    }

    /// The error with what the client should know beside it.
    pub fn told(&self, error: Error) -> Error {
        if !self.partly_committed || error.get_detail().is_some() {
            return error;
        }
        error.detail("The statements up to the last change of the schema before it are committed.")
    }

    /// Names that a failure after `done` statements takes back.
    pub fn taken_back(&mut self, done: usize) -> impl Iterator<Item = String> {
        let named = std::mem::take(&mut self.named);
        named
            .into_iter()
            .filter(move |(after, _)| *after > done)
            .map(|(_, name)| name)
    }
}

/// The error of a statement that comes `offset` characters after the beginning of its text.
pub fn shifted(error: Error, offset: u32) -> Error {
    match error.position() {
        Some(position) => error.moved(position + offset),
        None => error,
    }
}

type Submitted = LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>>;

/// The parts that are not answered yet.
pub struct Queue {
    parts: RefCell<VecDeque<Part>>,
    running: RefCell<FuturesOrdered<Submitted>>,
    limit: usize,
    bytes: Cell<usize>,
    /// Lane of the submitted transactions that are not finished.
    lane: Cell<Lane>,
    /// Answered parts, so that the reader can see progress.
    pub answered: Cell<u64>,
    /// Names to be taken back by the reader.
    pub forgotten: RefCell<Vec<String>>,
    /// Lowest severity of notices that the client wants.
    pub min_severity: Cell<u8>,
    /// Nothing is added any more.
    pub ended: Cell<bool>,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self {
            parts: RefCell::default(),
            running: RefCell::default(),
            limit,
            bytes: Cell::new(0),
            lane: Cell::new(Lane::Any),
            answered: Cell::new(0),
            forgotten: RefCell::default(),
            min_severity: Cell::new(severity_rank("notice").unwrap_or(0)),
            ended: Cell::new(false),
        }
    }

    pub fn has_room(&self) -> bool {
        self.parts.borrow().len() < self.limit && self.bytes.get() < PENDING_BYTES
    }

    pub fn is_idle(&self) -> bool {
        self.parts.borrow().is_empty()
    }

    /// True if nothing that must run alone is running.
    pub fn is_open(&self) -> bool {
        self.lane.get() != Lane::Alone || self.running.borrow().is_empty()
    }

    /// True if a transaction of `lane` may be submitted now. `strict`: partitions wait for each other.
    pub fn admits(&self, lane: Lane, strict: bool) -> bool {
        match (self.lane.get(), lane) {
            _ if self.running.borrow().is_empty() => true,
            (Lane::Alone, _) | (_, Lane::Alone) => false,
            (Lane::Partition(a), Lane::Partition(b)) => a == b || !strict,
            (Lane::Several, _) | (_, Lane::Several) => !strict,
            _ => true,
        }
    }

    /// Adds a part without a transaction.
    pub fn push(&self, part: Part) {
        self.bytes.set(self.bytes.get() + part.bytes);
        self.parts.borrow_mut().push_back(part);
    }

    /// Adds a part whose results come from `submitted`.
    pub fn push_running(&self, part: Part, lane: Lane, submitted: Submitted) {
        let mut running = self.running.borrow_mut();
        if running.is_empty() || lane != Lane::Any {
            self.lane.set(lane);
        }
        running.push_back(submitted);
        self.push(part);
    }

    /// Encodes replies that are ready. Ready(true): everything is answered and nothing will come.
    pub fn poll_replies(
        &self,
        cx: &mut Context<'_>,
        conn: &ConnInfo,
        out: &mut BytesMut,
    ) -> Poll<Result<bool>> {
        while out.len() < WRITE_BYTES {
            let waits = match self.parts.borrow().front() {
                Some(part) => !part.cursors.is_empty(),
                None => break,
            };
            let outcome = if waits {
                match self.running.borrow_mut().poll_next_unpin(cx) {
                    Poll::Ready(outcome) => outcome
                        .unwrap_or_else(|| Err(Error::internal("a transaction got lost").into())),
                    Poll::Pending => break,
                }
            } else {
                Ok(Vec::new())
            };
            let Some(part) = self.parts.borrow_mut().pop_front() else {
                break;
            };
            self.answered.set(self.answered.get() + 1);
            self.bytes.set(self.bytes.get().saturating_sub(part.bytes));
            if waits {
                conn.running.borrow_mut().pop_front();
            }
            self.answer(part, outcome, out)?;
        }
        if !out.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if self.ended.get() && self.is_idle() {
            Poll::Ready(Ok(true))
        } else {
            Poll::Pending
        }
    }

    fn answer(
        &self,
        mut part: Part,
        outcome: Result<Vec<Outcome>, Failed>,
        out: &mut BytesMut,
    ) -> Result<()> {
        let (done, error) = match outcome {
            Ok(done) if done.len() == part.cursors.len() => (done, None),
            Ok(done) => {
                let (results, statements) = (done.len(), part.cursors.len());
                let message = format!("{results} results for {statements} statements");
                (Vec::new(), Some(Error::internal(message)))
            }
            Err(Failed { before, error }) => (before, Some(error)),
        };
        let shown = done.len();
        for (cursor, outcome) in part.cursors.iter().zip(done) {
            cursor.fill(outcome);
        }
        if let Some(error) = error {
            let (error, rest) = part.cut(shown, error);
            let error = part.told(error);
            self.forgotten.borrow_mut().extend(part.taken_back(shown));
            part.replies.push(Reply::Error(error));
            part.replies.extend(rest);
        }
        part.replies
            .into_iter()
            .try_for_each(|reply| self.encode(reply, out))
    }

    fn encode(&self, reply: Reply, out: &mut BytesMut) -> Result<()> {
        match reply {
            Reply::ParseComplete => reply::put(out, &ParseComplete::new()),
            Reply::BindComplete => reply::put(out, &BindComplete::new()),
            Reply::CloseComplete => reply::put(out, &CloseComplete::new()),
            Reply::EmptyQuery => reply::put(out, &EmptyQueryResponse::new()),
            Reply::ParameterDescription(params) => reply::parameter_description(out, &params),
            Reply::Rows { columns, formats } => reply::rows(out, columns.as_deref(), &formats),
            Reply::Result {
                cursor,
                columns,
                formats,
                max_rows,
                describe,
            } => {
                let columns = columns.as_deref();
                if describe && let Some(columns) = columns {
                    reply::row_description(out, columns, &formats)?;
                }
                self.result(&cursor, columns, &formats, max_rows, out)
            }
            Reply::ParameterStatus { name, value } => reply::parameter_status(out, name, &value),
            Reply::Error(error) => {
                for notice in error.notices() {
                    self.notice(notice, out)?;
                }
                reply::error(out, &error, false)
            }
            Reply::Fatal(error) => reply::error(out, &error, true),
            Reply::Ready(status) => reply::ready(out, status),
        }
    }

    fn notice(&self, notice: &Notice, out: &mut BytesMut) -> Result<()> {
        if severity_rank(&notice.severity).is_some_and(|rank| rank < self.min_severity.get()) {
            return Ok(());
        }
        reply::notice(out, notice)
    }

    /// Rows of an Execute up to `max_rows` (0: all), then completion or suspension.
    fn result(
        &self,
        cursor: &Cursor,
        columns: Option<&[Column]>,
        formats: &Formats,
        max_rows: usize,
        out: &mut BytesMut,
    ) -> Result<()> {
        let mut state = cursor.state.borrow_mut();
        let CursorState::Open { rows, tag, notices } = &mut *state else {
            return Err(Error::internal(
                "a result was asked for before its transaction ran",
            ));
        };
        for notice in notices.drain(..) {
            self.notice(&notice, out)?;
        }
        let whole = max_rows == 0;
        let mut sent = 0usize;
        // A value that cannot be encoded must not leave half a row behind.
        let before = out.len();
        if let Some(columns) = columns {
            for row in rows
                .by_ref()
                .take(if whole { usize::MAX } else { max_rows })
            {
                if let Err(error) = reply::data_row(out, columns, formats, &row) {
                    out.truncate(before);
                    return Err(error);
                }
                sent += 1;
            }
        }
        if !whole && sent == max_rows && rows.len() > 0 {
            return reply::put(out, &PortalSuspended::new());
        }
        match tag.strip_prefix("SELECT ") {
            // Counts what this Execute sent, as PostgreSQL does.
            Some(_) => reply::complete(out, format!("SELECT {sent}")),
            None => reply::complete(out, tag.clone()),
        }
    }
}

/// Columns and parameters of a statement, shared with the replies about it.
#[derive(Default)]
pub struct Shape {
    pub params: Rc<[DataType]>,
    pub columns: Columns,
}

/// Columns of a result; none for a statement that returns no rows.
pub type Columns = Option<Rc<[Column]>>;

impl Shape {
    pub fn of(statement: &Statement) -> Self {
        Self {
            params: statement.params.as_slice().into(),
            columns: statement.columns.as_deref().map(Rc::from),
        }
    }
}
