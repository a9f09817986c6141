//! `dbos task`: the scheduler by hand.

use std::time::Duration;

use scheduler::Scheduler;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::args::{TargetArgs, TaskCommand};
use crate::db;
use crate::exit::{Failure, Result};
use crate::output::Rows;
use crate::service::{NOT_INSTALLED, client, failure};

/// Partition keys that tasks without `--key` are spread over.
const KEYS: i32 = 64;
const LIST: &str = "SELECT p_key, task_id, worker_id, \
    CASE state WHEN 1 THEN 'pending' WHEN 2 THEN 'running' WHEN 3 THEN 'done' ELSE 'unknown' END AS state, \
    attempts, exit_code, command FROM task ORDER BY p_key, task_id";
const COUNT: &str = "SELECT count(*) FROM task";
const WORKERS: &str = "SELECT p_key, worker_id, capacity AS free, slots, data_shard, url, last_seen FROM worker \
    ORDER BY p_key, worker_id";

pub async fn run(command: TaskCommand, target: &TargetArgs) -> Result<()> {
    match command {
        TaskCommand::Install => {
            scheduler::install(&client(target).await?)
                .await
                .map_err(failure)?;
            println!("scheduler installed: tables worker and task, procedures sched_*");
            Ok(())
        }
        TaskCommand::Submit {
            key,
            command,
            wait,
            json,
        } => submit(target, key, &command, wait, json).await,
        TaskCommand::List { limit, json } => list(target, limit, json).await,
        TaskCommand::Workers { json } => print(target, WORKERS, json).await,
    }
}

/// The first `limit` tasks, all if it is 0; standard error tells how many more there are.
async fn list(target: &TargetArgs, limit: u32, json: bool) -> Result<()> {
    let connection = db::connect(&db::urls(target)?).await?;
    if limit == 0 {
        return rows(&connection, LIST).await?.print(json);
    }
    let shown = rows(&connection, &format!("{LIST} LIMIT {limit}")).await?;
    shown.print(json)?;
    if shown.rows.len() < limit as usize {
        return Ok(());
    }
    let count = db::rows(&connection, COUNT).await?;
    let all = count
        .rows
        .first()
        .and_then(|row| row[0].as_ref()?.parse().ok());
    let more = all.unwrap_or(0_usize).saturating_sub(shown.rows.len());
    if more > 0 {
        eprintln!("and {more} more: --limit N shows the first N tasks, --limit 0 all");
    }
    Ok(())
}

async fn submit(
    target: &TargetArgs,
    key: Option<i32>,
    command: &[String],
    wait: Option<Duration>,
    as_json: bool,
) -> Result<()> {
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    let task_id = (random >> 1) as i64;
    let key = key.unwrap_or((random % KEYS as u64) as i32);
    let scheduler = Scheduler::new(client(target).await?);
    let fresh = scheduler
        .submit(key, task_id, &shell_line(command))
        .await
        .map_err(failure)?;
    if !fresh {
        return Err(Failure::new(
            "a task of this id exists already; submit again",
        ));
    }
    if !as_json {
        println!("task {task_id} submitted under key {key}");
    }
    let Some(wait) = wait else {
        if as_json {
            println!("{}", json!({"task_id": task_id, "key": key}));
        }
        return Ok(());
    };
    let exit_code = scheduler.wait(key, task_id, wait).await.map_err(failure)?;
    if as_json {
        println!(
            "{}",
            json!({"task_id": task_id, "key": key, "exit_code": exit_code})
        );
    }
    match exit_code {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::new(format!(
            "task {task_id} ended with exit code {code}"
        ))),
        None => Err(
            Failure::new(format!("task {task_id} has not ended in {wait:?}")).hint(
                "it is there and will run when a worker of its key is free: `dbos task list`",
            ),
        ),
    }
}

/// What the worker's shell is given: one argument is a shell line as it is, several are words that stay whole.
fn shell_line(command: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
        match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    };
    match command {
        [line] => line.clone(),
        words => words.iter().map(quoted).collect::<Vec<_>>().join(" "),
    }
}

/// One SELECT as a table or as JSON.
pub async fn print(target: &TargetArgs, sql: &str, json: bool) -> Result<()> {
    let connection = db::connect(&db::urls(target)?).await?;
    rows(&connection, sql).await?.print(json)
}

/// Rows of a service's own tables.
async fn rows(connection: &tokio_postgres::Client, sql: &str) -> Result<Rows> {
    let failed = |error: tokio_postgres::Error| {
        let failure = Failure::new(db::describe(&error));
        match error.code() {
            Some(&SqlState::UNDEFINED_TABLE) => failure.hint(NOT_INSTALLED),
            _ => failure,
        }
    };
    let mut last = Rows::default();
    db::query(connection, sql, |answer| last = answer.rows)
        .await
        .map_err(failed)?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::shell_line;

    fn line(words: &[&str]) -> String {
        shell_line(
            &words
                .iter()
                .map(|word| word.to_string())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn words_stay_whole_and_one_line_stays_as_it_is() {
        assert_eq!(line(&["sh", "-c", "exit 7"]), "sh -c 'exit 7'");
        assert_eq!(line(&["echo", "it's", ""]), r"echo 'it'\''s' ''");
        assert_eq!(line(&["sleep 1; echo $HOME"]), "sleep 1; echo $HOME");
    }
}
