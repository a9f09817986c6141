//! gRPC (tonic): unary calls, or one bidirectional stream whose responder answers after n messages, as in the papers.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use super::Background;

/// Generated from proto/echo.proto.
#[allow(clippy::all, missing_docs)]
mod echo {
    tonic::include_proto!("bench");
}

use echo::Payload;
use echo::echo_client::EchoClient;
use echo::echo_server::{Echo, EchoServer};

const OUTSTANDING: &str = "outstanding";
/// Messages of one round that wait for the network.
const QUEUE_MAX: usize = 1024;

struct Responder;

#[tonic::async_trait]
impl Echo for Responder {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type RoundsStream = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn rounds(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::RoundsStream>, Status> {
        let outstanding = request.metadata().get(OUTSTANDING);
        let outstanding: usize = outstanding
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| Status::invalid_argument("no metadata key outstanding"))?;
        let messages = request.into_inner().chunks(outstanding);
        let answers = messages.flat_map(futures::stream::iter);
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One server with any number of connections, on a thread of its own.
pub(crate) fn responder() -> anyhow::Result<(SocketAddr, Background)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let background = Background::start("grpc-responder", move || async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
            return;
        };
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(EchoServer::new(Responder));
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::warn!(%error, "the gRPC responder ended");
        }
    })?;
    Ok((address, background))
}

/// A connection to a responder.
pub(crate) struct Link {
    client: EchoClient<Channel>,
    message: Bytes,
    outstanding: u32,
    stream: Option<(mpsc::Sender<Payload>, Streaming<Payload>)>,
}

impl Link {
    pub async fn connect(
        address: SocketAddr,
        size: usize,
        outstanding: u32,
        streaming: bool,
    ) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?;
        let mut client = EchoClient::new(channel.connect().await?);
        let stream = if streaming {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            let mut request = Request::new(receiver);
            let value = outstanding.to_string().parse()?;
            request.metadata_mut().insert(OUTSTANDING, value);
            Some((sender, client.rounds(request).await?.into_inner()))
        } else {
            None
        };
        Ok(Self {
            client,
            message: vec![7; size].into(),
            outstanding,
            stream,
        })
    }

    /// One round: all messages out, all answers in.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        let payload = || Payload {
            data: self.message.clone(),
        };
        match &mut self.stream {
            None => {
                let calls = (0..self.outstanding).map(|_| {
                    let (mut client, message) = (self.client.clone(), payload());
                    async move { client.unary(message).await }
                });
                for answer in futures::future::try_join_all(calls).await? {
                    check(&answer.into_inner(), self.message.len())?;
                }
            }
            Some((sender, answers)) => {
                for _ in 0..self.outstanding {
                    let message = Payload {
                        data: self.message.clone(),
                    };
                    futures::SinkExt::feed(sender, message).await?;
                }
                for _ in 0..self.outstanding {
                    let answer = answers.message().await?;
                    check(&answer.context("the stream ended")?, self.message.len())?;
                }
            }
        }
        Ok(())
    }
}

fn check(answer: &Payload, size: usize) -> anyhow::Result<()> {
    if answer.data.len() != size {
        bail!("{} bytes came back instead of {size}", answer.data.len());
    }
    Ok(())
}
