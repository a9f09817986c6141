//! Nodes that come and go: one is added, removed, or loses its disk and is replaced by a new one, while everything else goes on.
//!
//! What is decided is the cluster's own (`Topology`, `Stepper`); the topology's row is a variable here, as if it were always
//! read fresh. A step is taken a second time now and then, when its version of the topology may be over: the fence is to
//! refuse that. A replica is dropped as soon as the topology does not name it, a machine that was removed is never seen again.

use std::collections::BTreeSet;

use super::clients::{Ask, Heard, What};
use super::network::Owner;
use super::plan::Plan;
use super::rng::Rng;
use super::world::{Event, Node, World};
use crate::error::Error;
use crate::node::{NodeAddress, NodeConfig, Step, Stepper, Topology};
use crate::partition::{Durability, Input, MemberChange, Role};

/// Looks that begin something new, in thousands.
const BEGIN_PERMILLE: u64 = 25;
/// Steps that are taken once more, in thousands, and after how long at most.
const LATE_PERMILLE: u64 = 500;
const LATE_US_MAX: u64 = 20_000_000;

pub struct Moves {
    pub topology: Topology,
    /// Its own, so that a run without moves is what it was.
    rng: Rng,
    /// Machines that were removed, or whose disks are lost.
    gone: BTreeSet<u64>,
    /// The present question, and whom it asks.
    asked: Option<(u64, u64)>,
    /// The node to ask for the group's leader.
    guess: u64,
    steps: Stepper,
}

impl Moves {
    pub fn new(plan: &Plan, seed: u64) -> Result<Self, Error> {
        let config = NodeConfig {
            nodes: (1..=plan.nodes).map(address).collect::<Result<_, _>>()?,
            partitions: plan.all_groups(),
            replicas: plan.nodes as u32,
            ..NodeConfig::default()
        };
        Ok(Self {
            topology: Topology::new(&config),
            rng: Rng::new(seed ^ 0x6d6f_7665),
            gone: BTreeSet::new(),
            asked: None,
            guess: 1,
            steps: Stepper::default(),
        })
    }

    /// The machine is never seen again.
    pub fn is_gone(&self, node: u64) -> bool {
        self.gone.contains(&node)
    }

    /// Groups are on their way, or nodes.
    pub fn busy(&self) -> bool {
        let topology = &self.topology;
        topology.moving.is_some() || topology.next_move().is_some() || !topology.leaving.is_empty()
    }

    /// A lost disk is not replaced everywhere yet.
    fn is_wounded(&self) -> bool {
        let nodes = &self.topology.nodes;
        nodes.iter().any(|node| self.gone.contains(&node.id))
    }
}

fn address(id: u64) -> Result<NodeAddress, Error> {
    let at = |port: u64| {
        let text = format!("127.0.0.1:{port}");
        text.parse().map_err(|_| Error::internal("no such address"))
    };
    Ok(NodeAddress {
        id,
        sql: at(10_000 + id)?,
        peer: at(20_000 + id)?,
    })
}

impl World {
    /// One look: something new begins, or what is under way goes on.
    pub fn direct(&mut self) -> Result<(), Error> {
        let pause = self.moves.rng.range(50_000, 250_000);
        self.at(self.now + pause, Event::Direct);
        self.drop_replicas()?;
        if !self.calm && self.moves.rng.permille(BEGIN_PERMILLE) {
            self.begin_change()?;
        }
        if self.moves.topology.moving.is_none() {
            match self.moves.topology.next_move() {
                Some(next) => self.moves.topology = self.moves.topology.begin(next),
                None => self.retire()?,
            }
        }
        let Some(moving) = self.moves.topology.moving.clone() else {
            return Ok(());
        };
        if moving.group == 0 {
            // The system group is not simulated.
            self.moves.topology = self.moves.topology.settle();
        } else if self.moves.asked.is_none() {
            let node = self.moves.guess;
            let fence = self.moves.steps.fence(self.moves.topology.version);
            let ask = Ask {
                node,
                group: moving.group,
                what: What::Fence(fence),
                seen: 0,
            };
            let question = self.question(Owner::Mover, ask, false);
            self.moves.asked = Some((question, node));
        }
        Ok(())
    }

    /// Who was asked leads, or not. As at the gateway beside the leader: its next step.
    pub fn mover_hears(&mut self, question: u64, heard: Heard) -> Result<(), Error> {
        let Some((_, node)) = self.moves.asked.take_if(|(asked, _)| *asked == question) else {
            return Ok(());
        };
        let mut steps = std::mem::take(&mut self.moves.steps);
        let Some(moving) = self.moves.topology.moving.clone() else {
            return Ok(());
        };
        let group = moving.group;
        let replica = self.nodes[node as usize - 1]
            .machine
            .member(group)
            .replica();
        let status = replica.map(|replica| replica.status());
        let paused = self.node(node).paused_until > self.now;
        let told = matches!(heard, Heard::Reply(Ok(_), _)) && !paused;
        let status = status.filter(|status| status.open && told);
        let Some(status) = status else {
            self.moves.guess = self.clients.next_node(node);
            return Ok(());
        };
        let Some(step) = steps.next(&status, &moving.voters) else {
            self.moves.steps = steps;
            return Ok(());
        };
        match step {
            Step::Done => {
                self.note(node, group, || format!("has moved to {:?}", moving.voters));
                self.totals.add("fault: membership change", 1);
                self.moves.topology = self.moves.topology.settle();
                Ok(())
            }
            Step::Wait(_) => Ok(()),
            Step::Transfer(to) => self.input(node, group, Input::TransferLeader(to)),
            Step::Change(change) => self.change_members(node, group, change),
        }
    }

