//! Disasters: crashes, cuts, pauses, slow and failing disks, clocks that jump, leaders that are told to go.

use std::collections::BTreeSet;

use super::world::{Event, World};
use crate::error::Error;
use crate::partition::{Durability, Input};

impl World {
    pub fn disaster(&mut self) -> Result<(), Error> {
        if self.calm {
            return Ok(());
        }
        // A run that goes on because too little has happened needs rest more than faults.
        let late = self.now >= self.plan.length_us;
        let pause = self.plan.disaster_us * if late { 5 } else { 1 };
        self.after(pause / 5, pause * 9 / 5, Event::Fault);
        let node = self.any_node();
        self.totals.add("disasters", 1);
        match self.rng.range(0, 20) {
            0..3 => self.crash(node, false),
            3..5 => self.crash(node, true),
            5..8 => {
                self.fault("crash at a write", node, "is to crash at some output");
                let outputs = self.rng.range(0, 30);
                self.node(node).armed = Some(outputs);
                Ok(())
            }
            8..11 => {
                self.cut_off(node);
                Ok(())
            }
            11..13 => {
                self.fault("pause", node, "pauses");
                let pause = self.rng.range(50_000, 1_500_000);
                self.node(node).paused_until = self.now + pause;
                Ok(())
            }
            13..14 => {
                self.note(node, 0, || "its next write will fail".into());
                self.node(node).disk_fails = true;
                Ok(())
            }
            14..15 => {
                self.fault("slow disk", node, "its disk is slow");
                let until = self.now + self.rng.range(300_000, 3_000_000);
                self.node(node).slow_until = until;
                Ok(())
            }
            15..17 => {
                self.fault("wall clock jumps", node, "its wall clock jumps");
                let far = if self.rng.permille(100) {
                    2_000_000
                } else {
                    300_000
                };
                let jump = self.rng.range(0, 2 * far) as i64 - far as i64;
                self.node(node).skew_us += jump;
                Ok(())
            }
            17..18 => {
                self.slow_link(node);
                Ok(())
            }
            _ => {
                let group = self.rng.range(1, u64::from(self.plan.all_groups()) + 1) as u32;
                let leader = self.node_ids().find(|n| self.leads(*n, group));
                let from = leader.unwrap_or(node);
                self.totals
                    .add("fault: leader transfer", u64::from(from != node));
                self.input(from, group, Input::TransferLeader(node))
            }
        }
    }

    fn any_node(&mut self) -> u64 {
        let nodes = &self.clients.nodes;
        nodes[self.rng.range(0, nodes.len() as u64) as usize]
    }

    fn fault(&mut self, name: &'static str, node: u64, line: &str) {
        let total = match name {
            "crash at a write" => "fault: crash at a write ordered",
            "pause" => "fault: pause",
            "slow disk" => "fault: slow disk",
            _ => "fault: wall clock jumps",
        };
        self.totals.add(total, 1);
        self.note(node, 0, || line.to_owned());
    }

    pub fn leads(&self, node: u64, group: u32) -> bool {
        let member = self.nodes[node as usize - 1].machine.member(group);
        member
            .replica()
            .is_some_and(|replica| replica.status().open)
    }

    /// Alone, or unable to hear, or unable to speak, or without one other.
    fn cut_off(&mut self, node: u64) {
        // Leaders have the most to lose.
        let group = self.rng.range(1, u64::from(self.plan.all_groups()) + 1) as u32;
        let leader = self.node_ids().find(|node| self.leads(*node, group));
        let node = leader.filter(|_| self.rng.permille(600)).unwrap_or(node);
        let others: Vec<u64> = self.node_ids().filter(|other| *other != node).collect();
        let (speak, hear, total) = match self.rng.range(0, 4) {
            0 => (true, false, "fault: one-way cut"),
            1 => (false, true, "fault: one-way cut"),
            _ => (true, true, "fault: partition"),
        };
        let one = self.rng.range(0, 4) == 0;
        let mut cut = BTreeSet::new();
        for other in others.iter().take(if one { 1 } else { others.len() }) {
            if speak {
                cut.insert((node, *other));
            }
            if hear {
                cut.insert((*other, node));
            }
        }
        if cut.is_empty() {
            return;
        }
        self.totals.add(total, 1);
        self.note(node, 0, || format!("cut: {cut:?}"));
        self.links.cut(&cut);
        self.after(200_000, 4_000_000, Event::Join(cut));
    }

    fn slow_link(&mut self, node: u64) {
        let other = self.any_node();
        if other == node {
            return;
        }
        self.totals.add("fault: slow link", 1);
        let (extra, until) = (
            self.rng.range(5_000, 300_000),
            self.rng.range(500_000, 4_000_000),
        );
        self.note(node, 0, || {
            format!("slow link to n{other}: {extra} us more")
        });
        self.links.slow((node, other), extra, self.now + until);
    }

    /// Counts an output of a node that is to crash in the midst of them.
    pub fn armed_crash(&mut self, node: u64) -> Result<bool, Error> {
        match self.node(node).armed {
            Some(0) => {
                self.totals.add("fault: crash at a write", 1);
                self.crash(node, false)?;
                Ok(true)
            }
            Some(left) => {
                self.node(node).armed = Some(left - 1);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// The process, or with `machine` the whole machine.
    pub fn crash(&mut self, node: u64, machine: bool) -> Result<(), Error> {
        if !self.node(node).machine.is_up() {
            return Ok(());
        }
        // Memory mode promises to survive one machine at a time, once the others have caught up.
        let others = |world: &Self| {
            let mut all = world.nodes.iter();
            all.all(|node| node.machine.may_vote())
        };
        let allowed = self.plan.durability == Durability::Fsync || others(self);
        let machine = machine && allowed && self.plan.nodes > 1;
        let name = if machine {
            "fault: machine crash"
        } else {
            "fault: crash"
        };
        self.totals.add(name, 1);
        let seed = self.rng.next();
        let loss = self.node(node).machine.crash(machine, seed)?;
        self.totals
            .add("fault: unsynced writes lost", loss.records as u64);
        self.totals.add("fault: torn write", u64::from(loss.torn));
        let what = if machine {
            "the machine crashes"
        } else {
            "crashes"
        };
        self.note(node, 0, || format!("{what}, loses {loss:?}"));
        self.went_down(node);
        self.after(10_000, 2_000_000, Event::Restart(node));
        Ok(())
    }

    /// What else ends with the process of a node.
    pub fn went_down(&mut self, node: u64) {
        self.forget(node);
        self.watch.crashed(node);
        self.forget_chores(node);
        self.hang_up(node);
        self.abandon(node);
    }

    pub fn restart(&mut self, node: u64) -> Result<(), Error> {
        if !self.node(node).machine.is_up() && !self.moves.is_gone(node) {
            self.note(node, 0, || "starts".into());
            self.totals.add("restarts", 1);
            self.node(node).machine.start()?;
            let now = self.now;
            let place = self.node(node);
            place.write_free = now;
            place.apply_free.fill(now);
        }
        Ok(())
    }

    /// The end of all faults: the clients finish what they began.
    pub fn heal(&mut self) -> Result<(), Error> {
        self.note(0, 0, || "all faults end".into());
        (self.calm, self.calm_since) = (true, self.now);
        self.clients.stopping = true;
        self.links.heal();
        for node in self.node_ids() {
            let place = self.node(node);
            place.paused_until = 0;
            place.slow_until = 0;
            place.skew_us = 0;
            place.armed = None;
            place.disk_fails = false;
            self.restart(node)?;
        }
        Ok(())
    }
}
