//! The network between the nodes: one TCP proxy for each ordered pair of nodes, and a gate for each direction of bytes.
//!
//! A closed gate holds bytes back, as a network does that drops packets: both ends keep their sockets, nothing arrives.
//! When it opens, what TCP would send again comes late. `reset` breaks the connections of a pair instead.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// From one node to another.
type Way = (u64, u64);

pub struct Network {
    /// Open or not.
    gates: BTreeMap<Way, watch::Sender<bool>>,
    /// Grows with every reset of the pair.
    resets: BTreeMap<Way, watch::Sender<u64>>,
    addresses: BTreeMap<Way, SocketAddr>,
}

impl Network {
    /// Listens for every pair. `peers` are the nodes' own peer addresses.
    pub async fn start(peers: &BTreeMap<u64, SocketAddr>) -> Self {
        let nodes: Vec<u64> = peers.keys().copied().collect();
        let ways = nodes
            .iter()
            .flat_map(|from| nodes.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to);
        let ways: Vec<Way> = ways.collect();
        let mut network = Self {
            gates: ways
                .iter()
                .map(|way| (*way, watch::channel(true).0))
                .collect(),
            resets: ways.iter().map(|way| (*way, watch::channel(0).0)).collect(),
            addresses: BTreeMap::new(),
        };
        for (from, to) in ways {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            network
                .addresses
                .insert((from, to), listener.local_addr().unwrap());
            let pipe = Pipe {
                forward: network.gates[&(from, to)].subscribe(),
                backward: network.gates[&(to, from)].subscribe(),
                reset: network.resets[&(from, to)].subscribe(),
            };
            tokio::spawn(accept(listener, peers[&to], pipe));
        }
        network
    }

    /// Where `from` finds `to`.
    pub fn address(&self, from: u64, to: u64) -> SocketAddr {
        self.addresses[&(from, to)]
    }

    /// Nothing of what others send reaches `node`.
    pub fn close_to(&self, node: u64) {
        self.set(|(_, to)| to == node, false);
    }

    /// Nothing that `node` sends reaches the others.
    pub fn close_from(&self, node: u64) {
        self.set(|(from, _)| from == node, false);
    }

    pub fn open_all(&self) {
        self.set(|_| true, true);
    }

    /// Breaks every connection between nodes.
    pub fn reset_all(&self) {
        for reset in self.resets.values() {
            reset.send_modify(|count| *count += 1);
        }
    }

    fn set(&self, which: impl Fn(Way) -> bool, open: bool) {
        for (way, gate) in &self.gates {
            if which(*way) {
                gate.send_replace(open);
            }
        }
    }
}

/// What a proxied connection of one pair listens to.
#[derive(Clone)]
struct Pipe {
    forward: watch::Receiver<bool>,
    backward: watch::Receiver<bool>,
    reset: watch::Receiver<u64>,
}

async fn accept(listener: TcpListener, to: SocketAddr, pipe: Pipe) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, to, pipe.clone()));
    }
}

async fn serve(near: TcpStream, to: SocketAddr, mut pipe: Pipe) {
    pipe.reset.mark_unchanged();
    let connected = async {
        // A handshake needs both directions.
        pipe.forward.wait_for(|open| *open).await.ok()?;
        pipe.backward.wait_for(|open| *open).await.ok()?;
        let far = TcpStream::connect(to).await.ok()?;
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        // An end of either direction ends both.
        tokio::select! {
            () = copy(near_read, far_write, pipe.forward) => {}
            () = copy(far_read, near_write, pipe.backward) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = connected => {}
        _ = pipe.reset.changed() => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if gate.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
