//! Procedures in plpgsql.

use std::sync::Arc;

use super::catalog::{Catalog, FunctionDef, Procedure};
use crate::error::{Error, Result};

/// Compiles the body of `def` against `catalog`.
pub fn compile(_catalog: &Arc<Catalog>, def: &FunctionDef) -> Result<Arc<dyn Procedure>> {
    Err(Error::unsupported(format!("language plpgsql (function {})", def.name)))
}
