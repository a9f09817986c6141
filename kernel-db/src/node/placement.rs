//! Which node holds which replica, as the newest [`Topology`] known here says; slots to partitions.
//!
//! Group 0 is the system group (catalogue, topology), on up to five nodes. Partition `p` is group `p + 1`. Left out until slots
//! can move: the map from slot to partition is `slot mod partitions`. Clones share what they know.

use std::sync::{Arc, PoisonError, RwLock};

use super::config::NodeAddress;
use super::topology::Topology;
use crate::partition::Slot;

/// The system group's number.
pub const SYSTEM: u32 = 0;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Placement {
    partitions: u32,
    topology: Arc<RwLock<Arc<Topology>>>,
}

impl Placement {
    pub fn new(topology: Topology) -> Self {
        Self {
            partitions: topology.groups.len() as u32 - 1,
            topology: Arc::new(RwLock::new(Arc::new(topology))),
        }
    }

    pub fn topology(&self) -> Arc<Topology> {
        // Only whole values are assigned under this lock.
        Arc::clone(&self.topology.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses `topology` from now on, if it is newer. True if it is.
    pub fn adopt(&self, topology: Topology) -> bool {
        let mut known = self
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let newer = topology.version > known.version;
        if newer {
            *known = Arc::new(topology);
        }
        newer
    }

    pub fn nodes(&self) -> Vec<NodeAddress> {
        self.topology().nodes.clone()
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// All groups, the system group first.
    pub fn groups(&self) -> std::ops::RangeInclusive<u32> {
        SYSTEM..=self.partitions
    }

    /// Nodes that hold a replica of `group`; the first is its preferred leader.
    pub fn voters(&self, group: u32) -> Vec<u64> {
        self.topology().voters(group).to_vec()
    }

    pub fn preferred_leader(&self, group: u32) -> u64 {
        self.topology().voters(group).first().copied().unwrap_or(0)
    }

    /// Group that owns `slot`.
    pub fn group_of(&self, slot: Slot) -> u32 {
        u32::from(slot) % self.partitions + 1
    }

    /// Slots that `group` owns.
    pub fn slots(&self, group: u32) -> u32 {
        let all = u32::from(crate::partition::SLOTS);
        all / self.partitions + u32::from(group - 1 < all % self.partitions)
    }

    /// All partitions' groups.
    pub fn partition_groups(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.partitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeConfig;

    fn placement(nodes: u64, partitions: u32, replicas: u32) -> Placement {
        let address = |port: u64| format!("127.0.0.1:{port}").parse().unwrap();
        Placement::new(Topology::new(&NodeConfig {
            nodes: (1..=nodes)
                .map(|id| NodeAddress {
                    id,
                    sql: address(id),
                    peer: address(100 + id),
                })
                .collect(),
            partitions,
            replicas,
            ..NodeConfig::default()
        }))
    }

    #[test]
    fn leaders_are_spread_and_replicas_are_distinct() {
        let p = placement(3, 4, 3);
        assert_eq!(p.voters(SYSTEM), [1, 2, 3]);
        assert_eq!(
            (1..=4).map(|g| p.preferred_leader(g)).collect::<Vec<_>>(),
            [1, 2, 3, 1]
        );
        for group in p.partition_groups() {
            let mut voters = p.voters(group);
            voters.sort_unstable();
            assert_eq!(voters, [1, 2, 3]);
        }
    }

    #[test]
    fn every_slot_has_an_owner() {
        for partitions in [1, 3, 4, 1024] {
            let p = placement(3, partitions, 1);
            let mut count = vec![0; partitions as usize + 1];
            for slot in 0..crate::partition::SLOTS {
                count[p.group_of(slot) as usize] += 1;
            }
            for group in p.partition_groups() {
                assert_eq!(count[group as usize], p.slots(group));
            }
        }
    }

    #[test]
    fn the_system_group_is_odd() {
        for (nodes, members) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5)] {
            assert_eq!(placement(nodes, 4, 1).voters(SYSTEM).len(), members);
        }
    }

    #[test]
    fn only_a_newer_topology_is_adopted() {
        let p = placement(3, 4, 3);
        let mut newer = Topology::clone(&p.topology());
        newer.version = 2;
        newer.groups[1] = vec![3, 2, 1];
        let shared = p.clone();
        assert!(p.adopt(newer.clone()));
        newer.version = 1;
        assert!(!p.adopt(newer));
        assert_eq!(shared.preferred_leader(1), 3);
    }
}
