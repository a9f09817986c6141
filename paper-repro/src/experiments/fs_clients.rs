//! Many users at the same time: the artifact's multi-user loads.

use bench::files::Shape;

use super::files::{load, systems};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

fn series(verb: &str, system: &System) -> String {
    format!("{verb}; {}", system.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let clients = scale.pick(&[8], &[1, 32], &[1, 4, 16, 40, 80, 160]);
    let mut points = Vec::new();
    for count in &clients {
        for (verb, shape) in [("write", Shape::Write), ("read", Shape::Read)] {
            let fsync = verb == "write";
            for system in systems().into_iter().chain([System::Bindfs { fsync }]) {
                let name = series(verb, &system);
                let load = load(scale, system, shape, None, *count);
                points.push(Point::load(name, f64::from(*count), load));
            }
        }
    }
    Experiment {
        name: "fs-clients",
        title: "Random 4 KiB blocks by the number of clients",
        claim: "C8 for many users: no global lock, so writes scale with users.",
        papers: "40 users, one client each, synchronous and asynchronous.",
        ours: format!(
            "{clients:?} clients over 16 users with 4 files of 64 blocks of 4 KiB; also through bindfs, a FUSE file system above ext4, \
             writes with fdatasync there too."
        ),
        differ: "Two cores for clients and servers.",
        unit: "blocks/s",
        x: Axis {
            label: "clients",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let most = |verb: &str, system: System| {
        let all = results.spreads(&series(verb, &system), Metric::Value);
        all.last().map(|l| l.1)
    };
    let ours = || most("write", System::one(Fsync));
    vec![
        Finding::ratio(
            "C8: random writes with the most clients, durable, against ext4 with fsync",
            "at least 1 × (target)",
            (ours(), most("write", System::Ext4 { fsync: true })),
            Some(1.0),
        ),
        Finding::ratio(
            "random writes with the most clients, durable, against bindfs (FUSE) with fsync",
            "no number",
            (ours(), most("write", System::Bindfs { fsync: true })),
            None,
        ),
    ]
}
