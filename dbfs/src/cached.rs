//! Reading through the client's cache: a file's row and its blocks are rows of their own there, each read by its whole key.

use std::ops::Range;

use bytes::Bytes;
use dbos_client::{Kept, PartitionKey, Result, Rows};
use futures::future::try_join_all;

use crate::content::copy_overlap;
use crate::path::Place;
use crate::tree::Tree;

/// Blocks of one read; longer ones ask the server, in fewer calls.
const BLOCKS_MAX: i64 = 64;

/// Values of `directory.kind`.
const LOCALIZED: i32 = 1;
const PARALLEL: i32 = 2;

const HEAD: &str = "SELECT kind, file_id, size, block_size, version FROM directory \
                    WHERE home = $1 AND user_name = $2 AND parent = $3 AND name = $4";
const LOCALIZED_BLOCK: &str =
    "SELECT data FROM localized_file WHERE home = $1 AND file_id = $2 AND block_no = $3";
const PARALLEL_BLOCK: &str =
    "SELECT data FROM parallel_file WHERE block_key = $1 AND file_id = $2 AND block_no = $3";

/// What a file is as of one version.
#[derive(PartialEq)]
struct Head {
    kind: i32,
    file_id: i64,
    size: i64,
    block_size: i64,
    version: i64,
}

/// The bytes of a file that are read: what the range has within its size, and the blocks that have some of them.
struct Part {
    from: i64,
    bytes: usize,
    blocks: Range<i64>,
    block_size: i64,
}

impl Tree {
    /// All of it at one moment, and so of one version. `None`: something is not in memory.
    pub(crate) fn find(
        &self,
        place: &Place<'_>,
        offset: i64,
        length: i64,
    ) -> Result<Option<Bytes>> {
        let look = |kept: &mut Kept<'_>| self.look(kept, place, offset, length).transpose();
        let found = self.client.kept(look).transpose()?;
        Ok(found.map(|(part, blocks)| part.joined(&blocks)))
    }

    fn look(
        &self,
        kept: &mut Kept<'_>,
        place: &Place<'_>,
        offset: i64,
        length: i64,
    ) -> Result<Option<(Part, Vec<Bytes>)>> {
        let Some(rows) = kept.rows(HEAD, &self.head_key(place)) else {
            return Ok(None);
        };
        let Some(head) = Head::of(&rows)? else {
            return Ok(None);
        };
        let Some(part) = head.part(offset, length) else {
            return Ok(None);
        };
        let mut blocks = Vec::new();
        for number in part.blocks.clone() {
            let (sql, key) = self.block_key(&head, number);
            let Some(rows) = kept.rows(sql, &key) else {
                return Ok(None);
            };
            blocks.push(content(&rows)?);
        }
        Ok(Some((part, blocks)))
    }

    /// Reads through the cache. `None`: the server is to be asked: there is no cache, or no such file, or the file is being
    /// changed, or it is too much.
    pub(crate) async fn read_and_keep(
        &self,
        place: &Place<'_>,
        offset: i64,
        length: i64,
    ) -> Result<Option<Bytes>> {
        if !self.client.caches() {
            return Ok(None);
        }
        self.hook.before()?;
        let Some(head) = self.head(place).await? else {
            return Ok(None);
        };
        let Some(part) = head.part(offset, length) else {
            return Ok(None);
        };
        let blocks = part.blocks.clone().map(|number| self.block(&head, number));
        let blocks = try_join_all(blocks).await?;
        // Whoever changes a block changes the version in the same transaction.
        let same = self.head(place).await?.is_some_and(|again| again == head);
        Ok(same.then(|| part.joined(&blocks)))
    }

    async fn head(&self, place: &Place<'_>) -> Result<Option<Head>> {
        let key = self.head_key(place);
        let rows = self.client.read_cached(HEAD, &key).await?;
        Head::of(&rows)
    }

    async fn block(&self, head: &Head, number: i64) -> Result<Bytes> {
        let (sql, key) = self.block_key(head, number);
        let rows = self.client.read_cached(sql, &key).await?;
        content(&rows)
    }

