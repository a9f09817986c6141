//! Plain SQL connections for commands that only ask: status, tables, the shell.

use std::time::Duration;

use futures::TryStreamExt;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::args::TargetArgs;
use crate::cluster::ClusterSpec;
use crate::exit::{Failure, Result};
use crate::output::Rows;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The URLs that a command's `--target` or `--name` stands for.
pub fn urls(target: &TargetArgs) -> Result<Vec<String>> {
    match &target.target {
        Some(url) => match url.parse::<tokio_postgres::Config>() {
            Ok(_) => Ok(vec![url.clone()]),
            Err(error) => Err(Failure::usage(format!("--target {url:?}: {error}"))
                .hint("use postgres://USER@HOST:PORT/DATABASE")),
        },
        None => Ok(ClusterSpec::existing(&target.name)?.urls()),
    }
}

/// Connects to the first URL that answers.
pub async fn connect(urls: &[String]) -> Result<Client> {
    let mut last = String::from("no URL given");
    for url in urls {
        match tokio::time::timeout(CONNECT_TIMEOUT, connect_one(url)).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => last = describe(&error),
            Err(_) => last = format!("no answer within {CONNECT_TIMEOUT:?}"),
        }
    }
    Err(
        Failure::new(format!("cannot connect to {}: {last}", urls.join(", ")))
            .hint("`dbos cluster status` shows what runs, `dbos cluster up` starts it"),
    )
}

async fn connect_one(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("connection ended: {error}");
        }
    });
    Ok(client)
}

/// Message, SQLSTATE and hint of an error.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let hint = db
                .hint()
                .map(|hint| format!("; hint: {hint}"))
                .unwrap_or_default();
            let detail = db
                .detail()
                .map(|detail| format!("; {detail}"))
                .unwrap_or_default();
            format!("{} ({}){detail}{hint}", db.message(), db.code().code())
        }
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// One statement's result: its rows if it has columns, and the number of rows it touched.
#[derive(Default)]
pub struct Answer {
    pub rows: Rows,
    pub count: Option<u64>,
}

/// Runs statements by the simple protocol; `each` gets every result as it comes, those before an error too.
pub async fn query(
    client: &Client,
    sql: &str,
    mut each: impl FnMut(Answer),
) -> Result<(), tokio_postgres::Error> {
    let mut messages = std::pin::pin!(client.simple_query_raw(sql).await?);
    let mut open = Answer::default();
    while let Some(message) = messages.try_next().await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                open.rows.columns = columns.iter().map(|c| c.name().to_string()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|i| row.get(i).map(str::to_string));
                open.rows.rows.push(cells.collect());
            }
            SimpleQueryMessage::CommandComplete(count) => {
                open.count = Some(count);
                each(std::mem::take(&mut open));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs one statement and returns its rows.
pub async fn rows(client: &Client, sql: &str) -> Result<Rows> {
    let mut last = Rows::default();
    query(client, sql, |answer| last = answer.rows)
        .await
        .map_err(|e| Failure::new(describe(&e)))?;
    Ok(last)
}
