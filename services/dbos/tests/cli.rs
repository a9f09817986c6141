//! The command line: help, wrong arguments, exit codes. No cluster is started here.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn dbos(args: &[&str]) -> Output {
    let home = std::env::temp_dir().join(format!("dbos-cli-test-{}", std::process::id()));
    Command::new(env!("CARGO_BIN_EXE_dbos"))
        .args(args)
        .env("XDG_DATA_HOME", home)
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_has_help() {
    for args in [
        vec!["--help"],
        vec!["cluster", "--help"],
        vec!["cluster", "up", "--help"],
        vec!["cluster", "destroy", "--help"],
        vec!["cluster", "pause", "--help"],
        vec!["cluster", "resume", "--help"],
        vec!["node", "--help"],
        vec!["sql", "--help"],
        vec!["task", "--help"],
        vec!["worker", "--help"],
        vec!["fs", "--help"],
        vec!["msg", "--help"],
        vec!["bench", "--help"],
        vec!["demo", "--help"],
    ] {
        let output = dbos(&args);
        assert!(output.status.success(), "{args:?}");
        assert!(text(&output.stdout).contains("Usage: dbos"), "{args:?}");
    }
    assert!(text(&dbos(&["--help"]).stdout).contains("Exit codes"));
    assert!(text(&dbos(&["--version"]).stdout).starts_with("dbos 0."));
}

#[test]
fn wrong_arguments_are_exit_code_2_and_go_to_standard_error() {
    for args in [
        vec!["nonsense"],
        vec!["cluster", "up", "--nodes", "0"],
        vec!["cluster", "add", "0"],
        vec!["cluster", "up", "--nodes", "3", "--replicas", "2"],
        vec!["cluster", "up", "--nodes", "1", "--replicas", "3"],
        vec!["cluster", "up", "--durability", "maybe"],
        vec!["cluster", "up", "--name", "a/b"],
        vec!["bench", "sched", "--duration", "soon"],
        vec!["bench", "sched", "--shape", "fan-out"],
        vec!["bench", "ipc", "--shape", "circle"],
        vec!["bench", "sched", "--target", "mysql://x"],
        vec!["sql", "-c", "SELECT 1", "--target", "mysql://x"],
        vec!["bench", "sched", "--rate", "0"],
        vec!["config"],
    ] {
        let output = dbos(&args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn what_does_not_exist_is_exit_code_4_with_a_hint() {
    for args in [
        vec!["cluster", "status", "--name", "nowhere"],
        vec!["cluster", "down", "--name", "nowhere"],
        vec!["cluster", "logs", "1", "--name", "nowhere"],
        vec!["cluster", "pause", "1", "--name", "nowhere"],
        vec!["sql", "-c", "SELECT 1", "--name", "nowhere"],
        vec!["task", "list", "--name", "nowhere"],
        vec!["bench", "sched", "--name", "nowhere"],
    ] {
        let output = dbos(&args);
        assert_eq!(
            output.status.code(),
            Some(4),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(text(&output.stderr).contains("hint:"), "{args:?}");
    }
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    for args in [
        vec!["cluster", "up", "--port", &port],
        vec!["cluster", "up", "--data", "/proc/nothing"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_dbos"))
            .args(&args)
            .env("XDG_DATA_HOME", home.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let left = std::fs::read_dir(home.path()).unwrap().count();
        assert_eq!(left, 0, "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let target = format!("ext4:{}", folder.path().display());
    let mut bench = Command::new(env!("CARGO_BIN_EXE_dbos"))
        .args(["bench", "fs", "--duration", "10m", "--target", &target])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while entries() == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "it makes files");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&bench);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(130));
    assert_eq!(entries(), 0);
}

#[test]
fn destroying_nothing_succeeds() {
    for args in [
        vec!["cluster", "destroy", "--name", "nowhere"],
        vec!["cluster", "destroy", "--all", "--yes"],
    ] {
        assert_eq!(dbos(&args).status.code(), Some(0), "{args:?}");
    }
    assert_eq!(text(&dbos(&["cluster", "list", "--json"]).stdout), "");
}

#[test]
fn the_default_configuration_explains_every_setting() {
    let output = text(&dbos(&["config", "--default"]).stdout);
    kernel_db::node::NodeConfig::from_toml(&output).expect("what is printed can be read");
    let settings = output
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'));
    assert!(settings.count() > 20);
}

#[test]
fn an_unreadable_configuration_is_a_clear_error() {
    let output = dbos(&["node", "--config", "/nonexistent/config.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/config.toml"));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            text(&dbos(&["completions", shell]).stdout).contains("cluster"),
            "{shell}"
        );
    }
}

#[test]
fn output_that_nobody_takes_ends_the_command() {
    // Long texts, of commands that print in different ways.
    for args in [
        &["completions", "bash"][..],
        &["config", "--default"],
        &["--help"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dbos"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let quiet = ended.stderr.is_empty() && ended.status.code() != Some(101);
        assert!(quiet, "{args:?}: {ended:?}");
    }
    for args in [&["completions", "bash"][..], &["config", "--default"]] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let ended = Command::new(env!("CARGO_BIN_EXE_dbos"))
            .args(args)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {ended:?}");
        let told = text(&ended.stderr);
        assert!(told.contains("cannot write to standard output"), "{told}");
    }
}
