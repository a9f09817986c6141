//! Simulated nodes driven by hand, one command a line, for golden transcripts: every output is a line of text.
//!
//! Nodes are 1, 2, 3 (`all` where it makes sense). Messages wait until they are delivered, writes and apply jobs until they
//! are done, so that a scenario decides what happens in which order. Time stands still but for `pass` and `tick`.
//!
//! | Command | Meaning |
//! |---|---|
//! | `tick N [TIMES]` | lets a tick's time pass before each, and ticks |
//! | `burst N TIMES` | ticks without any time between |
//! | `pass MS` | time passes for all |
//! | `new N` | a node with empty disks that is no member of anything |
//! | `learner N X`, `voters N X...` | the leader N makes X a learner, or X... the voters |
//! | `version V` | later changes of members are for this version of the topology |
//! | `fence N ID V`, `confirm N ID V` | a request that fences earlier versions off, and one that writes in any case |
//! | `campaign N`, `transfer N TO`, `flush N` | the inputs of that name |
//! | `elect N` | time passes until leases are over, then N campaigns and all settles |
//! | `add\|read\|fail N ID COUNTER [SESSION NUMBER]` | a request |
//! | `fill N ID` | a request that adds, and is followed by a flush and a settling of all |
//! | `snapshot-ts N ID`, `snapshot-at N ID MS` | the second at the last answered timestamp plus MS |
//! | `txn N ID ...`, `take N ID ...`, `await N ID ...` | see `script_txn` |
//! | `lease N ID ...`, `recalls N ID ...` | see `script_lease` |
//! | `cancel ID`, `hangup ID` | the client of a waiting request gives it up, or is gone |
//! | `write N`, `apply N`, `save N` | does the waiting writes, the waiting apply jobs; flushes the state |
//! | `deliver A B`, `drop A B` | the waiting messages from A to B |
//! | `cut A`, `join` | A's messages are lost from now on, both ways; none are |
//! | `settle [A B]` | delivers, writes, applies and flushes until nothing waits; tells replies and roles only;
//! | | among two nodes, if given |
//! | `crash N`, `start N` | loses what is not on disk; starts again |
//! | `seen MS` | what senders of later requests have seen: so long after the last snapshot timestamp |
//! | `counters N`, `counters-at N`, `log N` | the state, as of the last promised timestamp, or bounds of the log |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::Message;

use super::member::{Member, WaitingWrite};
use super::script_lease::Told;
use super::script_txn::{self, Await, Known, Take};
use super::transcript;
use super::work::{Picture, Work};
use crate::error::{Error, Result};
use crate::partition::{
    Fence, Input, MemberChange, Now, Output, ReplicaConfig, ReplicaStatus, Request, Task,
    Transaction, Waited,
};
use crate::raft::member_id::node_of;
use crate::txn::messages::WaitPolicy;

const TICK_US: u64 = 50_000;
const EPOCH_US: i64 = 1_000_000_000;

/// A scenario being played.
pub struct Script {
    members: Vec<Member>,
    now_us: u64,
    messages: VecDeque<Message>,
    cut: BTreeSet<u64>,
    ops: u64,
    last_ts: u64,
    promised: u64,
    /// Last timestamp of a prepare or commit, and requests whose reply is an answer to a distributed transaction.
    stamp: u64,
    /// What later requests' senders have seen.
    seen: u64,
    /// Of the topology, for later changes of members.
    version: u64,
    txns: BTreeSet<u64>,
    /// Of requests that may wait: they are cancelled, their clients are gone.
    waits: BTreeMap<u64, [Arc<AtomicBool>; 2]>,
    leases: Told,
    /// Tell everything, not only replies and roles.
    loud: bool,
    lines: Vec<String>,
}

impl Script {
    /// Three nodes with empty disks. `log_bytes_max` and `sessions_max` are small, so that scenarios reach them.
    pub fn new() -> Result<Self> {
        let mut members = Vec::new();
        for node in 1..=3 {
            members.push(Member::new(config(node, vec![1, 2, 3]))?);
        }
        Ok(Self {
            members,
            now_us: 1_000_000,
            messages: VecDeque::new(),
            cut: BTreeSet::new(),
            ops: 0,
            last_ts: 0,
            promised: 0,
            stamp: 0,
            seen: 0,
            version: 0,
            txns: BTreeSet::new(),
            waits: BTreeMap::new(),
            leases: Told::default(),
            loud: true,
            lines: Vec::new(),
        })
    }

