//! The rows of all partitions at one timestamp, as the row executor reads them from a blocking thread.
//!
//! A partition whose leader is here is read from its store; another one is read by pages, fetched by the core. A range
//! without a known slot is merged from all partitions in key order; what was read ahead is kept for the next piece of the
//! same range. Rows are bounded, what is read ahead in bytes too, and a cancel is seen at every read. It cannot write.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::Gateway;
use super::leader::gone;
use crate::error::{Error, Result};
use crate::node::State;
use crate::node::peers::OnLoss;
use crate::node::placement::Placement;
use crate::partition::{Scan, Slot, Store};
use crate::sql::exec::rows_within;
use crate::storage::StateSnapshot;
use crate::wire::peer::{Page, SnapshotScan, answer, call};

/// Rows of one partition read at once for a merged range, once its beginning was not enough.
const READ_AHEAD_ROWS: usize = 4096;
/// Of large rows not more than this.
const READ_AHEAD_BYTES: usize = 4 << 20;
/// Ranges whose read-ahead is kept: nested loops read one inside another.
const RANGES_KEPT: usize = 8;

type Row = (Bytes, Bytes);

/// Where one partition is read.
#[derive(Clone)]
pub(super) enum Source {
    Here(Arc<State>),
    Node(u64),
}

/// A page wanted from another node.
pub(super) struct Fetch {
    node: u64,
    scan: SnapshotScan,
    reply: oneshot::Sender<Result<Page>>,
}

/// Bounds of one statement's reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub rows: u64,
    pub bytes: u64,
}

/// See the module's documentation.
pub(super) struct ClusterStore {
    ts: u64,
    placement: Placement,
    sources: BTreeMap<u32, Source>,
    fetches: UnboundedSender<Fetch>,
    cancel: Arc<AtomicBool>,
    rows_left: u64,
    rows_max: u64,
    kept: VecDeque<Merge>,
}

/// Read-ahead of one range over all partitions.
struct Merge {
    /// What is still to be read of the range, as the next piece will ask for it.
    from: Bytes,
    to: Bytes,
    reverse: bool,
    parts: Vec<Part>,
}

struct Part {
    group: u32,
    rows: VecDeque<Row>,
    /// Last key read from this partition.
    edge: Option<Bytes>,
    exhausted: bool,
    /// Rows to read at once.
    ahead: usize,
}

impl ClusterStore {
    pub fn new(
        ts: u64,
        placement: Placement,
        sources: BTreeMap<u32, Source>,
        fetches: UnboundedSender<Fetch>,
        cancel: Arc<AtomicBool>,
        rows_max: u64,
    ) -> Self {
        Self {
            ts,
            placement,
            sources,
            fetches,
            cancel,
            rows_left: rows_max,
            rows_max,
            kept: VecDeque::new(),
        }
    }

    /// From now on reads what is newest, which is no snapshot.
    pub fn read_newest(&mut self) {
        self.ts = u64::MAX;
        self.kept.clear();
    }

    /// From now on reads what was current at `ts`.
    pub fn read_at(&mut self, ts: u64) {
        self.ts = ts;
        self.kept.clear();
    }

