//! The work that goes on while nodes fail: tasks, messages, registers, through sessions and through plain connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dbos_client::{Client, Options};
use ipc::Messages;
use scheduler::{Policy, Registration, Scheduler};
use tokio::task::JoinHandle;

use super::cluster::{self, Cluster};
use super::history::{History, Outcome};

const KEYS: u64 = 16;
/// Mailboxes of plain connections, which nobody empties.
const PLAIN_MAILBOXES: i64 = 1000;
pub const REGISTERS: usize = 8;
const SLOTS: i32 = 1 << 27;
/// Between two operations of one client: the load is there to be interrupted, not to be fast.
const PAUSE: Duration = Duration::from_millis(15);
/// Between two reads of one register at one node, sent whether the earlier ones were answered or not.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Reads sent to one node and not answered.
const READS_MAX: usize = 128;

/// What a number's remainder by 4 says: a task, a message by a session, or a message by a plain connection.
fn kind(number: u64) -> Kind {
    match number % 4 {
        0 => Kind::Task,
        1 | 2 => Kind::Message,
        _ => Kind::Plain,
    }
}

#[derive(PartialEq)]
enum Kind {
    Task,
    Message,
    Plain,
}

fn key(number: u64) -> i64 {
    (number / 4 % KEYS) as i64
}

pub fn mailbox(number: u64) -> Option<i64> {
    match kind(number) {
        Kind::Task => None,
        Kind::Message => Some(key(number)),
        Kind::Plain => Some(PLAIN_MAILBOXES + key(number)),
    }
}

pub async fn client(cluster: &Cluster) -> Client {
    let options = Options {
        deadline: Duration::from_secs(20),
        // Work goes on with the next leader while the last one is paused and may wake up any moment.
        attempt_timeout: Duration::from_millis(700),
        ..Options::default()
    };
    Client::connect_with(&cluster.target(), options)
        .await
        .unwrap()
}

/// Tables, procedures, workers and registers.
pub async fn install(client: &Client) {
    scheduler::install(client).await.unwrap();
    ipc::install(client).await.unwrap();
    let tables = "CREATE TABLE register (k int4 PRIMARY KEY, v int8 NOT NULL)";
    client.script(tables).await.unwrap();
    client
        .script("CREATE TABLE probe (k int4 PRIMARY KEY, n int8 NOT NULL)")
        .await
        .unwrap();
    for k in 0..cluster::PARTITIONS as i32 {
        client
            .call(k, "INSERT INTO probe VALUES ($1, 0)", &[&k])
            .await
            .unwrap();
    }
    for k in 0..REGISTERS as i32 {
        client
            .call(k, "INSERT INTO register VALUES ($1, 0)", &[&k])
            .await
            .unwrap();
    }
    for key in 0..KEYS as i32 {
        let worker = Registration {
            key,
            worker_id: 1,
            slots: SLOTS,
            shard: 0,
            url: None,
        };
        Scheduler::new(client.clone())
            .register(&worker)
            .await
            .unwrap();
    }
}

/// Everybody at work until `history.stop`.
pub async fn start(cluster: &Cluster, history: &Arc<History>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(tokio::spawn(numbered(
            client(cluster).await,
            history.clone(),
        )));
    }
    for register in 0..REGISTERS {
        tasks.push(tokio::spawn(write(
            client(cluster).await,
            register,
            history.clone(),
        )));
    }
    tasks.push(tokio::spawn(receive(
        client(cluster).await,
        history.clone(),
    )));
    for node in cluster.nodes() {
        let url = cluster.url(node);
        tasks.push(tokio::spawn(plain(url.clone(), history.clone())));
        for register in 0..REGISTERS {
            let reading = read(url.clone(), node, register, history.clone());
            tasks.push(tokio::spawn(reading));
        }
        tasks.push(tokio::spawn(sum(url, node, history.clone())));
    }
    tasks
}

fn stopped(history: &History) -> bool {
    history.stop.load(Ordering::Relaxed)
}

/// The next number of the kinds that `wanted` takes; others are left out, and so never sent.
fn next(history: &History, wanted: impl Fn(&Kind) -> bool) -> u64 {
    loop {
        let number = history.number();
        if wanted(&kind(number)) {
            return number;
        }
    }
}

