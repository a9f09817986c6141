//! Blocks with exception handlers, RAISE, ASSERT.

use super::super::ast::{Condition, Level};
use super::super::code::{BlockCode, HandlerCode, RaiseCode, UsingOption};
use super::super::conditions;
use super::{Flow, Run};
use crate::error::{Class, Error, Result};
use crate::sql::exec::{ExecCtx, Notice};
use crate::sql::prepare::PreparedExpr;
use crate::sql::{Value, text};

/// What a RAISE says.
struct Raised {
    message: Option<String>,
    state: Option<String>,
    name: Option<String>,
    detail: Option<String>,
    hint: Option<String>,
}

impl Raised {
    fn error(self) -> Error {
        let state = self.state.unwrap_or_else(|| "P0001".to_string());
        let message = self.message.or(self.name).unwrap_or_else(|| state.clone());
        // A serialization failure, or a lack of room, asks the client to try again, whoever found it.
        let class = if state.starts_with("40") || state.starts_with("53") {
            Class::Retry
        } else {
            Class::Request
        };
        let mut error = Error::with_class(class, &state, message);
        if let Some(detail) = self.detail {
            error = error.detail(detail);
        }
        if let Some(hint) = self.hint {
            error = error.hint(hint);
        }
        error
    }
}

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
        let mut raised = Raised {
            message: self.message(ctx, raise)?,
            state: raise.state.clone(),
            name: raise.name.clone(),
            detail: None,
            hint: None,
        };
        for (option, value) in &raise.using {
            let value = text::to_text(&value.eval(ctx, &self.frame)?)
                .ok_or_else(|| Error::new("22004", "RAISE statement option cannot be null"))?;
            match option {
                UsingOption::Message => raised.message = Some(value),
                UsingOption::Detail => raised.detail = Some(value),
                UsingOption::Hint => raised.hint = Some(value),
                UsingOption::Errcode => {
                    raised.state = Some(state_of(&value)?);
                    raised.name = Some(value);
                }
                UsingOption::Other => {}
            }
        }
        if raise.level == Level::Exception {
            return Err(raised.error());
        }
        ctx.notices.extend(notice(raise.level, raised));
        Ok(())
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

/// The notice of a RAISE below EXCEPTION; none for levels that clients do not ask for.
fn notice(level: Level, raised: Raised) -> Option<Notice> {
    let (severity, state) = match level {
        Level::Quiet | Level::Exception => return None,
        Level::Info => ("INFO", "00000"),
        Level::Notice => ("NOTICE", "00000"),
        Level::Warning => ("WARNING", "01000"),
    };
    Some(Notice {
        severity: severity.to_string(),
        sqlstate: raised.state.unwrap_or_else(|| state.to_string()),
        message: raised.message.or(raised.name).unwrap_or_default(),
        detail: raised.detail,
        hint: raised.hint,
    })
}
