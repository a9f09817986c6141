//! Rows kept on the client, as long as nobody changes them.
//!
//! A row that is read through the cache comes with a lease of the kernel (`lease_reads`): until it is over, counted from before
//! the read was sent, no change of what was read is executed; unless the holder gives the lease back, which it does when it is
//! told that somebody waits for it (`lease_recalls`, see `recalls.rs`). So a hit is what a read at the leader would see at
//! that moment, and a read after another client's acknowledged write never gives the old row.
//!
//! What holds:
//! * An entry is given only before the end of its lease, by the monotonic clock: a process that was stopped finds nothing.
//!   (That clock stands still while a machine is suspended; clients that are to survive that must not cache.)
//! * A lease is given back only when its entry is gone, and no entry comes to be under a lease that was given back: what was
//!   asked for before an unknown lease was recalled is not kept.
//! * Entries have at most `bytes_max` bytes; those not used for longest go first.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::connection::lock;
use crate::error::{Error, Result};
use crate::key::{OwnedKey, PartitionKey};

/// Beside its values, an entry has about so many bytes of maps and lists.
const ENTRY_BYTES: usize = 256;

/// Rows as a server gave them.
pub struct Rows {
    types: Box<[Type]>,
    /// All values of all rows.
    body: Box<[u8]>,
    /// Where each value is in `body`, row by row; None: NULL.
    cells: Box<[Option<(u32, u32)>]>,
}

/// What a cache did so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that went to a server.
    pub misses: u64,
    /// Leases given back because somebody waited for them.
    pub recalls: u64,
    pub entries: u64,
    pub bytes: u64,
}

/// A statement and its parameters: enough to ask the same partition again.
#[derive(Clone, Debug)]
pub struct Question {
    pub sql: Arc<str>,
    pub params: Arc<[OwnedKey]>,
}

struct Entry {
    rows: Arc<Rows>,
    until: Instant,
    lease: (u32, i64),
    bytes: usize,
}

struct Entries {
    entries: LruCache<Arc<[u8]>, Entry>,
    /// The entry of each lease.
    leases: HashMap<(u32, i64), Arc<[u8]>>,
    bytes: usize,
    /// Recalls of leases that no entry has.
    surprises: u64,
    /// Partitions whose recalls are listened to.
    listening: HashMap<u32, Question>,
}

pub struct Cache {
    /// This cache's name among all clients.
    pub holder: i64,
    pub lease: Duration,
    bytes_max: usize,
    entries: Mutex<Entries>,
    hits: AtomicU64,
    misses: AtomicU64,
    recalls: AtomicU64,
}

/// A read that was not answered from memory, and is about to be sent.
pub struct Miss {
    key: Arc<[u8]>,
    sent: Instant,
    surprises: u64,
}

impl Cache {
    pub fn new(bytes_max: usize, lease: Duration) -> Self {
        let entries = Entries {
            entries: LruCache::unbounded(),
            leases: HashMap::new(),
            bytes: 0,
            surprises: 0,
            listening: HashMap::new(),
        };
        Self {
            holder: rand::random(),
            lease,
            bytes_max,
            entries: Mutex::new(entries),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            recalls: AtomicU64::new(0),
        }
    }

