//! Plays a script over several connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// A statement that takes longer waits for another transaction. PostgreSQL looks for deadlocks later.
const SOON: Duration = Duration::from_millis(700);
/// Nothing waits longer for what has been decided, and no answer takes longer while nobody else has a transaction open.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
pub enum Level {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Level {
    pub const ALL: [Level; 3] = [
        Self::ReadCommitted,
        Self::RepeatableRead,
        Self::Serializable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }

    pub fn short(self) -> &'static str {
        match self {
            Self::ReadCommitted => "rc",
            Self::RepeatableRead => "rr",
            Self::Serializable => "s",
        }
    }
}

pub struct Script {
    /// Comments and script as they stand in the file.
    pub head: String,
    steps: Vec<(String, String)>,
    /// Columns of the table `test`.
    columns: String,
    /// What a node and PostgreSQL answered at each level when the file was written.
    golden: Vec<(String, String)>,
}

impl Script {
    pub fn parse(text: &str) -> Self {
        let mut sections = text.split("\n== ");
        let head = sections.next().unwrap();
        let golden = sections.map(answers).collect();
        let head = format!("{}\n", head.trim_end());
        let table = head.lines().find_map(|l| l.strip_prefix("TABLE: "));
        let columns = table.unwrap_or("id int PRIMARY KEY, value int").to_owned();
        let said = |l: &&str| !l.starts_with('#') && !l.starts_with("TABLE: ") && !l.is_empty();
        let steps = head.lines().filter(said);
        let step = |line: &str| {
            let (who, sql) = line.split_once(": ").expect("`T1: statement`");
            (who.to_owned(), sql.to_owned())
        };
        Self {
            steps: steps.map(step).collect(),
            columns,
            head,
            golden,
        }
    }

    /// What a node is to answer at a level, and PostgreSQL. Nothing of a new script.
    pub fn golden(&self, level: Level) -> (&str, &str) {
        let known = self.golden.get(level as usize);
        known.map_or(("", ""), |(node, postgres)| (&**node, &**postgres))
    }
}

/// Of a section: a node's, and PostgreSQL's.
fn answers(section: &str) -> (String, String) {
    let (_, answers) = section.split_once('\n').unwrap_or_default();
    let (node, postgres) = answers.split_once("-- PostgreSQL:").unwrap_or_default();
    let postgres = match postgres.strip_prefix('\n') {
        Some(differing) => differing,
        None => node,
    };
    (node.to_owned(), postgres.to_owned())
}

struct Connection {
    client: std::sync::Arc<Client>,
    waiting: Option<JoinHandle<String>>,
    /// Between BEGIN and its end.
    in_block: bool,
}

impl Connection {
    fn holds_locks(&self) -> bool {
        self.in_block || self.waiting.is_some()
    }
}

/// What was answered, line by line. Where `golden` has an answer it is waited for: it may be late on a slow machine.
pub async fn play<F>(
    script: &Script,
    golden: &str,
    level: Level,
    table: &str,
    connect: impl Fn() -> F,
) -> String
where
    F: Future<Output = Client>,
{
    let admin = connect().await;
    let create = format!("CREATE TABLE {table} ({})", script.columns);
    admin.batch_execute(&create).await.unwrap();
    let rows = format!("INSERT INTO {table} VALUES (1, 10), (2, 20)");
    admin.batch_execute(&rows).await.unwrap();
    let mut told = String::new();
    let mut open: BTreeMap<String, Connection> = BTreeMap::new();
    for (who, sql) in &script.steps {
        if !open.contains_key(who) {
            let connection = Connection {
                client: connect().await.into(),
                waiting: None,
                in_block: false,
            };
            open.insert(who.clone(), connection);
        }
        let others = || open.iter().filter(|(name, _)| *name != who);
        let may_wait = others().any(|(_, other)| other.holds_locks());
        let connection = open.get_mut(who).unwrap();
        if let Some(waiting) = connection.waiting.take() {
            let answer = tokio::time::timeout(PATIENCE, waiting).await;
            let answer = answer.unwrap_or_else(|_| panic!("{table}: {who} waits for ever\n{told}"));
            let answer = answer.unwrap();
            writeln!(told, "   {who} -> {answer}").unwrap();
        }
        match sql.as_str() {
            "BEGIN" => connection.in_block = true,
            "COMMIT" | "ROLLBACK" => connection.in_block = false,
            _ => {}
        }
        let sent = match sql.as_str() {
            "BEGIN" => format!("BEGIN ISOLATION LEVEL {}", level.name()),
            sql => sql.replace("test", table),
        };
        let soon = match may_wait {
            true => patience(golden, &told, &format!("{who}: {sql} -> ")),
            false => PATIENCE,
        };
        let client = connection.client.clone();
        let mut running = tokio::spawn(async move { answer(&client, &sent).await });
        match tokio::time::timeout(soon, &mut running).await {
            Ok(answer) => writeln!(told, "{who}: {sql} -> {}", answer.unwrap()).unwrap(),
            Err(_) => {
                writeln!(told, "{who}: {sql} -> waits").unwrap();
                connection.waiting = Some(running);
            }
        }
        arrived(&mut open, who, golden, &mut told).await;
    }
    told.replace(table, "test")
}

/// How long to wait for the answer of the line that begins with `line`.
fn patience(golden: &str, told: &str, line: &str) -> Duration {
    let next = golden
        .strip_prefix(told)
        .and_then(|rest| rest.lines().next());
    match next.and_then(|next| next.strip_prefix(line)) {
        None | Some("waits") => SOON,
        Some(_) => PATIENCE,
    }
}

/// Answers that this step set free.
async fn arrived(
    open: &mut BTreeMap<String, Connection>,
    but: &str,
    golden: &str,
    told: &mut String,
) {
    for (who, connection) in open.iter_mut().filter(|(who, _)| *who != but) {
        let Some(mut waiting) = connection.waiting.take() else {
            continue;
        };
        let line = format!("   {who} -> ");
        match tokio::time::timeout(patience(golden, told, &line), &mut waiting).await {
            Ok(answer) => writeln!(told, "{line}{}", answer.unwrap()).unwrap(),
            Err(_) => connection.waiting = Some(waiting),
        }
    }
}

async fn answer(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => rows(sql, &messages),
        Err(error) => failure(&error),
    }
}

fn rows(sql: &str, messages: &[SimpleQueryMessage]) -> String {
    let mut shown = Vec::new();
    let mut count = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> = (0..row.len())
                    .map(|i| row.get(i).unwrap_or("null"))
                    .collect();
                shown.push(format!("({})", values.join(", ")));
            }
            SimpleQueryMessage::CommandComplete(n) => count = *n,
            _ => {}
        }
    }
    let verb = sql.split(' ').next().unwrap_or_default();
    match verb {
        "SELECT" if shown.is_empty() => "nothing".to_owned(),
        "SELECT" => shown.join(" "),
        "BEGIN" | "COMMIT" | "ROLLBACK" => "done".to_owned(),
        _ => format!("{count} rows"),
    }
}

fn failure(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("ERROR {}", error.code().code()),
        None => format!("connection lost: {error}"),
    }
}
