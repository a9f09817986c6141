//! Golden transcripts of the replica: one scenario a file, the file's name is the claim.
//!
//! A file holds commands (`> ...`, see `kernel_db::sim::Script`) and, below each, what the nodes put out.
//! `UPDATE_GOLDEN=1 cargo test --release --test golden` writes the outputs anew: read the difference.

use std::fmt::Write as _;
use std::path::Path;

use kernel_db::sim::Script;

fn play(text: &str) -> String {
    let mut script = Script::new().unwrap();
    let mut played = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            played.push_str(line);
            played.push('\n');
            for told in script.run(command).unwrap() {
                writeln!(played, "{told}").unwrap();
            }
        } else if line.starts_with('#') || line.is_empty() {
            played.push_str(line);
            played.push('\n');
        }
    }
    played
}

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = String::new();
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        count += 1;
        if update {
            std::fs::write(&path, &played).unwrap();
        } else if played != text {
            let (told, expected): (Vec<_>, Vec<_>) =
                (played.lines().collect(), text.lines().collect());
            let at = told
                .iter()
                .zip(&expected)
                .take_while(|(a, b)| a == b)
                .count();
            let line = |lines: &[&str]| lines.get(at).unwrap_or(&"(end)").to_string();
            writeln!(
                differing,
                "{}:{}\n  expected: {}\n  told:     {}",
                path.file_name().unwrap().to_string_lossy(),
                at + 1,
                line(&expected),
                line(&told)
            )
            .unwrap();
        }
    }
    assert!(differing.is_empty(), "\n{differing}");
    assert!(count > 10);
}