    pub fn stats(&self) -> CacheStats {
        let entries = lock(&self.entries);
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            recalls: self.recalls.load(Ordering::Relaxed),
            entries: entries.entries.len() as u64,
            bytes: entries.bytes as u64,
        }
    }

    /// The rows, if they are certain not to have changed.
    pub fn look_up(&self, sql: &str, params: &[PartitionKey<'_>]) -> Result<Arc<Rows>, Miss> {
        let key = key_of(sql, params);
        let mut entries = lock(&self.entries);
        let now = Instant::now();
        match entries.entries.get(&key[..]) {
            Some(entry) if now < entry.until => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Ok(entry.rows.clone())
            }
            _ => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                Err(Miss {
                    key: key.into(),
                    sent: now,
                    surprises: entries.surprises,
                })
            }
        }
    }

    /// Keeps what a miss was answered under a lease. True: nobody listens to the recalls of that partition yet.
    pub fn keep(
        &self,
        miss: Miss,
        rows: &Arc<Rows>,
        lease: (u32, i64),
        question: &Question,
    ) -> bool {
        let bytes = miss.key.len() + rows.bytes() + ENTRY_BYTES;
        let until = miss.sent + self.lease;
        let mut entries = lock(&self.entries);
        // The lease may be the one that was given back without an entry.
        if entries.surprises != miss.surprises || bytes > self.bytes_max || Instant::now() >= until
        {
            return false;
        }
        let entry = Entry {
            rows: rows.clone(),
            until,
            lease,
            bytes,
        };
        entries.bytes += bytes;
        entries.leases.insert(lease, miss.key.clone());
        if let Some((_, old)) = entries.entries.push(miss.key, entry) {
            entries.dropped(&old);
        }
        while entries.bytes > self.bytes_max {
            let Some((_, old)) = entries.entries.pop_lru() else {
                break;
            };
            entries.dropped(&old);
        }
        let first = !entries.listening.contains_key(&lease.0);
        if first {
            entries.listening.insert(lease.0, question.clone());
        }
        first
    }

    /// A lease is wanted back: after this its entry is gone.
    pub fn recall(&self, lease: (u32, i64)) {
        self.recalls.fetch_add(1, Ordering::Relaxed);
        let mut entries = lock(&self.entries);
        let Some(key) = entries.leases.get(&lease).cloned() else {
            entries.surprises += 1;
            return;
        };
        if let Some(old) = entries.entries.pop(&key) {
            entries.dropped(&old);
        }
    }

    /// What to ask a partition with, whose recalls are listened to. None: there is nothing to listen for any more.
    pub fn question(&self, partition: u32) -> Option<Question> {
        let mut entries = lock(&self.entries);
        let now = Instant::now();
        let of_it = |entry: &Entry| entry.lease.0 == partition && now < entry.until;
        if !entries.entries.iter().any(|(_, entry)| of_it(entry)) {
            entries.listening.remove(&partition);
            return None;
        }
        entries.listening.get(&partition).cloned()
    }

    /// The question is refused: the next entry of the partition brings another.
    pub fn not_listening(&self, partition: u32) {
        lock(&self.entries).listening.remove(&partition);
    }
}

impl Entries {
    /// `old` was taken out.
    fn dropped(&mut self, old: &Entry) {
        self.bytes -= old.bytes;
        self.leases.remove(&old.lease);
    }
}

impl Rows {
    /// All columns but the last `hidden` ones.
    pub(crate) fn copy(rows: &[Row], hidden: usize) -> Result<Self> {
        let columns = rows.first().map_or(&[][..], |row| row.columns());
        let shown = columns.len().saturating_sub(hidden);
        let (mut body, mut cells) = (Vec::new(), Vec::new());
        for row in rows {
            for column in 0..shown {
                let Raw(value) = crate::rows::field(row, column)?;
                let Some(value) = value else {
                    cells.push(None);
                    continue;
                };
                let from = body.len();
                body.extend_from_slice(value);
                let place = |at: usize| u32::try_from(at).map_err(|_| too_large());
                cells.push(Some((place(from)?, place(body.len())?)));
            }
        }
        Ok(Self {
            types: columns[..shown].iter().map(|c| c.type_().clone()).collect(),
            body: body.into(),
            cells: cells.into(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        // Without a row there are no types.
        self.cells.len().checked_div(self.types.len()).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value of a row, both from 0. An error if it is of another type, or there is no such row or column.
    pub fn field<'a, T: FromSql<'a>>(&'a self, row: usize, column: usize) -> Result<T> {
        let unexpected = |why: String| Error::request(format!("unexpected answer: {why}"));
        let kind = self.types.get(column);
        let cell = self.cells.get(row * self.types.len() + column);
        let (Some(kind), Some(cell)) = (kind, cell) else {
            return Err(unexpected("no such row or column".into()));
        };
        if !T::accepts(kind) {
            return Err(unexpected(format!("a value of type {kind}")));
        }
        let value = cell.map(|(from, to)| &self.body[from as usize..to as usize]);
        T::from_sql_nullable(kind, value).map_err(|error| unexpected(error.to_string()))
    }

    fn bytes(&self) -> usize {
        let cell = std::mem::size_of::<Option<(u32, u32)>>();
        let kind = std::mem::size_of::<Type>();
        self.body.len() + self.cells.len() * cell + self.types.len() * kind
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of {} columns", self.len(), self.types.len())
    }
}

/// A value as it came.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn key_of(sql: &str, params: &[PartitionKey<'_>]) -> Vec<u8> {
    let mut key = Vec::with_capacity(sql.len() + 16 * params.len() + 8);
    key.extend_from_slice(sql.as_bytes());
    key.push(0);
    for param in params {
        param.append_to(&mut key);
    }
    key
}

fn too_large() -> Error {
    Error::request("an answer of more than 4 GiB").sqlstate_is("54000")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: usize) -> Arc<Rows> {
        Arc::new(Rows {
            types: [Type::BYTEA].into(),
            body: vec![7; bytes].into(),
            cells: [Some((0, bytes as u32))].into(),
        })
    }

    fn question() -> Question {
        Question {
            sql: "SELECT".into(),
            params: Arc::new([]),
        }
    }

    /// True if it was kept as the first of its partition.
    fn read(cache: &Cache, n: i64, lease: i64) -> bool {
        let Err(miss) = cache.look_up("q", &[PartitionKey::Int(n)]) else {
            panic!("a hit");
        };
        cache.keep(miss, &rows(100), (3, lease), &question())
    }

    fn hit(cache: &Cache, n: i64) -> bool {
        cache.look_up("q", &[PartitionKey::Int(n)]).is_ok()
    }

    #[test]
    fn a_hit_is_given_until_its_lease_is_over_or_recalled() {
        let cache = Cache::new(1 << 20, Duration::from_secs(10));
        assert!(read(&cache, 1, 11));
        assert!(!read(&cache, 2, 12));
        assert!(hit(&cache, 1) && hit(&cache, 2) && !hit(&cache, 3));
        cache.recall((3, 11));
        assert!(!hit(&cache, 1) && hit(&cache, 2));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.recalls), (3, 4, 1));

        let short = Cache::new(1 << 20, Duration::from_millis(1));
        read(&short, 1, 11);
        // Longer than the lease, however late it is.
        std::thread::sleep(Duration::from_millis(2));
        assert!(!hit(&short, 1));
        assert!(short.question(3).is_none());
    }

