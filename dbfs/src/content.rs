//! Content of files: reading, writing, cutting. Every change is one transaction.

use bytes::Bytes;
use dbos_client::{Error, FromSql, Result, Row, field, first_field};

use crate::path::Place;
use crate::tree::{Kind, Tree, kind_of, missing};

/// Most bytes of one write: it is one transaction.
pub const WRITE_MAX: usize = 4 << 20;
/// Most blocks of a parallel file in one write: each is a row of its own partition.
pub const PARALLEL_BLOCKS_MAX: i64 = 1024;
/// Most bytes asked for in one transaction of a read.
const READ_PIECE: i64 = 4 << 20;
/// Up to so many bytes are written as to a localized file, without a question before; a parallel one is told by the answer.
const ASK_KIND_ABOVE: usize = 64 << 10;
/// A read that is overtaken by writes this often in a row gives up.
const READ_ATTEMPTS: u32 = 50;

/// A part of a file, as of one version.
struct Piece {
    size: i64,
    version: i64,
    data: Vec<u8>,
}

impl Tree {
    /// Writes at `offset` in bytes; the file grows as needed, a gap reads as zeros. All or nothing. Returns the new size.
    pub async fn write(&self, path: &str, offset: i64, data: &[u8]) -> Result<i64> {
        if offset < 0 {
            return Err(range("negative offset"));
        }
        self.write_at(path, Some(offset), data).await
    }

    /// Writes at the end. All or nothing. Returns the new size.
    pub async fn append(&self, path: &str, data: &[u8]) -> Result<i64> {
        self.write_at(path, None, data).await
    }

    /// `None`: at the end.
    async fn write_at(&self, path: &str, offset: Option<i64>, data: &[u8]) -> Result<i64> {
        let place = Place::parse(path)?;
        if data.len() > WRITE_MAX {
            return Err(too_large(data.len(), WRITE_MAX));
        }
        if !self.is_parallel(&place, data.len()).await? {
            let written: Option<i64> = self.write_to("dbfs_write", &place, offset, data).await?;
            if let Some(size) = written {
                return Ok(size);
            }
        }
        self.write_to("dbfs_write_parallel", &place, offset, data)
            .await
    }

    /// Asks before many bytes are written; says no for few.
    async fn is_parallel(&self, place: &Place<'_>, bytes: usize) -> Result<bool> {
        if bytes <= ASK_KIND_ABOVE {
            return Ok(false);
        }
        let stat = self.stat_place(place).await?;
        if stat.kind != Kind::Parallel {
            return Ok(false);
        }
        let most = (PARALLEL_BLOCKS_MAX - 1) * i64::from(stat.block_size);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        match bytes > most {
            true => Err(too_large(bytes, most)),
            false => Ok(true),
        }
    }

    async fn write_to<T>(
        &self,
        procedure: &str,
        place: &Place<'_>,
        offset: Option<i64>,
        data: &[u8],
    ) -> Result<T>
    where
        T: for<'a> FromSql<'a>,
    {
        let sql = format!("SELECT {procedure}($1, $2, $3, $4, $5, $6)");
        let Place { parent, name, .. } = place;
        let rows = self
            .at_home(
                &sql,
                &[&self.home, &self.user, parent, name, &offset, &data],
            )
            .await?;
        first_field(&rows)
    }

    /// Reads up to `length` bytes from `offset`; fewer at the end of the file. All of one version of the file.
    ///
    /// One whole block that the client's cache has is not copied: then the bytes are the cache's, too.
    pub async fn read(&self, path: &str, offset: i64, length: i64) -> Result<Bytes> {
        if let Some(data) = self.read_kept(path, offset, length)? {
            // Nothing else would let others run.
            tokio::task::coop::consume_budget().await;
            return Ok(data);
        }
        // In a box: futures of hits stay small.
        Box::pin(self.read_asking(path, offset, length)).await
    }

    /// What [`Tree::read`] would give, if the client's cache has all of it: nothing is sent, and nobody waits. `None`: use
    /// that. A task that only ever gets hits must let others run by itself.
    pub fn read_kept(&self, path: &str, offset: i64, length: i64) -> Result<Option<Bytes>> {
        if offset < 0 || length < 0 || offset.checked_add(length).is_none() {
            return Err(range("offset and length must be a range of bytes"));
        }
        self.find(&Place::parse(path)?, offset, length)
    }

    async fn read_asking(&self, path: &str, offset: i64, length: i64) -> Result<Bytes> {
        let place = Place::parse(path)?;
        if let Some(data) = self.read_and_keep(&place, offset, length).await? {
            return Ok(data);
        }
        for _ in 0..READ_ATTEMPTS {
            if let Some(data) = self.try_read(&place, offset, length).await? {
                return Ok(data.into());
            }
        }
        Err(
            Error::request(format!("{path} changes faster than it can be read"))
                .sqlstate_is("55006"),
        )
    }

    /// Reads a whole file.
    pub async fn read_all(&self, path: &str) -> Result<Bytes> {
        self.read(path, 0, i64::MAX).await
    }

