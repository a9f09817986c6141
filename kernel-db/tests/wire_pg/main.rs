//! The PostgreSQL protocol against a backend that only the protocol is tested with.

mod backend;
mod blocks;
mod bounds;
mod implicit;
mod pipeline;
mod queries;
mod raw;
mod sessions;
mod types;
