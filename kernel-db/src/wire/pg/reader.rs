//! Turns a client's messages into transactions.
//!
//! Statements up to one Sync, or in one simple query, become one transaction that is submitted at the Sync; the reader goes
//! on with the next messages while it runs. What holds: transactions are submitted in the order of their Syncs; lanes (see
//! `backend`) never overlap; after an error everything up to the next Sync is skipped; request numbers are given out in
//! the order of Syncs (I11). Outside a block a portal ends at Sync, and Flush may run what was executed before it only if
//! nothing there writes, because it would end the transaction early. Inside a block (`block_commands`) every statement runs
//! when it is executed.

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};

use super::backend::{Backend, Bound, ConnInfo, Lane, Running, Statement};
use super::block::{OpenBlock, aborted};
use super::format::{self, Formats};
use super::frame::{Frontend, protocol};
use super::queue::{Cursor, Part, Queue, Reply, Shape};
use super::session::{self, Command};
use super::settings::Settings;
use super::split;
use crate::error::{Error, Result};
use crate::sql::Value;

/// Statements of one transaction.
const TRANSACTION_STATEMENTS_MAX: usize = 10_000;
/// Prepared statements of one connection.
const PREPARED_MAX: usize = 10_000;

/// What a prepared statement does.
enum Plan {
    Empty,
    Session(Command),
    Query(Rc<Statement>),
}

struct Prepared {
    plan: Plan,
    shape: Shape,
    sql: Arc<str>,
}

struct Portal {
    prepared: Rc<Prepared>,
    params: Vec<Value>,
    formats: Formats,
    /// Set by the first Execute.
    cursor: Option<Rc<Cursor>>,
}

/// What the connection does after a message.
#[derive(PartialEq, Eq)]
pub enum Next {
    Go,
    End,
}

/// The state of one connection's request side.
pub struct Reader {
    pub(super) backend: Rc<dyn Backend>,
    pub(super) info: Rc<ConnInfo>,
    pub(super) queue: Rc<Queue>,
    pub(super) settings: Settings,
    /// Number of the session's next transaction (I11).
    pub(super) next_request: u64,
    /// Transactions of different partitions wait for each other.
    pub(super) strict: bool,
    prepared: HashMap<String, Rc<Prepared>>,
    portals: HashMap<String, Portal>,
    pub(super) part: Part,
    pub(super) txn: Vec<Bound>,
    /// The open transaction block.
    pub(super) block: Option<OpenBlock>,
    /// Text of the transaction's first statement.
    text: Option<Arc<str>>,
    /// An error was reported: ignore everything up to Sync.
    skipping: bool,
}

impl Reader {
    pub fn new(
        backend: Rc<dyn Backend>,
        info: Rc<ConnInfo>,
        queue: Rc<Queue>,
        settings: Settings,
        next_request: u64,
    ) -> Self {
        Self {
            backend,
            info,
            queue,
            settings,
            next_request,
            strict: true,
            prepared: HashMap::new(),
            portals: HashMap::new(),
            part: Part::default(),
            txn: Vec::new(),
            block: None,
            text: None,
            skipping: false,
        }
    }

    /// Handles one message of `size` bytes.
    pub async fn handle(&mut self, message: Frontend, size: usize) -> Next {
        self.part.bytes += size;
        self.forget();
        match message {
            Frontend::Terminate => return Next::End,
            Frontend::Sync => {
                self.skipping = false;
                self.finish(true).await;
            }
            Frontend::Ignored => {}
            _ if self.skipping => {}
            Frontend::Query(text) => self.query(&text).await,
            Frontend::Refused {
                error,
                extended: false,
            } => self.refuse(error).await,
            extended => {
                if let Err(error) = self.extended(extended).await {
                    self.skipping = true;
                    self.fail(error);
                    self.flush_part().await;
                }
            }
        }
        Next::Go
    }

    async fn extended(&mut self, message: Frontend) -> Result<()> {
        match message {
            Frontend::Parse(parse) => self.parse(parse).await,
            Frontend::Bind(bind) => self.bind(bind),
            Frontend::Describe(describe) => self.describe(describe),
            Frontend::Execute(execute) => self.execute(execute).await,
            Frontend::Close(close) => self.close(close),
            Frontend::Flush => self.flush().await,
            Frontend::Refused { error, .. } => Err(error),
            other => Err(protocol(format!("unexpected message {other:?}"))),
        }
    }

