//! Checkpoints on their way: the files of one, read in pieces at the sender, gathered and verified at the receiver.
//!
//! What holds: a checkpoint is named by a hash of its manifest, so pieces of two never mix and an interrupted transfer goes
//! on where it stopped, after a restart too; a file whose checksum differs is thrown away and asked for again; only a
//! checkpoint that is complete, verified and synced is handed on.
//!
//! Left out on purpose: compression, and sending only what differs from the receiver's state.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::files::{directories, make_dir, remove_dir, sync_dir};
use super::format::io_error;
use crate::error::{Error, Result};

/// Format of the manifest and of what it lists.
const MANIFEST_FORMAT: u32 = 1;
/// Times that one file is fetched before the whole transfer is given up.
const ATTEMPTS_MAX: u32 = 3;
const READ_BYTES: usize = 1 << 20;

/// Folder of a replica's directory for checkpoints that it offers.
pub const OUTGOING: &str = "checkpoints";
/// Folder of a replica's directory for a checkpoint that is arriving.
pub const INCOMING: &str = "incoming";

/// The files of a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(message, repeated, tag = "2")]
    pub files: Vec<FileEntry>,
}

/// One file of a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileEntry {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// XXH3 of the contents.
    #[prost(uint64, tag = "3")]
    pub checksum: u64,
}

impl Manifest {
    /// Lists what is in `dir`, reading all of it. RocksDB's own trace and lock are no part of it.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| io_error("read", dir, &error))? {
            let path = entry.map_err(|error| io_error("read", dir, &error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("LOG") || name == "LOCK" {
                continue;
            }
            let (length, checksum) = checksum(&path)?;
            files.push(FileEntry {
                name: name.into_owned(),
                length,
                checksum,
            });
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self {
            format: MANIFEST_FORMAT,
            files,
        })
    }

    /// XX001 if it is damaged, of a newer format, or names something else than files of one folder.
    pub fn decode_checked(bytes: &Bytes) -> Result<Self> {
        let manifest = Self::decode(bytes.clone())
            .map_err(|error| damaged(format!("its list of files does not decode: {error}")))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(damaged(format!(
                "it has format {}, this program knows {MANIFEST_FORMAT}",
                manifest.format
            )));
        }
        match manifest.files.iter().find(|file| !is_plain(&file.name)) {
            Some(file) => Err(damaged(format!("it lists a file {:?}", file.name))),
            None => Ok(manifest),
        }
    }

    /// Names the checkpoint, by its contents.
    pub fn id(&self) -> u64 {
        xxh3_64(&self.encode_to_vec())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }
}

/// A piece that is missing: place of the file in the manifest, and the byte from which on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub file: usize,
    pub offset: u64,
}

/// A checkpoint that is arriving in a replica's directory.
pub struct Incoming {
    dir: PathBuf,
    manifest: Manifest,
    attempts: Vec<u32>,
    /// Files before this one are complete and verified.
    done: usize,
}

impl Incoming {
    /// Begins, or goes on with what an earlier attempt left. What is there of other checkpoints is removed.
    pub fn open(state_dir: &Path, manifest: Manifest) -> Result<Self> {
        let all = state_dir.join(INCOMING);
        let dir = all.join(name_of(manifest.id()));
        for other in directories(&all)?.iter().filter(|other| **other != dir) {
            remove_dir(other)?;
        }
        make_dir(&all)?;
        make_dir(&dir)?;
        Ok(Self {
            dir,
            attempts: vec![0; manifest.files.len()],
            manifest,
            done: 0,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next piece to fetch; none when every file is there and verified. XX001 when a file keeps arriving damaged.
    pub fn missing(&mut self) -> Result<Option<Missing>> {
        while let Some(entry) = self.manifest.files.get(self.done) {
            let path = self.dir.join(&entry.name);
            let length = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                Err(error) => return Err(io_error("look at", &path, &error)),
            };
            if length < entry.length {
                return Ok(Some(Missing {
                    file: self.done,
                    offset: length,
                }));
            }
            if entry.length == 0 && !path.exists() {
                File::create(&path).map_err(|error| io_error("create", &path, &error))?;
            }
            if checksum(&path)? == (entry.length, entry.checksum) {
                self.done += 1;
                continue;
            }
            self.attempts[self.done] += 1;
            tracing::warn!(file = entry.name, "a file of a checkpoint arrived damaged");
            fs::remove_file(&path).map_err(|error| io_error("remove", &path, &error))?;
            if self.attempts[self.done] >= ATTEMPTS_MAX {
                return Err(damaged(format!(
                    "file {} arrived damaged {ATTEMPTS_MAX} times",
                    entry.name
                )));
            }
        }
        Ok(None)
    }

    /// Adds a piece that `missing` asked for.
    pub fn write(&self, piece: Missing, bytes: &[u8]) -> Result<()> {
        let Some(entry) = self.manifest.files.get(piece.file) else {
            return Err(Error::internal("a piece of a file that is not listed"));
        };
        if bytes.is_empty() || piece.offset + bytes.len() as u64 > entry.length {
            return Err(damaged(format!(
                "a piece of {} at {} has {} bytes",
                entry.name,
                piece.offset,
                bytes.len()
            )));
        }
        let path = self.dir.join(&entry.name);
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.seek(SeekFrom::Start(piece.offset))?;
            file.write_all(bytes)
        };
        write().map_err(|error| io_error("write", &path, &error))
    }

    /// Makes the verified files durable.
    pub fn sync(&self) -> Result<()> {
        for entry in &self.manifest.files {
            let path = self.dir.join(&entry.name);
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| io_error("sync", &path, &error))?;
        }
        sync_dir(&self.dir)
    }
}

