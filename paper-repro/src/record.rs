//! What one run of one point gave, and all runs of an experiment together.
//!
//! Records are appended to `runs.jsonl` as they come, so an interrupted program goes on where it stopped. CSV files, plots
//! and the report are made from them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use bench::Processors;
use serde::{Deserialize, Serialize};

/// Runs whose median fdatasync took longer than this belong to the disk's other mode and are kept apart.
pub const SLOW_DISK_US: u64 = 500;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    /// The system is not on this machine; why.
    NotInstalled(String),
    /// What went wrong.
    Failed(String),
}

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// Operations through a client's cache: so many, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    pub count: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// Operations answered from memory, and those that asked the cluster, also while the cache was filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    pub hits: Option<Timed>,
    pub misses: Option<Timed>,
}

/// One line of a CSV file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub x: f64,
    /// Operations counted.
    pub count: u64,
    pub errors: u64,
    /// In the experiment's unit.
    pub value: f64,
    pub latency: Option<Latency>,
    /// Median microseconds of an fdatasync before and after.
    pub fdatasync: Option<(u64, u64)>,
    /// 99th percentile.
    #[serde(default)]
    pub fdatasync_p99: Option<(u64, u64)>,
    /// Of load generators.
    #[serde(default)]
    pub processors: Option<Processors>,
    /// Of clients that have one.
    #[serde(default)]
    pub cache: Option<Cache>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub experiment: String,
    pub series: String,
    pub x: f64,
    /// Of `x`, where it is a category.
    pub label: String,
    /// From 1.
    pub repeat: u32,
    pub status: Status,
    /// One, or one per moment of a time line.
    pub rows: Vec<Row>,
    /// What the system says of itself.
    pub version: String,
    /// The first errors, word for word.
    pub errors: Vec<String>,
}

impl Record {
    pub fn is_of(&self, series: &str, x: f64) -> bool {
        self.series == series && self.x == x
    }

    pub fn slow_disk(&self) -> bool {
        let slow = |(before, after): (u64, u64)| before.max(after) > SLOW_DISK_US;
        self.rows.iter().any(|row| row.fdatasync.is_some_and(slow))
    }
}

/// What is plotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Value,
    P50,
    P99,
    /// The latency's, in times of the disk's own before and after the run, whichever was longer.
    P99OfDisk,
    /// Median of the operations that a client's cache answered; of the others.
    HitP50,
    MissP50,
}

impl Metric {
    pub fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Value => Some(row.value),
            Self::P50 => row.latency.map(|l| l.p50 as f64),
            Self::P99 => row.latency.map(|l| l.p99 as f64),
            Self::P99OfDisk => {
                let (before, after) = row.fdatasync_p99?;
                Some(row.latency?.p99 as f64 / before.max(after).max(1) as f64)
            }
            Self::HitP50 => row.cache?.hits.map(|hits| hits.p50_ns as f64 / 1e3),
            Self::MissP50 => row.cache?.misses.map(|misses| misses.p50_ns as f64 / 1e3),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P99OfDisk => "p99-of-disk",
            Self::HitP50 => "hit-p50",
            Self::MissP50 => "miss-p50",
        }
    }
}

/// Median and extremes of repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
    /// All runs were in the disk's slow mode.
    pub slow_disk: bool,
}

/// All records of one experiment.
pub struct Results {
    pub records: Vec<Record>,
}

impl Results {
    pub fn of(experiment: &str, all: &[Record]) -> Self {
        let own = all.iter().filter(|record| record.experiment == experiment);
        Self {
            records: own.cloned().collect(),
        }
    }

    /// Repeats that were begun.
    pub fn repeats(&self) -> u32 {
        self.records.iter().map(|r| r.repeat).max().unwrap_or(0)
    }

    /// Series in the order of their first record.
    pub fn series(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in &self.records {
            if !names.contains(&record.series.as_str()) {
                names.push(&record.series);
            }
        }
        names
    }

    /// Records that count: without errors of the run itself, and of the disk's quick mode if there is one.
    fn counting(&self, series: &str) -> Vec<&Record> {
        let ok = |r: &&Record| r.series == series && r.status == Status::Ok;
        let all: Vec<&Record> = self.records.iter().filter(ok).collect();
        let kept =
            |r: &&&Record| !r.slow_disk() || !all.iter().any(|o| o.x == r.x && !o.slow_disk());
        all.iter().filter(kept).copied().collect()
    }

    /// Median and spread over the repeats at each x, in the order of x.
    pub fn spreads(&self, series: &str, metric: Metric) -> Vec<(f64, Spread)> {
        let mut values: Vec<(f64, f64, bool)> = Vec::new();
        for record in self.counting(series) {
            let slow = record.slow_disk();
            let rows = record.rows.iter();
            values.extend(rows.filter_map(|row| Some((row.x, metric.of(row)?, slow))));
        }
        values.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        values
            .chunk_by(|a, b| a.0 == b.0)
            .map(|chunk| {
                let spread = Spread {
                    median: middle(chunk.iter().map(|v| v.1)),
                    min: chunk[0].1,
                    max: chunk[chunk.len() - 1].1,
                    runs: chunk.len(),
                    slow_disk: chunk.iter().any(|v| v.2),
                };
                (chunk[0].0, spread)
            })
            .collect()
    }

    pub fn at(&self, series: &str, x: f64, metric: Metric) -> Option<Spread> {
        let all = self.spreads(series, metric);
        all.into_iter().find(|(at, _)| *at == x).map(|(_, s)| s)
    }

