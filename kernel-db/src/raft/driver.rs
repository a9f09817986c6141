//! The one file that calls raft-rs's `RawNode`: inputs in, effects out, in the order that raft-rs asks for.
//!
//! The order within one ready: role, leader's messages, committed entries, then one write of entries and hard state; after
//! that write is done, the messages that promise it (votes, acknowledgements). Nothing is stepped or proposed between
//! `ready` and `advance_append_async`. Election timeouts, which raft-rs draws from a thread-local generator, are replaced
//! by a function of seed, node, group and the count of role changes, so that a run can be replayed.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::log_view::LogView;
use crate::error::{Error, Result};
use crate::planted::{Mutation, Planted};
use crate::storage::{LogStore, LogWrite};

/// Bytes of entries in one message to a follower.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages with entries on the way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 32;
/// Bytes of proposed entries that are not committed; raft-rs refuses more.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of committed entries handed out at once.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;

pub struct DriverConfig {
    pub node: u64,
    pub group: u32,
    pub voters: Vec<u64>,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Sync every write; otherwise only changes of term and vote.
    pub sync: bool,
    /// The tail of the log may be lost (see `ReplicaConfig::log_tail_lost`).
    pub tail_lost: bool,
    pub seed: u64,
    pub planted: Planted,
}

/// What the replica has to do or to know.
pub enum Effect {
    Send(Vec<Message>),
    Write {
        token: u64,
        write: LogWrite,
        sync: bool,
    },
    /// Committed and persisted here (I9), in order, each once.
    Committed(Vec<Entry>),
    /// A quorum confirmed this leader after the read-index round with this number began.
    ReadConfirmed(u64),
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// The entry is in this leader's log at (its term,) this index.
    At(u64),
    /// Not taken: a transfer is under way, or too much is uncommitted. Nothing happened.
    Refused,
    /// This node does not lead the term any more; where the data went is not known.
    Deposed,
}

/// The state of the group as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub role: StateRole,
    pub term: u64,
    pub leader: Option<u64>,
    pub commit: u64,
    pub first: u64,
    pub last: u64,
    pub log_bytes: u64,
}

/// A member as the leader knows it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub node: u64,
    pub matched: u64,
    pub active: bool,
}

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
    /// (term, role, leader) for which the election timeout was drawn, how often it was, and its value.
    drawn: (u64, StateRole, u64),
    draws: u64,
    timeout: usize,
    /// Votes nothing until an entry of this term or a later one is committed here.
    no_vote_before: Option<u64>,
}

