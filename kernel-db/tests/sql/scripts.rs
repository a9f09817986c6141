//! Every file of `tests/slt`, each on an empty database.

use std::path::Path;

use kernel_db::sql::{Value, text};
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};

use crate::database::Database;

struct Script(Database);

#[derive(Debug)]
struct Failure(kernel_db::Error);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl DB for Script {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let prepared = self.0.prepare(sql).map_err(Failure)?;
        let outcome = self.0.run_one(sql, &[]).map_err(Failure)?;
        if prepared.columns.is_empty() {
            return Ok(DBOutput::StatementComplete(outcome.count));
        }
        let cell = |v: &Value| match text::to_text(v) {
            None => "NULL".to_string(),
            Some(text) if text.is_empty() => "(empty)".to_string(),
            Some(text) => text,
        };
        let types = vec![DefaultColumnType::Any; prepared.columns.len()];
        let rows = outcome
            .rows
            .iter()
            .map(|row| row.iter().map(cell).collect())
            .collect();
        Ok(DBOutput::Rows { types, rows })
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        Some(error.0.sqlstate().to_string())
    }
}

#[test]
fn scripts_end_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("folder")
        .map(|f| f.expect("entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "scripts are missing");
    let mut failures = Vec::new();
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Script(Database::new())) });
        if let Err(e) = runner.run_file(&file) {
            failures.push(e.display(false).to_string());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
