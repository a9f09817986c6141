//! Files: one operation is one file created, or one block of 4 KiB written or read at a random place.

use std::rc::Rc;

use anyhow::bail;
use dbfs::{FileSystem, Kind, NewUser, Tree};
use dbos_client::Client;
use rand::Rng;

use crate::run::{Operation, Prepared, expect_equal};

const USERS: usize = 16;
const FILES_PER_USER: u64 = 4;
const BLOCKS_PER_FILE: u64 = 64;
const BLOCK: usize = 4096;

/// Users are made anew for each run, so that earlier runs' files do not count.
struct Run {
    name: u64,
    trees: Vec<Tree>,
}

impl Run {
    async fn new(fs: &FileSystem) -> anyhow::Result<Self> {
        let name: u32 = rand::rng().random();
        let mut trees = Vec::new();
        for user in 0..USERS {
            let user_name = format!("bench-{name}-{user}");
            let home = Some(i64::try_from(user)?);
            fs.create_user(NewUser {
                name: &user_name,
                home,
                block_size: i32::try_from(BLOCK)?,
            })
            .await?;
            trees.push(fs.tree(&user_name).await?);
        }
        Ok(Self {
            name: name.into(),
            trees,
        })
    }

    fn tree(&self, n: u64) -> Tree {
        self.trees[(n % USERS as u64) as usize].clone()
    }
}

pub(crate) async fn prepare(client: Client, shape: &str) -> anyhow::Result<Prepared> {
    dbfs::install(&client).await?;
    let run = Run::new(&FileSystem::new(client.clone())).await?;
    let pattern = format!("bench-{}-%", run.name);
    let mut expected_before = 0;
    let operation: Operation = match shape {
        "create" => create(run),
        "write" | "read" => {
            expected_before = fill(&run).await?;
            if shape == "write" {
                write(run)
            } else {
                read(run)
            }
        }
        other => bail!("unknown shape {other:?}: create, write or read"),
    };
    let creates = shape == "create";
    let check =
        move |acknowledged: u64| -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>> {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM directory WHERE user_name LIKE $1 AND kind <> 0";
                let rows = client.read_all(sql, &[&pattern]).await?;
                expect_equal(
                    "files",
                    rows[0].get(0),
                    expected_before + if creates { acknowledged } else { 0 },
                )
            })
        };
    Ok(Prepared {
        operation,
        check: Box::new(check),
    })
}

/// Makes the files whose blocks are written or read; returns how many.
async fn fill(run: &Run) -> anyhow::Result<u64> {
    let content = vec![1; BLOCK * BLOCKS_PER_FILE as usize];
    for tree in &run.trees {
        for file in 0..FILES_PER_USER {
            let path = format!("/{file}");
            tree.create(&path, Kind::Localized, None).await?;
            tree.write(&path, 0, &content).await?;
        }
    }
    Ok(USERS as u64 * FILES_PER_USER)
}

fn create(run: Run) -> Operation {
    Rc::new(move |n| {
        let tree = run.tree(n);
        Box::pin(async move {
            tree.create(&format!("/{n}"), Kind::Localized, None)
                .await
                .map_err(|e| e.to_string())
        })
    })
}

/// Path and offset of a random block.
fn place() -> (String, i64) {
    let mut rng = rand::rng();
    let block = rng.random_range(0..BLOCKS_PER_FILE);
    (
        format!("/{}", rng.random_range(0..FILES_PER_USER)),
        block as i64 * BLOCK as i64,
    )
}

fn write(run: Run) -> Operation {
    Rc::new(move |n| {
        let (tree, (path, offset)) = (run.tree(n), place());
        Box::pin(async move {
            let data = [n as u8; BLOCK];
            tree.write(&path, offset, &data)
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
    })
}

fn read(run: Run) -> Operation {
    Rc::new(move |n| {
        let (tree, (path, offset)) = (run.tree(n), place());
        Box::pin(async move {
            match tree.read(&path, offset, BLOCK as i64).await {
                Ok(data) if data.len() == BLOCK => Ok(()),
                Ok(data) => Err(format!("{} bytes instead of {BLOCK}", data.len())),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}
