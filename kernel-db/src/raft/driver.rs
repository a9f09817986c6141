//! The one file that calls raft-rs's `RawNode`: inputs in, effects out, in the order that raft-rs asks for.
//!
//! The order within one ready: role, leader's messages, committed entries, then one write of entries and hard state; after
//! that write is done, the messages that promise it (votes, acknowledgements). Nothing is stepped or proposed between
//! `ready` and `advance_append_async`. Election timeouts, which raft-rs draws from a thread-local generator, are replaced
//! by a function of seed, node, group and the count of role changes, so that a run can be replayed.
//!
//! Raft's members are numbered as [`member_id`](super::member_id) says. What is not addressed to the member that this
//! replica is goes no further, so nothing that was sent to a dropped replica, or by one, counts for its successor.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::io::{DriverConfig, Effect, Proposed};
use super::log_view::{LogView, StateEnd};
use super::member_id::node_of;
use crate::error::{Error, Result};
use crate::planted::Mutation;
use crate::storage::{Checkpoint, LogStore, LogWrite};

/// Bytes of entries in one message to a follower.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages with entries on the way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 32;
/// Bytes of proposed entries that are not committed; raft-rs refuses more.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of committed entries handed out at once.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;

/// A ready whose write, or whose predecessors' writes, are not done.
struct Pending {
    number: u64,
    /// First index of the entries being written; None if the ready wrote none.
    first: Option<u64>,
    writes: bool,
    messages: Vec<Message>,
}

pub struct Driver {
    node: RawNode<LogView>,
    config: DriverConfig,
    pending: VecDeque<Pending>,
    last_vote: (u64, u64),
    /// The commit index in the log.
    last_commit: u64,
    /// Which member this replica is, as the log knows it.
    last_member: u64,
    /// (term, role, leader) for which the election timeout was drawn, how often it was, and its value.
    drawn: (u64, StateRole, u64),
    draws: u64,
    timeout: usize,
    /// Votes nothing until an entry of this term or a later one is committed here.
    no_vote_before: Option<u64>,
    /// Index of the checkpoint that is being installed, and the log's write that follows.
    installing: Option<(u64, Effect)>,
    /// Index of the installed checkpoint whose write to the log is under way, and that write's token.
    installed: Option<(u64, u64)>,
    /// What is said beside raft-rs: answers of a member without members, a last word of a leader that has left.
    said: Vec<Message>,
}

impl Driver {
    pub fn new(config: DriverConfig, log: Arc<dyn LogStore>, end: &StateEnd) -> Result<Self> {
        let applied = end.applied;
        let mut view = LogView::open(
            config.node,
            config.group,
            &config.voters,
            log,
            end,
            config.tail_lost,
        )?;
        let mut no_vote_before = None;
        if config.tail_lost {
            // A later term than any in which this node may have acknowledged what it lost: a leader of the old term
            // would still count those acknowledgements.
            let term = view.hard_state().term + 1;
            view.enter_term(term)?;
            no_vote_before = Some(term);
        }
        let hard_state = view.hard_state().clone();
        let member = view.member();
        let raft_config = Config {
            id: member,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, view, &logger).map_err(|error| {
            Error::internal(format!(
                "group {}: raft does not start: {error}",
                config.group
            ))
        })?;
        let mut driver = Self {
            node,
            pending: VecDeque::new(),
            last_vote: (hard_state.term, hard_state.vote),
            last_commit: 0,
            last_member: member,
            drawn: (u64::MAX, StateRole::Follower, 0),
            draws: 0,
            timeout: config.election_ticks,
            config,
            no_vote_before,
            installing: None,
            installed: None,
            said: Vec::new(),
        };
        driver.draw_timeout();
        Ok(driver)
    }

    pub fn tick(&mut self) {
        // A follower that must not vote must not ask for votes either.
        if self.may_vote() || self.is_leader() {
            self.node.tick();
            self.draw_timeout();
        }
    }

    /// A message from another member. `silent`: this voter just booted, and takes no part in elections.
    pub fn receive(&mut self, mut message: Message, silent: bool) {
        if !self.is_for(&message) {
            return;
        }
        // From here on it is this member, and holds nothing that it has acknowledged as such.
        self.node.raft.id = message.to;
        match message.get_msg_type() {
            MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgTimeoutNow
                if silent || !self.may_vote() || self.is_blank() =>
            {
                return;
            }
            MessageType::MsgTimeoutNow if self.has_left() => return,
            // It holds nothing that could be committed.
            MessageType::MsgHeartbeat if self.is_blank() => message.commit = 0,
            // I1: proposals come from this node's executor only; transfers from its shell only.
            MessageType::MsgPropose
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex => return,
            // Of an earlier term than this node's, it is raft-rs's to answer.
            MessageType::MsgAppend if self.is_blank() && message.term >= self.node.raft.term => {
                self.ask_for_checkpoint(&message);
                return;
            }
            MessageType::MsgAppendResponse if !message.reject => {
                // It has what it asked for: raft-rs would offer a checkpoint again and again.
                if let Some(progress) = self.node.raft.mut_prs().get_mut(message.from) {
                    progress.pending_request_snapshot = 0;
                }
            }
            _ => {}
        }
        // An error means a message that raft-rs does not want; the sender repeats what matters.
        let _ = self.node.step(message);
        self.draw_timeout();
    }

