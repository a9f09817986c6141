//! The demo's work: tasks scheduled, messages sent and received, files written, all at once, and a ledger of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dbfs::{FileSystem, Kind, NewUser, Tree};
use dbos_client::{Client, PartitionKey};
use ipc::Messages;
use scheduler::{Policy, Registration, Scheduler};
use tokio::task::JoinHandle;

use super::ledger::{Counts, Ledger};
use crate::exit::Result;
use crate::output::spinner;
use crate::service::failure;

const KEYS: i32 = 64;
const WORKERS_PER_KEY: i32 = 4;
const SLOTS: i32 = 1 << 20;
const RECEIVERS: i64 = 32;
const USER: &str = "demo";
const SCHEDULERS: usize = 16;
const SENDERS: usize = 8;
const WRITERS: usize = 4;

/// Everything that goes on, shared by the tasks that do it.
struct Shared {
    client: Client,
    ledger: RefCell<Ledger>,
    next: Cell<u64>,
    stop: Cell<bool>,
    tasks: Cell<u64>,
    messages: Cell<u64>,
    files: Cell<u64>,
    /// The partition whose leader was killed, and when.
    death: Cell<Option<(u32, Instant)>>,
    recovered: Cell<Option<Duration>>,
}

pub struct Load {
    shared: Rc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    pub async fn start(client: Client) -> Result<Self> {
        let scheduler = Scheduler::new(client.clone());
        for key in 0..KEYS {
            for worker_id in 0..WORKERS_PER_KEY {
                let worker = Registration {
                    key,
                    worker_id,
                    slots: SLOTS,
                    shard: 0,
                    url: None,
                };
                scheduler.register(&worker).await.map_err(failure)?;
            }
        }
        let fs = FileSystem::new(client.clone());
        fs.create_user(NewUser::named(USER))
            .await
            .map_err(failure)?;
        let tree = fs.tree(USER).await.map_err(failure)?;
        let shared = Rc::new(Shared {
            client,
            ledger: RefCell::default(),
            next: Cell::new(1),
            stop: Cell::new(false),
            tasks: Cell::new(0),
            messages: Cell::new(0),
            files: Cell::new(0),
            death: Cell::new(None),
            recovered: Cell::new(None),
        });
        let mut workers = Vec::new();
        workers.extend((0..SCHEDULERS).map(|_| tokio::task::spawn_local(schedule(shared.clone()))));
        workers
            .extend((0..SENDERS).map(|i| tokio::task::spawn_local(talk(shared.clone(), i as i64))));
        workers.extend(
            (0..WRITERS).map(|_| tokio::task::spawn_local(write(shared.clone(), tree.clone()))),
        );
        Ok(Self { shared, workers })
    }

    /// Shows rates for a while.
    pub async fn watch(&self, time: Duration) {
        let progress = spinner("");
        let (start, begin) = (Instant::now(), self.shared.totals());
        while start.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(250)).await;
            progress.set_message(self.rates(begin, start.elapsed()));
        }
        progress.finish_and_clear();
        println!("{}", self.rates(begin, start.elapsed()));
    }

    fn rates(&self, begin: [u64; 3], elapsed: Duration) -> String {
        let now = self.shared.totals();
        let rate = |i: usize| (now[i] - begin[i]) as f64 / elapsed.as_secs_f64();
        format!(
            "tasks {} ({:.0}/s)   messages {} ({:.0}/s)   files {} ({:.0}/s)   retries {}",
            now[0],
            rate(0),
            now[1],
            rate(1),
            now[2],
            rate(2),
            self.shared.client.stats().retries
        )
    }

    /// Node that leads a partition, as the client knows it.
    pub fn leader(&self, partition: u32) -> Option<u16> {
        let leader = *self
            .shared
            .client
            .topology()
            .leaders
            .get(partition as usize)?;
        leader.and_then(|node| node.try_into().ok())
    }

    pub fn leader_dies(&self, partition: u32) {
        self.shared.death.set(Some((partition, Instant::now())));
    }

    /// Milliseconds from the death to the first success of a call that began after it, on that partition.
    pub async fn first_success_after_death(&self, timeout: Duration) -> Option<u64> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(after) = self.shared.recovered.get() {
                return Some(after.as_millis() as u64);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Ends the work, lets every call end, and compares the ledger with the tables.
    pub async fn stop_and_count(self, client: &Client) -> Result<Counts> {
        self.shared.stop.set(true);
        for worker in self.workers {
            worker.await.map_err(crate::exit::Failure::new)?;
        }
        let shared = self.shared;
        let messages = Messages::new(client.clone());
        for receiver in 0..RECEIVERS {
            shared.receive_all(&messages, receiver).await?;
        }
        let tasks = client
            .read_all("SELECT task_id FROM task", &[])
            .await
            .map_err(failure)?;
        let files = client
            .read_all("SELECT name FROM directory WHERE size > 0", &[])
            .await
            .map_err(failure)?;
        let mut ledger = shared.ledger.borrow_mut();
        tasks
            .iter()
            .for_each(|row| ledger.found(row.get::<_, i64>(0) as u64));
        let names = files
            .iter()
            .filter_map(|row| row.get::<_, String>(0).parse().ok());
        names.for_each(|number| ledger.found(number));
        Ok(ledger.counts())
    }
}

