//! Protocols: PostgreSQL towards clients, prost messages between nodes.

pub mod pg;
