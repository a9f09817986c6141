//! Inputs and outputs of a replica as lines of text.

use std::fmt::Write as _;

use raft::eraftpb::{Entry, Message, MessageType};

use crate::error::{Class, Error};
use crate::partition::Output;
#[cfg(test)]
use crate::partition::{Input, Task};
use crate::raft::member_id::{index_of, node_of};

/// One line, without line end.
#[cfg(test)]
pub fn input(input: &Input) -> String {
    match input {
        Input::Tick => "tick".into(),
        Input::Message(m) => format!("receive {}", message(m)),
        Input::Persisted { token } => format!("persisted {token}"),
        Input::Applied(report) => format!("applied {} durable {}", report.index, report.durable),
        Input::Request(request) => match &request.task {
            Task::Run(_) => format!("request {}", request.id),
            Task::Txn(work) => format!("request {} {work:?}", request.id),
        },
        Input::Flush => "flush".into(),
        Input::Campaign => "campaign".into(),
        Input::TransferLeader(to) => format!("transfer to {to}"),
        Input::Checkpointed(Ok(made)) => format!("checkpointed {}", made.index),
        Input::Checkpointed(Err(_)) => "checkpoint failed".into(),
        Input::CheckpointGone => "checkpoint gone".into(),
        Input::SnapshotProgress { to } => format!("snapshot-progress {to}"),
        Input::SnapshotDone { to, arrived } => format!("snapshot-done {to} {arrived}"),
        Input::ChangeMembers {
            version, change, ..
        } => format!("change for version {version} {change:?}"),
        Input::SnapshotTs { id } => format!("snapshot-ts {id}"),
        Input::SnapshotAt { id, ts } => format!("snapshot-at {id} {ts}"),
    }
}

/// One line per message, one for anything else.
pub fn output(output: &Output) -> String {
    match output {
        Output::Send(messages) => {
            let lines: Vec<_> = messages
                .iter()
                .map(|m| format!("send {}", message(m)))
                .collect();
            lines.join("\n")
        }
        Output::Write { token, write, sync } => {
            let mut line = format!("write {token}{}", span(&write.entries));
            if let Some(hs) = &write.hard_state {
                let _ = write!(line, " term {} vote {}", hs.term, hs.vote);
            }
            line + if *sync { " sync" } else { "" }
        }
        Output::Apply(job) => {
            let mut line = "apply".to_string();
            if let Some(checkpoint) = &job.install {
                let _ = write!(line, " install {}", checkpoint.index);
            }
            line + &span(&job.entries)
        }
        Output::Checkpoint { .. } => "checkpoint".into(),
        Output::Members { id, result } => {
            format!("members {id} {}", outcome(result, |()| String::new()))
        }
        Output::Reply { id, result, .. } => {
            format!("reply {id} {}", outcome(result, |reply| hex(reply)))
        }
        Output::SnapshotTs { id, result } => {
            format!("snapshot-ts {id} {}", outcome(result, u64::to_string))
        }
        Output::SnapshotReady { id, result } => {
            format!(
                "snapshot-ready {id} {}",
                outcome(result, |()| String::new())
            )
        }
        Output::Role(role) => format!(
            "role leader {} term {}{}{}",
            role.leader.unwrap_or(0),
            role.term,
            if role.is_leader { " leads" } else { "" },
            if role.open { " open" } else { "" }
        ),
        Output::Resolve {
            txn, coordinator, ..
        } => format!("resolve {} at group {coordinator}", txn.start),
        Output::Finish {
            txn,
            commit_ts,
            others,
        } => format!(
            "finish {} committed at {commit_ts} in groups {others:?}",
            txn.start
        ),
        Output::Truncate { index } => format!("truncate {index}"),
    }
}

pub fn message(m: &Message) -> String {
    let kind = format!("{:?}", m.get_msg_type());
    let kind = kind.trim_start_matches("Msg");
    let mut line = format!(
        "{}->{} {kind} term {}",
        member(m.from),
        member(m.to),
        m.term
    );
    match m.get_msg_type() {
        MessageType::MsgAppend => {
            let _ = write!(
                line,
                " after {}{} commit {}",
                m.index,
                span(&m.entries),
                m.commit
            );
        }
        MessageType::MsgAppendResponse => {
            let _ = write!(line, " index {}", m.index);
        }
        MessageType::MsgHeartbeat => {
            let _ = write!(line, " commit {}", m.commit);
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            let _ = write!(line, " last {}/{}", m.log_term, m.index);
        }
        _ => {}
    }
    line + if m.reject { " reject" } else { "" }
}

/// A first member by its node; a later one with the index of the entry that made it one.
fn member(number: u64) -> String {
    match index_of(number) {
        0 => node_of(number).to_string(),
        index => format!("{}@{index}", node_of(number)),
    }
}

fn span(entries: &[Entry]) -> String {
    match (entries.first(), entries.last()) {
        (Some(first), Some(last)) if first.index == last.index => {
            format!(" {}/{}", first.term, first.index)
        }
        (Some(first), Some(last)) => format!(
            " {}/{}..{}/{}",
            first.term, first.index, last.term, last.index
        ),
        _ => String::new(),
    }
}

fn outcome<T>(result: &Result<T, Error>, ok: impl Fn(&T) -> String) -> String {
    match result {
        Ok(value) => format!("ok {}", ok(value)).trim_end().to_owned(),
        Err(error) => {
            let class = match error.class() {
                Class::Request => "request",
                Class::Retry => "retry",
                Class::Unknown => "unknown",
            };
            let detail = error
                .get_detail()
                .map(|d| format!(" [{d}]"))
                .unwrap_or_default();
            format!("{class} {} {}{detail}", error.sqlstate(), error.message())
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    // Counters are eight bytes; leading zeros say nothing.
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let short = text.trim_start_matches('0');
    if short.is_empty() && !text.is_empty() {
        "0".into()
    } else {
        short.to_owned()
    }
}
