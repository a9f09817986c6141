//! Blocks written and read by size: the artifact's 1 B to 1 MB sweep.

use bench::files::Shape;

use super::files::{load, systems};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const CLIENTS: u32 = 4;
const KIB: usize = 1 << 10;

fn series(verb: &str, system: &System) -> String {
    format!("{verb}; {}", system.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let sizes = scale.pick(
        &[KIB],
        &[KIB, 64 * KIB],
        &[KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1 << 20],
    );
    let mut points = Vec::new();
    for size in &sizes {
        for (verb, shape) in [("write", Shape::Write), ("read", Shape::Read)] {
            for system in systems() {
                let name = series(verb, &system);
                let load = load(scale, system, shape, Some(*size), CLIENTS);
                points.push(Point::load(name, *size as f64, load));
            }
        }
    }
    Experiment {
        name: "fs-sizes",
        title: "Random blocks by size",
        claim: "C8: writes at least as fast as ext4, reads slower.",
        papers: "1 B, 1 KB, 256 KB, 512 KB, 768 KB, 1 MB; read 1 KB, write 64 KB over a cluster of two nodes.",
        ours: format!(
            "blocks of {sizes:?} bytes, 16 users × 4 files × 64 blocks, {CLIENTS} clients; one random block an operation."
        ),
        differ: "The full scale goes to 1 MiB; the default leaves out what takes longer to fill than to measure.",
        unit: "blocks/s",
        x: Axis {
            label: "bytes of a block",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let largest = |verb: &str, system: System| {
        let all = results.spreads(&series(verb, &system), Metric::Value);
        all.last().map(|l| l.1)
    };
    vec![Finding::ratio(
        "C8: random writes of the largest block, durable, against ext4 with fsync",
        "at least 1 × (target)",
        (
            largest("write", System::one(Fsync)),
            largest("write", System::Ext4 { fsync: true }),
        ),
        Some(1.0),
    )]
}
