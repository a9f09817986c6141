//! Parallel files: writes in three steps, and the removal of what nobody can see any more.

use std::time::Duration;

use dbos_client::{Error, Params, Result, field, first_field};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::content::{copy_overlap, too_large};
use crate::path::Place;
use crate::step::Step;
use crate::tree::{Kind, Stat, Tree, fresh_id, missing};

/// Most blocks of one write: they become visible in one transaction.
pub const PARALLEL_BLOCKS_MAX: i64 = 1024;
/// Blocks put, got or removed at once by one client.
const BLOCKS_IN_FLIGHT: usize = 64;
/// A write that finds the file changed this often gives up.
const WRITE_ATTEMPTS: u32 = 50;
/// The file changed while it was written (dbfs_publish).
const CHANGED: &str = "55006";
/// Garbage rows looked up at once.
const GARBAGE_BATCH: i32 = 256;

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Offset(i64),
    End,
}

/// New content of consecutive blocks.
struct NewBlocks {
    first: i64,
    blocks: Vec<Vec<u8>>,
    /// Where the write ends in the file.
    end: i64,
    /// The file ends there too.
    cut: bool,
}

impl Tree {
    pub(crate) async fn write_parallel(&self, place: &Place, at: At, data: &[u8]) -> Result<i64> {
        let mut tries = 0;
        loop {
            let result = self.try_write(place, at, data).await;
            if let Some(result) = settled(result, &mut tries).await {
                return result;
            }
        }
    }

    async fn try_write(&self, place: &Place, at: At, data: &[u8]) -> Result<i64> {
        let stat = self.stat_parallel(place).await?;
        let offset = match at {
            At::Offset(offset) => offset,
            At::End => stat.size,
        };
        let new = self.merged_blocks(place, &stat, offset, data).await?;
        self.publish(place, &stat, new).await
    }

    pub(crate) async fn truncate_parallel(&self, place: &Place, size: i64) -> Result<()> {
        let mut tries = 0;
        loop {
            let result = self.try_truncate(place, size).await;
            if let Some(result) = settled(result, &mut tries).await {
                self.collect_or_leave().await;
                return result;
            }
        }
    }

    async fn try_truncate(&self, place: &Place, size: i64) -> Result<()> {
        let stat = self.stat_parallel(place).await?;
        let block_size = i64::from(stat.block_size);
        let rest = size % block_size;
        if rest == 0 || size >= stat.size {
            return self.truncate_at_home(place, size).await;
        }
        let last = size / block_size;
        let mut block = self.old_block(place, &stat, last).await?;
        block.resize(usize::try_from(rest).unwrap_or(0), 0);
        let new = NewBlocks {
            first: last,
            blocks: vec![block],
            end: size,
            cut: true,
        };
        self.publish(place, &stat, new).await.map(drop)
    }

    async fn stat_parallel(&self, place: &Place) -> Result<Stat> {
        let stat = self.stat_place(place).await?;
        if stat.kind == Kind::Parallel {
            Ok(stat)
        } else {
            Err(missing(&place.parent, &place.name))
        }
    }

    /// The blocks that `data` at `offset` touches, with what they keep of their old content.
    async fn merged_blocks(
        &self,
        place: &Place,
        stat: &Stat,
        offset: i64,
        data: &[u8],
    ) -> Result<NewBlocks> {
        let block_size = i64::from(stat.block_size);
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let most = block_size * PARALLEL_BLOCKS_MAX;
        let end = offset.checked_add(length).filter(|_| length <= most);
        let end =
            end.ok_or_else(|| too_large(data.len(), usize::try_from(most).unwrap_or(usize::MAX)))?;
        let (first, last) = (offset / block_size, (end - 1) / block_size);
        if last - first >= PARALLEL_BLOCKS_MAX {
            return Err(too_large(
                data.len(),
                usize::try_from(most - block_size).unwrap_or(usize::MAX),
            ));
        }
        let mut blocks = Vec::new();
        for number in first..=last {
            let start = number * block_size;
            let written_to = end.min(start + block_size);
            let keeps_some =
                offset > start || (written_to < start + block_size && stat.size > written_to);
            let mut block = if keeps_some {
                self.old_block(place, stat, number).await?
            } else {
                Vec::new()
            };
            let length = usize::try_from(written_to - start).unwrap_or(0);
            if block.len() < length {
                block.resize(length, 0);
            }
            copy_overlap(&mut block, start, data, offset);
            blocks.push(block);
        }
        Ok(NewBlocks {
            first,
            blocks,
            end,
            cut: false,
        })
    }

    /// A block's content in the version that `stat` saw; empty if it was never written.
    async fn old_block(&self, place: &Place, stat: &Stat, number: i64) -> Result<Vec<u8>> {
        let sql = "SELECT version, block_no, write_id FROM dbfs_read($1, $2, $3, $4, $5, 1)";
        let offset = number * i64::from(stat.block_size);
        let params: Params<'_> = &[&self.home, &self.user, &place.parent, &place.name, &offset];
        let rows = self.read_home(sql, params).await?;
        let head = rows
            .first()
            .ok_or_else(|| missing(&place.parent, &place.name))?;
        if field::<i64>(head, 0)? != stat.version {
            return Err(changed(&place.name));
        }
        let Some(row) = rows.get(1) else {
            return Ok(Vec::new());
        };
        let found = self.get_blocks(&[(field(row, 2)?, number)]).await?;
        found
            .into_iter()
            .flatten()
            .next()
            .ok_or_else(|| changed(&place.name))
    }

