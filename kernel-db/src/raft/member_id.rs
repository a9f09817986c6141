//! Who a member of a group is: a node, and which of the replicas that it has had.
//!
//! A node may leave a group, drop its replica, and come back with an empty one. To Raft that is another member: what the
//! one before it has acknowledged does not count for it, and what was sent to that one is not for it. So a member's number
//! is never used again: beside the node it holds the index of the log entry that made it a member, 0 for the first members
//! of a group. That index is alike on all members, and two members of one node never have the same.
//!
//! Raft's messages and the group's members (`ConfState`) carry these numbers; everything outside of `raft/` names nodes.

/// Bits of a number that name the node. What is left, 40 bits, suffices for a thousand entries a second for thirty years.
const NODE_BITS: u32 = 24;
const NODE_MASK: u64 = (1 << NODE_BITS) - 1;

/// The largest number of a node.
pub const NODE_MAX: u64 = NODE_MASK - 1;

/// The node that a member is, or was, at.
pub fn node_of(member: u64) -> u64 {
    member & NODE_MASK
}

/// Index of the entry that made it a member; 0 for the first members of a group.
pub fn index_of(member: u64) -> u64 {
    member >> NODE_BITS
}

/// The member that the entry at `index` adds at `node`.
pub fn member_at(index: u64, node: u64) -> u64 {
    debug_assert!(index >> (u64::BITS - NODE_BITS) == 0, "index {index}");
    index << NODE_BITS | node
}

/// What a replica is between the drop of `member` and the entry that makes its node a member again: above everything that
/// was sent to the dropped one, below everything that is sent to the next. Nobody has it for an address.
pub fn dropped(member: u64) -> u64 {
    member | NODE_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_member_comes_between_its_number_and_the_next() {
        for (before, after) in [(0, 2), (7, 8), (1 << 39, (1 << 40) - 1)] {
            for node in [1, 3, NODE_MAX] {
                let (old, new) = (member_at(before, node), member_at(after, node));
                assert_eq!((node_of(new), index_of(new)), (node, after));
                assert!(old < dropped(old) && dropped(old) < new);
                assert_eq!(dropped(dropped(old)), dropped(old));
                assert_ne!(node_of(dropped(old)), node);
            }
        }
        assert_eq!(member_at(0, 3), 3, "first members are their nodes");
    }
}
