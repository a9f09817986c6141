//! Several pairs at the same time: P1 section 4.3.3.

use super::messages::{ROUND, points};
use super::{Axis, AxisKind, Chart, Experiment, Finding};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Memory;
use crate::systems::System;
use bench::messages::Spec;

const MANY: f64 = 10.0;

pub fn experiment(scale: Scale) -> Experiment {
    let pairs = scale.pick(&[2], &[10], &[1, 2, 5, 10, 20, 40]);
    let points = points(scale, &pairs, |count| Spec {
        pairs: count,
        ..ROUND
    });
    Experiment {
        name: "ipc-pairs",
        title: "Ping-pong by the number of pairs, 64 bytes",
        claim: "C5 again: the papers measure one and ten pairs; the range of their ratio to gRPC covers both.",
        papers: "1 and 10 receivers, 64, 1,024 and 8,192 bytes.",
        ours: format!("{pairs:?} pairs at the same time, 64 bytes."),
        differ: "All pairs share two cores.",
        unit: "rounds/s",
        x: Axis {
            label: "pairs",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |series: &str| results.at(series, MANY, Metric::Value);
    vec![Finding::ratio(
        "C5: ping-pong, ten pairs, memory, against gRPC",
        "papers 0.51–0.76 ×",
        (at(&System::one(Memory).name()), at("grpc")),
        Some(0.51),
    )]
}
