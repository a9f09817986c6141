//! Files: one operation is one file created or deleted, or so many blocks of one user written or read.
//!
//! The same shapes run on the file system of rows and, by system calls, in a folder ([`crate::peers::ext4`]).

use std::cell::RefCell;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use dbfs::{FileSystem, Kind, NewUser, Tree};
use dbos_client::Client;
use futures::future::try_join_all;
use futures::stream::{self, TryStreamExt};
use rand::Rng;
use rand::seq::index::sample;

use crate::load::{BySource, Source};
use crate::run::{Operation, Prepared, expect_equal};

/// Most bytes of a block.
pub const BLOCK_MAX: usize = 4 << 20;
/// Files that are made for `delete` at most.
pub(crate) const DELETED_MAX: u64 = 2_000_000;
/// `aggregate` adds the sizes of files that have at least so many bytes.
pub(crate) const AGGREGATE_MIN: u64 = 5000;
/// Blocks of the mixes' operations.
const MIX: usize = 20;
/// Bytes written at once while files are made.
const FILL_BYTES: usize = 256 << 10;

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An empty file is made.
    Create,
    /// An empty file is deleted.
    Delete,
    /// A random block is written.
    Write,
    /// A random block is read.
    Read,
    /// 20 random blocks of one random file are written.
    Write1x20,
    /// One random block of each of 20 random files is written.
    Write20x1,
    /// 20 random blocks of one random file are read.
    Read1x20,
    /// One random block of each of 20 random files is read.
    Read20x1,
    /// The next block of a parallel file is written; each operation in flight has its own file.
    SeqWrite,
    /// The next block of a parallel file is read.
    SeqRead,
    /// The sizes of a tree's larger files are added up.
    Aggregate,
}

impl Shape {
    pub const ALL: [(&str, Self); 11] = [
        ("create", Self::Create),
        ("delete", Self::Delete),
        ("write", Self::Write),
        ("read", Self::Read),
        ("write-1x20", Self::Write1x20),
        ("write-20x1", Self::Write20x1),
        ("read-1x20", Self::Read1x20),
        ("read-20x1", Self::Read20x1),
        ("seq-write", Self::SeqWrite),
        ("seq-read", Self::SeqRead),
        ("aggregate", Self::Aggregate),
    ];

    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Read1x20 | Self::Read20x1)
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        crate::named(&Self::ALL, "shape", text)
    }
}

/// What is there before the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub users: u64,
    /// Files of a user.
    pub files: u64,
    /// Blocks of a file.
    pub blocks: u64,
    /// Bytes of a block.
    pub block: usize,
}

impl Layout {
    pub fn of(shape: Shape, size: Option<usize>) -> Self {
        let (users, files, blocks, block) = match shape {
            Shape::Write1x20 | Shape::Write20x1 | Shape::Read1x20 | Shape::Read20x1 => {
                (8, 24, 32, 2048)
            }
            Shape::SeqWrite | Shape::SeqRead => (1, 0, 16, 1 << 20),
            Shape::Aggregate => (10, 100, 0, 4096),
            _ => (16, 4, 64, 4096),
        };
        Self {
            users,
            files,
            blocks,
            block: size.unwrap_or(block),
        }
    }
}

/// File and block of each block of one operation.
pub(crate) fn place(shape: Shape, layout: &Layout) -> Vec<(u64, u64)> {
    let mut rng = rand::rng();
    let (files, blocks) = (layout.files as usize, layout.blocks as usize);
    match shape {
        Shape::Read1x20 | Shape::Write1x20 => {
            let file = rng.random_range(0..layout.files);
            let blocks = sample(&mut rng, blocks, MIX).into_iter();
            blocks.map(|block| (file, block as u64)).collect()
        }
        Shape::Read20x1 | Shape::Write20x1 => sample(&mut rng, files, MIX)
            .into_iter()
            .map(|file| (file as u64, rng.random_range(0..layout.blocks)))
            .collect(),
        _ => vec![(
            rng.random_range(0..layout.files),
            rng.random_range(0..layout.blocks),
        )],
    }
}

