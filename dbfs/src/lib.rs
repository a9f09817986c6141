//! The file system: SQL in `sql/`, and this thin client.
//!
//! A user's tree lives in rows with the user's home partition: directories, files, and all blocks of *localized* files.
//! Blocks of *parallel* files are spread over the partitions. Every change is one transaction, over as many partitions as it
//! takes; a client that dies leaves nothing half done. What is too large for one transaction is done under a hidden name
//! ([`hidden_name`]): a large parallel file gets one before it is deleted piece by piece, and whoever makes a large file makes
//! it under one and renames it at the end.
//!
//! * [`FileSystem`]: users. [`Tree`]: one user's directories and files.
//! * Block size is data: an UPDATE of `fs_user.block_size` holds for files made by trees opened afterwards.

mod cached;
mod content;
mod path;
mod step;
mod tree;

use dbos_client::{Client, Error, PartitionKey, Result, field, first_field};

pub use content::{PARALLEL_BLOCKS_MAX, WRITE_MAX};
pub use path::{hidden_name, is_hidden_name};
pub use step::StepHook;
pub use tree::{Entry, Kind, Stat, Tree};

/// The service's SQL files, in the order in which they are installed.
pub const FILES: [(&str, &str); 4] = [
    ("dbfs/sql/schema.sql", include_str!("../sql/schema.sql")),
    ("dbfs/sql/names.sql", include_str!("../sql/names.sql")),
    (
        "dbfs/sql/localized.sql",
        include_str!("../sql/localized.sql"),
    ),
    ("dbfs/sql/parallel.sql", include_str!("../sql/parallel.sql")),
];

/// Block size of a user's new files in bytes, unless said otherwise.
pub const BLOCK_SIZE_DEFAULT: i32 = 65_536;

/// Creates the tables and procedures; harmless if they are there.
pub async fn install(client: &Client) -> Result<()> {
    client.install_schema(&FILES).await
}

/// What a new user is given.
#[derive(Clone, Copy, Debug)]
pub struct NewUser<'a> {
    pub name: &'a str,
    /// Partition key of everything the user owns; from the name if `None`.
    pub home: Option<i64>,
    pub block_size: i32,
}

impl<'a> NewUser<'a> {
    pub fn named(name: &'a str) -> Self {
        Self {
            name,
            home: None,
            block_size: BLOCK_SIZE_DEFAULT,
        }
    }
}

/// The users of the file system.
#[derive(Clone, Debug)]
pub struct FileSystem {
    client: Client,
}

impl FileSystem {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// False: the name is taken; nothing was changed.
    pub async fn create_user(&self, user: NewUser<'_>) -> Result<bool> {
        let NewUser {
            name,
            home,
            block_size,
        } = user;
        path::check_name(name)?;
        let home = home.unwrap_or_else(|| PartitionKey::Text(name).slot().into());
        let sql = "SELECT dbfs_create_user($1, $2, $3)";
        first_field(
            &self
                .client
                .call(name, sql, &[&name, &home, &block_size])
                .await?,
        )
    }

    /// Opens a user's tree. Home and block size are as of now.
    pub async fn tree(&self, user: &str) -> Result<Tree> {
        let sql = "SELECT home, block_size FROM fs_user WHERE user_name = $1";
        let rows = self.client.read(user, sql, &[&user]).await?;
        let row = rows.first().ok_or_else(|| {
            Error::request(format!("no such user: {user}"))
                .sqlstate_is("58P01")
                .hint("create the user first")
        })?;
        Ok(Tree::new(
            self.client.clone(),
            user.to_owned(),
            field(row, 0)?,
            field(row, 1)?,
        ))
    }

    /// The names of all users, in order.
    pub async fn users(&self) -> Result<Vec<String>> {
        let rows = self
            .client
            .read_all("SELECT user_name FROM fs_user ORDER BY user_name", &[])
            .await?;
        rows.iter().map(|row| field(row, 0)).collect()
    }
}
