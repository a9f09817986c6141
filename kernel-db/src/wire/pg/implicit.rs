//! The implicit transaction: the statements up to one Sync, or of one simple query.
//!
//! They are collected and submitted together at its end; the reader goes on with the next messages while they run. What
//! holds: transactions are submitted in the order of their Syncs; lanes (see `backend`) never overlap; request numbers are
//! given out in that order (I11).
//!
//! Two things cannot wait for the end. **Flush** asks for results before it: what was collected moves into a block that the
//! client did not ask for (`OpenBlock::implicit`), which reads a snapshot of what is committed and commits at the end; so
//! what is shown early is the transaction's own and derives from nobody else's uncommitted work (I4). **A change of the
//! schema** must be there before what uses it can be planned: it is cut off as a transaction of its own, with others of its
//! kind that follow each other, and so is what came before it. If something fails later, what was cut off stays, and the error's
//! detail says so.
//!
//! A failed transaction answers like PostgreSQL's: the results before the statement that failed are shown, and undone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::LocalBoxFuture;

use super::backend::{Bound, Effect, Failed, Lane, Outcome, Running};
use super::queue::{Cursor, Part, Reply};
use super::reader::{Reader, wait};
use crate::error::{Error, Result};

/// Statements of one transaction.
const TRANSACTION_STATEMENTS_MAX: usize = 10_000;

impl Reader {
    /// Adds a statement.
    pub(super) async fn collect(&mut self, bound: Bound, text: Arc<str>) -> Result<Rc<Cursor>> {
        let schema = bound.statement.effect == Effect::Schema;
        if !self.txn.is_empty() && schema != self.changes_schema() {
            self.cut_at_schema().await?;
        }
        if self.txn.len() >= TRANSACTION_STATEMENTS_MAX {
            let message =
                format!("more than {TRANSACTION_STATEMENTS_MAX} statements in one transaction");
            return Err(Error::new("54000", message).hint("send Sync more often"));
        }
        if self.txn.is_empty() {
            self.text = Some(text);
        }
        let cursor = Cursor::new(self.offset);
        self.part.cursors.push(cursor.clone());
        self.txn.push(bound);
        Ok(cursor)
    }

    /// True if what was collected changes the schema.
    pub(super) fn changes_schema(&self) -> bool {
        let last = self.txn.last();
        last.is_some_and(|bound| bound.statement.effect == Effect::Schema)
    }

    /// Commits what was collected, because it changes the schema or what comes next does.
    pub(super) async fn cut_at_schema(&mut self) -> Result<()> {
        self.cut().await?;
        self.part.partly_committed = true;
        Ok(())
    }

    /// Runs what was collected as a transaction of its own, now.
    pub(super) async fn cut(&mut self) -> Result<()> {
        if self.txn.is_empty() {
            return Ok(());
        }
        let queue = self.queue.clone();
        wait(|| queue.is_idle()).await;
        let txn = std::mem::take(&mut self.txn);
        let submitted = self.submit(txn).await;
        self.info.running.borrow_mut().pop_back();
        self.ran(submitted)?;
        self.settle_settings(true);
        self.send_kept().await;
        Ok(())
    }

    /// Fills in what the collected statements were answered.
    fn ran(&mut self, result: Result<Vec<Outcome>, Failed>) -> Result<()> {
        let (done, error) = match result {
            Ok(done) => (done, None),
            Err(Failed { before, error }) => (before, Some(error)),
        };
        let shown = done.len();
        for (cursor, outcome) in self.part.cursors.iter().zip(done) {
            cursor.fill(outcome);
        }
        let Some(error) = error else {
            self.part.cursors.clear();
            self.part.named.clear();
            return Ok(());
        };
        let (error, rest) = self.part.cut(shown, error);
        self.part.replies.extend(rest);
        for name in self.part.taken_back(shown) {
            self.prepared.remove(&name);
        }
        self.part.cursors.clear();
        Err(error)
    }

    /// Runs what was collected in the open block.
    pub(super) async fn run_collected(&mut self) -> Result<()> {
        let mut before = Vec::new();
        for bound in std::mem::take(&mut self.txn) {
            let text = self.text.clone().unwrap_or_else(|| "".into());
            match self.in_block_run(bound, text).await {
                Ok(outcome) => before.push(outcome),
                Err(error) => return self.ran(Err(Failed { before, error })),
            }
        }
        self.ran(Ok(before))
    }

