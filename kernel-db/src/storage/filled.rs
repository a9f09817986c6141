//! Log files that are filled before they are used. In a file that grows, each fdatasync waits for the file system's journal, and that for
//! what others write; so the next file is filled with zeroes, by a thread of its own, while the second half of the present one is in use.
//! A new log needs some such files; then raft-engine uses old ones again.
//!
//! The filled file has a name of its own until raft-engine asks for a new file. A crash on the way leaves a file that the next start
//! removes, or a log file with zeroes at its end, as one has whose space was allocated ahead.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use raft_engine::env::{DefaultFileSystem, FileSystem, Permission};

/// Written at once. The page cache would keep larger writes in larger folios, and each later fdatasync looks through a whole one.
const WRITE_BYTES: usize = 64 << 10;
/// Synced at once: so little that a commit's fdatasync beside it waits for no more.
const PIECE_BYTES: u64 = 1 << 20;
/// Pause behind each piece.
const PAUSE: Duration = Duration::from_millis(5);

/// Keeps at most one filled file ready. Its thread and its file go with it.
pub struct Filler {
    shared: Arc<Shared>,
    /// None while it is dropped.
    ask: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    file_bytes: u64,
    /// Written since raft-engine last began a file.
    written: AtomicU64,
    /// `path` is whole and durable.
    ready: AtomicBool,
    stop: AtomicBool,
}

impl Filler {
    /// Fills `path` when it is time, for log files of `file_bytes`, over what an earlier process may have left there.
    pub fn start(path: PathBuf, file_bytes: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            path,
            file_bytes,
            written: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        // One question is enough: a second one while the first waits asks for nothing more.
        let (ask, asked) = bounded(1);
        let thread = thread::Builder::new().name("log-filler".to_owned());
        let serving = shared.clone();
        Ok(Self {
            shared,
            ask: Some(ask),
            thread: Some(thread.spawn(move || serving.serve(&asked))?),
        })
    }

    /// `bytes` more were appended to the log.
    pub fn wrote(&self, bytes: usize) {
        let half = self.shared.file_bytes / 2;
        let bytes = bytes as u64;
        let before = self.shared.written.fetch_add(bytes, Ordering::Relaxed);
        if before < half && before + bytes >= half {
            self.ask.as_ref().map(|ask| ask.try_send(()));
        }
    }

    #[cfg(test)]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// The filled file becomes `path`. False if there is none.
    fn give(&self, path: &Path) -> bool {
        let shared = &self.shared;
        shared.written.store(0, Ordering::Relaxed);
        if !shared.ready.swap(false, Ordering::Acquire) {
            return false;
        }
        let given = fs::rename(&shared.path, path);
        if let Err(error) = &given {
            tracing::warn!("{} is filled and not used: {error}", shared.path.display());
        }
        given.is_ok()
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.ask = None;
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, asked: &Receiver<()>) {
        while asked.recv().is_ok() {
            if self.ready.load(Ordering::Relaxed) {
                continue;
            }
            match self.fill() {
                Ok(whole) => self.ready.store(whole, Ordering::Release),
                // Such as a full disk. Log files grow then, as far as they can.
                Err(error) => tracing::warn!("filling {} ahead: {error}", self.path.display()),
            }
            if !self.ready.load(Ordering::Relaxed) {
                fs::remove_file(&self.path).ok();
            }
        }
        if self.ready.swap(false, Ordering::Acquire) {
            fs::remove_file(&self.path).ok();
        }
    }

    /// False if it was stopped on the way.
    fn fill(&self) -> io::Result<bool> {
        let mut file = File::create(&self.path)?;
        let zeroes = [0; WRITE_BYTES];
        let mut filled = 0;
        while filled < self.file_bytes {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let bytes = (self.file_bytes - filled).min(WRITE_BYTES as u64);
            file.write_all(&zeroes[..bytes as usize])?;
            filled += bytes;
            if filled % PIECE_BYTES == 0 || filled == self.file_bytes {
                file.sync_data()?;
                thread::sleep(PAUSE);
            }
        }
        Ok(true)
    }
}

/// The real file system, whose new log files are filled ones if there are any.
pub struct FilledFiles(pub Option<Arc<Filler>>);

impl FileSystem for FilledFiles {
    type Handle = <DefaultFileSystem as FileSystem>::Handle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Self::Handle> {
        let log = path.as_ref().extension().is_some_and(|e| e == "raftlog");
        if let Some(filler) = self.0.as_ref().filter(|_| log)
            && filler.give(path.as_ref())
        {
            return DefaultFileSystem.open(path, Permission::ReadWrite);
        }
        DefaultFileSystem.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<Self::Handle> {
        DefaultFileSystem.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Reader> {
        DefaultFileSystem.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Writer> {
        DefaultFileSystem.new_writer(handle)
    }
}
