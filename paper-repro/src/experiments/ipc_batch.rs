//! ping^n-pong^n: n messages, then n answers: P1 section 4.3.3.

use super::messages::{ROUND, points};
use super::{Axis, AxisKind, Chart, Experiment, Finding, papers};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Memory;
use crate::systems::System;
use bench::messages::{Shape, Spec};

const TWENTY: f64 = 20.0;
/// The papers' ping^n-pong^n has gRPC's stream as its opponent.
const GRPC_STREAM: &str = "grpc-stream";

pub fn experiment(scale: Scale) -> Experiment {
    let outstanding = scale.pick(&[1, 20], &[1, 20, 100], &[1, 5, 10, 20, 50, 100]);
    let points = points(scale, &outstanding, |count| Spec {
        shape: Shape::Batch,
        outstanding: count,
        ..ROUND
    });
    Experiment {
        name: "ipc-batch",
        title: "pingⁿ-pongⁿ: n messages, then n answers, 64 bytes",
        claim: "C6: ping20-pong20 with small messages is up to 2.7 times as quick as gRPC.",
        papers: "n = 1, 5, 10, 20, 50, 100; gRPC as a bidirectional stream whose server answers after n.",
        ours: format!(
            "n = {outstanding:?}, one pair; rows: a batch is one transaction and one call."
        ),
        differ: "Loopback; the papers send n calls asynchronously and take n rows with one receive.",
        unit: "rounds/s",
        x: Axis {
            label: "n",
            kind: AxisKind::Log,
        },
        charts: vec![
            Chart::log(Metric::Value).with(papers::times(
                "papers: up to 2.7 × gRPC (n = 20)",
                GRPC_STREAM.into(),
                (papers::BATCH_OF_GRPC, papers::BATCH_OF_GRPC),
            )),
            Chart::log(Metric::P50),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |series: &str| results.at(series, TWENTY, Metric::Value);
    let ours = at(&System::one(Memory).name());
    let against = |what, peer| {
        Finding::ratio(
            what,
            "papers up to 2.7 ×; target 4 ×",
            (ours, at(peer)),
            Some(4.0),
        )
    };
    vec![
        against(
            "C6: ping20-pong20, memory, against gRPC's stream",
            GRPC_STREAM,
        ),
        against("C6: ping20-pong20, memory, against unary gRPC", "grpc"),
    ]
}
