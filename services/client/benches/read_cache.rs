//! A hit of the read cache: what a read costs that asks nobody.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dbos_client::PartitionKey;
use dbos_client::testing::FullCache;

/// As in the `dbos` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As `dbfs` reads a block.
const SQL: &str =
    "SELECT data FROM localized_file WHERE home = $1 AND file_id = $2 AND block_no = $3";
const FILES: i64 = 64;
const BLOCKS: i64 = 64;
const BLOCK_BYTES: usize = 4096;
/// Coprime to the number of rows: all of them come, and not in the order in which they were made.
const STEP: i64 = 1597;

fn key(n: i64) -> [PartitionKey<'static>; 3] {
    let file = n / BLOCKS % FILES;
    [file % 16, file * 7_919_000_000_007, n % BLOCKS].map(PartitionKey::Int)
}

fn hits(criterion: &mut Criterion) {
    let cache = FullCache::new(SQL, (0..FILES * BLOCKS).map(key), BLOCK_BYTES).unwrap();
    let mut n = 0;
    let mut next = || {
        n += STEP;
        key(n)
    };
    criterion.bench_function("read_cache/hit", |b| {
        b.iter(|| {
            let key = next();
            let rows = cache.kept(|kept| kept.rows(SQL, &key)).unwrap();
            black_box(rows.bytes(0, 0).unwrap())
        });
    });
    criterion.bench_function("read_cache/two rows of one moment", |b| {
        b.iter(|| {
            let (first, second) = (next(), next());
            let two = cache.kept(|kept| Some((kept.rows(SQL, &first)?, kept.rows(SQL, &second)?)));
            black_box(two.unwrap())
        });
    });
    criterion.bench_function("read_cache/miss", |b| {
        let none = key(-1);
        b.iter(|| black_box(cache.kept(|kept| kept.rows(SQL, &none))));
    });
}

criterion_group!(benches, hits);
criterion_main!(benches);
