//! EXPLAIN: access paths, join methods and partitions, one a line.

use super::catalog::Table;
use super::plan::{
    Access, Each, Expr, Insert, InsertSource, JoinKind, Plan, Query, QueryBody, RangeAccess,
    Routing, SetKind, Site, Source, Step,
};
use super::prepare::Prepared;

/// The plan as text.
pub fn lines(prepared: &Prepared) -> Vec<String> {
    let mut out = Vec::new();
    match &prepared.plan {
        Plan::Query(query) | Plan::Do(query) => explain_query(query, 0, &mut out),
        Plan::Insert(insert) => explain_insert(insert, &mut out),
        Plan::Update(update) => {
            line(
                &mut out,
                0,
                format!("Update on {}", update.rules.table.name),
            );
            explain_steps(&update.steps, 1, &mut out);
        }
        Plan::Delete(delete) => {
            line(
                &mut out,
                0,
                format!("Delete on {}", delete.rules.table.name),
            );
            explain_steps(&delete.steps, 1, &mut out);
        }
        Plan::Explain(_) | Plan::Nothing => {}
    }
    out.push(format!("Partitions: {}", partitions(prepared)));
    out
}

fn line(out: &mut Vec<String>, depth: usize, text: String) {
    out.push(format!("{}{text}", "  ".repeat(depth)));
}

fn partitions(prepared: &Prepared) -> String {
    let sites = match &prepared.routing {
        Routing::Nothing if prepared.writes => return "any one".to_string(),
        Routing::Nothing => return "none".to_string(),
        Routing::Sites(sites) => sites,
    };
    let mut keys: Vec<String> = Vec::new();
    for site in sites {
        let mut add = |e: &Expr| {
            let text = expr_text(e);
            if !keys.contains(&text) {
                keys.push(text);
            }
        };
        match site {
            Site::Key(e) => add(e),
            Site::AnyOf(list) => list.iter().for_each(add),
            Site::Elements(array) => return format!("those of the keys in {}", expr_text(array)),
            Site::Unknown => return "all".to_string(),
        }
    }
    match keys.as_slice() {
        [only] => format!("one, of key {only}"),
        several => format!("those of keys {}", several.join(", ")),
    }
}

fn explain_insert(insert: &Insert, out: &mut Vec<String>) {
    line(out, 0, format!("Insert on {}", insert.rules.table.name));
    match &insert.source {
        InsertSource::Values(rows) => line(out, 1, format!("Values: {} row(s)", rows.len())),
        InsertSource::Query { query, .. } => explain_query(query, 1, out),
    }
}

fn explain_query(query: &Query, depth: usize, out: &mut Vec<String>) {
    let mut depth = depth;
    let mut above = |text: &str, out: &mut Vec<String>| {
        line(out, depth, text.to_string());
        depth += 1;
    };
    if query.limit.is_some() || query.offset.is_some() {
        above("Limit", out);
    }
    if !query.sort.is_empty() {
        above("Sort", out);
    }
    if query.distinct || !query.distinct_on.is_empty() {
        above("Unique", out);
    }
    match &query.body {
        QueryBody::Values(rows) => line(out, depth, format!("Values: {} row(s)", rows.len())),
        QueryBody::SetOperation {
            left,
            right,
            kind,
            all,
        } => {
            line(out, depth, set_name(*kind, *all));
            explain_query(left, depth + 1, out);
            explain_query(right, depth + 1, out);
        }
        QueryBody::Recursive(recursive) => {
            line(out, depth, "Recursive Union".to_string());
            explain_query(&recursive.base, depth + 1, out);
            explain_query(&recursive.step, depth + 1, out);
        }
        QueryBody::Select {
            steps,
            grouping,
            windows,
            ..
        } => {
            if !windows.is_empty() {
                above("WindowAgg", out);
            }
            if let Some(grouping) = grouping {
                above(
                    if grouping.keys.is_empty() {
                        "Aggregate"
                    } else {
                        "HashAggregate"
                    },
                    out,
                );
            }
            if steps.is_empty() {
                line(out, depth, "Result".to_string());
            }
            explain_steps(steps, depth, out);
        }
    }
    query.expressions(&mut |e| {
        e.walk(&mut |e| {
            if let Expr::Subquery { query, .. } = e {
                line(out, depth, "SubPlan".to_string());
                explain_query(query, depth + 1, out);
            }
        });
    });
}

fn set_name(kind: SetKind, all: bool) -> String {
    let name = match kind {
        SetKind::Union => "Union",
        SetKind::Except => "Except",
        SetKind::Intersect => "Intersect",
    };
    format!("{name}{}", if all { " All" } else { "" })
}

