//! Clusters of real node processes.

mod cancel;
mod cluster;
mod disk;
mod faults;
mod life;
mod numbers;
mod past;
mod rollback;
mod schema;
mod strangers;
mod waits;
