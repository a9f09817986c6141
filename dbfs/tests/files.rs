//! Files of both kinds behave like files.

use dbfs::{BLOCK_SIZE_DEFAULT, FileSystem, Kind, NewUser, PARALLEL_BLOCKS_MAX, Tree, WRITE_MAX};
use dbos_client::testing::{Engine, engines};
use futures::future::join_all;

const KINDS: [Kind; 2] = [Kind::Localized, Kind::Parallel];
/// Small, so that little data is many blocks.
const BLOCK: i32 = 16;

async fn tree(engine: &Engine, user: &str) -> Tree {
    let client = engine.client().await.unwrap();
    dbfs::install(&client).await.unwrap();
    let files = FileSystem::new(client);
    files.create_user(NewUser::named(user)).await.unwrap();
    files.tree(user).await.unwrap()
}

fn code<T>(result: dbos_client::Result<T>) -> String {
    result
        .err()
        .and_then(|error| error.sqlstate().map(str::to_owned))
        .unwrap_or_default()
}

/// A small generator, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count)
            .map(|_| u8::try_from(self.below(255)).unwrap() + 1)
            .collect()
    }
}

#[tokio::test]
async fn random_writes_cuts_and_reads_agree_with_a_vector() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        for (kind, seed) in KINDS.into_iter().zip([1, 2]) {
            let path = format!("/{kind}");
            tree.create(&path, kind, Some(BLOCK)).await.unwrap();
            let mut random = Random(seed);
            let mut model: Vec<u8> = Vec::new();
            for step in 0..120 {
                let data_length = random.below(60);
                let data = random.bytes(data_length);
                let offset = usize::try_from(random.below(100)).unwrap();
                match random.below(4) {
                    0 => {
                        tree.append(&path, &data).await.unwrap();
                        model.extend(&data);
                    }
                    1 => {
                        tree.truncate(&path, offset as i64).await.unwrap();
                        model.resize(offset, 0);
                    }
                    _ => {
                        tree.write(&path, offset as i64, &data).await.unwrap();
                        if !data.is_empty() {
                            model.resize(model.len().max(offset + data.len()), 0);
                            model[offset..offset + data.len()].copy_from_slice(&data);
                        }
                    }
                }
                assert_eq!(
                    tree.read_all(&path).await.unwrap(),
                    model,
                    "{kind} step {step} on {}",
                    engine.name
                );
                let (from, length) = (random.below(120), random.below(50));
                let from_in = usize::try_from(from).unwrap().min(model.len());
                let to_in = usize::try_from(from + length).unwrap().min(model.len());
                let part = tree.read(&path, from as i64, length as i64).await.unwrap();
                assert_eq!(
                    part,
                    &model[from_in..to_in],
                    "{kind} step {step} from {from} length {length}"
                );
                assert_eq!(tree.stat(&path).await.unwrap().size, model.len() as i64);
            }
        }
    }
}

#[tokio::test]
async fn names_are_made_listed_renamed_and_deleted() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        tree.mkdir("/docs").await.unwrap();
        tree.mkdir("/docs/old").await.unwrap();
        tree.create("/docs/a", Kind::Localized, None).await.unwrap();
        tree.create("/docs/b", Kind::Parallel, Some(BLOCK))
            .await
            .unwrap();
        tree.append("/docs/b", &[7; 100]).await.unwrap();
        let listed = tree.list("/docs").await.unwrap();
        let lines: Vec<_> = listed
            .iter()
            .map(|e| (e.name.as_str(), e.kind, e.size, e.block_size))
            .collect();
        let expected = [
            ("a", Kind::Localized, 0, BLOCK_SIZE_DEFAULT),
            ("b", Kind::Parallel, 100, BLOCK),
            ("old", Kind::Directory, 0, BLOCK_SIZE_DEFAULT),
        ];
        assert_eq!(lines, expected);
        tree.rename("/docs/b", "/docs/old/c").await.unwrap();
        assert_eq!(tree.read_all("/docs/old/c").await.unwrap(), &[7; 100][..]);
        assert_eq!(code(tree.stat("/docs/b").await), "58P01");
        assert_eq!(code(tree.delete("/docs/old").await), "55000");
        tree.delete("/docs/old/c").await.unwrap();
        tree.delete("/docs/old").await.unwrap();
        assert_eq!(tree.list("/").await.unwrap().len(), 1);
        let rows = tree_client(&engine)
            .await
            .read_all("SELECT count(*) FROM parallel_file", &[])
            .await
            .unwrap();
        assert_eq!(rows[0].get::<_, i64>(0), 0, "deleting removed the blocks");
    }
}

