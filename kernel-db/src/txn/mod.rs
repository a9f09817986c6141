//! Time of transactions. Transaction blocks and two-phase commit come later.

mod clock;

pub use clock::{HybridClock, OFFSET_MAX_US};
