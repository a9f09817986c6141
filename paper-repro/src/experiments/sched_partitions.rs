//! Throughput against the number of partitions: P2 section 4.1.

use bench::Kind;
use bench::sched::{Policy, Spec};

use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, show};
use crate::action::Load;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{self, Fsync, Memory};
use crate::systems::System;

const CONNECTIONS: u32 = 4;
const IN_FLIGHT: u32 = 64;

fn series(durability: Durability) -> String {
    format!("1 node, {}", durability.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let partitions = scale.pick(
        &[1, 4],
        &[1, 4, 16],
        &[1, 2, 4, 8, 10, 20, 40, 80, 120, 160, 200, 240],
    );
    let mut points = Vec::new();
    for count in &partitions {
        for durability in [Fsync, Memory] {
            let load = Load {
                system: System::Cluster {
                    nodes: 1,
                    partitions: *count,
                    durability,
                },
                kind: Kind::Sched(Spec::new(Policy::Fifo)),
                connections: CONNECTIONS.max(*count),
                in_flight: IN_FLIGHT,
                rate: None,
                duration: scale.duration(),
            };
            points.push(Point::load(series(durability), f64::from(*count), load));
        }
    }
    Experiment {
        name: "sched-partitions",
        title: "FIFO throughput against the number of partitions",
        claim: "C2: throughput grows nearly linearly with partitions.",
        papers: "P = 1, 10, 20, 40, 80, 120, 160, 200, 240 with N = 100 schedulers and 8,000 workers, 40 cores a server.",
        ours: format!(
            "P = {partitions:?} on one node, {IN_FLIGHT} calls in flight, FIFO, 64 keys, 640 workers."
        ),
        differ: "A partition here is a Raft group and not a core: on two cores more partitions cannot give more processor time, \
                 they only spread waiting. The papers' line can be checked on a machine with as many cores only.",
        unit: "tasks/s",
        x: Axis {
            label: "partitions",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::new(Metric::Value), Chart::log(Metric::P99)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let all = results.spreads(&series(Memory), Metric::Value);
    let ends = all.first().zip(all.last());
    let measured = ends.map(|((few, a), (many, b))| {
        let text = format!(
            "{} with {few}, {} with {many}: {:.2} ×",
            show(*a),
            show(*b),
            b.median / a.median
        );
        (text, None)
    });
    vec![Finding::new(
        "C2: throughput grows with partitions",
        "nearly linear on 40 cores a server",
        measured,
    )]
}
