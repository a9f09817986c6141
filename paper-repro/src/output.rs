//! Files of a run: CSV, plots, report; and the copies that are committed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::experiments::Experiment;
use crate::record::{Record, Results, Status};
use crate::report::{self, Parts};
use crate::{csv, plot};

pub const REPORT: &str = "report.html";
const SUMMARY: &str = "summary.md";
/// What is between these lines of the README comes from a report.
const MARKS: [&str; 2] = [
    "<!-- from docs/report: begin -->\n",
    "<!-- from docs/report: end -->\n",
];

/// Writes everything; returns what is wrong with the files themselves.
pub fn write(parts: &Parts<'_>, out: &Path) -> anyhow::Result<Vec<String>> {
    let (tables, figures) = (out.join("csv"), out.join("plots"));
    fs::create_dir_all(&tables)?;
    fs::create_dir_all(&figures)?;
    let mut plots = Vec::new();
    for (experiment, results) in parts.experiments.iter().zip(parts.results) {
        fs::write(
            tables.join(format!("{}.csv", experiment.name)),
            csv::text(experiment, results),
        )?;
        let mut own = Vec::new();
        for chart in &experiment.charts {
            let svg = plot::svg(experiment, chart, results)?;
            fs::write(figures.join(plot::file_name(experiment, chart)), &svg)?;
            own.push(svg);
        }
        plots.push(own);
    }
    let page = report::html(parts, &plots);
    fs::write(out.join(REPORT), &page)?;
    fs::write(out.join(SUMMARY), report::summary(parts))?;
    Ok(unseen(parts.experiments, &plots, &page))
}

/// Plots that the page does not show.
fn unseen(experiments: &[Experiment], plots: &[Vec<String>], page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (experiment, plots) in experiments.iter().zip(plots) {
        for (chart, svg) in experiment.charts.iter().zip(plots) {
            if !page.contains(svg.as_str()) {
                found.push(format!(
                    "the report does not show {}",
                    plot::file_name(experiment, chart)
                ));
            }
        }
    }
    found
}

/// A committed report has all peers: those that are missing are an error.
pub fn check_peers(records: &[Record]) -> anyhow::Result<()> {
    let missing = records.iter().filter_map(|record| match &record.status {
        Status::NotInstalled(why) => Some(format!("{} ({why})", record.series)),
        _ => None,
    });
    let missing: BTreeSet<String> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = missing.into_iter().collect();
    bail!(
        "not published, as peers are missing: {}; `scripts/peers.sh` gets them, and AGAIN=1 ONLY=name measures an experiment again",
        all.join(", ")
    );
}

/// Copies report, plots and CSV (no raw histograms) to `docs`, and the summary into `readme`.
pub fn publish(out: &Path, docs: &Path, readme: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(docs)?;
    let mut files: Vec<PathBuf> = vec![out.join(REPORT), out.join(SUMMARY)];
    for folder in ["csv", "plots"] {
        for entry in fs::read_dir(out.join(folder)).context("there is no report yet")? {
            files.push(entry?.path());
        }
    }
    for file in files {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, docs.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    let text = fs::read_to_string(readme)?;
    let new = between_marks(&text, &fs::read_to_string(out.join(SUMMARY))?)?;
    fs::write(readme, new)?;
    Ok(())
}

fn between_marks(text: &str, summary: &str) -> anyhow::Result<String> {
    let (begin, end) = (text.find(MARKS[0]), text.find(MARKS[1]));
    let (Some(begin), Some(end)) = (begin, end) else {
        bail!("the README has no lines {MARKS:?}");
    };
    Ok(format!(
        "{}{}{summary}{}",
        &text[..begin],
        MARKS[0],
        &text[end..]
    ))
}

/// Results of each experiment among all records.
pub fn results(experiments: &[Experiment], records: &[crate::record::Record]) -> Vec<Results> {
    experiments
        .iter()
        .map(|e| Results::of(e.name, records))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn a_report_without_a_peer_is_not_published() {
        let mut records = vec![record("a", 1.0, 1, 5.0, 100)];
        check_peers(&records).unwrap();
        records.push(Record {
            status: Status::NotInstalled("no redis-server".into()),
            ..record("redis", 1.0, 1, 0.0, 100)
        });
        let told = check_peers(&records).unwrap_err().to_string();
        assert!(told.contains("redis (no redis-server)"), "{told}");
    }

    #[test]
    fn the_summary_goes_between_the_marks_again_and_again() {
        let text = format!("a\n{}old\n{}b\n", MARKS[0], MARKS[1]);
        let once = between_marks(&text, "new\n").unwrap();
        assert_eq!(once, format!("a\n{}new\n{}b\n", MARKS[0], MARKS[1]));
        assert_eq!(between_marks(&once, "new\n").unwrap(), once);
        assert!(between_marks("no marks", "new").is_err());
    }
}
