//! `dbos fs`: files and directories by hand.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use dbfs::{Entry, FileSystem, Kind, NewUser, Tree};
use serde_json::json;

use crate::args::{FsCommand, TargetArgs};
use crate::exit::{Failure, Result, written};
use crate::output::Rows;
use crate::service::{client, failure};

/// Bytes moved in one call between a local file and the file system.
const CHUNK: usize = 1 << 20;
/// A `put` writes at least once in this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

pub async fn run(command: FsCommand, target: &TargetArgs, user: &str) -> Result<()> {
    let fs = FileSystem::new(client(target).await?);
    if let FsCommand::Install = command {
        dbfs::install(fs.client()).await.map_err(failure)?;
        let fresh = fs
            .create_user(NewUser::named(user))
            .await
            .map_err(failure)?;
        println!(
            "file system installed; user {user} {}",
            if fresh { "made" } else { "was there" }
        );
        return Ok(());
    }
    let tree = fs.tree(user).await.map_err(failure)?;
    match command {
        FsCommand::Install => Ok(()),
        FsCommand::Mkdir { path } => tree.mkdir(&path).await.map_err(failure),
        FsCommand::Put {
            local,
            path,
            parallel,
        } => {
            let kind = if parallel {
                Kind::Parallel
            } else {
                Kind::Localized
            };
            put(&tree, &path, open(&local)?, kind).await
        }
        FsCommand::Append { local, path } => append(&tree, &path, open(&local)?).await,
        FsCommand::Cat {
            path,
            offset,
            length,
        } => cat(&tree, &path, offset, length).await,
        FsCommand::Ls { path, all, json } => list(&tree, &path, all, json).await,
        FsCommand::Stat { path, json } => stat(&tree, &path, json).await,
        FsCommand::Mv { from, to, to_user } => match to_user {
            Some(other) => {
                let other = fs.tree(&other).await.map_err(failure)?;
                tree.give(&from, &other, &to).await.map_err(failure)
            }
            None => tree.rename(&from, &to).await.map_err(failure),
        },
        FsCommand::Reblock { path, block_size } => tree
            .set_block_size(&path, block_size)
            .await
            .map_err(failure),
        FsCommand::Truncate { path, size } => {
            tree.truncate(&path, signed(size)?).await.map_err(failure)
        }
        FsCommand::Rm { path } => {
            let mut deleted = tree.delete(&path).await;
            if matches!(&deleted, Err(error) if error.sqlstate() == Some("55000")) {
                remove_abandoned(&tree, path.trim_end_matches('/')).await?;
                deleted = tree.delete(&path).await;
            }
            deleted.map_err(failure)
        }
    }
}

/// Writes under a hidden name and renames at the end, so that nobody sees half a file under its own name.
async fn put(tree: &Tree, path: &str, input: Box<dyn Read>, kind: Kind) -> Result<()> {
    if tree.stat(path).await.is_ok() {
        return Err(
            Failure::new(format!("{path} exists already")).hint("`dbos fs rm` removes it first")
        );
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    remove_abandoned(tree, folder).await?;
    let hidden = format!("{folder}/{}", dbfs::hidden_name(name));
    tree.create(&hidden, kind, None).await.map_err(failure)?;
    let mut result = append(tree, &hidden, input).await;
    if result.is_ok() {
        result = tree.rename(&hidden, path).await.map_err(failure);
    }
    if result.is_err() {
        let _ = tree.delete(&hidden).await;
    }
    result
}

/// Removes what a `put` or `rm` that was killed left in `folder`: a hidden file that nobody has written to for long.
async fn remove_abandoned(tree: &Tree, folder: &str) -> Result<()> {
    let shown = if folder.is_empty() { "/" } else { folder };
    for entry in tree.list(shown).await.map_err(failure)? {
        let hidden = dbfs::is_hidden_name(&entry.name);
        let untouched = SystemTime::now().duration_since(entry.modified_at);
        if hidden && untouched.is_ok_and(|age| age > ABANDONED_AFTER) {
            let path = format!("{folder}/{}", entry.name);
            match tree.delete(&path).await {
                // Another `put` was first.
                Err(error) if error.sqlstate() == Some("58P01") => {}
                result => result.map_err(failure)?,
            }
        }
    }
    Ok(())
}

fn open(local: &str) -> Result<Box<dyn Read>> {
    match local {
        "-" => Ok(Box::new(std::io::stdin())),
        path => {
            let file = std::fs::File::open(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Failure::not_found(format!("{path}: {e}")),
                _ => Failure::new(format!("{path}: {e}")),
            })?;
            if file.metadata()?.is_dir() {
                return Err(Failure::new(format!("{path} is a directory"))
                    .hint("files are copied one by one"));
            }
            Ok(Box::new(file))
        }
    }
}

