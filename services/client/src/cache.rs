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
//! * Entries have at most `bytes_max` bytes; those not used for longest go first, to within an eighth of them.
//! * What several look-ups under one lock give is of one moment: that at which the clock is read, behind the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::answer::Rows;
use crate::connection::lock;
use crate::key::{OwnedKey, PartitionKey};

/// Beside its values, an entry has about so many bytes of maps and lists.
const ENTRY_BYTES: usize = 256;

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
    /// Entries that had ever been made when this one came to the front of the list.
    front: u64,
}

struct Entries {
    /// Those used last in front, roughly: see [`Entries::find`].
    entries: LruCache<Arc<[u8]>, Entry>,
    /// The entry of each lease.
    leases: HashMap<(u32, i64), Arc<[u8]>>,
    bytes: usize,
    /// Entries ever made.
    made: u64,
    /// Recalls of leases that no entry has.
    surprises: u64,
    /// Partitions whose recalls are listened to.
    listening: HashMap<u32, Question>,
    hits: u64,
    misses: u64,
    recalls: u64,
    /// The key that is looked for: no look-up allocates.
    key: Vec<u8>,
}

pub struct Cache {
    /// This cache's name among all clients.
    pub holder: i64,
    pub lease: Duration,
    bytes_max: usize,
    entries: Mutex<Entries>,
}

/// A read that was not answered from memory, and is about to be sent.
pub struct Miss {
    key: Arc<[u8]>,
    sent: Instant,
    surprises: u64,
}

/// What a client has in memory at one moment: all rows that are given are as a server would give them at that moment.
pub struct Kept<'a> {
    entries: &'a mut Entries,
    now: Instant,
    hits: u64,
}

impl Kept<'_> {
    /// What the statement reads; `None` if a server must be asked.
    pub fn rows(&mut self, sql: &str, params: &[PartitionKey<'_>]) -> Option<Arc<Rows>> {
        let rows = self.entries.find(sql, params, self.now)?;
        self.hits += 1;
        Some(rows)
    }
}

impl Cache {
    pub fn new(bytes_max: usize, lease: Duration) -> Self {
        let entries = Entries {
            entries: LruCache::unbounded(),
            leases: HashMap::new(),
            bytes: 0,
            made: 0,
            surprises: 0,
            listening: HashMap::new(),
            hits: 0,
            misses: 0,
            recalls: 0,
            key: Vec::new(),
        };
        Self {
            holder: rand::random(),
            lease,
            bytes_max,
            entries: Mutex::new(entries),
        }
    }

    pub fn stats(&self) -> CacheStats {
        let entries = lock(&self.entries);
        CacheStats {
            hits: entries.hits,
            misses: entries.misses,
            recalls: entries.recalls,
            entries: entries.entries.len() as u64,
            bytes: entries.bytes as u64,
        }
    }

