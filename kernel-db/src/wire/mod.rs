//! Protocols: PostgreSQL towards clients, prost messages between nodes.

pub mod peer;
pub mod pg;
