//! What the experiments on messages share.

use bench::Kind;
use bench::messages::{Shape, Spec};

use super::Point;
use crate::action::Load;
use crate::scale::Scale;
use crate::systems::{Durability, System};

/// Compared in every experiment on messages.
pub const SYSTEMS: [System; 6] = [
    System::Cluster {
        nodes: 1,
        partitions: 4,
        durability: Durability::Memory,
    },
    System::Peer("grpc"),
    System::Peer("grpc-stream"),
    System::Peer("tcp"),
    System::Peer("redis"),
    System::Peer("nats"),
];

const CONNECTIONS: u32 = 4;

/// One message and its answer, small, between two. Experiments change what they are about.
pub const ROUND: Spec = Spec {
    shape: Shape::PingPong,
    size: 64,
    outstanding: 1,
    pairs: 1,
    receivers: 1,
};

/// A point for each system at each of `counts`.
pub fn points(scale: Scale, counts: &[u32], spec: impl Fn(u32) -> Spec) -> Vec<Point> {
    let at = |count: &u32| {
        let (x, spec) = (f64::from(*count), spec(*count));
        SYSTEMS.map(|system| Point::load(system.name(), x, load(scale, system, spec)))
    };
    counts.iter().flat_map(at).collect()
}

/// Rounds, `spec.pairs` at the same time.
pub fn load(scale: Scale, system: System, spec: Spec) -> Load {
    Load {
        system,
        kind: Kind::Ipc(spec),
        connections: CONNECTIONS,
        in_flight: spec.pairs,
        rate: None,
        duration: scale.duration(),
    }
}