    /// Flush: what was executed so far is answered before the transaction's end.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let past = |bound: &Bound| bound.statement.effect == Effect::Past;
        match self.txn.as_slice() {
            [] => {}
            [one] if past(one) => self.cut().await?,
            _ if self.changes_schema() => self.cut_at_schema().await?,
            all => {
                let numbered = all.iter().any(|bound| bound.statement.numbered);
                if self.info.session.is_some() && numbered {
                    // I11: what is shown before it is committed cannot be the reply that is kept.
                    return Err(Error::unsupported("Flush under a session number").hint(
                        "send Sync: statements are committed there and their results follow",
                    ));
                }
                self.open_implicit().await?;
                self.run_collected().await?;
            }
        }
        self.flush_part().await;
        Ok(())
    }

    async fn open_implicit(&mut self) -> Result<()> {
        let queue = self.queue.clone();
        wait(|| queue.is_idle()).await;
        let mode = self.default_mode()?;
        self.open(mode)?;
        if let Some(open) = &mut self.block {
            open.implicit = true;
        }
        Ok(())
    }

    /// Gives up the transaction. The client is shown what the statements before the error answer, as in PostgreSQL, which has
    /// run them by then; none of it is committed.
    pub(super) async fn fail(&mut self, error: Error) {
        let error = self.show_collected().await.err().unwrap_or(error);
        match &mut self.block {
            Some(open) => open.fail(),
            None => self.settle_settings(false),
        }
        let error = self.part.told(error);
        self.part.replies.push(Reply::Error(error));
    }

    /// Runs what was collected and takes it back.
    pub(super) async fn show_collected(&mut self) -> Result<()> {
        if self.txn.is_empty() {
            return Ok(());
        }
        if self.changes_schema() {
            // There is no way back from that: it is not begun.
            self.txn.clear();
            let (_, rest) = self.part.cut(0, Error::internal("given up"));
            self.part.replies.extend(rest);
            self.part.cursors.clear();
            return Ok(());
        }
        self.open_implicit().await?;
        let shown = self.run_collected().await;
        self.block = None;
        shown
    }

    /// The end: Sync, or the end of a simple query. Submits what was collected, or commits what was flushed.
    pub(super) async fn finish(&mut self) {
        self.end_implicit().await;
        if self.block.is_none() && self.saved.is_some() {
            // Whether the settings stay depends on the transaction's fate.
            if let Err(error) = self.cut().await {
                self.fail(error).await;
            }
            self.settle_settings(true);
        }
        let queue = self.queue.clone();
        if self.block.is_none() {
            self.portals.clear();
        }
        self.part.replies.push(Reply::Ready(self.status()));
        wait(|| queue.has_room()).await;
        let part = std::mem::take(&mut self.part);
        let txn = std::mem::take(&mut self.txn);
        if txn.is_empty() {
            queue.push(part);
            return;
        }
        let lane = self.backend.lane(&self.info, &txn);
        let strict = self.strict;
        wait(|| queue.admits(lane, strict)).await;
        self.submit_behind(part, txn, lane);
    }

    async fn end_implicit(&mut self) {
        let Some(open) = self.block.take_if(|open| open.implicit) else {
            return;
        };
        let committed = match open.failed {
            true => Ok(()),
            false => self.commit_block(&open).await,
        };
        self.settle_settings(!open.failed && committed.is_ok());
        if let Err(error) = committed {
            self.part.replies.push(Reply::Error(error));
        }
    }

    fn submit_behind(&mut self, part: Part, txn: Vec<Bound>, lane: Lane) {
        let submitted = self.submit(txn);
        self.queue.push_running(part, lane, submitted);
    }

    fn submit(&mut self, txn: Vec<Bound>) -> LocalBoxFuture<'static, Result<Vec<Outcome>, Failed>> {
        // I11: numbers follow the order of Syncs, whatever the transactions' fate.
        let numbered = txn.iter().any(|bound| bound.statement.numbered);
        let number = self
            .info
            .session
            .filter(|_| numbered)
            .map(|session| (session, self.next_request));
        if number.is_some() {
            self.next_request += 1;
        }
        let query = self.text.take().unwrap_or_else(|| "".into());
        self.busy(query);
        self.backend.submit(&self.info, txn, number)
    }

    /// Shows in dbos.statements what is running.
    pub(super) fn busy(&self, query: Arc<str>) {
        let started_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_micros() as i64);
        self.info
            .running
            .borrow_mut()
            .push_back(Running { started_us, query });
        self.info.submitted.set(self.info.submitted.get() + 1);
    }

    pub(super) async fn flush_part(&mut self) {
        if self.part.replies.is_empty() {
            return;
        }
        let queue = self.queue.clone();
        wait(|| queue.has_room()).await;
        let partly_committed = self.part.partly_committed;
        queue.push(std::mem::take(&mut self.part));
        self.part.partly_committed = partly_committed;
    }
}
