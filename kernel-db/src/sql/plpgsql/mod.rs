//! Procedures in plpgsql: parsed, compiled once per schema version, run many times.
//!
//! Every variable is a slot of one frame; SQL inside the body is prepared with the frame as its parameters, so a run
//! looks nothing up by name. The SQL statements' routes tell whether the whole procedure stays in the partition of one
//! of its arguments.
//!
//! What differs from PostgreSQL on purpose: a record variable has the fields of the textually latest statement that
//! filled it, known when the procedure is compiled, and a field keeps one type throughout. Left out until asked for:
//! EXECUTE, cursors, arrays, FOREACH, transaction control.

mod ast;
mod code;
mod compile;
mod conditions;
mod lexer;
mod parse;
mod run;
mod scope;

use std::sync::Arc;

use super::catalog::{Catalog, FunctionDef, Procedure};
use crate::error::Result;

/// Compiles the body of `def` against `catalog`. Positions of syntax errors count characters of the body.
pub fn compile(catalog: &Arc<Catalog>, def: &FunctionDef) -> Result<Arc<dyn Procedure>> {
    let block = parse::parse(&def.body)?;
    Ok(Arc::new(compile::compile(catalog, def, &block)?))
}

#[cfg(test)]
mod tests;
