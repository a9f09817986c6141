//! Reads the hand-written statements. A statement ends with a line that ends in `;`, outside of `$$`.

use std::path::Path;

pub struct Script {
    pub name: String,
    pub statements: Vec<Statement>,
}

pub struct Statement {
    /// Line in the file, from 1.
    pub line: usize,
    pub sql: String,
    /// Why the two sides differ here.
    pub differs: Option<String>,
}

/// All scripts, by name.
pub fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/sql");
    let entries = std::fs::read_dir(&folder).expect("the folder of scripts");
    let mut paths: Vec<_> = entries.map(|e| e.expect("a script").path()).collect();
    paths.sort();
    let read = |path: &Path| Script {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        statements: split(&std::fs::read_to_string(path).expect("a script's text")),
    };
    paths.iter().map(|p| read(p)).collect()
}

fn split(text: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut sql = String::new();
    let mut start = 0;
    let mut differs = None;
    for (number, line) in text.lines().enumerate() {
        if sql.is_empty() {
            if let Some(reason) = line.strip_prefix("-- differs:") {
                differs = Some(reason.trim().to_string());
            }
            if line.starts_with("--") || line.trim().is_empty() {
                continue;
            }
            start = number + 1;
        } else {
            sql.push('\n');
        }
        sql.push_str(line);
        let open_body = sql.matches("$$").count() % 2 == 1;
        if line.trim_end().ends_with(';') && !open_body {
            let text = sql.trim_end().trim_end_matches(';').to_string();
            statements.push(Statement {
                line: start,
                sql: text,
                differs: differs.take(),
            });
            sql.clear();
        }
    }
    assert!(sql.is_empty(), "a statement without end: {sql}");
    statements
}