    /// This partition alone.
    pub fn only(&mut self, group: u32) -> OnePartition<'_> {
        OnePartition { store: self, group }
    }

    fn point(&mut self, group: u32, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_cancel()?;
        let found = match self.source(group)? {
            Source::Here(state) => state.get_at(key, self.ts)?.map(|v| v.value),
            Source::Node(node) => {
                let scan = SnapshotScan {
                    group,
                    ts: self.ts,
                    from: Bytes::copy_from_slice(key),
                    point: true,
                    ..SnapshotScan::default()
                };
                self.fetch(node, scan)?.values.into_iter().next()
            }
        };
        self.charge(found.iter().len())?;
        Ok(found)
    }

    /// Up to `limit` rows of one partition; fewer only at the end of the range.
    fn range(&mut self, group: u32, scan: Scan<'_>, out: &mut Vec<Row>) -> Result<()> {
        self.check_cancel()?;
        let before = out.len();
        match self.source(group)? {
            Source::Here(state) => {
                let mut rows = Vec::new();
                state.scan_at(
                    scan.from,
                    scan.to,
                    scan.reverse,
                    scan.limit,
                    self.ts,
                    &mut rows,
                )?;
                out.extend(rows.into_iter().map(|(key, row)| (key, row.value)));
            }
            Source::Node(node) => self.remote_range(node, group, scan, out)?,
        }
        self.charge(out.len() - before)
    }

    fn remote_range(
        &mut self,
        node: u64,
        group: u32,
        scan: Scan<'_>,
        out: &mut Vec<Row>,
    ) -> Result<()> {
        let mut from = Bytes::copy_from_slice(scan.from);
        let mut to = Bytes::copy_from_slice(scan.to);
        let mut left = scan.limit;
        while left > 0 {
            let ask = SnapshotScan {
                group,
                ts: self.ts,
                from: from.clone(),
                to: to.clone(),
                reverse: scan.reverse,
                limit: u32::try_from(left).unwrap_or(u32::MAX),
                point: false,
            };
            let page = self.fetch(node, ask)?;
            if page.keys.len() != page.values.len() || page.keys.len() > left {
                return Err(Error::internal(format!("malformed page from node {node}")));
            }
            left -= page.keys.len();
            let last = page.keys.last().cloned();
            out.extend(page.keys.into_iter().zip(page.values));
            let (true, Some(last)) = (page.more, last) else {
                return Ok(());
            };
            (from, to) = rest(&from, &to, &last, scan.reverse);
        }
        Ok(())
    }

    fn merged(&mut self, scan: Scan<'_>, out: &mut Vec<Row>) -> Result<()> {
        let continues = |m: &Merge| {
            m.reverse == scan.reverse && m.from[..] == *scan.from && m.to[..] == *scan.to
        };
        let mut merge = match self
            .kept
            .iter()
            .position(continues)
            .and_then(|i| self.kept.remove(i))
        {
            Some(merge) => merge,
            None => Merge {
                from: Bytes::copy_from_slice(scan.from),
                to: Bytes::copy_from_slice(scan.to),
                reverse: scan.reverse,
                parts: self
                    .sources
                    .keys()
                    .map(|&group| Part {
                        group,
                        rows: VecDeque::new(),
                        edge: None,
                        exhausted: false,
                        ahead: scan.limit.clamp(1, READ_AHEAD_ROWS),
                    })
                    .collect(),
            },
        };
        let mut last = None;
        for _ in 0..scan.limit {
            self.fill(&mut merge)?;
            let head = |p: &Part| p.rows.front().map(|(key, _)| key.clone());
            let heads = merge
                .parts
                .iter()
                .enumerate()
                .filter_map(|(i, p)| Some((head(p)?, i)));
            let next = if scan.reverse {
                heads.max()
            } else {
                heads.min()
            };
            let Some((_, part)) = next else {
                return Ok(());
            };
            if let Some(row) = merge.parts[part].rows.pop_front() {
                last = Some(row.0.clone());
                out.push(row);
            }
        }
        if let Some(last) = last {
            (merge.from, merge.to) = rest(&merge.from, &merge.to, &last, scan.reverse);
            self.kept.push_back(merge);
            if self.kept.len() > RANGES_KEPT {
                self.kept.pop_front();
            }
        }
        Ok(())
    }

    /// Reads on in every partition that has nothing waiting.
    fn fill(&mut self, merge: &mut Merge) -> Result<()> {
        for part in &mut merge.parts {
            if part.exhausted || !part.rows.is_empty() {
                continue;
            }
            let (from, to) = match &part.edge {
                Some(edge) => rest(&merge.from, &merge.to, edge, merge.reverse),
                None => (merge.from.clone(), merge.to.clone()),
            };
            let limit = part.ahead;
            let mut rows = Vec::new();
            let scan = Scan {
                from: &from,
                to: &to,
                reverse: merge.reverse,
                limit,
                slot: None,
            };
            self.range(part.group, scan, &mut rows)?;
            part.exhausted = rows.len() < limit;
            part.edge = rows.last().map(|(key, _)| key.clone());
            part.ahead = rows_within(READ_AHEAD_BYTES, &rows).min(READ_AHEAD_ROWS);
            part.rows = rows.into();
        }
        Ok(())
    }

    fn source(&self, group: u32) -> Result<Source> {
        self.sources.get(&group).cloned().ok_or_else(|| {
            Error::internal(format!("partition {} is not part of this read", group - 1))
        })
    }

    fn fetch(&self, node: u64, scan: SnapshotScan) -> Result<Page> {
        let (reply, answer) = oneshot::channel();
        self.fetches
            .send(Fetch { node, scan, reply })
            .map_err(|_| gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(
                "57014",
                "canceling statement due to user request or timeout",
            ));
        }
        Ok(())
    }

    fn charge(&mut self, rows: usize) -> Result<()> {
        let Some(left) = self.rows_left.checked_sub(rows as u64) else {
            return Err(Error::new(
                "54000",
                format!("a read of more than {} rows", self.rows_max),
            )
            .hint("narrow the WHERE clause, or raise read_rows_max in the node's configuration"));
        };
        self.rows_left = left;
        Ok(())
    }
}

