//! What the experiments on messages share.

use bench::Kind;
use bench::messages::Spec;

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