    /// `None`: the file changed between two pieces.
    async fn try_read(
        &self,
        place: &Place<'_>,
        offset: i64,
        length: i64,
    ) -> Result<Option<Vec<u8>>> {
        let first = self
            .read_piece(place, offset, length.min(READ_PIECE))
            .await?;
        let end = (offset + length).min(first.size);
        let mut data = first.data;
        loop {
            // A file that ends below the offset has no bytes there.
            let next = offset + i64::try_from(data.len()).unwrap_or(i64::MAX);
            if next >= end {
                return Ok(Some(data));
            }
            let piece = self
                .read_piece(place, next, (end - next).min(READ_PIECE))
                .await?;
            if piece.version != first.version {
                return Ok(None);
            }
            data.extend(piece.data);
        }
    }

    async fn read_piece(&self, place: &Place<'_>, offset: i64, length: i64) -> Result<Piece> {
        let mut rows = self.read_rows("dbfs_read", place, offset, length).await?;
        if let Some(head) = rows.first()
            && kind_of(head, 0)? == Kind::Parallel
        {
            rows = self
                .read_rows("dbfs_read_parallel", place, offset, length)
                .await?;
        }
        let (head, blocks) = rows
            .split_first()
            .ok_or_else(|| missing(place.parent, place.name))?;
        let (size, block_size, version): (i64, i32, i64) =
            (field(head, 1)?, field(head, 2)?, field(head, 3)?);
        let end = (offset + length).min(size);
        let mut data = vec![0; usize::try_from((end - offset).max(0)).unwrap_or(0)];
        for block in blocks {
            let (number, content): (i64, Vec<u8>) = (field(block, 4)?, field(block, 5)?);
            copy_overlap(&mut data, offset, &content, number * i64::from(block_size));
        }
        Ok(Piece {
            size,
            version,
            data,
        })
    }

    async fn read_rows(
        &self,
        procedure: &str,
        place: &Place<'_>,
        offset: i64,
        length: i64,
    ) -> Result<Vec<Row>> {
        let sql = format!(
            "SELECT kind, file_size, block_size, version, block_no, data \
             FROM {procedure}($1, $2, $3, $4, $5, $6)"
        );
        let Place { parent, name, .. } = place;
        self.read_home(
            &sql,
            &[&self.home, &self.user, parent, name, &offset, &length],
        )
        .await
    }

    /// Cuts a file to `size` bytes, or lengthens it with zeros.
    pub async fn truncate(&self, path: &str, size: i64) -> Result<()> {
        if size < 0 {
            return Err(range("negative size"));
        }
        let place = Place::parse(path)?;
        let stat = self.stat_place(&place).await?;
        match stat.kind {
            Kind::Directory => Err(wrong_kind(path)),
            Kind::Parallel => self.truncate_parallel(&place, size).await,
            Kind::Localized => {
                let sql = "SELECT dbfs_truncate($1, $2, $3, $4, $5)";
                let Place { parent, name, .. } = &place;
                self.at_home(sql, &[&self.home, &self.user, parent, name, &size])
                    .await
                    .map(drop)
            }
        }
    }

    pub(crate) async fn truncate_parallel(&self, place: &Place<'_>, size: i64) -> Result<()> {
        let sql = "SELECT dbfs_truncate_parallel($1, $2, $3, $4, $5)";
        let Place { parent, name, .. } = place;
        self.at_home(sql, &[&self.home, &self.user, parent, name, &size])
            .await
            .map(drop)
    }

    /// Cuts a file's content into blocks of another size, in bytes. 54000 if it has more than [`WRITE_MAX`] bytes: copy it
    /// into a new file, and rename that.
    pub async fn set_block_size(&self, path: &str, block_size: i32) -> Result<()> {
        let Place { parent, name, .. } = Place::parse(path)?;
        let sql = "SELECT dbfs_set_block_size($1, $2, $3, $4, $5)";
        self.at_home(sql, &[&self.home, &self.user, &parent, &name, &block_size])
            .await
            .map(drop)
    }
}

/// Copies the bytes that a source at `from` and a target at `at` have in common. Both are offsets in the same file.
pub(crate) fn copy_overlap(target: &mut [u8], at: i64, source: &[u8], from: i64) {
    let end = |start: i64, bytes: &[u8]| start + i64::try_from(bytes.len()).unwrap_or(0);
    let first = at.max(from);
    let last = end(at, target).min(end(from, source));
    if let (Ok(length), Ok(to), Ok(of)) = (
        usize::try_from(last - first),
        usize::try_from(first - at),
        usize::try_from(first - from),
    ) && length > 0
    {
        target[to..to + length].copy_from_slice(&source[of..of + length]);
    }
}

fn too_large(bytes: usize, most: usize) -> Error {
    Error::request(format!("a write of {bytes} bytes, at most {most}"))
        .sqlstate_is("54000")
        .hint("write it in several pieces")
}

fn wrong_kind(path: &str) -> Error {
    Error::request(format!("{path} is a directory")).sqlstate_is("42809")
}

fn range(why: &str) -> Error {
    Error::request(why).sqlstate_is("22023")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_common_bytes_are_copied() {
        let copied = |at, source: &[u8], from| {
            let mut target = *b"....";
            copy_overlap(&mut target, at, source, from);
            String::from_utf8(target.to_vec()).unwrap()
        };
        assert_eq!(copied(10, b"abcd", 10), "abcd");
        assert_eq!(copied(10, b"abcd", 8), "cd..");
        assert_eq!(copied(10, b"abcd", 12), "..ab");
        assert_eq!(copied(10, b"abcdefgh", 8), "cdef");
        assert_eq!(copied(10, b"abcd", 14), "....");
        assert_eq!(copied(10, b"abcd", 0), "....");
        assert_eq!(copied(10, b"", 11), "....");
    }
}