impl Shared {
    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    fn totals(&self) -> [u64; 3] {
        [self.tasks.get(), self.messages.get(), self.files.get()]
    }

    /// Notes how operation `number` ended, and tells whether it was acknowledged. A refused one must be absent.
    fn note<T>(&self, number: u64, result: Result<T, dbos_client::Error>) -> Option<T> {
        match result {
            Ok(value) => {
                self.ledger.borrow_mut().acknowledged(number);
                Some(value)
            }
            Err(error) => {
                if error.is_unknown() {
                    self.ledger.borrow_mut().unknown(number);
                }
                tracing::debug!("operation {number}: {error}");
                None
            }
        }
    }

    /// A call on `key` that began at `began` succeeded.
    fn succeeded(&self, key: i32, began: Instant) {
        let Some((partition, died)) = self.death.get() else {
            return;
        };
        let partitions = self.client.topology().leaders.len().max(1) as u32;
        let here = u32::from(PartitionKey::from(key).slot()) % partitions == partition;
        if here && began >= died && self.recovered.get().is_none() {
            self.recovered.set(Some(died.elapsed()));
        }
    }

    async fn receive_all(&self, messages: &Messages, receiver: i64) -> Result<()> {
        loop {
            let received = messages
                .receive(receiver, 1000, Duration::ZERO)
                .await
                .map_err(failure)?;
            if received.is_empty() {
                return Ok(());
            }
            received
                .iter()
                .for_each(|message| self.received(&message.data));
        }
    }

    fn received(&self, data: &[u8]) {
        if let Ok(number) = data.try_into() {
            self.ledger.borrow_mut().found(u64::from_be_bytes(number));
        }
    }
}

async fn schedule(shared: Rc<Shared>) {
    let scheduler = Scheduler::new(shared.client.clone());
    while !shared.stop.get() {
        let number = shared.number();
        let key = (number % KEYS as u64) as i32;
        let began = Instant::now();
        let result = scheduler.schedule(Policy::Fifo, key, number as i64).await;
        if shared.note(number, result).is_some() {
            shared.tasks.set(shared.tasks.get() + 1);
            shared.succeeded(key, began);
        }
    }
}

/// Sends to all receivers in turn; every fourth message the sender reads a mailbox of its own.
async fn talk(shared: Rc<Shared>, me: i64) {
    let messages = Messages::new(shared.client.clone());
    while !shared.stop.get() {
        let number = shared.number();
        let receiver = (number % RECEIVERS as u64) as i64;
        let result = messages.send(receiver, me, &number.to_be_bytes()).await;
        if shared.note(number, result).is_some() {
            shared.messages.set(shared.messages.get() + 1);
        }
        if number.is_multiple_of(4) {
            // Two of three mailboxes are left to fill, so that there is something unread to ask about.
            let mine = me * 3;
            match messages.receive(mine, 100, Duration::ZERO).await {
                Ok(received) => received
                    .iter()
                    .for_each(|message| shared.received(&message.data)),
                Err(error) => tracing::debug!("receive: {error}"),
            }
        }
    }
}

/// Writes files of growing size, named by their number.
async fn write(shared: Rc<Shared>, tree: Tree) {
    while !shared.stop.get() {
        let number = shared.number();
        let path = format!("/{number}");
        let kind = if number.is_multiple_of(4) {
            Kind::Parallel
        } else {
            Kind::Localized
        };
        let content = vec![number as u8; 1 + (number % 20_000) as usize];
        let result = async {
            tree.create(&path, kind, None).await?;
            tree.write(&path, 0, &content).await
        };
        let result = result.await;
        if shared.note(number, result).is_some() {
            shared.files.set(shared.files.get() + 1);
        }
    }
}
