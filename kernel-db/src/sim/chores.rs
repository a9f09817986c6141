//! Work that no client waits for: telling participants what was decided, and asking for it. It belongs to a node and is
//! gone when that goes down; what matters comes again from the partitions themselves.

use std::collections::VecDeque;

use super::clients::{Ask, Heard, What};
use super::network::Owner;
use super::world::{Event, World};
use crate::error::{Class, Error};
use crate::partition::Output;
use crate::txn::messages::{Answer, Forget, Resolve, Settle, TxnId, Work};

/// Questions of one chore; after them it is dropped.
const TRIES_MAX: u32 = 30;

#[derive(Clone, Debug)]
pub struct Chore {
    /// One after another.
    works: VecDeque<(u32, Work)>,
    /// Settle what is decided in this group.
    settle_in: Option<(u32, TxnId)>,
    /// Where it runs, and whom it asks.
    home: u64,
    node: u64,
    tries: u32,
    /// The question under way.
    asked: u64,
}

impl Chore {
    pub fn new(works: Vec<(u32, Work)>) -> Self {
        Self {
            works: works.into(),
            settle_in: None,
            home: 0,
            node: 1,
            tries: 0,
            asked: 0,
        }
    }

    /// Settles in `others`, and lets it be forgotten then.
    pub fn finish(txn: TxnId, ts: u64, others: &[u32], coordinator: u32) -> Self {
        let commit_ts = Some(ts);
        let settle = |group: &u32| (*group, Work::Settle(Settle { txn, commit_ts }));
        let mut works: Vec<_> = others.iter().map(settle).collect();
        works.push((
            coordinator,
            Work::Forget(Forget {
                txn,
                more: Vec::new(),
            }),
        ));
        Self::new(works)
    }

    fn resolve(group: u32, txn: TxnId, coordinator: u32, deadline_ts: u64) -> Self {
        let ask = Work::Resolve(Resolve { txn, deadline_ts });
        Self {
            settle_in: Some((group, txn)),
            ..Self::new(vec![(coordinator, ask)])
        }
    }
}

impl World {
    /// What a partition wants of others.
    pub fn delegate(&mut self, node: u64, group: u32, output: &Output) {
        match output {
            Output::Resolve {
                txn,
                coordinator,
                deadline_ts,
            } => {
                self.totals.add("orphaned prepares asked for", 1);
                let chore = Chore::resolve(group, *txn, *coordinator, *deadline_ts);
                self.take_up(node, chore);
            }
            Output::Finish {
                txn,
                commit_ts,
                others,
            } => {
                self.totals.add("decisions told again", 1);
                self.take_up(node, Chore::finish(*txn, *commit_ts, others, group));
            }
            _ => {}
        }
    }

    pub fn take_up(&mut self, home: u64, mut chore: Chore) {
        chore.home = home;
        self.sequence += 1;
        let number = self.sequence;
        self.chores.insert(number, chore);
        self.after(0, 2_000, Event::Chore(number));
    }

    /// Asks the chore's next question.
    pub fn chore(&mut self, number: u64) {
        let Some(chore) = self.chores.get_mut(&number) else {
            return;
        };
        chore.tries += 1;
        let next = chore.works.front().cloned();
        let (Some((group, work)), true) = (next, chore.tries <= TRIES_MAX) else {
            self.chores.remove(&number);
            return;
        };
        let (node, what) = (chore.node, What::Work(work));
        let asked = {
            // What it must come after is in the work itself.
            let seen = 0;
            let ask = Ask {
                node,
                group,
                what,
                seen,
            };
            self.question(Owner::Chore(number), ask, true)
        };
        if let Some(chore) = self.chores.get_mut(&number) {
            chore.asked = asked;
        }
    }

    pub fn chore_hears(&mut self, number: u64, question: u64, heard: Heard) -> Result<(), Error> {
        let Some(chore) = self.chores.get_mut(&number) else {
            return Ok(());
        };
        if chore.asked != question {
            return Ok(());
        }
        chore.asked = 0;
        let error = match heard {
            Heard::Reply(Ok(reply), _) => match Answer::from_bytes(reply)? {
                Answer::Decided(decision) => {
                    chore.works.pop_front();
                    if let Some((group, txn)) = chore.settle_in.take() {
                        let commit_ts = decision.commit_ts;
                        let settle = Work::Settle(Settle { txn, commit_ts });
                        chore.works.push_back((group, settle));
                    }
                    None
                }
                // Settled in part: it is told again.
                Answer::More(_) => None,
                _ => {
                    chore.works.pop_front();
                    None
                }
            },
            Heard::Reply(Err(error), _) => Some(error),
            Heard::Timeout => Some(Error::unknown("no answer")),
            Heard::Ts(_) | Heard::Rows(..) => None,
        };
        let Some(error) = error else {
            self.after(0, 100, Event::Chore(number));
            return Ok(());
        };
        if error.class() == Class::Request {
            return Err(Error::internal(format!(
                "{:?}: {error}",
                chore.works.front()
            )));
        }
        let hint = error.get_detail().and_then(|node| node.parse().ok());
        chore.node = hint.unwrap_or(self.clients.next_node(chore.node));
        self.after(1_000, 80_000, Event::Chore(number));
        Ok(())
    }

    /// The node went down.
    pub fn forget_chores(&mut self, node: u64) {
        self.chores.retain(|_, chore| chore.home != node);
    }
}
