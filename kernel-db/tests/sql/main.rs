//! SQL over one partition in memory: `.slt` scripts, access paths, routes, schema changes, limits.

mod catalogue;
mod database;
mod limits;
#[path = "../support/partition.rs"]
mod partition;
mod plans;
mod routes;
mod scripts;
