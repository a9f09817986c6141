//! Nodes that speak enough of the wire protocol to be a cluster for the client: sessions and numbers as the kernel keeps
//! them, one partition, a leader that moves, and faults by plan. What was executed is written down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Numbers that a session keeps.
const WINDOW: u64 = 1024;

/// What happens to a request that reaches the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The connection is cut before it runs.
    CutBefore,
    /// It runs, and the connection is cut before the reply.
    CutAfter,
    /// It runs, and the answer says that nobody knows.
    Unknown,
    /// 53300: it does not run.
    Busy,
    /// The other node becomes the leader before it runs.
    Move,
    /// The session is forgotten before it runs.
    Evict,
}

#[derive(Default)]
pub struct State {
    addresses: Vec<String>,
    pub leader: usize,
    /// (session, number) -> the value it was executed with.
    replies: HashMap<(String, u64), i64>,
    newest: HashMap<String, u64>,
    evicted: Vec<String>,
    /// Values in the order of execution.
    pub executed: Vec<i64>,
    /// What is done to the n-th request that reaches the leader.
    pub faults: Vec<Fault>,
    reached: usize,
}

pub type Shared = Arc<Mutex<State>>;

/// Starts two nodes; the first one leads.
pub async fn start(faults: Vec<Fault>) -> Shared {
    let shared = Arc::new(Mutex::new(State {
        faults,
        ..State::default()
    }));
    for node in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        lock(&shared)
            .addresses
            .push(listener.local_addr().unwrap().to_string());
        let shared = shared.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = Connection::new(node, shared.clone(), stream);
                // An end of the stream is how a client goes.
                tokio::spawn(async move { connection.serve().await.unwrap_or_default() });
            }
        });
    }
    shared
}

pub fn url(shared: &Shared) -> String {
    lock(shared)
        .addresses
        .iter()
        .map(|address| format!("postgres://x@{address}/x"))
        .collect::<Vec<_>>()
        .join(",")
}

pub fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap()
}

/// Statement `call`: executed once per number. `free`: touches no table, and is not counted.
pub const CALL: &str = "SELECT call($1)";
pub const FREE: &str = "SELECT free($1)";
pub const WRONG: &str = "SELECT wrong($1)";

struct Connection {
    node: usize,
    shared: Shared,
    stream: TcpStream,
    session: Option<String>,
    next: u64,
    statements: HashMap<String, String>,
    bound: (String, i64),
    out: Vec<u8>,
}

/// The connection is to be cut.
struct Cut;

impl Connection {
    fn new(node: usize, shared: Shared, stream: TcpStream) -> Self {
        let (statements, bound, out) = (HashMap::new(), (String::new(), 0), Vec::new());
        Self {
            node,
            shared,
            stream,
            session: None,
            next: 1,
            statements,
            bound,
            out,
        }
    }

