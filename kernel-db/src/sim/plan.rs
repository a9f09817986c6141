//! What a run is like: how many nodes and groups, how bad the network, which bounds. The seed draws it.

use super::rng::Rng;
use crate::partition::{Durability, ReplicaConfig};
use crate::planted::{Mutation, Planted};

/// Simulated time of clients and faults, in microseconds.
pub const LENGTH_US: u64 = 60_000_000;

#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: u64,
    pub groups: u32,
    pub length_us: u64,
    /// Thousandths of messages that are lost, doubled, and very late.
    pub loss: u64,
    pub double: u64,
    pub late: u64,
    /// Mean time between two disasters, in microseconds.
    pub disaster_us: u64,
    pub durability: Durability,
    pub sessions_max: usize,
    pub log_bytes_max: u64,
    pub tip_bytes_max: usize,
    pub queue_max: usize,
    /// The shorter, the more elections meet a lease that still runs.
    pub election_ticks: usize,
    /// Some rows are brought back to what they were. One more group decides about that.
    pub rollbacks: bool,
    /// Clients send each other messages, and wait for them.
    pub waits: bool,
    /// Clients keep registers under read leases.
    pub leases: bool,
    /// Nodes are added, removed, and lose their disks.
    pub moves: bool,
    /// Planted in every replica.
    pub mutation: Option<Mutation>,
    /// Look at the invariants at every step, not only at the history at the end.
    pub watch: bool,
}

impl Plan {
    /// Mostly three nodes, two groups and fsync; sometimes something narrower.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let mut one_in =
            |n: u64, rare: u64, usual: u64| if rng.range(0, n) == 0 { rare } else { usual };
        let nodes = one_in(8, 5, 3);
        let nodes = one_in(16, 1, nodes);
        let memory = one_in(5, 1, 0) == 1;
        Self {
            nodes,
            groups: 2,
            length_us: LENGTH_US,
            loss: one_in(3, 40, 8),
            double: one_in(4, 60, 10),
            late: one_in(4, 20, 4),
            disaster_us: one_in(3, 700_000, 1_200_000),
            durability: if memory {
                Durability::Memory
            } else {
                Durability::Fsync
            },
            sessions_max: one_in(6, 3, 64) as usize,
            log_bytes_max: one_in(5, 30_000, 200_000),
            tip_bytes_max: one_in(4, 4_000, 64 << 20) as usize,
            queue_max: one_in(8, 4, 10_000) as usize,
            election_ticks: one_in(2, 5, 10) as usize,
            moves: one_in(2, 1, 0) == 1,
            waits: one_in(2, 1, 0) == 1,
            rollbacks: one_in(2, 1, 0) == 1,
            leases: one_in(2, 1, 0) == 1,
            mutation: None,
            watch: true,
        }
    }

    /// The same, but nodes stay, nobody waits or keeps anything, and nothing is rolled back.
    pub fn plain(seed: u64) -> Self {
        Self {
            moves: false,
            waits: false,
            rollbacks: false,
            leases: false,
            ..Self::of_seed(seed)
        }
    }

    /// Those with rows, and perhaps the one that decides about rollbacks.
    pub fn all_groups(&self) -> u32 {
        self.groups + u32::from(self.rollbacks)
    }

    /// The first members of every group; none for a node that comes later.
    fn founders(&self, node: u64) -> Vec<u64> {
        match node <= self.nodes {
            true => (1..=self.nodes).collect(),
            false => Vec::new(),
        }
    }

    pub fn config(&self, node: u64, group: u32, seed: u64) -> ReplicaConfig {
        ReplicaConfig {
            partitions: self.groups,
            sessions_max: self.sessions_max,
            log_bytes_max: self.log_bytes_max,
            tip_bytes_max: self.tip_bytes_max,
            queue_max: self.queue_max,
            snapshot_patience_ticks: 60,
            election_ticks: self.election_ticks,
            batch_bytes_max: 4_000,
            durability: self.durability,
            planted: Planted::new(self.mutation),
            seed,
            ..ReplicaConfig::new(node, group, self.founders(node))
        }
    }
}
