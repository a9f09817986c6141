//! A client's messages, one after the other: statements that are prepared, bound, described and executed.
//!
//! What is executed becomes part of the implicit transaction (`implicit`), of the open block (`block_commands`), or changes
//! the connection itself (`commands`). What holds: after an error everything up to the next Sync is skipped; outside a block
//! a portal ends at Sync.

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};

use super::backend::{Backend, Bound, ConnInfo, Effect, Statement};
use super::block::{OpenBlock, aborted};
use super::format::{self, Formats};
use super::frame::{Frontend, protocol};
use super::queue::{Cursor, Part, Queue, Reply, Shape, shifted};
use super::session::{self, Command};
use super::settings::Settings;
use super::split;
use crate::error::{Error, Result};
use crate::sql::Value;

/// Prepared statements of one connection.
const PREPARED_MAX: usize = 10_000;

/// What a prepared statement does.
enum Plan {
    Empty,
    Session(Command),
    Query(Rc<Statement>),
}

pub(super) struct Prepared {
    plan: Plan,
    shape: Shape,
    sql: Arc<str>,
}

pub(super) struct Portal {
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
    /// As they were before the present transaction changed some.
    pub(super) saved: Option<Settings>,
    /// Number of the session's next transaction (I11).
    pub(super) next_request: u64,
    /// Transactions of different partitions wait for each other.
    pub(super) strict: bool,
    pub(super) prepared: HashMap<String, Rc<Prepared>>,
    pub(super) portals: HashMap<String, Portal>,
    pub(super) part: Part,
    pub(super) txn: Vec<Bound>,
    /// The open transaction block.
    pub(super) block: Option<OpenBlock>,
    /// Text of the transaction's first statement.
    pub(super) text: Option<Arc<str>>,
    /// Characters before the present statement in its query.
    pub(super) offset: u32,
    /// A simple query of several statements is under way.
    pub(super) several: bool,
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
            saved: None,
            next_request,
            strict: true,
            prepared: HashMap::new(),
            portals: HashMap::new(),
            part: Part::default(),
            txn: Vec::new(),
            block: None,
            text: None,
            offset: 0,
            several: false,
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
                self.finish().await;
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
                    self.fail(error).await;
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
            let after = self.part.cursors.len();
            self.part.named.push((after, name.clone()));
        }
        self.prepared.insert(name, Rc::new(prepared));
        self.part.replies.push(Reply::ParseComplete);
        Ok(())
    }

    /// Plans one statement; waits for what must run alone, because it may change what names mean.
    async fn prepare(&mut self, sql: &str, oids: &[u32]) -> Result<Prepared> {
        let offset = self.offset;
        let command = session::parse(sql).map_err(|error| shifted(error, offset))?;
        let ends = matches!(&command, Some(Command::Block(c)) if c.ends_failure());
        if self.block_failed() && !ends {
            return Err(aborted());
        }
        if let Some(command) = command {
            let shape = Shape {
                params: Rc::default(),
                columns: command.columns().map(Rc::from),
            };
            return Ok(Prepared {
                plan: Plan::Session(command),
                shape,
                sql: sql.into(),
            });
        }
        let queue = self.queue.clone();
        wait(|| queue.is_open()).await;
        let mut planned = self.backend.prepare(&self.info, sql, oids).await;
        if self.changes_schema() && !matches!(&planned, Ok(s) if s.effect == Effect::Schema) {
            // It may use what was created just before it.
            self.cut_at_schema().await?;
            planned = self.backend.prepare(&self.info, sql, oids).await;
        }
        let statement = planned.map_err(|error| shifted(error, offset))?;
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
        let columns = prepared.shape.columns.as_deref().map_or(0, <[_]>::len);
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
            if prepared.shape.columns.is_none() {
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
            Plan::Query(statement) => {
                let bound = Bound {
                    statement: statement.clone(),
                    params,
                };
                let text = prepared.sql.clone();
                if self.block.is_none() {
                    return self.collect(bound, text).await.map(Some);
                }
                let outcome = self.in_block_run(bound, text).await?;
                Ok(Some(Cursor::done(outcome)))
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

    /// A simple query: all its statements are one transaction, if none of them changes the schema.
    async fn query(&mut self, text: &str) {
        self.prepared.remove("");
        self.portals.remove("");
        let statements = split::statements(text);
        if statements.is_empty() {
            self.part.replies.push(Reply::EmptyQuery);
        }
        self.several = statements.len() > 1;
        if let Err(error) = self.simple(text, &statements).await {
            self.fail(error).await;
        }
        self.several = false;
        self.offset = 0;
        self.finish().await;
    }

    async fn simple(&mut self, text: &str, statements: &[(usize, &str)]) -> Result<()> {
        let offset = |at: usize| text[..at].chars().count() as u32;
        if self.several {
            // As in PostgreSQL nothing runs if anything cannot be parsed.
            for (at, sql) in statements {
                self.check_syntax(sql)
                    .map_err(|error| shifted(error, offset(*at)))?;
            }
        }
        for (at, sql) in statements {
            self.offset = offset(*at);
            let prepared = self.prepare(sql, &[]).await?;
            if !prepared.shape.params.is_empty() {
                return Err(Error::new("42P02", "there is no parameter $1")
                    .hint("use the extended query protocol"));
            }
            if let Some(cursor) = self.run(&prepared, Vec::new()).await? {
                self.result(&prepared, cursor, Formats::TEXT, 0, true);
            }
        }
        Ok(())
    }

    fn check_syntax(&self, sql: &str) -> Result<()> {
        let wrong = |error: &Error| error.sqlstate() == "42601";
        match session::parse(sql) {
            Ok(None) => self.backend.check_syntax(sql).err(),
            Ok(Some(_)) => None,
            Err(error) => Some(error),
        }
        .filter(wrong)
        .map_or(Ok(()), Err)
    }

    async fn refuse(&mut self, error: Error) {
        self.fail(error).await;
        self.finish().await;
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
