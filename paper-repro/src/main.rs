//! The papers' experiments. None is built yet: this says so and fails, so that nobody takes silence for success.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "paper-repro: the papers' experiments are not built yet; `dbos bench` runs single points (see README.md)"
    );
    ExitCode::from(2)
}
