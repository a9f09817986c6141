//! The stamp of a data directory: what it holds, for whom, in which format.
//!
//! What holds: a directory of another cluster, of another partition or of a newer program is refused before anything in it
//! is opened; a directory is stamped before the first byte of data.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Version of everything that this program writes below a stamp. 2: members of groups are numbered, so that a program that does not
/// know that must not open it.
const FORMAT_VERSION: u32 = 2;
/// The oldest that it reads; what is opened gets the new stamp.
const FORMAT_OLDEST: u32 = 1;
const FILE: &str = "FORMAT";

/// Whose data a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u128,
    /// Raft group of a state store, node of a log store.
    pub number: u32,
}

/// Stamps an empty directory, making it if need be, or checks the stamp of one in use. `kind` is `state` or `log`.
pub fn open_directory(dir: &Path, kind: &str, identity: Identity) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| io_error("create", dir, &error))?;
    let path = dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            check(dir, &text, kind, identity)?;
            let own = render(kind, FORMAT_VERSION, identity);
            if text != own {
                stamp(dir, &own).map_err(|error| io_error("write", &path, &error))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut files = fs::read_dir(dir).map_err(|error| io_error("read", dir, &error))?;
            if files.next().is_some() {
                return Err(Error::new(
                    "F0000",
                    format!("directory {} holds files but no {FILE} file", dir.display()),
                )
                .hint("use an empty directory, or restore its FORMAT file"));
            }
            stamp(dir, &render(kind, FORMAT_VERSION, identity))
                .map_err(|error| io_error("write", &path, &error))
        }
        Err(error) => Err(io_error("read", &path, &error)),
    }
}

fn render(kind: &str, version: u32, identity: Identity) -> String {
    let Identity { cluster, number } = identity;
    format!("dbos-{kind} {version}\ncluster {cluster:032x}\nnumber {number}\n")
}

fn check(dir: &Path, text: &str, kind: &str, identity: Identity) -> Result<()> {
    let mut readable = FORMAT_OLDEST..=FORMAT_VERSION;
    if readable.any(|version| text == render(kind, version, identity)) {
        return Ok(());
    }
    let wanted = render(kind, FORMAT_VERSION, identity);
    let shown = dir.display();
    let (found, expected): (Vec<&str>, Vec<&str>) =
        (text.lines().collect(), wanted.lines().collect());
    let version = found
        .first()
        .and_then(|line| line.strip_prefix(&format!("dbos-{kind} ")));
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(version) if version > FORMAT_VERSION => Err(Error::new(
            "F0000",
            format!("directory {shown} has format {version}, this program knows formats up to {FORMAT_VERSION}"),
        )
        .hint("start the program that wrote it, or a newer one")),
        Some(FORMAT_OLDEST..=FORMAT_VERSION) if found.len() == expected.len() => {
            let mut lines = found.iter().zip(&expected).skip(1);
            let differing = lines.find(|(found, expected)| found != expected);
            let (found, expected) = differing.unwrap_or((&"", &""));
            Err(Error::new("F0000", format!("directory {shown} belongs to {found}, not to {expected}"))
                .hint("start the node with its own data directory, or with an empty one"))
        }
        _ => Err(Error::new("F0000", format!("directory {shown} does not hold this program's {kind} data"))
            .hint("start the node with its own data directory, or with an empty one")),
    }
}

/// Written aside and renamed, so that a crash leaves either no stamp or a whole one.
fn stamp(dir: &Path, text: &str) -> std::io::Result<()> {
    let (aside, path) = (dir.join("FORMAT.new"), dir.join(FILE));
    let mut file = File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(dir)?.sync_all()
}

/// 53100 when the disk is full, 58030 for everything else.
pub(super) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    storage_error(&format!("cannot {what} {}: {error}", path.display()))
}

/// As `io_error`, for engines that report text.
pub(super) fn storage_error(message: &str) -> Error {
    let lower = message.to_lowercase();
    // The second is what raft-engine says.
    if lower.contains("no space left") || lower.contains("nospace") {
        return Error::new("53100", message)
            .hint("free space on the node's disk and start the node again");
    }
    if lower.contains("corrupt") || lower.contains("checksum") {
        return Error::new("XX001", message).hint(
            "the data on this node's disk is damaged: remove the node from the cluster, and add one with an empty directory",
        );
    }
    if lower.contains("lock")
        && (lower.contains("unavailable") || lower.contains("held") || lower.contains("hold"))
    {
        return Error::new("55006", message)
            .hint("another process uses this data directory: stop it first");
    }
    Error::new("58030", message).hint("the node's disk or file system failed; see the node's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Identity = Identity {
        cluster: 7,
        number: 2,
    };

    #[test]
    fn a_stamped_directory_opens_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        open_directory(dir.path(), "state", OWN).unwrap();
        open_directory(dir.path(), "state", OWN).unwrap();
        let other_cluster = Identity { cluster: 8, ..OWN };
        let error = open_directory(dir.path(), "state", other_cluster).unwrap_err();
        assert_eq!(error.sqlstate(), "F0000");
        assert!(error.message().contains("belongs to cluster"), "{error}");
        let other_group = Identity { number: 3, ..OWN };
        assert!(
            open_directory(dir.path(), "state", other_group)
                .unwrap_err()
                .message()
                .contains("number 2")
        );
        assert_eq!(
            open_directory(dir.path(), "log", OWN)
                .unwrap_err()
                .sqlstate(),
            "F0000"
        );
    }

    #[test]
    fn a_newer_format_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        open_directory(dir.path(), "log", OWN).unwrap();
        let newer = render("log", FORMAT_VERSION + 1, OWN);
        fs::write(dir.path().join(FILE), newer + "something new\n").unwrap();
        assert!(
            open_directory(dir.path(), "log", OWN)
                .unwrap_err()
                .message()
                .contains("format 3")
        );
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join("letter.txt"), "not ours").unwrap();
        assert!(
            open_directory(dir.path(), "log", OWN)
                .unwrap_err()
                .message()
                .contains("no FORMAT")
        );
    }

    #[test]
    fn a_full_disk_has_its_own_code() {
        assert_eq!(
            storage_error("IO error: No space left on device: x").sqlstate(),
            "53100"
        );
        assert_eq!(storage_error("IO error: whatever").sqlstate(), "58030");
    }

    #[test]
    fn an_older_directory_opens_and_gets_the_new_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, render("state", FORMAT_OLDEST, OWN)).unwrap();
        let other = Identity { number: 3, ..OWN };
        let error = open_directory(dir.path(), "state", other).unwrap_err();
        assert!(error.message().contains("belongs to number 2"), "{error}");
        open_directory(dir.path(), "state", OWN).unwrap();
        let stamp = fs::read_to_string(&file).unwrap();
        assert_eq!(stamp, render("state", FORMAT_VERSION, OWN));
    }
}
