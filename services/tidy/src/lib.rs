//! Rules of this repository that the compiler does not check; the tests beside it check them.
//!
//! Reads files as text. It relies on rustfmt's layout (a function's closing brace stands at the indent of its `fn`),
//! which `make check` guarantees.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .and_then(Path::parent)
        .expect("services/tidy is two levels down")
        .to_path_buf()
}

/// A source file: its path relative to the root, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// All `.rs` files of the workspace members.
pub fn rust_sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for member in [
        "kernel-db",
        "services",
        "scheduler",
        "dbfs",
        "ipc",
        "bench",
        "paper-repro",
    ] {
        collect(&root, &root.join(member), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(root, &path, found);
            }
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file is readable UTF-8");
            let path = path
                .strip_prefix(root)
                .expect("below the root")
                .to_string_lossy()
                .into_owned();
            found.push(Source { path, text });
        }
    }
}

/// A function: its name, the line of its `fn` from 1, and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// Functions with a body, outside of strings as far as layout tells.
pub fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else {
            continue;
        };
        let end = format!("{}}}", " ".repeat(indent));
        let body = lines[number..]
            .iter()
            .take_while(|line| **line != end)
            .count();
        let semicolon = lines[number..]
            .iter()
            .take(body)
            .position(|line| line.ends_with(';') || line.ends_with('{'));
        let declaration_only = semicolon.is_some_and(|at| lines[number + at].ends_with(';'));
        if !declaration_only && !code.ends_with('}') && number + body < lines.len() {
            found.push(Function {
                name,
                line: number + 1,
                lines: body + 1,
            });
        }
    }
    found
}

fn function_name(code: &str) -> Option<String> {
    let mut words = code.split_whitespace();
    loop {
        match words.next()? {
            "fn" => break,
            "pub" | "async" | "const" | "pub(crate)" | "pub(super)" | "unsafe" => {}
            _ => return None,
        }
    }
    let name: String = words
        .next()?
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// `cargo metadata` of the workspace for this machine's platform, offline.
pub fn metadata() -> Value {
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_by_layout() {
        let text = "impl A {\n    pub fn one(&self) {\n        two();\n    }\n\n    fn declared(&self);\n}\n\nfn short() {}\n";
        assert_eq!(
            functions(text),
            [Function {
                name: "one".into(),
                line: 2,
                lines: 3
            }]
        );
    }
}
