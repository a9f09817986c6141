//! Plans by text, parameter types and schema version: parsing and planning cost more than running.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::catalog::Catalog;
use crate::sql::prepare::{Kind, Prepared, prepare};

/// A planned statement with the text it came from, so that another node can plan it too.
#[derive(Debug)]
pub struct Plan {
    pub text: Arc<str>,
    /// PostgreSQL type oids the client gave; 0 for those it left open.
    pub param_oids: Vec<u32>,
    pub prepared: Arc<Prepared>,
    /// Mentions tables of schema `dbos`, whose rows must be gathered before it runs.
    pub reads_system: bool,
}

impl Plan {
    pub fn is_ddl(&self) -> bool {
        matches!(self.prepared.kind, Kind::Ddl(_))
    }

    /// A transaction with this statement takes the next number of its session (I11).
    pub fn numbered(&self) -> bool {
        !self.is_ddl() && self.prepared.touches_tables()
    }
}

/// Plans of one catalogue version; bounded, the longest unused goes first.
pub struct PlanCache {
    version: u64,
    plans: LruCache<(Arc<str>, Vec<u32>), Arc<Plan>>,
}

impl PlanCache {
    pub fn new(plans_max: u32) -> Self {
        let max = NonZeroUsize::new(plans_max as usize).unwrap_or(NonZeroUsize::MIN);
        Self {
            version: 0,
            plans: LruCache::new(max),
        }
    }

    /// The plan for `text` at `catalog`'s version.
    pub fn get(
        &mut self,
        catalog: &Arc<Catalog>,
        text: &str,
        param_oids: &[u32],
    ) -> Result<Arc<Plan>> {
        if self.version != catalog.version {
            self.plans.clear();
            self.version = catalog.version;
        }
        let key = (Arc::<str>::from(text), param_oids.to_vec());
        if let Some(plan) = self.plans.get(&key) {
            return Ok(Arc::clone(plan));
        }
        let prepared = prepare(catalog, text, &param_types(param_oids)?)?;
        let plan = Arc::new(Plan {
            text: Arc::clone(&key.0),
            param_oids: param_oids.to_vec(),
            reads_system: mentions_system(text),
            prepared: Arc::new(prepared),
        });
        // DDL is run once; keeping it would only push others out.
        if !plan.is_ddl() {
            self.plans.put(key, Arc::clone(&plan));
        }
        Ok(plan)
    }
}

fn param_types(oids: &[u32]) -> Result<Vec<Option<DataType>>> {
    let one = |&oid: &u32| match oid {
        0 => Ok(None),
        oid => DataType::from_oid(oid)
            .map(Some)
            .ok_or_else(|| Error::new("42704", format!("type with oid {oid} does not exist"))),
    };
    oids.iter().map(one).collect()
}

/// Errs on the side of gathering: a string constant that looks like one costs a round trip.
fn mentions_system(text: &str) -> bool {
    const TABLES: [&str; 6] = [
        "clock",
        "nodes",
        "partitions",
        "replicas",
        "sessions",
        "statements",
    ];
    let lower = text.to_ascii_lowercase();
    let mut rest = lower.as_str();
    while let Some(at) = rest.find("dbos") {
        rest = &rest[at + 4..];
        let name = rest.trim_start_matches(['"', ' ', '\t', '\n', '\r', '.']);
        if TABLES.iter().any(|t| name.starts_with(t)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::mentions_system;

    #[test]
    fn system_tables_are_noticed() {
        for text in [
            "SELECT * FROM dbos.nodes",
            "select 1 from task, DBOS.Replicas r",
            "table \"dbos\".\"sessions\"",
        ] {
            assert!(mentions_system(text), "{text}");
        }
        for text in [
            "SELECT dbos.partition_of('t', 1)",
            "SELECT * FROM nodes",
            "SELECT * FROM dbos.tables",
        ] {
            assert!(!mentions_system(text), "{text}");
        }
    }
}
