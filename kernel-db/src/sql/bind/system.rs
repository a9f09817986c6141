//! What clients' catalogue queries need of the language: operators by name, casts to object names and numbers, functions
//! that look objects up.
//!
//! Numbers of objects (`oid`) are bigints here, and `regclass`, `regproc`, `regtype` and `regnamespace` are no types of their
//! own: a cast of a name to one of them is the object's number, a cast of a number is the name, and a name that is cast
//! to text after that, or selected as it is, stays a name.

use sqlparser::ast::{self, BinaryOperator};

use super::{Binder, Typed, object_name};
use crate::error::{Error, Result};
use crate::sql::cast::CastContext;
use crate::sql::catalog::Lookup;
use crate::sql::plan::Expr;
use crate::sql::{DataType, Value};

/// `OPERATOR(pg_catalog.~)`.
pub fn named_operator(path: &[String]) -> Result<BinaryOperator> {
    let unknown = || {
        Error::new(
            "42883",
            format!("operator does not exist: {}", path.join(".")),
        )
    };
    let name = match path {
        [schema, name] if schema == "pg_catalog" => name,
        [name] => name,
        _ => return Err(unknown()),
    };
    Ok(match name.as_str() {
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "~" => BinaryOperator::PGRegexMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "||" => BinaryOperator::StringConcat,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        _ => return Err(unknown()),
    })
}

/// What a `reg...` type names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Class,
    Proc,
    Type,
    Namespace,
}

fn named(data_type: &ast::DataType) -> Option<Named> {
    let name = match data_type {
        ast::DataType::Regclass => return Some(Named::Class),
        ast::DataType::Custom(name, args) if args.is_empty() => object_name(name).ok()?,
        _ => return None,
    };
    match (name.0.as_deref(), name.1.as_str()) {
        (None | Some("pg_catalog"), "regclass") => Some(Named::Class),
        (None | Some("pg_catalog"), "regproc" | "regprocedure") => Some(Named::Proc),
        (None | Some("pg_catalog"), "regtype") => Some(Named::Type),
        (None | Some("pg_catalog"), "regnamespace") => Some(Named::Namespace),
        _ => None,
    }
}

/// The name of a `reg...` type.
pub fn name_type(data_type: &ast::DataType) -> Option<String> {
    named(data_type)?;
    Some(match data_type {
        ast::DataType::Custom(name, _) => object_name(name).ok()?.1,
        _ => "regclass".to_string(),
    })
}

impl Named {
    fn number_of(self) -> Lookup {
        match self {
            Named::Class => Lookup::ToRegclass,
            Named::Proc => Lookup::ToRegproc,
            Named::Type => Lookup::ToRegtype,
            Named::Namespace => Lookup::ToRegnamespace,
        }
    }

    fn name_of(self) -> Lookup {
        match self {
            Named::Class => Lookup::ClassName,
            Named::Proc => Lookup::ProcName,
            Named::Type => Lookup::TypeName,
            Named::Namespace => Lookup::NamespaceName,
        }
    }

    fn missing(self, name: &str) -> Error {
        match self {
            Named::Class => Error::new("42P01", format!("relation \"{name}\" does not exist")),
            Named::Proc => Error::new("42883", format!("function \"{name}\" does not exist")),
            Named::Type => Error::new("42704", format!("type \"{name}\" does not exist")),
            Named::Namespace => Error::new("3F000", format!("schema \"{name}\" does not exist")),
        }
    }
}

impl Binder<'_> {
    /// A cast to a `reg...` type, or of such a cast to text; none if it is another cast.
    pub(super) fn name_cast(
        &mut self,
        inner: &ast::Expr,
        to: &ast::DataType,
    ) -> Result<Option<Typed>> {
        if let Some(kind) = named(to) {
            return self.named(kind, inner).map(Some);
        }
        let ast::Expr::Cast {
            expr, data_type, ..
        } = inner
        else {
            return Ok(None);
        };
        let Some(kind) = named(data_type) else {
            return Ok(None);
        };
        let is_text = DataType::from_sql(to).is_ok_and(|(t, _)| t.is_string());
        if !is_text {
            return Ok(None);
        }
        let number = self.named(kind, expr)?;
        match number.data_type {
            DataType::Int8 => self.lookup(kind.name_of(), vec![number]).map(Some),
            _ => Ok(Some(number)),
        }
    }

    /// A select item that is a cast to a `reg...` type shows the name.
    pub(super) fn shown_name(&mut self, e: &ast::Expr) -> Result<Option<Typed>> {
        match e {
            ast::Expr::Cast { data_type, .. } if named(data_type).is_some() => {
                self.name_cast(e, &ast::DataType::Text)
            }
            _ => Ok(None),
        }
    }

    fn named(&mut self, kind: Named, inner: &ast::Expr) -> Result<Typed> {
        let bound = self.expr(inner)?;
        if bound.data_type.is_int() {
            return self.lookup(kind.name_of(), vec![bound]);
        }
        if let (DataType::Unknown, Expr::Const(Value::Text(name))) = (bound.data_type, &bound.expr)
        {
            let name = name.clone();
            if let Ok(number) = name.parse::<i64>() {
                return Ok(Typed::new(Expr::Const(Value::Int8(number)), DataType::Int8));
            }
            let number = kind
                .number_of()
                .eval(&[Value::Text(name.clone())], self.catalog)?;
            if number.is_null() {
                return Err(kind.missing(&name));
            }
            return Ok(Typed::new(Expr::Const(number), DataType::Int8));
        }
        self.lookup(kind.number_of(), vec![bound])
    }

    /// A function that looks an object up.
    pub(super) fn lookup(&mut self, lookup: Lookup, args: Vec<Typed>) -> Result<Typed> {
        let signature = lookup.args();
        let mut exprs = Vec::with_capacity(args.len());
        for (arg, to) in args.into_iter().zip(signature) {
            let from = arg.data_type;
            let expr = self.coerce(arg, *to, CastContext::Assignment)?;
            exprs.push(expr.ok_or_else(|| {
                Error::new("42883", format!("{} does not take {from}", lookup.name()))
            })?);
        }
        let expr = Expr::Lookup {
            lookup,
            args: exprs,
        };
        Ok(Typed::new(expr, lookup.returns()))
    }
}
