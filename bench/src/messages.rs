//! Messages: one operation is a whole round: all answers, or all receivers.
//!
//! * `ping-pong`: a message and its answer. `batch`: n messages, then n answers (the papers' ping^n-pong^n).
//! * `fan-out`: a message to each of R receivers, and an answer from each.
//! * `all-to-all`: each of R participants sends to every other and has all of theirs.
//! * `send-receive`: one message of 64 bytes is sent and received by the same client.
//!
//! Receivers of mailboxes (rows, Redis streams, NATS subjects) are on a thread of their own with connections of their own.
//! Those of rows wait in the server, or ask again and again where it can only sleep. On gRPC and TCP a message is a request to the receiver.
//!
//! Nobody waits for what he need not wait for: on every system of mailboxes each side asks for the next messages while its own are
//! on their way, not when they have been acknowledged. gRPC and TCP have no such acknowledgement; their requests of one round
//! are all sent before the first answer is awaited.

use std::cell::RefCell;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};
use dbos_client::{Client, ServerKind};
use futures::future::{try_join, try_join_all};
use ipc::{BATCH_MAX, Messages};

use crate::peers::nats::NatsPost;
use crate::peers::redis::RedisPost;
use crate::peers::{Background, rpc, tcp};
use crate::run::{CALLS_IN_FLIGHT_MAX, Operation, Prepared, expect_equal};

/// The benchmark's own receivers: other mailboxes of the target are left alone.
const FIRST_RECEIVER: i64 = 1_000_000_000;
/// Mailboxes of `send-receive`.
const RECEIVERS: i64 = 256;
/// Messages taken in one call.
const RECEIVE_MAX: i32 = 1000;
/// A receive waits so long at its partition. On PostgreSQL it would sleep between two looks: there the receiver asks again
/// at once, which is quicker.
const RECEIVE_WAIT: Duration = Duration::from_secs(5);
/// A round that takes longer has failed: somebody does not answer.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    PingPong,
    Batch,
    FanOut,
    AllToAll,
    SendReceive,
}

impl Shape {
    pub const ALL: [(&str, Self); 5] = [
        ("ping-pong", Self::PingPong),
        ("batch", Self::Batch),
        ("fan-out", Self::FanOut),
        ("all-to-all", Self::AllToAll),
        ("send-receive", Self::SendReceive),
    ];
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        crate::named(&Self::ALL, "shape", text)
    }
}

/// Rounds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    pub shape: Shape,
    /// Bytes of a message.
    pub size: usize,
    /// Messages of a `batch` before their answers.
    pub outstanding: u32,
    /// Rounds at the same time, each with mailboxes or connections of its own.
    pub pairs: u32,
    /// Receivers of a `fan-out`, participants of `all-to-all`.
    pub receivers: u32,
}

impl Spec {
    /// Messages that go one way in a round between one sender and one receiver.
    fn per_link(&self) -> u32 {
        match self.shape {
            Shape::Batch => self.outstanding,
            _ => 1,
        }
    }

    /// Mailboxes of a group: the sender's first.
    fn mailboxes(&self) -> i64 {
        match self.shape {
            Shape::FanOut => i64::from(self.receivers) + 1,
            Shape::AllToAll => i64::from(self.receivers),
            _ => 2,
        }
    }

    fn group(&self, group: u32) -> Vec<i64> {
        let first = FIRST_RECEIVER + i64::from(group) * self.mailboxes();
        (first..first + self.mailboxes()).collect()
    }

    /// Connections of a group where a message is a request.
    fn links(&self) -> u32 {
        match self.shape {
            Shape::FanOut => self.receivers,
            Shape::AllToAll => self.receivers * (self.receivers - 1),
            _ => 1,
        }
    }
}

/// A system of mailboxes, as one side uses it.
#[async_trait::async_trait(?Send)]
pub(crate) trait Post {
    /// Sends `count` messages in one go.
    async fn send(&self, from: i64, to: i64, count: usize) -> anyhow::Result<()>;
    /// Sends `count` messages to each of `to`.
    async fn send_all(&self, from: i64, to: &[i64], count: usize) -> anyhow::Result<()> {
        try_join_all(to.iter().map(|to| self.send(from, *to, count))).await?;
        Ok(())
    }
    /// Takes what there is; 0 if that is nothing, and the caller asks again.
    async fn receive(&self, mailbox: i64) -> anyhow::Result<usize>;
}

/// Rows: a batch is one transaction and one call.
struct SqlPost {
    messages: Messages,
    data: Vec<u8>,
    /// A receive waits so long in the server.
    wait: Duration,
}

#[async_trait::async_trait(?Send)]
impl Post for SqlPost {
    async fn send(&self, from: i64, to: i64, count: usize) -> anyhow::Result<()> {
        if count == 1 {
            self.messages.send(to, from, &self.data).await?;
            return Ok(());
        }
        let mut left = count;
        while left > 0 {
            let batch = vec![self.data.as_slice(); left.min(BATCH_MAX)];
            self.messages.send_batch(to, from, &batch).await?;
            left -= batch.len();
        }
        Ok(())
    }

