//! WITH: its queries, each bound anew where it is used, and those that refer to themselves.
//!
//! A query of WITH RECURSIVE sees those before it and itself; not those after it.

use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use super::query::{cast_columns, plain};
use super::{Binder, ident};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plan::{JoinKind, Query, QueryBody, Recursive, Source, Step};

/// A name that FROM can use beside the tables.
pub struct Cte {
    pub name: String,
    pub of: CteOf,
}

pub enum CteOf {
    Query {
        cte: Box<ast::Cte>,
        recursive: bool,
        /// Place of the first query of the same WITH.
        first: usize,
    },
    /// A query that a WITH RECURSIVE names and that is not to be used: with the error of its use.
    Hidden(Box<Error>),
    /// The query that is being bound, inside of itself: the rows of its last round.
    Working {
        id: usize,
        columns: Vec<(String, DataType)>,
        uses: usize,
    },
}

fn refused(name: &str, why: &str) -> Error {
    let message = format!("recursive reference to query \"{name}\" must not appear {why}");
    Error::new("42P19", message)
}

impl Binder<'_> {
    pub(super) fn with(&mut self, query: &ast::Query) -> Result<()> {
        let Some(with) = &query.with else {
            return Ok(());
        };
        let first = self.ctes.len();
        for cte in &with.cte_tables {
            if !matches!(
                cte.query.body.as_ref(),
                SetExpr::Select(_)
                    | SetExpr::Values(_)
                    | SetExpr::Query(_)
                    | SetExpr::SetOperation { .. }
            ) {
                return Err(Error::unsupported("a statement that writes inside of WITH"));
            }
            self.ctes.push(Cte {
                name: ident(&cte.alias.name),
                of: CteOf::Query {
                    cte: Box::new(cte.clone()),
                    recursive: with.recursive,
                    first,
                },
            });
        }
        Ok(())
    }

    /// While the first of `hidden` is bound: names of the same WITH RECURSIVE, itself and those after it, are no tables.
    pub(super) fn hide(&mut self, hidden: &[Cte]) {
        let Some(CteOf::Query {
            recursive: true,
            first,
            ..
        }) = hidden.first().map(|cte| &cte.of)
        else {
            return;
        };
        let same = |cte: &&Cte| matches!(&cte.of, CteOf::Query { first: f, .. } if f == first);
        for (place, cte) in hidden.iter().take_while(same).enumerate() {
            let error = match place {
                0 => refused(&cte.name, "within its non-recursive term"),
                _ => Error::unsupported("a query of WITH RECURSIVE that is used before it"),
            };
            self.ctes.push(Cte {
                name: cte.name.clone(),
                of: CteOf::Hidden(Box::new(error)),
            });
        }
    }

    /// The query of a WITH; those after it are hidden.
    pub(super) fn with_query(&mut self, cte: &ast::Cte, recursive: bool) -> Result<Query> {
        let SetExpr::SetOperation {
            left,
            op: SetOperator::Union,
            set_quantifier,
            right,
        } = cte.query.body.as_ref()
        else {
            return self.query(&cte.query);
        };
        if !recursive {
            return self.query(&cte.query);
        }
        let all = match set_quantifier {
            SetQuantifier::All => true,
            SetQuantifier::None | SetQuantifier::Distinct => false,
            other => return Err(Error::unsupported(format!("UNION {other}"))),
        };
        self.enter()?;
        let ctes = self.ctes.len();
        let bound = self.with(&cte.query);
        let bound = bound.and_then(|()| self.recursive(cte, left, right, all));
        self.ctes.truncate(ctes);
        self.depth -= 1;
        match bound? {
            Some(query) => Ok(query),
            None => self.query(&cte.query),
        }
    }

    /// None if the query does not refer to itself.
    fn recursive(
        &mut self,
        cte: &ast::Cte,
        left: &SetExpr,
        right: &SetExpr,
        all: bool,
    ) -> Result<Option<Query>> {
        let name = ident(&cte.alias.name);
        let base = self.set_side(left)?;
        let mut columns: Vec<(String, DataType)> = base
            .columns
            .iter()
            .map(|c| (c.name.clone(), c.data_type))
            .collect();
        for (column, given) in columns.iter_mut().zip(&cte.alias.columns) {
            column.0 = ident(&given.name);
        }
        let id = self.next_working;
        self.next_working += 1;
        let place = self.ctes.len();
        self.ctes.push(Cte {
            name: name.clone(),
            of: CteOf::Working {
                id,
                columns,
                uses: 0,
            },
        });
        let step = self.set_side(right)?;
        let uses = match &self.ctes[place].of {
            CteOf::Working { uses, .. } => *uses,
            CteOf::Query { .. } | CteOf::Hidden(_) => 0,
        };
        if uses == 0 {
            return Ok(None);
        }
        check_form(&cte.query, &step)?;
        check_uses(&name, &step, id, uses)?;
        let step = same_types(&name, &base, step)?;
        let columns = base.columns.clone();
        let body = QueryBody::Recursive(Box::new(Recursive {
            id,
            name,
            base,
            step,
            all,
        }));
        Ok(Some(plain(body, columns)))
    }
}