#[tokio::test]
async fn a_deleted_file_leaves_no_blocks() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        for kind in KINDS {
            for cut in [None, Some(20), Some(0)] {
                tree.create("/f", kind, Some(BLOCK)).await.unwrap();
                tree.write("/f", 0, &[7; 100]).await.unwrap();
                if let Some(size) = cut {
                    tree.truncate("/f", size).await.unwrap();
                }
                tree.delete("/f").await.unwrap();
                for table in ["localized_file", "parallel_file"] {
                    let sql = format!("SELECT count(*) FROM {table}");
                    let rows = tree.client().read_all(&sql, &[]).await.unwrap();
                    let left: i64 = rows[0].get(0);
                    assert_eq!(left, 0, "{table}, {kind} cut to {cut:?} on {}", engine.name);
                }
            }
        }
    }
}

async fn tree_client(engine: &Engine) -> dbos_client::Client {
    engine.client().await.unwrap()
}

#[tokio::test]
async fn wrong_requests_are_told_apart() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        tree.mkdir("/d").await.unwrap();
        for (path, kind) in [("/l", Kind::Localized), ("/p", Kind::Parallel)] {
            tree.create(path, kind, Some(BLOCK)).await.unwrap();
            assert_eq!(code(tree.create(path, kind, None).await), "58P02");
            assert_eq!(code(tree.write(path, -1, b"x").await), "22023");
            assert_eq!(code(tree.read(path, -1, 1).await), "22023");
            assert_eq!(code(tree.truncate(path, -1).await), "22023");
        }
        assert_eq!(
            code(tree.create("/none/x", Kind::Localized, None).await),
            "58P01"
        );
        assert_eq!(
            code(tree.create("/l/x", Kind::Localized, None).await),
            "58P01"
        );
        assert_eq!(
            code(tree.create("/x", Kind::Localized, Some(0)).await),
            "23514"
        );
        assert_eq!(code(tree.write("/d", 0, b"x").await), "42809");
        assert_eq!(code(tree.read("/none", 0, 1).await), "58P01");
        assert_eq!(code(tree.append("/none", b"x").await), "58P01");
        assert_eq!(code(tree.rename("/none", "/other").await), "58P01");
        assert_eq!(code(tree.rename("/l", "/p").await), "58P02");
        assert_eq!(code(tree.rename("/l", "/d").await), "58P02");
        tree.rename("/l", "/l").await.unwrap();
        assert_eq!(code(tree.rename("/d", "/d/e").await), "22023");
        assert_eq!(code(tree.rename("/d", "/none/d").await), "58P01");
        assert_eq!(code(tree.give("/d", &tree, "/e").await), "42809");
        assert_eq!(code(tree.set_block_size("/d", 32).await), "42809");
        assert_eq!(code(tree.set_block_size("/none", 32).await), "58P01");
        assert_eq!(code(tree.set_block_size("/l", 0).await), "23514");
        assert_eq!(code(tree.read("/d", 0, 1).await), "42809");
        assert_eq!(code(tree.truncate("/d", 0).await), "42809");
        assert_eq!(code(tree.delete("/none").await), "58P01");
        assert_eq!(
            code(tree.write("/l", 0, &vec![0; WRITE_MAX + 1]).await),
            "54000"
        );
        let blocks = usize::try_from(PARALLEL_BLOCKS_MAX * i64::from(BLOCK)).unwrap();
        // Asked for its kind before, and not.
        for bytes in [blocks + 1, 100_000] {
            assert_eq!(code(tree.write("/p", 0, &vec![0; bytes]).await), "54000");
        }
        assert_eq!(code(tree.write("/d", 0, &[0; 100_000]).await), "42809");
        assert_eq!(code(tree.write("/none", 0, &[0; 100_000]).await), "58P01");
        assert_eq!(tree.append("/p", b"").await.unwrap(), 0);
        assert_eq!(tree.stat("/p").await.unwrap().version, 0);
        assert_eq!(
            code(
                FileSystem::new(tree_client(&engine).await)
                    .tree("nobody")
                    .await
            ),
            "58P01"
        );
    }
}

#[tokio::test]
async fn a_directory_is_renamed_with_all_that_is_in_it() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        for directory in ["/a", "/a/b", "/a/b/c", "/ab", "/z"] {
            tree.mkdir(directory).await.unwrap();
        }
        let files = ["/a/1", "/a/b/2", "/a/b/c/3", "/ab/4"];
        for (path, kind) in files.iter().zip(KINDS.into_iter().cycle()) {
            tree.create(path, kind, Some(BLOCK)).await.unwrap();
            tree.append(path, path.as_bytes()).await.unwrap();
        }
        tree.rename("/a", "/z/a").await.unwrap();
        for path in &files[..3] {
            let moved = tree.read_all(&format!("/z{path}")).await.unwrap();
            assert_eq!(moved, path.as_bytes(), "on {}", engine.name);
            assert_eq!(code(tree.stat(path).await), "58P01");
        }
        assert_eq!(tree.read_all("/ab/4").await.unwrap(), &b"/ab/4"[..]);
        assert_eq!(tree.list("/a").await.unwrap(), []);
        tree.rename("/z/a", "/a").await.unwrap();
        assert_eq!(tree.read_all("/a/b/c/3").await.unwrap(), &b"/a/b/c/3"[..]);
    }
}

