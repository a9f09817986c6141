//! Counts by name, summed over runs.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<&'static str, u64>);

impl Totals {
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn join(&mut self, other: &Totals) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// Disasters, and messages that went wrong.
    pub fn faults(&self) -> u64 {
        let faults = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with("fault: "));
        faults.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "  {name:36} {count:>12}")?;
        }
        Ok(())
    }
}
