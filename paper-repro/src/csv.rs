//! Records as CSV files, one an experiment.

use std::fmt::Write as _;

use crate::experiments::Experiment;
use crate::record::{Results, Status};

const HEADER: &str = "series,x,label,repeat,status,count,errors,value,unit,p50_us,p95_us,p99_us,p999_us,max_us,\
                      fdatasync_before_us,fdatasync_after_us,processors_busy,processors_us_per_operation,version";

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
            let fdatasync = row.fdatasync.map_or(",".to_string(), |(before, after)| {
                format!("{before},{after}")
            });
            let processors = row.processors.as_ref().map_or(",".to_string(), |p| {
                format!("{:.2},{}", p.busy, quoted(&p.to_string()))
            });
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{:.3},{},{latency},{fdatasync},{processors},{}",
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

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"").replace('\n', " ")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_with_separators_are_quoted() {
        assert_eq!(quoted("a b"), "a b");
        assert_eq!(quoted("a, \"b\"\nc"), "\"a, \"\"b\"\" c\"");
    }
}