    /// The rows, if they are certain not to have changed.
    pub fn look_up(&self, sql: &str, params: &[PartitionKey<'_>]) -> Result<Arc<Rows>, Miss> {
        let mut entries = lock(&self.entries);
        let now = Instant::now();
        if let Some(rows) = entries.find(sql, params, now) {
            entries.hits += 1;
            return Ok(rows);
        }
        entries.misses += 1;
        Err(Miss {
            key: entries.key.as_slice().into(),
            sent: now,
            surprises: entries.surprises,
        })
    }

    /// Several look-ups at one moment. Those of a `look` that ends with `None` do not count: what it wanted is read otherwise.
    pub fn kept<T>(&self, look: impl FnOnce(&mut Kept<'_>) -> Option<T>) -> Option<T> {
        let mut entries = lock(&self.entries);
        // Behind the lock: an entry that is there now, before the end of its lease, is as it is at the leader now.
        let now = Instant::now();
        let mut kept = Kept {
            entries: &mut entries,
            now,
            hits: 0,
        };
        let found = look(&mut kept)?;
        let hits = kept.hits;
        entries.hits += hits;
        Some(found)
    }

    /// Keeps what a miss was answered under a lease. True: nobody listens to the recalls of that partition yet.
    pub fn keep(
        &self,
        miss: Miss,
        rows: &Arc<Rows>,
        lease: (u32, i64),
        question: &Question,
    ) -> bool {
        let bytes = miss.key.len() + rows.size() + ENTRY_BYTES;
        let until = miss.sent + self.lease;
        let mut entries = lock(&self.entries);
        // The lease may be the one that was given back without an entry.
        if entries.surprises != miss.surprises || bytes > self.bytes_max || Instant::now() >= until
        {
            return false;
        }
        entries.made += 1;
        let entry = Entry {
            rows: rows.clone(),
            until,
            lease,
            bytes,
            front: entries.made,
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
        let mut entries = lock(&self.entries);
        entries.recalls += 1;
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
    /// Puts the key into `self.key`, and looks for it.
    fn find(&mut self, sql: &str, params: &[PartitionKey<'_>], now: Instant) -> Option<Arc<Rows>> {
        put_key(&mut self.key, sql, params);
        let entry = self.entries.peek(self.key.as_slice())?;
        if now >= entry.until {
            return None;
        }
        // Moving an entry touches others all over the memory: those that came to the front lately stay where they are.
        let rows = entry.rows.clone();
        if self.made - entry.front > self.entries.len() as u64 / 8 {
            let entry = self.entries.get_mut(self.key.as_slice())?;
            entry.front = self.made;
        }
        Some(rows)
    }

    /// `old` was taken out.
    fn dropped(&mut self, old: &Entry) {
        self.bytes -= old.bytes;
        self.leases.remove(&old.lease);
    }
}

fn put_key(key: &mut Vec<u8>, sql: &str, params: &[PartitionKey<'_>]) {
    key.clear();
    key.extend_from_slice(sql.as_bytes());
    key.push(0);
    for param in params {
        param.append_to(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: usize) -> Arc<Rows> {
        Arc::new(Rows::of_bytes(&vec![7; bytes]).unwrap())
    }

    fn key_of(sql: &str, params: &[PartitionKey<'_>]) -> Vec<u8> {
        let mut key = vec![99];
        put_key(&mut key, sql, params);
        key
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
    fn of_a_large_cache_too_what_was_used_last_stays() {
        let bytes = |entries: usize| entries * (100 + ENTRY_BYTES + 100);
        let cache = Cache::new(bytes(1000), Duration::from_secs(10));
        // Those below 100 are read again, once each, while ten times as many others come as have room.
        for n in 0..10_000 {
            read(&cache, n, n + 1);
            if n >= 100 {
                assert!(hit(&cache, n % 100), "{n}");
            }
        }
        let stats = cache.stats();
        assert!(stats.entries >= 1000, "{stats:?}");
        assert!(!hit(&cache, 5000));
    }

    #[test]
    fn what_is_read_together_is_of_one_moment_and_counts_if_all_is_there() {
        let cache = Cache::new(1 << 20, Duration::from_secs(10));
        let together = |all: &[i64]| {
            cache.kept(|kept| {
                let mut row = |n: &i64| kept.rows("q", &[PartitionKey::Int(*n)]);
                all.iter().map(&mut row).collect::<Option<Vec<_>>>()
            })
        };
        read(&cache, 1, 11);
        assert!(together(&[1, 2]).is_none());
        read(&cache, 2, 12);
        assert_eq!(together(&[1, 2]).unwrap().len(), 2);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses), (2, 2));
        cache.recall((3, 11));
        assert!(together(&[2, 1]).is_none() && together(&[2]).is_some());
        assert_eq!(cache.stats().hits, 3);

        let short = Cache::new(1 << 20, Duration::from_millis(1));
        read(&short, 1, 11);
        std::thread::sleep(Duration::from_millis(2));
        let found = short.kept(|kept| kept.rows("q", &[PartitionKey::Int(1)]));
        assert!(found.is_none());
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
