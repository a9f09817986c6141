//! Clusters of real node processes.

mod cluster;
mod disk;
mod faults;
mod life;
mod past;
mod schema;
mod waits;
