//! Which node holds which replica, worked out from the configuration alone, so that all nodes agree without asking.
//!
//! Group 0 is the system group (catalogue), on up to five nodes. Partition `p` is group `p + 1`. Replicas and preferred
//! leaders are dealt round-robin over the nodes in order of their ids. Left out until slots can move: the map from slot
//! to partition is `slot mod partitions`.

use super::NodeConfig;
use crate::partition::Slot;

/// The system group's number.
pub const SYSTEM: u32 = 0;

/// Members of the system group at most: more would only make catalogue changes dearer.
const SYSTEM_REPLICAS_MAX: usize = 5;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Placement {
    nodes: Vec<u64>,
    partitions: u32,
    replicas: usize,
}

impl Placement {
    pub fn new(config: &NodeConfig) -> Self {
        let mut nodes: Vec<u64> = config.nodes.iter().map(|n| n.id).collect();
        nodes.sort_unstable();
        Self {
            nodes,
            partitions: config.partitions,
            replicas: config.replicas as usize,
        }
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
        let n = self.nodes.len();
        if group == SYSTEM {
            // Odd, so that one more member never costs availability.
            let count = if n >= SYSTEM_REPLICAS_MAX {
                SYSTEM_REPLICAS_MAX
            } else {
                n - (n + 1) % 2
            };
            let count = if self.replicas == 1 && n < 3 {
                1
            } else {
                count
            };
            return self.nodes[..count].to_vec();
        }
        let first = (group as usize - 1) % n;
        (0..self.replicas)
            .map(|i| self.nodes[(first + i) % n])
            .collect()
    }

    pub fn preferred_leader(&self, group: u32) -> u64 {
        self.voters(group)[0]
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
    use crate::node::NodeAddress;

    fn placement(nodes: u64, partitions: u32, replicas: u32) -> Placement {
        let address = |port: u64| format!("127.0.0.1:{port}").parse().unwrap();
        Placement::new(&NodeConfig {
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
        })
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
}
