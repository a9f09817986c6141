//! SELECT: its list, grouping and ordering.

use sqlparser::ast::{self, SelectItem};

use super::from::From;
use super::group::regroup;
use super::named_windows::NamedWindows;
use super::names::column_name;
use super::scope::Scope;
use super::{Aggregates, Binder, Typed, ident, object_name};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plan::choose::{self, Order};
use crate::sql::plan::{Expr, Grouping, Query, QueryBody, SortKey, Step, SubqueryKind, WindowCall};
use crate::sql::prepare::Column;

/// Columns of one result.
pub const COLUMNS_MAX: usize = 1_664;

/// A select list before grouping and sorting.
struct Selected {
    project: Vec<Expr>,
    columns: Vec<Column>,
}

/// A bound SELECT before its access paths are chosen.
struct Bound {
    from: From,
    selected: Selected,
    keys: Vec<Expr>,
    having: Option<Expr>,
    distinct: bool,
    distinct_on: Vec<usize>,
    sort: Vec<SortKey>,
}

impl Binder<'_> {
    pub(super) fn select(
        &mut self,
        select: &ast::Select,
        order: &[ast::OrderByExpr],
        limited: bool,
    ) -> Result<Query> {
        if select.into.is_some() {
            return Err(Error::unsupported("SELECT INTO").hint("use INSERT INTO ... SELECT"));
        }
        if select.qualify.is_some() {
            return Err(Error::unsupported("QUALIFY").hint("put the SELECT into FROM"));
        }
        // Of this SELECT, and of none that it holds.
        let types = std::mem::take(&mut self.target_types);
        self.scopes.push(Scope::default());
        self.aggregates.push(Aggregates {
            named_windows: NamedWindows::new(&select.named_window),
            ..Aggregates::default()
        });
        let bound = self.select_in_scope(select, order, limited, &types);
        self.scopes.pop();
        self.aggregates.pop();
        bound
    }

    /// With the name of a place where no aggregates are allowed, or none; gives the one before.
    pub(super) fn forbid(&mut self, place: Option<&'static str>) -> Option<&'static str> {
        let level = self.aggregates.last_mut()?;
        std::mem::replace(&mut level.forbidden, place)
    }

    fn select_in_scope(
        &mut self,
        select: &ast::Select,
        order: &[ast::OrderByExpr],
        limited: bool,
        types: &[DataType],
    ) -> Result<Query> {
        self.forbid(Some("FROM"));
        let set_call = self.lone_set_call(select);
        let mut from = match &set_call {
            Some(call) => self.from(std::slice::from_ref(call))?,
            None => self.from(&select.from)?,
        };
        self.forbid(Some("WHERE"));
        if let Some(selection) = &select.selection {
            let bound = self.expr(selection)?;
            from.conditions
                .extend(self.condition(bound, "WHERE")?.conjuncts());
        }
        self.forbid(None);
        let mut selected = match &set_call {
            Some(_) => self.wildcard(None)?,
            None => self.select_list(&select.projection, types)?,
        };
        self.forbid(Some("GROUP BY"));
        let keys = self.group_keys(select, &selected)?;
        self.forbid(None);
        self.forbid_windows(Some("window functions are not allowed in HAVING"));
        let having = match &select.having {
            Some(having) => {
                let bound = self.expr(having)?;
                Some(self.condition(bound, "HAVING")?)
            }
            None => None,
        };
        self.forbid_windows(None);
        let distinct = matches!(select.distinct, Some(ast::Distinct::Distinct));
        let sort = self.sort_keys(order, &mut selected, distinct)?;
        let distinct_on = match &select.distinct {
            Some(ast::Distinct::On(list)) => self.distinct_on(list, &mut selected, &sort)?,
            _ => Vec::new(),
        };
        self.window_definitions()?;
        let bound = Bound {
            from,
            selected,
            keys,
            having,
            distinct,
            distinct_on,
            sort,
        };
        self.plan_select(bound, limited)
    }

    /// Types of the whole row of FROM.
    pub(super) fn row_types(&mut self) -> Result<Vec<DataType>> {
        let columns = self.scope()?.tables.iter().flat_map(|t| &t.columns);
        Ok(columns.map(|(_, data_type)| *data_type).collect())
    }

    /// Chooses access paths, then rewrites what stands above a grouping.
    fn plan_select(&mut self, bound: Bound, limited: bool) -> Result<Query> {
        let Bound {
            mut from,
            selected,
            keys,
            having,
            distinct,
            distinct_on,
            mut sort,
        } = bound;
        let level = self.aggregates.last_mut();
        let level = level.ok_or_else(|| Error::internal("no query level"))?;
        let calls = std::mem::take(&mut level.calls);
        let mut windows = std::mem::take(&mut level.windows);
        let grouped = !keys.is_empty() || !calls.is_empty() || having.is_some();
        let Selected {
            mut project,
            columns,
        } = selected;
        let plain = !grouped && windows.is_empty();
        let wanted = wanted_order(&sort, &project).filter(|_| plain);
        let types = self.row_types()?;
        let limited = limited && plain;
        let planned = choose::plan(
            &mut from.steps,
            from.conditions,
            wanted.as_ref(),
            limited,
            &types,
        );
        if planned.sorted && wanted.is_some() {
            sort.clear();
        }
        let mut width = types.len();
        let mut grouping = None;
        if grouped {
            let mut made = Grouping {
                keys,
                calls,
                having,
            };
            self.regroup(&from.steps, &mut made, &mut project, &mut windows)?;
            width = made.keys.len() + made.calls.len();
            grouping = Some(made);
        }
        for expr in &mut project {
            window_places(expr, width);
        }
        let body = QueryBody::Select {
            steps: from.steps,
            filter: planned.filter,
            grouping,
            windows,
            project,
            known: planned.known,
        };
        Ok(Query {
            body,
            columns,
            distinct,
            distinct_on,
            sort,
            limit: None,
            offset: None,
            locks: Vec::new(),
        })
    }

    /// What stands above the grouping sees the group's row.
    fn regroup(
        &mut self,
        steps: &[Step],
        grouping: &mut Grouping,
        project: &mut [Expr],
        windows: &mut [WindowCall],
    ) -> Result<()> {
        let dependent = self.dependent_columns(steps, &grouping.keys)?;
        let level = self.aggregates.last_mut();
        let mut defined = level.map_or_else(Vec::new, |l| std::mem::take(&mut l.defined));
        let having = grouping.having.iter_mut();
        let mut all: Vec<&mut Expr> = project.iter_mut().chain(having).collect();
        all.extend(&mut defined);
        for window in windows {
            window.row_expressions(&mut |e| all.push(e));
        }
        let name = |place| self.column_name(place);
        regroup(all, &mut grouping.keys, &dependent, name)
    }

    /// `SELECT f(...)` alone, of a function that returns rows: read as `SELECT * FROM f(...)`.
    fn lone_set_call(&self, select: &ast::Select) -> Option<ast::TableWithJoins> {
        let ([SelectItem::UnnamedExpr(ast::Expr::Function(call))], true) =
            (select.projection.as_slice(), select.from.is_empty())
        else {
            return None;
        };
        let (_, name) = object_name(&call.name).ok()?;
        let returns_set = self
            .catalog
            .functions_named(&name)
            .iter()
            .any(|f| f.returns.set && f.returns.columns.is_empty());
        if name != "generate_series" && name != "unnest" && !returns_set {
            return None;
        }
        let ast::FunctionArguments::List(list) = &call.args else {
            return None;
        };
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
        let found = tables
            .iter()
            .find(|t| (t.offset..t.offset + t.columns.len()).contains(&place));
        found.map_or_else(String::new, |t| {
            format!("{}.{}", t.alias, t.columns[place - t.offset].0)
        })
    }

    /// `types`: what unknown literals and parameters become, by their place.
    fn select_list(&mut self, items: &[SelectItem], types: &[DataType]) -> Result<Selected> {
        let mut selected = Selected {
            project: Vec::new(),
            columns: Vec::new(),
        };
        for item in items {
            match item {
                SelectItem::Wildcard(_) => {
                    if self.scope()?.tables.is_empty() {
                        return Err(Error::new(
                            "42601",
                            "SELECT * with no tables specified is not valid",
                        ));
                    }
                    selected.append(self.wildcard(None)?);
                }
                SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    let (_, table) = object_name(name)?;
                    selected.append(self.wildcard(Some(&table))?);
                }
                SelectItem::UnnamedExpr(e) => {
                    let bound = match self.shown_name(e)? {
                        Some(name) => name,
                        None => self.expr(e)?,
                    };
                    self.add_column(&mut selected, bound, column_name(e), types)?;
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let bound = self.expr(expr)?;
                    self.add_column(&mut selected, bound, ident(alias), types)?;
                }
                other => return Err(Error::unsupported(format!("select item {other}"))),
            }
        }
        if selected.columns.len() > COLUMNS_MAX {
            return Err(Error::new(
                "54011",
                format!("target lists can have at most {COLUMNS_MAX} entries"),
            ));
        }
        Ok(selected)
    }

    fn add_column(
        &mut self,
        selected: &mut Selected,
        bound: Typed,
        name: String,
        types: &[DataType],
    ) -> Result<()> {
        let bound = match types.get(selected.columns.len()) {
            Some(to) if bound.data_type == DataType::Unknown => {
                Typed::new(self.adopt(bound.expr, *to)?, *to)
            }
            _ => self.settle(bound)?,
        };
        selected.project.push(bound.expr);
        selected.columns.push(Column {
            name,
            data_type: bound.data_type,
        });
        Ok(())
    }

    /// RETURNING: like a select list over the current scope.
    pub(super) fn returning(&mut self, items: &[SelectItem]) -> Result<(Vec<Expr>, Vec<Column>)> {
        let selected = self.select_list(items, &[])?;
        Ok((selected.project, selected.columns))
    }

    fn wildcard(&mut self, table: Option<&str>) -> Result<Selected> {
        let scope = self.scope()?;
        let mut selected = Selected {
            project: Vec::new(),
            columns: Vec::new(),
        };
        let mut met = false;
        for t in scope
            .tables
            .iter()
            .filter(|t| table.is_none_or(|name| t.alias == name))
        {
            met = true;
            for (i, (name, data_type)) in t.columns[..t.visible].iter().enumerate() {
                let place = t.offset + i;
                if table.is_none() && scope.merged.contains(&place) {
                    continue;
                }
                selected.project.push(Expr::Column(place));
                selected.columns.push(Column {
                    name: name.clone(),
                    data_type: *data_type,
                });
            }
        }
        match table {
            Some(name) if !met => Err(Error::new(
                "42P01",
                format!("missing FROM-clause entry for table \"{name}\""),
            )),
            Some(name) => self.check_is_no_record(name).map(|()| selected),
            None => Ok(selected),
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
                Error::new(
                    "42P10",
                    format!("GROUP BY position {e} is not in select list"),
                )
            })? {
                keys.push(selected.project[position].clone());
                continue;
            }
            if let ast::Expr::Identifier(id) = e {
                let name = ident(id);
                let is_column = self
                    .scope()?
                    .tables
                    .iter()
                    .any(|t| t.columns.iter().any(|(n, _)| *n == name));
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
            let (mut aggregate, mut window) = (false, false);
            key.walk(&mut |e| {
                aggregate |= matches!(e, Expr::Aggregate(_));
                window |= matches!(e, Expr::Window(_));
            });
            if window {
                let message = "window functions are not allowed in GROUP BY";
                return Err(Error::new("42P20", message));
            }
            if aggregate {
                return Err(Error::new(
                    "42803",
                    "aggregate functions are not allowed in GROUP BY",
                ));
            }
        }
        Ok(keys)
    }

    /// Sort keys as places of the projected row; expressions that are not selected become hidden columns.
    fn sort_keys(
        &mut self,
        order: &[ast::OrderByExpr],
        selected: &mut Selected,
        distinct: bool,
    ) -> Result<Vec<SortKey>> {
        let mut sort = Vec::with_capacity(order.len());
        for key in order {
            let position = match self.sort_position(&key.expr, selected)? {
                Some(position) => position,
                None => {
                    let bound = self.expr(&key.expr)?;
                    let expr = self.settle(bound)?.expr;
                    let place = selected.place_of(expr);
                    if distinct && place >= selected.columns.len() {
                        return Err(Error::new(
                            "42P10",
                            "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                        ));
                    }
                    place
                }
            };
            sort.push(sort_key(position, &key.options));
        }
        Ok(sort)
    }

    /// DISTINCT ON: places of its expressions, which ORDER BY must begin with.
    fn distinct_on(
        &mut self,
        list: &[ast::Expr],
        selected: &mut Selected,
        sort: &[SortKey],
    ) -> Result<Vec<usize>> {
        let mut places: Vec<usize> = Vec::with_capacity(list.len());
        for e in list {
            let place = match self.sort_position(e, selected)? {
                Some(place) => place,
                None => {
                    let bound = self.expr(e)?;
                    let expr = self.settle(bound)?.expr;
                    selected.place_of(expr)
                }
            };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let mut leading: Vec<usize> = Vec::new();
        for key in sort {
            let new = !leading.contains(&key.column);
            if new && !places.contains(&key.column) && leading.len() < places.len() {
                return Err(Error::new(
                    "42P10",
                    "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                ));
            }
            if new {
                leading.push(key.column);
            }
        }
        Ok(places)
    }

    /// A position or the name of an output column.
    fn sort_position(&mut self, e: &ast::Expr, selected: &Selected) -> Result<Option<usize>> {
        if let ast::Expr::Identifier(id) = e {
            let name = ident(id);
            let mut matching = selected
                .columns
                .iter()
                .enumerate()
                .filter(|(_, c)| c.name == name);
            let first = matching.next().map(|(i, _)| i);
            if let (Some(first), Some((second, _))) = (first, matching.next())
                && format!("{:?}", selected.project[first])
                    != format!("{:?}", selected.project[second])
            {
                return Err(self.at(
                    Error::new("42702", format!("ORDER BY \"{name}\" is ambiguous")),
                    id.span,
                ));
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

    /// Where the expression is, as a hidden column if it is not selected.
    fn place_of(&mut self, expr: Expr) -> usize {
        let shown = format!("{expr:?}");
        let found = self.project.iter().position(|p| format!("{p:?}") == shown);
        found.unwrap_or_else(|| {
            self.project.push(expr);
            self.project.len() - 1
        })
    }
}

/// Results of window calls become places behind the row of `width` places.
fn window_places(expr: &mut Expr, width: usize) {
    match expr {
        Expr::Window(i) => *expr = Expr::Column(width + *i),
        other => {
            if let Expr::Subquery {
                kind: SubqueryKind::In { expr, .. },
                ..
            } = other
            {
                return window_places(expr, width);
            }
            other.children_mut(&mut |e| window_places(e, width));
        }
    }
}

/// `ORDER BY 2`: the place of a column, from 0.
pub(super) fn ordinal(e: &ast::Expr, columns: usize) -> Result<Option<usize>> {
    let ast::Expr::Value(ast::ValueWithSpan {
        value: ast::Value::Number(digits, _),
        ..
    }) = e
    else {
        return Ok(None);
    };
    match digits.parse::<usize>() {
        Ok(n) if (1..=columns).contains(&n) => Ok(Some(n - 1)),
        _ => Err(Error::new(
            "42P10",
            format!("ORDER BY position {digits} is not in select list"),
        )),
    }
}

pub(super) fn sort_key(column: usize, options: &ast::OrderByOptions) -> SortKey {
    let desc = options.asc == Some(false);
    SortKey {
        column,
        desc,
        nulls_first: options.nulls_first.unwrap_or(desc),
    }
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
