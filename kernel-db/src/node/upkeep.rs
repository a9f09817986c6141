//! What a node does by the clock: ticks, elections of preferred leaders, flushing, forgetting history.
//!
//! State is flushed when it pins much log or is old, so that the log can be cut behind it (I10 is the replica's to keep;
//! here it is only given the chance). Leadership drifts back to the preferred node once that is up and has caught up, so
//! that after a failure the leaders are spread again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::NodeConfig;
use super::core::Core;
use super::peers::Peers;
use super::placement::Placement;
use crate::partition::apply::AppliedReport;
use crate::partition::{Input, ReplicaStatus, Role};
use crate::storage::StateStore;

/// How often everything but ticks is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A leader stays this long before it hands over to the preferred node: a node that comes and goes must not move it
/// every time.
const SETTLED: Duration = Duration::from_secs(3);
/// Entries that the preferred node may be behind when it is given the leadership.
const TRANSFER_LAG_MAX: u64 = 64;
/// History is dropped this many times per window: each time one range delete.
const HISTORY_STEPS: u32 = 10;
/// A checkpoint that no member fetches is offered for so long: a transfer that was interrupted may go on.
const OFFER_IDLE: Duration = Duration::from_secs(60);
/// For the others to take over when this node stops.
const HAND_OVER: Duration = Duration::from_millis(600);

/// See the module's documentation.
pub struct Upkeep {
    config: Rc<NodeConfig>,
    core: Rc<Core>,
    peers: Rc<Peers>,
    placement: Placement,
    /// When each group was flushed last.
    flushed: RefCell<BTreeMap<u32, Instant>>,
    /// Since when each group is led from here.
    leading: RefCell<BTreeMap<u32, Instant>>,
    /// Since when each group has offered a checkpoint that no member fetches.
    offered: RefCell<BTreeMap<u32, Instant>>,
}

impl Upkeep {
    pub fn new(config: Rc<NodeConfig>, core: Rc<Core>, peers: Rc<Peers>) -> Rc<Self> {
        Rc::new(Self {
            placement: core.placement().clone(),
            config,
            core,
            peers,
            flushed: RefCell::default(),
            leading: RefCell::default(),
            offered: RefCell::default(),
        })
    }

