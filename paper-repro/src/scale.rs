//! How much is measured: a test of the program, what suits this machine, or the papers' own parameters.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// Few points, a fraction of a second each, once: tests this program, says nothing about speed.
    Smoke,
    /// At most about half an hour: where the machine is slow, later repeats are left out, and the report says so.
    Default,
    /// The papers' parameters, as far as the machine holds them: several hours.
    Full,
}

impl Scale {
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Default => "default",
            Self::Full => "full",
        }
    }

    /// Runs of each point.
    pub fn repeats(self) -> u32 {
        match self {
            Self::Smoke => 1,
            Self::Default | Self::Full => 5,
        }
    }

    /// Measured time of one run; a fifth of it is the warm-up before.
    pub fn duration(self) -> Duration {
        match self {
            Self::Smoke => Duration::from_millis(200),
            Self::Default => Duration::from_millis(500),
            Self::Full => Duration::from_secs(10),
        }
    }

    /// Time for all experiments together. An experiment that has used its share begins no further repeat.
    pub fn budget(self) -> Duration {
        match self {
            Self::Smoke | Self::Full => Duration::MAX,
            Self::Default => Duration::from_secs(25 * 60),
        }
    }

    /// The values of a sweep at this scale.
    pub fn pick<T: Copy>(self, smoke: &[T], default: &[T], full: &[T]) -> Vec<T> {
        match self {
            Self::Smoke => smoke.to_vec(),
            Self::Default => default.to_vec(),
            Self::Full => full.to_vec(),
        }
    }
}
