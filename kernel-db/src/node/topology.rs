//! The nodes of the cluster and where every group's replicas are: one row of the system group, known to every node.
//!
//! A new cluster deals replicas and preferred leaders round-robin over the nodes of the configuration, and evens out what is
//! left over, so that all nodes agree without asking and the first start moves nothing. From the first change on the row counts. Nodes are added and removed by moving replicas one group at
//! a time: `moving` says which, before anything of it is done, so that whoever leads the system group can go on with it.

use serde::{Deserialize, Serialize};

use super::config::{NodeAddress, NodeConfig};
use super::placement::SYSTEM;
use crate::error::{Error, Result};
use crate::raft::member_id::NODE_MAX;

/// Members of the system group at most: more would only make catalogue changes dearer.
const SYSTEM_REPLICAS_MAX: usize = 5;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Grows with every change; 0 as the configuration says.
    pub version: u64,
    /// Copies of every partition.
    pub replicas: usize,
    /// In order of their ids.
    pub nodes: Vec<NodeAddress>,
    /// Nodes that are being removed: their replicas move away.
    pub leaving: Vec<u64>,
    /// Voters of every group, the system group first; the first of each is its preferred leader.
    pub groups: Vec<Vec<u64>>,
    /// The group whose members are changing now.
    pub moving: Option<Move>,
}

/// One group's new voters, the preferred leader first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub group: u32,
    pub voters: Vec<u64>,
    /// Nodes that it was to bring replicas to before it was turned back: they may be voters until it is done.
    #[serde(default)]
    pub turned_back: Vec<u64>,
}

impl Topology {
    /// A new cluster's.
    pub fn new(config: &NodeConfig) -> Self {
        let mut nodes = config.nodes.clone();
        nodes.sort_unstable_by_key(|node| node.id);
        let ids: Vec<u64> = nodes.iter().map(|node| node.id).collect();
        let replicas = config.replicas as usize;
        let deal = |group: u32| -> Vec<u64> {
            let (n, first) = (ids.len(), group as usize - 1);
            (0..replicas).map(|i| ids[(first + i) % n]).collect()
        };
        let system = ids[..system_replicas(ids.len(), replicas)].to_vec();
        let partitions = (1..=config.partitions).map(deal);
        let dealt = Self {
            version: 0,
            replicas,
            groups: std::iter::once(system).chain(partitions).collect(),
            nodes,
            leaving: Vec::new(),
            moving: None,
        };
        dealt.evened_out()
    }

