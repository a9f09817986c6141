//! A place to stop a client between two transactions: tests prove with it that no step leaves anything half done.

use std::fmt;
use std::sync::Arc;

use dbos_client::Result;

/// Called before each transaction; an error stops the client there.
#[derive(Clone, Default)]
pub struct StepHook(Option<Arc<dyn Fn() -> Result<()> + Send + Sync>>);

impl StepHook {
    pub fn new(hook: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn before(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook())
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
