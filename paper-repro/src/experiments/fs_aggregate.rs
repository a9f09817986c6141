//! An aggregate over file metadata: P1 table 2.

use bench::files::Shape;

use super::files::load;
use super::{Axis, AxisKind, Chart, Experiment, Finding, Point, papers, show};
use crate::record::{Metric, Results};
use crate::scale::Scale;
use crate::systems::Durability::Memory;
use crate::systems::System;

const SQL: f64 = 0.0;
const WALK: f64 = 1.0;

pub fn experiment(scale: Scale) -> Experiment {
    let systems = [
        (System::one(Memory), SQL, "SQL"),
        (System::Postgres, SQL, "SQL"),
        (System::Ext4 { fsync: false }, WALK, "compiled walk"),
    ];
    let point = |(system, x, label): (System, f64, &str)| {
        let name = system.name();
        let load = load(scale, system, Shape::Aggregate, None, 1);
        Point::load(name, x, load).labelled(label)
    };
    Experiment {
        name: "fs-aggregate",
        title: "Sum of the sizes of a user's larger files",
        claim: "C10: 2 lines of SQL in 0.65 ms against 98 lines of C++ in 9.90 ms.",
        papers: "SumLargerThan for one user; a C++ program walks the tree with stat. The number of files is not published.",
        ours: "1,000 files in ten directories, one client; the statement of bench/sql/aggregate.sql, and the walk of \
               bench/src/peers/tree_walk.rs in the page cache.".into(),
        differ: "The walk is compiled Rust, called in the process of the load generator: no program is started.",
        unit: "queries/s",
        x: Axis {
            label: "",
            kind: AxisKind::Category,
        },
        charts: vec![
            Chart::log(Metric::P50)
                .with(papers::at("papers: SQL 0.65 ms", SQL, papers::AGGREGATE_US.0))
                .with(papers::at("papers: C++ 9.90 ms", WALK, papers::AGGREGATE_US.1)),
        ],
        points: systems.into_iter().map(point).collect(),
        conclude,
    }
}

fn conclude(results: &Results) -> Vec<Finding> {
    let sql = results.at(&System::one(Memory).name(), SQL, Metric::P50);
    let walk = results.at(&System::Ext4 { fsync: false }.name(), WALK, Metric::P50);
    let measured = sql.zip(walk).map(|(sql, walk)| {
        let text = format!("SQL {} µs, walk {} µs", show(sql), show(walk));
        (text, Some(sql.median < walk.median))
    });
    vec![Finding::new(
        "C10: the aggregate in SQL is quicker than a compiled walk",
        "0.65 ms against 9.90 ms",
        measured,
    )]
}
