//! A backend for tests of the protocol: a few words instead of SQL, and transactions that commit when the test says so.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use kernel_db::sql::{DataType, Value};
use kernel_db::wire::pg::{
    Backend, Block, BlockMode, Bound, Column, ConnInfo, Effect, Failed, Lane, Limits, Notice,
    Outcome, Statement, serve,
};
use kernel_db::{Error, Result};
use tokio_util::sync::CancellationToken;

/// What the test sees and decides.
#[derive(Default)]
pub struct Log {
    /// Statements of every submitted transaction, in order, joined by "; ".
    pub submitted: Vec<String>,
    /// Their session numbers.
    pub numbers: Vec<Option<(u128, u64)>>,
    /// Statements planned, in order.
    pub prepared: Vec<String>,
    /// What happened in transaction blocks, in order.
    pub blocks: Vec<String>,
    pub cancelled: Vec<i32>,
    /// What was made: `use` knows nothing else.
    pub made: Vec<String>,
    pub connected: usize,
    /// Transactions allowed to commit; `None`: all.
    pub gate: Option<usize>,
}

#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<Log>>);

impl Handle {
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    /// Waits until the log satisfies `condition`, and fails after ten seconds.
    pub fn until(&self, what: &str, condition: impl Fn(&Log) -> bool) {
        for _ in 0..2_000 {
            if condition(&self.log()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!(
            "never happened: {what}; submitted {:?}",
            self.log().submitted
        );
    }
}

struct Words {
    handle: Handle,
    seen: Cell<u64>,
    clients: RefCell<Vec<i32>>,
}

impl Backend for Words {
    fn prepare(
        &self,
        _: &Rc<ConnInfo>,
        sql: &str,
        oids: &[u32],
    ) -> LocalBoxFuture<'static, Result<Statement>> {
        self.handle.log().prepared.push(sql.to_owned());
        let mut statement = plan(sql.trim().trim_end_matches(';'), oids);
        if let Some(name) = sql.strip_prefix("use ")
            && !self.handle.log().made.iter().any(|made| made == name)
        {
            statement = Err(Error::new("42P01", format!("{name} does not exist")).at(5));
        }
        // Sometimes not ready at once, as when a catalogue must be fetched.
        let late = sql.len().is_multiple_of(2);
        async move {
            if late {
                tokio::task::yield_now().await;
            }
            statement
        }
        .boxed_local()
    }

    fn check_syntax(&self, sql: &str) -> Result<()> {
        plan(sql, &[]).map(drop)
    }

    fn lane(&self, _: &Rc<ConnInfo>, txn: &[Bound]) -> Lane {
        let word = |bound: &Bound| text(bound).split(' ').nth(1).and_then(|w| w.parse().ok());
        let all: Vec<&str> = txn
            .iter()
            .map(|bound| text(bound).split(' ').next().unwrap_or(""))
            .collect();
        if all.contains(&"alone") || all.contains(&"make") {
            return Lane::Alone;
        }
        txn.iter()
            .find(|b| text(b).starts_with("put "))
            .and_then(word)
            .map_or(Lane::Any, Lane::Partition)
    }

    fn submit(
        &self,
        _: &Rc<ConnInfo>,
        txn: Vec<Bound>,
        number: Option<(u128, u64)>,
    ) -> LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>> {
        let mut log = self.handle.log();
        let index = log.submitted.len();
        log.submitted
            .push(txn.iter().map(text).collect::<Vec<_>>().join("; "));
        log.numbers.push(number);
        drop(log);
        let handle = self.handle.clone();
        async move {
            while handle.log().gate.is_some_and(|open| open <= index) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut before = Vec::new();
            for bound in &txn {
                match outcome(bound) {
                    Ok(done) => before.push(done),
                    Err(error) => return Err(Failed { before, error }),
                }
            }
            let names = txn.iter().filter_map(|b| text(b).strip_prefix("make "));
            handle.log().made.extend(names.map(str::to_owned));
            Ok(before)
        }
        .boxed_local()
    }

    fn seen(&self) -> u64 {
        self.seen.get()
    }

    fn observe(&self, ts: u64) -> Result<()> {
        self.seen.set(ts.max(self.seen.get()));
        Ok(())
    }

    fn begin(&self, _: &Rc<ConnInfo>, mode: BlockMode) -> Result<Rc<dyn Block>> {
        let block = Rc::new(WordsBlock {
            handle: self.handle.clone(),
            done: RefCell::default(),
            ended: Cell::new(false),
        });
        block.note(format!(
            "begin {}{}",
            mode.isolation.name(),
            if mode.read_only { " read only" } else { "" }
        ));
        Ok(block)
    }

    fn cancel(&self, pid: i32) {
        self.handle.log().cancelled.push(pid);
    }

    fn connected(&self, conn: &Rc<ConnInfo>) {
        self.clients.borrow_mut().push(conn.pid);
        self.handle.log().connected += 1;
    }

    fn disconnected(&self, conn: &Rc<ConnInfo>) {
        self.clients.borrow_mut().retain(|pid| *pid != conn.pid);
        self.handle.log().connected -= 1;
    }
}

/// A block that notes what happens to it; `fail` fails in it as elsewhere.
struct WordsBlock {
    handle: Handle,
    done: RefCell<Vec<String>>,
    ended: Cell<bool>,
}

impl WordsBlock {
    fn note(&self, what: String) {
        self.handle.log().blocks.push(what);
    }
}

impl Block for WordsBlock {
    fn run(&self, statement: Bound) -> LocalBoxFuture<'static, Result<Outcome>> {
        self.note(text(&statement).to_owned());
        self.done.borrow_mut().push(text(&statement).to_owned());
        async move {
            tokio::task::yield_now().await;
            outcome(&statement)
        }
        .boxed_local()
    }

