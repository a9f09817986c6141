//! Parallel files, whose blocks are spread over partitions: P1 section 4.4.

use bench::files::Shape;

use super::files::load;
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::probe;
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Fsync;
use crate::systems::System;

const DISK: &str = "this disk, sequential";
const LOOPBACK: &str = "this loopback";
/// Copies of every block in the log and in the state, on one node.
const COPIES: f64 = 2.0;

fn series(verb: &str, system: &System) -> String {
    format!("{verb}; {}", system.name())
}

pub fn experiment(scale: Scale) -> Experiment {
    let clients = scale.pick(&[2], &[1, 4], &[1, 2, 4, 8, 16]);
    let mut points = Vec::new();
    for count in &clients {
        let x = f64::from(*count);
        for (verb, shape) in [("write", Shape::SeqWrite), ("read", Shape::SeqRead)] {
            let fsync = verb == "write";
            for system in [
                System::one(Fsync),
                System::three(Fsync),
                System::Ext4 { fsync },
                System::Bindfs { fsync },
            ] {
                let name = series(verb, &system);
                let load = load(scale, system, shape, None, *count);
                points.push(Point::load(name, x, load));
            }
        }
        points.push(Point::new(DISK, x, probe::disk(x, scale.duration())));
        points.push(Point::new(
            LOOPBACK,
            x,
            probe::loopback(x, scale.duration()),
        ));
    }
    Experiment {
        name: "fs-parallel",
        title: "Parallel files: blocks of 1 MiB over all partitions",
        claim: "C11: four clients fill a network of 25 Gbit/s; Lustre with 16 clients reaches 70 % of it; nearly linear beyond two nodes.",
        papers: "8 nodes × 40 partitions, one file of 4,000 blocks of 8 KB per client; Lustre with blocks of 1 MiB.",
        ours: format!(
            "{clients:?} clients, each with a file of 16 MiB, from end to end again and again; one node, and three replicated nodes; \
             ext4 by system calls, with fdatasync after each block, and the same through bindfs, a FUSE file system above it; bounds: \
             this disk's sequential writes and this loopback."
        ),
        differ: "One machine and its disk in place of eight and a network: blocks are durable here, so the disk is the bound, and \
                 with three nodes it takes every block three times. bindfs stands for FUSE file systems: it adds the way through the \
                 kernel to a process and back, no network and no copies. No network file system is measured.",
        unit: "MiB/s",
        x: Axis {
            label: "clients",
            kind: AxisKind::Log,
        },
        charts: vec![Chart::log(Metric::Value).with(papers::level(
            "papers: 25 Gbit/s network",
            papers::NETWORK_MIB_S,
        ))],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let best = |series: &str| results.best(series, Metric::Value);
    let of_disk = |name: &str, system: System, copies: f64| {
        let pair = best(&series("write", &system)).zip(best(DISK));
        let measured = pair.map(|(ours, disk)| {
            let share = ours.median / (disk.median / copies) * 100.0;
            let text = format!(
                "{share:.0} % ({} MiB/s of {} / {copies})",
                show(ours),
                show(disk)
            );
            (text, Some(share >= 50.0))
        });
        Finding::new(name, "at least 50 % (target)", measured)
    };
    let beside = |what: &str, verb: &str, fsync| {
        let theirs = series(verb, &System::Bindfs { fsync });
        let ours = series(verb, &System::one(Fsync));
        Finding::ratio(what, "no number", (best(&ours), best(&theirs)), None)
    };
    vec![
        of_disk(
            "C11: parallel writes, one node, of the disk's bandwidth / copies",
            System::one(Fsync),
            COPIES,
        ),
        of_disk(
            "C11: parallel writes, three nodes, of the disk's bandwidth / copies",
            System::three(Fsync),
            3.0 * COPIES,
        ),
        beside(
            "parallel writes, one node, fsync, against bindfs (FUSE) with fsync",
            "write",
            true,
        ),
        beside(
            "parallel reads, one node, against bindfs (FUSE)",
            "read",
            false,
        ),
    ]
}
