//! Records as CSV files, one an experiment.

use std::fmt::Write as _;

use crate::experiments::Experiment;
use crate::record::{Results, Status, Timed};

const HEADER: &str = "series,x,label,repeat,status,count,errors,value,unit,p50_us,p95_us,p99_us,p999_us,max_us,\
                      fdatasync_before_us,fdatasync_after_us,fdatasync_p99_before_us,fdatasync_p99_after_us,hits,hit_p50_us,hit_p99_us,misses,miss_p50_us,miss_p99_us,\
                      processors_busy,processors_stolen,processors_us_per_operation,version";

/// One line per run, or per moment of a time line.
pub fn text(experiment: &Experiment, results: &Results) -> String {
    let mut text = format!("{HEADER}\n");
    for record in &results.records {
        let status = match &record.status {
            Status::Ok => "ok".to_string(),
            Status::NotInstalled(why) => format!("not installed: {why}"),
            Status::Failed(why) => format!("failed: {why}"),
        };
        for row in &record.rows {
            let latency = row.latency.map_or(",,,,".to_string(), |l| {
                format!("{},{},{},{},{}", l.p50, l.p95, l.p99, l.p999, l.max)
            });
            let both = |times: Option<(u64, u64)>| {
                times.map_or(",".to_string(), |(before, after)| {
                    format!("{before},{after}")
                })
            };
            let (fdatasync, fdatasync_p99) = (both(row.fdatasync), both(row.fdatasync_p99));
            let cache = row.cache.unwrap_or_default();
            let (hits, misses) = (timed(cache.hits), timed(cache.misses));
            let processors = row.processors.as_ref().map_or(",,".to_string(), |p| {
                format!("{:.2},{:.2},{}", p.busy, p.stolen, quoted(&p.to_string()))
            });
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{:.3},{},{latency},{fdatasync},{fdatasync_p99},{hits},{misses},{processors},{}",
                quoted(&record.series),
                row.x,
                quoted(&record.label),
                record.repeat,
                quoted(&status),
                row.count,
                row.errors,
                row.value,
                experiment.unit,
                quoted(&record.version),
            );
        }
    }
    text
}

fn timed(operations: Option<Timed>) -> String {
    operations.map_or(",,".to_string(), |of| {
        let us = |ns: u64| ns as f64 / 1e3;
        format!("{},{:.3},{:.3}", of.count, us(of.p50_ns), us(of.p99_ns))
    })
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"").replace('\n', " ")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Cache;
    use crate::record::tests::record;
    use crate::verify::tests::experiment;

    #[test]
    fn hits_and_misses_have_columns_of_their_own() {
        let (plain, mut cached) = (record("a", 1.0, 1, 5.0, 1), record("a", 2.0, 1, 5.0, 1));
        let hits = Timed {
            count: 7,
            p50_ns: 850,
            p99_ns: 12_345,
        };
        cached.rows[0].cache = Some(Cache {
            hits: Some(hits),
            misses: None,
        });
        let records = vec![plain, cached];
        let text = text(&experiment(), &Results { records });
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(',').collect()).collect();
        let column = |name| lines[0].iter().position(|n| *n == name).unwrap();
        let of = |line: usize| {
            let names = ["hits", "hit_p50_us", "hit_p99_us", "misses", "miss_p50_us"];
            names.map(|name| lines[line][column(name)])
        };
        assert_eq!(of(1), [""; 5]);
        assert_eq!(of(2), ["7", "0.850", "12.345", "", ""]);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }

    #[test]
    fn fields_with_separators_are_quoted() {
        assert_eq!(quoted("a b"), "a b");
        assert_eq!(quoted("a, \"b\"\nc"), "\"a, \"\"b\"\" c\"");
    }
}
