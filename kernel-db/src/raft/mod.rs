//! Consensus: raft-rs behind a `step(event) -> effects` driver.
