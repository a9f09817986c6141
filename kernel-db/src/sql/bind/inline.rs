//! A function in LANGUAGE sql that is one expression is put in the place of its call, as in PostgreSQL: what it computes can
//! then be part of an access path and tell the partition, and costs no call.

use std::sync::Arc;

use super::Typed;
use crate::sql::catalog::{Catalog, FunctionDef};
use crate::sql::plan::Expr;

/// Most nodes of what comes of it: functions of functions would double with each level, and nest without end.
const NODES_MAX: usize = 128;

/// The body of `def` over these arguments, already cast; none if it has to be called. A strict function has, because its body
/// need not be; and an argument that is more than a name stands in the body exactly once, so that it is neither computed
/// twice nor forgotten.
pub(super) fn inlined(def: &FunctionDef, catalog: &Arc<Catalog>, args: &[Expr]) -> Option<Typed> {
    if def.strict || def.compiling() {
        return None;
    }
    // A body that does not compile says so when it is called.
    let (body, data_type) = def.compiled(catalog).ok()?.expression()?;
    let (mut uses, mut nodes) = (vec![0; args.len()], 0);
    body.walk(&mut |e| {
        nodes += 1;
        if let Expr::Param(i) = e {
            uses[*i] += 1;
        }
    });
    args.iter().for_each(|arg| arg.walk(&mut |_| nodes += 1));
    if nodes > NODES_MAX {
        return None;
    }
    let fine = |(arg, uses): (&Expr, &usize)| *uses == 1 || is_plain(arg);
    if !args.iter().zip(&uses).all(fine) {
        return None;
    }
    let mut expr = body.clone();
    replace(&mut expr, args);
    Some(Typed::new(expr, *data_type))
}

fn is_plain(arg: &Expr) -> bool {
    match arg {
        Expr::Const(_) | Expr::Param(_) | Expr::Column(_) | Expr::Outer { .. } => true,
        Expr::Cast {
            expr,
            keeps_slot: true,
            ..
        } => is_plain(expr),
        _ => false,
    }
}

fn replace(expr: &mut Expr, args: &[Expr]) {
    match expr {
        Expr::Param(i) => *expr = args[*i].clone(),
        _ => expr.children_mut(&mut |e| replace(e, args)),
    }
}