impl Driver {
    pub fn new(config: DriverConfig, log: Arc<dyn LogStore>, applied: (u64, u64)) -> Result<Self> {
        let mut view = LogView::open(config.group, &config.voters, log, applied, config.tail_lost)?;
        let mut no_vote_before = None;
        if config.tail_lost {
            // A later term than any in which this node may have acknowledged what it lost: a leader of the old term
            // would still count those acknowledgements.
            let term = view.hard_state().term + 1;
            view.enter_term(term)?;
            no_vote_before = Some(term);
        }
        let hard_state = view.hard_state().clone();
        let raft_config = Config {
            id: config.node,
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
            drawn: (u64::MAX, StateRole::Follower, 0),
            draws: 0,
            timeout: config.election_ticks,
            config,
            no_vote_before,
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
    pub fn receive(&mut self, message: Message, silent: bool) {
        match message.get_msg_type() {
            MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgTimeoutNow
                if silent || !self.may_vote() =>
            {
                return;
            }
            // I1: proposals come from this node's executor only; transfers from its shell only.
            MessageType::MsgPropose
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex => return,
            _ => {}
        }
        // An error means a message that raft-rs does not want; the sender repeats what matters.
        let _ = self.node.step(message);
        self.draw_timeout();
    }

    pub fn campaign(&mut self) {
        if self.may_vote() {
            let _ = self.node.campaign();
            self.draw_timeout();
        }
    }

    pub fn transfer(&mut self, to: u64) {
        self.node.transfer_leader(to);
        self.draw_timeout();
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

    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
    }

    /// Collects what raft-rs wants done; call after inputs, before the outputs are carried out.
    pub fn drain(&mut self, effects: &mut Vec<Effect>) {
        while self.node.has_ready() {
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
            let hard_state = ready.hs().cloned();
            let after = ready.take_persisted_messages();
            let number = ready.number();
            self.node.mut_store().append(&entries);
            let first = entries.first().map(|entry| entry.index);
            let write = self.write(number, entries, hard_state);
            self.pending.push_back(Pending {
                number,
                first,
                writes: write.is_some(),
                messages: after,
            });
            self.node.advance_append_async(ready);
            effects.extend(write);
            self.finish_unwritten(effects);
            if !committed.is_empty() {
                self.note_committed(&committed);
                effects.push(Effect::Committed(committed));
            }
        }
    }

    /// One write of entries and hard state. A commit index alone is not worth one: it is learned again.
    fn write(
        &mut self,
        token: u64,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
    ) -> Option<Effect> {
        let vote = hard_state
            .as_ref()
            .map_or(self.last_vote, |hs| (hs.term, hs.vote));
        let voted = vote != self.last_vote;
        if entries.is_empty() && !voted {
            return None;
        }
        self.last_vote = vote;
        let planted = self.config.planted;
        let vote_synced = voted && !planted.is(Mutation::VoteNotSynced);
        let entries_synced =
            !entries.is_empty() && self.config.sync && !planted.is(Mutation::AckBeforeFsync);
        Some(Effect::Write {
            token,
            write: LogWrite {
                group: self.config.group,
                entries,
                hard_state,
            },
            sync: vote_synced || entries_synced,
        })
    }

    fn note_committed(&mut self, committed: &[Entry]) {
        let newest = committed.last().map_or(0, |entry| entry.term);
        if self.no_vote_before.is_some_and(|term| newest >= term) {
            self.no_vote_before = None;
        }
    }

    /// False while this node may have lost entries that it acknowledged.
    pub fn may_vote(&self) -> bool {
        self.no_vote_before.is_none()
    }

    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// False while leadership is being handed over, when proposals are refused.
    pub fn can_propose(&self) -> bool {
        self.is_leader() && self.node.raft.lead_transferee.is_none()
    }

    pub fn log_bytes(&self) -> u64 {
        self.node.store().bytes()
    }

    pub fn view(&self) -> View {
        let raft = &self.node.raft;
        View {
            role: raft.state,
            term: raft.term,
            leader: (raft.leader_id != 0).then_some(raft.leader_id),
            commit: raft.raft_log.committed,
            first: self.node.store().boundary() + 1,
            last: raft.raft_log.last_index(),
            log_bytes: self.node.store().bytes(),
        }
    }

    /// Never voted, never logged: nothing that a lease could rest on.
    pub fn is_new(&self) -> bool {
        self.last_vote == (0, 0) && self.node.raft.raft_log.last_index() == 0
    }

    /// The other members, by node.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(node, _)| **node != self.config.node)
            .map(|(node, progress)| Member {
                node: *node,
                matched: progress.matched,
                active: progress.recent_active,
            })
            .collect();
        members.sort_by_key(|member| member.node);
        members
    }

    /// Index that every member, this node included, is known to hold.
    pub fn held_by_all(&self) -> u64 {
        let members = self.node.raft.prs().iter();
        members
            .map(|(_, progress)| progress.matched)
            .min()
            .unwrap_or(0)
    }

    /// Forgets entries up to `index`, which must be applied; returns the new boundary.
    pub fn truncate(&mut self, index: u64) -> Result<u64> {
        self.node.mut_store().truncate(index)?;
        Ok(self.node.store().boundary())
    }

    /// Bytes that a truncation at `index` would free.
    pub fn bytes_to(&self, index: u64) -> u64 {
        self.node.store().bytes_to(index)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemLog;

    fn driver(node: u64, voters: &[u64]) -> Driver {
        let config = DriverConfig {
            node,
            group: 1,
            voters: voters.to_vec(),
            election_ticks: 10,
            heartbeat_ticks: 2,
            sync: true,
            tail_lost: false,
            seed: 1,
            planted: Planted::default(),
        };
        Driver::new(config, Arc::new(MemLog::new()), (0, 0)).unwrap()
    }

    /// Writes are done at once.
    fn settle(driver: &mut Driver) -> Vec<Effect> {
        let (mut all, mut effects) = (Vec::new(), Vec::new());
        loop {
            driver.drain(&mut effects);
            if effects.is_empty() {
                return all;
            }
            for effect in std::mem::take(&mut effects) {
                if let Effect::Write { token, .. } = effect {
                    driver.persisted(token, &mut effects);
                }
                all.push(effect);
            }
        }
    }

    fn from_peer(kind: MessageType, term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (2, 1, term);
        message
    }

    #[test]
    fn i1_a_follower_proposes_nothing_and_forwards_nothing() {
        let mut driver = driver(1, &[1, 2, 3]);
        driver.receive(from_peer(MessageType::MsgHeartbeat, 1), false);
        settle(&mut driver);
        assert_eq!(driver.view().leader, Some(2));
        assert_eq!(driver.propose(1, b"x".to_vec()), Proposed::Deposed);
        let sent = settle(&mut driver);
        assert!(!sent.iter().any(|effect| matches!(effect, Effect::Send(_))));
    }

    #[test]
    fn i1_an_executor_of_an_earlier_term_proposes_nothing() {
        let mut driver = driver(1, &[1]);
        driver.campaign();
        settle(&mut driver);
        let (term, last) = (driver.view().term, driver.view().last);
        assert_eq!(driver.propose(term, b"x".to_vec()), Proposed::At(last + 1));
        assert_eq!(driver.propose(term - 1, b"y".to_vec()), Proposed::Deposed);
        assert_eq!(driver.view().last, last + 1);
    }

    #[test]
    fn i1_proposals_of_others_are_dropped() {
        let mut driver = driver(1, &[1, 2, 3]);
        driver.campaign();
        settle(&mut driver);
        driver.receive(from_peer(MessageType::MsgRequestPreVoteResponse, 1), false);
        settle(&mut driver);
        driver.receive(from_peer(MessageType::MsgRequestVoteResponse, 1), false);
        settle(&mut driver);
        assert!(driver.is_leader());
        let last = driver.view().last;
        let mut message = from_peer(MessageType::MsgPropose, 0);
        message.set_entries(vec![Entry::default()].into());
        driver.receive(message, false);
        assert_eq!(driver.view().last, last);
    }

    #[test]
    fn a_member_that_lost_acknowledged_entries_enters_a_later_term_and_does_not_vote() {
        let log = Arc::new(MemLog::new());
        let config = |tail_lost| DriverConfig {
            node: 1,
            group: 1,
            voters: vec![1, 2, 3],
            election_ticks: 10,
            heartbeat_ticks: 2,
            sync: false,
            tail_lost,
            seed: 1,
            planted: Planted::default(),
        };
        let mut before = Driver::new(config(false), log.clone(), (0, 0)).unwrap();
        before.receive(from_peer(MessageType::MsgHeartbeat, 3), false);
        for effect in settle(&mut before) {
            if let Effect::Write { write, sync, .. } = effect {
                log.append(vec![write], sync).unwrap();
            }
        }
        let mut after = Driver::new(config(true), log, (0, 0)).unwrap();
        assert_eq!(after.view().term, 4);
        after.receive(from_peer(MessageType::MsgRequestVote, 5), false);
        assert!(settle(&mut after).is_empty());
        // A later leader's empty entry, committed: everything acknowledged before it is here again.
        let mut append = from_peer(MessageType::MsgAppend, 5);
        let mut entry = Entry::default();
        (entry.term, entry.index) = (5, 1);
        append.set_entries(vec![entry].into());
        append.commit = 1;
        after.receive(append, false);
        settle(&mut after);
        assert!(after.may_vote());
    }
}