/// Tasks and messages, each call numbered in a session.
async fn numbered(client: Client, history: Arc<History>) {
    let (scheduler, messages) = (Scheduler::new(client.clone()), Messages::new(client));
    while !stopped(&history) {
        let number = next(&history, |kind| *kind != Kind::Plain);
        let outcome = match mailbox(number) {
            None => {
                let key = key(number) as i32;
                Outcome::of(&scheduler.schedule(Policy::Fifo, key, number as i64).await)
            }
            Some(mailbox) => Outcome::of(&messages.send(mailbox, 0, &number.to_be_bytes()).await),
        };
        history.note(number, outcome);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Messages over a plain connection to one node, which has no numbers: what is lost on the way is of unknown outcome.
async fn plain(url: String, history: Arc<History>) {
    while !stopped(&history) {
        let Some(connection) = cluster::connect(&url).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while !stopped(&history) && !connection.is_closed() {
            let number = next(&history, |kind| *kind == Kind::Plain);
            let mailbox = mailbox(number).unwrap();
            let data = number.to_be_bytes();
            let data: Vec<String> = data.iter().map(|byte| format!("{byte:02x}")).collect();
            let sql = format!(
                "SELECT msg_send({mailbox}::int8, 0::int8, '\\x{}'::bytea)",
                data.concat()
            );
            let sent = tokio::time::timeout(Duration::from_secs(8), connection.simple_query(&sql));
            let outcome = match sent.await {
                Ok(result) => Outcome::of_plain(&result),
                Err(_) => Outcome::Unknown,
            };
            history.note(number, outcome);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Empties every other mailbox of the sessions' messages, again and again.
async fn receive(client: Client, history: Arc<History>) {
    let messages = Messages::new(client);
    while !stopped(&history) {
        for mailbox in (0..KEYS as i64).step_by(2) {
            let result = messages.receive(mailbox, 100, Duration::ZERO).await;
            match &result {
                Ok(received) => received
                    .iter()
                    .for_each(|m| history.received(number_of(&m.data))),
                Err(_) if Outcome::of(&result) == Outcome::Unknown => history.leaks(mailbox),
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn number_of(data: &[u8]) -> u64 {
    u64::from_be_bytes(data.try_into().unwrap())
}

/// The one writer of a register.
async fn write(client: Client, register: usize, history: Arc<History>) {
    let key = register as i32;
    for value in 1.. {
        if stopped(&history) {
            return;
        }
        history.write_begins(register, value);
        let sql = "UPDATE register SET v = $2 WHERE k = $1";
        match client.call(key, sql, &[&key, &value]).await {
            Ok(_) => history.write_acknowledged(register, value),
            // It may still be on its way, behind whatever is sent after it: this register is not written again.
            Err(error) if error.is_unknown() => return,
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads a register at one node, whether it answers or not: what it was asked while it was paused or cut off it may only
/// answer rightly. On a connection of its own, so that no read waits for one of another partition.
async fn read(url: String, node: u64, register: usize, history: Arc<History>) {
    let sql = format!("SELECT v FROM register WHERE k = {register}");
    while !stopped(&history) {
        let Some(connection) = cluster::connect(&url).await else {
            tokio::time::sleep(READ_EVERY).await;
            continue;
        };
        let connection = Arc::new(connection);
        while !stopped(&history) && !connection.is_closed() {
            if Arc::strong_count(&connection) < READS_MAX {
                let (connection, history, sql) = (connection.clone(), history.clone(), sql.clone());
                tokio::spawn(async move {
                    let began = history.read_begins(register);
                    if let Some(value) = number(&connection, &sql).await {
                        history.read_ends(register, began, value, node);
                    }
                });
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }
}

/// Sums all registers at one node: a read over all partitions.
async fn sum(url: String, node: u64, history: Arc<History>) {
    while !stopped(&history) {
        if let Some(connection) = cluster::connect(&url).await {
            while !stopped(&history) && !connection.is_closed() {
                let began = history.sum_begins();
                let sum = number(&connection, "SELECT sum(v)::int8 FROM register");
                if let Ok(Some(value)) = tokio::time::timeout(Duration::from_secs(8), sum).await {
                    history.sum_ends(began, value, node);
                }
                tokio::time::sleep(READ_EVERY).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The first field of the first row.
pub async fn number(connection: &tokio_postgres::Client, sql: &str) -> Option<i64> {
    let messages = connection.simple_query(sql).await.ok()?;
    messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    })
}

/// What is wrong in the end.
pub async fn check(client: &Client, history: &History) -> Vec<String> {
    let mut rows = Vec::new();
    for row in client
        .read_all("SELECT task_id FROM task", &[])
        .await
        .unwrap()
    {
        rows.push(row.get::<_, i64>(0) as u64);
    }
    for row in client
        .read_all("SELECT data FROM message", &[])
        .await
        .unwrap()
    {
        rows.push(number_of(row.get(0)));
    }
    let mut wrong = history.check(&rows, mailbox);
    // A scheduling call that ran twice would have taken two slots for one task.
    let sql =
        "SELECT (SELECT sum(slots - capacity) FROM worker)::int8, (SELECT count(*) FROM task)";
    let row = &client.read_all(sql, &[]).await.unwrap()[0];
    let (slots, tasks): (i64, i64) = (row.get(0), row.get(1));
    if slots != tasks {
        wrong.push(format!("{tasks} tasks took {slots} slots"));
    }
    wrong
}
