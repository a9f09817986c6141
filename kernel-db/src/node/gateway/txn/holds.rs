//! Which transactions of this gateway hold locks where.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::Gateway;
use crate::error::{Error, Result};
use crate::txn::messages::{KeepAlive, Release, TxnId, Work};

/// Leaders drop unprepared locks whose owner says nothing for five times as long.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A transaction that ended without commit, and the groups where it may hold locks.
type Released = (TxnId, Vec<u32>);

/// The open transactions of a gateway.
pub(in super::super) struct Registry {
    node: u64,
    open: RefCell<HashMap<TxnId, BTreeMap<u32, Option<u64>>>>,
    last_start: Cell<u64>,
    last_number: Cell<u64>,
    released: UnboundedSender<Released>,
}

/// Locks of one transaction; dropping it gives them back.
pub(super) struct Holds {
    pub id: TxnId,
    registry: Rc<Registry>,
    /// The first error of a fetch: the transaction cannot commit, whatever its body made of it.
    pub failure: Option<Error>,
    /// How long it waits for one lock.
    pub lock_wait: Option<Duration>,
}

impl Registry {
    pub fn new(node: u64) -> (Rc<Self>, UnboundedReceiver<Released>) {
        let (released, receiver) = unbounded_channel();
        let registry = Self {
            node,
            open: RefCell::default(),
            last_start: Cell::new(0),
            last_number: Cell::new(0),
            released,
        };
        (Rc::new(registry), receiver)
    }

    /// When a transaction that begins now begins: microseconds, never the same twice.
    pub(super) fn start(&self) -> u64 {
        self.last_start.set(now_us().max(self.last_start.get() + 1));
        self.last_start.get()
    }

    /// A new attempt of a transaction that began at `start`.
    pub(super) fn open(self: &Rc<Self>, start: u64) -> Holds {
        self.last_number.set(self.last_number.get() + 1);
        let id = TxnId {
            start,
            node: self.node,
            number: self.last_number.get(),
        };
        Holds {
            id,
            registry: Rc::clone(self),
            failure: None,
            lock_wait: None,
        }
    }
}

/// The wall clock, in microseconds since the epoch.
pub(super) fn now_us() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.map_or(0, |d| d.as_micros() as u64)
}

impl Holds {
    /// A lock is being asked for: it may be there from now on.
    pub fn ask(&self, group: u32) {
        let mut open = self.registry.open.borrow_mut();
        open.entry(self.id).or_default().entry(group).or_default();
    }

    /// Locks were given by the leader of `term`; 40001 if an earlier leader gave some, because those are lost.
    pub fn given(&self, group: u32, term: u64) -> Result<()> {
        let mut open = self.registry.open.borrow_mut();
        let known = open.entry(self.id).or_default().entry(group).or_default();
        if known.is_some_and(|known| known != term) {
            return Err(lost());
        }
        *known = Some(term);
        Ok(())
    }

    /// Groups where locks are held, with the term of the leader that gave them.
    pub fn groups(&self) -> BTreeMap<u32, u64> {
        let open = self.registry.open.borrow();
        let all = open.get(&self.id).into_iter().flatten();
        all.filter_map(|(g, term)| Some((*g, (*term)?))).collect()
    }

    /// True if it may hold locks: some were asked for.
    pub fn has_any(&self) -> bool {
        let open = self.registry.open.borrow();
        let groups = open.get(&self.id);
        groups.is_some_and(|g| !g.is_empty())
    }

    /// The locks that were given are somebody else's to end: of two-phase commit. What was asked for and given up here may
    /// still wait at its leader.
    pub fn forget(&self) {
        let groups = self.registry.open.borrow_mut().remove(&self.id);
        let asked = groups.into_iter().flatten();
        let asked: Vec<u32> = asked
            .filter(|(_, term)| term.is_none())
            .map(|(g, _)| g)
            .collect();
        if !asked.is_empty() {
            let _ = self.registry.released.send((self.id, asked));
        }
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        let groups = self.registry.open.borrow_mut().remove(&self.id);
        if let Some(groups) = groups.filter(|g| !g.is_empty()) {
            let groups = groups.into_keys().collect();
            // Without a gateway the node is stopping, and the locks run out.
            let _ = self.registry.released.send((self.id, groups));
        }
    }
}

/// Another leader came: it does not know the locks.
pub(super) fn lost() -> Error {
    Error::retry(
        "40001",
        "could not serialize access: locks were lost because a leader changed",
    )
    .hint("run the transaction again")
}

impl Gateway {
    /// Gives back locks of transactions that ended without commit.
    pub(in super::super) async fn serve_releases(
        self: Rc<Self>,
        mut released: UnboundedReceiver<Released>,
    ) {
        while let Some((txn, groups)) = released.recv().await {
            for group in groups {
                let answer = self.transact(group, Work::Release(Release { txn }));
                // If it does not arrive the locks run out.
                tokio::task::spawn_local(async move { drop(answer.await) });
            }
        }
    }

    /// Tells leaders that the owners of locks live.
    pub(in super::super) async fn keep_locks(self: Rc<Self>) {
        loop {
            tokio::time::sleep(KEEP_ALIVE).await;
            let mut by_group: BTreeMap<u32, Vec<TxnId>> = BTreeMap::new();
            for (txn, groups) in &*self.registry.open.borrow() {
                for group in groups.keys() {
                    by_group.entry(*group).or_default().push(*txn);
                }
            }
            for (group, txns) in by_group {
                // Lost locks are found at commit.
                let answer = self.transact(group, Work::KeepAlive(KeepAlive { txns }));
                tokio::task::spawn_local(async move { drop(answer.await) });
            }
        }
    }
}
