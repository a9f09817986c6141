//! CREATE [OR REPLACE] FUNCTION and DROP FUNCTION.

use std::sync::Arc;

use sqlparser::ast::{self, CreateFunctionBody, FunctionReturnType};

use super::Change;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::{bind_default, ident, object_name};
use crate::sql::catalog::{ArgMode, ColumnType, FunctionArg, FunctionDef, Language, Returns};
use crate::sql::functions::is_built_in;

impl Change {
    pub(super) fn create_function(&mut self, create: &ast::CreateFunction) -> Result<()> {
        if create.temporary || create.if_not_exists {
            return Err(Error::new(
                "42601",
                "this form of CREATE FUNCTION is not PostgreSQL's",
            ));
        }
        let name = Self::own_name(&create.name)?;
        let mut args = Vec::new();
        for arg in create.args.iter().flatten() {
            args.push(self.argument(arg)?);
        }
        let returns = self.returns(create.return_type.as_ref(), &mut args)?;
        let language = language(create)?;
        let body = body(create.function_body.as_ref())?;
        let strict = matches!(
            create.called_on_null,
            Some(
                ast::FunctionCalledOnNull::Strict
                    | ast::FunctionCalledOnNull::ReturnsNullOnNullInput
            )
        );
        let id = self.catalog.take_id();
        let def = FunctionDef::new(id, name, args, returns, language, body, strict);
        let types = def.arg_types();
        // As in PostgreSQL, whose own functions are found before those of schema public. So a script can bring a
        // function for servers that do not have it.
        if is_built_in(&def.name, &types) {
            let name = &def.name;
            let message = format!("function \"{name}\" is built in, skipping");
            self.skip("00000", message);
            return Ok(());
        }
        let existing = self
            .catalog
            .functions_named(&def.name)
            .iter()
            .find(|f| f.arg_types() == types);
        if let Some(existing) = existing {
            if !create.or_replace {
                let shown: Vec<&str> = types.iter().map(|t| t.name()).collect();
                return Err(Error::new(
                    "42723",
                    format!(
                        "function \"{}({})\" already exists with same argument types",
                        def.name,
                        shown.join(", ")
                    ),
                ));
            }
            if existing.returns != def.returns {
                return Err(
                    Error::new("42P13", "cannot change return type of existing function")
                        .hint(format!("Use DROP FUNCTION {} first.", def.name)),
                );
            }
        }
        let name = def.name.clone();
        self.catalog.put_function(def);
        self.check_body(&name, &types)?;
        self.changed = true;
        Ok(())
    }

    /// Compiles the new function. As in PostgreSQL, a plpgsql body may name what does not exist yet.
    fn check_body(&self, name: &str, types: &[DataType]) -> Result<()> {
        let catalog = self.shared();
        let Some(def) = catalog
            .functions_named(name)
            .iter()
            .find(|f| f.arg_types() == types)
        else {
            return Err(Error::internal("the new function is not there"));
        };
        // A copy, so that what is compiled here does not outlive the change.
        let def = Arc::new(def.fresh());
        match def.compiled(&catalog) {
            Err(e)
                if def.language == Language::Plpgsql
                    && matches!(e.sqlstate(), "42P01" | "42883" | "42703") =>
            {
                Ok(())
            }
            Err(e) => Err(e),
            Ok(_) => Ok(()),
        }
    }

    fn argument(&self, arg: &ast::OperateFunctionArg) -> Result<FunctionArg> {
        let mode = match arg.mode {
            None | Some(ast::ArgMode::In) => ArgMode::In,
            Some(ast::ArgMode::Out) => ArgMode::Out,
            Some(ast::ArgMode::InOut) => ArgMode::InOut,
            Some(ast::ArgMode::Variadic) => return Err(Error::unsupported("VARIADIC")),
        };
        let (data_type, _) = DataType::from_sql(&arg.data_type)?;
        let default = arg.default_expr.as_ref().map(ToString::to_string);
        if let Some(default) = &default {
            bind_default(&self.shared(), default, data_type, None)?;
        }
        Ok(FunctionArg {
            name: arg.name.as_ref().map(ident).unwrap_or_default(),
            data_type,
            mode,
            default,
        })
    }

