//! Assignments of whole records: `record := value`, where the value's fields are known when the procedure is compiled.

use sqlparser::ast::{self, Expr};

use super::Compiler;
use super::fragment::parse_expression;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::object_name;
use crate::sql::plpgsql::ast::{Fragment, Name};
use crate::sql::plpgsql::code::{Code, Place};
use crate::sql::plpgsql::scope::Variable;

impl Compiler<'_> {
    pub(super) fn assign_record(&mut self, record: usize, value: &Fragment) -> Result<Code> {
        let expr = parse_expression(&value.text).map_err(|e| self.locate(e, value))?;
        if matches!(&expr, Expr::Value(v) if v.value == ast::Value::Null) {
            let slots = self.scopes.record_slots(record);
            let into = slots.iter().map(|s| self.place(*s, DataType::Unknown));
            return Ok(Code::AssignRow {
                query: None,
                into: into.collect(),
            });
        }
        let text = self.row_query(&expr).ok_or_else(|| {
            Error::unsupported("assignment of this value to a record").hint("use SELECT ... INTO")
        })?;
        let at = value.at;
        let query = self.prepare(&Fragment { text, at })?;
        let slots = self.scopes.shape(record, &query.columns)?;
        let from = |i: usize| {
            let column = query.columns.get(i);
            column.map_or(DataType::Unknown, |c| c.data_type)
        };
        let places = slots.iter().enumerate();
        let into: Vec<Place> = places.map(|(i, slot)| self.place(*slot, from(i))).collect();
        Ok(Code::AssignRow {
            query: Some(query),
            into,
        })
    }

    /// A query whose row is the value's.
    fn row_query(&self, value: &Expr) -> Option<String> {
        let numbered = |items: Vec<String>| {
            let item = |(i, e): (usize, &String)| format!("{e} AS f{}", i + 1);
            let items: Vec<String> = items.iter().enumerate().map(item).collect();
            format!("SELECT {}", items.join(", "))
        };
        match value {
            Expr::Nested(inner) => self.row_query(inner),
            Expr::Tuple(items) => Some(numbered(items.iter().map(Expr::to_string).collect())),
            Expr::Identifier(one) => self.fields_of(std::slice::from_ref(one)),
            Expr::CompoundIdentifier(parts) => self.fields_of(parts),
            Expr::Function(call) => {
                let (_, name) = object_name(&call.name).ok()?;
                let ast::FunctionArguments::List(list) = &call.args else {
                    return None;
                };
                if name == "row" {
                    return Some(numbered(
                        list.args.iter().map(ToString::to_string).collect(),
                    ));
                }
                let functions = self.catalog.functions_named(&name);
                let row = functions.iter().any(|f| !f.returns.columns.is_empty());
                row.then(|| format!("SELECT * FROM {value}"))
            }
            _ => None,
        }
    }

    fn fields_of(&self, parts: &[ast::Ident]) -> Option<String> {
        let name: Name = parts.iter().map(crate::sql::bind::ident).collect();
        let (Variable::Record(record), _) = self.scopes.resolve(&name)? else {
            return None;
        };
        let of: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let of = of.join(".");
        let field = |f: &String| {
            let f = f.replace('"', "\"\"");
            format!("{of}.\"{f}\" AS \"{f}\"")
        };
        let fields: Vec<String> = self.scopes.fields(record).iter().map(field).collect();
        Some(format!("SELECT {}", fields.join(", ")))
    }
}
