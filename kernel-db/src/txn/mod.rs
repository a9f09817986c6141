//! Time: the hybrid logical clock.