    async fn send_all(&self, from: i64, to: &[i64], count: usize) -> anyhow::Result<()> {
        if count == 1 && to.len() > 1 {
            self.messages.multicast(to, from, &self.data).await?;
            return Ok(());
        }
        try_join_all(to.iter().map(|to| self.send(from, *to, count))).await?;
        Ok(())
    }

    async fn receive(&self, mailbox: i64) -> anyhow::Result<usize> {
        let received = self.messages.receive(mailbox, RECEIVE_MAX, self.wait);
        Ok(received.await?.len())
    }
}

/// Where mailboxes are; each side connects for itself.
#[derive(Clone, Debug)]
pub(crate) enum Office {
    Sql { urls: String, connections: usize },
    Redis { url: String, run: u64 },
    Nats { url: String },
}

impl Office {
    async fn connect(&self, mailboxes: &[i64], size: usize) -> anyhow::Result<Rc<dyn Post>> {
        Ok(match self {
            Self::Sql { urls, connections } => {
                let options = dbos_client::Options {
                    connections: *connections,
                    in_flight: CALLS_IN_FLIGHT_MAX,
                    application_name: "dbos-bench".into(),
                    ..dbos_client::Options::default()
                };
                let client = Client::connect_with(&urls.parse()?, options).await?;
                let wait = match client.kind() {
                    ServerKind::KernelDb => RECEIVE_WAIT,
                    ServerKind::PostgreSql => Duration::ZERO,
                };
                Rc::new(SqlPost {
                    messages: Messages::new(client),
                    data: vec![7; size],
                    wait,
                })
            }
            Self::Redis { url, run } => Rc::new(RedisPost::connect(url, *run, size).await?),
            Self::Nats { url } => Rc::new(NatsPost::connect(url, mailboxes, size).await?),
        })
    }
}

/// Rounds on a database: empties the mailboxes first, and finds them empty at the end.
pub(crate) async fn prepare(
    client: Client,
    spec: Spec,
    urls: String,
    connections: usize,
) -> anyhow::Result<Prepared> {
    ipc::install(&client).await?;
    let messages = Messages::new(client.clone());
    let last = match spec.shape {
        Shape::SendReceive => FIRST_RECEIVER + RECEIVERS - 1,
        _ => FIRST_RECEIVER + i64::from(spec.pairs) * spec.mailboxes() - 1,
    };
    for mailbox in FIRST_RECEIVER..=last {
        while take(&messages, mailbox).await? > 0 {}
    }
    let check = move |_| async move {
        let sql = "SELECT count(*) FROM message WHERE receiver_id BETWEEN $1 AND $2";
        let rows = client.read_all(sql, &[&FIRST_RECEIVER, &last]).await?;
        expect_equal("messages left", rows[0].get(0), 0)
    };
    if spec.shape == Shape::SendReceive {
        return Ok(Prepared::new(send_receive(messages, spec.size), check));
    }
    let office = Office::Sql { urls, connections };
    let (operation, responders) = rounds(office, spec).await?;
    Ok(Prepared::new(operation, check).keep(responders))
}

/// Rounds on a peer with mailboxes.
pub(crate) async fn prepare_mailboxes(office: Office, spec: Spec) -> anyhow::Result<Prepared> {
    refuse_send_receive(spec.shape)?;
    let (operation, responders) = rounds(office, spec).await?;
    Ok(Prepared::new(operation, |_| async { Ok(()) }).keep(responders))
}

fn refuse_send_receive(shape: Shape) -> anyhow::Result<()> {
    if shape == Shape::SendReceive {
        bail!("shape send-receive is for databases: use ping-pong");
    }
    Ok(())
}

/// Takes what there is without waiting; returns how many.
async fn take(messages: &Messages, mailbox: i64) -> dbos_client::Result<usize> {
    let received = messages.receive(mailbox, RECEIVE_MAX, Duration::ZERO);
    Ok(received.await?.len())
}

/// Sender n and receiver n share a mailbox that others use too, so a receive may bring another's message: what counts is
/// that every message is received once.
fn send_receive(messages: Messages, size: usize) -> Operation {
    Rc::new(move |n| {
        let (messages, receiver) = (
            messages.clone(),
            FIRST_RECEIVER + (n % RECEIVERS as u64) as i64,
        );
        Box::pin(async move {
            let sent = messages
                .send(receiver, n as i64, &vec![n as u8; size])
                .await;
            sent.map_err(|e| e.to_string())?;
            let received = take(&messages, receiver).await;
            received.map(drop).map_err(|e| e.to_string())
        })
    })
}

/// The operation, and the thread that answers.
async fn rounds(office: Office, spec: Spec) -> anyhow::Result<(Operation, Option<Background>)> {
    let groups: Vec<Vec<i64>> = (0..spec.pairs).map(|g| spec.group(g)).collect();
    let mine: Vec<i64> = match spec.shape {
        Shape::AllToAll => groups.concat(),
        _ => groups.iter().map(|group| group[0]).collect(),
    };
    let post = office.connect(&mine, spec.size).await?;
    let responders = match spec.shape {
        Shape::AllToAll => None,
        _ => Some(start_responders(office, spec, groups.clone())?),
    };
    let free = Rc::new(RefCell::new(groups));
    let operation: Operation = Rc::new(move |_| {
        let (post, free) = (post.clone(), free.clone());
        Box::pin(async move {
            let taken = free.borrow_mut().pop();
            let Some(group) = taken else {
                return Err("more rounds in flight than pairs".into());
            };
            let result = in_time(round(&*post, &spec, &group)).await;
            free.borrow_mut().push(group);
            result
        })
    });
    Ok((operation, responders))
}

