//! SELECT: its list, grouping and ordering.

use sqlparser::ast::{self, SelectItem};

use super::from::From;
use super::group::regroup;
use super::names::column_name;
use super::scope::Scope;
use super::{Aggregates, Binder, Typed, ident, object_name};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plan::choose::{self, Order};
use crate::sql::plan::{Expr, Grouping, Query, QueryBody, SortKey};
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
        if select.qualify.is_some() || !select.named_window.is_empty() {
            return Err(Error::unsupported("window functions"));
        }
        // Of this SELECT, and of none that it holds.
        let types = std::mem::take(&mut self.target_types);
        self.scopes.push(Scope::default());
        self.aggregates.push(Aggregates::default());
        let bound = self.select_in_scope(select, order, limited, &types);
        self.scopes.pop();
        self.aggregates.pop();
        bound
    }

    fn forbid(&mut self, place: Option<&'static str>) {
        if let Some(level) = self.aggregates.last_mut() {
            level.forbidden = place;
        }
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
        let sort = self.sort_keys(order, &mut selected, distinct)?;
        let bound = Bound {
            from,
            selected,
            keys,
            having,
            distinct,
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
            mut keys,
            mut having,
            distinct,
            mut sort,
        } = bound;
        let calls = std::mem::take(
            &mut self
                .aggregates
                .last_mut()
                .ok_or_else(|| Error::internal("no query level"))?
                .calls,
        );
        let grouped = !keys.is_empty() || !calls.is_empty() || having.is_some();
        let Selected {
            mut project,
            columns,
        } = selected;
        let wanted = wanted_order(&sort, &project).filter(|_| !grouped);
        let types = self.row_types()?;
        let limited = limited && !grouped;
        let mut planned = choose::plan(
            &mut from.steps,
            from.conditions,
            wanted.as_ref(),
            limited,
            &types,
        );
        if planned.sorted && wanted.is_some() {
            sort.clear();
        }
        let grouping = if grouped {
            let dependent = self.dependent_columns(&from.steps, &keys)?;
            let all = project.iter_mut().chain(having.iter_mut());
            let had_subquery =
                regroup(all, &mut keys, &dependent, |place| self.column_name(place))?;
            if had_subquery {
                planned.known.clear();
            }
            Some(Grouping {
                keys,
                calls,
                having,
            })
        } else {
            None
        };
        let body = QueryBody::Select {
            steps: from.steps,
            filter: planned.filter,
            grouping,
            project,
            known: planned.known,
        };
        Ok(Query {
            body,
            columns,
            distinct,
            sort,
            limit: None,
            offset: None,
            locks: Vec::new(),
        })
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
            let mut aggregate = false;
            key.walk(&mut |e| aggregate |= matches!(e, Expr::Aggregate(_)));
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
                    let shown = format!("{expr:?}");
                    match selected
                        .project
                        .iter()
                        .position(|p| format!("{p:?}") == shown)
                    {
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