    fn change_members(&mut self, node: u64, group: u32, change: MemberChange) -> Result<(), Error> {
        let version = self.moves.topology.version;
        if !self.calm && self.moves.rng.permille(LATE_PERMILLE) {
            let after = self.moves.rng.range(0, LATE_US_MAX);
            let late = Event::LateStep(group, version, change.clone());
            self.at(self.now + after, late);
        }
        let id = 0;
        self.input(
            node,
            group,
            Input::ChangeMembers {
                id,
                version,
                change,
            },
        )
    }

    /// Somebody who does not lead the system group any more was held up between the fence and this, or has asked for the
    /// group's leader for so long.
    pub fn late_step(
        &mut self,
        group: u32,
        version: u64,
        change: MemberChange,
    ) -> Result<(), Error> {
        let paused = |node: u64| self.nodes[node as usize - 1].paused_until > self.now;
        let leads = |node: &u64| self.leads(*node, group) && !paused(*node);
        let Some(node) = self.node_ids().find(leads) else {
            return Ok(());
        };
        let input = Input::ChangeMembers {
            id: 1,
            version,
            change,
        };
        self.input(node, group, input)
    }

    /// What an administrator does now and then.
    fn begin_change(&mut self) -> Result<(), Error> {
        let staying = self.moves.topology.staying();
        let spare = staying.len() > self.plan.nodes as usize;
        let place = self.moves.rng.range(0, staying.len() as u64) as usize;
        let node = staying[place];
        let may_lose = self.plan.durability == Durability::Fsync
            && self.plan.nodes > 1
            && !self.moves.is_wounded();
        if may_lose && self.moves.rng.permille(300) {
            return self.lose_disk(node);
        }
        match spare {
            true => {
                self.note(node, 0, || "is to be removed".into());
                self.moves.topology = self.moves.topology.remove(node)?;
                Ok(())
            }
            false => self.add_node(),
        }
    }

    fn add_node(&mut self) -> Result<(), Error> {
        let id = self.nodes.len() as u64 + 1;
        let node = Node::new(&self.plan, id, self.seed, &mut self.moves.rng)?;
        self.nodes.push(node);
        self.clients.nodes.push(id);
        self.moves.topology = self.moves.topology.add(address(id)?)?;
        self.note(id, 0, || "is added".into());
        self.totals.add("nodes added", 1);
        self.set_going(id);
        Ok(())
    }

    /// It will never come back; a new one takes its place.
    fn lose_disk(&mut self, node: u64) -> Result<(), Error> {
        self.totals.add("fault: disk lost", 1);
        self.crash(node, true)?;
        self.note(node, 0, || "its disk is lost".into());
        self.leaves_for_ever(node);
        if self.moves.topology.staying().len() == self.plan.nodes as usize {
            self.add_node()?;
        }
        self.moves.topology = self.moves.topology.remove(node)?;
        Ok(())
    }

    /// False if it was already.
    fn leaves_for_ever(&mut self, node: u64) -> bool {
        self.clients.nodes.retain(|other| *other != node);
        self.moves.gone.insert(node)
    }

    /// Machines without replicas that were to be removed are switched off.
    fn retire(&mut self) -> Result<(), Error> {
        let Some(without) = self.moves.topology.forget_left() else {
            return Ok(());
        };
        let stays = |id: u64| without.nodes.iter().any(|node| node.id == id);
        let before = self.moves.topology.nodes.iter().map(|node| node.id);
        let left: Vec<u64> = before.filter(|id| !stays(*id)).collect();
        self.moves.topology = without;
        for node in left {
            if self.leaves_for_ever(node) {
                self.note(node, 0, || "is switched off".into());
                self.totals.add("nodes removed", 1);
                if self.node(node).machine.is_up() {
                    self.node(node).machine.crash(false, 0)?;
                    self.went_down(node);
                }
            }
        }
        Ok(())
    }

    fn drop_replicas(&mut self) -> Result<(), Error> {
        for node in self.node_ids() {
            for group in 1..=self.plan.all_groups() {
                let machine = &self.nodes[node as usize - 1].machine;
                let paused = self.nodes[node as usize - 1].paused_until > self.now;
                let Some(replica) = machine.member(group).replica().filter(|_| !paused) else {
                    continue;
                };
                let status = replica.status();
                let is_member = !status.voters.is_empty() || !status.learners.is_empty();
                let leads = status.role == Role::Leader;
                if is_member && !leads && !self.moves.topology.concerns(group, node) {
                    self.note(node, group, || "the replica is dropped".into());
                    self.totals.add("replicas dropped", 1);
                    self.node(node).machine.leave(group)?;
                }
            }
        }
        Ok(())
    }
}
