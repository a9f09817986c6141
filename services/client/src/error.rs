//! The one error type of the client.
//!
//! It keeps the kernel's three classes (design.md section 6): the request is wrong, try again, the outcome is unknown.
//! `Retry` reaches the caller only after the client's own retries ran out, or where trying again is the caller's choice
//! (53400). `Environment` is for what has nothing to do with a request: a target that cannot be parsed or reached, a program
//! that is not installed.

use std::fmt;

/// What a caller may conclude from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request is wrong: it will fail again. Nothing was changed.
    Request,
    /// Nothing was changed; the same request may succeed later. The client tried until its deadline; but a full mailbox or another
    /// limit that only its users make room under (53400) is told at once.
    Retry,
    /// The effect may or may not be there.
    Unknown,
    /// No request was made: the target is wrong or cannot be reached, or something on this machine is missing.
    Environment,
}

/// An error with class, SQLSTATE where a server gave one, message, and optional hint.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    class: Class,
    sqlstate: Option<String>,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<u32>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner {
            class,
            sqlstate: None,
            message,
            detail: None,
            hint: None,
            position: None,
        }))
    }

    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Class::Environment, message)
    }

    /// The client itself found the request to be wrong.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(Class::Request, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn sqlstate_is(mut self, sqlstate: impl Into<String>) -> Self {
        self.0.sqlstate = Some(sqlstate.into());
        self
    }

    /// The same error in another class: an exhausted retry whose first attempt may have worked is of unknown outcome.
    pub(crate) fn with_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    /// Says which file a failed statement came from.
    pub(crate) fn in_file(mut self, name: &str) -> Self {
        self.0.message = format!("{name}: {}", self.0.message);
        self
    }

    pub(crate) fn from_server(class: Class, error: &tokio_postgres::error::DbError) -> Self {
        let position = match error.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => Some(*position),
            _ => None,
        };
        Self(Box::new(Inner {
            class,
            sqlstate: Some(error.code().code().to_owned()),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            position,
        }))
    }

    pub fn class(&self) -> Class {
        self.0.class
    }

    /// True if the effect may or may not be there.
    pub fn is_unknown(&self) -> bool {
        self.0.class == Class::Unknown
    }

    /// The server's SQLSTATE; `None` for what the client itself found.
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn get_detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn get_hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Position in the statement's text, in characters, from 1.
    pub fn position(&self) -> Option<u32> {
        self.0.position
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.class == Class::Unknown {
            f.write_str("outcome unknown: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(sqlstate) = &self.0.sqlstate {
            write!(f, " ({sqlstate})")?;
        }
        if let Some(detail) = &self.0.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
