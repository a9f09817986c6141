//! Load generators for the services, the same driver, SQL and pipelining for every target.
//!
//! A benchmark installs the service's SQL on the target, offers load ([`load`]), and checks at the end that the target's
//! tables hold what was acknowledged. It measures; it never judges speed.

mod fdatasync;
pub mod files;
pub mod load;
pub mod messages;
pub mod peers;
mod processors;
mod report;
mod run;
pub mod sched;
mod target;
mod transfers;

pub use processors::{Processors, Thread};
pub use report::{BeforeAfter, Cache, Latency, Report, Timed};
pub use run::{IN_FLIGHT_TRIED, Kind, Options, Progress, Run, measure, run};
pub use target::{PEERS, Target};

/// One of `all` by its name on the command line.
fn named<T: Copy>(all: &[(&str, T)], what: &str, text: &str) -> anyhow::Result<T> {
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let found = all.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| anyhow::anyhow!("unknown {what} {text:?}: there are {}", names().join(", ")))
}