    #[test]
    fn what_was_under_way_when_an_unknown_lease_was_recalled_is_not_kept() {
        let cache = Cache::new(1 << 20, Duration::from_secs(10));
        let Err(miss) = cache.look_up("q", &[PartitionKey::Int(1)]) else {
            panic!("a hit");
        };
        cache.recall((3, 11));
        assert!(!cache.keep(miss, &rows(100), (3, 11), &question()));
        assert!(!hit(&cache, 1));
        read(&cache, 1, 12);
        assert!(hit(&cache, 1));
    }

    #[test]
    fn an_old_lease_of_an_entry_that_was_read_again_does_not_count() {
        let cache = Cache::new(1 << 20, Duration::from_secs(10));
        let two: Vec<Miss> = (0..2)
            .filter_map(|_| cache.look_up("q", &[PartitionKey::Int(1)]).err())
            .collect();
        for (miss, lease) in two.into_iter().zip([11, 12]) {
            cache.keep(miss, &rows(100), (3, lease), &question());
        }
        cache.recall((3, 11));
        assert!(hit(&cache, 1), "it is under the other one");
        cache.recall((3, 12));
        assert!(!hit(&cache, 1));
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_what_was_used_last_stays() {
        let cache = Cache::new(10_000, Duration::from_secs(10));
        read(&cache, 0, 1);
        for n in 1..1000 {
            read(&cache, n, n + 1);
            assert!(hit(&cache, 0) && hit(&cache, n));
            let stats = cache.stats();
            assert!(stats.bytes <= 10_000, "{stats:?}");
            assert!(n < 20 || stats.entries > 20, "{stats:?}");
        }
        assert!(!hit(&cache, 1));
        let Err(miss) = cache.look_up("large", &[]) else {
            panic!("a hit");
        };
        cache.keep(miss, &rows(10_000), (3, 5000), &question());
        assert!(cache.look_up("large", &[]).is_err() && hit(&cache, 0));
    }

    #[test]
    fn statements_with_other_parameters_are_other_questions() {
        let all = [
            key_of("q", &[PartitionKey::Text("ab"), PartitionKey::Text("c")]),
            key_of("q", &[PartitionKey::Text("a"), PartitionKey::Text("bc")]),
            key_of("q", &[PartitionKey::Bytes(b"ab"), PartitionKey::Text("c")]),
            key_of("q", &[PartitionKey::Int(1)]),
            key_of("q", &[PartitionKey::Bool(true)]),
            key_of("q", &[]),
        ];
        for (at, key) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(key));
        }
    }
}
