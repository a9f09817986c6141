//! A place to stop a client between two transactions: tests prove with it that no step leaves anything half done.

use std::fmt;
use std::sync::Arc;

use dbos_client::Result;

/// A transaction that is about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Directory rows are read or changed at the home: names, localized content, sizes.
    Home,
    /// A parallel write is noted.
    Begin,
    /// An old block of a parallel file is read.
    Get,
    /// A new block of a parallel file is put.
    Put,
    /// A parallel write is made visible.
    Publish,
    /// Garbage is looked up, a dead block removed, its note removed.
    Collect,
}

/// Called before each transaction; an error stops the client there.
#[derive(Clone, Default)]
pub struct StepHook(Option<Arc<dyn Fn(Step) -> Result<()> + Send + Sync>>);

impl StepHook {
    pub fn new(hook: impl Fn(Step) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn before(&self, step: Step) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl fmt::Debug for StepHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "StepHook(set)"
        } else {
            "StepHook(none)"
        })
    }
}
