//! The same file operations by system calls in a folder, one thread per operation in flight.
//!
//! Every operation opens its file by name and closes it, as the papers' programs do. With `fsync`, what an operation made
//! durable in the database is made durable here: the file's data, and the directory where a name came or went.
//!
//! What fills a folder yields to other tasks now and then, so that it can be interrupted: dropping it removes the folder.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::yield_now;

use super::tree_walk::aggregate;
use crate::files::{Layout, Shape, place};
use crate::load::ThreadOperation;

/// Where the files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub path: PathBuf,
    pub fsync: bool,
}

/// A benchmark that is set up in a folder; the folder goes on drop.
pub(crate) struct PreparedThreads {
    pub operations: Vec<ThreadOperation>,
    /// Operations after which there is nothing left to do.
    pub operations_max: Option<u64>,
    root: Arc<Root>,
    shape: Shape,
    before: u64,
}

struct Root {
    folder: tempfile::TempDir,
    directories: Vec<File>,
    layout: Layout,
    fsync: bool,
}

/// `fill_for` bounds how long files are made for `delete`.
pub(crate) async fn prepare(
    folder: &Folder,
    shape: Shape,
    layout: Layout,
    threads: u32,
    fill_for: Duration,
) -> anyhow::Result<PreparedThreads> {
    let root = Arc::new(Root::new(folder, layout)?);
    let mut operations_max = None;
    match shape {
        Shape::Create => {}
        Shape::Delete => operations_max = Some(root.create_for(fill_for).await?),
        Shape::Aggregate => root.fill_tree().await?,
        Shape::SeqWrite | Shape::SeqRead => root.fill_streams(threads).await?,
        _ => root.fill().await?,
    }
    let before = root.count()?;
    let operations = (0..threads)
        .map(|thread| root.clone().operation(shape, thread))
        .collect();
    Ok(PreparedThreads {
        operations,
        operations_max,
        root,
        shape,
        before,
    })
}

impl PreparedThreads {
    /// Compares the folder with the number of acknowledged operations.
    pub fn check(&self, acknowledged: u64) -> anyhow::Result<()> {
        let expected = match self.shape {
            Shape::Create => self.before + acknowledged,
            Shape::Delete => self.before - acknowledged,
            _ => self.before,
        };
        let found = self.root.count()?;
        if found != expected {
            bail!("files: {found} are there, {expected} were expected");
        }
        Ok(())
    }
}

impl Root {
    fn new(folder: &Folder, layout: Layout) -> anyhow::Result<Self> {
        let made = tempfile::Builder::new()
            .prefix("dbos-bench-")
            .tempdir_in(&folder.path)?;
        let mut directories = Vec::new();
        for user in 0..layout.users {
            let path = made.path().join(user.to_string());
            fs::create_dir(&path)?;
            directories.push(File::open(path)?);
        }
        Ok(Self {
            folder: made,
            directories,
            layout,
            fsync: folder.fsync,
        })
    }

    fn path(&self, user: u64, file: u64) -> PathBuf {
        self.folder.path().join(format!("{user}/{file}"))
    }

    fn stream(&self, thread: u32) -> PathBuf {
        self.folder.path().join(format!("0/stream{thread}"))
    }

    fn create(&self, n: u64) -> std::io::Result<()> {
        let user = n % self.layout.users;
        let file = File::create_new(self.path(user, n))?;
        if self.fsync {
            file.sync_all()?;
            self.directories[user as usize].sync_all()?;
        }
        Ok(())
    }

    fn delete(&self, n: u64) -> std::io::Result<()> {
        let user = n % self.layout.users;
        fs::remove_file(self.path(user, n))?;
        if self.fsync {
            self.directories[user as usize].sync_all()?;
        }
        Ok(())
    }

    async fn create_for(&self, time: Duration) -> std::io::Result<u64> {
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed() < time && made < crate::files::DELETED_MAX {
            File::create_new(self.path(made % self.layout.users, made))?;
            made += 1;
            yield_now().await;
        }
        Ok(made)
    }

    async fn fill(&self) -> std::io::Result<()> {
        let content = vec![1; self.layout.block * self.layout.blocks as usize];
        for user in 0..self.layout.users {
            for file in 0..self.layout.files {
                fs::write(self.path(user, file), &content)?;
                yield_now().await;
            }
        }
        Ok(())
    }

    async fn fill_streams(&self, threads: u32) -> std::io::Result<()> {
        for thread in 0..threads {
            let file = File::create(self.stream(thread))?;
            let chunk = vec![1; self.layout.block];
            for block in 0..self.layout.blocks {
                file.write_all_at(&chunk, block * self.layout.block as u64)?;
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Files with sizes only, in directories.
    async fn fill_tree(&self) -> std::io::Result<()> {
        for user in 0..self.layout.users {
            for file in 0..self.layout.files {
                let size = crate::files::aggregate_size(user * self.layout.files + file);
                File::create(self.path(user, file))?.set_len(size)?;
                yield_now().await;
            }
        }
        Ok(())
    }

    fn count(&self) -> std::io::Result<u64> {
        let mut count = 0;
        for user in 0..self.layout.users {
            count += fs::read_dir(self.folder.path().join(user.to_string()))?.count() as u64;
        }
        Ok(count)
    }

    fn write_block(&self, user: u64, file: u64, block: u64, data: &[u8]) -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(user, file))?;
        file.write_all_at(data, block * self.layout.block as u64)?;
        if self.fsync {
            file.sync_data()?;
        }
        Ok(())
    }

    fn read_block(&self, user: u64, file: u64, block: u64, data: &mut [u8]) -> std::io::Result<()> {
        let file = File::open(self.path(user, file))?;
        file.read_exact_at(data, block * self.layout.block as u64)
    }

    fn operation(self: Arc<Self>, shape: Shape, thread: u32) -> ThreadOperation {
        let mut data = vec![thread as u8; self.layout.block];
        let step = AtomicU64::new(0);
        Box::new(move |n| {
            let done = match shape {
                Shape::Create => self.create(n),
                Shape::Delete => self.delete(n),
                Shape::SeqWrite | Shape::SeqRead => {
                    let block = step.fetch_add(1, Ordering::Relaxed) % self.layout.blocks;
                    self.stream_step(shape, thread, block, &mut data)
                }
                Shape::Aggregate => aggregate(self.folder.path()).and_then(|sum| {
                    let files = self.layout.users * self.layout.files;
                    match sum == crate::files::aggregate_sum(files) {
                        true => Ok(()),
                        false => Err(std::io::Error::other(format!("the sum is {sum}"))),
                    }
                }),
                _ => self.blocks(shape, n, &mut data),
            };
            done.map_err(|error| error.to_string())
        })
    }

    fn blocks(&self, shape: Shape, n: u64, data: &mut [u8]) -> std::io::Result<()> {
        let user = n % self.layout.users;
        for (file, block) in place(shape, &self.layout) {
            if shape.reads() {
                self.read_block(user, file, block, data)?;
            } else {
                self.write_block(user, file, block, data)?;
            }
        }
        Ok(())
    }

    fn stream_step(
        &self,
        shape: Shape,
        thread: u32,
        block: u64,
        data: &mut [u8],
    ) -> std::io::Result<()> {
        let at = block * self.layout.block as u64;
        let path = self.stream(thread);
        if shape == Shape::SeqRead {
            return File::open(path)?.read_exact_at(data, at);
        }
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(data, at)?;
        if self.fsync {
            file.sync_data()?;
        }
        Ok(())
    }
}
