//! Transactions over several partitions and transaction blocks: their time, and what is asked of partitions for them. The
//! partition's side of it is in `partition/`, the gateway's in `node/gateway/`.

mod clock;
pub mod messages;

pub use clock::{HybridClock, OFFSET_MAX_US};