    /// Carries out one command; returns what there was to tell.
    pub fn run(&mut self, command: &str) -> Result<Vec<String>> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (name, rest) = words.split_first().ok_or_else(|| bad(command))?;
        let numbers: Vec<u64> = rest.iter().filter_map(|word| word.parse().ok()).collect();
        let nodes = match rest.first() {
            Some(&"all") => vec![1, 2, 3],
            _ => numbers.first().copied().into_iter().collect(),
        };
        self.loud = true;
        match *name {
            "settle" if numbers.is_empty() => {
                let all: Vec<u64> = (1..=self.members.len() as u64).collect();
                self.settle(&all)?;
            }
            "settle" => self.settle(&numbers)?,
            "seen" => self.seen = self.last_ts + arg(&numbers, 0, command)? * 1000,
            "version" => self.version = arg(&numbers, 0, command)?,
            "txn" | "take" => self.distributed(&words, &numbers, command)?,
            "await" => self.wait_for_change(&words, &numbers, command)?,
            "lease" | "recalls" => {
                let asked = self.leases.request(name, &numbers);
                let (node, request) = asked.ok_or_else(|| bad(command))?;
                self.input(node, Input::Request(request))?;
            }
            "cancel" | "hangup" => {
                if let Some(waited) = self.waits.get(&arg(&numbers, 0, command)?) {
                    waited[usize::from(*name == "hangup")].store(true, Ordering::Relaxed);
                }
            }
            "pass" => self.now_us += arg(&numbers, 0, command)? * 1000,
            "join" => self.cut.clear(),
            "new" => {
                let node = self.members.len() as u64 + 1;
                self.members.push(Member::new(config(node, Vec::new()))?);
            }
            "cut" => self.cut.extend(&nodes),
            "deliver" | "drop" => {
                let ends = (arg(&numbers, 0, command)?, arg(&numbers, 1, command)?);
                self.deliver(ends, *name == "drop")?;
            }
            "tick" => {
                // `tick all 3` has its count first, `tick 2 3` second.
                let place = usize::from(nodes.len() == 1);
                for _ in 0..numbers.get(place).copied().unwrap_or(1) {
                    self.now_us += TICK_US;
                    for node in &nodes {
                        self.input(*node, Input::Tick)?;
                    }
                }
            }
            _ => {
                for node in nodes {
                    self.at_node(name, node, &numbers, command)?;
                }
            }
        }
        Ok(std::mem::take(&mut self.lines))
    }

    fn at_node(&mut self, name: &str, node: u64, numbers: &[u64], command: &str) -> Result<()> {
        let second = |default| numbers.get(1).copied().unwrap_or(default);
        match name {
            "campaign" => self.input(node, Input::Campaign),
            "transfer" => self.input(node, Input::TransferLeader(arg(numbers, 1, command)?)),
            "learner" => {
                self.change_members(node, MemberChange::AddLearner(arg(numbers, 1, command)?))
            }
            "voters" => self.change_members(node, MemberChange::SetVoters(numbers[1..].to_vec())),
            "flush" => self.input(node, Input::Flush),
            "burst" => (0..second(1)).try_for_each(|_| self.input(node, Input::Tick)),
            "add" | "read" | "fail" | "fence" | "confirm" => {
                self.request(name, node, numbers, command)
            }
            "elect" => {
                self.loud = false;
                for _ in 0..10 {
                    self.now_us += TICK_US;
                    (1..=3).try_for_each(|node| self.input(node, Input::Tick))?;
                }
                self.input(node, Input::Campaign)?;
                self.settle(&[1, 2, 3])
            }
            "fill" => {
                self.request("add", node, &[node, second(0), 0], command)?;
                self.settle(&[1, 2, 3])
            }
            "snapshot-ts" => self.input(node, Input::SnapshotTs { id: second(0) }),
            "snapshot-at" => {
                self.promised = self.last_ts + arg(numbers, 2, command)? * 1000;
                let ts = self.promised;
                self.input(node, Input::SnapshotAt { id: second(0), ts })
            }
            "write" => self.write(node),
            "apply" => self.apply(node),
            "save" => {
                let report = self.member(node)?.flush()?;
                self.input(node, Input::Applied(report))
            }
            "crash" => self.member(node)?.crash(true, 0),
            "start" => self.member(node)?.start(),
            "counters" | "counters-at" => {
                let ts = self.promised;
                let store = self.member(node)?.store();
                let picture = match name {
                    "counters" => Picture::now(store)?,
                    _ => Picture::at(store, ts)?,
                };
                self.lines
                    .push(format!("n{node} counters {:?}", picture.counters));
                Ok(())
            }
            "log" => {
                let replica = self.member(node)?.replica();
                let line = replica.map_or("down".into(), |replica| log_line(&replica.status()));
                self.lines.push(format!("n{node} log {line}"));
                Ok(())
            }
            _ => Err(bad(command)),
        }
    }

    fn change_members(&mut self, node: u64, change: MemberChange) -> Result<()> {
        let (id, version) = (0, self.version);
        self.input(
            node,
            Input::ChangeMembers {
                id,
                version,
                change,
            },
        )
    }

    fn request(&mut self, name: &str, node: u64, numbers: &[u64], command: &str) -> Result<()> {
        let counter = arg(numbers, 2, command)?;
        self.ops += 1;
        let op = self.ops;
        let work: Arc<dyn Transaction> = match name {
            "add" => Arc::new(Work::Add { counter, op }),
            "fail" => Arc::new(Work::Fail { counter, op }),
            "fence" | "confirm" => Arc::new(Fence {
                version: counter,
                confirms: name == "confirm",
            }),
            _ => Arc::new(Work::Read { counter }),
        };
        let session = match numbers.get(3..5) {
            Some([session, number]) => Some((u128::from(*session), *number)),
            _ => None,
        };
        let request = Request {
            id: arg(numbers, 1, command)?,
            task: Task::Run(work),
            session,
            seen: self.seen,
            cancel: None,
            waited: Waited::default(),
        };
        self.input(node, Input::Request(request))
    }

    fn wait_for_change(&mut self, words: &[&str], numbers: &[u64], command: &str) -> Result<()> {
        let id = arg(numbers, 1, command)?;
        let [cancel, gone] = self.waits.entry(id).or_default().clone();
        let here = words.last() != Some(&"remote");
        let work = Await {
            counter: arg(numbers, 2, command)?,
            until_us: arg(numbers, 3, command)? * 1000,
        };
        let request = Request {
            id,
            task: Task::Run(Arc::new(work)),
            session: match numbers.get(4..6) {
                Some([session, number]) => Some((u128::from(*session), *number)),
                _ => None,
            },
            seen: self.seen,
            cancel: Some(cancel),
            waited: Waited {
                gone: here.then_some(gone),
                ..Waited::default()
            },
        };
        self.input(arg(numbers, 0, command)?, Input::Request(request))
    }

    fn distributed(&mut self, words: &[&str], numbers: &[u64], command: &str) -> Result<()> {
        let (node, id) = (arg(numbers, 0, command)?, arg(numbers, 1, command)?);
        let known = Known {
            now_us: (EPOCH_US + self.now_us as i64) as u64,
            snapshot_ts: self.last_ts,
            stamp: self.stamp,
        };
        let task = if words.first() == Some(&"txn") {
            self.txns.insert(id);
            let work = script_txn::work(words.get(3..).unwrap_or(&[]), known)?;
            Task::Txn(Arc::new(work))
        } else {
            Task::Run(Arc::new(Take {
                counter: arg(numbers, 2, command)?,
                wait: match words.last() {
                    Some(&"nowait") => WaitPolicy::NoWait,
                    Some(&"skip") => WaitPolicy::SkipLocked,
                    _ => WaitPolicy::Wait,
                },
            }))
        };
        let (session, cancel) = (None, None);
        self.input(
            node,
            Input::Request(Request {
                id,
                task,
                session,
                seen: self.seen,
                cancel,
                waited: Waited::default(),
            }),
        )
    }

    /// An output in words.
    fn tell(&mut self, output: &Output) -> Result<String> {
        match output {
            Output::Reply {
                id,
                result: Ok(reply),
                ..
            } if self.txns.contains(id) => {
                self.stamp = script_txn::stamp(reply).unwrap_or(self.stamp);
                Ok(format!("reply {id} {}", script_txn::told(reply)?))
            }
            Output::Reply {
                id,
                result: Ok(reply),
                ..
            } => {
                let told = self.leases.tell(*id, reply);
                Ok(told.unwrap_or_else(|| transcript::output(output)))
            }
            _ => Ok(transcript::output(output)),
        }
    }

    fn member(&mut self, node: u64) -> Result<&mut Member> {
        let place = (node as usize).wrapping_sub(1);
        let found = self.members.get_mut(place);
        found.ok_or_else(|| Error::internal(format!("there is no node {node}")))
    }

    fn input(&mut self, node: u64, input: Input) -> Result<()> {
        let now = Now {
            mono_us: self.now_us,
            wall_us: EPOCH_US + self.now_us as i64 - node as i64 * 200_000,
        };
        let mut out = Vec::new();
        self.member(node)?.step(now, input, &mut out)?;
        let mut made = Vec::new();
        for output in out {
            if let Output::Checkpoint { members } = &output {
                made.push(self.member(node)?.checkpoint(members));
            }
            let quiet = matches!(
                output,
                Output::Send(_) | Output::Write { .. } | Output::Apply(_)
            );
            if self.loud || !quiet {
                let text = self.tell(&output)?;
                self.lines
                    .extend(text.lines().map(|line| format!("n{node} {line}")));
            }
            self.carry_out(node, output)?;
        }
        // Behind the other outputs, whose order counts.
        made.into_iter()
            .try_for_each(|made| self.input(node, Input::Checkpointed(made)))
    }

    fn carry_out(&mut self, node: u64, output: Output) -> Result<()> {
        match output {
            Output::Send(messages) => {
                let cut = &self.cut;
                let passes =
                    |m: &Message| !cut.contains(&node_of(m.from)) && !cut.contains(&node_of(m.to));
                self.messages.extend(messages.into_iter().filter(passes));
            }
            Output::Write { token, write, sync } => {
                let waiting = WaitingWrite { token, write, sync };
                self.member(node)?.writes.push_back(waiting);
            }
            Output::Apply(job) => self.member(node)?.applies.push_back(job),
            // The scenario answers.
            Output::Resolve { .. } | Output::Finish { .. } => {}
            Output::Truncate { index } => self.member(node)?.truncate(index)?,
            Output::SnapshotTs { result: Ok(ts), .. } => self.last_ts = ts,
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self, node: u64) -> Result<()> {
        while let Some(token) = self.member(node)?.do_write()? {
            self.input(node, Input::Persisted { token })?;
        }
        Ok(())
    }

    fn apply(&mut self, node: u64) -> Result<()> {
        while let Some(report) = self.member(node)?.do_apply()? {
            self.input(node, Input::Applied(report))?;
        }
        Ok(())
    }

    fn deliver(&mut self, ends: (u64, u64), lose: bool) -> Result<()> {
        let waiting = std::mem::take(&mut self.messages);
        let (now, later) = waiting
            .into_iter()
            .partition(|m: &Message| (node_of(m.from), node_of(m.to)) == ends);
        self.messages = later;
        let now: VecDeque<Message> = now;
        for message in now {
            if !lose {
                self.input(node_of(message.to), Input::Message(message))?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, among: &[u64]) -> Result<()> {
        self.loud = false;
        loop {
            let mut working = false;
            for node in among {
                if self.member(*node)?.is_up() {
                    self.write(*node)?;
                    self.apply(*node)?;
                    self.input(*node, Input::Flush)?;
                    let member = self.member(*node)?;
                    working |= !member.writes.is_empty() || !member.applies.is_empty();
                }
            }
            let of_them =
                |m: &Message| among.contains(&node_of(m.from)) && among.contains(&node_of(m.to));
            match self.messages.iter().position(of_them) {
                Some(place) => {
                    if let Some(message) = self.messages.remove(place)
                        && self.member(node_of(message.to))?.is_up()
                    {
                        self.input(node_of(message.to), Input::Message(message))?;
                    }
                }
                None if working => {}
                None => return Ok(()),
            }
        }
    }
}

fn config(node: u64, voters: Vec<u64>) -> ReplicaConfig {
    ReplicaConfig {
        log_bytes_max: 6_000,
        sessions_max: 2,
        batches_in_flight_max: 2,
        changes_bytes_max: 1_000,
        queue_max: 12,
        snapshot_patience_ticks: 20,
        ..ReplicaConfig::new(node, 1, voters)
    }
}

fn log_line(status: &ReplicaStatus) -> String {
    let mut line = format!(
        "{}..={} applied {}",
        status.first_index, status.last_index, status.applied
    );
    if status.voters != [1, 2, 3] || !status.learners.is_empty() || status.joint {
        line += &format!(
            " voters {:?} learners {:?}{}",
            status.voters,
            status.learners,
            if status.joint { " joint" } else { "" }
        );
    }
    line
}

fn bad(command: &str) -> Error {
    Error::internal(format!("no such command: {command}"))
}

fn arg(numbers: &[u64], place: usize, command: &str) -> Result<u64> {
    numbers.get(place).copied().ok_or_else(|| bad(command))
}