fn signed(bytes: u64) -> Result<i64> {
    i64::try_from(bytes).map_err(|_| Failure::usage(format!("{bytes} is larger than any file")))
}

async fn append(tree: &Tree, path: &str, mut input: Box<dyn Read>) -> Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut done = 0;
    loop {
        chunk.clear();
        input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        match tree.append(path, &chunk).await.map_err(failure) {
            Ok(_) => done += chunk.len(),
            Err(failure) if done == 0 => return Err(failure),
            // Its own code would say that nothing, or perhaps all, was done.
            Err(failure) => {
                let hint = format!("the first {done} bytes were appended");
                return Err(Failure { code: 1, ..failure }.hint(hint));
            }
        }
    }
}

async fn cat(tree: &Tree, path: &str, offset: u64, length: Option<u64>) -> Result<()> {
    let mut at = signed(offset)?;
    let mut left = signed(length.unwrap_or(i64::MAX as u64))?;
    let mut out = std::io::stdout().lock();
    while left > 0 {
        let data = tree
            .read(path, at, left.min(CHUNK as i64))
            .await
            .map_err(failure)?;
        if data.is_empty() {
            break;
        }
        written(out.write_all(&data))?;
        at += data.len() as i64;
        left -= data.len() as i64;
    }
    Ok(())
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::Localized => "localized",
        Kind::Parallel => "parallel",
    }
}

/// As RFC 3339, in UTC: people and scripts can read it.
fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// What is at `path`: a directory's entries, or the file itself.
async fn entries(tree: &Tree, path: &str) -> Result<Vec<Entry>> {
    let entries = tree.list(path).await.map_err(failure)?;
    if !entries.is_empty() || path == "/" {
        return Ok(entries);
    }
    let stat = tree.stat(path).await.map_err(failure)?;
    if stat.kind == Kind::Directory {
        return Ok(entries);
    }
    Ok(vec![Entry {
        name: path.to_owned(),
        kind: stat.kind,
        size: stat.size,
        block_size: stat.block_size,
        modified_at: stat.modified_at,
    }])
}

async fn list(tree: &Tree, path: &str, all: bool, json: bool) -> Result<()> {
    let mut entries = entries(tree, path).await?;
    entries.retain(|entry| all || !entry.name.starts_with('.'));
    let row = |entry: Entry| {
        let cells = [
            entry.name,
            kind_name(entry.kind).into(),
            entry.size.to_string(),
            entry.block_size.to_string(),
            utc(entry.modified_at),
        ];
        cells.map(Some).to_vec()
    };
    let columns = ["name", "kind", "size", "block_size", "modified_at"]
        .map(str::to_string)
        .to_vec();
    Rows {
        columns,
        rows: entries.into_iter().map(row).collect(),
    }
    .print(json)
}

async fn stat(tree: &Tree, path: &str, as_json: bool) -> Result<()> {
    if path == "/" {
        // The root has no row of its own.
        match as_json {
            true => println!("{}", json!({"path": path, "kind": "directory"})),
            false => println!("/: directory, the root"),
        }
        return Ok(());
    }
    let stat = tree.stat(path).await.map_err(failure)?;
    if as_json {
        let line = json!({
            "path": path,
            "kind": kind_name(stat.kind),
            "size": stat.size,
            "block_size": stat.block_size,
            "version": stat.version,
            "created_at": utc(stat.created_at),
            "modified_at": utc(stat.modified_at),
        });
        println!("{line}");
        return Ok(());
    }
    println!(
        "{path}: {}, {} bytes in blocks of {}, version {}, created {}, modified {}",
        kind_name(stat.kind),
        stat.size,
        stat.block_size,
        stat.version,
        utc(stat.created_at),
        utc(stat.modified_at)
    );
    Ok(())
}
