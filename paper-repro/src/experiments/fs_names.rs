//! Files created, and deleted: P1 table 1.

use bench::files::Shape;

use super::files::{load, systems};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;

const MANY: f64 = 16.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Create,
    Delete,
}

pub fn experiment(scale: Scale, which: Which) -> Experiment {
    let clients = scale.pick(&[4], &[1, 16], &[1, 4, 16, 40]);
    let shape = match which {
        Which::Create => Shape::Create,
        Which::Delete => Shape::Delete,
    };
    let mut points = Vec::new();
    for count in &clients {
        // Its names cannot be made durable.
        let fuse = System::Bindfs { fsync: false };
        for system in systems().into_iter().chain([fuse]) {
            let name = system.name();
            let load = load(scale, system, shape, None, *count);
            points.push(Point::load(name, f64::from(*count), load));
        }
    }
    let latency = match which {
        Which::Create => Chart::log(Metric::P50)
            .with(papers::level(
                "papers: 67 µs, volatile",
                papers::CREATE_US.0,
            ))
            .with(papers::level(
                "papers: ext4 by touch, 657 µs",
                papers::CREATE_US.1,
            )),
        Which::Delete => Chart::log(Metric::P50),
    };
    Experiment {
        name: match which {
            Which::Create => "fs-create",
            Which::Delete => "fs-delete",
        },
        title: match which {
            Which::Create => "Creating files",
            Which::Delete => "Deleting files",
        },
        claim: "C9: create and delete are about ten times as fast as on ext4; a create takes 67.48 µs against 656.78 µs.",
        papers: "40 clients, one user each; ext4: 40 shells that run touch and rm 10,000 times, so with a process started each time; \
                 nothing durable.",
        ours: format!(
            "{clients:?} clients, 16 users; ext4 by system calls: open with O_CREAT|O_EXCL and close, unlink; with fsync of the file \
             and of its directory, and without; bindfs, a FUSE file system above ext4, without: it does not hand on the fsync of a \
             directory."
        ),
        differ: "System calls in place of shell programs: the honest opponent. Durable against durable, volatile against volatile.",
        unit: "files/s",
        x: Axis {
            label: "clients",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value), latency],
        points,
        conclude: match which {
            Which::Create => |results| conclude(results, "create"),
            Which::Delete => |results| conclude(results, "delete"),
        },
    }
}

fn conclude(results: &Results, what: &str) -> Vec<Finding> {
    let at = |system: System| results.at(&system.name(), MANY, Metric::Value);
    let alone = results.at(&System::one(Memory).name(), 1.0, Metric::P50);
    let alone = alone.map(|p50| (format!("{} µs", show(p50)), None));
    let mut found = vec![
        Finding::ratio(
            &format!("C9: {what}, durable, 16 clients, against ext4 with fsync"),
            "papers about 10 × (neither durable); target 3 ×",
            (at(System::one(Fsync)), at(System::Ext4 { fsync: true })),
            Some(3.0),
        ),
        Finding::ratio(
            &format!("{what}, memory, 16 clients, against ext4 without fsync"),
            "target at least 0.5 ×",
            (at(System::one(Memory)), at(System::Ext4 { fsync: false })),
            Some(0.5),
        ),
    ];
    if what == "create" {
        found.push(Finding::new(
            "C9: median of one create, one client, memory",
            "67.48 µs (papers)",
            alone,
        ));
    }
    found
}
