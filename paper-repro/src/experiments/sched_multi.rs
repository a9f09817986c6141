//! What transactions over several partitions cost: P2 section 4.10 and volt-partition-bench.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const CONNECTIONS: u32 = 4;
const IN_FLIGHT: u32 = 64;
/// Where zero is drawn on an axis of powers of ten.
pub const ZERO: f64 = 0.0001;

pub fn experiment(scale: Scale) -> Experiment {
    let fractions = scale.pick(
        &[ZERO, 0.5],
        &[ZERO, 0.001, 0.1, 1.0],
        &[ZERO, 0.001, 0.01, 0.1, 0.2, 0.5, 0.8, 1.0],
    );
    let mut points = Vec::new();
    for fraction in &fractions {
        for system in [System::one(Fsync), System::three(Fsync)] {
            let load = Load {
                system: system.clone(),
                kind: Kind::Sched(Spec {
                    multi_partition: if *fraction == ZERO { 0.0 } else { *fraction },
                    ..Spec::new(Policy::TwoKeys)
                }),
                connections: CONNECTIONS,
                in_flight: IN_FLIGHT,
                rate: None,
                duration: scale.duration(),
            };
            points.push(Point::load(system.name(), *fraction, load));
        }
    }
    Experiment {
        name: "sched-multi",
        title: "Throughput against the share of tasks placed over two partitions",
        claim: "C12: multi-partition transactions are poison: 0.1 % of them halves throughput.",
        papers: "P = 40, W = 40, N = 100, T = 40; share 0, 0.0001, 0.001, 0.01, 0.1, 0.2, 0.5, 0.8, 1.",
        ours: format!(
            "share {fractions:?} ({ZERO} stands for none) of calls that take the worker from one key and put the task under \
             another, in one transaction; 4 partitions, {IN_FLIGHT} in flight. Of two keys, three quarters are in different partitions."
        ),
        differ: "VoltDB stops all partitions for such a transaction; here two-phase commit locks the rows it touches.",
        unit: "tasks/s",
        x: Axis {
            label: "share over two keys (leftmost: none)",
            kind: AxisKind::Log,
        },
        charts: vec![
            Chart::log(Metric::Value).with(papers::times(
                "papers: half of it at 0.1 %",
                System::one(Fsync).name(),
                (0.5, 0.5),
            )),
            Chart::log(Metric::P99),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let one = System::one(Fsync).name();
    let at = |x| results.at(&one, x, Metric::Value);
    let measured = at(ZERO).zip(at(papers::HALVED_AT)).map(|(none, some)| {
        let left = some.median / none.median;
        let text = format!(
            "{:.0} % are left ({} of {})",
            left * 100.0,
            show(some),
            show(none)
        );
        (text, Some(left > 0.5))
    });
    let all = at(ZERO).zip(at(1.0)).map(|(none, all)| {
        let left = all.median / none.median * 100.0;
        (format!("{left:.0} % are left ({})", show(all)), None)
    });
    vec![
        Finding::new(
            "C12: throughput with 0.1 % over two keys, one node, fsync",
            "half is left (here: more than half)",
            measured,
        ),
        Finding::new(
            "throughput with all over two keys, one node, fsync",
            "no number",
            all,
        ),
    ]
}
