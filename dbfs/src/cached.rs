//! Reading through the client's cache: a file's row and its blocks are rows of their own there, each read by its whole key.

use std::sync::Arc;

use dbos_client::{PartitionKey, Result, Rows};
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

impl Tree {
    /// `None`: the server is to be asked: there is no cache, or no such file, or the file is being changed.
    pub(crate) async fn read_kept(
        &self,
        place: &Place,
        offset: i64,
        length: i64,
    ) -> Result<Option<Vec<u8>>> {
        if !self.client.caches() {
            return Ok(None);
        }
        self.hook.before()?;
        let Some(head) = self.head(place).await? else {
            return Ok(None);
        };
        let end = (offset + length).min(head.size);
        let mut data = vec![0; usize::try_from((end - offset).max(0)).unwrap_or(0)];
        if !data.is_empty() {
            let (first, last) = (offset / head.block_size, (end - 1) / head.block_size);
            if last - first >= BLOCKS_MAX {
                return Ok(None);
            }
            let blocks = (first..=last).map(|number| self.block(&head, number));
            for (number, rows) in (first..).zip(try_join_all(blocks).await?) {
                // A missing block is zeros.
                if !rows.is_empty() {
                    let content: &[u8] = rows.field(0, 0)?;
                    copy_overlap(&mut data, offset, content, number * head.block_size);
                }
            }
        }
        // Whoever changes a block changes the version in the same transaction.
        let same = self.head(place).await?.is_some_and(|again| again == head);
        Ok(same.then_some(data))
    }

    async fn head(&self, place: &Place) -> Result<Option<Head>> {
        let key = [
            PartitionKey::Int(self.home),
            PartitionKey::Text(&self.user),
            PartitionKey::Text(&place.parent),
            PartitionKey::Text(&place.name),
        ];
        let rows = self.client.read_cached(HEAD, &key).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let head = Head {
            kind: rows.field(0, 0)?,
            file_id: rows.field(0, 1)?,
            size: rows.field(0, 2)?,
            block_size: rows.field::<i32>(0, 3)?.into(),
            version: rows.field(0, 4)?,
        };
        Ok([LOCALIZED, PARALLEL].contains(&head.kind).then_some(head))
    }

    async fn block(&self, head: &Head, number: i64) -> Result<Arc<Rows>> {
        let (sql, key) = match head.kind {
            LOCALIZED => (LOCALIZED_BLOCK, self.home),
            // dbfs_block_key of sql/parallel.sql.
            _ => (PARALLEL_BLOCK, head.file_id % 1_073_741_824 + number),
        };
        let key = [key, head.file_id, number].map(PartitionKey::Int);
        self.client.read_cached(sql, &key).await
    }
}