    async fn serve(mut self) -> std::io::Result<()> {
        let length = self.stream.read_i32().await?;
        let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
        self.stream.read_exact(&mut startup).await?;
        let startup = String::from_utf8_lossy(&startup[4..]).into_owned();
        let setting = |name: &str| {
            let rest = startup.split_once(&format!("-c {name}="))?.1;
            Some(
                rest.split(['\0', ' '])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            )
        };
        self.session = setting("dbos.session");
        self.next = setting("dbos.request").map_or(1, |next| next.parse().unwrap());
        self.message(b'R', &[0, 0, 0, 0]);
        self.message(b'Z', b"I");
        loop {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
            let kind = self.stream.read_u8().await?;
            let length = self.stream.read_i32().await?;
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.stream.read_exact(&mut body).await?;
            if self.handle(kind, &body).is_err() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, kind: u8, body: &[u8]) -> Result<(), Cut> {
        let strings: Vec<&str> = body
            .split(|byte| *byte == 0)
            .map(|s| std::str::from_utf8(s).unwrap_or(""))
            .collect();
        match kind {
            b'P' => {
                self.statements
                    .insert(strings[0].to_owned(), strings[1].to_owned());
                self.message(b'1', &[]);
            }
            b'D' => {
                self.message(b't', &[0, 1, 0, 0, 0, 20]);
                self.row_description(&["v"], 20);
            }
            b'B' => {
                let value = body[body.len() - 12..body.len() - 4].try_into().unwrap();
                self.bound = (
                    self.statements[strings[1]].clone(),
                    i64::from_be_bytes(value),
                );
                self.message(b'2', &[]);
            }
            b'E' => self.execute()?,
            b'S' => self.message(b'Z', b"I"),
            b'C' => self.message(b'3', &[]),
            b'Q' => self.simple(strings[0]),
            b'X' => return Err(Cut),
            _ => panic!("unexpected message {}", char::from(kind)),
        }
        Ok(())
    }

    fn simple(&mut self, sql: &str) {
        let shared = self.shared.clone();
        let state = lock(&shared);
        if let Some(number) = sql.strip_prefix("SET dbos.request TO ") {
            self.next = number.parse().unwrap();
        } else if sql == "SHOW dbos.request" {
            self.text_rows(&[vec![Some(self.next.to_string())]]);
        } else if sql == "SELECT version()" {
            self.text_rows(&[vec![Some(
                "PostgreSQL 15.0 (DBOS kernel-db test)".to_owned(),
            )]]);
        } else if sql.ends_with("dbos.nodes") {
            let node = |(id, address): (usize, &String)| {
                vec![
                    Some(id.to_string()),
                    Some(address.clone()),
                    Some("t".to_owned()),
                ]
            };
            self.text_rows(
                &state
                    .addresses
                    .iter()
                    .enumerate()
                    .map(node)
                    .collect::<Vec<_>>(),
            );
        } else if sql.ends_with("dbos.partitions") {
            self.text_rows(&[vec![Some("0".to_owned()), Some(state.leader.to_string())]]);
        } else {
            panic!("unexpected query {sql}");
        }
        self.message(b'C', b"DONE\0");
        self.message(b'Z', b"I");
    }

    fn execute(&mut self) -> Result<(), Cut> {
        let (sql, value) = self.bound.clone();
        match sql.as_str() {
            FREE => self.reply(value),
            WRONG => {
                self.next += 1;
                self.error("22012", "division by zero");
            }
            _ => {
                let number = self.next;
                self.next += 1;
                self.run(number, value)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, number: u64, value: i64) -> Result<(), Cut> {
        let shared = self.shared.clone();
        let mut state = lock(&shared);
        if state.leader != self.node {
            self.error("DB002", "not leader");
            return Ok(());
        }
        let fault = state
            .faults
            .get(state.reached)
            .copied()
            .unwrap_or(Fault::None);
        state.reached += 1;
        match fault {
            Fault::CutBefore => return Err(Cut),
            Fault::Busy => self.error("53300", "busy"),
            Fault::Move => {
                state.leader = 1 - state.leader;
                self.error("DB002", "not leader");
            }
            Fault::None | Fault::CutAfter | Fault::Unknown | Fault::Evict => {
                if fault == Fault::Evict {
                    state.evicted.extend(self.session.clone());
                }
                match state.once(self.session.as_deref(), number, value) {
                    Err(why) => self.error("08P01", why),
                    Ok(_) if fault == Fault::CutAfter => return Err(Cut),
                    Ok(_) if fault == Fault::Unknown => self.error("08007", "leadership lost"),
                    Ok(value) => self.reply(value),
                }
            }
        }
        Ok(())
    }

    fn reply(&mut self, value: i64) {
        let mut row = vec![0, 1, 0, 0, 0, 8];
        row.extend(value.to_be_bytes());
        self.message(b'D', &row);
        self.message(b'C', b"SELECT 1\0");
    }

    fn error(&mut self, code: &str, message: &str) {
        let fields = format!("SERROR\0VERROR\0C{code}\0M{message}\0\0");
        self.message(b'E', fields.as_bytes());
    }

    fn text_rows(&mut self, rows: &[Vec<Option<String>>]) {
        let names = vec!["c"; rows[0].len()];
        self.row_description(&names, 25);
        for row in rows {
            let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
            for cell in row {
                let text = cell.as_deref().unwrap();
                body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend(text.as_bytes());
            }
            self.message(b'D', &body);
        }
    }

    fn row_description(&mut self, names: &[&str], oid: u32) {
        let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        for name in names {
            body.extend(name.as_bytes());
            body.extend([0; 7]);
            body.extend(oid.to_be_bytes());
            body.extend([0, 8, 255, 255, 255, 255, 0, 0]);
        }
        self.message(b'T', &body);
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        self.out.push(kind);
        self.out
            .extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        self.out.extend(body);
    }
}

impl State {
    /// I11, the server's side.
    fn once(
        &mut self,
        session: Option<&str>,
        number: u64,
        value: i64,
    ) -> Result<i64, &'static str> {
        let session = session.expect("calls come with a session").to_owned();
        if self.evicted.contains(&session) {
            return Err("the session was evicted");
        }
        let newest = self.newest.entry(session.clone()).or_default();
        assert!(
            number + WINDOW > *newest,
            "request {number} left the window of a session at {newest}"
        );
        *newest = number.max(*newest);
        if let Some(reply) = self.replies.get(&(session.clone(), number)) {
            return Ok(*reply);
        }
        self.replies.insert((session, number), value);
        self.executed.push(value);
        Ok(value)
    }
}
