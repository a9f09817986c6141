//! etcd: one operation is one put of 100 bytes under a fresh key, by gRPC, spread over the members.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use tonic::transport::Channel;

use super::{Server, command, free_addresses, program, server_folder, version_of};
use crate::run::{Operation, Prepared, expect_equal};

/// Generated from proto/etcd.proto.
#[allow(clippy::all, missing_docs)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

use api::kv_client::KvClient;
use api::{PutRequest, RangeRequest};

const VALUE_BYTES: usize = 100;

/// A private cluster on this machine, durable as etcd is by default.
#[derive(Debug)]
pub(crate) struct Etcd {
    pub servers: Vec<Server>,
    pub clients: Vec<SocketAddr>,
    pub version: String,
}

impl Etcd {
    pub fn start(members: usize) -> anyhow::Result<Self> {
        let binary = program("etcd")?;
        let addresses = free_addresses(2 * members as u16);
        let (clients, peers) = addresses.split_at(members);
        let all: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(n, peer)| format!("n{n}=http://{peer}"))
            .collect();
        let mut servers = Vec::new();
        for n in 0..members {
            let folder = server_folder("etcd")?;
            let (client, peer) = (clients[n], peers[n]);
            let mut start = command(&binary);
            start.arg("--name").arg(format!("n{n}"));
            start.arg("--data-dir").arg(folder.path().join("data"));
            start.arg(format!("--listen-client-urls=http://{client}"));
            start.arg(format!("--advertise-client-urls=http://{client}"));
            start.arg(format!("--listen-peer-urls=http://{peer}"));
            start.arg(format!("--initial-advertise-peer-urls=http://{peer}"));
            start.arg(format!("--initial-cluster={}", all.join(",")));
            servers.push(Server::start("etcd", start, folder)?);
        }
        for (server, client) in servers.iter_mut().zip(clients) {
            server.wait_for(*client)?;
        }
        Ok(Self {
            servers,
            clients: clients.to_vec(),
            version: version_of(&binary, "--version"),
        })
    }
}

/// `connections` per member.
pub(crate) async fn prepare(etcd: &Etcd, connections: u32) -> anyhow::Result<Prepared> {
    let mut clients = Vec::new();
    for address in &etcd.clients {
        for _ in 0..connections {
            let channel = Channel::from_shared(format!("http://{address}"))?;
            clients.push(KvClient::new(channel.connect().await?));
        }
    }
    let mut first = clients.first().context("no member")?.clone();
    let run: u32 = rand::random();
    let key = move |n: u64| Bytes::from(format!("task/{run}/{n:020}"));
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    // A cluster that just started answers when it has a leader.
    first
        .put(PutRequest {
            key: Bytes::from(format!("start/{run}")),
            value: value.clone(),
        })
        .await?;
    let operation: Operation = std::rc::Rc::new(move |n| {
        let mut client = clients[(n % clients.len() as u64) as usize].clone();
        let request = PutRequest {
            key: key(n),
            value: value.clone(),
        };
        Box::pin(async move {
            let put = client.put(request).await;
            put.map(drop).map_err(|status| status.message().to_string())
        })
    });
    Ok(Prepared::new(operation, move |acknowledged| async move {
        let count = RangeRequest {
            key: Bytes::from(format!("task/{run}/")),
            range_end: Bytes::from(format!("task/{run}0")),
            count_only: true,
        };
        let found = first.range(count).await?.into_inner().count;
        expect_equal("keys", found, acknowledged)
    }))
}
