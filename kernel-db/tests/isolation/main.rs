//! Isolation levels, as the Hermitage scenarios show them: one scenario a file, played at each level on a node with four
//! partitions (so that rows 1 and 2 are in different ones) and on PostgreSQL 15, without which the test fails.
//!
//! A file begins with a comment that says what is shown, and why PostgreSQL differs if it does; then comes the script,
//! `T1: statement`, then what each level answered. A statement that does not answer soon `waits`; its answer is shown where
//! it comes. What has an answer in the file gets more time for it. `UPDATE_GOLDEN=1 cargo test --release --test isolation` writes
//! the answers anew: read the difference.

mod bank;
mod implicit;
mod play;
#[path = "../../../services/client/src/ports.rs"]
mod ports;
// Some of it is used by the protocol's own tests only.
#[allow(dead_code)]
#[path = "../wire_pg/raw.rs"]
mod raw;
mod systems;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use play::{Level, Script};
use systems::{Node, Postgres};

/// A scenario's golden text: comments and script, then a section for each level.
fn golden(script: &Script, told: &[(Level, String, String)]) -> String {
    let mut text = script.head.clone();
    for (level, kernel, postgres) in told {
        writeln!(text, "\n== {}", level.name()).unwrap();
        text.push_str(kernel);
        match postgres == kernel {
            true => text.push_str("-- PostgreSQL: the same\n"),
            false => write!(text, "-- PostgreSQL:\n{postgres}").unwrap(),
        }
    }
    text
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/isolation/scripts");
    let files = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The script at every level on both systems, as a golden file has it.
async fn play_all(script: &Script, name: &str, node: &Node, postgres: &Postgres) -> String {
    let mut told = Vec::new();
    for level in Level::ALL {
        let table = format!("{name}_{}", level.short());
        let (golden, expected) = script.golden(level);
        let here = play::play(script, golden, level, &table, || node.connect());
        let there = play::play(script, expected, level, &table, || postgres.connect());
        let (here, there) = tokio::join!(here, there);
        told.push((level, here, there));
    }
    golden(script, &told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_level_promises_what_it_says() {
    let node = Node::start().await;
    let postgres = Postgres::start().await;
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let paths = scripts();
    assert!(paths.len() > 10);
    let mut differing = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = Script::parse(&text);
        let name = path.file_stem().unwrap().to_str().unwrap();
        let played = play_all(&script, name, &node, &postgres).await;
        if update {
            std::fs::write(&path, &played).unwrap();
        } else if played != text {
            let at = played.lines().zip(text.lines()).find(|(a, b)| a != b);
            writeln!(differing, "{}: {at:?}\n{played}", path.display()).unwrap();
        }
    }
    assert!(differing.is_empty(), "\n{differing}");
}