    /// The largest median of a series.
    pub fn best(&self, series: &str, metric: Metric) -> Option<Spread> {
        let all = self.spreads(series, metric).into_iter().map(|(_, s)| s);
        all.max_by(|a, b| a.median.total_cmp(&b.median))
    }

    /// What the processors did in the run in the middle of those of a series at x.
    pub fn processors(&self, series: &str, x: f64) -> Option<&Processors> {
        let rows = self
            .counting(series)
            .into_iter()
            .flat_map(|record| &record.rows);
        let mut rows: Vec<&Row> = rows.filter(|row| row.x == x).collect();
        rows.sort_by(|a, b| a.value.total_cmp(&b.value));
        rows.get(rows.len() / 2)?.processors.as_ref()
    }

    /// Why a series has no numbers, if it has none.
    pub fn missing(&self, series: &str) -> Option<String> {
        let of = |r: &&Record| r.series == series;
        let mut all = self.records.iter().filter(of);
        match all.clone().any(|r| r.status == Status::Ok) {
            true => None,
            false => Some(match all.next().map(|r| &r.status) {
                Some(Status::NotInstalled(why)) => format!("not installed: {why}"),
                Some(Status::Failed(why)) => format!("failed: {why}"),
                _ => "not measured".to_string(),
            }),
        }
    }
}

/// The median of values that are sorted: of an even number, the mean of the two in the middle.
fn middle(sorted: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = sorted.collect();
    let half = values.len() / 2;
    match values.len() % 2 {
        1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// The records of a results folder: those there, and appending.
pub struct Journal {
    file: File,
    pub records: Vec<Record>,
}

impl Journal {
    /// A last line that was cut off by a crash is dropped: its point is measured again. What is whole stays as it was
    /// written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let (mut records, mut whole) = (Vec::new(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice(line) else {
                break;
            };
            if !line.ends_with(b"\n") {
                break;
            }
            records.push(record);
            whole += line.len();
        }
        file.set_len(whole as u64)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { file, records })
    }

    pub fn has(&self, experiment: &str, series: &str, x: f64, repeat: u32) -> bool {
        self.records
            .iter()
            .any(|r| r.experiment == experiment && r.repeat == repeat && r.is_of(series, x))
    }

    pub fn append(&mut self, record: Record) -> anyhow::Result<()> {
        let line = serde_json::to_string(&record)? + "\n";
        self.file.write_all(line.as_bytes())?;
        self.records.push(record);
        Ok(())
    }

    /// Forgets the other records: their points are measured again.
    pub fn keep(self, path: &Path, kept: impl Fn(&Record) -> bool) -> anyhow::Result<Self> {
        if self.records.iter().all(&kept) {
            return Ok(self);
        }
        // Line by line, as they were written: a number need not be written as it was read.
        let text = std::fs::read_to_string(path)?;
        let lines = text.lines().zip(&self.records);
        let text: String = lines
            .filter(|(_, record)| kept(record))
            .flat_map(|(line, _)| [line, "\n"])
            .collect();
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))?;
        Self::open(path)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn record(series: &str, x: f64, repeat: u32, value: f64, fdatasync: u64) -> Record {
        Record {
            experiment: "e".into(),
            series: series.into(),
            x,
            label: x.to_string(),
            repeat,
            status: Status::Ok,
            rows: vec![Row {
                x,
                count: 10,
                value,
                fdatasync: Some((fdatasync, 100)),
                fdatasync_p99: None,
                ..Row::default()
            }],
            version: "1".into(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn medians_leave_the_slow_disk_apart_unless_there_is_nothing_else() {
        let quick = [5.0, 1.0, 3.0].map(|v| record("a", 1.0, 1, v, 100));
        let slow = [
            record("a", 1.0, 1, 99.0, 900),
            record("a", 2.0, 1, 7.0, 900),
        ];
        let records = quick.into_iter().chain(slow).collect();
        let results = Results { records };
        let spread = results.at("a", 1.0, Metric::Value).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 5.0));
        assert_eq!((spread.runs, spread.slow_disk), (3, false));
        let other = results.at("a", 2.0, Metric::Value).unwrap();
        assert_eq!((other.median, other.slow_disk), (7.0, true));
        assert_eq!(results.best("a", Metric::Value).unwrap().median, 7.0);
    }

    #[test]
    fn a_journal_goes_on_behind_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(record("a", 1.0, 1, 5.0, 1)).unwrap();
        journal.append(record("a", 1.0, 2, 6.0, 1)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.has("e", "a", 1.0, 1) && !journal.has("e", "a", 1.0, 2));
        journal.append(record("a", 1.0, 2, 6.0, 1)).unwrap();
        assert_eq!(Journal::open(&path).unwrap().records.len(), 2);
        let journal = Journal::open(&path).unwrap();
        let journal = journal.keep(&path, |r| r.experiment != "e").unwrap();
        assert!(journal.records.is_empty());
        assert!(Journal::open(&path).unwrap().records.is_empty());
    }

    /// Numbers read from text are not always written as they were.
    #[test]
    fn a_journal_that_is_opened_stays_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for number in 1..=20_000_u32 {
            let rate = f64::from(number) * 1_234.567 / 1.000_321;
            journal.append(record("a", 1.0, number, rate, 1)).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        Journal::open(&path).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap() == written);
    }
}
