//! The experiments: what the papers claim, what they did, what is done here and why that differs.
//!
//! An experiment is data: points to run, charts to draw, published values to draw beside them, and a function that says
//! what its results mean. The papers' numbers are in [`papers`].

mod code_size;
mod files;
mod fs_aggregate;
mod fs_clients;
mod fs_mixes;
mod fs_names;
mod fs_parallel;
mod fs_sizes;
mod ipc_all_to_all;
mod ipc_batch;
mod ipc_fan_out;
mod ipc_pairs;
mod ipc_ping_pong;
mod messages;
pub mod papers;
mod recovery;
mod sched_deaths;
mod sched_load;
mod sched_multi;
mod sched_partitions;
mod sched_scan;
mod sched_schedulers;
mod sched_table;
mod sched_tasks;
mod tasks;

use crate::action::{Action, Load};
use crate::record::{Metric, Results, Spread};
use crate::scale::Scale;

pub struct Experiment {
    /// Of its files, and for ONLY=.
    pub name: &'static str,
    pub title: &'static str,
    /// What the papers say, with the claim's number in dbos-facts (C1 to C12).
    pub claim: &'static str,
    pub papers: &'static str,
    pub ours: String,
    pub differ: &'static str,
    /// What `value` counts.
    pub unit: &'static str,
    pub x: Axis,
    pub charts: Vec<Chart>,
    pub points: Vec<Point>,
    pub conclude: fn(&Results) -> Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisKind {
    Linear,
    Log,
    /// x numbers the points' labels.
    Category,
}

pub struct Axis {
    pub label: &'static str,
    pub kind: AxisKind,
}

pub struct Chart {
    pub metric: Metric,
    pub log: bool,
    pub published: Vec<Published>,
    /// A line for each repeat instead of medians with their spread: time lines.
    pub each_repeat: bool,
    /// Moments on a time line.
    pub events: Vec<(f64, String)>,
}

impl Chart {
    pub fn new(metric: Metric) -> Self {
        Self {
            metric,
            log: false,
            published: Vec::new(),
            each_repeat: false,
            events: Vec::new(),
        }
    }

    pub fn log(metric: Metric) -> Self {
        Self {
            log: true,
            ..Self::new(metric)
        }
    }

    pub fn with(mut self, published: Published) -> Self {
        self.published.push(published);
        self
    }
}

/// A value of the papers, drawn as theirs.
pub struct Published {
    pub label: &'static str,
    pub shape: PublishedShape,
}

pub enum PublishedShape {
    Level(f64),
    At(f64, f64),
    /// So many times (from, to) the medians of one of our series: the papers gave a ratio to it.
    TimesOf(String, f64, f64),
}

pub struct Point {
    pub series: String,
    pub x: f64,
    pub label: String,
    pub action: Action,
}

impl Point {
    pub fn load(series: impl Into<String>, x: f64, load: Load) -> Self {
        Self::new(series, x, load.action(x))
    }

    pub fn new(series: impl Into<String>, x: f64, action: Action) -> Self {
        Self {
            series: series.into(),
            x,
            label: x.to_string(),
            action,
        }
    }

    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
}

/// A line of the report's conclusion.
pub struct Finding {
    pub what: String,
    /// What the papers state, or this project's target.
    pub stated: String,
    pub measured: String,
    /// `None`: not measured here, or not a matter of yes and no.
    pub holds: Option<bool>,
}

impl Finding {
    fn new(what: &str, stated: &str, measured: Option<(String, Option<bool>)>) -> Self {
        let (measured, holds) = measured.unwrap_or(("not measured".into(), None));
        Self {
            what: what.into(),
            stated: stated.into(),
            measured,
            holds,
        }
    }

    /// A ratio of two medians, and the least it should be, if that is stated.
    fn ratio(
        what: &str,
        stated: &str,
        (ours, theirs): (Option<Spread>, Option<Spread>),
        at_least: Option<f64>,
    ) -> Self {
        let measured = ours.zip(theirs).map(|(ours, theirs)| {
            let ratio = ours.median / theirs.median;
            let text = format!("{ratio:.2} × ({} to {})", show(ours), show(theirs));
            (text, at_least.map(|least| ratio >= least))
        });
        Self::new(what, stated, measured)
    }
}

/// A median with its spread, in three digits.
pub fn show(spread: Spread) -> String {
    let slow = if spread.slow_disk { ", slow disk" } else { "" };
    let of = |value| number(value);
    format!(
        "{} [{}–{}{slow}]",
        of(spread.median),
        of(spread.min),
        of(spread.max)
    )
}

/// Three digits, thousands apart.
pub fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let digits = if value.fract() == 0.0 { 0 } else { 2 };
        return format!("{value:.digits$}");
    }
    let whole = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

/// All experiments at a scale, in the order in which they are run.
pub fn all(scale: Scale) -> Vec<Experiment> {
    vec![
        sched_load::experiment(scale),
        sched_schedulers::experiment(scale),
        sched_partitions::experiment(scale),
        sched_table::experiment(scale),
        sched_multi::experiment(scale),
        sched_scan::experiment(scale),
        sched_tasks::experiment(scale),
        sched_deaths::experiment(scale),
        ipc_ping_pong::experiment(scale),
        ipc_pairs::experiment(scale),
        ipc_batch::experiment(scale),
        ipc_fan_out::experiment(scale),
        ipc_all_to_all::experiment(scale),
        fs_names::experiment(scale, fs_names::Which::Create),
        fs_names::experiment(scale, fs_names::Which::Delete),
        fs_mixes::experiment(scale),
        fs_sizes::experiment(scale),
        fs_clients::experiment(scale),
        fs_parallel::experiment(scale),
        fs_aggregate::experiment(scale),
        recovery::experiment(scale),
        code_size::experiment(scale),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_points_are_unique_at_every_scale() {
        for scale in [Scale::Smoke, Scale::Default, Scale::Full] {
            let mut names = BTreeSet::new();
            for experiment in all(scale) {
                assert!(names.insert(experiment.name), "{}", experiment.name);
                assert!(!experiment.points.is_empty() && !experiment.charts.is_empty());
                let mut points = BTreeSet::new();
                for point in &experiment.points {
                    let key = (point.series.clone(), point.x.to_bits());
                    assert!(points.insert(key), "{}: {}", experiment.name, point.series);
                }
                for chart in &experiment.charts {
                    for published in &chart.published {
                        if let PublishedShape::TimesOf(series, ..) = &published.shape {
                            assert!(experiment.points.iter().any(|p| p.series == *series));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_readable() {
        let pairs = [
            (0.5, "0.50"),
            (12.0, "12"),
            (1234567.8, "1,234,568"),
            (-1000.0, "-1,000"),
        ];
        for (value, text) in pairs {
            assert_eq!(number(value), text);
        }
    }
}
