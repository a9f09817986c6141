//! Clusters of real node processes.

mod cancel;
mod cluster;
mod disk;
mod faults;
mod large_reads;
mod life;
mod numbers;
mod past;
#[path = "../../../services/client/src/ports.rs"]
mod ports;
mod rollback;
mod schema;
mod strangers;
mod waits;