    async fn parse(&mut self, parse: Parse) -> Result<()> {
        let name = parse.name.unwrap_or_default();
        if name.is_empty() {
            self.prepared.remove("");
        } else if self.prepared.contains_key(&name) {
            return Err(Error::new(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        } else if self.prepared.len() >= PREPARED_MAX {
            let message = format!("more than {PREPARED_MAX} prepared statements on one connection");
            return Err(Error::new("53400", message).hint("DEALLOCATE those that are not needed"));
        }
        let prepared = match split::statements(&parse.query).as_slice() {
            [] => Prepared {
                plan: Plan::Empty,
                shape: Shape::default(),
                sql: "".into(),
            },
            [_] => self.prepare(&parse.query, &parse.type_oids).await?,
            _ => {
                return Err(Error::new(
                    "42601",
                    "cannot insert multiple commands into a prepared statement",
                ));
            }
        };
        if !self.part.cursors.is_empty() && !name.is_empty() {
            self.part.named.push(name.clone());
        }
        self.prepared.insert(name, Rc::new(prepared));
        self.part.replies.push(Reply::ParseComplete);
        Ok(())
    }

    /// Plans one statement; waits for what must run alone, because it may change what names mean.
    async fn prepare(&mut self, sql: &str, oids: &[u32]) -> Result<Prepared> {
        let command = session::parse(sql)?;
        let ends = matches!(&command, Some(Command::Block(c)) if c.ends_failure());
        if self.block_failed() && !ends {
            return Err(aborted());
        }
        if let Some(command) = command {
            let shape = Shape {
                params: Rc::default(),
                columns: command.columns().into(),
            };
            return Ok(Prepared {
                plan: Plan::Session(command),
                shape,
                sql: sql.into(),
            });
        }
        let queue = self.queue.clone();
        wait(|| queue.is_open()).await;
        let statement = self.backend.prepare(&self.info, sql, oids).await?;
        let shape = Shape::of(&statement);
        Ok(Prepared {
            plan: Plan::Query(Rc::new(statement)),
            shape,
            sql: sql.into(),
        })
    }

    fn bind(&mut self, bind: Bind) -> Result<()> {
        let statement = bind.statement_name.unwrap_or_default();
        let prepared = self
            .prepared
            .get(&statement)
            .ok_or_else(|| no_statement(&statement))?
            .clone();
        let name = bind.portal_name.unwrap_or_default();
        if !name.is_empty() && self.portals.contains_key(&name) {
            return Err(Error::new(
                "42P03",
                format!("portal \"{name}\" already exists"),
            ));
        }
        let types = &prepared.shape.params;
        if bind.parameters.len() != types.len() {
            return Err(protocol(format!(
                "bind message supplies {} parameters, but prepared statement \"{statement}\" requires {}",
                bind.parameters.len(),
                types.len()
            )));
        }
        let formats = Formats::from_codes(&bind.parameter_format_codes, types.len(), "parameter")?;
        let mut params = Vec::with_capacity(types.len());
        for (n, (bytes, data_type)) in bind.parameters.iter().zip(types.iter()).enumerate() {
            params.push(match bytes {
                Some(bytes) => format::decode(bytes, *data_type, formats.binary(n))?,
                None => Value::Null,
            });
        }
        let columns = prepared.shape.columns.len();
        let formats =
            Formats::from_codes(&bind.result_column_format_codes, columns, "result column")?;
        self.portals.insert(
            name,
            Portal {
                prepared,
                params,
                formats,
                cursor: None,
            },
        );
        self.part.replies.push(Reply::BindComplete);
        Ok(())
    }

    fn describe(&mut self, describe: Describe) -> Result<()> {
        let name = describe.name.unwrap_or_default();
        if describe.target_type == b'S' {
            let prepared = self
                .prepared
                .get(&name)
                .ok_or_else(|| no_statement(&name))?;
            self.part
                .replies
                .push(Reply::ParameterDescription(prepared.shape.params.clone()));
            self.part.replies.push(Reply::Rows {
                columns: prepared.shape.columns.clone(),
                formats: Formats::TEXT,
            });
        } else {
            let portal = self.portals.get(&name).ok_or_else(|| no_portal(&name))?;
            let columns = portal.prepared.shape.columns.clone();
            self.part.replies.push(Reply::Rows {
                columns,
                formats: portal.formats.clone(),
            });
        }
        Ok(())
    }

    async fn execute(&mut self, execute: Execute) -> Result<()> {
        let name = execute.name.unwrap_or_default();
        let max_rows = usize::try_from(execute.max_rows).unwrap_or(0);
        let portal = self
            .portals
            .get_mut(&name)
            .ok_or_else(|| no_portal(&name))?;
        let prepared = portal.prepared.clone();
        let formats = portal.formats.clone();
        if let Some(cursor) = portal.cursor.clone() {
            if prepared.shape.columns.is_empty() {
                return Err(Error::new(
                    "55000",
                    format!("portal \"{name}\" cannot be run"),
                ));
            }
            self.result(&prepared, cursor, formats, max_rows, false);
            return Ok(());
        }
        let params = std::mem::take(&mut portal.params);
        let cursor = self.run(&prepared, params).await?;
        if let (Some(cursor), Some(portal)) = (&cursor, self.portals.get_mut(&name)) {
            portal.cursor = Some(cursor.clone());
        }
        match cursor {
            Some(cursor) => self.result(&prepared, cursor, formats, max_rows, false),
            None => self.part.replies.push(Reply::EmptyQuery),
        }
        Ok(())
    }

    fn result(
        &mut self,
        prepared: &Prepared,
        cursor: Rc<Cursor>,
        formats: Formats,
        max_rows: usize,
        describe: bool,
    ) {
        let columns = prepared.shape.columns.clone();
        self.part.replies.push(Reply::Result {
            cursor,
            columns,
            formats,
            max_rows,
            describe,
        });
    }

    /// Adds a statement to the transaction, or does it at once if it is about the connection. `None`: empty statement.
    async fn run(&mut self, prepared: &Prepared, params: Vec<Value>) -> Result<Option<Rc<Cursor>>> {
        match &prepared.plan {
            Plan::Empty => Ok(None),
            Plan::Session(command) => {
                let outcome = self.command(command).await?;
                Ok(Some(Cursor::done(outcome)))
            }
            Plan::Query(statement) if self.block.is_some() => {
                let bound = Bound {
                    statement: statement.clone(),
                    params,
                };
                let outcome = self.in_block_run(bound, prepared.sql.clone()).await?;
                Ok(Some(Cursor::done(outcome)))
            }
            Plan::Query(statement) => {
                if self.txn.len() >= TRANSACTION_STATEMENTS_MAX {
                    let message = format!(
                        "more than {TRANSACTION_STATEMENTS_MAX} statements in one transaction"
                    );
                    return Err(Error::new("54000", message).hint("send Sync more often"));
                }
                let cursor = Rc::new(Cursor::default());
                if self.part.cursors.is_empty() {
                    self.part.first_result = self.part.replies.len();
                    self.text = Some(prepared.sql.clone());
                }
                self.part.cursors.push(cursor.clone());
                self.txn.push(Bound {
                    statement: statement.clone(),
                    params,
                });
                Ok(Some(cursor))
            }
        }
    }

    fn close(&mut self, close: Close) -> Result<()> {
        let name = close.name.unwrap_or_default();
        // Closing what does not exist is no error.
        if close.target_type == b'S' {
            self.prepared.remove(&name);
        } else {
            self.portals.remove(&name);
        }
        self.part.replies.push(Reply::CloseComplete);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.txn.is_empty() {
            self.flush_part().await;
            return Ok(());
        }
        if !self.txn.iter().all(|bound| bound.statement.read_only) {
            return Err(
                Error::unsupported("a result of a writing statement before Sync")
                    .hint("send Sync: statements are committed there and their results follow"),
            );
        }
        self.finish(false).await;
        let queue = self.queue.clone();
        wait(|| queue.is_idle()).await;
        self.skipping = queue.failed.get();
        Ok(())
    }

    /// A simple query: all its statements are one transaction.
    async fn query(&mut self, text: &str) {
        self.prepared.remove("");
        self.portals.remove("");
        let statements = split::statements(text);
        if statements.is_empty() {
            self.part.replies.push(Reply::EmptyQuery);
        }
        for (at, sql) in statements {
            if let Err(error) = self.simple(sql).await {
                self.fail(shifted(error, text, at));
                break;
            }
        }
        self.finish(true).await;
    }

    async fn simple(&mut self, sql: &str) -> Result<()> {
        let prepared = self.prepare(sql, &[]).await?;
        if !prepared.shape.params.is_empty() {
            return Err(Error::new("42P02", "there is no parameter $1")
                .hint("use the extended query protocol"));
        }
        if let Some(cursor) = self.run(&prepared, Vec::new()).await? {
            self.result(&prepared, cursor, Formats::TEXT, 0, true);
        }
        Ok(())
    }

    async fn refuse(&mut self, error: Error) {
        self.fail(error);
        self.finish(true).await;
    }

    /// Gives up the transaction being collected: what was executed in it will not run.
    fn fail(&mut self, error: Error) {
        let part = &mut self.part;
        if !part.cursors.is_empty() {
            let kept = part.replies.split_off(part.first_result);
            part.replies.extend(
                kept.into_iter()
                    .filter(|reply| matches!(reply, Reply::ParameterStatus { .. })),
            );
            part.cursors.clear();
        }
        for name in part.named.drain(..) {
            self.prepared.remove(&name);
        }
        self.txn.clear();
        if let Some(open) = &mut self.block {
            open.fail();
        }
        part.replies.push(Reply::Error(error));
    }

    /// Submits what was collected. `ready`: at Sync or the end of a simple query.
    async fn finish(&mut self, ready: bool) {
        let queue = self.queue.clone();
        if ready {
            if self.block.is_none() {
                self.portals.clear();
            }
            self.part.replies.push(Reply::Ready(self.status()));
        }
        wait(|| queue.has_room()).await;
        let part = std::mem::take(&mut self.part);
        let txn = std::mem::take(&mut self.txn);
        if txn.is_empty() {
            queue.push(part);
            return;
        }
        let lane = self.backend.lane(&txn);
        let strict = self.strict;
        wait(|| queue.admits(lane, strict)).await;
        self.submit(part, txn, lane);
    }

    fn submit(&mut self, part: Part, txn: Vec<Bound>, lane: Lane) {
        // I11: numbers follow the order of Syncs, whatever the transactions' fate.
        let numbered = txn.iter().any(|bound| bound.statement.numbered);
        let number = self
            .info
            .session
            .filter(|_| numbered)
            .map(|session| (session, self.next_request));
        if number.is_some() {
            self.next_request += 1;
        }
        let started_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_micros() as i64);
        let query = self.text.take().unwrap_or_else(|| "".into());
        self.info
            .running
            .borrow_mut()
            .push_back(Running { started_us, query });
        self.info.submitted.set(self.info.submitted.get() + 1);
        let submitted = self.backend.submit(&self.info, txn, number);
        self.queue.push_running(part, lane, submitted);
    }

    pub(super) async fn flush_part(&mut self) {
        if self.part.replies.is_empty() {
            return;
        }
        let queue = self.queue.clone();
        wait(|| queue.has_room()).await;
        queue.push(std::mem::take(&mut self.part));
    }

    /// Takes back statements that a failed transaction had named.
    fn forget(&mut self) {
        for name in self.queue.forgotten.borrow_mut().drain(..) {
            self.prepared.remove(&name);
        }
    }

    /// DEALLOCATE; `None`: all.
    pub(super) fn deallocate(&mut self, name: Option<&str>) -> Result<()> {
        match name {
            None => self.prepared.clear(),
            Some(name) => {
                self.prepared
                    .remove(name)
                    .ok_or_else(|| no_statement(name))?;
            }
        }
        Ok(())
    }

    /// Ends the connection with an error that the client sees after all earlier replies.
    pub fn fatal(&mut self, error: Error) {
        self.queue.push(Part {
            replies: vec![Reply::Fatal(error)],
            ..Part::default()
        });
    }
}

/// Waits without a waker: the connection polls its reader again whenever its writer made progress.
pub(super) async fn wait(condition: impl Fn() -> bool) {
    poll_fn(|_| {
        if condition() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn no_statement(name: &str) -> Error {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    Error::new("26000", message)
}

fn no_portal(name: &str) -> Error {
    Error::new("34000", format!("portal \"{name}\" does not exist"))
}

/// Moves an error's position from one statement into the whole text, which starts `at` bytes earlier.
fn shifted(error: Error, text: &str, at: usize) -> Error {
    let Some(position) = error.position() else {
        return error;
    };
    let before = text[..at].chars().count() as u32;
    let mut moved =
        Error::with_class(error.class(), error.sqlstate(), error.message()).at(position + before);
    if let Some(detail) = error.get_detail() {
        moved = moved.detail(detail);
    }
    if let Some(hint) = error.get_hint() {
        moved = moved.hint(hint);
    }
    moved
}