    /// As it is after all moves that would be made; nobody has had to make them.
    fn evened_out(mut self) -> Self {
        let version = self.version;
        while let Some(next) = self.next_move() {
            self = self.begin(next).settle();
        }
        Self { version, ..self }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("topology: {e}")))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::internal(format!("topology: {e}")))
    }

    pub fn voters(&self, group: u32) -> &[u64] {
        self.groups.get(group as usize).map_or(&[], Vec::as_slice)
    }

    /// True if `node` has, or is about to have, or may still have a replica of `group`.
    pub fn concerns(&self, group: u32, node: u64) -> bool {
        let moving = self.moving.as_ref().filter(|m| m.group == group);
        let moves = |m: &Move| m.voters.contains(&node) || m.turned_back.contains(&node);
        self.voters(group).contains(&node) || moving.is_some_and(moves)
    }

    /// With one node more. 42710 if its id or one of its addresses is there already, 22023 if its id is out of bounds.
    pub fn add(&self, node: NodeAddress) -> Result<Self> {
        if node.id == 0 || node.id > NODE_MAX {
            let text = format!("a node's id is between 1 and {NODE_MAX}, not {}", node.id);
            return Err(Error::new("22023", text));
        }
        let same = |n: &&NodeAddress| {
            n.id == node.id
                || [n.sql, n.peer]
                    .iter()
                    .any(|a| [node.sql, node.peer].contains(a))
        };
        if let Some(there) = self.nodes.iter().find(same) {
            return Err(Error::new(
                "42710",
                format!("node {} is there already ({}, {})", there.id, there.sql, there.peer),
            )
            .hint("a node needs an id and ports of its own; one that lost its disk comes back under a new id"));
        }
        let mut next = self.next();
        next.nodes.push(node);
        next.nodes.sort_unstable_by_key(|node| node.id);
        Ok(next)
    }

    /// With one node on its way out. 42704 if there is none of that id, 55000 if too few would be left.
    pub fn remove(&self, node: u64) -> Result<Self> {
        if !self.nodes.iter().any(|n| n.id == node) {
            return Err(Error::new("42704", format!("there is no node {node}"))
                .hint("`SELECT * FROM dbos.nodes` shows the nodes"));
        }
        let mut next = self.next();
        if !next.leaving.contains(&node) {
            next.leaving.push(node);
        }
        if next.staying().len() < self.replicas {
            return Err(Error::new(
                "55000",
                format!(
                    "{} nodes would be left, and every partition has {} replicas",
                    next.staying().len(),
                    self.replicas
                ),
            )
            .hint("add another node first"));
        }
        next.turn_back(node);
        Ok(next)
    }

    /// A move that would bring a replica to `node`, which leaves, is turned back: to where the group was, but for nodes that leave
    /// too, whose disks may be lost.
    fn turn_back(&mut self, node: u64) {
        let Some(moving) = &self.moving else { return };
        if !moving.voters.contains(&node) || self.voters(moving.group).contains(&node) {
            return;
        }
        if let Some(voters) = self.repaired(moving.group)
            && let Some(moving) = &mut self.moving
        {
            let before = std::mem::replace(&mut moving.voters, voters);
            moving.turned_back.extend(before);
            moving.turned_back.sort_unstable();
            moving.turned_back.dedup();
        }
    }

    /// With `move_` begun.
    pub fn begin(&self, move_: Move) -> Self {
        let mut next = self.next();
        next.moving = Some(move_);
        next
    }

    /// With the move that is under way done.
    pub fn settle(&self) -> Self {
        let mut next = self.next();
        if let Some(done) = next.moving.take() {
            next.groups[done.group as usize] = done.voters;
        }
        next
    }

    /// Without the nodes that have left; none if there are none.
    pub fn forget_left(&self) -> Option<Self> {
        let gone = |node: &u64| !self.groups.iter().any(|voters| voters.contains(node));
        let left: Vec<u64> = self.leaving.iter().copied().filter(gone).collect();
        if left.is_empty() || self.moving.is_some() {
            return None;
        }
        let mut next = self.next();
        next.nodes.retain(|node| !left.contains(&node.id));
        next.leaving.retain(|node| !left.contains(node));
        Some(next)
    }

    fn next(&self) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next
    }

    /// Nodes that are not on their way out.
    pub fn staying(&self) -> Vec<u64> {
        let ids = self.nodes.iter().map(|node| node.id);
        ids.filter(|id| !self.leaving.contains(id)).collect()
    }

    /// The next group to move: away from a node that leaves, then to the right number of replicas, then so that no node has two
    /// replicas or two leaderships more than another. None when all is well.
    pub fn next_move(&self) -> Option<Move> {
        (0..self.groups.len() as u32)
            .find_map(|group| self.repair(group))
            .or_else(|| self.spread_replicas())
            .or_else(|| self.spread_leaders())
    }

    /// Moves that would be made, one after the other, until all is well.
    pub fn moves_left(&self) -> usize {
        let (mut topology, mut count) = (self.clone(), 0);
        if topology.moving.is_some() {
            (topology, count) = (topology.settle(), 1);
        }
        while let Some(next) = topology.next_move() {
            (topology, count) = (topology.begin(next).settle(), count + 1);
        }
        count
    }

    fn repair(&self, group: u32) -> Option<Move> {
        let voters = self.repaired(group)?;
        (voters != self.voters(group)).then(|| Move {
            group,
            voters,
            ..Move::default()
        })
    }

    /// Voters of `group` on nodes that stay, those that it has first. None if there are too few nodes.
    fn repaired(&self, group: u32) -> Option<Vec<u64>> {
        let staying = self.staying();
        let wanted = match group {
            SYSTEM => system_replicas(staying.len(), self.replicas),
            _ => self.replicas,
        };
        let before = self.voters(group);
        let mut voters: Vec<u64> = before
            .iter()
            .copied()
            .filter(|n| staying.contains(n))
            .collect();
        voters.truncate(wanted);
        while voters.len() < wanted {
            let free = staying.iter().copied().filter(|n| !voters.contains(n));
            voters.push(free.min_by_key(|n| (self.load(*n), *n))?);
        }
        Some(voters)
    }

    fn spread_replicas(&self) -> Option<Move> {
        let staying = self.staying();
        let least = staying
            .iter()
            .copied()
            .min_by_key(|n| (self.load(*n), *n))?;
        let most = staying
            .iter()
            .copied()
            .max_by_key(|n| (self.load(*n), *n))?;
        if self.load(most) < self.load(least) + 2 {
            return None;
        }
        let (group, voters) = (1..)
            .zip(&self.groups[1..])
            .find(|(_, voters)| voters.contains(&most) && !voters.contains(&least))?;
        let swap = |node: &u64| if *node == most { least } else { *node };
        Some(Move {
            group,
            voters: voters.iter().map(swap).collect(),
            ..Move::default()
        })
    }

    fn spread_leaders(&self) -> Option<Move> {
        let most = self
            .staying()
            .into_iter()
            .max_by_key(|n| (self.leads(*n), *n))?;
        let (most_leads, led) = (self.leads(most), (1..).zip(&self.groups[1..]));
        for (group, voters) in led.filter(|(_, voters)| voters.first() == Some(&most)) {
            let better = voters.iter().position(|n| self.leads(*n) + 2 <= most_leads);
            if let Some(place) = better {
                let mut voters = voters.clone();
                voters.swap(0, place);
                return Some(Move {
                    group,
                    voters,
                    ..Move::default()
                });
            }
        }
        None
    }

    fn load(&self, node: u64) -> usize {
        let of_node = |voters: &&Vec<u64>| voters.contains(&node);
        self.groups[1..].iter().filter(of_node).count()
    }

    fn leads(&self, node: u64) -> usize {
        let of_node = |voters: &&Vec<u64>| voters.first() == Some(&node);
        self.groups[1..].iter().filter(of_node).count()
    }
}

