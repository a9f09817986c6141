//! A message and its answer, by size: P1 section 4.3.3.

use super::messages::{ROUND, SYSTEMS, load};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;
use bench::messages::Spec;

const GRPC: &str = "grpc";
const SMALL: f64 = 64.0;

pub fn experiment(scale: Scale) -> Experiment {
    let sizes = scale.pick(&[64, 8192], &[64, 1024, 8192], &[64, 1024, 8192]);
    let mut points = Vec::new();
    for size in &sizes {
        let mut systems = SYSTEMS.to_vec();
        systems.push(System::one(Fsync));
        for system in systems {
            let spec = Spec {
                size: *size,
                ..ROUND
            };
            let name = system.name();
            points.push(Point::load(name, *size as f64, load(scale, system, spec)));
        }
    }
    let of_grpc = |label, metric: Metric, times| {
        Chart::log(metric).with(papers::times(label, GRPC.into(), times))
    };
    Experiment {
        name: "ipc-ping-pong",
        title: "Ping-pong by message size, one pair",
        claim: "C5: against gRPC, ping-pong has 24 to 49 % less throughput and 1.3 to 2.5 times the median latency; raw TCP is \
                4 to 9.5 times quicker.",
        papers: "64, 1,024 and 8,192 bytes, 1 and 10 receivers, 10 s; gRPC 1.32 C++ unary; VoltDB without replicas or log.",
        ours: format!(
            "{sizes:?} bytes, one pair, closed loop; a receive waits at its partition's leader until there is a message."
        ),
        differ: "Loopback instead of a 25 Gbit/s network. gRPC is tonic in Rust, TCP has TCP_NODELAY; both answer from a thread of \
                 the same process, rows, Redis streams and NATS subjects through their server.",
        unit: "rounds/s",
        x: Axis {
            label: "bytes of a message",
            kind: AxisKind::Log,
        },
        charts: vec![
            of_grpc(
                "papers: 51–76 % of gRPC",
                Metric::Value,
                papers::PING_PONG_OF_GRPC,
            ),
            of_grpc(
                "papers: 1.3–2.5 × gRPC",
                Metric::P50,
                papers::PING_PONG_P50_OF_GRPC,
            ),
        ],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |series: &str| results.at(series, SMALL, Metric::Value);
    let ours = at(&System::one(Memory).name());
    let behind = ours.zip(at("tcp")).map(|(ours, tcp)| {
        let times = tcp.median / ours.median;
        (
            format!("{times:.1} × ({} to {})", show(tcp), show(ours)),
            Some(times <= 5.0),
        )
    });
    vec![
        Finding::ratio(
            "C5: ping-pong, 64 B, one pair, memory, against gRPC",
            "papers 0.51–0.76 ×; target 1 ×",
            (ours, at(GRPC)),
            Some(1.0),
        ),
        Finding::new(
            "C5: TCP against ping-pong, 64 B, memory",
            "papers 4–9.5 ×; target at most 5 ×",
            behind,
        ),
    ]
}
