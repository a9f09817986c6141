//! What leaders want back of the registers that lanes keep: one call for each lane and group that waits at its leader, again
//! and again, as long as the lane has something of it. As in `dbos-client`, nothing rests on it but how long writers wait; it
//! ends with the first error, and begins again with the next register that is kept.

use bytes::Bytes;

use super::clients::{Heard, What, lease_told};
use super::load::{decode, encode};
use super::network::Owner;
use super::world::{Event, World};
use crate::error::{Error, Result};
use crate::partition::{LeaseAsk, Store, Transaction, TxnEnv};

/// How long one call waits.
const LISTEN_US: u64 = 300_000;

/// Gives a lease back, and waits for another that is wanted back. Replies with its number, or 0.
#[derive(Clone, Copy, Debug)]
pub struct Recalls {
    holder: i64,
    returned: i64,
}

impl Transaction for Recalls {
    fn run(&self, _store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let ask = LeaseAsk::Recalls {
            holder: self.holder,
            returned: self.returned,
            until_us: LISTEN_US,
        };
        Ok(encode(&[lease_told(&mut env.lease, ask)]))
    }

    fn read_only(&self) -> bool {
        true
    }
}

impl World {
    /// A lane keeps something of a group: its recalls are listened to from now on.
    pub fn begin_listening(&mut self) {
        for (lane, group) in std::mem::take(&mut self.clients.keepers) {
            let listening = &mut self.clients.lanes[lane].kept.listening;
            if let std::collections::btree_map::Entry::Vacant(place) = listening.entry(group) {
                place.insert((0, 0));
                self.after(0, 20_000, Event::Listen(lane, group));
            }
        }
    }

    /// The next call, if there is something to listen for.
    pub fn listen(&mut self, lane: usize, group: u32) {
        let (now, groups) = (self.now, self.plan.groups);
        let of_lane = &mut self.clients.lanes[lane];
        let kept = &mut of_lane.kept;
        let returned = kept.listening.get(&group).map_or(0, |(_, lease)| *lease);
        let stops = self.clients.stopping || !kept.has_any(group, groups, now);
        // What is to be given back is, also when nothing else is left.
        if returned == 0 && stops {
            kept.listening.remove(&group);
            return;
        }
        let recalls = Recalls {
            holder: kept.holder,
            returned,
        };
        let ask = of_lane.ask(group, What::Recalls(recalls));
        let question = self.question(Owner::Listener(lane, group), *ask, true);
        let kept = &mut self.clients.lanes[lane].kept;
        kept.listening.insert(group, (question, returned));
    }

    pub fn listener_hears(
        &mut self,
        lane: usize,
        group: u32,
        question: u64,
        heard: Heard,
    ) -> Result<(), Error> {
        let kept = &mut self.clients.lanes[lane].kept;
        if kept.listening.get(&group).map(|(asked, _)| *asked) != Some(question) {
            return Ok(());
        }
        let Heard::Reply(Ok(reply), _) = heard else {
            kept.listening.remove(&group);
            return Ok(());
        };
        let wanted = decode(&reply).first().copied().unwrap_or(0);
        let used = wanted > 0 && kept.recall(wanted);
        kept.listening.insert(group, (0, wanted as i64));
        self.totals.add("kept rows recalled", u64::from(used));
        if wanted > 0 {
            self.note(0, 0, || {
                format!("lane {lane} gives back {wanted}, in use {used}")
            });
        }
        self.after(0, 2_000, Event::Listen(lane, group));
        Ok(())
    }
}
