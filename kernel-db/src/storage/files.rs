//! Small steps on files that outlive a crash.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::format::io_error;
use crate::error::Result;

/// Writes `path` so that after a crash it holds the old text or the new one, whole.
pub fn replace_text(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| io_error("write", path, &error))?;
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error("sync", dir, &error))
}

/// Makes `dir`, which may be there. The directory around it must be: one that was dropped meanwhile is not to come back.
pub fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(io_error("create", dir, &error))
        }
        _ => Ok(()),
    }
}

/// Removes `dir` and all in it; it may be absent.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", dir, &error)),
        _ => Ok(()),
    }
}

/// The directories in `dir`, which may be absent.
pub fn directories(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", dir, &error)),
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}
