//! A client that dies at any step leaves nothing half done to be seen, and no block that belongs to no file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dbfs::{FileSystem, Kind, NewUser, PARALLEL_BLOCKS_MAX, StepHook, Tree, is_hidden_name};
use dbos_client::testing::{Engine, engines};
use dbos_client::{Class, Client, Error, Result};

const BLOCK: i32 = 16;
const OLD: [u8; 40] = [1; 40];

/// What is done to the file `/f` (old content: OLD) by the client that dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Write,
    WriteBeyond,
    Append,
    Cut,
    Lengthen,
    Rename,
    Delete,
}

const CHANGES: [Change; 7] = [
    Change::Write,
    Change::WriteBeyond,
    Change::Append,
    Change::Cut,
    Change::Lengthen,
    Change::Rename,
    Change::Delete,
];

impl Change {
    async fn apply(self, tree: &Tree) -> Result<()> {
        match self {
            Self::Write => tree.write("/f", 10, &[2; 25]).await.map(drop),
            Self::WriteBeyond => tree.write("/f", 60, &[2; 50]).await.map(drop),
            Self::Append => tree.append("/f", &[2; 30]).await.map(drop),
            Self::Cut => tree.truncate("/f", 20).await,
            Self::Lengthen => tree.truncate("/f", 70).await,
            Self::Rename => tree.rename("/f", "/g").await,
            Self::Delete => tree.delete("/f").await,
        }
    }

    /// Name and content afterwards.
    fn expected(self) -> Option<(&'static str, Vec<u8>)> {
        let mut content = OLD.to_vec();
        match self {
            Self::Write => content[10..35].fill(2),
            Self::WriteBeyond => {
                content.resize(60, 0);
                content.resize(110, 2);
            }
            Self::Append => content.resize(70, 2),
            Self::Cut => content.truncate(20),
            Self::Lengthen => content.resize(70, 0),
            Self::Rename => return Some(("g", content)),
            Self::Delete => return None,
        }
        Some(("f", content))
    }
}

/// Stops the client before its step number `stop`, from 0, and at all later ones.
fn stop_at(stop: u32) -> (StepHook, Arc<AtomicU32>) {
    let steps = Arc::new(AtomicU32::new(0));
    let counted = steps.clone();
    let hook = StepHook::new(move || {
        if counted.fetch_add(1, Ordering::Relaxed) < stop {
            return Ok(());
        }
        Err(Error::new(Class::Environment, "stopped by the test"))
    });
    (hook, steps)
}

/// Names and contents, as a client sees them that knows nothing of the other.
async fn seen(engine: &Engine, user: &str) -> Vec<(String, Vec<u8>)> {
    let tree = FileSystem::new(engine.client().await.unwrap())
        .tree(user)
        .await
        .unwrap();
    let mut seen = Vec::new();
    for entry in tree.list("/").await.unwrap() {
        let content = tree.read_all(&format!("/{}", entry.name)).await.unwrap();
        assert_eq!(entry.size, content.len() as i64);
        seen.push((entry.name, content.into()));
    }
    seen
}

async fn count(client: &Client, table: &str) -> i64 {
    client
        .read_all(&format!("SELECT count(*) FROM {table}"), &[])
        .await
        .unwrap()[0]
        .get(0)
}

/// Only blocks of files are stored.
async fn assert_nothing_left_over(client: &Client) {
    for table in ["localized_file", "parallel_file"] {
        let blocks = format!("{table} WHERE file_id NOT IN (SELECT file_id FROM directory)");
        assert_eq!(count(client, &blocks).await, 0, "{table}");
    }
}

