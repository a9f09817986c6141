//! Client of the kernel: routing to the leader, sessions, retries, schema installation.
