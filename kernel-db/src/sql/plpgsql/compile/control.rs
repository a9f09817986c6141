//! Conditions and loops.

use super::{Compiler, Enclosing};
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::plpgsql::ast::{ForRange, Fragment, Name, Statement};
use crate::sql::plpgsql::code::{Code, ForRangeCode};
use crate::sql::plpgsql::lexer;
use crate::sql::prepare::PreparedExpr;

type Arm = (Fragment, Vec<Statement>);

impl Compiler<'_> {
    pub(super) fn condition(&mut self, fragment: &Fragment) -> Result<PreparedExpr> {
        self.expr(fragment, Some(DataType::Bool))
    }

    pub(super) fn arms(&mut self, arms: &[Arm]) -> Result<Vec<(PreparedExpr, Vec<Code>)>> {
        let mut codes = Vec::with_capacity(arms.len());
        for (condition, body) in arms {
            codes.push((self.condition(condition)?, self.statements(body)?));
        }
        Ok(codes)
    }

    /// With an operand, each arm's list of values becomes `operand IN (list)` over a variable that holds the operand.
    pub(super) fn case(
        &mut self,
        operand: &Option<Fragment>,
        arms: &[Arm],
        otherwise: &Option<Vec<Statement>>,
    ) -> Result<Code> {
        let Some(fragment) = operand else {
            let arms = self.arms(arms)?;
            let otherwise = otherwise.as_ref().map(|s| self.statements(s)).transpose()?;
            return Ok(Code::Case {
                operand: None,
                arms,
                otherwise,
            });
        };
        let expr = self.expr(fragment, None)?;
        self.scopes.push(None);
        let name = format!("__case_operand_{}", fragment.at);
        let slot = self.scopes.declare(&name, expr.data_type, false)?;
        let mut tests: Vec<Arm> = Vec::with_capacity(arms.len());
        for (values, body) in arms {
            let text = format!("{name} IN ({})", values.text);
            tests.push((
                Fragment {
                    text,
                    at: values.at,
                },
                body.clone(),
            ));
        }
        let arms = self.arms(&tests)?;
        let otherwise = otherwise.as_ref().map(|s| self.statements(s)).transpose()?;
        self.scopes.pop();
        Ok(Code::Case {
            operand: Some((slot, expr)),
            arms,
            otherwise,
        })
    }

    /// Compiles a loop's body, which EXIT and CONTINUE can leave.
    fn loop_body(
        &mut self,
        label: &Option<String>,
        body: &[Statement],
    ) -> Result<(usize, Vec<Code>)> {
        let target = self.new_target();
        self.enclosing.push(Enclosing {
            label: label.clone(),
            target,
            is_loop: true,
        });
        let body = self.statements(body);
        self.enclosing.pop();
        Ok((target, body?))
    }

    pub(super) fn plain_loop(
        &mut self,
        label: &Option<String>,
        condition: Option<&Fragment>,
        body: &[Statement],
    ) -> Result<Code> {
        let condition = condition.map(|c| self.condition(c)).transpose()?;
        let (target, body) = self.loop_body(label, body)?;
        Ok(Code::Loop {
            target,
            condition,
            body,
        })
    }

    /// The loop's variable is its own, an int4.
    pub(super) fn for_range(&mut self, range: &ForRange) -> Result<Code> {
        let from = self.value(&range.from, DataType::Int4)?;
        let to = self.value(&range.to, DataType::Int4)?;
        let by = range
            .by
            .as_ref()
            .map(|by| self.value(by, DataType::Int4))
            .transpose()?;
        self.scopes.push(range.label.clone());
        let slot = self
            .scopes
            .declare(&range.variable, DataType::Int4, false)?;
        let (target, body) = self.loop_body(&range.label, &range.body)?;
        self.scopes.pop();
        Ok(Code::ForRange(Box::new(ForRangeCode {
            target,
            slot,
            reverse: range.reverse,
            from,
            to,
            by,
            body,
        })))
    }

    pub(super) fn for_query(
        &mut self,
        label: &Option<String>,
        targets: &[Name],
        query: &Fragment,
        body: &[Statement],
    ) -> Result<Code> {
        let query = self.prepare(query)?;
        if query.columns.is_empty() {
            return Err(Error::new("42601", "FOR needs a query that returns rows"));
        }
        let into = self.row_places(targets, &query.columns)?;
        let (target, body) = self.loop_body(label, body)?;
        Ok(Code::ForQuery {
            target,
            query,
            into,
            body,
        })
    }

    pub(super) fn leave(
        &mut self,
        again: bool,
        label: Option<&str>,
        when: Option<&Fragment>,
    ) -> Result<Code> {
        let word = if again { "CONTINUE" } else { "EXIT" };
        let target = match label {
            None => {
                let innermost = self.enclosing.iter().rev().find(|e| e.is_loop);
                let outside = match again {
                    true => "CONTINUE cannot be used outside a loop".to_string(),
                    false => {
                        "EXIT cannot be used outside a loop, unless it has a label".to_string()
                    }
                };
                innermost.ok_or_else(|| Error::new("42601", outside))?
            }
            Some(label) => {
                let named = self
                    .enclosing
                    .iter()
                    .rev()
                    .find(|e| e.label.as_deref() == Some(label));
                let missing = || {
                    let message = format!(
                        "there is no label \"{label}\" attached to any block or loop enclosing this statement"
                    );
                    Error::new("42601", message)
                };
                named.ok_or_else(missing)?
            }
        };
        if again && !target.is_loop {
            let message = format!(
                "block label \"{}\" cannot be used in {word}",
                label.unwrap_or_default()
            );
            return Err(Error::new("42601", message));
        }
        let target = target.target;
        let when = when.map(|w| self.condition(w)).transpose()?;
        Ok(Code::Leave {
            again,
            target,
            when,
        })
    }

    /// 42601 at a place of the body.
    pub(super) fn syntax_error(&self, at: usize, message: &str) -> Error {
        lexer::syntax_error(&self.def.body, at, message)
    }
}
