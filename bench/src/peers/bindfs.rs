//! bindfs: the system calls of [`super::ext4`], but through a FUSE file system that hands them on to a folder.
//!
//! A new folder in the user's holds the files and the mount point, so that nothing of the user's is ever seen through the
//! mount. The daemon runs as somebody who wants speed would run it: several threads, and writes of more than 4 KiB at once.
//! It has no fsyncdir, and the kernel then answers the fsync of a directory by itself: with fsync, blocks are durable but
//! names are not ([`Bindfs::syncs`]).
//!
//! On drop the daemon unmounts and ends, and the folder goes. A daemon whose starting thread dies gets SIGTERM from the
//! kernel and unmounts too, so that a killed process leaves a folder, but no mount.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::ext4::Folder;
use super::{NotInstalled, Server, libraries, program, version_of};
use crate::files::Shape;

/// Programs that take away the mount of a daemon that died: the first for root, the others for users.
const UNMOUNT: [&[&str]; 3] = [
    &["umount", "-l"],
    &["fusermount3", "-u", "-z"],
    &["fusermount", "-u", "-z"],
];

/// A mounted folder.
#[derive(Debug)]
pub(crate) struct Bindfs {
    /// The mount.
    pub folder: Folder,
    pub version: String,
    daemon: Server,
}

impl Bindfs {
    /// Mounts a new folder in `path`. [`NotInstalled`] also where this user cannot mount, whatever `DBOS_PEERS` promises.
    /// The calling thread must live as long as the mount.
    pub fn start(path: &Path, fsync: bool) -> anyhow::Result<Self> {
        let (binary, setpriv) = (program("bindfs")?, program("setpriv")?);
        let own = tempfile::Builder::new()
            .prefix("dbos-bench-bindfs-")
            .tempdir_in(path.canonicalize()?)
            .with_context(|| format!("making a folder in {}", path.display()))?;
        let (files, mount) = (own.path().join("files"), own.path().join("mount"));
        std::fs::create_dir(&files)?;
        std::fs::create_dir(&mount)?;
        let mut start = Command::new(setpriv);
        start.args(["--pdeathsig", "TERM"]).arg(&binary);
        start.args(["-f", "--no-allow-other", "--multithreaded"]);
        if version_of(&binary, "--fuse-version").contains("version 2.") {
            // From libfuse 3 on it is so without being asked for.
            start.args(["-o", "big_writes"]);
        }
        start.arg(&files).arg(&mount).stdin(Stdio::null());
        start.envs(libraries(&binary).map(|paths| ("LD_LIBRARY_PATH", paths)));
        // A Ctrl-C for this process must not unmount what it is still writing to.
        start.process_group(0);
        let mut bindfs = Self {
            folder: Folder { path: mount, fsync },
            version: version_of(&binary, "--version") + ", FUSE, several threads",
            daemon: Server::start("bindfs", start, own)?,
        };
        let (point, own) = (bindfs.folder.path.clone(), bindfs.own());
        let mounted = bindfs
            .daemon
            .wait_until(|| is_mounted(&point, &own).is_ok_and(|mounted| mounted));
        let cannot = |error| {
            let needs = "mounting needs /dev/fuse, and root or fusermount";
            NotInstalled(format!("{error}; {needs}"))
        };
        mounted.map_err(cannot)?;
        Ok(bindfs)
    }

    /// Where the files and the mount point are, on the file system below.
    pub fn own(&self) -> PathBuf {
        self.daemon.folder().to_path_buf()
    }

    /// Whether what this operation changes can be made durable through the mount.
    pub fn syncs(shape: Shape) -> bool {
        !matches!(shape, Shape::Create | Shape::Delete)
    }

    /// A dead daemon's mount cannot be looked at, but it is there.
    fn is_left(&self) -> bool {
        is_mounted(&self.folder.path, &self.own()).unwrap_or(true)
    }
}

/// Whether `point`, a folder in `folder`, shows another file system.
fn is_mounted(point: &Path, folder: &Path) -> io::Result<bool> {
    Ok(point.metadata()?.dev() != folder.metadata()?.dev())
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        self.daemon.stop();
        for words in UNMOUNT {
            if !self.is_left() {
                return;
            }
            let mut unmount = Command::new(words[0]);
            unmount.args(&words[1..]).arg(&self.folder.path);
            unmount.stdout(Stdio::null()).stderr(Stdio::null());
            let _ = unmount.status();
        }
        if self.is_left() {
            let mount = self.folder.path.display();
            eprintln!("{mount} is still mounted: take it away with umount -l");
        }
    }
}