async fn in_time(round: impl Future<Output = anyhow::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(ROUND_TIMEOUT, round).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer in {} s", ROUND_TIMEOUT.as_secs())),
    }
}

async fn round(post: &dyn Post, spec: &Spec, group: &[i64]) -> anyhow::Result<()> {
    let sender = group[0];
    match spec.shape {
        Shape::AllToAll => {
            let sends = group.iter().map(|from| async move {
                let others: Vec<i64> = group.iter().copied().filter(|to| to != from).collect();
                post.send_all(*from, &others, 1).await
            });
            let collect = group.iter().map(|own| collect(post, *own, group.len() - 1));
            try_join(try_join_all(sends), try_join_all(collect)).await?;
            Ok(())
        }
        _ => {
            let count = spec.per_link() as usize;
            let receivers = &group[1..];
            let answers = collect(post, sender, receivers.len() * count);
            try_join(post.send_all(sender, receivers, count), answers).await?;
            Ok(())
        }
    }
}

/// Receives until `count` messages are there.
async fn collect(post: &dyn Post, mailbox: i64, count: usize) -> anyhow::Result<()> {
    let mut received = 0;
    while received < count {
        received += post.receive(mailbox).await?;
        // A receive that finds its answer buffered must not starve the others.
        tokio::task::coop::consume_budget().await;
    }
    if received > count {
        bail!("{received} messages instead of {count}");
    }
    Ok(())
}

/// A thread on which every receiver of every group answers its group's sender.
fn start_responders(
    office: Office,
    spec: Spec,
    groups: Vec<Vec<i64>>,
) -> anyhow::Result<Background> {
    let (ready, is_ready) = mpsc::channel();
    let count = spec.per_link() as usize;
    let background = Background::start("responders", move || async move {
        let receivers: Vec<i64> = groups.iter().flat_map(|g| g[1..].to_vec()).collect();
        let post = match office.connect(&receivers, spec.size).await {
            Ok(post) => post,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let answers = groups.into_iter().flat_map(|group| {
            let sender = group[0];
            let post = post.clone();
            let answer = move |own: i64| {
                let post = post.clone();
                async move {
                    collect(&*post, own, count).await?;
                    loop {
                        let answer = post.send(own, sender, count);
                        try_join(answer, collect(&*post, own, count)).await?;
                    }
                }
            };
            group[1..].iter().copied().map(answer).collect::<Vec<_>>()
        });
        let ended: anyhow::Result<Vec<()>> = try_join_all(answers).await;
        if let Err(error) = ended {
            // The senders run into their timeout and tell.
            tracing::warn!(%error, "a receiver ended");
        }
    })?;
    is_ready.recv().context("the receivers' thread ended")??;
    Ok(background)
}

/// How a request goes to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    Grpc,
    GrpcStream,
    Tcp,
}

enum Link {
    Rpc(Box<rpc::Link>),
    Tcp(tcp::Link),
}

impl Link {
    async fn round(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Rpc(link) => link.round().await,
            Self::Tcp(link) => link.round().await,
        }
    }
}

/// Rounds of requests, over connections of their own.
pub(crate) async fn prepare_requests(kind: Requests, spec: Spec) -> anyhow::Result<Prepared> {
    refuse_send_receive(spec.shape)?;
    let (address, responder) = match kind {
        Requests::Tcp => tcp::responder()?,
        Requests::Grpc | Requests::GrpcStream => rpc::responder()?,
    };
    let (size, count) = (spec.size, spec.per_link());
    let mut groups = Vec::new();
    for _ in 0..spec.pairs {
        let mut group = Vec::new();
        for _ in 0..spec.links() {
            let streaming = kind == Requests::GrpcStream;
            group.push(match kind {
                Requests::Tcp => Link::Tcp(tcp::Link::connect(address, size, count).await?),
                _ => {
                    let link = rpc::Link::connect(address, size, count, streaming).await?;
                    Link::Rpc(Box::new(link))
                }
            });
        }
        groups.push(group);
    }
    let free = Rc::new(RefCell::new(groups));
    let operation: Operation = Rc::new(move |_| {
        let free = free.clone();
        Box::pin(async move {
            let taken = free.borrow_mut().pop();
            let Some(mut group) = taken else {
                return Err("more rounds in flight than pairs".into());
            };
            let all = try_join_all(group.iter_mut().map(Link::round));
            let result = in_time(async { all.await.map(drop) }).await;
            free.borrow_mut().push(group);
            result
        })
    });
    Ok(Prepared::new(operation, |_| async { Ok(()) }).keep(Some(responder)))
}
