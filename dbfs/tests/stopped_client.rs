//! A client that dies at any step leaves nothing half done to be seen, and nothing that clean-up does not find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dbfs::{FileSystem, Kind, NewUser, StepHook, Tree};
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
    let hook = StepHook::new(move |_| {
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
        seen.push((entry.name, content));
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

/// After clean-up only what files refer to is stored.
async fn assert_nothing_left_over(tree: &Tree, client: &Client) {
    tree.abort_writes(Duration::ZERO).await.unwrap();
    tree.collect().await.unwrap();
    assert_eq!(count(client, "file_write").await, 0);
    assert_eq!(count(client, "file_garbage").await, 0);
    assert_eq!(
        count(client, "parallel_file").await,
        count(client, "file_map").await
    );
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
    assert_nothing_left_over(&tree, &client).await;
    assert_eq!(
        self::seen(engine, &user).await,
        seen,
        "{label}: clean-up changed what is seen"
    );
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

async fn stopped_at_each_step(kind: Kind, least_steps: u32) {
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
            assert!(
                stop >= least_steps || change == Change::Rename,
                "{change:?} has {stop} steps only"
            );
        }
    }
}

#[tokio::test]
async fn a_localized_file_is_changed_whole_or_not_at_all() {
    stopped_at_each_step(Kind::Localized, 2).await;
}

#[tokio::test]
async fn a_parallel_file_is_changed_whole_or_not_at_all() {
    stopped_at_each_step(Kind::Parallel, 3).await;
}

/// `/f` of user ann.
async fn empty_parallel_file(engine: &Engine) -> (Client, Tree) {
    let client = engine.client().await.unwrap();
    dbfs::install(&client).await.unwrap();
    let files = FileSystem::new(client.clone());
    files.create_user(NewUser::named("ann")).await.unwrap();
    let tree = files.tree("ann").await.unwrap();
    tree.create("/f", Kind::Parallel, Some(BLOCK))
        .await
        .unwrap();
    (client, tree)
}

/// Clean-up itself may die at each step, and be run twice at once.
#[tokio::test]
async fn clean_up_goes_on_where_it_was_stopped() {
    for engine in engines() {
        let engine = engine.unwrap();
        let (client, tree) = empty_parallel_file(&engine).await;
        tree.write("/f", 0, &[3; 200]).await.unwrap();
        // The delete itself goes through, its clean-up stops at once.
        tree.clone()
            .with_hook(stop_at(1).0)
            .delete("/f")
            .await
            .unwrap();
        assert!(count(&client, "parallel_file").await > 0);
        for stop in 0..4 {
            tree.clone()
                .with_hook(stop_at(stop).0)
                .collect()
                .await
                .unwrap_err();
        }
        let (one, other) = tokio::join!(tree.collect(), tree.collect());
        assert!(one.is_ok() && other.is_ok());
        assert_nothing_left_over(&tree, &client).await;
        assert_eq!(count(&client, "parallel_file").await, 0);
    }
}

/// A write that was given up by clean-up while its client still ran is not made visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_given_up_is_done_again_from_the_start() {
    for engine in engines() {
        let engine = engine.unwrap();
        let (client, tree) = empty_parallel_file(&engine).await;
        // The first attempt to publish finds its write gone.
        let runtime = tokio::runtime::Handle::current();
        let (gave_up, other) = (Arc::new(AtomicU32::new(0)), tree.clone());
        let counted = gave_up.clone();
        let hook = StepHook::new(move |step| {
            if step == dbfs::Step::Publish && counted.fetch_add(1, Ordering::Relaxed) == 0 {
                let other = other.clone();
                let handle = runtime.clone();
                let clean_up = move || {
                    handle.block_on(async {
                        assert_eq!(other.abort_writes(Duration::ZERO).await.unwrap(), 1);
                        other.collect().await.unwrap();
                    });
                };
                std::thread::spawn(clean_up).join().unwrap();
            }
            Ok(())
        });
        let writer = FileSystem::new(engine.client().await.unwrap())
            .tree("ann")
            .await
            .unwrap()
            .with_hook(hook);
        let written = tokio::spawn(async move { writer.write("/f", 0, &[5; 50]).await });
        assert_eq!(written.await.unwrap().unwrap(), 50);
        assert_eq!(gave_up.load(Ordering::Relaxed), 2);
        assert_eq!(tree.read_all("/f").await.unwrap(), [5; 50]);
        assert_nothing_left_over(&tree, &client).await;
    }
}
