//! NATS subjects as mailboxes: at most once, nothing is kept, nothing is durable.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Context;
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

use super::{Server, command, free_addresses, program, server_folder, version_of};
use crate::messages::Post;

/// A private server.
#[derive(Debug)]
pub(crate) struct Nats {
    pub server: Server,
    pub url: String,
    pub version: String,
}

impl Nats {
    pub fn start() -> anyhow::Result<Self> {
        let binary = program("nats-server")?;
        let address = free_addresses(1)[0];
        let folder = server_folder("nats")?;
        let mut start = command(&binary);
        start.args(["-a", "127.0.0.1", "-p"]);
        start.arg(address.port().to_string());
        let mut server = Server::start("nats-server", start, folder)?;
        server.wait_for(address)?;
        Ok(Self {
            server,
            url: format!("nats://{address}"),
            version: version_of(&binary, "--version"),
        })
    }
}

pub(crate) struct NatsPost {
    client: Client,
    subscribers: RefCell<HashMap<i64, Rc<tokio::sync::Mutex<Subscriber>>>>,
    message: Bytes,
}

impl NatsPost {
    /// Listens on `mailboxes` from now on.
    pub async fn connect(url: &str, mailboxes: &[i64], size: usize) -> anyhow::Result<Self> {
        let client = async_nats::connect(url).await?;
        let mut subscribers = HashMap::new();
        for mailbox in mailboxes {
            let subscriber = client.subscribe(mailbox.to_string()).await?;
            subscribers.insert(*mailbox, Rc::new(tokio::sync::Mutex::new(subscriber)));
        }
        client.flush().await?;
        Ok(Self {
            client,
            subscribers: RefCell::new(subscribers),
            message: vec![7; size].into(),
        })
    }
}

#[async_trait::async_trait(?Send)]
impl Post for NatsPost {
    async fn send(&self, _from: i64, to: i64, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let message = self.message.clone();
            self.client.publish(to.to_string(), message).await?;
        }
        Ok(())
    }

    async fn receive(&self, mailbox: i64) -> anyhow::Result<usize> {
        let subscriber = self.subscribers.borrow().get(&mailbox).cloned();
        let subscriber = subscriber.context("nobody listens on this mailbox")?;
        let mut subscriber = subscriber.lock().await;
        subscriber.next().await.context("the subscription ended")?;
        Ok(1)
    }
}