/// Returns false once the change ran to its end without being stopped.
async fn stopped_once(engine: &Engine, kind: Kind, change: Change, stop: u32) -> bool {
    let client = engine.client().await.unwrap();
    let files = FileSystem::new(client.clone());
    let user = format!("{kind}-{change:?}-{stop}");
    files.create_user(NewUser::named(&user)).await.unwrap();
    let tree = files.tree(&user).await.unwrap();
    tree.create("/f", kind, Some(BLOCK)).await.unwrap();
    tree.write("/f", 0, &OLD).await.unwrap();

    let (hook, steps) = stop_at(stop);
    let told = change.apply(&tree.clone().with_hook(hook)).await;

    let old = vec![("f".to_owned(), OLD.to_vec())];
    let new: Vec<_> = change
        .expected()
        .into_iter()
        .map(|(name, content)| (name.to_owned(), content))
        .collect();
    let seen = seen(engine, &user).await;
    let label = format!(
        "{kind} {change:?} stopped at step {stop} on {}",
        engine.name
    );
    if told.is_ok() {
        assert_eq!(seen, new, "{label}");
    } else {
        assert!(seen == old || seen == new, "{label}: half done: {seen:?}");
    }
    assert_nothing_left_over(&client).await;
    // The file is not left unusable either.
    if seen == old {
        change.apply(&tree).await.unwrap();
        assert_eq!(
            self::seen(engine, &user).await,
            new,
            "{label}: second attempt"
        );
    }
    steps.load(Ordering::Relaxed) > stop
}

async fn stopped_at_each_step(kind: Kind) {
    for engine in engines() {
        let engine = engine.unwrap();
        dbfs::install(&engine.client().await.unwrap())
            .await
            .unwrap();
        for change in CHANGES {
            let mut stop = 0;
            while stopped_once(&engine, kind, change, stop).await {
                stop += 1;
                assert!(stop < 100, "{change:?} does not end");
            }
            let least = match (change, kind) {
                (Change::Rename, _) => 1,
                (Change::Write | Change::WriteBeyond | Change::Append, Kind::Localized) => 1,
                (Change::Delete, Kind::Localized) => 1,
                (Change::Delete, _) => 3,
                _ => 2,
            };
            assert_eq!(stop, least, "steps of {change:?}");
        }
    }
}

#[tokio::test]
async fn a_localized_file_is_changed_whole_or_not_at_all() {
    stopped_at_each_step(Kind::Localized).await;
}

#[tokio::test]
async fn a_parallel_file_is_changed_whole_or_not_at_all() {
    stopped_at_each_step(Kind::Parallel).await;
}

/// A file too large for one transaction is there whole, or not at all under its name.
#[tokio::test]
async fn a_large_parallel_file_is_deleted_whole_or_not_at_all() {
    let content = vec![3; usize::try_from(PARALLEL_BLOCKS_MAX * 2 + 10).unwrap()];
    for engine in engines() {
        let engine = engine.unwrap();
        let client = engine.client().await.unwrap();
        dbfs::install(&client).await.unwrap();
        let files = FileSystem::new(client.clone());
        let mut stop = 0;
        loop {
            let user = format!("user-{stop}");
            files.create_user(NewUser::named(&user)).await.unwrap();
            let tree = files.tree(&user).await.unwrap();
            tree.create("/f", Kind::Parallel, Some(1)).await.unwrap();
            for piece in content.chunks(1000) {
                tree.append("/f", piece).await.unwrap();
            }
            let stopped = tree.clone().with_hook(stop_at(stop).0).delete("/f").await;
            let mut seen = seen(&engine, &user).await;
            seen.retain(|(name, _)| !is_hidden_name(name));
            let label = format!("stopped at step {stop} on {}", engine.name);
            match seen.pop() {
                Some((name, left)) => {
                    assert!(
                        stopped.is_err() && name == "f" && left == content,
                        "{label}"
                    );
                }
                None => assert!(stopped.is_ok() || stop > 2, "{label}"),
            }
            assert_nothing_left_over(&client).await;
            if stopped.is_ok() {
                break;
            }
            stop += 1;
        }
        assert_eq!(stop, 6, "delete, look, hide, cut, cut, delete");
    }
}