    fn savepoint(&self) -> usize {
        self.done.borrow().len()
    }

    fn rollback_to(&self, mark: usize) {
        self.done.borrow_mut().truncate(mark);
    }

    fn give_up(&self) {
        self.note("give up".to_owned());
    }

    fn set_mode(&self, mode: BlockMode) {
        self.note(format!("mode {}", mode.isolation.name()));
    }

    fn commit(&self) -> LocalBoxFuture<'static, Result<()>> {
        self.ended.set(true);
        let done = self.done.borrow().join("; ");
        self.note(format!("commit [{done}]"));
        let refused = done.contains("conflict");
        async move {
            match refused {
                true => Err(Error::retry("40001", "could not serialize access")),
                false => Ok(()),
            }
        }
        .boxed_local()
    }
}

impl Drop for WordsBlock {
    fn drop(&mut self) {
        if !self.ended.get() {
            self.note("rollback".to_owned());
        }
    }
}

fn text(bound: &Bound) -> &str {
    bound
        .statement
        .handle
        .downcast_ref::<String>()
        .map_or("", String::as_str)
}

/// `put P`, `make NAME`, `use NAME`, `alone`, `rows N`, `echo TYPE...`, `fail SQLSTATE`, `refuse SQLSTATE` (the same as a read), `notice`, `complain` (a notice, then an error); anything else is an error at its first character.
fn plan(sql: &str, oids: &[u32]) -> Result<Statement> {
    let mut words = sql.split(' ');
    let int = |n: usize| {
        vec![Column {
            name: format!("n{n}"),
            data_type: DataType::Int4,
        }]
    };
    let (params, columns) = match words.next().unwrap_or("") {
        "put" | "make" | "use" | "alone" | "conflict" | "fail" | "refuse" | "notice"
        | "complain" => (Vec::new(), None),
        "rows" => (Vec::new(), Some(int(0))),
        "echo" => {
            let types: Vec<DataType> = words
                .map(|w| DataType::from_name(w).expect("a type"))
                .collect();
            let given = |(n, t): (usize, &DataType)| {
                oids.get(n)
                    .and_then(|o| DataType::from_oid(*o))
                    .unwrap_or(*t)
            };
            let params: Vec<DataType> = types.iter().enumerate().map(given).collect();
            let column = |t: &DataType| Column {
                name: t.name().to_owned(),
                data_type: *t,
            };
            let columns = params.iter().map(column).collect();
            (params, Some(columns))
        }
        other => {
            return Err(Error::new("42601", format!("syntax error at or near \"{other}\"")).at(1));
        }
    };
    let read_only = ["rows", "echo", "refuse"]
        .iter()
        .any(|word| sql.starts_with(word));
    Ok(Statement {
        params,
        columns,
        effect: match read_only {
            true => Effect::Reads,
            false if sql.starts_with("make ") => Effect::Schema,
            false => Effect::Writes,
        },
        numbered: !read_only,
        handle: Arc::new(sql.to_owned()),
    })
}

fn noticed() -> Notice {
    Notice {
        severity: "NOTICE".to_owned(),
        sqlstate: "00000".to_owned(),
        message: "noticed".to_owned(),
        detail: Some("in detail".to_owned()),
        hint: None,
    }
}

fn outcome(bound: &Bound) -> Result<Outcome> {
    let mut words = text(bound).split(' ');
    let mut outcome = Outcome {
        tag: "PUT".to_owned(),
        ..Outcome::default()
    };
    match words.next().unwrap_or("") {
        "rows" => {
            let count: i32 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
            outcome.rows = (0..count).map(|n| vec![Value::Int4(n)]).collect();
            outcome.tag = format!("SELECT {count}");
        }
        "echo" => {
            outcome.rows = vec![bound.params.clone()];
            outcome.tag = "SELECT 1".to_owned();
        }
        "fail" | "refuse" => {
            return Err(Error::new(words.next().unwrap_or(""), "failed as asked")
                .hint("ask for something else"));
        }
        "notice" => outcome.notices.push(noticed()),
        "complain" => return Err(Error::new("P0001", "complained").said(vec![noticed()])),
        _ => {}
    }
    Ok(outcome)
}

/// A server on a free port in a thread of its own; it stops when dropped.
pub struct Server {
    pub port: u16,
    pub handle: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let handle = Handle::default();
        let stop = CancellationToken::new();
        let (send_port, receive_port) = std::sync::mpsc::channel();
        let (backend_handle, token) = (handle.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send_port
                    .send(listener.local_addr().unwrap().port())
                    .unwrap();
                let backend = Words {
                    seen: Cell::new(0),
                    handle: backend_handle,
                    clients: RefCell::default(),
                };
                serve(listener, Rc::new(backend), limits, token).await;
            });
        });
        Self {
            port: receive_port.recv().unwrap(),
            handle,
            stop,
            thread: Some(thread),
        }
    }

    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the server panicked"
            );
        }
    }
}
