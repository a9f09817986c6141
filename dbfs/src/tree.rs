//! One user's tree: directories, names, and what a file is.

use std::fmt;
use std::time::SystemTime;

use dbos_client::{Client, Error, Params, Result, Row, ToSql, field, first_field};

use crate::content::PARALLEL_BLOCKS_MAX;
use crate::path::{Place, check_path, hidden_name};
use crate::step::StepHook;

/// Most bytes that one transaction deletes of a parallel file: a node refuses to read much more for one.
const CUT_BYTES_MAX: i64 = 64 << 20;

/// What a directory row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// All blocks with the owner's home.
    Localized,
    /// Blocks spread over the partitions.
    Parallel,
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub file_id: i64,
    /// Bytes.
    pub size: i64,
    /// Bytes.
    pub block_size: i32,
    /// Grows with every change of the content.
    pub version: i64,
    pub created_at: SystemTime,
    pub modified_at: SystemTime,
}

/// One line of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    /// Bytes.
    pub size: i64,
    pub block_size: i32,
    pub modified_at: SystemTime,
}

/// A user's directories and files. Paths are absolute within the tree.
///
/// SQLSTATEs: 58P01 no such file or directory, 58P02 exists already, 42809 wrong kind, 55000 directory not empty,
/// 22023 bad path or range.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(crate) client: Client,
    pub(crate) user: String,
    pub(crate) home: i64,
    block_size: i32,
    pub(crate) hook: StepHook,
}

impl Tree {
    pub(crate) fn new(client: Client, user: String, home: i64, block_size: i32) -> Self {
        Self {
            client,
            user,
            home,
            block_size,
            hook: StepHook::default(),
        }
    }

    /// The same tree, stopping where the hook says.
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.hook = hook;
        self
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Partition key of everything but the blocks of parallel files.
    pub fn home(&self) -> i64 {
        self.home
    }

    pub async fn mkdir(&self, path: &str) -> Result<()> {
        self.make(path, Kind::Directory, self.block_size).await
    }

    /// Makes an empty file. `block_size` in bytes, the user's if `None`.
    pub async fn create(&self, path: &str, kind: Kind, block_size: Option<i32>) -> Result<()> {
        if kind == Kind::Directory {
            return Err(Error::request("create makes files")
                .sqlstate_is("42809")
                .hint("mkdir makes directories"));
        }
        self.make(path, kind, block_size.unwrap_or(self.block_size))
            .await
    }

