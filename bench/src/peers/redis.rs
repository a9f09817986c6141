//! Redis streams as mailboxes: XADD sends, a blocking XREAD receives. Nothing is durable.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client};

use super::{Server, command, free_addresses, program, server_folder, version_of};
use crate::messages::Post;

/// Entries that a stream keeps, roughly: far more than are ever in flight.
const STREAM_ENTRIES_MAX: usize = 10_000;
/// Messages taken at once.
const RECEIVE_MAX: usize = 1000;

/// A private server.
#[derive(Debug)]
pub(crate) struct Redis {
    pub server: Server,
    pub url: String,
    pub version: String,
}

impl Redis {
    pub fn start() -> anyhow::Result<Self> {
        let binary = program("redis-server")?;
        let address = free_addresses(1)[0];
        let folder = server_folder("redis")?;
        let mut start = command(&binary);
        start.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        start.arg("--port").arg(address.port().to_string());
        start.arg("--dir").arg(folder.path());
        let mut server = Server::start("redis-server", start, folder)?;
        server.wait_for(address)?;
        Ok(Self {
            server,
            url: format!("redis://{address}"),
            version: version_of(&binary, "--version"),
        })
    }
}

/// Where a mailbox's reader stands, with its connection: a blocking read holds a connection.
type Reader = Rc<tokio::sync::Mutex<(MultiplexedConnection, String)>>;

pub(crate) struct RedisPost {
    client: Client,
    senders: MultiplexedConnection,
    readers: RefCell<HashMap<i64, Reader>>,
    run: u64,
    message: Vec<u8>,
}

impl RedisPost {
    /// `run` keeps the streams of runs apart.
    pub async fn connect(url: &str, run: u64, size: usize) -> anyhow::Result<Self> {
        let client = Client::open(url)?;
        Ok(Self {
            senders: client.get_multiplexed_async_connection().await?,
            client,
            readers: RefCell::default(),
            run,
            message: vec![7; size],
        })
    }

    fn stream(&self, mailbox: i64) -> String {
        format!("{}-{mailbox}", self.run)
    }

    async fn reader(&self, mailbox: i64) -> anyhow::Result<Reader> {
        if let Some(reader) = self.readers.borrow().get(&mailbox) {
            return Ok(reader.clone());
        }
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&patient)
            .await?;
        let reader = Rc::new(tokio::sync::Mutex::new((connection, "0".to_string())));
        self.readers.borrow_mut().insert(mailbox, reader.clone());
        Ok(reader)
    }
}

#[async_trait::async_trait(?Send)]
impl Post for RedisPost {
    async fn send(&self, _from: i64, to: i64, count: usize) -> anyhow::Result<()> {
        let stream = self.stream(to);
        let mut pipeline = redis::pipe();
        for _ in 0..count {
            let add = pipeline.cmd("XADD").arg(&stream).arg("MAXLEN").arg("~");
            add.arg(STREAM_ENTRIES_MAX)
                .arg("*")
                .arg("d")
                .arg(&self.message);
        }
        let mut connection = self.senders.clone();
        let ids: Vec<String> = pipeline.query_async(&mut connection).await?;
        anyhow::ensure!(ids.len() == count, "{} of {count} were added", ids.len());
        Ok(())
    }

    async fn receive(&self, mailbox: i64) -> anyhow::Result<usize> {
        let reader = self.reader(mailbox).await?;
        let mut reader = reader.lock().await;
        let options = StreamReadOptions::default().block(0).count(RECEIVE_MAX);
        let (connection, last) = &mut *reader;
        let reply: Option<StreamReadReply> = connection
            .xread_options(&[self.stream(mailbox)], &[last.as_str()], &options)
            .await?;
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        let entries = keys.iter().flat_map(|key| &key.ids);
        let mut received = 0;
        for entry in entries {
            received += 1;
            last.clone_from(&entry.id);
        }
        Ok(received)
    }
}