/// Odd, so that one more member never costs availability.
fn system_replicas(nodes: usize, replicas: usize) -> usize {
    if replicas == 1 && nodes < 3 {
        return 1;
    }
    SYSTEM_REPLICAS_MAX.min(nodes - (nodes + 1) % 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeAddress {
        let address = |port: u64| format!("127.0.0.1:{port}").parse().unwrap();
        NodeAddress {
            id,
            sql: address(id),
            peer: address(100 + id),
        }
    }

    fn topology(nodes: u64, partitions: u32, replicas: u32) -> Topology {
        Topology::new(&NodeConfig {
            nodes: (1..=nodes).map(node).collect(),
            partitions,
            replicas,
            ..NodeConfig::default()
        })
    }

    /// Makes all moves; every state between is one that a cluster can be in.
    fn settled(mut topology: Topology) -> Topology {
        let expected = topology.moves_left();
        for count in 0.. {
            let Some(next) = topology.next_move() else {
                assert_eq!(count, expected);
                return topology.forget_left().unwrap_or(topology);
            };
            assert!(count < 10_000, "no end");
            let kept = topology
                .voters(next.group)
                .iter()
                .filter(|n| next.voters.contains(n));
            assert!(
                kept.count() * 2 > topology.replicas || topology.replicas == 1,
                "{next:?}"
            );
            topology = topology.begin(next).settle();
        }
        topology
    }

    fn assert_balanced(topology: &Topology) {
        for voters in &topology.groups[1..] {
            let distinct: std::collections::BTreeSet<_> = voters.iter().collect();
            assert_eq!(distinct.len(), topology.replicas);
            assert!(
                voters
                    .iter()
                    .all(|n| topology.nodes.iter().any(|node| node.id == *n))
            );
        }
        for count in [Topology::load, Topology::leads] {
            let counts: Vec<usize> = topology
                .nodes
                .iter()
                .map(|n| count(topology, n.id))
                .collect();
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 2, "{counts:?} {topology:?}");
        }
    }

    #[test]
    fn nodes_come_and_go_and_the_load_stays_even() {
        for (nodes, partitions, replicas) in
            [(3, 4, 3), (3, 1, 3), (5, 16, 3), (2, 8, 1), (5, 7, 5)]
        {
            let mut topology = topology(nodes, partitions, replicas);
            assert_eq!(topology.next_move(), None);
            for id in nodes + 1..=nodes + 4 {
                topology = settled(topology.add(node(id)).unwrap());
                assert_balanced(&topology);
            }
            for id in 1..=4 {
                topology = settled(topology.remove(id).unwrap());
                assert!(!topology.nodes.iter().any(|n| n.id == id));
                assert_balanced(&topology);
            }
        }
    }

    #[test]
    fn a_new_cluster_moves_nothing() {
        for replicas in [1, 3, 5] {
            for nodes in u64::from(replicas)..=11 {
                for partitions in 1..=24 {
                    let new = topology(nodes, partitions, replicas);
                    let shape =
                        format!("{nodes} nodes, {partitions} partitions, {replicas} replicas");
                    assert_eq!(new.next_move(), None, "{shape}");
                    assert_eq!(new.version, 0);
                    assert_balanced(&new);
                }
            }
        }
    }

    #[test]
    fn a_move_to_a_node_that_leaves_is_turned_back() {
        let four = topology(3, 4, 3).add(node(4)).unwrap();
        let moving = four.begin(four.next_move().unwrap());
        let group = moving.moving.as_ref().unwrap().group;
        assert!(moving.concerns(group, 4));
        let back = moving.remove(4).unwrap();
        assert_eq!(back.moving.as_ref().unwrap().voters, four.voters(group));
        // It may be a voter already: dropped now, it would take what it has acknowledged with it.
        assert!(back.concerns(group, 4));
        assert!(!back.settle().concerns(group, 4));
        let settled = settled(back.settle());
        assert_eq!(settled.groups, four.groups);
        assert_eq!(settled.nodes.len(), 3);
    }

    #[test]
    fn a_move_that_is_turned_back_goes_to_no_node_that_leaves() {
        let mut six = topology(6, 1, 3);
        six.groups = vec![vec![1, 2, 3]; 2];
        let first = 4;
        let moving = six.remove(3).unwrap().begin(Move {
            group: 1,
            voters: vec![1, 2, first],
            ..Move::default()
        });
        let second = moving.remove(first).unwrap();
        let turned = second.moving.clone().unwrap();
        assert_eq!(turned.voters[..2], [1, 2]);
        assert!(![3, first].contains(&turned.voters[2]), "{turned:?}");
        // Turned back once more, it forgets nobody who may be a voter.
        let third = second.remove(turned.voters[2]).unwrap();
        for node in [3, first, turned.voters[2]] {
            assert!(third.concerns(1, node), "{third:?}");
            assert!(!third.settle().concerns(1, node));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let three = topology(3, 4, 3);
        assert_eq!(three.add(node(2)).unwrap_err().sqlstate(), "42710");
        let mut taken = node(9);
        taken.peer = node(1).peer;
        assert_eq!(three.add(taken).unwrap_err().sqlstate(), "42710");
        for id in [0, NODE_MAX + 1] {
            let mut wrong = node(9);
            wrong.id = id;
            assert_eq!(three.add(wrong).unwrap_err().sqlstate(), "22023");
        }
        assert_eq!(three.remove(9).unwrap_err().sqlstate(), "42704");
        let error = three.remove(1).unwrap_err();
        assert_eq!(error.sqlstate(), "55000");
        assert!(error.message().contains("2 nodes would be left"), "{error}");
    }

    #[test]
    fn the_row_comes_back_as_it_was() {
        let topology = topology(3, 4, 3).add(node(4)).unwrap();
        let moving = topology.begin(topology.next_move().unwrap());
        assert_eq!(
            Topology::from_bytes(&moving.to_bytes().unwrap()).unwrap(),
            moving
        );
        let target = moving.moving.clone().unwrap();
        assert!(
            target
                .voters
                .iter()
                .all(|n| moving.concerns(target.group, *n))
        );
        assert!(
            moving
                .voters(target.group)
                .iter()
                .all(|n| moving.concerns(target.group, *n))
        );
    }
}
