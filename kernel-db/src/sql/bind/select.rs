//! Queries: SELECT, VALUES, set operations, ORDER BY and LIMIT.

use sqlparser::ast::{self, SelectItem, SetExpr, SetOperator, SetQuantifier};

use super::coerce::cast_expr;
use super::group::regroup;
use super::scope::Scope;
use super::{Aggregates, Binder, Typed, call, ident, object_name};
use crate::error::{Error, Result};
use crate::sql::cast::{self, CastContext};
use crate::sql::plan::choose::{self, Order};
use crate::sql::plan::{Expr, Grouping, Query, QueryBody, SetKind, SortKey};
use crate::sql::prepare::Column;
use crate::sql::{DataType, Value};

/// Columns of one result.
pub const COLUMNS_MAX: usize = 1_664;

/// A select list before grouping and sorting.
struct Selected {
    project: Vec<Expr>,
    columns: Vec<Column>,
}

impl Binder<'_> {
    pub(super) fn query(&mut self, query: &ast::Query) -> Result<Query> {
        self.enter()?;
        let ctes = self.ctes.len();
        let bound = self.with(query).and_then(|()| self.query_body(query));
        self.ctes.truncate(ctes);
        self.depth -= 1;
        bound
    }

    fn with(&mut self, query: &ast::Query) -> Result<()> {
        let Some(with) = &query.with else { return Ok(()) };
        if with.recursive {
            return Err(Error::unsupported("WITH RECURSIVE"));
        }
        for cte in &with.cte_tables {
            if !matches!(cte.query.body.as_ref(), SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Query(_) | SetExpr::SetOperation { .. }) {
                return Err(Error::unsupported("a statement that writes inside of WITH"));
            }
            self.ctes.push((ident(&cte.alias.name), cte.clone()));
        }
        Ok(())
    }

    fn query_body(&mut self, query: &ast::Query) -> Result<Query> {
        if query.fetch.as_ref().is_some_and(|f| f.with_ties || f.percent) {
            return Err(Error::unsupported("FETCH WITH TIES"));
        }
        let order: &[ast::OrderByExpr] = match query.order_by.as_ref().map(|o| &o.kind) {
            None => &[],
            Some(ast::OrderByKind::Expressions(list)) => list,
            Some(ast::OrderByKind::All(_)) => return Err(Error::unsupported("ORDER BY ALL")),
        };
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        let mut bound = match query.body.as_ref() {
            SetExpr::Select(select) => self.select(select, order, limited)?,
            SetExpr::Query(inner) => {
                let inner = self.query(inner)?;
                if order.is_empty() && !limited {
                    return Ok(inner);
                }
                if !inner.sort.is_empty() || inner.limit.is_some() || inner.offset.is_some() {
                    return Err(Error::unsupported("ORDER BY or LIMIT around a query that has its own"));
                }
                self.sort_output(inner, order)?
            }
            SetExpr::Values(values) => {
                let made = self.values(&values.rows)?;
                self.sort_output(made, order)?
            }
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let made = self.set_operation(left, *op, *set_quantifier, right)?;
                self.sort_output(made, order)?
            }
            SetExpr::Table(table) => {
                let name = table.table_name.as_deref().unwrap_or_default();
                return Err(Error::unsupported(format!("TABLE {name}")).hint(format!("write SELECT * FROM {name}")));
            }
            other => return Err(Error::unsupported(format!("{other} as a query"))),
        };
        self.limits(query, &mut bound)?;
        Ok(bound)
    }

    fn limits(&mut self, query: &ast::Query, bound: &mut Query) -> Result<()> {
        let (limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_ref(), offset.as_ref().map(|o| &o.value))
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(Error::new("42601", "LIMIT #,# syntax is not supported").hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let fetch = query.fetch.as_ref();
        let one = fetch.filter(|f| f.quantity.is_none()).map(|_| Expr::Const(Value::Int8(1)));
        let limit = limit.or_else(|| fetch.and_then(|f| f.quantity.as_ref()));
        self.scopes.push(Scope::default());
        let made = self.limit(limit, "LIMIT").and_then(|l| Ok((l, self.limit(offset, "OFFSET")?)));
        self.scopes.pop();
        let (limit, offset) = made?;
        bound.limit = limit.or(one);
        bound.offset = offset;
        Ok(())
    }

    fn limit(&mut self, e: Option<&ast::Expr>, what: &str) -> Result<Option<Expr>> {
        let Some(e) = e else { return Ok(None) };
        let bound = self.expr(e)?;
        let from = bound.data_type;
        match self.coerce(bound, DataType::Int8, CastContext::Assignment)? {
            Some(expr) => Ok(Some(expr)),
            None => Err(Error::new("42804", format!("argument of {what} must be type bigint, not type {from}"))),
        }
    }

    fn values(&mut self, rows: &[ast::Parens<Vec<ast::Expr>>]) -> Result<Query> {
        self.scopes.push(Scope::default());
        let made = self.values_in_scope(rows);
        self.scopes.pop();
        made
    }

    fn values_in_scope(&mut self, rows: &[ast::Parens<Vec<ast::Expr>>]) -> Result<Query> {
        let width = rows.first().map_or(0, |r| r.len());
        let mut by_column: Vec<Vec<Typed>> = (0..width).map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            if row.len() != width {
                return Err(Error::new("42601", "VALUES lists must all be the same length"));
            }
            for (column, e) in by_column.iter_mut().zip(row.iter()) {
                column.push(self.expr(e)?);
            }
        }
        let mut out: Vec<Vec<Expr>> = (0..rows.len()).map(|_| Vec::with_capacity(width)).collect();
        let mut columns = Vec::with_capacity(width);
        for (i, column) in by_column.into_iter().enumerate() {
            let (exprs, data_type) = self.unify(column, "VALUES")?;
            for (row, expr) in out.iter_mut().zip(exprs) {
                row.push(expr);
            }
            columns.push(Column { name: format!("column{}", i + 1), data_type });
        }
        Ok(plain(QueryBody::Values(out), columns))
    }

    fn set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<Query> {
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::None | SetQuantifier::Distinct => false,
            _ => return Err(Error::unsupported(format!("{op} {quantifier}"))),
        };
        let kind = match op {
            SetOperator::Union => SetKind::Union,
            SetOperator::Except | SetOperator::Minus => SetKind::Except,
            SetOperator::Intersect => SetKind::Intersect,
        };
        let left = self.set_side(left)?;
        let right = self.set_side(right)?;
        if left.columns.len() != right.columns.len() {
            return Err(Error::new("42601", format!("each {op} query must have the same number of columns")));
        }
        let mut types = Vec::with_capacity(left.columns.len());
        for (l, r) in left.columns.iter().zip(&right.columns) {
            types.push(cast::common_type(&[l.data_type, r.data_type], &op.to_string())?);
        }
        let left = cast_columns(left, &types);
        let right = cast_columns(right, &types);
        let columns = left.columns.clone();
        let body = QueryBody::SetOperation { left: Box::new(left), right: Box::new(right), kind, all };
        Ok(plain(body, columns))
    }

    fn set_side(&mut self, side: &SetExpr) -> Result<Query> {
        self.enter()?;
        let made = match side {
            SetExpr::Select(select) => self.select(select, &[], false),
            SetExpr::Values(values) => self.values(&values.rows),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.set_operation(left, *op, *set_quantifier, right)
            }
            other => Err(Error::unsupported(format!("{other} as a query"))),
        };
        self.depth -= 1;
        made
    }

    /// ORDER BY over a result's own columns: names and positions only.
    fn sort_output(&mut self, mut query: Query, order: &[ast::OrderByExpr]) -> Result<Query> {
        for key in order {
            let position = match &key.expr {
                ast::Expr::Identifier(id) => {
                    let name = ident(id);
                    query.columns.iter().position(|c| c.name == name).ok_or_else(|| {
                        self.at(Error::new("42703", format!("column \"{name}\" does not exist")), id.span)
                    })?
                }
                other => match ordinal(other, query.columns.len())? {
                    Some(position) => position,
                    None => {
                        return Err(Error::unsupported("ORDER BY an expression over a set operation or VALUES")
                            .hint("Add the expression to every SELECT, or move the UNION into a FROM clause."));
                    }
                },
            };
            query.sort.push(sort_key(position, &key.options));
        }
        Ok(query)
    }

    fn select(&mut self, select: &ast::Select, order: &[ast::OrderByExpr], limited: bool) -> Result<Query> {
        if select.into.is_some() {
            return Err(Error::unsupported("SELECT INTO").hint("use INSERT INTO ... SELECT"));
        }
        if select.qualify.is_some() || !select.named_window.is_empty() {
            return Err(Error::unsupported("window functions"));
        }
        self.scopes.push(Scope::default());
        self.aggregates.push(Aggregates::default());
        let bound = self.select_in_scope(select, order, limited);
        self.scopes.pop();
        self.aggregates.pop();
        bound
    }

    fn forbid(&mut self, place: Option<&'static str>) {
        if let Some(level) = self.aggregates.last_mut() {
            level.forbidden = place;
        }
    }

    fn select_in_scope(&mut self, select: &ast::Select, order: &[ast::OrderByExpr], limited: bool) -> Result<Query> {
        self.forbid(Some("FROM"));
        let set_call = self.lone_set_call(select);
        let mut from = match &set_call {
            Some(call) => self.from(std::slice::from_ref(call))?,
            None => self.from(&select.from)?,
        };
        self.forbid(Some("WHERE"));
        if let Some(selection) = &select.selection {
            let bound = self.expr(selection)?;
            from.conditions.extend(self.condition(bound, "WHERE")?.conjuncts());
        }
        self.forbid(None);
        let mut selected = match &set_call {
            Some(_) => self.wildcard(None)?,
            None => self.select_list(&select.projection)?,
        };
        self.forbid(Some("GROUP BY"));
        let mut keys = self.group_keys(select, &selected)?;
        self.forbid(None);
        let having = match &select.having {
            Some(having) => {
                let bound = self.expr(having)?;
                Some(self.condition(bound, "HAVING")?)
            }
            None => None,
        };
        let distinct = match &select.distinct {
            None | Some(ast::Distinct::All) => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(_)) => return Err(Error::unsupported("DISTINCT ON")),
        };
        let mut sort = self.sort_keys(order, &mut selected, distinct)?;
        let calls = std::mem::take(&mut self.aggregates.last_mut().ok_or_else(|| Error::internal("no query level"))?.calls);
        let grouped = !keys.is_empty() || !calls.is_empty() || having.is_some();
        let Selected { mut project, columns } = selected;
        let wanted = if grouped { None } else { wanted_order(&sort, &project) };
        let types: Vec<DataType> =
            self.scope()?.tables.iter().flat_map(|t| t.columns.iter().map(|(_, d)| *d)).collect();
        let limited = limited && !grouped;
        let mut planned = choose::plan(&mut from.steps, from.conditions, wanted.as_ref(), limited, &types);
        if planned.sorted && wanted.is_some() {
            sort.clear();
        }
        let grouping = if grouped {
            let mut having = having;
            let dependent = self.dependent_columns(&from.steps, &keys)?;
            let all = project.iter_mut().chain(having.iter_mut());
            let had_subquery = regroup(all, &mut keys, &dependent, |place| self.column_name(place))?;
            if had_subquery {
                planned.known.clear();
            }
            Some(Grouping { keys, calls, having })
        } else {
            None
        };
        let body = QueryBody::Select { steps: from.steps, filter: planned.filter, grouping, project, known: planned.known };
        Ok(Query { body, columns, distinct, sort, limit: None, offset: None })
    }

    /// `SELECT f(...)` alone, of a function that returns rows: read as `SELECT * FROM f(...)`.
    fn lone_set_call(&self, select: &ast::Select) -> Option<ast::TableWithJoins> {
        let ([SelectItem::UnnamedExpr(ast::Expr::Function(call))], true) =
            (select.projection.as_slice(), select.from.is_empty())
        else {
            return None;
        };
        let (_, name) = object_name(&call.name).ok()?;
        let returns_set = self.catalog.functions_named(&name).iter().any(|f| f.returns.set && f.returns.columns.is_empty());
        if name != "generate_series" && !returns_set {
            return None;
        }
        let ast::FunctionArguments::List(list) = &call.args else { return None };
        Some(ast::TableWithJoins {
            relation: ast::TableFactor::Function {
                lateral: false,
                name: call.name.clone(),
                args: list.args.clone(),
                with_ordinality: false,
                alias: None,
            },
            joins: Vec::new(),
        })
    }

    fn column_name(&self, place: usize) -> String {
        let tables = self.scopes.last().map_or(&[][..], |s| s.tables.as_slice());
        let found = tables.iter().find(|t| (t.offset..t.offset + t.columns.len()).contains(&place));
        found.map_or_else(String::new, |t| format!("{}.{}", t.alias, t.columns[place - t.offset].0))
    }

    fn select_list(&mut self, items: &[SelectItem]) -> Result<Selected> {
        let mut selected = Selected { project: Vec::new(), columns: Vec::new() };
        for item in items {
            match item {
                SelectItem::Wildcard(_) => {
                    if self.scope()?.tables.is_empty() {
                        return Err(Error::new("42601", "SELECT * with no tables specified is not valid"));
                    }
                    selected.append(self.wildcard(None)?);
                }
                SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let (_, table) = object_name(name)?;
                    selected.append(self.wildcard(Some(&table))?);
                }
                SelectItem::UnnamedExpr(e) => {
                    let bound = self.expr(e)?;
                    self.add_column(&mut selected, bound, column_name(e))?;
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let bound = self.expr(expr)?;
                    self.add_column(&mut selected, bound, ident(alias))?;
                }
                other => return Err(Error::unsupported(format!("select item {other}"))),
            }
        }
        if selected.columns.len() > COLUMNS_MAX {
            return Err(Error::new("54011", format!("target lists can have at most {COLUMNS_MAX} entries")));
        }
        Ok(selected)
    }

    fn add_column(&mut self, selected: &mut Selected, bound: Typed, name: String) -> Result<()> {
        let bound = self.settle(bound)?;
        selected.project.push(bound.expr);
        selected.columns.push(Column { name, data_type: bound.data_type });
        Ok(())
    }

    /// RETURNING: like a select list over the current scope.
    pub(super) fn returning(&mut self, items: &[SelectItem]) -> Result<(Vec<Expr>, Vec<Column>)> {
        let selected = self.select_list(items)?;
        Ok((selected.project, selected.columns))
    }

    fn wildcard(&mut self, table: Option<&str>) -> Result<Selected> {
        let scope = self.scope()?;
        let mut selected = Selected { project: Vec::new(), columns: Vec::new() };
        let mut met = false;
        for t in scope.tables.iter().filter(|t| table.is_none_or(|name| t.alias == name)) {
            met = true;
            for (i, (name, data_type)) in t.columns[..t.visible].iter().enumerate() {
                let place = t.offset + i;
                if table.is_none() && scope.merged.contains(&place) {
                    continue;
                }
                selected.project.push(Expr::Column(place));
                selected.columns.push(Column { name: name.clone(), data_type: *data_type });
            }
        }
        match table {
            Some(name) if !met => Err(Error::new("42P01", format!("missing FROM-clause entry for table \"{name}\""))),
            _ => Ok(selected),
        }
    }

    fn group_keys(&mut self, select: &ast::Select, selected: &Selected) -> Result<Vec<Expr>> {
        let list = match &select.group_by {
            ast::GroupByExpr::Expressions(list, modifiers) if modifiers.is_empty() => list,
            _ => return Err(Error::unsupported("this form of GROUP BY")),
        };
        let mut keys = Vec::with_capacity(list.len());
        for e in list {
            if let Some(position) = ordinal(e, selected.columns.len()).map_err(|_| {
                Error::new("42P10", format!("GROUP BY position {e} is not in select list"))
            })? {
                keys.push(selected.project[position].clone());
                continue;
            }
            if let ast::Expr::Identifier(id) = e {
                let name = ident(id);
                let is_column = self.scope()?.tables.iter().any(|t| t.columns.iter().any(|(n, _)| *n == name));
                let alias = selected.columns.iter().position(|c| c.name == name);
                if let (false, Some(position)) = (is_column, alias) {
                    keys.push(selected.project[position].clone());
                    continue;
                }
            }
            let bound = self.expr(e)?;
            keys.push(self.settle(bound)?.expr);
        }
        for key in &keys {
            let mut aggregate = false;
            key.walk(&mut |e| aggregate |= matches!(e, Expr::Aggregate(_)));
            if aggregate {
                return Err(Error::new("42803", "aggregate functions are not allowed in GROUP BY"));
            }
        }
        Ok(keys)
    }

    /// Sort keys as places of the projected row; expressions that are not selected become hidden columns.
    fn sort_keys(&mut self, order: &[ast::OrderByExpr], selected: &mut Selected, distinct: bool) -> Result<Vec<SortKey>> {
        let mut sort = Vec::with_capacity(order.len());
        for key in order {
            let position = match self.sort_position(&key.expr, selected)? {
                Some(position) => position,
                None => {
                    let bound = self.expr(&key.expr)?;
                    let expr = self.settle(bound)?.expr;
                    let shown = format!("{expr:?}");
                    match selected.project.iter().position(|p| format!("{p:?}") == shown) {
                        Some(position) => position,
                        None if distinct => {
                            return Err(Error::new(
                                "42P10",
                                "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                            ));
                        }
                        None => {
                            selected.project.push(expr);
                            selected.project.len() - 1
                        }
                    }
                }
            };
            sort.push(sort_key(position, &key.options));
        }
        Ok(sort)
    }

    /// A position or the name of an output column.
    fn sort_position(&mut self, e: &ast::Expr, selected: &Selected) -> Result<Option<usize>> {
        if let ast::Expr::Identifier(id) = e {
            let name = ident(id);
            let mut matching = selected.columns.iter().enumerate().filter(|(_, c)| c.name == name);
            let first = matching.next().map(|(i, _)| i);
            if let (Some(first), Some((second, _))) = (first, matching.next())
                && format!("{:?}", selected.project[first]) != format!("{:?}", selected.project[second])
            {
                return Err(self.at(Error::new("42702", format!("ORDER BY \"{name}\" is ambiguous")), id.span));
            }
            return Ok(first);
        }
        ordinal(e, selected.columns.len())
    }
}

impl Selected {
    fn append(&mut self, other: Selected) {
        self.project.extend(other.project);
        self.columns.extend(other.columns);
    }
}

fn plain(body: QueryBody, columns: Vec<Column>) -> Query {
    Query { body, columns, distinct: false, sort: Vec::new(), limit: None, offset: None }
}

/// `ORDER BY 2`: the place of a column, from 0.
fn ordinal(e: &ast::Expr, columns: usize) -> Result<Option<usize>> {
    let ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(digits, _), .. }) = e else {
        return Ok(None);
    };
    match digits.parse::<usize>() {
        Ok(n) if (1..=columns).contains(&n) => Ok(Some(n - 1)),
        _ => Err(Error::new("42P10", format!("ORDER BY position {digits} is not in select list"))),
    }
}