/// Where the checkpoint with this manifest arrives.
pub fn incoming_dir(state_dir: &Path, manifest: &Manifest) -> PathBuf {
    state_dir.join(INCOMING).join(name_of(manifest.id()))
}

/// Where the checkpoint with this manifest is offered.
pub fn outgoing_dir(state_dir: &Path, id: u64) -> PathBuf {
    state_dir.join(OUTGOING).join(name_of(id))
}

/// At most `limit` bytes of a file of a checkpoint that is offered. Class Retry if it is not offered any more.
pub fn read_piece(state_dir: &Path, id: u64, name: &str, offset: u64, limit: u64) -> Result<Bytes> {
    if !is_plain(name) {
        return Err(damaged(format!("a file {name:?} was asked for")));
    }
    let path = outgoing_dir(state_dir, id).join(name);
    let read = || -> std::io::Result<Bytes> {
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    };
    read().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::retry("DB004", "the checkpoint is not offered any more"),
        _ => io_error("read", &path, &error),
    })
}

fn name_of(id: u64) -> String {
    format!("{id:016x}")
}

/// A name that cannot leave its folder.
fn is_plain(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.chars().all(good) && !name.starts_with('.')
}

/// Length and checksum of a file.
fn checksum(path: &Path) -> Result<(u64, u64)> {
    let read = || -> std::io::Result<(u64, u64)> {
        let (mut file, mut hash, mut length) = (File::open(path)?, Xxh3::new(), 0);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((length, hash.digest())),
                n => {
                    hash.update(&buffer[..n]);
                    length += n as u64;
                }
            }
        }
    };
    read().map_err(|error| io_error("read", path, &error))
}

pub(super) fn damaged(what: String) -> Error {
    Error::new("XX001", format!("checkpoint refused: {what}"))
        .hint("another one is made and fetched by itself; if it happens again, look at the disks of both nodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with three files as a checkpoint, offered in `dir`.
    fn offered(dir: &Path) -> Manifest {
        let made = dir.join("made");
        fs::create_dir_all(&made).unwrap();
        fs::write(made.join("one.sst"), vec![7; 5000]).unwrap();
        fs::write(made.join("two.sst"), b"two").unwrap();
        fs::write(made.join("empty"), b"").unwrap();
        fs::write(made.join("LOG"), b"not part of it").unwrap();
        let manifest = Manifest::of(&made).unwrap();
        let outgoing = outgoing_dir(dir, manifest.id());
        fs::create_dir_all(outgoing.parent().unwrap()).unwrap();
        fs::rename(made, outgoing).unwrap();
        manifest
    }

    /// Fetches until all is there; `spoil` may change a piece on its way. Counts the pieces.
    fn fetch(
        from: &Path,
        incoming: &mut Incoming,
        mut spoil: impl FnMut(u32, Vec<u8>) -> Vec<u8>,
    ) -> Result<u32> {
        let mut pieces = 0;
        while let Some(piece) = incoming.missing()? {
            let manifest = incoming.manifest().clone();
            let name = &manifest.files[piece.file].name;
            let bytes = read_piece(from, manifest.id(), name, piece.offset, 1024)?;
            incoming.write(piece, &spoil(pieces, bytes.to_vec()))?;
            pieces += 1;
        }
        Ok(pieces)
    }

    #[test]
    fn a_checkpoint_arrives_whole_and_an_interrupted_one_goes_on() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = offered(from.path());
        assert_eq!((manifest.files.len(), manifest.bytes()), (3, 5003));
        let mut first = Incoming::open(to.path(), manifest.clone()).unwrap();
        let piece = first.missing().unwrap().unwrap();
        first.write(piece, &[7; 1024]).unwrap();
        drop(first);
        let mut second = Incoming::open(to.path(), manifest.clone()).unwrap();
        // Four of five pieces of the first file are left, and the second.
        assert_eq!(fetch(from.path(), &mut second, |_, b| b).unwrap(), 5);
        second.sync().unwrap();
        assert_eq!(Manifest::of(second.dir()).unwrap(), manifest);
    }

    #[test]
    fn a_damaged_file_is_fetched_again_and_never_handed_on() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = offered(from.path());
        let flip = |wanted: u32| {
            move |piece: u32, mut bytes: Vec<u8>| {
                bytes[0] ^= u8::from(piece == wanted);
                bytes
            }
        };
        let mut once = Incoming::open(to.path(), manifest.clone()).unwrap();
        // Five pieces twice, and one of the second file.
        assert_eq!(fetch(from.path(), &mut once, flip(3)).unwrap(), 11);
        assert_eq!(Manifest::of(once.dir()).unwrap(), manifest);
        let to = tempfile::tempdir().unwrap();
        let mut always = Incoming::open(to.path(), manifest).unwrap();
        let error = fetch(from.path(), &mut always, |_, mut bytes| {
            bytes[0] ^= 1;
            bytes
        })
        .unwrap_err();
        assert_eq!(error.sqlstate(), "XX001", "{error}");
    }

    #[test]
    fn a_manifest_that_names_other_folders_is_refused() {
        let evil = Manifest {
            format: MANIFEST_FORMAT,
            files: vec![FileEntry {
                name: "../NODE".into(),
                length: 1,
                checksum: 1,
            }],
        };
        let bytes = Bytes::from(evil.encode_to_vec());
        assert!(Manifest::decode_checked(&bytes).is_err());
        let dir = tempfile::tempdir().unwrap();
        assert!(read_piece(dir.path(), 1, "../../NODE", 0, 1).is_err());
        let gone = read_piece(dir.path(), 1, "x", 0, 1).unwrap_err();
        assert_eq!(gone.class(), crate::error::Class::Retry);
    }
}
