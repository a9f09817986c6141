//! The services' commands on a real cluster: what a person sees, and what is left when a command is killed.

use std::io::Write;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use dbos_client::testing::LocalCluster;
use serde_json::Value;

fn cluster(service: &str) -> LocalCluster {
    let cluster = LocalCluster::start(&["--nodes", "1", "--partitions", "2"]).unwrap();
    cluster.dbos(&[service, "install"]).unwrap();
    cluster
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exit code and standard error of a command that must fail.
fn fails(cluster: &LocalCluster, args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = cluster.command(args).output().unwrap();
    assert!(!status.success(), "{args:?} succeeded");
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Waits for something that a killed command's server side may still be about to do.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_put_that_is_killed_leaves_nothing_to_be_seen() {
    let cluster = cluster("fs");
    for flags in [&[][..], &["--parallel"]] {
        let mut args = vec!["fs", "put", "-", "/file"];
        args.extend(flags);
        let mut put: Child = cluster
            .command(&args)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // Two whole pieces, and the beginning of a third that never ends.
        let mut input = put.stdin.take().unwrap();
        input.write_all(&vec![7; 5 << 19]).unwrap();
        let parts = || json(&cluster.dbos(&["fs", "ls", "--all", "--json"]).unwrap());
        let written =
            |entry: &Value| entry["size"].as_str().unwrap().parse::<u64>().unwrap() >= 2 << 20;
        until("two pieces are there", || parts().iter().any(written));
        put.kill().unwrap();
        put.wait().unwrap();
        drop(input);
        assert_eq!(
            cluster.dbos(&["fs", "ls", "--json"]).unwrap(),
            "",
            "{flags:?}"
        );
        assert_eq!(fails(&cluster, &["fs", "stat", "/file"]).0, 4);
        assert_eq!(fails(&cluster, &["fs", "cat", "/file"]).0, 4);
        // The name is free, and clean-up can remove what is left.
        let again = cluster
            .command(&["fs", "put", "/etc/passwd", "/file"])
            .status()
            .unwrap();
        assert!(again.success());
        assert_eq!(
            cluster.dbos(&["fs", "cat", "/file"]).unwrap(),
            std::fs::read_to_string("/etc/passwd").unwrap()
        );
        cluster.dbos(&["fs", "rm", "/file"]).unwrap();
        for part in parts() {
            let name = part["name"].as_str().unwrap();
            assert!(
                name.starts_with(".file.") && name.ends_with(".part"),
                "{name}"
            );
            cluster.dbos(&["fs", "rm", &format!("/{name}")]).unwrap();
        }
    }
}

#[test]
fn file_commands_say_what_is_wrong() {
    let cluster = cluster("fs");
    for args in [
        ["fs", "mkdir", "/d"].as_slice(),
        &["fs", "put", "/etc/passwd", "/a"],
        &["fs", "put", "/etc/passwd", "/b"],
        &["fs", "put", "/etc/passwd", "/d/x"],
    ] {
        cluster.dbos(args).unwrap();
    }
    for (args, code, text) in [
        (["fs", "cat", "/d"].as_slice(), 1, "is a directory"),
        (&["fs", "cat", "/none"], 4, "no such file"),
        (&["fs", "cat", "relative"], 1, "not absolute"),
        (&["fs", "ls", "/none"], 4, "no such file or directory"),
        (&["fs", "mv", "/a", "/b"], 1, "exists already"),
        (&["fs", "mv", "/a", "/d"], 1, "exists already"),
        (&["fs", "mv", "/a", "/none/a"], 4, "no such directory"),
        (&["fs", "mv", "/none", "/c"], 4, "no such file"),
        (&["fs", "put", "/etc/passwd", "/a"], 1, "exists already"),
        (&["fs", "put", "/nowhere", "/c"], 4, "/nowhere"),
        (&["fs", "put", "/etc", "/c"], 1, "/etc is a directory"),
        (&["fs", "append", "/etc/passwd", "/none"], 4, "no such file"),
        (&["fs", "truncate", "/d", "0"], 1, "is a directory"),
        (&["fs", "rm", "/none"], 4, "no such file"),
        (&["fs", "rm", "/d"], 1, "not empty"),
        (&["fs", "stat", "/a", "--user", "nobody"], 4, "nobody"),
        (&["task", "list"], 1, "`dbos task install`"),
        (
            &["msg", "send", "--to", "1", "hello"],
            1,
            "`dbos msg install`",
        ),
    ] {
        let (found, stderr) = fails(&cluster, args);
        assert!(
            found == code && stderr.contains(text),
            "{args:?}: {found}: {stderr}"
        );
        assert!(stderr.starts_with("dbos: "), "{stderr}");
    }
    let stat = json(&cluster.dbos(&["fs", "stat", "/a", "--json"]).unwrap());
    let time = stat[0]["modified_at"].as_str().unwrap();
    assert!(
        time.len() == 20 && time.starts_with("20") && time.ends_with('Z'),
        "{time}"
    );
}

#[test]
fn a_long_list_of_tasks_is_cut_and_says_so() {
    let cluster = cluster("task");
    let mut keys = Vec::new();
    for _ in 0..3 {
        let task = json(&cluster.dbos(&["task", "submit", "--json", "true"]).unwrap());
        keys.push(task[0]["task_id"].as_i64().unwrap());
    }
    let list = |limit: &str| {
        cluster
            .command(&["task", "list", "--json", "--limit", limit])
            .output()
            .unwrap()
    };
    for (limit, rows, more) in [("2", 2, "and 1 more"), ("3", 3, ""), ("0", 3, "")] {
        let Output { stdout, stderr, .. } = list(limit);
        let (stdout, stderr) = (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        );
        assert_eq!(json(&stdout).len(), rows, "--limit {limit}");
        assert!(
            stderr.starts_with(more) && (more.is_empty() == stderr.is_empty()),
            "--limit {limit}: {stderr}"
        );
    }
}

fn tasks(cluster: &LocalCluster) -> Vec<Value> {
    json(&cluster.dbos(&["task", "list", "--json"]).unwrap())
}

#[test]
fn tasks_of_a_killed_worker_are_run_by_another() {
    let cluster = cluster("task");
    let worker = |id: &str| {
        let mut command = cluster.command(&["worker", "--key", "5", "--id", id, "--json"]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut first = worker("1");
    for command in ["sleep 8; exit 3", "sleep 8; exit 4"] {
        cluster
            .dbos(&["task", "submit", "--key", "5", command])
            .unwrap();
    }
    until("both run on worker 1", || {
        let running = |task: &&Value| task["state"] == "running" && task["worker_id"] == "1";
        tasks(&cluster).iter().filter(running).count() == 2
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let second = worker("2");
    until("both are done", || {
        tasks(&cluster).iter().all(|task| task["state"] == "done")
    });
    let mut codes = Vec::new();
    for task in tasks(&cluster) {
        assert_eq!(
            (&task["worker_id"], &task["attempts"]),
            (&"2".into(), &"2".into())
        );
        codes.push(task["exit_code"].as_str().unwrap().to_owned());
    }
    codes.sort();
    assert_eq!(codes, ["3", "4"]);
    // Asked to end, it gives its registration back and says what it did.
    let pid = rustix::process::Pid::from_raw(second.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = second.wait_with_output().unwrap();
    assert!(output.status.success());
    let report = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(report[0]["finished"], 2);
    assert_eq!(cluster.dbos(&["task", "workers", "--json"]).unwrap(), "");
}

#[test]
fn a_submission_that_waits_tells_how_the_task_ended() {
    let cluster = cluster("task");
    let submit = |wait, command| {
        let args = ["task", "submit", "--key", "5", "--wait", wait, "--json"];
        let args: Vec<&str> = args.into_iter().chain([command]).collect();
        let Output {
            status,
            stdout,
            stderr,
        } = cluster.command(&args).output().unwrap();
        let told = json(&String::from_utf8(stdout).unwrap());
        let code = told[0]["exit_code"].clone();
        (
            status.code().unwrap(),
            code,
            String::from_utf8(stderr).unwrap(),
        )
    };
    let (status, code, said) = submit("200ms", "true");
    assert_eq!((status, code), (1, Value::Null), "nobody runs it");
    assert!(said.contains("has not ended"), "{said}");
    // One that is killed while it waits takes nothing after that: it would be started once more by the other.
    let worker = |id: &str| {
        let mut command = cluster.command(&["worker", "--key", "5", "--id", id]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut idle = worker("1");
    until("the first is done", || {
        tasks(&cluster)[0]["state"] == "done"
    });
    std::thread::sleep(Duration::from_millis(300));
    idle.kill().unwrap();
    idle.wait().unwrap();
    // Its pull may be parked behind another node for a quarter of a second.
    std::thread::sleep(Duration::from_secs(2));
    cluster
        .dbos(&["task", "submit", "--key", "5", "true"])
        .unwrap();
    let mut second = worker("2");
    let (status, code, said) = submit("25s", "exit 7");
    assert_eq!((status, code), (1, 7.into()));
    assert!(said.contains("exit code 7"), "{said}");
    assert_eq!(submit("25s", "true").0, 0);
    for task in tasks(&cluster) {
        assert_eq!(task["attempts"], "1", "{task}");
    }
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_full_mailbox_is_told_at_once_with_a_code_of_its_own() {
    let cluster = cluster("msg");
    let send = ["msg", "send", "--to", "7", "hello"];
    cluster.dbos(&send).unwrap();
    let full = "UPDATE mailbox SET message_limit = 1 WHERE receiver_id = 7";
    cluster.dbos(&["sql", "-c", full]).unwrap();
    let (code, stderr) = fails(&cluster, &send);
    assert_eq!(code, 6, "{stderr}");
    let told = stderr.contains("mailbox of 7 is full") && stderr.contains("hint: ");
    assert!(told && stderr.contains("53400"), "{stderr}");
    cluster.dbos(&["msg", "receive", "7"]).unwrap();
    cluster.dbos(&send).unwrap();
}