fn explain_steps(steps: &[Step], depth: usize, out: &mut Vec<String>) {
    for (i, step) in steps.iter().enumerate() {
        let join = match (i, step.kind, step.hash.is_some()) {
            (0, ..) => "",
            (_, JoinKind::Inner, false) => "Nested Loop: ",
            (_, JoinKind::Inner, true) => "Hash Join: ",
            (_, JoinKind::Left, false) => "Nested Loop Left Join: ",
            (_, JoinKind::Left, true) => "Hash Left Join: ",
            (_, JoinKind::Right, false) => "Nested Loop Right Join: ",
            (_, JoinKind::Right, true) => "Hash Right Join: ",
            (_, JoinKind::Full, false) => "Nested Loop Full Join: ",
            (_, JoinKind::Full, true) => "Hash Full Join: ",
        };
        let indent = depth + i;
        match &step.source {
            Source::Table {
                table,
                alias,
                access,
                ..
            } => {
                line(
                    out,
                    indent,
                    format!("{join}{}", access_text(table, alias, access)),
                );
                conditions(table, step, access, indent + 1, out);
            }
            Source::System { table } => line(
                out,
                indent,
                format!("{join}System Scan on {}.{}", table.schema, table.name),
            ),
            Source::Working { name, .. } => {
                line(out, indent, format!("{join}WorkTable Scan on {name}"));
            }
            Source::Query(query) => {
                line(out, indent, format!("{join}Subquery Scan"));
                explain_query(query, indent + 1, out);
            }
            Source::Series(_) => line(
                out,
                indent,
                format!("{join}Function Scan on generate_series"),
            ),
            Source::Unnest(_) => line(out, indent, format!("{join}Function Scan on unnest")),
            Source::Routine { call, .. } => line(
                out,
                indent,
                format!("{join}Function Scan on {}", expr_text(call)),
            ),
        }
        if step.on.is_some() || step.after.is_some() {
            line(out, indent + 1, "Filter".to_string());
        }
    }
}

fn access_text(table: &Table, alias: &str, access: &Access) -> String {
    let shown = if alias == table.name {
        table.name.clone()
    } else {
        format!("{} {alias}", table.name)
    };
    match access {
        Access::Point { .. } => format!("Point Get on {shown} using {}", table.primary_key_name),
        Access::Nothing => format!("Nothing from {shown}"),
        Access::Range(range) => {
            let bounded = !range.equal.is_empty() || range.lower.is_some() || range.upper.is_some();
            let backward = if range.reverse { " Backward" } else { "" };
            match range.index {
                Some(i) => format!(
                    "Index Scan{backward} on {shown} using {}",
                    table.indexes[i].name
                ),
                None if bounded => format!(
                    "Index Scan{backward} on {shown} using {}",
                    table.primary_key_name
                ),
                None => format!("Full Scan{backward} on {shown}"),
            }
        }
    }
}

fn conditions(table: &Table, step: &Step, access: &Access, depth: usize, out: &mut Vec<String>) {
    let mut parts = Vec::new();
    let name = |column: usize| table.columns[column].name.as_str();
    match access {
        Access::Point { key } => {
            for (column, part) in table.primary_key.iter().zip(key) {
                parts.push(equality(name(*column), &part.expr, step));
            }
        }
        Access::Range(range) => range_parts(table, step, range, &mut parts),
        Access::Nothing => {}
    }
    if !parts.is_empty() {
        line(out, depth, format!("Index Cond: {}", parts.join(" AND ")));
    }
}

/// `column = value`, or the list that the step goes through.
fn equality(name: &str, value: &Expr, step: &Step) -> String {
    match (value, &step.each) {
        (Expr::Column(place), Some(Each::List(list))) if *place == step.offset => {
            let shown: Vec<String> = list.iter().map(expr_text).collect();
            format!("{name} IN ({})", shown.join(", "))
        }
        (Expr::Column(place), Some(Each::Elements(array))) if *place == step.offset => {
            format!("{name} = ANY ({})", expr_text(array))
        }
        _ => format!("{name} = {}", expr_text(value)),
    }
}

fn range_parts(table: &Table, step: &Step, range: &RangeAccess, parts: &mut Vec<String>) {
    let columns: Vec<usize> = match range.index {
        Some(i) => {
            let own = table.indexes[i].columns.iter().map(|c| c.column);
            own.chain(table.primary_key.iter().copied()).collect()
        }
        None => table.primary_key.clone(),
    };
    let name = |i: usize| {
        columns
            .get(i)
            .map_or("?", |c| table.columns[*c].name.as_str())
    };
    for (i, part) in range.equal.iter().enumerate() {
        parts.push(equality(name(i), &part.expr, step));
    }
    let next = name(range.equal.len());
    if let Some(bound) = &range.lower {
        let op = if bound.inclusive { ">=" } else { ">" };
        parts.push(format!("{next} {op} {}", expr_text(&bound.part.expr)));
    }
    if let Some(bound) = &range.upper {
        let op = if bound.inclusive { "<=" } else { "<" };
        parts.push(format!("{next} {op} {}", expr_text(&bound.part.expr)));
    }
}

fn expr_text(e: &Expr) -> String {
    match e {
        Expr::Const(value) => {
            super::text::to_text(value).map_or_else(|| "NULL".to_string(), |t| t.to_string())
        }
        Expr::Param(i) => format!("${}", i + 1),
        Expr::Cast { expr, .. } => expr_text(expr),
        Expr::Array { items, .. } => {
            let items: Vec<String> = items.iter().map(expr_text).collect();
            format!("[{}]", items.join(", "))
        }
        Expr::Routine(call) => call.def.name.clone(),
        Expr::Column(_) | Expr::Outer { .. } => "(column)".to_string(),
        _ => "(expression)".to_string(),
    }
}
