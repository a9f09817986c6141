//! Choice of access paths and join methods.
//!
//! Conditions go to the first step at which everything they read is there. A table is then reached by the key with the
//! longest prefix of known columns; next count a range on the column after it, and an order that makes a sort needless
//! (the other way round under LIMIT, which then stops early). A later table that no key reaches is hashed.

use std::sync::Arc;

use super::access::{Access, Bound, KeyPart, RangeAccess};
use super::candidates::{Candidate, candidates, equalities_as_list, from_outside, list_condition};
use super::expr::{CompareOp, Expr};
use super::query::{Each, HashKeys, JoinKind, SiteKeys, Source, Step};
use crate::sql::DataType;
use crate::sql::catalog::{IndexState, Table};

/// What the planner found out about a FROM.
#[derive(Debug, Default)]
pub struct Planned {
    /// Conditions that read no row of this level.
    pub filter: Option<Expr>,
    /// Places equal to an expression that does not depend on this level's rows.
    pub known: Vec<(usize, Expr)>,
    /// Rows come in the wanted order.
    pub sorted: bool,
}

/// A wanted order: (place, descending), with PostgreSQL's default place of nulls.
pub type Order = Vec<(usize, bool)>;

/// Plans `steps` under the conjuncts of WHERE and of inner joins. `types` are those of the whole row.
pub fn plan(
    steps: &mut [Step],
    conditions: Vec<Expr>,
    order: Option<&Order>,
    limited: bool,
    types: &[DataType],
) -> Planned {
    let conditions: Vec<Expr> = conditions.into_iter().map(equalities_as_list).collect();
    let mut planned = Planned {
        known: known_places(steps, &conditions, types),
        ..Planned::default()
    };
    for i in 0..steps.len() {
        for condition in std::mem::take(&mut steps[i].early) {
            give_place(&mut steps[..i], condition);
        }
    }
    let (with_row, without_row): (Vec<Expr>, Vec<Expr>) = conditions
        .into_iter()
        .partition(|c| c.max_column().is_some());
    for condition in with_row {
        give_place(steps, condition);
    }
    planned.filter = Expr::all(without_row);
    // Rows of a right join without a match come last, whatever the order of the others.
    let order = order.filter(|_| !steps.iter().any(|s| s.kind.keeps_right()));
    let mut prefix = Before::Empty;
    for (i, step) in steps.iter_mut().enumerate() {
        let wanted = if i == 0 { order } else { None };
        let sorted = plan_step(step, prefix, &planned.known, wanted, limited, types);
        if i == 0 {
            planned.sorted = sorted;
        }
        // Under LIMIT a nested loop may stop early, which a hashed table cannot.
        let wide = matches!(step.source, Source::Table { .. }) && step.site.is_none() && !limited;
        prefix = if wide || prefix == Before::Wide {
            Before::Wide
        } else {
            Before::Narrow
        };
    }
    planned
}

/// Puts a condition where everything it reads is there, and behind every join that makes those columns null.
fn give_place(steps: &mut [Step], condition: Expr) {
    let place = condition.max_column().unwrap_or(0);
    let there = steps.iter().position(|s| place < s.offset + s.width);
    let outer = steps.iter().rposition(|s| s.kind.keeps_right());
    let last = steps.len() - 1;
    let at = there.unwrap_or(last).max(outer.unwrap_or(0));
    let step = &mut steps[at];
    let target = match step.kind {
        JoinKind::Inner => &mut step.on,
        _ => &mut step.after,
    };
    let mut list = target.take().map(Expr::conjuncts).unwrap_or_default();
    list.push(condition);
    *target = Expr::all(list);
}

