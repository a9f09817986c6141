//! Load generators for the services, the same driver, SQL and pipelining for every target.
//!
//! A benchmark installs the service's SQL on the target, offers load ([`load`]), and checks at the end that the target's
//! tables hold what was acknowledged. It measures; it never judges speed.

mod fdatasync;
mod files;
pub mod load;
mod messages;
mod report;
mod run;
mod sched;
mod target;
mod transfers;

pub use report::{BeforeAfter, Latency, Report};
pub use run::{IN_FLIGHT_TRIED, Kind, Options, Progress, run};
pub use target::Target;
