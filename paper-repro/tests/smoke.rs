//! The whole program at its smallest scale: every experiment, every series, every plot. Nothing is said about speed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

fn paper_repro(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paper-repro"));
    command.args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr];
    both.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// Sum of `count` and of `errors` of each series of a CSV file, and whether it is said not to be installed.
fn series(csv: &str) -> BTreeMap<String, (u64, u64, bool)> {
    let fields = |line: &str| -> Vec<String> {
        let (mut all, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => all.push(String::new()),
                c => all.last_mut().unwrap().push(c),
            }
        }
        all
    };
    let mut lines = csv.lines();
    let header = fields(lines.next().unwrap());
    let at = |name| header.iter().position(|field| field == name).unwrap();
    let (name, status, count, errors) = (at("series"), at("status"), at("count"), at("errors"));
    let mut found = BTreeMap::new();
    for line in lines {
        let row = fields(line);
        let (counted, failed, missing) = found.entry(row[name].clone()).or_insert((0, 0, false));
        *counted += row[count].parse::<u64>().unwrap();
        *failed += row[errors].parse::<u64>().unwrap();
        *missing |= row[status].starts_with("not installed");
        assert!(row[status] == "ok" || *missing, "{line}");
    }
    found
}

fn check(out: &Path, experiment: &str) {
    let csv = std::fs::read_to_string(out.join(format!("csv/{experiment}.csv"))).unwrap();
    let all = series(&csv);
    assert!(!all.is_empty(), "{experiment}");
    for (name, (count, errors, not_installed)) in all {
        if not_installed {
            println!("{experiment}, {name}: not installed");
            continue;
        }
        assert!(count > 0, "{experiment}, {name}: nothing was counted");
        assert_eq!(errors, 0, "{experiment}, {name}");
    }
}

#[test]
fn every_experiment_runs_and_the_report_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let flags = [
        "--scale",
        "smoke",
        "--port",
        "26000",
        "--out",
        out.to_str().unwrap(),
    ];
    let listed = paper_repro(&["--scale", "smoke", "--list"]);
    let listed = text(&listed);
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(names.len() > 20);

    let ran = paper_repro(&flags);
    assert!(ran.status.success(), "{}", text(&ran));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for name in &names {
        check(&out, name);
        assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
    }
    let mut plots = 0;
    for plot in std::fs::read_dir(out.join("plots")).unwrap() {
        let plot = plot.unwrap();
        let name = plot.file_name().into_string().unwrap();
        assert!(
            page.contains(&std::fs::read_to_string(plot.path()).unwrap()),
            "{name}"
        );
        plots += 1;
    }
    assert!(plots > names.len());
    assert!(
        page.contains("Where the time goes") && page.contains(" client "),
        "profiles"
    );
    assert!(!out.join("clusters").exists(), "clusters are gone");

    // What is there is not measured again.
    let journal = out.join("runs.jsonl");
    let before = std::fs::read_to_string(&journal).unwrap();
    let again = paper_repro(&flags);
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), before);
    // An interrupted run goes on: only what is missing is measured.
    let kept: Vec<&str> = before
        .lines()
        .filter(|line| !line.contains("\"experiment\":\"code-size\""))
        .collect();
    std::fs::write(&journal, kept.join("\n") + "\n").unwrap();
    assert!(paper_repro(&flags).status.success());
    let after = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(after.lines().count(), before.lines().count());
    assert!(after.starts_with(&kept.join("\n")));
}

#[test]
fn an_unknown_experiment_is_refused() {
    let refused = paper_repro(&["--scale", "smoke", "--only", "nothing"]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("no experiment \"nothing\""));
}
