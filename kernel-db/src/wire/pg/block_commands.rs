//! Carries out BEGIN and what belongs to it, and runs statements inside a block.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwire::messages::response::TransactionStatus;

use super::backend::{BlockMode, Bound, Isolation, Outcome, Running};
use super::block::{BlockCommand, Modes, OpenBlock, aborted, done};
use super::reader::{Reader, wait};
use crate::error::{Error, Result};

/// Replies kept while a client executes inside a block without Sync; past it they are sent.
const REPLIES_KEPT: usize = 256;

/// There is no block to end.
const NO_BLOCK: (&str, &str) = ("25P01", "there is no transaction in progress");

impl Reader {
    /// As ReadyForQuery says it.
    pub(super) fn status(&self) -> TransactionStatus {
        match &self.block {
            None => TransactionStatus::Idle,
            Some(open) if open.failed => TransactionStatus::Error,
            Some(_) => TransactionStatus::Transaction,
        }
    }

    /// True if only the block's end is accepted.
    pub(super) fn block_failed(&self) -> bool {
        self.block.as_ref().is_some_and(|open| open.failed)
    }

    /// How long the client may leave its block alone.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        self.block.as_ref()?;
        let ms = self.settings.get("idle_in_transaction_session_timeout");
        match ms.ok()?.parse() {
            Ok(0) | Err(_) => None,
            Ok(ms) => Some(Duration::from_millis(ms)),
        }
    }

    /// What SHOW transaction_isolation says.
    pub(super) fn isolation(&self) -> &str {
        match &self.block {
            Some(open) => open.mode.isolation.name(),
            None => self
                .settings
                .get("default_transaction_isolation")
                .unwrap_or("serializable"),
        }
    }

    pub(super) async fn block_command(&mut self, command: &BlockCommand) -> Result<Outcome> {
        if self.block_failed() && !command.ends_failure() {
            return Err(aborted());
        }
        let tag = command.tag();
        match command {
            BlockCommand::Begin { modes, .. } => {
                if self.block.is_some() {
                    let warning = ("25001", "there is already a transaction in progress");
                    return Ok(done(tag, Some(warning)));
                }
                self.begin(*modes).await?;
            }
            BlockCommand::SetTransaction(modes) => match &mut self.block {
                Some(open) => open.set(*modes)?,
                None => {
                    let message = "SET TRANSACTION can only be used in transaction blocks";
                    return Ok(done(tag, Some(("25P01", message))));
                }
            },
            BlockCommand::Commit { chain } => return self.commit(*chain).await,
            BlockCommand::Rollback { chain } => {
                let Some(open) = self.end_block(*chain)? else {
                    return Ok(done(tag, Some(NO_BLOCK)));
                };
                let mode = open.mode;
                drop(open);
                self.chain(*chain, mode)?;
            }
            BlockCommand::Savepoint(name) => self.in_block(tag)?.savepoint(name.clone())?,
            BlockCommand::Release(name) => self.in_block("RELEASE SAVEPOINT")?.release(name)?,
            BlockCommand::RollbackTo(name) => {
                self.in_block("ROLLBACK TO SAVEPOINT")?.rollback_to(name)?;
            }
        }
        Ok(done(tag, None))
    }

    fn in_block(&mut self, what: &str) -> Result<&mut OpenBlock> {
        self.block.as_mut().ok_or_else(|| {
            Error::new(
                "25P01",
                format!("{what} can only be used in transaction blocks"),
            )
        })
    }

    /// Opens a block; statements that were executed before it in the same implicit transaction become part of it.
    async fn begin(&mut self, modes: Modes) -> Result<()> {
        let default = self.settings.get("default_transaction_isolation")?;
        let mode = BlockMode {
            isolation: modes
                .isolation
                .or_else(|| Isolation::from_name(default))
                .unwrap_or(Isolation::Serializable),
            read_only: modes.read_only.unwrap_or(false),
        };
        let queue = self.queue.clone();
        wait(|| queue.is_idle()).await;
        self.open(mode)?;
        let before = std::mem::take(&mut self.txn);
        for (n, bound) in before.into_iter().enumerate() {
            let outcome = self.in_block("BEGIN")?.block.run(bound).await?;
            if let Some(cursor) = self.part.cursors.get(n) {
                cursor.fill(outcome);
            }
        }
        self.part.cursors.clear();
        Ok(())
    }

    fn open(&mut self, mode: BlockMode) -> Result<()> {
        let block = self.backend.begin(&self.info, mode)?;
        self.block = Some(OpenBlock::new(block, mode));
        Ok(())
    }

    async fn commit(&mut self, chain: bool) -> Result<Outcome> {
        let Some(open) = self.end_block(chain)? else {
            return Ok(done("COMMIT", Some(NO_BLOCK)));
        };
        let mode = open.mode;
        let failed = open.failed;
        if !failed {
            self.busy("COMMIT".into());
            let committed = open.block.commit().await;
            self.info.running.borrow_mut().pop_back();
            committed?;
        }
        drop(open);
        self.chain(chain, mode)?;
        Ok(done(if failed { "ROLLBACK" } else { "COMMIT" }, None))
    }

    /// Takes the block away, to be committed or dropped.
    fn end_block(&mut self, chain: bool) -> Result<Option<OpenBlock>> {
        if self.block.is_none() {
            if chain {
                let message = "COMMIT AND CHAIN can only be used in transaction blocks";
                return Err(Error::new("25P01", message));
            }
            if !self.txn.is_empty() {
                return Err(Error::unsupported(
                    "ending an implicit transaction before its Sync or end of query",
                )
                .hint("send BEGIN first"));
            }
        }
        Ok(self.block.take())
    }

    fn chain(&mut self, chain: bool, mode: BlockMode) -> Result<()> {
        if chain { self.open(mode) } else { Ok(()) }
    }

    /// Runs a statement of the open block, now.
    pub(super) async fn in_block_run(&mut self, bound: Bound, text: Arc<str>) -> Result<Outcome> {
        if self.block_failed() {
            return Err(aborted());
        }
        if self.part.replies.len() > REPLIES_KEPT {
            self.flush_part().await;
        }
        let open = self.in_block("a statement")?;
        open.started = true;
        let running = open.block.run(bound);
        self.busy(text);
        let outcome = running.await;
        self.info.running.borrow_mut().pop_back();
        outcome
    }

    /// Shows in dbos.statements what is running.
    fn busy(&self, query: Arc<str>) {
        let started_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_micros() as i64);
        self.info
            .running
            .borrow_mut()
            .push_back(Running { started_us, query });
        self.info.submitted.set(self.info.submitted.get() + 1);
    }
}