    /// False for what was sent to another member, as a replica was that is gone. A leader that speaks to a newer member at this
    /// node knows of a change of members which this replica has not seen: it is that member from then on.
    pub fn is_for(&self, message: &Message) -> bool {
        let own = self.node.raft.id;
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        let newer = node_of(message.to) == self.config.node && message.to > own;
        // A leader is not renamed; one that is deposed by the message may be.
        let renames = !self.is_leader() || message.term > self.node.raft.term;
        message.to == own || leads && newer && renames
    }

    pub fn campaign(&mut self) {
        if self.may_vote() && self.node.raft.promotable() && !self.has_left() {
            let _ = self.node.campaign();
            self.draw_timeout();
        }
    }

    /// Hands leadership to the member at node `to`; nothing happens if there is none.
    pub fn transfer(&mut self, to: u64) {
        if let Some(member) = self.member_at(to) {
            self.node.transfer_leader(member);
            self.draw_timeout();
        }
    }

    /// Appends one entry, as the leader of `term` only.
    pub fn propose(&mut self, term: u64, data: Vec<u8>) -> Proposed {
        if !self.is_leader() || self.node.raft.term != term {
            return Proposed::Deposed;
        }
        let before = self.node.raft.raft_log.last_index();
        let result = self.node.propose(Vec::new(), data);
        self.draw_timeout();
        let after = self.node.raft.raft_log.last_index();
        // I1: `Ok` promises nothing; the entry is ours only if the log grew by exactly it, in this term.
        if self.is_leader() && self.node.raft.term == term {
            match (result, after - before) {
                (Ok(()), 1) => return Proposed::At(after),
                (Err(_), 0) => return Proposed::Refused,
                _ => {}
            }
        }
        Proposed::Deposed
    }

    /// Proposes a change of members, as the leader of `term` only; raft-rs allows one at a time.
    pub fn propose_members(&mut self, term: u64, change: ConfChangeV2) -> Proposed {
        if !self.is_leader() || self.node.raft.term != term {
            return Proposed::Deposed;
        }
        let before = self.node.raft.raft_log.last_index();
        let result = self.node.propose_conf_change(Vec::new(), change);
        self.draw_timeout();
        let after = self.node.raft.raft_log.last_index();
        // I1: raft-rs turns a change that may not be made now into an empty entry.
        let is_change = self.node.raft.raft_log.slice(
            after,
            after + 1,
            None,
            raft::GetEntriesContext::empty(false),
        );
        let is_change = is_change.is_ok_and(|entries| {
            entries
                .last()
                .is_some_and(|entry| entry.get_entry_type() != EntryType::EntryNormal)
        });
        match (result, after - before) {
            (Ok(()), 1) if is_change => Proposed::At(after),
            (Ok(()), 1) | (Err(_), 0) => Proposed::Refused,
            _ => Proposed::Deposed,
        }
    }

    /// The log from its beginning would not do, since the first members are not in it.
    fn ask_for_checkpoint(&mut self, append: &Message) {
        let mut answer = Message::default();
        answer.set_msg_type(MessageType::MsgAppendResponse);
        (answer.from, answer.to, answer.term) = (append.to, append.from, append.term);
        answer.reject = true;
        answer.index = append.index;
        answer.request_snapshot = 1;
        self.said.push(answer);
    }

    /// `checkpoint` can be had by members that need older entries than the log holds.
    pub fn offer(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.node.mut_store().offer(checkpoint)
    }

    /// The offered checkpoint is gone.
    pub fn withdraw(&mut self) {
        self.node.mut_store().withdraw();
    }

