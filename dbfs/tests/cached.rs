//! Reads through the client's cache: whoever writes, a file is read as a server would give it, and of one version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use dbfs::{FileSystem, Kind, NewUser, Tree};
use dbos_client::testing::Engine;
use dbos_client::{Client, Options};

const KINDS: [Kind; 2] = [Kind::Localized, Kind::Parallel];
const BLOCK: i32 = 16;

async fn trees(engine: &Engine) -> (Tree, Tree) {
    let writer = engine.client().await.unwrap();
    dbfs::install(&writer).await.unwrap();
    let files = FileSystem::new(writer);
    files.create_user(NewUser::named("ann")).await.unwrap();
    let options = Options {
        cache_bytes: 1 << 20,
        cache_lease: Duration::from_secs(10),
        deadline: Duration::from_secs(30),
        ..Options::default()
    };
    let reader = Client::connect_with(&engine.target, options).await.unwrap();
    let reader = FileSystem::new(reader).tree("ann").await.unwrap();
    (files.tree("ann").await.unwrap(), reader)
}

/// Reads until all of it is in memory.
async fn kept(reader: &Tree, path: &str, from: i64, length: i64) -> Vec<u8> {
    for _ in 0..100 {
        if let Some(data) = reader.read_kept(path, from, length).unwrap() {
            return data.into();
        }
        reader.read(path, from, length).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "nothing is kept: {:?}",
        reader.read_kept(path, from, length)
    );
}

#[tokio::test]
async fn what_others_write_and_cut_is_read_and_then_kept() {
    let engine = Engine::kernel().unwrap();
    let (writer, reader) = trees(&engine).await;
    for kind in KINDS {
        let path = format!("/{kind}");
        writer.create(&path, kind, Some(BLOCK)).await.unwrap();
        let mut model = Vec::new();
        for step in 0..24_u8 {
            // Within a block, over several, behind the end, and cuts.
            let offset = usize::from(step) * 7 % 60;
            if step % 4 == 3 {
                model.resize(offset, 0);
                writer.truncate(&path, offset as i64).await.unwrap();
            } else {
                let data = vec![step + 1; usize::from(step) * 5 % 40 + 1];
                model.resize(model.len().max(offset + data.len()), 0);
                model[offset..offset + data.len()].copy_from_slice(&data);
                writer.write(&path, offset as i64, &data).await.unwrap();
            }
            for (from, length) in [(0, 100), (16, 16), (18, 5), (10, 30), (90, 9)] {
                let first = model.len().min(from);
                let expected = &model[first..model.len().min(from + length).max(first)];
                let (from, length) = (from as i64, length as i64);
                let read = reader.read(&path, from, length).await.unwrap();
                assert_eq!(read, expected, "{kind} step {step}");
                let kept = kept(&reader, &path, from, length).await;
                assert_eq!(kept, expected, "{kind} step {step}, from memory");
            }
        }
        writer.delete(&path).await.unwrap();
        let gone = reader.read(&path, 0, 1).await.unwrap_err();
        assert_eq!(gone.sqlstate(), Some("58P01"));
        assert!(reader.read_kept(&path, 0, 1).unwrap().is_none());
    }
    let stats = reader_stats(&reader);
    assert!(stats.hits > 0 && stats.recalls > 0, "{stats:?}");
    assert_eq!(
        reader.read_kept("/a", -1, 1).unwrap_err().sqlstate(),
        Some("22023")
    );
}

fn reader_stats(reader: &Tree) -> dbos_client::CacheStats {
    reader.client().cache_stats().unwrap()
}

/// Each write gives all blocks of a file the same content in one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_from_memory_are_of_one_version_and_not_older_than_what_was_acknowledged() {
    let engine = Engine::kernel().unwrap();
    let (writer, reader) = trees(&engine).await;
    for kind in KINDS {
        let path = format!("/{kind}");
        writer.create(&path, kind, Some(BLOCK)).await.unwrap();
        writer.write(&path, 0, &[0; 80]).await.unwrap();
        let (acknowledged, stop) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let reading = {
            let (reader, path) = (reader.clone(), path.clone());
            let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
            tokio::spawn(async move {
                let mut from_memory = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let data = match reader.read_kept(&path, 0, 80).unwrap() {
                        Some(data) => {
                            from_memory += 1;
                            data
                        }
                        None => reader.read(&path, 0, 80).await.unwrap(),
                    };
                    assert!(data.iter().all(|byte| *byte == data[0]), "{data:?}");
                    assert!(data[0] >= before, "{} after {before}", data[0]);
                    tokio::task::coop::consume_budget().await;
                }
                from_memory
            })
        };
        for n in 1..=60 {
            writer.write(&path, 0, &[n; 80]).await.unwrap();
            acknowledged.store(n, Ordering::SeqCst);
            if n % 3 == 0 {
                // Time to keep it.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        kept(&reader, &path, 0, 80).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.store(true, Ordering::SeqCst);
        assert!(reading.await.unwrap() > 0, "nothing was read from memory");
    }
}
