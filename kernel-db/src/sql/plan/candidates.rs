//! Conditions that a key can serve: `column = value`, bounds, and lists of values.

use super::expr::{CompareOp, Expr, InList};
use super::query::{Each, JoinKind, Step};

/// An equality or range condition on one own column of a step.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) column: usize,
    pub(super) op: CompareOp,
    pub(super) value: Expr,
    /// Position among the step's conditions; none if it only follows from others.
    pub(super) condition: Option<usize>,
    /// `value` is each of these, one after another.
    pub(super) each: Option<Each>,
}

impl Candidate {
    /// Whether its value comes from columns of other tables.
    pub(super) fn reads_columns(&self) -> bool {
        match &self.each {
            None => self.value.max_column().is_some(),
            Some(each) => {
                let mut reads = false;
                each.expressions(&mut |e| reads |= e.max_column().is_some());
                reads
            }
        }
    }
}

/// The column of `column IN (...)` or `column = ANY (array)`, and the values.
pub(super) fn list_condition(condition: &Expr) -> Option<(usize, Each)> {
    let (side, each) = match condition {
        Expr::In(list) if !list.negated => (&list.expr, Each::List(list.list.clone())),
        Expr::Any(any) if any.op == CompareOp::Eq && !any.all => {
            (&any.expr, Each::Elements(any.array.clone()))
        }
        _ => return None,
    };
    match side {
        Expr::Column(c) => Some((*c, each)),
        // Integers of other widths are fitted to the column's when the key is made.
        Expr::Cast {
            expr,
            keeps_slot: true,
            ..
        } => match expr.as_ref() {
            Expr::Column(c) => Some((*c, each)),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn candidates(
    step: &Step,
    conditions: &[Expr],
    known: &[(usize, Expr)],
) -> Vec<Candidate> {
    let own = step.offset..step.offset + step.width;
    let mut found = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        if let Some((place, each)) = list_condition(condition).filter(|(c, _)| own.contains(c)) {
            let mut fine = true;
            each.expressions(&mut |e| fine &= reads_prefix_only(e, step.offset));
            if fine {
                found.push(Candidate {
                    column: place - step.offset,
                    op: CompareOp::Eq,
                    value: Expr::Column(step.offset),
                    condition: Some(i),
                    each: Some(each),
                });
            }
        }
        let Expr::Compare { op, left, right } = condition else {
            continue;
        };
        for (side, other, op) in [(left, right, *op), (right, left, op.flip())] {
            if let Expr::Column(c) = side.as_ref()
                && own.contains(c)
                && op != CompareOp::Ne
                && reads_prefix_only(other, step.offset)
            {
                found.push(Candidate {
                    column: c - step.offset,
                    op,
                    value: other.as_ref().clone(),
                    condition: Some(i),
                    each: None,
                });
            }
        }
    }
    if step.kind == JoinKind::Inner {
        for (place, value) in known.iter().filter(|(c, _)| own.contains(c)) {
            let column = place - step.offset;
            if !found
                .iter()
                .any(|f| f.column == column && f.op == CompareOp::Eq && f.each.is_none())
            {
                found.push(Candidate {
                    column,
                    op: CompareOp::Eq,
                    value: value.clone(),
                    condition: None,
                    each: None,
                });
            }
        }
    }
    // A constant beats a column of another table: it makes the partition known.
    found.sort_by_key(|c| (c.reads_columns(), c.each.is_some()));
    found
}

fn reads_prefix_only(expr: &Expr, offset: usize) -> bool {
    let mut fine = expr.max_column().is_none_or(|c| c < offset);
    expr.walk(&mut |e| {
        fine &= !matches!(
            e,
            Expr::Subquery { .. }
                | Expr::Routine(_)
                | Expr::NextVal(_)
                | Expr::CurrVal(_)
                | Expr::Aggregate(_)
                | Expr::Window(_)
        );
        if let Expr::Function { function, .. } = e {
            fine &= function.volatility != crate::sql::functions::Volatility::Volatile;
        }
    });
    fine
}

/// `a = 1 OR a = 2` is `a IN (1, 2)`.
pub(super) fn equalities_as_list(condition: Expr) -> Expr {
    let Expr::Or(list) = &condition else {
        return condition;
    };
    let equal = |e: &Expr| match e {
        Expr::Compare {
            op: CompareOp::Eq,
            left,
            right,
        } => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(c), value) | (value, Expr::Column(c)) if from_outside(value) => {
                Some((*c, value.clone()))
            }
            _ => None,
        },
        _ => None,
    };
    let found: Option<Vec<(usize, Expr)>> = list.iter().map(equal).collect();
    match found {
        Some(found) if found.iter().all(|(c, _)| *c == found[0].0) => Expr::In(Box::new(InList {
            expr: Expr::Column(found[0].0),
            list: found.into_iter().map(|(_, v)| v).collect(),
            negated: false,
        })),
        _ => condition,
    }
}

/// Does not depend on this level's row, and is cheap and free of effects.
pub(super) fn from_outside(expr: &Expr) -> bool {
    matches!(expr, Expr::Outer { .. }) || expr.is_pure()
}
