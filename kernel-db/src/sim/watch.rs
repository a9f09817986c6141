//! Invariants looked at while a run goes on, from outside: at every output of a replica, against what its disk holds and
//! what all replicas put out before. They find at once what the history shows only when the chances are bad.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};
use xxhash_rust::xxh3::xxh3_64;

use super::load::MAIL;
use super::machine::Machine;
use super::plan::Plan;
use super::world::World;
use crate::partition::apply::{ApplyJob, payload::LogPayload};
use crate::partition::{Durability, Output, RoleChange};
use crate::raft::member_id::node_of;
use crate::storage::{LogStore, StateStore};

/// What has been seen of all groups.
pub struct Watch {
    fsync: bool,
    /// Who led in each term.
    leaders: BTreeMap<(u32, u64), u64>,
    /// The newest term in which an executor was open, and the one open at each node.
    opened: BTreeMap<u32, u64>,
    open: BTreeMap<(u64, u32), u64>,
    /// Term and hash of each committed entry.
    committed: BTreeMap<(u32, u64), (u64, u64)>,
    /// Timestamp of the newest committed batch.
    last_ts: BTreeMap<u32, u64>,
    /// The latest time at which a reader was promised that no commit comes there any more.
    promised: BTreeMap<u32, u64>,
    asked_at: BTreeMap<u64, u64>,
}

impl Watch {
    pub fn new(plan: &Plan) -> Self {
        Self {
            fsync: plan.durability == Durability::Fsync,
            leaders: BTreeMap::new(),
            opened: BTreeMap::new(),
            open: BTreeMap::new(),
            committed: BTreeMap::new(),
            last_ts: BTreeMap::new(),
            promised: BTreeMap::new(),
            asked_at: BTreeMap::new(),
        }
    }

    pub fn crashed(&mut self, node: u64) {
        self.open.retain(|(of, _), _| *of != node);
    }

    /// A reader asks for a promise at `ts`.
    pub fn asks(&mut self, question: u64, ts: u64) {
        self.asked_at.insert(question, ts);
    }

