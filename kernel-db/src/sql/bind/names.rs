//! Names that PostgreSQL gives to columns without an alias.

use sqlparser::ast::{self, SelectItem, SetExpr};

use super::{call, ident};
use crate::sql::DataType;

/// The name PostgreSQL gives a column without alias.
pub fn column_name(e: &ast::Expr) -> String {
    named(e).map_or_else(|| "?column?".to_string(), |(name, _)| name)
}

/// A name and whether it is a strong one, which a cast or CASE around it keeps.
fn named(e: &ast::Expr) -> Option<(String, bool)> {
    use ast::Expr as E;
    let strong = |name: &str| Some((name.to_string(), true));
    let type_name = |t: &ast::DataType| {
        if let Some(name) = super::system::name_type(t) {
            return Some((name, false));
        }
        DataType::from_sql(t)
            .ok()
            .map(|(t, _)| (t.internal_name().to_string(), false))
    };
    match e {
        E::Identifier(id) => Some((ident(id), true)),
        E::CompoundIdentifier(parts) => parts.last().map(|id| (ident(id), true)),
        E::Function(call) => Some((call::call_name(call), true)),
        E::Nested(inner) => named(inner),
        E::Cast {
            expr, data_type, ..
        } => named(expr)
            .filter(|(_, strong)| *strong)
            .or_else(|| type_name(data_type)),
        E::TypedString(typed) => type_name(&typed.data_type),
        E::Interval(_) => Some(("interval".to_string(), false)),
        E::Case { else_result, .. } => {
            let inner = else_result
                .as_deref()
                .and_then(named)
                .filter(|(_, strong)| *strong);
            inner.or_else(|| Some(("case".to_string(), false)))
        }
        E::Array(_) => strong("array"),
        E::CompoundFieldAccess { root, .. } => named(root),
        E::Exists { .. } => strong("exists"),
        E::Extract { .. } => strong("extract"),
        E::Ceil { .. } => strong("ceil"),
        E::Floor { .. } => strong("floor"),
        E::Position { .. } => strong("position"),
        E::Substring {
            shorthand: true, ..
        } => strong("substr"),
        E::Substring { .. } => strong("substring"),
        E::Trim {
            trim_where: Some(ast::TrimWhereField::Leading),
            ..
        } => strong("ltrim"),
        E::Trim {
            trim_where: Some(ast::TrimWhereField::Trailing),
            ..
        } => strong("rtrim"),
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
