//! Whether a run did everything it should: every expected series with counts above zero, no errors, every plot in the
//! report. It never judges speed.

use crate::experiments::Experiment;
use crate::record::{Results, Status};

/// What is wrong, one line each; empty if nothing is.
pub fn faults(experiment: &Experiment, results: &Results) -> Vec<String> {
    let mut found = Vec::new();
    // Later repeats may be left out whole, for want of time; the first never.
    let repeats = results.repeats().max(1);
    for point in &experiment.points {
        for repeat in 1..=repeats {
            let name = format!(
                "{}: {} at {} (run {repeat})",
                experiment.name, point.series, point.x
            );
            let of =
                |r: &&crate::record::Record| r.repeat == repeat && r.is_of(&point.series, point.x);
            let Some(record) = results.records.iter().find(of) else {
                found.push(format!("{name}: no record"));
                continue;
            };
            let (count, errors) = record.rows.iter().fold((0, 0), |(count, errors), row| {
                (count + row.count, errors + row.errors)
            });
            match &record.status {
                // Recorded as such, and shown: this machine does not have the peer.
                Status::NotInstalled(_) => {}
                Status::Failed(why) => found.push(format!("{name}: {why}")),
                Status::Ok if errors > 0 => {
                    found.push(format!(
                        "{name}: {errors} errors: {}",
                        record.errors.join("; ")
                    ));
                }
                Status::Ok if count == 0 => found.push(format!("{name}: nothing was counted")),
                Status::Ok => {}
            }
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::experiments::{Axis, AxisKind, Point};
    use crate::record::tests::record;

    pub fn experiment() -> Experiment {
        let point = |x| Point::new("a", x, Box::new(|_| anyhow::bail!("not run here")));
        Experiment {
            name: "e",
            title: "",
            claim: "",
            papers: "",
            ours: String::new(),
            differ: "",
            unit: "",
            x: Axis {
                label: "",
                kind: AxisKind::Linear,
            },
            charts: Vec::new(),
            points: vec![point(1.0), point(2.0)],
            conclude: |_| Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_failed_or_empty_is_found() {
        let good = || vec![record("a", 1.0, 1, 5.0, 1), record("a", 2.0, 1, 5.0, 1)];
        let check = |records| faults(&experiment(), &Results { records });
        assert!(check(good()).is_empty());
        assert_eq!(check(good()[..1].to_vec()).len(), 1, "a missing series");
        let mut half = good();
        half.push(record("a", 1.0, 2, 5.0, 1));
        assert_eq!(check(half).len(), 1, "half a repeat");
        assert_eq!(check(Vec::new()).len(), 2, "no repeat at all");
        let mut empty = good();
        empty[1].rows[0].count = 0;
        assert_eq!(check(empty).len(), 1, "nothing counted");
        let mut errors = good();
        errors[0].rows[0].errors = 2;
        assert_eq!(check(errors).len(), 1, "errors in a run");
        let mut failed = good();
        failed[0].status = Status::Failed("why".into());
        assert_eq!(check(failed), ["e: a at 1 (run 1): why"]);
        let mut missing = good();
        missing[0].status = Status::NotInstalled("no program".into());
        missing[0].rows[0].count = 0;
        assert!(
            check(missing).is_empty(),
            "a peer that is not there is no fault"
        );
    }
}