    fn head_key<'a>(&'a self, place: &Place<'a>) -> [PartitionKey<'a>; 4] {
        [
            PartitionKey::Int(self.home),
            PartitionKey::Text(&self.user),
            PartitionKey::Text(place.parent),
            PartitionKey::Text(place.name),
        ]
    }

    fn block_key(&self, head: &Head, number: i64) -> (&'static str, [PartitionKey<'static>; 3]) {
        let (sql, key) = match head.kind {
            LOCALIZED => (LOCALIZED_BLOCK, self.home),
            // dbfs_block_key of sql/parallel.sql.
            _ => (PARALLEL_BLOCK, head.file_id % 1_073_741_824 + number),
        };
        (sql, [key, head.file_id, number].map(PartitionKey::Int))
    }
}

/// A block's bytes; none if there is no such row.
fn content(rows: &Rows) -> Result<Bytes> {
    if rows.is_empty() {
        return Ok(Bytes::new());
    }
    Ok(rows.bytes(0, 0)?.unwrap_or_default())
}

impl Head {
    /// `None` if there is no such file.
    fn of(rows: &Rows) -> Result<Option<Self>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let head = Self {
            kind: rows.field(0, 0)?,
            file_id: rows.field(0, 1)?,
            size: rows.field(0, 2)?,
            block_size: rows.field::<i32>(0, 3)?.into(),
            version: rows.field(0, 4)?,
        };
        Ok([LOCALIZED, PARALLEL].contains(&head.kind).then_some(head))
    }

    /// `None` if it has more than [`BLOCKS_MAX`] blocks.
    fn part(&self, from: i64, length: i64) -> Option<Part> {
        let end = (from + length).min(self.size);
        let blocks = match from < end {
            true => from / self.block_size..(end - 1) / self.block_size + 1,
            false => 0..0,
        };
        let few = blocks.end - blocks.start <= BLOCKS_MAX;
        few.then_some(Part {
            from,
            bytes: usize::try_from(end - from).unwrap_or(0),
            blocks,
            block_size: self.block_size,
        })
    }
}

impl Part {
    /// `blocks` in order; what they do not have is zeros.
    fn joined(&self, blocks: &[Bytes]) -> Bytes {
        if let [only] = blocks
            && let Ok(skipped) = usize::try_from(self.from % self.block_size)
            && let Some(end) = skipped
                .checked_add(self.bytes)
                .filter(|end| *end <= only.len())
        {
            return only.slice(skipped..end);
        }
        let mut data = vec![0; self.bytes];
        for (number, content) in self.blocks.clone().zip(blocks) {
            copy_overlap(&mut data, self.from, content, number * self.block_size);
        }
        data.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_files_with_short_and_missing_blocks_are_zeros_beyond() {
        // 16 bytes in blocks of 4; the second is short, the third is missing.
        let head = Head {
            kind: LOCALIZED,
            file_id: 1,
            size: 16,
            block_size: 4,
            version: 1,
        };
        let file: [&'static [u8]; 4] = [b"abcd", b"ef", b"", b"mnop"];
        let whole = b"abcdef\0\0\0\0\0\0mnop";
        for from in 0..20 {
            for length in 0..20 {
                let part = head.part(from, length).unwrap();
                let number = |n: i64| usize::try_from(n).unwrap();
                let blocks = part.blocks.clone();
                let blocks = blocks.map(|n| Bytes::from_static(file[number(n)]));
                let blocks: Vec<Bytes> = blocks.collect();
                let (first, last) = (number(from.min(16)), number((from + length).min(16)));
                let (read, expected) = (part.joined(&blocks), &whole[first..last.max(first)]);
                assert_eq!(read, expected, "{length} bytes from {from}");
                if blocks.len() == 1 && blocks[0].len() == 4 {
                    let skipped = number(from % 4);
                    let own = &blocks[0][skipped..];
                    assert_eq!(read.as_ptr(), own.as_ptr(), "it is not copied");
                }
            }
        }
        let large = Head {
            size: 1 << 20,
            ..head
        };
        assert!(large.part(2, 4 * BLOCKS_MAX).is_none());
        assert!(large.part(4, 4 * BLOCKS_MAX).is_some());
    }
}
