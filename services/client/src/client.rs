//! The client: lanes to every partition, and the calls of the services.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::answer::Rows;
use crate::cache::{Cache, CacheStats, Kept, Miss, Question};
use crate::cluster::{Cluster, Place, ServerKind, Topology};
use crate::connection::{Params, lock};
use crate::error::{Class, Error, Result};
use crate::key::{OwnedKey, PartitionKey};
use crate::lane::{Lane, Shared};
use crate::recalls;
use crate::retry::Repeatable;
use crate::target::Target;

/// How often a client looks whether leaders have moved while nothing fails.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// What the kernel grants at most.
const CACHE_LEASE_MAX: Duration = Duration::from_secs(10);

/// The file of `wait_for_change`, for services whose procedures wait: before their own.
pub const WAIT_FOR_CHANGE: (&str, &str) = (
    "services/client/sql/wait_for_change.sql",
    include_str!("../sql/wait_for_change.sql"),
);

/// How a client uses its target.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections for calls, spread over the partitions by key; a cluster gets at least one per partition.
    pub connections: usize,
    /// Calls in flight at once; further ones wait. At most 1,024 are numbered per connection (I11).
    pub in_flight: usize,
    /// From the first attempt of a call to its last.
    pub deadline: Duration,
    /// One attempt on a cluster of several nodes, after which another node is tried.
    pub attempt_timeout: Duration,
    pub connect_timeout: Duration,
    /// Shown in dbos.sessions and pg_stat_activity.
    pub application_name: String,
    /// Bytes of rows that [`Client::read_cached`] keeps; 0: none.
    pub cache_bytes: usize,
    /// How long a row may be kept without asking again, at most 10 s. Writers of the row wait so long for a client that died,
    /// and for nothing but an answer of one that lives.
    pub cache_lease: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 1,
            in_flight: 1024,
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            application_name: "dbos-client".to_owned(),
            cache_bytes: 0,
            cache_lease: Duration::from_secs(1),
        }
    }
}

/// What a client did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts after the first, of all calls.
    pub retries: u64,
    /// Connections opened.
    pub connects: u64,
}

/// A cheap handle: clones share connections, sessions and bounds.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    calls: Lanes,
    reads: Lanes,
    anywhere: Lane,
    /// Lanes on which nobody waits now, by partition.
    waiting: Mutex<Vec<(usize, Lane)>>,
    in_flight: Semaphore,
    cache: Option<Arc<Cache>>,
}

/// Lanes by partition, several to each.
struct Lanes {
    partitions: usize,
    lanes: Vec<Lane>,
}

impl Client {
    pub async fn connect(target: &Target) -> Result<Self> {
        Self::connect_with(target, Options::default()).await
    }

    /// Connects, and learns whether the target is a kernel cluster and who leads there.
    pub async fn connect_with(target: &Target, options: Options) -> Result<Self> {
        let seeds = target.endpoints(&options.application_name, options.connect_timeout);
        let cluster = Cluster::discover(seeds).await?;
        let topology = cluster.topology();
        let is_kernel = cluster.kind() == ServerKind::KernelDb;
        let shared = Arc::new(Shared {
            cluster,
            deadline: options.deadline,
            attempt_timeout: (topology.nodes.len() > 1).then_some(options.attempt_timeout),
            retries: AtomicU64::new(0),
            connects: AtomicU64::new(0),
        });
        let partitions = topology.leaders.len();
        let calls = Lanes::new(partitions, options.connections, |place| {
            lane_of_calls(&shared, place)
        });
        let reads = Lanes::new(
            partitions,
            if is_kernel { partitions } else { 0 },
            |place| Lane::without_session(shared.clone(), place, Repeatable::Yes),
        );
        let anywhere = Lane::without_session(shared.clone(), Place::Anywhere, Repeatable::Yes);
        let in_flight = Semaphore::new(options.in_flight.max(1));
        let cache = cache_of(&options, is_kernel)?;
        let inner = Arc::new(Inner {
            shared,
            calls,
            reads,
            anywhere,
            waiting: Mutex::default(),
            in_flight,
            cache,
        });
        if is_kernel {
            follow_leaders(&inner);
        }
        Ok(Self { inner })
    }

