//! Lines of SQL of each service, and of each change of policy: counted, not estimated.

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers};
use crate::action::{Action, Outcome};
use crate::record::{Metric, Results, Row};
use crate::scale::Scale;

type Files = [(&'static str, &'static str)];

const SERVICES: &str = "SQL of a service";
const POLICIES: &str = "lines changed from FIFO";
const AGGREGATE: &str = "the aggregate query";

/// Lines that are neither empty nor only a comment.
pub fn lines_of_code(text: &str, comment: &str) -> usize {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with(comment);
    text.lines().filter(code).count()
}

/// Lines of `new` that are not in `old`: the length of `new` less that of the longest common subsequence. Names of the
/// procedure itself do not count as a change.
pub fn lines_changed(old: (&str, &str), new: (&str, &str)) -> usize {
    fn code<'a>((text, name): (&'a str, &str)) -> Vec<String> {
        let code = |line: &&'a str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
        text.lines()
            .filter(code)
            .map(|line| line.replace(name, "it"))
            .collect()
    }
    let (old, new) = (code(old), code(new));
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate() {
        for (j, b) in new.iter().enumerate() {
            common[i + 1][j + 1] = match a == b {
                true => common[i][j] + 1,
                false => common[i][j + 1].max(common[i + 1][j]),
            };
        }
    }
    new.len() - common[old.len()][new.len()]
}

fn file(files: &Files, name: &str) -> &'static str {
    let found = files.iter().find(|(path, _)| path.ends_with(name));
    found.map_or("", |(_, text)| text)
}

fn counted(x: f64, lines: usize) -> Action {
    Box::new(move |_| {
        Ok(Outcome {
            rows: vec![Row {
                x,
                count: lines as u64,
                value: lines as f64,
                ..Row::default()
            }],
            version: "counted".into(),
            latency: None,
            errors: Vec::new(),
        })
    })
}

pub fn experiment(_: Scale) -> Experiment {
    let all = |files: &Files| {
        files
            .iter()
            .map(|(_, text)| lines_of_code(text, "--"))
            .sum()
    };
    let fifo = (file(&scheduler::FILES, "fifo.sql"), "sched_fifo");
    let changed = |name: &str, procedure: &str| {
        lines_changed(fifo, (file(&scheduler::FILES, name), procedure))
    };
    let counts: [(&str, &str, usize); 7] = [
        (SERVICES, "scheduler", all(&scheduler::FILES)),
        (SERVICES, "messages", all(&ipc::FILES)),
        (SERVICES, "file system", all(&dbfs::FILES)),
        (
            POLICIES,
            "least-loaded",
            changed("least_loaded.sql", "sched_least_loaded"),
        ),
        (
            POLICIES,
            "locality",
            changed("locality.sql", "sched_locality"),
        ),
        (
            AGGREGATE,
            "SQL",
            lines_of_code(bench::files::AGGREGATE, "--"),
        ),
        (
            AGGREGATE,
            "tree walk (Rust)",
            lines_of_code(bench::files::TREE_WALK, "//"),
        ),
    ];
    let point = |(at, (series, label, lines)): (usize, &(&str, &str, usize))| {
        Point::new(*series, at as f64, counted(at as f64, *lines)).labelled(*label)
    };
    Experiment {
        name: "code-size",
        title: "Lines of code",
        claim: "C4: another policy is another SQL clause: least-loaded is one ORDER BY, locality a couple of lines. C10: the \
                aggregate over file metadata is 2 lines of SQL against 98 of C++.",
        papers: "Anecdotes in the text; no count of a whole service is published.",
        ours: "Lines that are neither empty nor comments, of the SQL files that are installed; a change of policy is the lines of \
               the new procedure that FIFO's does not have. Counted by this program.".into(),
        differ: "plpgsql in place of Java. Each policy looks twice here (first past rows that others hold), so its one clause is \
                 in two places.",
        unit: "lines",
        x: Axis {
            label: "",
            kind: AxisKind::Category,
        },
        charts: vec![
            Chart::new(Metric::Value)
                .with(papers::at("papers: 2 lines of SQL", 5.0, papers::AGGREGATE_LINES.0))
                .with(papers::at("papers: 98 lines of C++", 6.0, papers::AGGREGATE_LINES.1)),
        ],
        points: counts.iter().enumerate().map(point).collect(),
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |series, x| results.at(series, x, Metric::Value).map(|s| s.median);
    let policies = at(POLICIES, 3.0).zip(at(POLICIES, 4.0));
    let aggregate = at(AGGREGATE, 5.0).zip(at(AGGREGATE, 6.0));
    let sum = [0.0, 1.0, 2.0]
        .iter()
        .map(|x| at(SERVICES, *x))
        .collect::<Option<Vec<f64>>>();
    vec![
        Finding::new(
            "C4: lines changed for least-loaded, for locality",
            "one clause; a couple of lines",
            policies.map(|(a, b)| (format!("{a}, {b}"), Some(a <= 4.0 && b <= 4.0))),
        ),
        Finding::new(
            "C10: lines of the aggregate, SQL and compiled walk",
            "2 and 98 (C++)",
            aggregate.map(|(a, b)| (format!("{a} and {b} (Rust)"), Some(a < b))),
        ),
        Finding::new(
            "lines of SQL: scheduler, messages, file system",
            "not published",
            sum.map(|s| (format!("{}, {}, {}", s[0], s[1], s[2]), None)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_names_are_not_counted() {
        assert_eq!(lines_of_code("-- a\n\nSELECT 1\n  -- b\nFROM t\n", "--"), 2);
        let old = "CREATE f\n  ORDER BY a\nEND\n";
        assert_eq!(
            lines_changed((old, "f"), ("CREATE g\n  ORDER BY a\nEND\n", "g")),
            0
        );
        let new = "-- why\nCREATE g\n  ORDER BY b\n  LIMIT 1\nEND\n";
        assert_eq!(lines_changed((old, "f"), (new, "g")), 2);
    }
}
