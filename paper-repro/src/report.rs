//! The report: one HTML file that needs nothing else, and a summary for the README.

use std::fmt::Write as _;

use crate::bounds;
use crate::experiments::{Experiment, Finding, show};
use crate::machine::Machine;
use crate::plot;
use crate::record::{Metric, Results, Status};
use crate::scale::Scale;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0;font-size:14px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}\
    th{background:#f3f3f3}svg{max-width:100%;height:auto}.yes{background:#e2f4e2}.no{background:#fbe3e3}\
    .error{color:#a00}code{background:#f3f3f3;padding:0 3px}details{margin:.5em 0}dt{font-weight:600}";

/// What a report is made of.
pub struct Parts<'a> {
    pub scale: Scale,
    pub machine: &'a Machine,
    pub experiments: &'a [Experiment],
    /// One for each experiment.
    pub results: &'a [Results],
    /// What verification found.
    pub faults: &'a [String],
}

impl Parts<'_> {
    pub fn findings(&self) -> Vec<(&'static str, Finding)> {
        let all = self.experiments.iter().zip(self.results);
        all.flat_map(|(experiment, results)| {
            let findings = (experiment.conclude)(results);
            findings
                .into_iter()
                .map(move |finding| (experiment.name, finding))
        })
        .collect()
    }
}

/// The whole page; `plots` are each experiment's charts as SVG.
pub fn html(parts: &Parts<'_>, plots: &[Vec<String>]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>The DBOS papers, measured again</title>\
         <style>{STYLE}</style></head><body><h1>The DBOS papers, measured again</h1>\n"
    );
    conclusion(&mut page, parts);
    method(&mut page, parts);
    contents(&mut page, parts);
    for ((experiment, results), plots) in parts.experiments.iter().zip(parts.results).zip(plots) {
        section(&mut page, parts.scale, experiment, results, plots);
    }
    page += "</body></html>\n";
    page
}

/// A smoke test never judges.
fn verdict(scale: Scale, finding: &Finding) -> (&'static str, &'static str) {
    match finding.holds.filter(|_| scale != Scale::Smoke) {
        Some(true) => ("yes", "yes"),
        Some(false) => ("no", "no"),
        None => ("", "–"),
    }
}

fn conclusion(page: &mut String, parts: &Parts<'_>) {
    let findings = parts.findings();
    let count = |holds| {
        findings
            .iter()
            .filter(|(_, f)| f.holds == Some(holds))
            .count()
    };
    let judged = count(true) + count(false);
    let _ = write!(
        page,
        "<h2>Conclusion</h2><p>{} of {judged} statements that can be judged hold on this machine; {} do not. \
         Values are medians of up to {} run(s) [least–most].",
        count(true),
        count(false),
        parts.scale.repeats(),
    );
    if parts.scale == Scale::Smoke {
        *page +=
            " <b>This is a smoke test of the program: its numbers say nothing about speed.</b>";
    }
    *page += "</p>";
    if !parts.faults.is_empty() {
        let _ = write!(
            page,
            "<p class=\"error\">{} faults in this run:</p><ul class=\"error\">",
            parts.faults.len()
        );
        for fault in parts.faults {
            let _ = write!(page, "<li>{}</li>", escaped(fault));
        }
        *page += "</ul>";
    }
    *page += "<table><tr><th>what</th><th>papers, or target</th><th>measured here</th><th>holds</th><th>figure</th></tr>";
    for (name, finding) in &findings {
        let (class, word) = verdict(parts.scale, finding);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td><td><a href=\"#{name}\">{name}</a></td></tr>",
            escaped(&finding.what),
            escaped(&finding.stated),
            escaped(&finding.measured),
        );
    }
    *page += "</table>";
    bounds::shortfalls(page, parts);
    cut_short(page, parts);
    absent(page, parts);
}

/// Experiments with fewer repeats than wanted.
fn cut_short(page: &mut String, parts: &Parts<'_>) {
    let wanted = parts.scale.repeats();
    let all = parts.experiments.iter().zip(parts.results);
    let cut = all.filter(|(_, results)| results.repeats() < wanted);
    let cut: Vec<String> = cut
        .map(|(experiment, results)| format!("{} {}", experiment.name, results.repeats()))
        .collect();
    if !cut.is_empty() {
        let _ = write!(
            page,
            "<p>Time was up before all {wanted} repeats were done: {}.</p>",
            cut.join(", ")
        );
    }
}

/// Systems that are not on this machine.
fn absent(page: &mut String, parts: &Parts<'_>) {
    let mut found: Vec<String> = Vec::new();
    for results in parts.results {
        for record in &results.records {
            if let Status::NotInstalled(why) = &record.status {
                let line = format!("{}: {why}", record.series);
                if !found.contains(&line) {
                    found.push(line);
                }
            }
        }
    }
    if !found.is_empty() {
        let _ = write!(
            page,
            "<p>Not installed on this machine: {}.</p>",
            escaped(&found.join("; "))
        );
    }
}