#[tokio::test]
async fn a_file_given_to_another_user_is_there_with_its_blocks() {
    for engine in engines() {
        let engine = engine.unwrap();
        let ann = tree(&engine, "ann").await;
        let files = FileSystem::new(tree_client(&engine).await);
        // Another partition, and another one's neighbour.
        let bob = NewUser {
            home: Some(ann.home() + 1),
            ..NewUser::named("bob")
        };
        files.create_user(bob).await.unwrap();
        let bob = files.tree("bob").await.unwrap();
        bob.mkdir("/from-ann").await.unwrap();
        for kind in KINDS {
            let (path, there) = (format!("/{kind}"), format!("/from-ann/{kind}"));
            ann.create(&path, kind, Some(BLOCK)).await.unwrap();
            ann.append(&path, &[9; 100]).await.unwrap();
            ann.give(&path, &bob, &there).await.unwrap();
            assert_eq!(code(ann.stat(&path).await), "58P01");
            assert_eq!(bob.read_all(&there).await.unwrap(), &[9; 100][..]);
            ann.create(&path, kind, None).await.unwrap();
            assert_eq!(code(ann.give(&path, &bob, &there).await), "58P02");
            bob.delete(&there).await.unwrap();
        }
        for table in ["localized_file", "parallel_file"] {
            let sql = format!("SELECT count(*) FROM {table}");
            let rows = files.client().read_all(&sql, &[]).await.unwrap();
            assert_eq!(rows[0].get::<_, i64>(0), 0, "{table} on {}", engine.name);
        }
    }
}

#[tokio::test]
async fn another_block_size_leaves_the_content_as_it_is() {
    for engine in engines() {
        let engine = engine.unwrap();
        let tree = tree(&engine, "ann").await;
        for kind in KINDS {
            let path = format!("/{kind}");
            tree.create(&path, kind, Some(BLOCK)).await.unwrap();
            tree.set_block_size(&path, 7).await.unwrap();
            let mut random = Random(3);
            let mut content = random.bytes(100);
            tree.append(&path, &content).await.unwrap();
            // A gap, and an end without blocks.
            content.resize(250, 0);
            tree.write(&path, 250, b"end").await.unwrap();
            content.extend(b"end");
            content.resize(300, 0);
            tree.truncate(&path, 300).await.unwrap();
            for block_size in [64, 1, 1000, 16] {
                tree.set_block_size(&path, block_size).await.unwrap();
                assert_eq!(tree.stat(&path).await.unwrap().block_size, block_size);
                let read = tree.read_all(&path).await.unwrap();
                assert_eq!(read, content, "{kind} in {block_size} on {}", engine.name);
            }
            tree.truncate(&path, WRITE_MAX as i64 + 1).await.unwrap();
            assert_eq!(code(tree.set_block_size(&path, 64).await), "54000");
        }
    }
}

#[tokio::test]
async fn an_update_changes_the_block_size_of_new_files() {
    for engine in engines() {
        let engine = engine.unwrap();
        tree(&engine, "ann").await;
        let client = tree_client(&engine).await;
        let sql = "UPDATE fs_user SET block_size = 4096 WHERE user_name = $1";
        client.call("ann", sql, &[&"ann"]).await.unwrap();
        let files = FileSystem::new(client);
        let tree = files.tree("ann").await.unwrap();
        tree.create("/new", Kind::Localized, None).await.unwrap();
        assert_eq!(tree.stat("/new").await.unwrap().block_size, 4096);
        assert!(
            !files.create_user(NewUser::named("ann")).await.unwrap(),
            "the name is taken"
        );
        assert_eq!(files.users().await.unwrap(), ["ann"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_lose_nothing() {
    const WRITERS: u8 = 4;
    const EACH: usize = 12;
    for engine in engines() {
        let engine = engine.unwrap();
        let first = tree(&engine, "ann").await;
        for kind in KINDS {
            let path = format!("/{kind}");
            first.create(&path, kind, Some(BLOCK)).await.unwrap();
            let writers = (1..=WRITERS).map(|writer| {
                let (engine, path) = (&engine, path.clone());
                async move {
                    let tree = FileSystem::new(engine.client().await.unwrap())
                        .tree("ann")
                        .await
                        .unwrap();
                    let append = async move {
                        for _ in 0..EACH {
                            tree.append(&path, &[writer; 10]).await.unwrap();
                        }
                    };
                    tokio::spawn(append).await.unwrap();
                }
            });
            join_all(writers).await;
            let content = first.read_all(&path).await.unwrap();
            let (records, rest) = content.as_chunks::<10>();
            assert!(rest.is_empty(), "{kind}");
            for writer in 1..=WRITERS {
                let count = records
                    .iter()
                    .filter(|record| **record == [writer; 10])
                    .count();
                assert_eq!(count, EACH, "{kind}: records of writer {writer}");
            }
        }
    }
}
