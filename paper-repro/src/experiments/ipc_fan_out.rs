//! A message to each of R receivers and an answer from each: P1 section 4.3.3.

use super::messages::{ROUND, points};
use super::{Axis, AxisKind, Chart, Experiment, Finding, papers};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Memory;
use crate::systems::System;
use bench::messages::{Shape, Spec};

const FORTY: f64 = 40.0;
const GRPC: &str = "grpc";

pub fn experiment(scale: Scale) -> Experiment {
    let receivers = scale.pick(&[1, 5], &[1, 10, 40], &[1, 5, 10, 20, 40]);
    let points = points(scale, &receivers, |count| Spec {
        shape: Shape::FanOut,
        receivers: count,
        ..ROUND
    });
    let of_grpc = |label, metric: Metric, times: f64| {
        Chart::log(metric).with(papers::times(label, GRPC.into(), (times, times)))
    };
    Experiment {
        name: "ipc-fan-out",
        title: "Fan-out to R receivers, 64 bytes",
        claim: "C7: with 40 receivers 2.3 times the throughput and 64 % less median latency than gRPC.",
        papers: "1, 5, 10, 20 and 40 receivers, 64 bytes; one send per receiver; gRPC: asynchronous unary calls.",
        ours: format!(
            "{receivers:?} receivers, 64 bytes, one sender; a round ends when all have answered."
        ),
        differ: "Loopback, two cores for sender, server and receivers.",
        unit: "rounds/s",
        x: Axis {
            label: "receivers",
            kind: AxisKind::Log,
        },
        charts: vec![
            of_grpc(
                "papers: 2.3 × gRPC (R = 40)",
                Metric::Value,
                papers::FAN_OUT_OF_GRPC,
            ),
            of_grpc(
                "papers: 0.36 × gRPC (R = 40)",
                Metric::P50,
                papers::FAN_OUT_P50_OF_GRPC,
            ),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |series: &str| results.at(series, FORTY, Metric::Value);
    vec![Finding::ratio(
        "C7: fan-out to 40, memory, against gRPC",
        "papers 2.3 ×; target 4 ×",
        (at(&System::one(Memory).name()), at(GRPC)),
        Some(4.0),
    )]
}