    /// An output about to be carried out; `read` is the request that it answers if that only reads and came just now.
    pub fn output(
        &mut self,
        node: u64,
        group: u32,
        machine: &Machine,
        output: &Output,
        read: Option<u64>,
    ) -> Result<(), String> {
        match output {
            Output::Send(messages) => messages
                .iter()
                .try_for_each(|message| self.promise(group, machine, message)),
            Output::Role(role) => self.role(node, group, machine, role),
            Output::Apply(job) => self.apply(group, machine, job),
            Output::Reply {
                id, result: Ok(_), ..
            } if read == Some(*id) => self.leased(node, group),
            Output::SnapshotTs { id, result: Ok(_) } if read == Some(*id) => {
                self.leased(node, group)
            }
            Output::SnapshotReady { id, result } => {
                let ts = self.asked_at.remove(id).unwrap_or(0);
                if result.is_ok() {
                    let promised = self.promised.entry(group).or_default();
                    *promised = ts.max(*promised);
                }
                Ok(())
            }
            // I10: the state up to there is on this disk.
            Output::Truncate { index } => {
                let durable = machine.member(group).state().durable_index();
                if *index > durable {
                    return Err(format!(
                        "I10: the log is cut at {index}, the state is durable up to {durable}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a message promises is on disk: a vote in both modes, entries as the durability says (I9).
    fn promise(&self, group: u32, machine: &Machine, message: &Message) -> Result<(), String> {
        match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse if !message.reject => {
                let held = machine.log.synced_hard_state(group);
                let kept = held.term == message.term && held.vote == message.to;
                // A later term's vote, or what the node has learned since, says as much.
                if kept || held.term > message.term {
                    return Ok(());
                }
                Err(format!(
                    "a vote for n{} in term {} leaves, on disk is n{} in term {}",
                    node_of(message.to),
                    message.term,
                    node_of(held.vote),
                    held.term
                ))
            }
            MessageType::MsgAppendResponse if !message.reject => {
                let index = message.index;
                let (first, _, _) = machine.log.load(group).map_err(|e| e.to_string())?;
                let held = machine.log.term_of(group, index, self.fsync).is_some();
                // A checkpoint that is installed holds it too.
                let durable = machine.member(group).state().durable_index();
                if held || index < first || index <= durable {
                    return Ok(());
                }
                Err(format!("I9: entry {index} is acknowledged and not on disk"))
            }
            _ => Ok(()),
        }
    }

    fn role(
        &mut self,
        node: u64,
        group: u32,
        machine: &Machine,
        role: &RoleChange,
    ) -> Result<(), String> {
        self.open.remove(&(node, group));
        if role.is_leader {
            let first = *self.leaders.entry((group, role.term)).or_insert(node);
            if first != node {
                return Err(format!("n{first} leads term {} too", role.term));
            }
        }
        if role.open {
            // I2: the state has applied the empty entry of this term, and so all before it.
            let meta = machine.member(group).state().meta();
            if meta.applied_term != role.term {
                return Err(format!(
                    "I2: opened in term {} on a state of term {}",
                    role.term, meta.applied_term
                ));
            }
            let opened = self.opened.entry(group).or_default();
            *opened = role.term.max(*opened);
            self.open.insert((node, group), role.term);
        }
        Ok(())
    }

    /// A read answered at once rests on the lease: nobody else may have begun.
    fn leased(&self, node: u64, group: u32) -> Result<(), String> {
        let newest = self.opened.get(&group).copied().unwrap_or(0);
        match self.open.get(&(node, group)) {
            Some(term) if *term < newest => Err(format!(
                "lease: the leader of term {term} answers a read while term {newest} has begun"
            )),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, group: u32, machine: &Machine, job: &ApplyJob) -> Result<(), String> {
        for entry in &job.entries {
            let (index, this) = (entry.index, (entry.term, xxh3_64(&entry.data)));
            // I9: committed and persisted here.
            let held = machine.log.term_of(group, index, self.fsync);
            if held != Some(entry.term) {
                return Err(format!("I9: entry {index} is applied, on disk is {held:?}"));
            }
            if let Some(before) = self.committed.get(&(group, index)) {
                if *before != this {
                    return Err(format!(
                        "entry {index} was committed as {before:?} and is now {this:?}"
                    ));
                }
                continue;
            }
            self.committed.insert((group, index), this);
            // A leader's first entry, and changes of members, hold no batch.
            if entry.data.is_empty() || entry.get_entry_type() != EntryType::EntryNormal {
                continue;
            }
            let payload = LogPayload::decode(entry.data.clone()).map_err(|e| e.to_string())?;
            let promised = self.promised.get(&group).copied().unwrap_or(0);
            let settled = payload.sections.iter().map(|section| section.ts);
            if let Some(ts) = settled.chain([payload.ts]).find(|ts| *ts <= promised) {
                return Err(format!(
                    "I13: entry {index} commits at {ts}, a reader was promised {promised}"
                ));
            }
            if payload.ts > payload.ceiling {
                return Err(format!("I13: entry {index} is above its own ceiling"));
            }
            let last = self.last_ts.insert(group, payload.ts).unwrap_or(0);
            if payload.ts <= last {
                return Err(format!(
                    "entry {index} commits at {}, after {last}",
                    payload.ts
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// No wake-up is lost: nobody waits for a message at a box that holds one.
    pub fn wake_up_lost(&mut self, node: u64, group: u32) -> Option<String> {
        if !self.plan.watch || !self.plan.waits {
            return None;
        }
        for (id, rows) in self.node(node).machine.member_mut(group).parked() {
            self.totals.add("looks at who waits", 1);
            let holds = |(key, value): &(Bytes, Option<Bytes>)| {
                key.starts_with(&MAIL.to_be_bytes())
                    && value.as_ref().is_some_and(|value| !value.is_empty())
            };
            if rows.iter().any(holds) {
                return Some(format!("request {id} waits for a message that is there"));
            }
        }
        None
    }
}