/// Operations that have every block of a user, and each some block that none before had.
fn every_place(shape: Shape, layout: &Layout) -> impl Iterator<Item = Vec<(u64, u64)>> {
    let Layout { files, blocks, .. } = *layout;
    let mix = MIX as u64;
    // What goes together, and how often: the last ones begin earlier where it does not come out even.
    let (of, others) = match shape {
        Shape::Read20x1 => (files, blocks),
        _ => (blocks, files),
    };
    let together = if shape == Shape::Read { 1 } else { mix.min(of) };
    (0..others).flat_map(move |other| {
        (0..of.div_ceil(together)).map(move |part| {
            let first = (part * together).min(of - together);
            let place = |n| match shape {
                Shape::Read20x1 => (n, other),
                _ => (other, n),
            };
            (first..first + together).map(place).collect()
        })
    })
}

/// Size of the `n`-th file of the tree for `aggregate`: 0 to 9,999 bytes.
pub(crate) fn aggregate_size(n: u64) -> u64 {
    n * 7919 % 10_000
}

/// What `aggregate` must find among so many files.
pub(crate) fn aggregate_sum(files: u64) -> u64 {
    (0..files)
        .map(aggregate_size)
        .filter(|size| *size >= AGGREGATE_MIN)
        .sum()
}

/// Users are made anew for each run, so that earlier runs' files do not count.
#[derive(Clone)]
struct Run {
    client: Client,
    pattern: String,
    trees: Vec<Rc<Tree>>,
    layout: Layout,
}

impl Run {
    async fn new(client: Client, layout: Layout) -> anyhow::Result<Self> {
        let fs = FileSystem::new(client.clone());
        let name: u32 = rand::rng().random();
        let mut trees = Vec::new();
        for user in 0..layout.users {
            let user_name = format!("bench-{name}-{user}");
            let home = Some(i64::try_from(user)?);
            fs.create_user(NewUser {
                name: &user_name,
                home,
                block_size: i32::try_from(layout.block)?,
            })
            .await?;
            trees.push(Rc::new(fs.tree(&user_name).await?));
        }
        Ok(Self {
            client,
            pattern: format!("bench-{name}-%"),
            trees,
            layout,
        })
    }

    fn tree(&self, n: u64) -> Rc<Tree> {
        self.trees[(n % self.layout.users) as usize].clone()
    }

    async fn count(&self) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM directory WHERE user_name LIKE $1 AND kind <> 0";
        let rows = self.client.read_all(sql, &[&self.pattern]).await?;
        Ok(rows[0].get(0))
    }
}

/// `in_flight` and `fill_for` say how many streams there are, and how long files are made for `delete`.
pub(crate) async fn prepare(
    client: Client,
    shape: Shape,
    size: Option<usize>,
    in_flight: u32,
    fill_for: Duration,
) -> anyhow::Result<Prepared> {
    dbfs::install(&client).await?;
    let run = Run::new(client, Layout::of(shape, size)).await?;
    if shape.reads() {
        return prepare_reads(run, shape, in_flight).await;
    }
    let mut operations_max = None;
    let operation: Operation = match shape {
        Shape::Create => create(run.clone()),
        Shape::Delete => {
            operations_max = Some(create_for(&run, in_flight, fill_for).await?);
            delete(run.clone())
        }
        Shape::SeqWrite | Shape::SeqRead => streams(run.clone(), shape, in_flight).await?,
        Shape::Aggregate => {
            fill_tree(&run).await?;
            aggregate(run.clone())
        }
        _ => {
            fill(&run).await?;
            writes(run.clone(), shape)
        }
    };
    let before = u64::try_from(run.count().await?)?;
    let check = move |acknowledged: u64| async move {
        let expected = match shape {
            Shape::Create => before + acknowledged,
            Shape::Delete => before - acknowledged,
            _ => before,
        };
        expect_equal("files", run.count().await?, expected)
    };
    let mut prepared = Prepared::new(operation, check);
    prepared.operations_max = operations_max;
    Ok(prepared)
}

/// A cache is filled before, as the page cache has what was just written.
async fn prepare_reads(run: Run, shape: Shape, in_flight: u32) -> anyhow::Result<Prepared> {
    fill(&run).await?;
    let filling = match run.client.caches() {
        true => fill_cache(&run, shape, in_flight).await?,
        false => BySource::default(),
    };
    let before = u64::try_from(run.count().await?)?;
    let counted = run.clone();
    let check = move |_| async move { expect_equal("files", counted.count().await?, before) };
    Ok(Prepared::reading(reads(run, shape), filling, check))
}

