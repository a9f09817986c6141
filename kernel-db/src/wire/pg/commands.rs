//! Executes statements about the connection itself.

use super::backend::Outcome;
use super::block::{Modes, aborted, done};
use super::queue::Reply;
use super::reader::Reader;
use super::session::{Command, REQUEST, SEEN, SESSION};
use super::settings::{Changed, Settings, severity_rank};
use crate::error::{Error, Result};
use crate::sql::Value;

/// SET LOCAL where there is nothing that could end.
const NO_LOCAL: (&str, &str) = ("25P01", "SET LOCAL can only be used in transaction blocks");

impl Reader {
    /// Takes effect at once, before anything that comes later on the connection is submitted.
    pub(super) async fn command(&mut self, command: &Command) -> Result<Outcome> {
        if let Command::Block(command) = command {
            return self.block_command(command).await;
        }
        if self.block_failed() {
            return Err(aborted());
        }
        let mut rows = Vec::new();
        let mut warning = None;
        match command {
            Command::Set { name, value, .. } if name == REQUEST => {
                self.set_request(value.as_deref())?
            }
            Command::Set { name, value, .. } if name == SEEN => {
                let seen = parse_seen(value.as_deref().unwrap_or_default())?;
                self.backend.observe(seen)?;
            }
            Command::Set { name, .. } | Command::Reset { name } if name == SESSION => {
                return Err(
                    Error::new("55P02", "parameter \"dbos.session\" cannot be changed")
                        .hint("give it in the startup options: -c dbos.session=<32 hex digits>"),
                );
            }
            Command::Set { name, value, local } => {
                warning = (*local && !self.in_transaction()).then_some(NO_LOCAL);
                self.set(name, value.as_deref(), *local)?;
            }
            Command::Reset { name } => self.set(name, None, false)?,
            Command::ResetAll => self.reset_all(),
            Command::Show { name } => rows.push(vec![self.show(name)?]),
            Command::ShowAll => rows = self.show_all(),
            Command::DiscardAll => {
                if self.block.is_some() {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(Error::new("25001", message));
                }
                self.reset_all();
                self.deallocate(None)?;
            }
            Command::Deallocate { name } => self.deallocate(name.as_deref())?,
            Command::Characteristics(modes) => self.characteristics(*modes)?,
            Command::DiscardNothing { .. } | Command::Block(_) => {}
        }
        Ok(Outcome {
            rows,
            ..done(command.tag(), warning)
        })
    }

    fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<()> {
        self.save_settings();
        let changed = match local {
            true => self.settings.set_local(name, value)?,
            false => self.settings.set(name, value)?,
        };
        self.took_effect(&changed);
        Ok(())
    }

    /// Before the first change of a transaction.
    fn save_settings(&mut self) {
        if self.saved.is_none() {
            self.saved = Some(self.settings.clone());
        }
    }

    /// The transaction is over: what it has set stays if it was committed.
    pub(super) fn settle_settings(&mut self, committed: bool) {
        if let Some(saved) = self.saved.take() {
            let changed = match committed {
                true => self.settings.end_local(),
                false => self.settings.restore(saved),
            };
            self.took_effect_all(&changed);
        }
    }

    /// ROLLBACK TO a savepoint that was set when they were so.
    pub(super) fn return_settings(&mut self, then: Settings) {
        let changed = self.settings.restore(then);
        self.took_effect_all(&changed);
    }

    fn took_effect_all(&mut self, changed: &[Changed]) {
        for changed in changed {
            self.took_effect(changed);
        }
    }

    /// I11: a retry of an unknown outcome runs under the number it had.
    fn set_request(&mut self, value: Option<&str>) -> Result<()> {
        if self.info.session.is_none() {
            return Err(Error::new("55000", "the connection has no session")
                .hint("give one in the startup options: -c dbos.session=<32 hex digits>"));
        }
        self.next_request = parse_request(value.unwrap_or_default())?;
        Ok(())
    }

    fn show(&self, name: &str) -> Result<Value> {
        let value = match name {
            SESSION => self
                .info
                .session
                .map_or(String::new(), |session| format!("{session:032x}")),
            REQUEST => self.next_request.to_string(),
            SEEN => self.backend.seen().to_string(),
            "transaction_isolation" => self.isolation().to_owned(),
            "transaction_read_only" if self.read_only() => "on".to_owned(),
            name => self.settings.shown(name)?,
        };
        Ok(Value::Text(value.into()))
    }

    fn read_only(&self) -> bool {
        self.block.as_ref().is_some_and(|open| open.mode.read_only)
    }

    /// Defaults of later blocks.
    fn characteristics(&mut self, modes: Modes) -> Result<()> {
        if modes.read_only == Some(true) {
            return Err(Error::unsupported("READ ONLY for a whole session")
                .hint("BEGIN READ ONLY is supported"));
        }
        match modes.isolation {
            Some(isolation) => {
                let name = "default_transaction_isolation";
                self.set(name, Some(isolation.name()), false)
            }
            None => Ok(()),
        }
    }

    fn show_all(&self) -> Vec<Vec<Value>> {
        let text = |text: &str| Value::Text(text.into());
        self.settings
            .all(false)
            .map(|(name, value)| vec![text(name), text(&value), text("")])
            .collect()
    }

    fn reset_all(&mut self) {
        self.save_settings();
        let changed = self.settings.reset();
        self.took_effect_all(&changed);
    }

    /// Carries a setting to where it is used.
    pub(super) fn took_effect(&mut self, changed: &Changed) {
        let value = self
            .settings
            .get(changed.name)
            .unwrap_or_default()
            .to_owned();
        match changed.name {
            "application_name" => self.info.application_name.borrow_mut().clone_from(&value),
            "statement_timeout" => self
                .info
                .statement_timeout_ms
                .set(value.parse().unwrap_or(0)),
            "lock_timeout" => self.info.lock_timeout_ms.set(value.parse().unwrap_or(0)),
            "client_min_messages" => self
                .queue
                .min_severity
                .set(severity_rank(&value).unwrap_or(0)),
            "dbos.pipeline_order" => self.strict = value == "connection",
            _ => {}
        }
        if changed.reported {
            self.part.replies.push(Reply::ParameterStatus {
                name: changed.name,
                value,
            });
        }
    }
}

/// What another node has shown by SHOW dbos.seen.
fn parse_seen(value: &str) -> Result<u64> {
    value.parse().map_err(|_| {
        let message = format!("invalid value for parameter \"{SEEN}\": \"{value}\"");
        Error::new("22023", message).hint("give what SHOW dbos.seen tells on another node")
    })
}

/// A request number: from 1.
pub fn parse_request(value: &str) -> Result<u64> {
    match value.parse::<u64>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::new(
            "22023",
            format!("invalid value for parameter \"{REQUEST}\": \"{value}\""),
        )
        .hint("use a number from 1")),
    }
}
