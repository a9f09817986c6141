//! Asks a running node, over the protocol between nodes, to change the nodes of its cluster.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub use super::gateway::{
    Progress as RollbackProgress, Restored as RestoredTable, Stages as RollbackStage,
};
use super::topology::Topology;
use super::{NodeAddress, NodeConfig};
use crate::error::{Error, Result};
use crate::wire::peer::{
    AddNode, Admin, Answer, Call, FrameReader, Hello, PROTOCOL, admin, answer, call, encode_frame,
    frame, from_failure,
};

/// For one question.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How far a change of the nodes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Ids of the cluster's nodes, those that are leaving included.
    pub nodes: Vec<u64>,
    pub leaving: Vec<u64>,
    /// Groups whose replicas or preferred leaders are still to move; 0 when all is done.
    pub moves_left: usize,
}

/// A running node that is asked. `config` is any node's configuration of the cluster, `node` who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Administration<'a> {
    pub config: &'a NodeConfig,
    pub node: u64,
    pub address: SocketAddr,
}

impl Administration<'_> {
    /// Adds a node, whose process should be running. 42710 if its id or addresses are taken.
    pub async fn add(&self, node: &NodeAddress) -> Result<()> {
        let add = AddNode {
            id: node.id,
            sql: node.sql.to_string(),
            peer: node.peer.to_string(),
        };
        self.ask(admin::Work::Add(add)).await.map(drop)
    }

    /// Begins to move everything away from a node. 42704 if there is none of that id, 55000 if too few nodes would be left.
    pub async fn remove(&self, node: u64) -> Result<()> {
        self.ask(admin::Work::Remove(node)).await.map(drop)
    }

    pub async fn progress(&self) -> Result<Progress> {
        let topology = Topology::from_bytes(&self.ask(admin::Work::Topology(true)).await?)?;
        Ok(Progress {
            nodes: topology.nodes.iter().map(|n| n.id).collect(),
            moves_left: topology.moves_left(),
            leaving: topology.leaving,
        })
    }

    /// Lets the node give its leaderships away; returns how many it still has.
    pub async fn hand_over(&self) -> Result<usize> {
        let left = self.ask(admin::Work::HandOver(true)).await?;
        let text = String::from_utf8_lossy(&left);
        text.parse()
            .map_err(|_| Error::internal(format!("a node answered {text:?}")))
    }

    /// Begins to bring all tables back to `time`, as AS OF SYSTEM TIME takes it; the node asked does the work.
    pub async fn roll_back(&self, time: &str) -> Result<()> {
        let work = admin::Work::RollBack(time.to_owned());
        self.ask(work).await.map(drop)
    }

    /// How far the rollback is that the node runs, or ran last; 42704 if there is none.
    pub async fn rollback_progress(&self) -> Result<RollbackProgress> {
        let told = self.ask(admin::Work::RollbackProgress(true)).await?;
        serde_json::from_slice(&told)
            .map_err(|e| Error::internal(format!("a node's answer about a rollback: {e}")))
    }

    async fn ask(&self, work: admin::Work) -> Result<Bytes> {
        let asked = tokio::time::timeout(TIMEOUT, self.talk(work)).await;
        asked.unwrap_or_else(|_| {
            Err(
                Error::unknown(format!("node {} does not answer", self.node))
                    .hint("look at `cluster status` and the node's log"),
            )
        })
    }

    async fn talk(&self, work: admin::Work) -> Result<Bytes> {
        let failed = |e: std::io::Error| {
            Error::retry(
                "08006",
                format!("node {} at {}: {e}", self.node, self.address),
            )
        };
        let mut stream = TcpStream::connect(self.address).await.map_err(failed)?;
        let (read, mut write) = stream.split();
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: Bytes::copy_from_slice(&self.config.cluster_number().to_be_bytes()),
            from: 0,
            to: self.node,
        };
        let call = Call {
            id: 1,
            seen: 0,
            body: Some(call::Body::Admin(Admin { work: Some(work) })),
        };
        for body in [frame::Body::Hello(hello), frame::Body::Call(call)] {
            write.write_all(&encode_frame(body)).await.map_err(failed)?;
        }
        // It has been sent.
        let lost = |e: Error| Error::unknown(format!("node {}: {}", self.node, e.message()));
        match FrameReader::new(read).next().await.map_err(lost)? {
            Some(frame::Body::Answer(Answer { body, .. })) => match body {
                Some(answer::Body::Reply(bytes)) => Ok(bytes),
                Some(answer::Body::Failure(failure)) => Err(from_failure(failure)),
                _ => Err(Error::internal("the node answered something else")),
            },
            Some(_) => Err(Error::internal("the node answered something else")),
            None => Err(Error::unknown(format!("node {} hung up", self.node))),
        }
    }
}
