//! `dbos sql`: one statement, a script on standard input, or an interactive shell.

use std::io::{IsTerminal, Read};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio_postgres::Client;

use crate::args::TargetArgs;
use crate::db::{self, Answer};
use crate::exit::{Failure, Result};

pub async fn run(command: Option<String>, target: &TargetArgs, json: bool) -> Result<()> {
    let urls = db::urls(target)?;
    let client = db::connect(&urls).await?;
    if let Some(sql) = command {
        return execute(&client, &sql, json)
            .await
            .map_err(|e| sql_failure(&sql, &e));
    }
    if !std::io::stdin().is_terminal() {
        let mut sql = String::new();
        std::io::stdin().read_to_string(&mut sql)?;
        return execute(&client, &sql, json)
            .await
            .map_err(|e| sql_failure(&sql, &e));
    }
    shell(client, &urls, json).await
}

async fn execute(client: &Client, sql: &str, json: bool) -> Result<(), tokio_postgres::Error> {
    db::query(client, sql, |answer| print(&answer, json)).await
}

fn print(answer: &Answer, json: bool) {
    if json {
        answer.rows.json().iter().for_each(|row| println!("{row}"));
    } else if answer.rows.columns.is_empty() {
        println!("ok, {} rows", answer.count.unwrap_or(0));
    } else {
        println!("{}", answer.rows.table());
        match answer.rows.rows.len() {
            1 => println!("(1 row)"),
            count => println!("({count} rows)"),
        }
    }
}

/// The error with the place in the statement that it points to.
fn sql_failure(sql: &str, error: &tokio_postgres::Error) -> Failure {
    let code = match error.code().map(|code| code.code()) {
        Some("08007") => 5,
        _ if error.is_closed() => 5,
        _ => 1,
    };
    let mut text = db::describe(error);
    if let Some(tokio_postgres::error::ErrorPosition::Original(at)) =
        error.as_db_error().and_then(|db| db.position())
    {
        let before: String = sql.chars().take((*at as usize).saturating_sub(1)).collect();
        let line = before.lines().count().max(1);
        let column = before.rsplit('\n').next().unwrap_or("").chars().count();
        let source = sql.lines().nth(line - 1).unwrap_or("");
        text = format!(
            "{text}\nline {line}: {source}\n{}^",
            " ".repeat(column + format!("line {line}: ").len())
        );
    }
    Failure::with_code(code, text)
}

async fn shell(mut client: Client, urls: &[String], json: bool) -> Result<()> {
    println!("dbos sql: statements end with ; and \\q leaves. Try: SELECT * FROM dbos.replicas;");
    let mut editor = DefaultEditor::new().map_err(Failure::new)?;
    let mut statement = String::new();
    loop {
        let prompt = if statement.is_empty() {
            "dbos=> "
        } else {
            "dbos-> "
        };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                statement.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Failure::new(error)),
        };
        if statement.is_empty() && matches!(line.trim(), "\\q" | "exit" | "quit") {
            return Ok(());
        }
        statement.push_str(&line);
        statement.push('\n');
        if !line.trim_end().ends_with(';') {
            continue;
        }
        let sql = std::mem::take(&mut statement);
        let _ = editor.add_history_entry(sql.trim());
        if client.is_closed() {
            client = db::connect(urls).await?;
        }
        tokio::select! {
            result = execute(&client, &sql, json) => if let Err(error) = result {
                sql_failure(&sql, &error).print();
            },
            _ = tokio::signal::ctrl_c() => {
                let _ = client.cancel_token().cancel_query(tokio_postgres::NoTls).await;
                eprintln!("canceled; reconnecting");
                client = db::connect(urls).await?;
            }
        }
    }
}
