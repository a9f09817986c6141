//! Clusters of real node processes.

mod cancel;
mod cluster;
mod disk;
mod faults;
mod life;
mod past;
mod schema;
mod waits;
