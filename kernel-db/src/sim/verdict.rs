//! The end of a run: everything at rest, and the history checked.

use std::collections::BTreeMap;

use super::check::{self, End, Known};
use super::load::{Job, all_rows, all_versions, group_of, rows_at};
use super::world::{Node, Summary, World};
use crate::partition::records::{self, Record};
use crate::storage::{SessionRecord, StateStore};

impl World {
    /// Each group has one leader, and every member has applied all of its log.
    pub fn is_at_rest(&self) -> bool {
        let nothing_open = self.links.no_questions() && self.chores.is_empty();
        nothing_open
            && !self.moves.busy()
            && (1..=self.plan.all_groups()).all(|group| self.group_rests(group))
    }

    /// The members of a group when nothing moves.
    fn members_of(&self, group: u32) -> impl Iterator<Item = &Node> {
        let voters = self.moves.topology.voters(group);
        voters.iter().map(|node| &self.nodes[*node as usize - 1])
    }

    fn group_rests(&self, group: u32) -> bool {
        let replica = |node: &Node| Some(node.machine.member(group).replica()?.status());
        let all: Option<Vec<_>> = self.members_of(group).map(replica).collect();
        let Some(all) = all else {
            return false;
        };
        let end = all[0].last_index;
        // I12: everything prepared is settled without anybody's help.
        let prepared = |node: &Node| {
            let of = records::load(node.machine.member(group).state()).unwrap_or_default();
            of.iter()
                .any(|(_, _, record)| matches!(record, Record::Prepared(_)))
        };
        if self.members_of(group).any(prepared) {
            return false;
        }
        all.iter().filter(|status| status.open).count() == 1
            && all.iter().all(|s| s.last_index == end && s.applied == end)
    }

    pub fn verdict(&mut self) -> Result<Summary, String> {
        let mut end = End::default();
        for group in 1..=self.plan.all_groups() {
            self.replicas_agree(group)?;
            self.members_are_named(group)?;
            let Some(first) = self.members_of(group).next() else {
                return Err(format!("group {group} has no members"));
            };
            let store = first.machine.member(group).store();
            let (rows, done) = all_rows(store).map_err(|error| error.to_string())?;
            end.rows.extend(rows);
            let versions = all_versions(store).map_err(|error| error.to_string())?;
            end.versions.extend(versions);
            for (op, times) in done {
                *end.done.entry(op).or_default() += times;
            }
        }
        let operations = &self.clients.operations;
        check::history(operations, &end)?;
        let mut snapshots = 0;
        // On each of a group's replicas in turn.
        for turn in 0..self.plan.nodes as usize {
            snapshots = check::snapshots(operations, |ts, rows| {
                let mut picture = BTreeMap::new();
                for group in 1..=self.plan.groups {
                    let of_group = |row: &&(u32, u64)| group_of(row.1, self.plan.groups) == group;
                    let rows: Vec<_> = rows.iter().filter(of_group).copied().collect();
                    let node = self.members_of(group).nth(turn);
                    let node = node.ok_or("a group with fewer replicas than it is to have")?;
                    let store = node.machine.member(group).store();
                    picture.extend(rows_at(store, &rows, ts).map_err(|e| e.to_string())?);
                }
                Ok(picture)
            })?;
        }
        self.totals.add("snapshot reads", snapshots);
        self.totals.add("operations", operations.len() as u64);
        self.totals.add("retries", self.clients.retries);
        self.totals.add("rows kept", self.clients.kept);
        self.totals.add("reads of kept rows", self.clients.hits);
        self.totals.add("conflicts", self.clients.conflicts);
        for operation in operations {
            let name = match operation.known {
                Known::Done(_) | Known::Saw(..) => "acknowledged",
                Known::Failed(_) => "refused",
                Known::Unknown => "outcome unknown",
            };
            self.totals.add(name, 1);
            if let (Job::Rollback { .. }, Known::Done(_)) = (&operation.job, &operation.known) {
                self.totals.add("rollbacks", 1);
            }
            if let (Job::Receive { .. }, Known::Done(told)) = (&operation.job, &operation.known) {
                let name = match told.first() {
                    None => "receivers told that nothing came",
                    // A message is numbered as the operation that sends it.
                    Some(sent) if operations[*sent as usize - 1].begun_us > operation.begun_us => {
                        "messages waited for"
                    }
                    Some(_) => "messages there already",
                };
                self.totals.add(name, 1);
            }
        }
        Ok(Summary {
            transcript: self.hash.digest(),
            length_us: self.now,
            totals: std::mem::take(&mut self.totals),
        })
    }

    /// The members are those of the topology, and nobody else copies.
    fn members_are_named(&self, group: u32) -> Result<(), String> {
        let mut named = self.moves.topology.voters(group).to_vec();
        named.sort_unstable();
        for node in self.members_of(group) {
            let Some(replica) = node.machine.member(group).replica() else {
                continue;
            };
            let status = replica.status();
            if status.voters != named || !status.learners.is_empty() || status.joint {
                return Err(format!(
                    "group {group}: the members are {:?} and {:?}, the topology names {named:?}",
                    status.voters, status.learners
                ));
            }
        }
        Ok(())
    }

    /// I7, I8: replicas that applied the same log hold the same.
    fn replicas_agree(&self, group: u32) -> Result<(), String> {
        let mut members = self.members_of(group);
        let Some(first) = members.next() else {
            return Ok(());
        };
        let first = first.machine.member(group).state();
        for node in members {
            let other = node.machine.member(group).state();
            if let Some(difference) = first.difference(other) {
                return Err(format!("group {group}: the replicas differ: {difference}"));
            }
            if sorted_sessions(first)? != sorted_sessions(other)? {
                return Err(format!(
                    "group {group}: the replicas remember other sessions"
                ));
            }
        }
        Ok(())
    }
}

fn sorted_sessions(store: &impl StateStore) -> Result<Vec<SessionRecord>, String> {
    let mut records = store.sessions().map_err(|error| error.to_string())?;
    records.sort_by_key(|record| (record.session, record.number));
    Ok(records)
}
