//! Statements that concern the connection only.

use sqlparser::ast::{self, Set, Statement};

use super::{ident, object_name};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::prepare::{Column, SessionCommand};

/// The command, and the columns of its result (SHOW).
pub fn command(statement: &Statement) -> Result<(SessionCommand, Vec<Column>)> {
    let command = match statement {
        Statement::Set(set) => set_command(set)?,
        Statement::ShowVariable { variable } => {
            let name = variable.iter().map(ident).collect::<Vec<_>>().join(".");
            let name = match name.as_str() {
                "transaction.isolation.level" => "transaction_isolation".to_string(),
                "time.zone" => "timezone".to_string(),
                _ => name,
            };
            let column = Column {
                name: name.clone(),
                data_type: DataType::Text,
            };
            return Ok((SessionCommand::Show { name }, vec![column]));
        }
        Statement::Reset(reset) => match &reset.reset {
            ast::Reset::ALL => SessionCommand::Reset { name: None },
            ast::Reset::ConfigurationParameter(name) => SessionCommand::Reset {
                name: Some(variable(name)?),
            },
        },
        Statement::StartTransaction { .. } => SessionCommand::Begin,
        Statement::Commit { .. } => SessionCommand::Commit,
        Statement::Rollback {
            savepoint: None, ..
        } => SessionCommand::Rollback,
        Statement::Rollback { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. } => SessionCommand::Savepoint,
        Statement::Discard { .. } => SessionCommand::DiscardAll,
        Statement::Deallocate { name, .. } => {
            let name = ident(name);
            SessionCommand::Deallocate {
                name: (name != "all").then_some(name),
            }
        }
        Statement::Copy { .. } => {
            return Err(Error::unsupported("COPY")
                .hint("use INSERT with several rows, or pipelined inserts"));
        }
        other => {
            let shown = other.to_string();
            let words: Vec<&str> = shown.split_whitespace().take(2).collect();
            return Err(Error::unsupported(words.join(" ")));
        }
    };
    Ok((command, Vec::new()))
}

fn variable(name: &ast::ObjectName) -> Result<String> {
    let (schema, name) = object_name(name)?;
    Ok(schema.map_or(name.clone(), |s| format!("{s}.{name}")))
}

fn set_command(set: &Set) -> Result<SessionCommand> {
    match set {
        Set::SingleAssignment {
            variable: name,
            values,
            ..
        } => {
            let texts: Vec<String> = values.iter().map(setting).collect();
            let text = texts.join(", ");
            let is_default =
                matches!(values.as_slice(), [ast::Expr::Identifier(id)] if ident(id) == "default");
            Ok(SessionCommand::Set {
                name: variable(name)?,
                value: (!is_default).then_some(text),
            })
        }
        Set::SetTimeZone { value, .. } => Ok(SessionCommand::Set {
            name: "timezone".to_string(),
            value: Some(setting(value)),
        }),
        Set::SetNames { charset_name, .. } => Ok(SessionCommand::Set {
            name: "client_encoding".to_string(),
            value: Some(charset_name.value.clone()),
        }),
        Set::SetTransaction { .. } => Ok(SessionCommand::Set {
            name: "transaction_isolation".to_string(),
            value: Some("serializable".to_string()),
        }),
        other => Err(Error::unsupported(other.to_string())),
    }
}

/// A setting's value as text, without its quotes.
fn setting(e: &ast::Expr) -> String {
    match e {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::SingleQuotedString(s) => s.clone(),
            other => other.to_string(),
        },
        ast::Expr::Identifier(id) => id.value.clone(),
        other => other.to_string(),
    }
}