impl Store for ClusterStore {
    fn get(&mut self, key: &[u8], slot: Option<Slot>) -> Result<Option<Bytes>> {
        if let Some(slot) = slot {
            return self.point(self.placement.group_of(slot), key);
        }
        let groups: Vec<u32> = self.sources.keys().copied().collect();
        for group in groups {
            if let Some(value) = self.point(group, key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        let only = match scan.slot {
            Some(slot) => Some(self.placement.group_of(slot)),
            None if self.sources.len() == 1 => self.sources.keys().next().copied(),
            None => None,
        };
        match only {
            Some(group) => self.range(group, scan, out),
            None => self.merged(scan, out),
        }
    }
}

/// One partition of a `ClusterStore`.
pub(super) struct OnePartition<'a> {
    store: &'a mut ClusterStore,
    group: u32,
}

impl Store for OnePartition<'_> {
    fn get(&mut self, key: &[u8], _slot: Option<Slot>) -> Result<Option<Bytes>> {
        self.store.point(self.group, key)
    }

    fn scan(&mut self, scan: Scan<'_>, out: &mut Vec<(Bytes, Bytes)>) -> Result<()> {
        self.store.range(self.group, scan, out)
    }
}

/// What is left of a range after `last`.
pub(super) fn rest(from: &Bytes, to: &Bytes, last: &Bytes, reverse: bool) -> (Bytes, Bytes) {
    if reverse {
        return (from.clone(), last.clone());
    }
    let mut next = Vec::with_capacity(last.len() + 1);
    next.extend_from_slice(last);
    next.push(0);
    (next.into(), to.clone())
}

impl Gateway {
    /// Fetches pages for blocking threads, which wait for them one at a time each.
    pub(super) async fn serve_fetches(self: Rc<Self>, mut jobs: UnboundedReceiver<Fetch>) {
        while let Some(Fetch { node, scan, reply }) = jobs.recv().await {
            let answer = self
                .peers
                .call(node, call::Body::SnapshotScan(scan), OnLoss::Retry);
            tokio::task::spawn_local(async move {
                let page = match answer.await.unwrap_or_else(|_| Err(gone())) {
                    Ok(answer::Body::Page(page)) => Ok(page),
                    Ok(_) => Err(Error::internal(format!(
                        "node {node} answered something else"
                    ))),
                    Err(error) => Err(error),
                };
                // The reader may have been given up.
                let _ = reply.send(page);
            });
        }
    }
}