fn check_form(query: &ast::Query, step: &Query) -> Result<()> {
    let unsupported = |what: &str| {
        let message = format!("{what} in a recursive query is not implemented");
        Err(Error::new("0A000", message))
    };
    if query.order_by.is_some() {
        return unsupported("ORDER BY");
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return unsupported("LIMIT");
    }
    if !step.locks.is_empty() || !query.locks.is_empty() {
        return unsupported("FOR UPDATE/SHARE");
    }
    if let QueryBody::Select {
        grouping: Some(grouping),
        ..
    } = &step.body
        && !grouping.calls.is_empty()
    {
        let message = "aggregate functions are not allowed in a recursive query's recursive term";
        return Err(Error::new("42P19", message));
    }
    Ok(())
}

/// The query refers to itself once, in FROM, where no outer join makes NULLs of it.
fn check_uses(name: &str, step: &Query, id: usize, uses: usize) -> Result<()> {
    let mut outer = false;
    let in_from = in_from(step, id, &mut outer);
    if uses > 1 {
        return Err(refused(name, "more than once"));
    }
    if in_from == 0 {
        return Err(refused(name, "within a subquery"));
    }
    if outer {
        return Err(refused(name, "within an outer join"));
    }
    Ok(())
}

fn in_from(query: &Query, id: usize, outer: &mut bool) -> usize {
    match &query.body {
        QueryBody::Select { steps, .. } => {
            let mut found = 0;
            for (i, step) in steps.iter().enumerate() {
                let here = in_step(step, id, outer);
                let nulled =
                    step.kind.keeps_left() || steps[i..].iter().any(|s| s.kind.keeps_right());
                *outer |= here > 0 && nulled && step.kind != JoinKind::Right;
                found += here;
            }
            found
        }
        QueryBody::SetOperation { left, right, .. } => {
            in_from(left, id, outer) + in_from(right, id, outer)
        }
        QueryBody::Recursive(inner) => {
            in_from(&inner.base, id, outer) + in_from(&inner.step, id, outer)
        }
        QueryBody::Values(_) => 0,
    }
}

fn in_step(step: &Step, id: usize, outer: &mut bool) -> usize {
    match &step.source {
        Source::Working { id: own, .. } => usize::from(*own == id),
        Source::Query(query) => in_from(query, id, outer),
        _ => 0,
    }
}

/// The recursive term with the other's types; 42804 if they are not those of both together.
fn same_types(name: &str, base: &Query, step: Query) -> Result<Query> {
    if base.columns.len() != step.columns.len() {
        let message = "each UNION query must have the same number of columns";
        return Err(Error::new("42601", message));
    }
    let mut types = Vec::with_capacity(base.columns.len());
    for (i, (own, other)) in base.columns.iter().zip(&step.columns).enumerate() {
        let pair = [own.data_type, other.data_type];
        let common = crate::sql::cast::common_type(&pair, "UNION")?;
        if common != own.data_type && !(common.is_string() && own.data_type.is_string()) {
            let message = format!(
                "recursive query \"{name}\" column {} has type {} in non-recursive term but type {} overall",
                i + 1,
                own.data_type,
                common
            );
            return Err(Error::new("42804", message)
                .hint("Cast the output of the non-recursive term to the correct type."));
        }
        types.push(own.data_type);
    }
    Ok(cast_columns(step, &types))
}
