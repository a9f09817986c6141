//! Read leases in golden scripts.
//!
//! `lease N ID COUNTER HOLDER MS` reads a counter and leases it; `recalls N ID HOLDER RETURNED MS` gives a lease back (0:
//! none) and waits so long for one that is wanted back. Leases are told and named by their place among all that were told,
//! from 1.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::work::counter_key;
use crate::error::{Error, Result};
use crate::partition::{LeaseAsk, Request, Store, Task, Transaction, TxnEnv, Waited};

/// The leases that were told so far.
#[derive(Default)]
pub struct Told {
    ids: Vec<u64>,
    numbers: Vec<i64>,
}

struct Asks {
    counter: Option<u64>,
    ask: LeaseAsk,
}

impl Transaction for Asks {
    fn run(&self, store: &mut dyn Store, env: &mut TxnEnv) -> Result<Bytes> {
        let value = match self.counter {
            Some(counter) => store.get(&counter_key(counter), None)?,
            None => None,
        };
        let value = value.and_then(|value| value.first_chunk::<8>().copied());
        let lease = env.lease.as_mut();
        let lease = lease.ok_or_else(|| Error::internal("nothing can be leased here"))?;
        lease.asked = Some(self.ask);
        let answer = lease.answer.unwrap_or(0).to_be_bytes();
        Ok([value.unwrap_or_default(), answer].concat().into())
    }

    fn read_only(&self) -> bool {
        true
    }
}

impl Told {
    /// The request that a command means, and its node.
    pub fn request(&mut self, name: &str, numbers: &[u64]) -> Option<(u64, Request)> {
        let [node, id, rest @ ..] = numbers else {
            return None;
        };
        let work = match (name, rest) {
            ("lease", [counter, holder, ms]) => Asks {
                counter: Some(*counter),
                ask: LeaseAsk::Reads {
                    holder: *holder as i64,
                    length_us: ms * 1000,
                },
            },
            ("recalls", [holder, returned, ms]) => Asks {
                counter: None,
                ask: LeaseAsk::Recalls {
                    holder: *holder as i64,
                    returned: match (*returned as usize).checked_sub(1) {
                        Some(place) => *self.numbers.get(place)?,
                        None => 0,
                    },
                    until_us: ms * 1000,
                },
            },
            _ => return None,
        };
        self.ids.push(*id);
        let request = Request {
            id: *id,
            task: Task::Run(Arc::new(work)),
            session: None,
            seen: 0,
            cancel: None,
            waited: Waited {
                gone: Some(Arc::new(AtomicBool::new(false))),
                ..Waited::default()
            },
        };
        Some((*node, request))
    }

    /// A reply to one of these requests, in words.
    pub fn tell(&mut self, id: u64, reply: &[u8]) -> Option<String> {
        let (value, number) = reply.split_first_chunk::<8>()?;
        let number = i64::from_be_bytes(*number.first_chunk::<8>()?);
        if !self.ids.contains(&id) {
            return None;
        }
        let value = u64::from_be_bytes(*value);
        if number == 0 {
            return Some(format!("reply {id} value {value}, no lease"));
        }
        let known = self.numbers.iter().position(|told| *told == number);
        let place = known.unwrap_or_else(|| {
            self.numbers.push(number);
            self.numbers.len() - 1
        });
        Some(format!("reply {id} value {value} lease {}", place + 1))
    }
}