/// Reads every block, in operations of the shape.
async fn fill_cache(run: &Run, shape: Shape, in_flight: u32) -> anyhow::Result<BySource> {
    let operations = (0..run.layout.users)
        .flat_map(|user| every_place(shape, &run.layout).map(move |places| (user, places)));
    let timed = RefCell::new(BySource::default());
    stream::iter(operations.map(Ok::<_, String>))
        .try_for_each_concurrent(in_flight as usize, |(user, places)| {
            let timed = &timed;
            async move {
                let began = Instant::now();
                let source = read_blocks(run.tree(user), run.layout, places).await?;
                timed.borrow_mut().add(source, began.elapsed());
                Ok(())
            }
        })
        .await
        .map_err(anyhow::Error::msg)?;
    Ok(timed.into_inner())
}

/// Makes the files whose blocks are written or read.
async fn fill(run: &Run) -> anyhow::Result<()> {
    let layout = run.layout;
    let bytes = layout.block * layout.blocks as usize;
    for tree in &run.trees {
        let files = (0..layout.files).map(|file| async move {
            let path = format!("/{file}");
            tree.create(&path, Kind::Localized, None).await?;
            write_all(tree, &path, bytes).await
        });
        try_join_all(files).await?;
    }
    Ok(())
}

async fn write_all(tree: &Tree, path: &str, bytes: usize) -> anyhow::Result<()> {
    let mut at = 0;
    while at < bytes {
        let chunk = vec![1; FILL_BYTES.min(bytes - at)];
        tree.write(path, i64::try_from(at)?, &chunk).await?;
        at += chunk.len();
    }
    Ok(())
}

async fn fill_tree(run: &Run) -> anyhow::Result<()> {
    // One user's tree in the papers' query: everything belongs to the first user.
    let tree = run.tree(0);
    for directory in 0..run.layout.users {
        let tree = &tree;
        tree.mkdir(&format!("/{directory}")).await?;
        let files = (0..run.layout.files).map(|file| async move {
            let path = format!("/{directory}/{file}");
            let size = aggregate_size(directory * run.layout.files + file);
            tree.create(&path, Kind::Localized, None).await?;
            tree.truncate(&path, size as i64).await
        });
        try_join_all(files).await?;
    }
    Ok(())
}