    /// The three steps of a write. Returns the new size.
    async fn publish(&self, place: &Place, stat: &Stat, new: NewBlocks) -> Result<i64> {
        let write_id = fresh_id();
        let last = new.first + i64::try_from(new.blocks.len()).unwrap_or(1) - 1;
        self.hook.before(Step::Begin)?;
        let sql = "SELECT dbfs_begin_write($1, $2, $3, $4)";
        self.client
            .call(self.home, sql, &[&self.home, &write_id, &new.first, &last])
            .await?;
        self.put_blocks(write_id, new.first, &new.blocks).await?;
        self.hook.before(Step::Publish)?;
        let sql = "SELECT dbfs_publish($1, $2, $3, $4, $5, $6, $7, $8)";
        let Place { parent, name, .. } = place;
        let params: Params<'_> = &[
            &self.home,
            &self.user,
            parent,
            name,
            &stat.version,
            &write_id,
            &new.end,
            &new.cut,
        ];
        let size = first_field(&self.client.call(self.home, sql, params).await?)?;
        self.collect_or_leave().await;
        Ok(size)
    }

    async fn put_blocks(&self, write_id: i64, first: i64, blocks: &[Vec<u8>]) -> Result<()> {
        let mut puts = Vec::with_capacity(blocks.len());
        for (number, data) in (first..).zip(blocks) {
            puts.push(self.put_block(write_id, number, data));
        }
        stream::iter(puts)
            .buffer_unordered(BLOCKS_IN_FLIGHT)
            .try_collect::<()>()
            .await
    }

    async fn put_block(&self, write_id: i64, number: i64, data: &[u8]) -> Result<()> {
        self.hook.before(Step::Put)?;
        let key = block_key(write_id, number);
        let sql = "SELECT dbfs_put_block($1, $2, $3, $4)";
        self.client
            .call(key, sql, &[&key, &write_id, &number, &data])
            .await
            .map(drop)
    }

    /// Blocks by write id and number, in the same order; `None` where a block is gone.
    pub(crate) async fn get_blocks(&self, wanted: &[(i64, i64)]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut gets = Vec::with_capacity(wanted.len());
        for (write_id, number) in wanted {
            gets.push(self.get_block(*write_id, *number));
        }
        stream::iter(gets)
            .buffered(BLOCKS_IN_FLIGHT)
            .try_collect()
            .await
    }

    async fn get_block(&self, write_id: i64, number: i64) -> Result<Option<Vec<u8>>> {
        self.hook.before(Step::Get)?;
        let key = block_key(write_id, number);
        let sql = "SELECT dbfs_get_block($1, $2, $3)";
        first_field(
            &self
                .client
                .read(key, sql, &[&key, &write_id, &number])
                .await?,
        )
    }

    /// Removes blocks of this home that nobody can see any more. Anybody may call it at any time, also twice at once.
    /// Returns how many were removed.
    pub async fn collect(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            self.hook.before(Step::Collect)?;
            let sql = "SELECT write_id, block_no FROM dbfs_garbage($1, $2)";
            let rows = self
                .client
                .read(self.home, sql, &[&self.home, &GARBAGE_BATCH])
                .await?;
            if rows.is_empty() {
                return Ok(removed);
            }
            let mut garbage = Vec::with_capacity(rows.len());
            for row in &rows {
                garbage.push((field(row, 0)?, field(row, 1)?));
            }
            let remove = garbage
                .into_iter()
                .map(|(write_id, number)| self.remove_block(write_id, number));
            stream::iter(remove)
                .buffer_unordered(BLOCKS_IN_FLIGHT)
                .try_collect::<()>()
                .await?;
            removed += u64::try_from(rows.len()).unwrap_or(0);
        }
    }

    /// The block first, then the note that it is garbage: a client that dies between the two leaves the note.
    async fn remove_block(&self, write_id: i64, number: i64) -> Result<()> {
        self.hook.before(Step::Collect)?;
        let key = block_key(write_id, number);
        self.client
            .call(
                key,
                "SELECT dbfs_drop_block($1, $2, $3)",
                &[&key, &write_id, &number],
            )
            .await?;
        self.hook.before(Step::Collect)?;
        let sql = "SELECT dbfs_collected($1, $2, $3)";
        self.client
            .call(self.home, sql, &[&self.home, &write_id, &number])
            .await
            .map(drop)
    }

    /// After a change that is already visible: what is not removed now is removed by a later call.
    pub(crate) async fn collect_or_leave(&self) {
        if let Err(error) = self.collect().await {
            tracing::debug!(%error, home = self.home, "garbage is left for later");
        }
    }

    /// Gives up parallel writes of this home that began more than `age` ago and were never finished. Returns how many;
    /// [`Tree::collect`] removes their blocks.
    pub async fn abort_writes(&self, age: Duration) -> Result<i32> {
        let sql = "SELECT dbfs_abort_writes($1, $2)";
        first_field(&self.at_home(sql, &[&self.home, &age.as_secs_f64()]).await?)
    }
}

/// `None`: the file changed since the attempt looked; try again. Nothing of such an attempt is visible.
async fn settled<T>(result: Result<T>, tries: &mut u32) -> Option<Result<T>> {
    *tries += 1;
    match result {
        Err(error) if error.sqlstate() == Some(CHANGED) && *tries < WRITE_ATTEMPTS => {
            let wait = u64::try_from(fresh_id() % i64::from(*tries + 1)).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            None
        }
        result => Some(result),
    }
}

/// Partition key of a block, as the procedure `dbfs_block_key` computes it.
fn block_key(write_id: i64, number: i64) -> i64 {
    write_id % 1_073_741_824 + number
}

fn changed(name: &str) -> Error {
    Error::request(format!("file {name} changed while it was written")).sqlstate_is(CHANGED)
}
