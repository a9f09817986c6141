//! The seeded simulator: the same state machines in one thread over in-memory twins.