fn text<T>(result: dbos_client::Result<T>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

fn create(run: Run) -> Operation {
    Rc::new(move |n| {
        let tree = run.tree(n);
        Box::pin(async move { text(tree.create(&format!("/{n}"), Kind::Localized, None).await) })
    })
}

fn delete(run: Run) -> Operation {
    Rc::new(move |n| {
        let tree = run.tree(n);
        Box::pin(async move { text(tree.delete(&format!("/{n}")).await) })
    })
}

/// Makes files 0, 1, 2, ... for some time; returns how many.
async fn create_for(run: &Run, in_flight: u32, time: Duration) -> anyhow::Result<u64> {
    let next = Rc::new(RefCell::new(0));
    let start = Instant::now();
    let makers = (0..in_flight).map(|_| {
        let (next, run) = (next.clone(), run.clone());
        async move {
            while start.elapsed() < time && *next.borrow() < DELETED_MAX {
                let n = *next.borrow();
                *next.borrow_mut() += 1;
                run.tree(n)
                    .create(&format!("/{n}"), Kind::Localized, None)
                    .await?;
            }
            Ok::<_, dbos_client::Error>(())
        }
    });
    try_join_all(makers).await?;
    let made = *next.borrow();
    Ok(made)
}

fn writes(run: Run, shape: Shape) -> Operation {
    Rc::new(move |n| {
        let (tree, layout) = (run.tree(n), run.layout);
        Box::pin(async move {
            let one = |(file, block): (u64, u64)| {
                let tree = &tree;
                async move {
                    let (path, at) = (format!("/{file}"), (block as usize * layout.block) as i64);
                    text(tree.write(&path, at, &vec![n as u8; layout.block]).await)
                }
            };
            try_join_all(place(shape, &layout).into_iter().map(one))
                .await
                .map(drop)
        })
    })
}

fn reads(run: Run, shape: Shape) -> Operation<Option<Source>> {
    Rc::new(move |n| {
        let (tree, layout) = (run.tree(n), run.layout);
        Box::pin(async move {
            read_blocks(tree, layout, place(shape, &layout))
                .await
                .map(Some)
        })
    })
}

/// Those that are not in memory are asked for together.
async fn read_blocks(
    tree: Rc<Tree>,
    layout: Layout,
    places: Vec<(u64, u64)>,
) -> Result<Source, String> {
    let size = layout.block as i64;
    let mut asked = Vec::new();
    for (file, block) in places {
        let (path, at) = (format!("/{file}"), block as i64 * size);
        match tree.read_kept(&path, at, size) {
            Ok(Some(data)) => check_size(&data, layout.block)?,
            Ok(None) => asked.push((path, at)),
            Err(error) => return Err(error.to_string()),
        }
    }
    if asked.is_empty() {
        return Ok(Source::Memory);
    }
    let asked = asked
        .iter()
        .map(|(path, at)| read_block(&tree, path, *at, layout.block));
    try_join_all(asked).await?;
    Ok(Source::Target)
}

async fn read_block(tree: &Tree, path: &str, at: i64, size: usize) -> Result<(), String> {
    match tree.read(path, at, size as i64).await {
        Ok(data) => check_size(&data, size),
        Err(error) => Err(error.to_string()),
    }
}

fn check_size(data: &[u8], size: usize) -> Result<(), String> {
    match data.len() == size {
        true => Ok(()),
        false => Err(format!("{} bytes instead of {size}", data.len())),
    }
}

/// Parallel files of a fixed length that operations go through from end to end, again and again.
async fn streams(run: Run, shape: Shape, in_flight: u32) -> anyhow::Result<Operation> {
    let layout = run.layout;
    let tree = run.tree(0);
    for stream in 0..in_flight {
        let path = format!("/{stream}");
        tree.create(&path, Kind::Parallel, None).await?;
        write_all(&tree, &path, layout.block * layout.blocks as usize).await?;
    }
    let free: Vec<(u32, u64)> = (0..in_flight).map(|stream| (stream, 0)).collect();
    let free = Rc::new(RefCell::new(free));
    Ok(Rc::new(move |n| {
        let (tree, free) = (tree.clone(), free.clone());
        Box::pin(async move {
            let taken = free.borrow_mut().pop();
            let Some((stream, block)) = taken else {
                return Err("more operations in flight than streams".into());
            };
            let (path, at) = (format!("/{stream}"), (block as usize * layout.block) as i64);
            let result = match shape {
                Shape::SeqRead => read_block(&tree, &path, at, layout.block).await,
                _ => text(tree.write(&path, at, &vec![n as u8; layout.block]).await),
            };
            let next = (block + 1) % layout.blocks;
            free.borrow_mut().push((stream, next));
            result
        })
    }))
}

fn aggregate(run: Run) -> Operation {
    let expected = aggregate_sum(run.layout.users * run.layout.files) as i64;
    let user = run.pattern.replace('%', "0");
    Rc::new(move |_| {
        let (client, home, user) = (run.client.clone(), run.trees[0].home(), user.clone());
        Box::pin(async move {
            let rows = client
                .read(home, AGGREGATE, &[&home, &user, &(AGGREGATE_MIN as i64)])
                .await
                .map_err(|error| error.to_string())?;
            let sum: Result<i64, _> = dbos_client::first_field(&rows);
            match sum {
                Ok(sum) if sum == expected => Ok(()),
                Ok(sum) => Err(format!("the sum is {sum} instead of {expected}")),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// The papers' query over file metadata: all of it is this statement.
pub const AGGREGATE: &str = include_str!("../sql/aggregate.sql");
/// Its opponent on a file system: the source of a walk over the tree.
pub const TREE_WALK: &str = include_str!("peers/tree_walk.rs");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_cache_is_filled_with_every_block_and_each_operation_adds_some() {
        for shape in [Shape::Read, Shape::Read1x20, Shape::Read20x1] {
            let layout = Layout::of(shape, None);
            let mut read = BTreeSet::new();
            for places in every_place(shape, &layout) {
                assert_eq!(places.len(), place(shape, &layout).len());
                let before = read.len();
                read.extend(places);
                assert!(read.len() > before, "{shape:?}");
            }
            assert_eq!(read.len() as u64, layout.files * layout.blocks);
            let last = (layout.files - 1, layout.blocks - 1);
            assert_eq!(read.last(), Some(&last), "{shape:?}");
        }
    }
}