    /// Runs one statement that may write, on the partition of `key`: one transaction.
    ///
    /// On a cluster it runs at most once, whatever is lost on the way, and errors of class `Unknown` only come after the
    /// deadline. On a plain PostgreSQL a lost connection is `Unknown` at once. A statement that certainly does not write
    /// must go through [`Client::read`]: servers do not number it.
    pub async fn call<'a>(
        &self,
        key: impl Into<PartitionKey<'a>>,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        let slot = key.into().slot();
        let _permit = self.permit().await?;
        self.inner
            .calls
            .of_slot(slot)
            .query(sql, params, Repeatable::No)
            .await
    }

    /// As [`Client::call`], of a statement that may wait up to `wait` in the server (`wait_for_change`). It has a connection
    /// to itself, since replies come in order; connections are kept for further waits. The deadline begins after `wait`.
    ///
    /// Dropping the future gives the call up: whether it took effect is not known then.
    pub async fn call_waiting<'a>(
        &self,
        key: impl Into<PartitionKey<'a>>,
        sql: &str,
        params: Params<'_>,
        wait: Duration,
    ) -> Result<Vec<Row>> {
        let key = key.into();
        if wait.is_zero() {
            return self.call(key, sql, params).await;
        }
        let partition = usize::from(key.slot()) % self.inner.calls.partitions;
        let _permit = self.permit().await?;
        let idle = {
            let mut waiting = lock(&self.inner.waiting);
            let found = waiting.iter().position(|(of, _)| *of == partition);
            found.map(|at| waiting.swap_remove(at).1)
        };
        let lane = idle.unwrap_or_else(|| {
            let place = Place::Partition(u32::try_from(partition).unwrap_or(0));
            lane_of_calls(&self.inner.shared, place)
        });
        let result = lane.query_waiting(sql, params, Repeatable::No, wait).await;
        lock(&self.inner.waiting).push((partition, lane));
        result
    }

    /// Runs one statement that does not write, on the partition of `key`. It sees every call acknowledged before.
    pub async fn read<'a>(
        &self,
        key: impl Into<PartitionKey<'a>>,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        let slot = key.into().slot();
        let _permit = self.permit().await?;
        let lanes = if self.inner.reads.lanes.is_empty() {
            &self.inner.calls
        } else {
            &self.inner.reads
        };
        lanes
            .of_slot(slot)
            .query(sql, params, Repeatable::Yes)
            .await
    }

    /// As [`Client::read`], with the first parameter as key; the answer may come from this client's memory, if the statement
    /// reads few rows, each by its whole primary key. Then too it sees every call acknowledged before, of any client. Without a
    /// cache ([`Client::caches`]) each read goes to the server.
    pub async fn read_cached(&self, sql: &str, params: &[PartitionKey<'_>]) -> Result<Arc<Rows>> {
        let Some(key) = params.first() else {
            return Err(Error::request("a cached read needs a key").sqlstate_is("22023"));
        };
        let Some(cache) = &self.inner.cache else {
            let rows = self.read(*key, sql, &of_keys(params)).await?;
            return Ok(Arc::new(Rows::copy(&rows, 0)?));
        };
        match cache.look_up(sql, params) {
            Ok(rows) => {
                // Nothing else would let others run.
                tokio::task::coop::consume_budget().await;
                Ok(rows)
            }
            // In a box: futures of hits stay small.
            Err(miss) => Box::pin(self.read_leased(cache, miss, sql, params)).await,
        }
    }

    /// Asks for rows together with the leave to keep them.
    async fn read_leased(
        &self,
        cache: &Arc<Cache>,
        miss: Miss,
        sql: &str,
        params: &[PartitionKey<'_>],
    ) -> Result<Arc<Rows>> {
        let leased = format!(
            "SELECT q.*, lease_reads(${}, ${}) FROM ({sql}) q",
            params.len() + 1,
            params.len() + 2
        );
        let ms = i32::try_from(cache.lease.as_millis()).unwrap_or(i32::MAX);
        let mut all = of_keys(params);
        all.push(&cache.holder);
        all.push(&ms);
        let found = self.read(params[0], &leased, &all).await?;
        let rows = Arc::new(Rows::copy(&found, 1)?);
        let lease = match found.first() {
            Some(row) => crate::rows::field::<Option<i64>>(row, row.len() - 1)?,
            None => None,
        };
        if let Some(lease) = lease {
            let partition = self.topology().partition_of(params[0].slot());
            let question = Question {
                sql: sql.into(),
                params: params.iter().map(|param| OwnedKey::from(*param)).collect(),
            };
            if cache.keep(miss, &rows, (partition, lease), &question) {
                recalls::listen(&self.inner.shared, cache, partition);
            }
        }
        Ok(rows)
    }

    /// What `look` finds in this client's memory of what [`Client::read_cached`] has read, all of it as of one moment: later
    /// than every call acknowledged before. Nothing is sent, and nobody waits; `None` without a cache. Reads count as hits
    /// if `look` ends with `Some`.
    ///
    /// Call nothing of the client within `look`: all its reads through the cache wait until it ends. A task that only ever
    /// gets hits must let others run by itself.
    pub fn kept<T>(&self, look: impl FnOnce(&mut Kept<'_>) -> Option<T>) -> Option<T> {
        self.inner.cache.as_ref()?.kept(look)
    }

    /// True if [`Client::read_cached`] keeps rows.
    pub fn caches(&self) -> bool {
        self.inner.cache.is_some()
    }

    /// `None` without a cache.
    pub fn cache_stats(&self) -> Option<CacheStats> {
        self.inner.cache.as_ref().map(|cache| cache.stats())
    }

    /// Runs one statement that does not write, over as many partitions as it touches.
    pub async fn read_all(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let _permit = self.permit().await?;
        self.inner
            .anywhere
            .query(sql, params, Repeatable::Yes)
            .await
    }

    /// Runs a script of statements without parameters that may be run twice: schemas, clean-up. Each script is sent as one
    /// simple query.
    pub async fn script(&self, sql: &str) -> Result<()> {
        self.inner.anywhere.script(sql).await
    }

    /// Runs the SQL files of a service in order; `files` are names and texts. The files must be repeatable
    /// (`IF NOT EXISTS`, `OR REPLACE`).
    pub async fn install_schema(&self, files: &[(&str, &str)]) -> Result<()> {
        for (name, sql) in files {
            self.script(sql)
                .await
                .map_err(|error| error.in_file(name))?;
        }
        Ok(())
    }

    /// Number of the key's partition, from 0; 0 on a plain PostgreSQL. Calls of one statement with several keys of one partition are
    /// one transaction there.
    pub fn partition<'a>(&self, key: impl Into<PartitionKey<'a>>) -> usize {
        usize::from(key.into().slot()) % self.inner.calls.partitions
    }

    pub fn kind(&self) -> ServerKind {
        self.inner.shared.cluster.kind()
    }

    /// The server's `version()`.
    pub fn version(&self) -> &str {
        self.inner.shared.cluster.version()
    }

    /// Nodes and leaders as last seen; empty nodes and one partition on a plain PostgreSQL.
    pub fn topology(&self) -> Arc<Topology> {
        self.inner.shared.cluster.topology()
    }

    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        Stats {
            retries: shared.retries.load(Ordering::Relaxed),
            connects: shared.connects.load(Ordering::Relaxed),
        }
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        // Without waiting first: an acquire may yield to be fair to other tasks, and calls would overtake each other.
        if let Ok(permit) = self.inner.in_flight.try_acquire() {
            return Ok(permit);
        }
        let permit = self.inner.in_flight.acquire().await;
        permit.map_err(|_| Error::new(Class::Environment, "the client is closed"))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("version", &self.version())
            .field("stats", &self.stats())
            .finish()
    }
}

