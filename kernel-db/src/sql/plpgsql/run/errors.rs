//! Blocks with exception handlers, RAISE, ASSERT.

use super::super::ast::{Condition, Level};
use super::super::code::{BlockCode, HandlerCode, RaiseCode, UsingOption};
use super::super::conditions;
use super::{Flow, Run};
use crate::error::{Class, Error, Result};
use crate::sql::exec::ExecCtx;
use crate::sql::prepare::PreparedExpr;
use crate::sql::{Value, text};

impl Run<'_> {
    /// Runs a block. An error that a handler catches undoes what the block wrote; variables keep their values.
    pub(super) fn block(&mut self, ctx: &mut ExecCtx<'_>, block: &BlockCode) -> Result<Flow> {
        for (place, value) in &block.variables {
            let value = match value {
                Some(value) => self.value(ctx, value)?,
                None => Value::Null,
            };
            self.store(place, value)?;
        }
        let flow = if block.handlers.is_empty() {
            self.statements(ctx, &block.body)?
        } else {
            self.guarded(ctx, block)?
        };
        Ok(if flow == Flow::Exit(block.target) {
            Flow::Next
        } else {
            flow
        })
    }

    fn guarded(&mut self, ctx: &mut ExecCtx<'_>, block: &BlockCode) -> Result<Flow> {
        let savepoint = ctx.store.savepoint();
        let error = match self.statements(ctx, &block.body) {
            Ok(flow) => return Ok(flow),
            Err(error) => error,
        };
        let Some(handler) = block.handlers.iter().find(|h| catches(h, &error)) else {
            return Err(error);
        };
        ctx.store.rollback_to(savepoint);
        self.frame[block.state] = Value::text(error.sqlstate());
        self.frame[block.message] = Value::text(error.message());
        self.handling.push(error);
        let flow = self.statements(ctx, &handler.body);
        self.handling.pop();
        flow
    }

    pub(super) fn raise(&mut self, ctx: &mut ExecCtx<'_>, raise: &RaiseCode) -> Result<()> {
        if raise.again {
            let error = self.handling.last().cloned();
            return Err(error.unwrap_or_else(|| Error::internal("RAISE outside of a handler")));
        }
        let mut message = self.message(ctx, raise)?;
        let mut state = raise.state.clone();
        let (mut detail, mut hint) = (None, None);
        for (option, value) in &raise.using {
            let value = text::to_text(&value.eval(ctx, &self.frame)?)
                .ok_or_else(|| Error::new("22004", "RAISE statement option cannot be null"))?;
            match option {
                UsingOption::Message => message = Some(value),
                UsingOption::Detail => detail = Some(value),
                UsingOption::Hint => hint = Some(value),
                UsingOption::Errcode => state = Some(state_of(&value)?),
                UsingOption::Other => {}
            }
        }
        let state = state.unwrap_or_else(|| "P0001".to_string());
        let message = message.unwrap_or_else(|| state.clone());
        if raise.level != Level::Exception {
            notice(ctx, raise.level, &message);
            return Ok(());
        }
        // A serialization failure asks the client to try again, whoever found it.
        let class = if state.starts_with("40") {
            Class::Retry
        } else {
            Class::Request
        };
        let mut error = Error::with_class(class, &state, message);
        if let Some(detail) = detail {
            error = error.detail(detail);
        }
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        Err(error)
    }

    /// The format string with its arguments put in; `%%` is a percent sign.
    fn message(&mut self, ctx: &mut ExecCtx<'_>, raise: &RaiseCode) -> Result<Option<String>> {
        let Some(format) = &raise.format else {
            return Ok(None);
        };
        let mut message = String::with_capacity(format.len());
        let mut arguments = raise.arguments.iter();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                message.push(c);
            } else if chars.next_if_eq(&'%').is_some() {
                message.push('%');
            } else if let Some(argument) = arguments.next() {
                let value = argument.eval(ctx, &self.frame)?;
                message.push_str(&text::to_text(&value).unwrap_or_else(|| "<NULL>".to_string()));
            }
        }
        Ok(Some(message))
    }

    pub(super) fn assert(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        condition: &PreparedExpr,
        message: Option<&PreparedExpr>,
    ) -> Result<()> {
        if self.test(ctx, condition)? {
            return Ok(());
        }
        let message = match message {
            Some(message) => text::to_text(&message.eval(ctx, &self.frame)?),
            None => None,
        };
        Err(Error::new(
            "P0004",
            message.unwrap_or_else(|| "assertion failed".to_string()),
        ))
    }
}

/// A code or a condition's name.
fn state_of(value: &str) -> Result<String> {
    if conditions::is_state(value) {
        return Ok(value.to_string());
    }
    let unknown = || {
        Error::new(
            "42704",
            format!("unrecognized exception condition \"{value}\""),
        )
    };
    conditions::state(value)
        .map(str::to_string)
        .ok_or_else(unknown)
}

/// Errors of the machinery around the procedure (the run limit, a changed schema, a lost outcome, a broken promise) are
/// never caught.
fn catches(handler: &HandlerCode, error: &Error) -> bool {
    let state = error.sqlstate();
    let ours = error.class() == Class::Unknown
        || state == "57014"
        || state.starts_with("DB")
        || state.starts_with("XX");
    if ours {
        return false;
    }
    handler.conditions.iter().any(|condition| match condition {
        Condition::Others => state != "P0004",
        // A code ending in 000 names its class.
        Condition::State(wanted) => {
            wanted == state || (wanted.ends_with("000") && wanted[..2] == state[..2])
        }
    })
}

fn notice(ctx: &mut ExecCtx<'_>, level: Level, message: &str) {
    let severity = match level {
        Level::Quiet | Level::Exception => return,
        Level::Info => "INFO",
        Level::Notice => "NOTICE",
        Level::Warning => "WARNING",
    };
    ctx.notices.push(format!("{severity}: {message}"));
}
