//! Which slots a statement touches.

use super::expr::Expr;
use crate::error::{Error, Result};
use crate::partition::Slot;
use crate::sql::prepare::Route;
use crate::sql::{Value, codec};

/// How one table access or routine call finds its partition.
#[derive(Debug, Clone)]
pub enum Site {
    /// By the value of an expression over constants and parameters: a partition key.
    Key(Expr),
    /// By one of several values.
    AnyOf(Vec<Expr>),
    /// By one of the elements of an array.
    Elements(Expr),
    /// Not known before it runs.
    Unknown,
}

/// How a statement finds its partition.
#[derive(Debug, Clone)]
pub enum Routing {
    /// No table is touched.
    Nothing,
    Sites(Vec<Site>),
}

impl Routing {
    pub fn from_sites(sites: Vec<Site>) -> Self {
        if sites.is_empty() {
            Self::Nothing
        } else {
            Self::Sites(sites)
        }
    }

    /// The one parameter every access is keyed by, if that is how it routes: what makes a procedure single-partition.
    pub fn single_param(&self) -> Option<usize> {
        let Self::Sites(sites) = self else {
            return None;
        };
        let mut found = None;
        for site in sites {
            let Site::Key(Expr::Param(param)) = site else {
                return None;
            };
            if found.is_some_and(|f| f != *param) {
                return None;
            }
            found = Some(*param);
        }
        found
    }

    /// The slots touched under `params`.
    pub fn route(&self, params: &[Value], writes: bool) -> Result<Route> {
        let Self::Sites(sites) = self else {
            return Ok(Route::Anywhere);
        };
        let everywhere = if writes {
            Route::AllWrite
        } else {
            Route::AllRead
        };
        let mut slots: Vec<Slot> = Vec::new();
        for site in sites {
            match site {
                Site::Key(expr) => add(expr, params, &mut slots)?,
                Site::Elements(array) => add(array, params, &mut slots)?,
                Site::AnyOf(list) => list.iter().try_for_each(|e| add(e, params, &mut slots))?,
                Site::Unknown => return Ok(everywhere),
            }
        }
        slots.sort_unstable();
        slots.dedup();
        Ok(match slots.len() {
            0 => Route::Slot(0),
            1 => Route::Slot(slots[0]),
            _ => Route::Slots(slots),
        })
    }
}

/// A null key matches no row: it asks for no slot.
fn add(expr: &Expr, params: &[Value], slots: &mut Vec<Slot>) -> Result<()> {
    let value = match expr {
        Expr::Param(i) => params
            .get(*i)
            .ok_or_else(|| Error::new("08P01", "a parameter has no value"))?,
        Expr::Const(value) => value,
        other => &super::super::exec::eval_pure(other, params)?,
    };
    match value {
        Value::Null => {}
        // No column is an array: these are its elements.
        Value::Array { items, .. } => {
            slots.extend(items.iter().filter(|i| !i.is_null()).map(codec::slot))
        }
        value => slots.push(codec::slot(value)),
    }
    Ok(())
}
