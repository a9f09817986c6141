//! Runs the points that have no record yet.
//!
//! Repeats are an experiment's outer loop and systems the inner one, so that what the machine does over minutes meets all systems alike.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use bench::peers::NotInstalled;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use indicatif::{ProgressBar, ProgressStyle};

use crate::action::Outcome;
use crate::experiments::{Experiment, Point};
use crate::record::{Journal, Record, Row, Status};
use crate::scale::Scale;
use crate::systems::Systems;

/// Points that take as long as one time line.
const TIME_LINE: f64 = 16.0;

/// Set by Ctrl-C.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// Runs what is missing, and appends it to the journal. Histograms go to `out/histograms/`.
pub fn run(
    experiments: &[Experiment],
    scale: Scale,
    budget: Duration,
    journal: &mut Journal,
    systems: &mut Systems,
    out: &Path,
) -> anyhow::Result<()> {
    let (repeats, start) = (scale.repeats(), Instant::now());
    let total: usize = experiments.iter().map(|e| e.points.len()).sum();
    let bar = ProgressBar::new(total as u64 * u64::from(repeats));
    let style = "{bar:40} {pos}/{len} runs, {elapsed} passed, {eta} left  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    let histograms = out.join("histograms");
    std::fs::create_dir_all(&histograms)?;
    let weights: f64 = experiments.iter().map(weight).sum();
    let mut share = 0.0;
    for (number, experiment) in experiments.iter().enumerate() {
        share += weight(experiment) / weights;
        let wanted = experiment.points.len() * repeats as usize;
        bar.suspend(|| {
            let (at, of) = (number + 1, experiments.len());
            eprintln!("{at}/{of} {}: {wanted} runs", experiment.name);
        });
        for repeat in 1..=repeats {
            if repeat > 1 && start.elapsed().as_secs_f64() > budget.as_secs_f64() * share {
                // The bar counts what is left out as done.
                bar.inc(experiment.points.len() as u64);
                continue;
            }
            for point in in_order(experiment) {
                if STOP.load(Ordering::SeqCst) {
                    bail!("interrupted: the same command goes on from here");
                }
                if !journal.has(experiment.name, &point.series, point.x, repeat) {
                    bar.set_message(format!("{}: {}", experiment.name, point.series));
                    let (record, histogram) = run_point(experiment.name, point, repeat, systems);
                    if STOP.load(Ordering::SeqCst) && record.status != Status::Ok {
                        continue;
                    }
                    if let Status::Failed(why) = &record.status {
                        bar.suspend(|| eprintln!("{}, {}: {why}", experiment.name, point.series));
                    }
                    if let Some(histogram) = histogram {
                        save(&histograms, &record, &histogram)?;
                    }
                    journal.append(record)?;
                }
                bar.inc(1);
            }
        }
        // A smoke test spares the time: it measures nothing.
        if scale != Scale::Smoke {
            systems.stop_all();
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// How long an experiment takes beside others, roughly: a time line is as long as so many points.
fn weight(experiment: &Experiment) -> f64 {
    let time_line = experiment.charts.iter().any(|chart| chart.each_repeat);
    let points = experiment.points.len() as f64;
    if time_line {
        points * TIME_LINE
    } else {
        points
    }
}

/// All series at the first x, then at the next.
fn in_order(experiment: &Experiment) -> Vec<&Point> {
    let mut points: Vec<&Point> = experiment.points.iter().collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    points
}

fn run_point(
    experiment: &str,
    point: &Point,
    repeat: u32,
    systems: &mut Systems,
) -> (Record, Option<Histogram<u64>>) {
    let mut record = Record {
        experiment: experiment.into(),
        series: point.series.clone(),
        x: point.x,
        label: point.label.clone(),
        repeat,
        status: Status::Ok,
        rows: Vec::new(),
        version: String::new(),
        errors: Vec::new(),
    };
    let failed = |status| {
        (
            status,
            vec![Row {
                x: point.x,
                ..Row::default()
            }],
        )
    };
    let mut histogram = None;
    (record.status, record.rows) = match (point.action)(systems) {
        Ok(Outcome {
            rows,
            version,
            latency,
            errors,
        }) => {
            record.version = version;
            record.errors = errors;
            histogram = latency;
            (Status::Ok, rows)
        }
        Err(error) => match error.downcast_ref::<NotInstalled>() {
            Some(missing) => failed(Status::NotInstalled(missing.0.clone())),
            None => failed(Status::Failed(format!("{error:#}"))),
        },
    };
    (record, histogram)
}

fn save(folder: &Path, record: &Record, histogram: &Histogram<u64>) -> anyhow::Result<()> {
    let plain = |text: &str| -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        text.chars().map(keep).collect()
    };
    let name = format!(
        "{}.{}.{}.{}.hdr",
        record.experiment,
        plain(&record.series),
        record.x,
        record.repeat
    );
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .map_err(|error| anyhow::anyhow!("a histogram cannot be written: {error:?}"))?;
    std::fs::write(folder.join(name), bytes)?;
    Ok(())
}
