//! Random blocks: 20 of one file, or one of each of 20 files: P1 section 4.4.

use bench::files::Shape;

use super::files::{cached, cached_name, load, systems};
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, show};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;

const SHAPES: [(&str, Shape); 4] = [
    ("write 1×20", Shape::Write1x20),
    ("write 20×1", Shape::Write20x1),
    ("read 1×20", Shape::Read1x20),
    ("read 20×1", Shape::Read20x1),
];
const USERS: u32 = 8;

pub fn experiment(scale: Scale) -> Experiment {
    let mut points = Vec::new();
    for (x, (label, shape)) in SHAPES.iter().enumerate() {
        for system in systems() {
            let name = system.name();
            let load = load(scale, system, *shape, None, USERS);
            points.push(Point::load(name, x as f64, load).labelled(*label));
        }
        if matches!(shape, Shape::Read1x20 | Shape::Read20x1) {
            let system = System::one(Memory);
            let name = cached_name(&system);
            let load = cached(load(scale, system, *shape, None, USERS));
            points.push(Point::load(name, x as f64, load).labelled(*label));
        }
    }
    Experiment {
        name: "fs-mixes",
        title: "Random blocks: files × blocks of one operation",
        claim: "C8: writes are at least as fast as ext4's, reads clearly slower (a call of about 40 µs against a system call of \
                about 1 µs).",
        papers: "40 users × 100 files × 128 blocks of 2 KB; 20 random blocks a transaction: 1 file × 20 blocks, 20 files × 1 block; \
                 no fsync on either side.",
        ours: format!(
            "8 users × 24 files × 32 blocks of 2 KB, {USERS} clients, the same two mixes; ext4 by pread and pwrite, with fdatasync \
             after each block and without. With client cache: one cache for all clients, filled before as the page cache is, \
             leases of 10 s, blocks that nobody changes; one thread, where ext4 has {USERS}."
        ),
        differ: "Smaller files, so that filling them does not take longer than measuring. The twenty blocks are calls of their own, \
                 sent together.",
        unit: "operations of 20 blocks/s",
        x: Axis {
            label: "",
            kind: AxisKind::Category,
        },
        charts: vec![Chart::log(Metric::Value), Chart::log(Metric::P50)],
        points,
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let at = |system: System, x: f64| results.at(&system.name(), x, Metric::Value);
    let of = |what, stated, x, durability, fsync, at_least| {
        let pair = (
            at(System::one(durability), x),
            at(System::Ext4 { fsync }, x),
        );
        Finding::ratio(what, stated, pair, Some(at_least))
    };
    let page_cache = |x| at(System::Ext4 { fsync: false }, x);
    let reads = |what, x| {
        let pair = (at(System::one(Memory), x), page_cache(x));
        Finding::ratio(what, "clearly slower (papers)", pair, None)
    };
    let kept = |what, x| {
        let name = cached_name(&System::one(Memory));
        let pair = (results.at(&name, x, Metric::Value), page_cache(x));
        Finding::ratio(what, "target 0.5 × on cache hits", pair, Some(0.5))
    };
    let apart = |what, x| {
        let of = |metric| results.at(&cached_name(&System::one(Memory)), x, metric);
        let measured = of(Metric::HitP50).zip(of(Metric::MissP50));
        let measured = measured.map(|(hits, misses)| {
            let text = format!("hits {} µs, misses {} µs", show(hits), show(misses));
            (text, None)
        });
        Finding::new(what, "medians, reported apart", measured)
    };
    vec![
        of(
            "C8: random writes 1×20, durable, against ext4 with fsync",
            "at least 1 × (papers, volatile; target)",
            0.0,
            Fsync,
            true,
            1.0,
        ),
        of(
            "C8: random writes 20×1, durable, against ext4 with fsync",
            "at least 1 × (papers, volatile; target)",
            1.0,
            Fsync,
            true,
            1.0,
        ),
        reads("C8: random reads 1×20 against ext4's page cache", 2.0),
        reads("C8: random reads 20×1 against ext4's page cache", 3.0),
        kept(
            "C8: random reads 1×20, client cache, against ext4's page cache",
            2.0,
        ),
        kept(
            "C8: random reads 20×1, client cache, against ext4's page cache",
            3.0,
        ),
        apart("C8: random reads 1×20, client cache", 2.0),
        apart("C8: random reads 20×1, client cache", 3.0),
    ]
}