/// Places bound by equality to something from outside of the row, through chains of equal columns.
fn known_places(steps: &[Step], conditions: &[Expr], types: &[DataType]) -> Vec<(usize, Expr)> {
    let left_places = |c: usize| {
        steps.iter().any(|s| {
            let own = (s.offset..s.offset + s.width).contains(&c);
            s.kind.keeps_left() && own || s.kind.keeps_right() && c < s.offset
        })
    };
    let mut known: Vec<(usize, Expr)> = Vec::new();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for condition in conditions {
        let Expr::Compare {
            op: CompareOp::Eq,
            left,
            right,
        } = condition
        else {
            continue;
        };
        match (left.as_ref(), right.as_ref()) {
            (Expr::Column(a), Expr::Column(b)) if compatible(types[*a], types[*b]) => {
                pairs.push((*a, *b))
            }
            (Expr::Column(a), other) | (other, Expr::Column(a)) if from_outside(other) => {
                known.push((*a, other.clone()))
            }
            _ => {}
        }
    }
    known.retain(|(c, _)| !left_places(*c));
    pairs.retain(|(a, b)| !left_places(*a) && !left_places(*b));
    loop {
        let before = known.len();
        for (a, b) in &pairs {
            for (from, to) in [(a, b), (b, a)] {
                if !known.iter().any(|(c, _)| c == to)
                    && let Some((_, value)) = known.iter().find(|(c, _)| c == from)
                {
                    known.push((*to, value.clone()));
                }
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

/// Equal values of the two types have equal slots and compare without a cast.
fn compatible(a: DataType, b: DataType) -> bool {
    a == b || (a.is_int() && b.is_int()) || (a.is_string() && b.is_string())
}

/// The steps before one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Empty,
    /// Every table is read at known partition keys.
    Narrow,
    /// A table is read in every partition: a look-up for each of its rows would be a call to another node each.
    Wide,
}

fn plan_step(
    step: &mut Step,
    prefix: Before,
    known: &[(usize, Expr)],
    order: Option<&Order>,
    limited: bool,
    types: &[DataType],
) -> bool {
    let mut conditions = step.on.take().map(Expr::conjuncts).unwrap_or_default();
    let found = candidates(step, &conditions, known);
    let mut sorted = order.is_some_and(Vec::is_empty);
    let mut used = Vec::new();
    if step.kind.keeps_right() {
        // All its rows are wanted: conditions decide only what matches.
        step.hash = hash_keys(&found, step.offset, types);
        step.keep = step.hash.is_none();
        step.on = Expr::all(conditions);
        return sorted;
    }
    if let Source::Table { table, access, .. } = &mut step.source {
        let table = Arc::clone(table);
        let hashed = prefix == Before::Wide && hash_keys(&found, step.offset, types).is_some();
        let usable: Vec<Candidate> = match hashed {
            true => found
                .iter()
                .filter(|c| !c.reads_columns())
                .cloned()
                .collect(),
            false => found.clone(),
        };
        step.site = site(&table, step.offset, &found, &conditions, known);
        let everywhere = step.site.is_none();
        let best = best_path(
            &table,
            step.offset,
            &usable,
            order,
            limited,
            everywhere,
            types,
        );
        sorted = sorted || best.sorted;
        used.clone_from(&best.used);
        *access = best.access;
        step.each = best.each;
    }
    if prefix != Before::Empty && !depends_on_prefix(step) {
        step.hash = hash_keys(&found, step.offset, types);
        step.keep = step.hash.is_none();
    }
    used.sort_unstable();
    for i in used.into_iter().rev() {
        conditions.remove(i);
    }
    step.on = Expr::all(conditions);
    sorted
}

/// Own columns that equal columns of earlier steps, without a cast.
fn hash_keys(found: &[Candidate], offset: usize, types: &[DataType]) -> Option<HashKeys> {
    let equal = found.iter().filter(|c| {
        let (Expr::Column(probe), None) = (&c.value, &c.each) else {
            return false;
        };
        c.op == CompareOp::Eq && types[*probe] == types[offset + c.column]
    });
    let (own, probe): (Vec<usize>, Vec<Expr>) = equal.map(|c| (c.column, c.value.clone())).unzip();
    (!own.is_empty()).then_some(HashKeys { own, probe })
}

fn depends_on_prefix(step: &Step) -> bool {
    let mut depends = false;
    // The place of the list's value is not one of the prefix.
    let own = step.each.as_ref().map(|_| step.offset);
    let mut check = |e: &Expr| {
        e.columns(&mut |c| depends |= Some(c) != own);
    };
    step.each
        .iter()
        .for_each(|each| each.expressions(&mut check));
    match &step.source {
        Source::Table { access, .. } => access.expressions(&mut check),
        Source::Series(args) => args.iter().for_each(check),
        Source::Routine { call, .. } | Source::Unnest(call) => check(call),
        Source::Query(query) => query.outer_columns(1, &mut |_| depends = true),
        Source::System { .. } | Source::Working { .. } => {}
    }
    depends
}

/// Possible partition keys of the rows this step reads.
fn site(
    table: &Table,
    offset: usize,
    found: &[Candidate],
    conditions: &[Expr],
    known: &[(usize, Expr)],
) -> Option<SiteKeys> {
    let column = table.partition_column()?;
    let resolve = |e: &Expr| match e {
        Expr::Column(c) => known.iter().find(|(k, _)| k == c).map(|(_, v)| v.clone()),
        other if from_outside(other) => Some(other.clone()),
        _ => None,
    };
    let equal = found
        .iter()
        .filter(|c| c.column == column && c.op == CompareOp::Eq && c.each.is_none());
    if let Some(value) = equal.filter_map(|c| resolve(&c.value)).next() {
        return Some(SiteKeys::AnyOf(vec![value]));
    }
    let lists = conditions.iter().filter_map(list_condition);
    lists
        .filter(|(place, _)| *place == offset + column)
        .find_map(|(_, each)| match each {
            Each::List(list) => {
                let keys: Option<Vec<Expr>> = list.iter().map(resolve).collect();
                keys.map(SiteKeys::AnyOf)
            }
            Each::Elements(array) => resolve(&array).map(SiteKeys::Elements),
        })
}

struct Path {
    access: Access,
    /// Conditions that the access path itself keeps.
    used: Vec<usize>,
    each: Option<Each>,
    sorted: bool,
    score: (usize, bool, bool),
}

fn best_path(
    table: &Table,
    offset: usize,
    found: &[Candidate],
    order: Option<&Order>,
    limited: bool,
    everywhere: bool,
    types: &[DataType],
) -> Path {
    let own_types = &types[offset..];
    let primary: Vec<(usize, bool)> = table.primary_key.iter().map(|c| (*c, false)).collect();
    let mut best = path(
        table, None, &primary, offset, found, order, limited, own_types,
    );
    for (i, index) in table.indexes.iter().enumerate() {
        // The entries of a global index are in other partitions than the rows.
        if index.state != IndexState::Ready || (table.is_global(index) && !everywhere) {
            continue;
        }
        // Rows of one index key follow in primary key order: its columns are part of the key.
        let mut columns: Vec<(usize, bool)> =
            index.columns.iter().map(|c| (c.column, c.desc)).collect();
        columns.extend(table.primary_key.iter().map(|c| (*c, false)));
        let other = path(
            table,
            Some(i),
            &columns,
            offset,
            found,
            order,
            limited,
            own_types,
        );
        let pointed = matches!(best.access, Access::Point { .. });
        if !pointed && other.score > best.score {
            best = other;
        }
    }
    best
}

#[expect(
    clippy::too_many_arguments,
    reason = "one key's view of the planner's findings"
)]
fn path(
    table: &Table,
    index: Option<usize>,
    columns: &[(usize, bool)],
    offset: usize,
    found: &[Candidate],
    order: Option<&Order>,
    limited: bool,
    types: &[DataType],
) -> Path {
    let Prefix {
        equal,
        equal_columns,
        slot_from,
        each,
        mut used,
    } = equal_prefix(table, columns, found, types);
    let indexed = index.map_or(columns.len(), |i| table.indexes[i].columns.len());
    if index.is_none() && equal.len() == columns.len() && !columns.is_empty() {
        return Path {
            access: Access::Point { key: equal },
            used,
            sorted: each.is_none(),
            each,
            score: (usize::MAX, true, true),
        };
    }
    // Rows of one value after another's are in no index's order.
    let order = order.filter(|_| each.is_none());
    let (sorted, reverse) = order.map_or((false, false), |o| {
        delivers(columns, &equal_columns, offset, o)
    });
    let mut range = RangeAccess {
        index,
        equal,
        reverse,
        slot_from,
        stops_early: limited,
        ..RangeAccess::full()
    };
    let ranged = add_bounds(&mut range, columns, found, types, &mut used);
    let length = range.equal.len();
    // An index that neither narrows nor sorts is worse than the table itself.
    let useful = index.is_none() || length > 0 || ranged || sorted;
    let score = match (useful, limited) {
        (false, _) => (0, false, false),
        (true, true) => (length.min(indexed), sorted, ranged),
        (true, false) => (length.min(indexed), ranged, sorted),
    };
    Path {
        access: Access::Range(range),
        used,
        each,
        sorted,
        score,
    }
}

/// Equalities on a key's first columns.
struct Prefix {
    equal: Vec<KeyPart>,
    equal_columns: Vec<usize>,
    slot_from: Option<usize>,
    each: Option<Each>,
    /// Conditions that the prefix keeps.
    used: Vec<usize>,
}

fn equal_prefix(
    table: &Table,
    columns: &[(usize, bool)],
    found: &[Candidate],
    types: &[DataType],
) -> Prefix {
    let mut prefix = Prefix {
        equal: Vec::new(),
        equal_columns: Vec::new(),
        slot_from: None,
        each: None,
        used: Vec::new(),
    };
    for (column, desc) in columns {
        let taken = prefix.each.is_some();
        let fits = |c: &&Candidate| {
            c.column == *column && c.op == CompareOp::Eq && (c.each.is_none() || !taken)
        };
        let candidate = found
            .iter()
            .find(fits)
            .filter(|_| !prefix.equal_columns.contains(column));
        let Some(candidate) = candidate else { break };
        if table.partition_column() == Some(*column) {
            prefix.slot_from = Some(prefix.equal.len());
        }
        prefix.used.extend(candidate.condition);
        if let Some(each) = &candidate.each {
            prefix.each = Some(each.clone());
        }
        prefix.equal_columns.push(*column);
        prefix.equal.push(KeyPart {
            expr: candidate.value.clone(),
            to: types[*column],
            desc: *desc,
        });
    }
    prefix
}

/// Bounds on the first column that has no equality. Only for values of the column's own type: the key is bytes.
fn add_bounds(
    range: &mut RangeAccess,
    columns: &[(usize, bool)],
    found: &[Candidate],
    types: &[DataType],
    used: &mut Vec<usize>,
) -> bool {
    let Some((column, desc)) = columns.get(range.equal.len()) else {
        return false;
    };
    let mut ranged = false;
    for candidate in found.iter().filter(|c| c.column == *column) {
        let part = KeyPart {
            expr: candidate.value.clone(),
            to: types[*column],
            desc: *desc,
        };
        let (target, inclusive) = match candidate.op {
            CompareOp::Gt => (&mut range.lower, false),
            CompareOp::Ge => (&mut range.lower, true),
            CompareOp::Lt => (&mut range.upper, false),
            CompareOp::Le => (&mut range.upper, true),
            CompareOp::Eq | CompareOp::Ne => continue,
        };
        if target.is_none() {
            *target = Some(Bound { part, inclusive });
            used.extend(candidate.condition);
            ranged = true;
        }
    }
    ranged
}

/// Whether walking the key gives `order`, and whether backwards. Columns bound by equality do not matter.
fn delivers(
    columns: &[(usize, bool)],
    equal: &[usize],
    offset: usize,
    order: &Order,
) -> (bool, bool) {
    let mut reverse = None;
    let mut rest = columns.iter().filter(|(c, _)| !equal.contains(c));
    for (place, desc) in order {
        let Some(own) = place.checked_sub(offset) else {
            return (false, false);
        };
        if equal.contains(&own) {
            continue;
        }
        match rest.next() {
            Some((column, key_desc)) if *column == own => {
                let against = key_desc != desc;
                if *reverse.get_or_insert(against) != against {
                    return (false, false);
                }
            }
            _ => return (false, false),
        }
    }
    (true, reverse.unwrap_or(false))
}