fn method(page: &mut String, parts: &Parts<'_>) {
    let machine = parts.machine;
    let mut versions: Vec<&str> = Vec::new();
    let records = parts.results.iter().flat_map(|r| &r.records);
    for record in records {
        if !record.version.is_empty() && !versions.contains(&record.version.as_str()) {
            versions.push(&record.version);
        }
    }
    let _ = write!(
        page,
        "<h2>Method</h2><dl><dt>Machine</dt><dd>{} × {}, {} GiB, {}, {}</dd><dt>Commit</dt><dd><code>{}</code></dd>\
         <dt>Versions</dt><dd>{}</dd><dt>Scale</dt><dd>{}: {} run(s) of {} s for each point, a fifth of that as warm-up before</dd>",
        machine.cores,
        escaped(&machine.processor),
        machine.memory_gib,
        escaped(&machine.kernel),
        escaped(&machine.file_system),
        escaped(&machine.commit),
        escaped(&versions.join("; ")),
        parts.scale.name(),
        parts.scale.repeats(),
        parts.scale.duration().as_secs_f64(),
    );
    *page += "<dt>Order</dt><dd>Each repeat runs all systems at the first x, then at the next: peers are interleaved with this \
        kernel in the same run. Load comes from one thread of one process with the same driver, SQL and pipelining for every \
        database, on the same cores as the servers. Systems of an experiment stay up, idle, while another is measured.</dd>\
        <dt>Check</dt><dd>After each run the tables are compared with what was acknowledged; a difference is a failed run. Runs that \
        fail are listed above and are not in the medians.</dd>\
        <dt>Disk</dt><dd>fdatasync of 4 KiB is timed before and after each run. Runs in which its median is above 0.5 ms are left \
        out of the medians where there are others, and marked “slow disk” where there are none; the CSV files have all.</dd>\
        <dt>Processors</dt><dd>During each run the processor time of all threads of the machine is read from /proc, and divided by the \
        operations: “Where the time goes” under each experiment. <code>dbos</code> is a node's core with its sockets, <code>client</code> \
        the load generator, <code>Linux</code> the kernel's own threads.</dd><dt>Papers</dt><dd>Grey dashed lines and crosses are values the papers publish (PVLDB 15(1), CIDR 2022): other hardware, \
        no replication, no durability.</dd><dt>Rerun</dt><dd><code>make repro</code>; one figure: \
        <code>make repro ONLY=name AGAIN=1</code> with the name under its title. Raw histograms (HdrHistogram V2) are in \
        <code>histograms/</code> of the results folder.</dd></dl>";
}

fn contents(page: &mut String, parts: &Parts<'_>) {
    *page += "<h2>Experiments</h2><ol>";
    for experiment in parts.experiments {
        let _ = write!(
            page,
            "<li><a href=\"#{}\">{}</a></li>",
            experiment.name,
            escaped(experiment.title)
        );
    }
    *page += "</ol>";
}

fn section(
    page: &mut String,
    scale: Scale,
    experiment: &Experiment,
    results: &Results,
    plots: &[String],
) {
    let flag = match scale {
        Scale::Smoke => " SMOKE=1",
        Scale::Default => "",
        Scale::Full => " FULL=1",
    };
    let _ = write!(
        page,
        "<h2 id=\"{0}\">{1}</h2><p>Rerun: <code>make repro{flag} ONLY={0} AGAIN=1</code> · data: <code>{0}.csv</code></p><dl>",
        experiment.name,
        escaped(experiment.title)
    );
    for (term, text) in [
        ("The papers say", experiment.claim),
        ("Their parameters", experiment.papers),
        ("Ours", &experiment.ours),
        ("Why they differ", experiment.differ),
    ] {
        let _ = write!(page, "<dt>{term}</dt><dd>{}</dd>", escaped(text));
    }
    *page += "</dl>";
    for (chart, plot) in experiment.charts.iter().zip(plots) {
        let _ = write!(
            page,
            "<figure id=\"{}\">{plot}</figure>",
            plot::file_name(experiment, chart)
        );
    }
    table(page, experiment, results);
    bounds::table(page, experiment, results);
}

fn table(page: &mut String, experiment: &Experiment, results: &Results) {
    let time_line = experiment.charts.iter().any(|chart| chart.each_repeat);
    if time_line {
        return;
    }
    let _ = write!(
        page,
        "<details><summary>Numbers</summary><table><tr><th>series</th><th>x</th><th>{}</th><th>p50 µs</th><th>p99 µs</th><th>runs</th></tr>",
        escaped(experiment.unit)
    );
    for series in results.series() {
        if let Some(why) = results.missing(series) {
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td colspan=\"5\">{}</td></tr>",
                escaped(series),
                escaped(&why)
            );
        }
        for (x, value) in results.spreads(series, Metric::Value) {
            let label = results.records.iter().find(|r| r.is_of(series, x));
            let label = label.map_or_else(|| x.to_string(), |r| r.label.clone());
            let at = |metric| results.at(series, x, metric).map_or("–".to_string(), show);
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(series),
                escaped(&label),
                show(value),
                at(Metric::P50),
                at(Metric::P99),
                value.runs
            );
        }
    }
    *page += "</table></details>";
}

/// The conclusion as Markdown.
pub fn summary(parts: &Parts<'_>) -> String {
    let machine = parts.machine;
    let mut text = format!(
        "Commit {}, {} cores ({}), {} GiB, {}; scale {}, medians of up to {} runs [least–most]; all three equal: one run.\n\n\
         | what | papers, or target | measured here | holds |\n|---|---|---|---|\n",
        machine.commit,
        machine.cores,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        parts.scale.name(),
        parts.scale.repeats()
    );
    for (_, finding) in parts.findings() {
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            cell(&finding.what),
            cell(&finding.stated),
            cell(&finding.measured),
            verdict(parts.scale, &finding).1
        );
    }
    if !parts.faults.is_empty() {
        let _ = writeln!(
            text,
            "\n{} faults in this run; the report lists them.",
            parts.faults.len()
        );
    }
    text
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