    async fn make(&self, path: &str, kind: Kind, block_size: i32) -> Result<()> {
        let place = Place::parse(path)?;
        let sql = "SELECT dbfs_create($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let (kind, file_id) = (kind.number(), fresh_id());
        let Place {
            parent,
            name,
            up_parent,
            up_name,
        } = &place;
        let params: Params<'_> = &[
            &self.home,
            &self.user,
            up_parent,
            up_name,
            parent,
            name,
            &kind,
            &file_id,
            &block_size,
        ];
        self.at_home(sql, params).await.map(drop)
    }

    /// What is there; an error if there is nothing. The root has no row, and so no stat.
    pub async fn stat(&self, path: &str) -> Result<Stat> {
        self.stat_place(&Place::parse(path)?).await
    }

    pub(crate) async fn stat_place(&self, place: &Place<'_>) -> Result<Stat> {
        let sql = "SELECT kind, file_id, size, block_size, version, created_at, modified_at \
                   FROM dbfs_stat($1, $2, $3, $4)";
        let rows = self
            .read_home(sql, &[&self.home, &self.user, &place.parent, &place.name])
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| missing(place.parent, place.name))?;
        Ok(Stat {
            kind: kind_of(row, 0)?,
            file_id: field(row, 1)?,
            size: field(row, 2)?,
            block_size: field(row, 3)?,
            version: field(row, 4)?,
            created_at: field(row, 5)?,
            modified_at: field(row, 6)?,
        })
    }

    /// What is in a directory, by name; empty if there is no such directory.
    pub async fn list(&self, path: &str) -> Result<Vec<Entry>> {
        check_path(path)?;
        let sql = "SELECT name, kind, size, block_size, modified_at FROM dbfs_list($1, $2, $3)";
        let rows = self
            .read_home(sql, &[&self.home, &self.user, &path])
            .await?;
        let entry = |row: &Row| {
            Ok(Entry {
                name: field(row, 0)?,
                kind: kind_of(row, 1)?,
                size: field(row, 2)?,
                block_size: field(row, 3)?,
                modified_at: field(row, 4)?,
            })
        };
        rows.iter().map(entry).collect()
    }

    /// Gives a file, or a directory with all that is in it, another name or directory. 58P02 if the new name is taken.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_place(&Place::parse(from)?, &Place::parse(to)?)
            .await
    }

    async fn rename_place(&self, from: &Place<'_>, to: &Place<'_>) -> Result<()> {
        let sql = "SELECT dbfs_rename($1, $2, $3, $4, $5, $6, $7, $8)";
        let params: Params<'_> = &[
            &self.home,
            &self.user,
            &from.parent,
            &from.name,
            &to.up_parent,
            &to.up_name,
            &to.parent,
            &to.name,
        ];
        self.at_home(sql, params).await.map(drop)
    }

    /// Gives a file to another user, as `to_path` in his tree. 42809 for a directory, 58P02 if the name is taken there.
    pub async fn give(&self, path: &str, to: &Tree, to_path: &str) -> Result<()> {
        let (from, place) = (Place::parse(path)?, Place::parse(to_path)?);
        let sql = "SELECT dbfs_give($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let params: Params<'_> = &[
            &self.home,
            &self.user,
            &from.parent,
            &from.name,
            &to.home,
            &to.user,
            &place.up_parent,
            &place.up_name,
            &place.parent,
            &place.name,
        ];
        self.at_home(sql, params).await.map(drop)
    }

    /// Deletes a file with its blocks, or an empty directory.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let place = Place::parse(path)?;
        let sql = "SELECT dbfs_delete($1, $2, $3, $4)";
        let rows = self
            .at_home(sql, &[&self.home, &self.user, &place.parent, &place.name])
            .await?;
        if first_field(&rows)? {
            return Ok(());
        }
        self.delete_parallel(place).await
    }

    /// A file of many blocks is hidden first, then cut piece by piece: one transaction does not grow with the file.
    async fn delete_parallel(&self, mut place: Place<'_>) -> Result<()> {
        let stat = self.stat_place(&place).await?;
        let piece = cut_at_once(stat.block_size);
        let mut left = stat.size;
        let hidden = hidden_name(place.name);
        if left > piece {
            let beside = place.beside(&hidden);
            self.rename_place(&place, &beside).await?;
            place = beside;
            while left > piece {
                left -= piece;
                self.truncate_parallel(&place, left).await?;
            }
        }
        let sql = "SELECT dbfs_delete_parallel($1, $2, $3, $4)";
        self.at_home(sql, &[&self.home, &self.user, &place.parent, &place.name])
            .await
            .map(drop)
    }

    /// One transaction, remembered by the home's partition.
    pub(crate) async fn at_home(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        self.hook.before()?;
        self.client.call(self.home, sql, params).await
    }

    pub(crate) async fn read_home(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        self.hook.before()?;
        self.client.read(self.home, sql, params).await
    }
}

/// Bytes of a parallel file that one transaction deletes: whole blocks, of which it reads every one.
fn cut_at_once(block_size: i32) -> i64 {
    let block_size = i64::from(block_size);
    (CUT_BYTES_MAX / block_size).clamp(1, PARALLEL_BLOCKS_MAX) * block_size
}

impl Kind {
    fn number(self) -> i32 {
        match self {
            Self::Directory => 0,
            Self::Localized => 1,
            Self::Parallel => 2,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Localized => "localized",
            Self::Parallel => "parallel",
        })
    }
}

pub(crate) fn kind_of(row: &Row, column: usize) -> Result<Kind> {
    match field::<i32>(row, column)? {
        0 => Ok(Kind::Directory),
        1 => Ok(Kind::Localized),
        2 => Ok(Kind::Parallel),
        other => Err(Error::request(format!(
            "a directory row has the unknown kind {other}"
        ))),
    }
}

pub(crate) fn missing(parent: &str, name: &str) -> Error {
    Error::request(format!("no such file or directory: {name} in {parent}")).sqlstate_is("58P01")
}

/// A fresh random number for a file.
fn fresh_id() -> i64 {
    // Halving keeps it positive.
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    (high >> 1) as i64 ^ (uuid::Uuid::new_v4().as_u64_pair().1 >> 2) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_at_once_is_bounded_in_blocks_and_in_bytes() {
        let mib = 1 << 20;
        for (block_size, bytes) in [
            (1, 1024),
            (65_536, 64 * mib),
            (1 << 20, 64 * mib),
            (3 << 20, 63 * mib),
            (4 << 20, 64 * mib),
        ] {
            assert_eq!(cut_at_once(block_size), bytes, "{block_size}");
        }
    }
}
