//! Carries out BEGIN and what belongs to it, and runs statements inside a block.

use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::response::TransactionStatus;

use super::backend::{BlockMode, Bound, Isolation, Outcome};
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
                if self.in_progress() {
                    let warning = ("25001", "there is already a transaction in progress");
                    return Ok(done(tag, Some(warning)));
                }
                self.begin(*modes).await?;
            }
            BlockCommand::SetTransaction(modes) => match &mut self.block {
                Some(open) if !open.implicit => open.set(*modes)?,
                _ => {
                    let message = "SET TRANSACTION can only be used in transaction blocks";
                    return Ok(done(tag, Some(("25P01", message))));
                }
            },
            BlockCommand::Commit { chain } => return self.commit(*chain).await,
            BlockCommand::Rollback { chain } => return self.rollback(*chain).await,
            BlockCommand::Savepoint(name) => {
                let settings = self.settings.clone();
                self.in_block(tag)?.savepoint(name.clone(), settings)?;
            }
            BlockCommand::Release(name) => self.in_block("RELEASE SAVEPOINT")?.release(name)?,
            BlockCommand::RollbackTo(name) => {
                let then = self.in_block("ROLLBACK TO SAVEPOINT")?.rollback_to(name)?;
                self.return_settings(then);
            }
        }
        Ok(done(tag, None))
    }

    /// True in a block that the client has begun.
    fn in_progress(&self) -> bool {
        self.block.as_ref().is_some_and(|open| !open.implicit)
    }

    /// True if there is an end that something could last until.
    pub(super) fn in_transaction(&self) -> bool {
        self.several || self.block.is_some() || !self.txn.is_empty()
    }

    fn in_block(&mut self, what: &str) -> Result<&mut OpenBlock> {
        let open = self.block.as_mut().filter(|open| !open.implicit);
        open.ok_or_else(|| {
            Error::new(
                "25P01",
                format!("{what} can only be used in transaction blocks"),
            )
        })
    }

    /// Opens a block; statements that were executed before it in the same implicit transaction become part of it.
    async fn begin(&mut self, modes: Modes) -> Result<()> {
        if self.changes_schema() {
            self.cut_at_schema().await?;
        }
        if let Some(open) = &mut self.block {
            open.set(modes)?;
            open.implicit = false;
            return Ok(());
        }
        let mut mode = self.default_mode()?;
        mode.isolation = modes.isolation.unwrap_or(mode.isolation);
        mode.read_only = modes.read_only.unwrap_or(mode.read_only);
        let queue = self.queue.clone();
        wait(|| queue.is_idle()).await;
        self.open(mode)?;
        self.run_collected().await
    }

    /// Of a block that says nothing about it.
    pub(super) fn default_mode(&self) -> Result<BlockMode> {
        let isolation = self.settings.get("default_transaction_isolation")?;
        Ok(BlockMode {
            isolation: Isolation::from_name(isolation).unwrap_or(Isolation::Serializable),
            read_only: false,
        })
    }

    pub(super) fn open(&mut self, mode: BlockMode) -> Result<()> {
        let block = self.backend.begin(&self.info, mode)?;
        self.block = Some(OpenBlock::new(block, mode));
        Ok(())
    }

    async fn commit(&mut self, chain: bool) -> Result<Outcome> {
        if !self.in_progress() {
            // As in PostgreSQL it ends the implicit transaction.
            no_chain(chain)?;
            self.cut().await?;
        }
        let Some(open) = self.block.take() else {
            self.settle_settings(true);
            return Ok(done("COMMIT", Some(NO_BLOCK)));
        };
        let committed = match open.failed {
            true => Ok(()),
            false => self.commit_block(&open).await,
        };
        self.settle_settings(!open.failed && committed.is_ok());
        committed?;
        let (mode, implicit) = (open.mode, open.implicit);
        let tag = if open.failed { "ROLLBACK" } else { "COMMIT" };
        drop(open);
        self.chain(chain, mode)?;
        Ok(done(tag, implicit.then_some(NO_BLOCK)))
    }

    pub(super) async fn commit_block(&mut self, open: &OpenBlock) -> Result<()> {
        self.busy("COMMIT".into());
        let committed = open.block.commit().await;
        self.info.running.borrow_mut().pop_back();
        committed
    }

    async fn rollback(&mut self, chain: bool) -> Result<Outcome> {
        if !self.in_progress() {
            no_chain(chain)?;
            self.show_collected().await?;
        }
        self.settle_settings(false);
        let Some(open) = self.block.take() else {
            return Ok(done("ROLLBACK", Some(NO_BLOCK)));
        };
        let (mode, implicit) = (open.mode, open.implicit);
        drop(open);
        self.chain(chain, mode)?;
        Ok(done("ROLLBACK", implicit.then_some(NO_BLOCK)))
    }

    fn chain(&mut self, chain: bool, mode: BlockMode) -> Result<()> {
        if chain { self.open(mode) } else { Ok(()) }
    }

    /// Runs a statement of the open block, now.
    pub(super) async fn in_block_run(&mut self, bound: Bound, text: Arc<str>) -> Result<Outcome> {
        if self.block_failed() {
            return Err(aborted());
        }
        self.send_kept().await;
        let open = self.block.as_mut();
        let open = open.ok_or_else(|| Error::internal("a statement outside of a block"))?;
        open.started = true;
        let running = open.block.run(bound);
        self.busy(text);
        let outcome = running.await;
        self.info.running.borrow_mut().pop_back();
        outcome
    }

    /// Sends the replies so far if they are many.
    pub(super) async fn send_kept(&mut self) {
        if self.part.cursors.is_empty() && self.part.replies.len() > REPLIES_KEPT {
            self.flush_part().await;
        }
    }
}

fn no_chain(chain: bool) -> Result<()> {
    if chain {
        let message = "COMMIT AND CHAIN can only be used in transaction blocks";
        return Err(Error::new("25P01", message));
    }
    Ok(())
}
