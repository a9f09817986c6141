//! Every participant sends to every other one: not in the papers' artifact.

use super::messages::{ROUND, points};
use super::{Axis, AxisKind, Chart, Experiment, Finding};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Memory;
use crate::systems::System;
use bench::messages::{Shape, Spec};

pub fn experiment(scale: Scale) -> Experiment {
    let participants = scale.pick(&[3], &[2, 8], &[2, 4, 8, 16, 32]);
    let points = points(scale, &participants, |count| Spec {
        shape: Shape::AllToAll,
        receivers: count,
        ..ROUND
    });
    Experiment {
        name: "ipc-all-to-all",
        title: "All to all: each sends to every other, 64 bytes",
        claim: "The papers' text says that such patterns are a few lines of SQL; no measurement is known.",
        papers: "Not in the artifact.",
        ours: format!(
            "{participants:?} participants, 64 bytes; a round ends when each has the messages of all others."
        ),
        differ: "Nothing to compare with but this run's peers. On gRPC and TCP each of the messages is a request on a connection \
                 of its own and is answered.",
        unit: "rounds/s",
        x: Axis {
            label: "participants",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let most = |series: &str| results.spreads(series, Metric::Value).last().map(|l| l.1);
    vec![Finding::ratio(
        "all to all with the most participants of this run, memory, against gRPC",
        "no number",
        (most(&System::one(Memory).name()), most("grpc")),
        None,
    )]
}
