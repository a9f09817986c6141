//! A disk whose fdatasync fails while a file is there; all else is the real thing.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission};

type RealHandle = <DefaultFileSystem as FileSystem>::Handle;

pub struct BreakableDisk {
    pub broken: PathBuf,
}

pub struct BreakableHandle {
    real: Arc<RealHandle>,
    broken: PathBuf,
}

impl Handle for BreakableHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.real.truncate(offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.real.file_size()
    }

    fn sync(&self) -> Result<()> {
        if self.broken.exists() {
            return Err(Error::other("injected: fdatasync failed"));
        }
        self.real.sync()
    }
}

impl BreakableDisk {
    fn handle(&self, real: RealHandle) -> BreakableHandle {
        BreakableHandle {
            real: Arc::new(real),
            broken: self.broken.clone(),
        }
    }
}

impl FileSystem for BreakableDisk {
    type Handle = BreakableHandle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Self::Handle> {
        Ok(self.handle(DefaultFileSystem.create(path)?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Self::Handle> {
        Ok(self.handle(DefaultFileSystem.open(path, permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> Result<Self::Reader> {
        DefaultFileSystem.new_reader(Arc::clone(&handle.real))
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> Result<Self::Writer> {
        DefaultFileSystem.new_writer(Arc::clone(&handle.real))
    }
}