    fn returns(
        &self,
        declared: Option<&FunctionReturnType>,
        args: &mut Vec<FunctionArg>,
    ) -> Result<Returns> {
        let outs = args.iter().filter(|a| a.mode != ArgMode::In);
        let outs: Vec<(String, ColumnType)> = outs
            .map(|a| (a.name.clone(), ColumnType(a.data_type)))
            .collect();
        let (sql, set) = match declared {
            None if outs.is_empty() => {
                return Err(Error::new(
                    "42P13",
                    "function result type must be specified",
                ));
            }
            None => return Ok(row_type(outs, false)),
            Some(FunctionReturnType::DataType(sql)) => (sql, false),
            Some(FunctionReturnType::SetOf(sql)) => (sql, true),
        };
        if let ast::DataType::Table(Some(columns)) = sql {
            let mut list = Vec::with_capacity(columns.len());
            for column in columns {
                let (data_type, _) = DataType::from_sql(&column.data_type)?;
                let name = ident(&column.name);
                args.push(FunctionArg {
                    name: name.clone(),
                    data_type,
                    mode: ArgMode::Table,
                    default: None,
                });
                list.push((name, ColumnType(data_type)));
            }
            return Ok(row_type(list, true));
        }
        if let ast::DataType::Custom(name, _) = sql
            && let Ok((schema, plain)) = object_name(name)
            && let Some(table) = self.catalog.table(schema.as_deref(), &plain)
        {
            let columns = table
                .visible_columns()
                .iter()
                .map(|c| (c.name.clone(), ColumnType(c.data_type)));
            return Ok(Returns {
                data_type: DataType::Record,
                set,
                columns: columns.collect(),
            });
        }
        let (data_type, _) = DataType::from_sql(sql)?;
        if !outs.is_empty() {
            return Ok(row_type(outs, set));
        }
        if data_type == DataType::Record {
            return Err(Error::unsupported("RETURNS record without OUT parameters")
                .hint("use RETURNS TABLE (...)"));
        }
        Ok(Returns {
            data_type,
            set,
            columns: Vec::new(),
        })
    }

    pub(super) fn drop_function(&mut self, drop: &ast::DropFunction) -> Result<()> {
        for desc in &drop.func_desc {
            let name = Self::own_name(&desc.name)?;
            let mut types = None;
            if let Some(args) = &desc.args {
                let inputs = args
                    .iter()
                    .filter(|a| !matches!(a.mode, Some(ast::ArgMode::Out)));
                let list: Result<Vec<DataType>> = inputs
                    .map(|a| Ok(DataType::from_sql(&a.data_type)?.0))
                    .collect();
                types = Some(list?);
            }
            let overloads = self.catalog.functions_named(&name);
            let matching: Vec<Vec<DataType>> = overloads
                .iter()
                .map(|f| f.arg_types())
                .filter(|t| types.as_ref().is_none_or(|wanted| wanted == t))
                .collect();
            match matching.as_slice() {
                [one] => {
                    let one = one.clone();
                    self.catalog.remove_function(&name, &one);
                    self.changed = true;
                }
                [] if drop.if_exists => {
                    self.skip("00000", format!("function {name} does not exist, skipping"))
                }
                [] => {
                    return Err(Error::new(
                        "42883",
                        format!("function {name} does not exist"),
                    ));
                }
                _ => {
                    return Err(Error::new(
                        "42725",
                        format!("function name \"{name}\" is not unique"),
                    )
                    .hint("Specify the argument list to select the function unambiguously."));
                }
            }
        }
        Ok(())
    }
}

/// One column is a scalar with a name; several are a record.
fn row_type(columns: Vec<(String, ColumnType)>, set: bool) -> Returns {
    let data_type = match columns.as_slice() {
        [(_, one)] => one.0,
        _ => DataType::Record,
    };
    Returns {
        data_type,
        set,
        columns,
    }
}

fn language(create: &ast::CreateFunction) -> Result<Language> {
    let name = create.language.as_ref().map(|l| l.value.to_lowercase());
    match name.as_deref() {
        Some("plpgsql") => Ok(Language::Plpgsql),
        Some("sql") => Ok(Language::Sql),
        None if matches!(create.function_body, Some(CreateFunctionBody::Return(_))) => {
            Ok(Language::Sql)
        }
        None => Err(Error::new("42P13", "no language specified")),
        Some(other) => Err(
            Error::new("42704", format!("language \"{other}\" does not exist"))
                .hint("use plpgsql or sql"),
        ),
    }
}

fn body(body: Option<&CreateFunctionBody>) -> Result<String> {
    let e = match body {
        Some(
            CreateFunctionBody::AsBeforeOptions { body, .. }
            | CreateFunctionBody::AsAfterOptions(body),
        ) => body,
        Some(CreateFunctionBody::Return(e)) => return Ok(format!("SELECT {e}")),
        Some(_) => {
            return Err(Error::unsupported("this form of function body").hint("write AS $$ ... $$"));
        }
        None => return Err(Error::new("42P13", "no function body specified")),
    };
    match e {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::DollarQuotedString(s) => Ok(s.value.clone()),
            ast::Value::SingleQuotedString(s) | ast::Value::EscapedStringLiteral(s) => {
                Ok(s.clone())
            }
            other => Err(Error::new(
                "42601",
                format!("a function body is a string, not {other}"),
            )),
        },
        other => Err(Error::new(
            "42601",
            format!("a function body is a string, not {other}"),
        )),
    }
}
