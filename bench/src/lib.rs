//! Load generators and peers.