    /// Ticks all groups, for ever; missed ticks are skipped.
    pub async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(Duration::from_millis(self.config.tick_ms));
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            for &group in self.core.groups().keys() {
                self.core.send(group, Input::Tick);
            }
        }
    }

    /// Everything else, for ever.
    pub async fn run(self: Rc<Self>) {
        self.bootstrap().await;
        futures::future::join(self.look(), self.flush()).await;
    }

    async fn look(&self) {
        let mut interval = tokio::time::interval(LOOK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let history_every = Duration::from_secs(self.config.history_window_s) / HISTORY_STEPS;
        let mut history_at = Instant::now() + history_every;
        loop {
            interval.tick().await;
            self.drift();
            self.withdraw();
            if Instant::now() >= history_at {
                history_at = Instant::now() + history_every;
                self.forget();
            }
        }
    }

    /// Preferred leaders campaign as soon as a majority can be reached, so that a new cluster need not wait for an
    /// election timeout.
    async fn bootstrap(&self) {
        let patience = Duration::from_millis(self.config.tick_ms * self.config.election_ticks);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let mut waiting = false;
            for &group in self.core.groups().keys() {
                let voters = self.placement.voters(group);
                let leaderless = self.core.role(group).is_some_and(|r| r.leader.is_none());
                if voters[0] != self.config.node_id || !leaderless {
                    continue;
                }
                waiting = true;
                let here = |n: &&u64| **n == self.config.node_id || self.peers.connected(**n);
                if voters.iter().filter(here).count() * 2 > voters.len() {
                    self.core.send(group, Input::Campaign);
                }
            }
            if !waiting {
                return;
            }
            tokio::time::sleep(Duration::from_millis(self.config.tick_ms)).await;
        }
    }

    /// Gives leaderships back to their preferred nodes.
    fn drift(&self) {
        let mut leading = self.leading.borrow_mut();
        for &group in self.core.groups().keys() {
            if !self.core.role(group).is_some_and(|r| r.open) {
                leading.remove(&group);
                continue;
            }
            let since = *leading.entry(group).or_insert_with(Instant::now);
            let preferred = self.placement.preferred_leader(group);
            if preferred == self.config.node_id
                || since.elapsed() < SETTLED
                || !self.peers.connected(preferred)
            {
                continue;
            }
            // A rollback locks every table in every partition: it would fail with one of its leaders.
            if self
                .core
                .status(group)
                .is_some_and(|s| caught_up(&s, preferred) && !s.rolls_back)
            {
                tracing::info!(
                    group,
                    to = preferred,
                    "leadership goes back to its preferred node"
                );
                self.core.send(group, Input::TransferLeader(preferred));
                // Not again at once, should it fail.
                leading.insert(group, Instant::now());
            }
        }
    }

    /// Flushes the groups that are due, one after another with pauses: all at once they would take the processors and the disk
    /// from the clients.
    async fn flush(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            for number in self.due() {
                let started = Instant::now();
                self.flush_group(number).await;
                tokio::time::sleep(started.elapsed()).await;
            }
        }
    }

    async fn flush_group(&self, number: u32) {
        let Some(group) = self.core.group(number) else {
            return;
        };
        self.flushed.borrow_mut().insert(number, Instant::now());
        let (store, work) = (Arc::clone(&group.store), Arc::clone(&group.store));
        if store.meta().applied_index <= store.durable_index() {
            return;
        }
        group.unflushed_bytes.set(0);
        // A replica that is dropped meanwhile is to go.
        drop(group);
        match tokio::task::spawn_blocking(move || work.flush()).await {
            Ok(Ok(())) => self
                .core
                .send(number, Input::Applied(flush_report(&*store))),
            // A replica that was dropped meanwhile has nothing to keep.
            Ok(Err(_)) if self.core.group(number).is_none() => {}
            Ok(Err(error)) => super::core::fatal(&error),
            Err(error) => tracing::error!(group = number, "flush: {error}"),
        }
    }

    /// Groups that pin much log, those with most of it first, and groups that were not flushed for long.
    fn due(&self) -> Vec<u32> {
        let mut flushed = self.flushed.borrow_mut();
        let mut due = Vec::new();
        for (&number, group) in self.core.groups().iter() {
            let last = *flushed.entry(number).or_insert_with(Instant::now);
            let pinned = group.unflushed_bytes.get();
            let old = last.elapsed() >= Duration::from_secs(self.config.flush_interval_s);
            if pinned >= self.config.flush_log_bytes || old {
                due.push((std::cmp::Reverse(pinned), number));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, number)| number).collect()
    }

    /// Checkpoints that nobody has fetched from for long pin files on disk.
    fn withdraw(&self) {
        let mut offered = self.offered.borrow_mut();
        for (&number, group) in self.core.groups().iter() {
            let wanted = self
                .core
                .status(number)
                .is_some_and(|s| s.followers.iter().any(|f| f.snapshot));
            if wanted || !group.store.offers() {
                offered.remove(&number);
                continue;
            }
            let since = *offered.entry(number).or_insert_with(Instant::now);
            if since.elapsed() < OFFER_IDLE {
                continue;
            }
            offered.remove(&number);
            let (store, core) = (Arc::clone(&group.store), Rc::clone(&self.core));
            tokio::task::spawn_local(async move {
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.withdraw()).await
                {
                    tracing::warn!(group = number, "checkpoint not removed: {error}");
                }
                core.send(number, Input::CheckpointGone);
            });
        }
    }

    fn forget(&self) {
        for group in self.core.groups().values() {
            let store = Arc::clone(&group.store);
            let window_us = self.config.history_window_s.saturating_mul(1_000_000);
            tokio::task::spawn_blocking(move || {
                let before = store.meta().last_ts.saturating_sub(window_us);
                if before > 0
                    && let Err(error) = store.drop_history(before)
                {
                    tracing::error!("history not dropped: {error}");
                }
            });
        }
    }
}

/// What a flush adds to what the replica knows: nothing was applied by it.
fn flush_report<S: StateStore>(store: &S) -> AppliedReport {
    AppliedReport {
        index: store.durable_index(),
        durable: store.durable_index(),
        floor: 0,
    }
}

fn caught_up(status: &ReplicaStatus, node: u64) -> bool {
    status
        .followers
        .iter()
        .any(|f| f.node == node && f.active && f.lag <= TRANSFER_LAG_MAX)
}

/// Gives away what is led from here, so that the cluster need not wait for an election when this node stops.
pub async fn hand_over(core: &Rc<Core>, peers: &Rc<Peers>) {
    let until = Instant::now() + HAND_OVER;
    while Instant::now() < until && give_away(core, peers) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks a follower of every group that is led from here to take over. Returns how many groups have one that could.
pub fn give_away(core: &Rc<Core>, peers: &Rc<Peers>) -> usize {
    let mut possible = 0;
    for &group in core.groups().keys() {
        let Some(status) = core.status(group).filter(|s| s.role == Role::Leader) else {
            continue;
        };
        let next = status
            .followers
            .iter()
            .filter(|f| f.active && peers.connected(f.node) && status.voters.contains(&f.node))
            .min_by_key(|f| f.lag);
        if let Some(next) = next {
            possible += 1;
            // Asked again and again, it changes nothing while the first transfer is under way.
            core.send(group, Input::TransferLeader(next.node));
        }
    }
    possible
}