fn of_keys<'a>(keys: &'a [PartitionKey<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    keys.iter().map(|key| key as &(dyn ToSql + Sync)).collect()
}

/// None if none is wanted, or the server grants no leases.
fn cache_of(options: &Options, is_kernel: bool) -> Result<Option<Arc<Cache>>> {
    let lease = options.cache_lease;
    if options.cache_bytes == 0 {
        return Ok(None);
    }
    if lease < Duration::from_millis(1) || lease > CACHE_LEASE_MAX {
        return Err(
            Error::request(format!("a cache_lease of {lease:?}, from 1 ms to 10 s"))
                .sqlstate_is("22023"),
        );
    }
    if !is_kernel {
        tracing::warn!("no read cache: a plain PostgreSQL does not tell when a row is changed");
        return Ok(None);
    }
    Ok(Some(Arc::new(Cache::new(options.cache_bytes, lease))))
}

/// Numbered in a session of its own, where there are sessions.
fn lane_of_calls(shared: &Arc<Shared>, place: Place) -> Lane {
    match shared.cluster.kind() {
        ServerKind::KernelDb => Lane::with_session(shared.clone(), place),
        ServerKind::PostgreSql => Lane::without_session(shared.clone(), place, Repeatable::No),
    }
}

impl Lanes {
    /// `wanted` lanes rounded up to a whole number per partition; none if `wanted` is 0.
    fn new(partitions: usize, wanted: usize, lane: impl Fn(Place) -> Lane) -> Self {
        let count = wanted.div_ceil(partitions) * partitions;
        let place = |i: usize| Place::Partition(u32::try_from(i % partitions).unwrap_or(0));
        Self {
            partitions,
            lanes: (0..count).map(|i| lane(place(i))).collect(),
        }
    }

    /// Equal keys always share a lane, so that their calls keep their order.
    fn of_slot(&self, slot: u16) -> &Lane {
        let slot = usize::from(slot);
        let partition = slot % self.partitions;
        let per_partition = self.lanes.len() / self.partitions;
        &self.lanes[partition + self.partitions * (slot / self.partitions % per_partition)]
    }
}

/// Looks for moved leaders until the last handle of the client is gone.
fn follow_leaders(inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = inner.shared.cluster.refresh().await {
                tracing::debug!(%error, "no node tells who leads");
            }
        }
    });
}