    /// What became of the checkpoint on its way to `node`: arrived and installed, or not.
    pub fn report_snapshot(&mut self, node: u64, arrived: bool) {
        let status = match arrived {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        if let Some(member) = self.member_at(node) {
            self.node.report_snapshot(member, status);
        }
    }

    /// Starts a read-index round; raft-rs may drop it silently.
    pub fn read_index(&mut self, round: u64) {
        self.node.read_index(round.to_be_bytes().to_vec());
    }

    /// The write with this token is done, and so are all before it. Returns the messages that waited for it.
    pub fn persisted(&mut self, token: u64, effects: &mut Vec<Effect>) {
        while self.pending.front().is_some_and(|p| p.number <= token) {
            self.finish_front(effects);
        }
        self.finish_unwritten(effects);
        if let Some((index, _)) = self.installed.take_if(|(_, after)| *after <= token) {
            self.node.advance_apply_to(index);
        }
        let written = self
            .pending
            .iter()
            .find_map(|p| p.first)
            .map_or(u64::MAX, |first| first - 1);
        self.node.mut_store().written_to(written);
    }

    fn finish_front(&mut self, effects: &mut Vec<Effect>) {
        // I9: raft-rs hands out committed entries only as far as it was told, here, that they are written.
        if let Some(done) = self.pending.pop_front() {
            self.node.on_persist_ready(done.number);
            if !done.messages.is_empty() {
                effects.push(Effect::Send(done.messages));
            }
        }
    }

    /// Readies without a write of their own wait only for those before them.
    fn finish_unwritten(&mut self, effects: &mut Vec<Effect>) {
        while self.pending.front().is_some_and(|p| !p.writes) {
            self.finish_front(effects);
        }
    }

    pub fn applied(&mut self, index: u64, effects: &mut Vec<Effect>) {
        match self.installing.take_if(|(at, _)| *at <= index) {
            // The log goes on behind the checkpoint; raft-rs hears of both when that is written.
            Some((at, write)) => {
                if let Effect::Write { token, .. } = &write {
                    self.installed = Some((at, *token));
                }
                effects.push(write);
            }
            None if self.installing.is_none() && self.installed.is_none() => {
                self.node.advance_apply_to(index);
            }
            None => {}
        }
    }

    /// Collects what raft-rs wants done; call after inputs, before the outputs are carried out.
    pub fn drain(&mut self, effects: &mut Vec<Effect>) {
        if self.node.store().take_wanted() {
            effects.push(Effect::WantCheckpoint);
        }
        // What comes behind a checkpoint is written behind it.
        while self.installing.is_none() && self.node.has_ready() {
            let mut ready = self.node.ready();
            for read in ready.take_read_states() {
                if let Ok(round) = <[u8; 8]>::try_from(read.request_ctx.as_slice()) {
                    effects.push(Effect::ReadConfirmed(u64::from_be_bytes(round)));
                }
            }
            let messages = ready.take_messages();
            if !messages.is_empty() {
                effects.push(Effect::Send(messages));
            }
            let committed = ready.take_committed_entries();
            let entries = ready.take_entries();
            let mut after = ready.take_persisted_messages();
            if self.has_left() {
                // raft-rs may not know of its new number: it looks at changes of members only.
                after.retain(|message| !asks_for_votes(message));
            }
            let number = ready.number();
            let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
            if let Some(snapshot) = &snapshot {
                self.node.mut_store().restart_at(snapshot);
            }
            self.node.mut_store().append(&entries);
            let first = entries.first().map(|entry| entry.index);
            let write = match &snapshot {
                Some(_) => Some(self.restart(number, entries)),
                None => self.write(number, entries),
            };
            self.pending.push_back(Pending {
                number,
                first,
                writes: write.is_some(),
                messages: after,
            });
            self.node.advance_append_async(ready);
            match (snapshot, write) {
                (Some(snapshot), Some(write)) => self.install(&snapshot, write, effects),
                (_, write) => effects.extend(write),
            }
            self.finish_unwritten(effects);
            if !committed.is_empty() {
                self.commit(committed, effects);
            }
        }
        if !self.said.is_empty() {
            effects.push(Effect::Send(std::mem::take(&mut self.said)));
        }
    }

    fn install(&mut self, snapshot: &Snapshot, write: Effect, effects: &mut Vec<Effect>) {
        let metadata = snapshot.get_metadata();
        if self
            .no_vote_before
            .is_some_and(|term| metadata.term >= term)
        {
            self.no_vote_before = None;
        }
        self.installing = Some((metadata.index, write));
        effects.push(Effect::Install(Checkpoint {
            index: metadata.index,
            term: metadata.term,
            members: encode_members(metadata.get_conf_state()),
            data: snapshot.get_data().to_vec().into(),
        }));
    }

    /// The write that begins the log anew behind a checkpoint.
    fn restart(&mut self, token: u64, entries: Vec<Entry>) -> Effect {
        let hard_state = self.node.raft.hard_state();
        self.last_vote = (hard_state.term, hard_state.vote);
        self.last_commit = hard_state.commit;
        self.last_member = self.member();
        Effect::Write {
            token,
            write: LogWrite {
                group: self.config.group,
                entries,
                hard_state: Some(hard_state),
                reset: true,
                member: Some(self.last_member),
            },
            sync: true,
        }
    }

    /// Hands committed entries out. A change of members holds from here on; the state learns of it with its entry (I8).
    fn commit(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        self.note_committed(&entries);
        let mut members = Vec::new();
        for entry in &entries {
            if entry.get_entry_type() == EntryType::EntryNormal {
                continue;
            }
            let change = <ConfChangeV2 as protobuf::Message>::parse_from_bytes(&entry.data);
            // What does not decode, or cannot be done, was never proposed by this program; apply refuses it (I7).
            if let Ok(change) = change
                && let Ok(mut conf) = self.node.apply_conf_change(&change)
            {
                // raft-rs keeps them in hash sets; the states of all members must be alike.
                conf.voters.sort_unstable();
                conf.voters_outgoing.sort_unstable();
                conf.learners.sort_unstable();
                conf.learners_next.sort_unstable();
                self.node.mut_store().set_members(&conf);
                members.push((entry.index, encode_members(&conf)));
            }
        }
        // A leader that has left steps down: raft-rs would panic when it commits what was proposed before, and the voters that
        // are left may elect another without it, so that no lease holds.
        if self.is_leader() && self.has_left() {
            self.hand_on();
        }
        self.draw_timeout();
        effects.push(Effect::Committed { entries, members });
    }

    /// This leader is no voter any more: the voter that holds most is to lead, without waiting for an election timeout.
    fn hand_on(&mut self) {
        let raft = &mut self.node.raft;
        let (own, term) = (raft.id, raft.term);
        let prs = raft.prs();
        let voters = prs
            .iter()
            .filter(|(id, _)| prs.conf().voters().contains(**id));
        let heir = voters.max_by_key(|(id, progress)| (progress.matched, **id));
        if let Some((heir, _)) = heir {
            let mut go = Message::default();
            go.set_msg_type(MessageType::MsgTimeoutNow);
            (go.from, go.to, go.term) = (own, *heir, term);
            self.said.push(go);
        }
        self.node.raft.become_follower(term, 0);
    }

    /// One write of entries and hard state. A commit index alone is not worth one: it is learned again. Entries bring it along
    /// whenever it was learned: a change of members comes behind an earlier one that is committed, and who starts anew must
    /// not campaign among the members before that.
    fn write(&mut self, token: u64, entries: Vec<Entry>) -> Option<Effect> {
        let hard_state = self.node.raft.hard_state();
        let vote = (hard_state.term, hard_state.vote);
        let voted = vote != self.last_vote;
        let became = self.member() != self.last_member;
        if entries.is_empty() && !voted && !became {
            return None;
        }
        let changed = voted || hard_state.commit != self.last_commit;
        (self.last_vote, self.last_member) = (vote, self.member());
        self.last_commit = hard_state.commit;
        let planted = self.config.planted;
        let vote_synced = voted && !planted.is(Mutation::VoteNotSynced);
        let entries_synced =
            !entries.is_empty() && self.config.sync && !planted.is(Mutation::AckBeforeFsync);
        Some(Effect::Write {
            token,
            write: LogWrite {
                group: self.config.group,
                entries,
                hard_state: changed.then_some(hard_state),
                reset: false,
                member: became.then_some(self.last_member),
            },
            sync: vote_synced || entries_synced || became,
        })
    }

    fn note_committed(&mut self, committed: &[Entry]) {
        let newest = committed.last().map_or(0, |entry| entry.term);
        if self.no_vote_before.is_some_and(|term| newest >= term) {
            self.no_vote_before = None;
        }
    }

    fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let now = (raft.term, raft.state, raft.leader_id);
        if now != self.drawn {
            self.drawn = now;
            self.draws += 1;
            let mut key = [0; 28];
            key[..8].copy_from_slice(&self.config.node.to_be_bytes());
            key[8..12].copy_from_slice(&self.config.group.to_be_bytes());
            key[12..20].copy_from_slice(&now.0.to_be_bytes());
            key[20..].copy_from_slice(&self.draws.to_be_bytes());
            let spread = xxh3_64_with_seed(&key, self.config.seed) as usize;
            self.timeout = self.config.election_ticks + spread % self.config.election_ticks;
        }
        // raft-rs draws its own on every reset; it must be within its bounds, which this is.
        if raft.randomized_election_timeout() != self.timeout {
            raft.set_randomized_election_timeout(self.timeout);
        }
    }
}

fn asks_for_votes(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
    )
}

fn encode_members(conf: &ConfState) -> bytes::Bytes {
    // Writing to memory does not fail.
    protobuf::Message::write_to_bytes(conf)
        .unwrap_or_default()
        .into()
}

#[cfg(test)]
mod tests;
mod view;