fn sort_key(column: usize, options: &ast::OrderByOptions) -> SortKey {
    let desc = options.asc == Some(false);
    SortKey { column, desc, nulls_first: options.nulls_first.unwrap_or(desc) }
}

/// The order as places of the row, if an index could give it. None if there is no ORDER BY.
fn wanted_order(sort: &[SortKey], project: &[Expr]) -> Option<Order> {
    if sort.is_empty() {
        return None;
    }
    let place = |key: &SortKey| match project[key.column] {
        Expr::Column(place) if key.nulls_first == key.desc => Some((place, key.desc)),
        _ => None,
    };
    sort.iter().map(place).collect()
}

/// The name PostgreSQL gives a column without alias.
fn column_name(e: &ast::Expr) -> String {
    named(e).map_or_else(|| "?column?".to_string(), |(name, _)| name)
}

/// A name and whether it is a strong one, which a cast or CASE around it keeps.
fn named(e: &ast::Expr) -> Option<(String, bool)> {
    use ast::Expr as E;
    let strong = |name: &str| Some((name.to_string(), true));
    let type_name = |t: &ast::DataType| DataType::from_sql(t).ok().map(|(t, _)| (t.internal_name().to_string(), false));
    match e {
        E::Identifier(id) => Some((ident(id), true)),
        E::CompoundIdentifier(parts) => parts.last().map(|id| (ident(id), true)),
        E::Function(call) => Some((call::call_name(call), true)),
        E::Nested(inner) => named(inner),
        E::Cast { expr, data_type, .. } => named(expr).filter(|(_, strong)| *strong).or_else(|| type_name(data_type)),
        E::TypedString(typed) => type_name(&typed.data_type),
        E::Interval(_) => Some(("interval".to_string(), false)),
        E::Case { else_result, .. } => {
            let inner = else_result.as_deref().and_then(named).filter(|(_, strong)| *strong);
            inner.or_else(|| Some(("case".to_string(), false)))
        }
        E::Exists { .. } => strong("exists"),
        E::Extract { .. } => strong("extract"),
        E::Ceil { .. } => strong("ceil"),
        E::Floor { .. } => strong("floor"),
        E::Position { .. } => strong("position"),
        E::Substring { shorthand: true, .. } => strong("substr"),
        E::Substring { .. } => strong("substring"),
        E::Trim { trim_where: Some(ast::TrimWhereField::Leading), .. } => strong("ltrim"),
        E::Trim { trim_where: Some(ast::TrimWhereField::Trailing), .. } => strong("rtrim"),
        E::Trim { .. } => strong("btrim"),
        E::Tuple(_) => strong("row"),
        E::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(e)] => named(e),
                [SelectItem::ExprWithAlias { alias, .. }] => Some((ident(alias), true)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Casts the only column of a query.
pub fn cast_output(query: Query, to: DataType) -> Query {
    cast_columns(query, &[to])
}

/// Casts a query's columns where their types differ.
pub fn cast_columns(mut query: Query, types: &[DataType]) -> Query {
    if query.columns.iter().map(|c| c.data_type).eq(types.iter().copied()) {
        return query;
    }
    let cast = |expr: &mut Expr, from: DataType, to: DataType| {
        if from != to && !(from.is_string() && to.is_string()) {
            let inner = std::mem::replace(expr, Expr::TRUE);
            // A constant that does not fit fails when it is evaluated, like any other value.
            *expr = cast_expr(inner.clone(), to, true, None).unwrap_or(Expr::Cast {
                expr: Box::new(inner),
                to,
                explicit: true,
                max_len: None,
                keeps_slot: false,
            });
        }
    };
    let from: Vec<DataType> = query.columns.iter().map(|c| c.data_type).collect();
    match &mut query.body {
        QueryBody::Select { project, .. } => {
            for (i, to) in types.iter().enumerate() {
                cast(&mut project[i], from[i], *to);
            }
        }
        QueryBody::Values(rows) => {
            for row in rows {
                for (i, to) in types.iter().enumerate() {
                    cast(&mut row[i], from[i], *to);
                }
            }
        }
        QueryBody::SetOperation { left, right, .. } => {
            for side in [left, right] {
                let empty = plain(QueryBody::Values(Vec::new()), Vec::new());
                let taken = std::mem::replace(side.as_mut(), empty);
                **side = cast_columns(taken, types);
            }
        }
    }
    for (column, to) in query.columns.iter_mut().zip(types) {
        column.data_type = *to;
    }
    query
}
