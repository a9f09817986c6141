//! Protocols: PostgreSQL towards clients, prost messages between nodes.
