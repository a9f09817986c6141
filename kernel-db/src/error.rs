//! The one error type of the kernel.
//!
//! Every error says which of three classes it is (design.md section 6): the request is wrong, try again, or the
//! outcome is unknown. It carries a SQLSTATE, and where it helps a hint and the position in the statement's text.

use std::fmt;

use bytes::Bytes;

/// What a caller may conclude from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request itself is wrong: the same request will fail again. Nothing was changed.
    Request,
    /// Nothing was changed and the same request may succeed later (not leader, conflict, busy).
    Retry,
    /// The connection or the leader was lost after proposing: the effect may or may not be there.
    Unknown,
}

/// An error with class, SQLSTATE, message, and optional hint and position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    class: Class,
    sqlstate: [u8; 5],
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<u32>,
    before: Option<Bytes>,
    notices: Vec<Notice>,
}

/// A message to the client that is no error (RAISE NOTICE, "table exists, skipping").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// NOTICE, WARNING, INFO, LOG or DEBUG.
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `Request`. `sqlstate` must have five characters.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Self::with_class(Class::Request, sqlstate, message)
    }

    /// An error of class `Retry`: nothing was changed.
    pub fn retry(sqlstate: &str, message: impl Into<String>) -> Self {
        Self::with_class(Class::Retry, sqlstate, message)
    }

    /// An error of class `Unknown` (SQLSTATE 08007): the effect may or may not be there.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::with_class(Class::Unknown, "08007", message)
    }

    /// Feature not built yet: 0A000.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new("0A000", format!("{what} is not supported yet"))
    }

    /// A bounded queue or buffer is full: 53000-class, try again.
    pub fn busy(what: impl fmt::Display) -> Self {
        Self::retry("53300", format!("busy: {what}"))
    }

    /// A broken promise inside the kernel: XX000.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("XX000", message)
    }

    /// Any class; used when an error arrives from another node.
    pub fn with_class(class: Class, sqlstate: &str, message: impl Into<String>) -> Self {
        let mut code = *b"XX000";
        if sqlstate.len() == 5 {
            code.copy_from_slice(sqlstate.as_bytes());
        }
        Self(Box::new(Inner {
            class,
            sqlstate: code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            before: None,
            notices: Vec::new(),
        }))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Position in the statement's text, in characters, from 1.
    pub fn at(mut self, position: u32) -> Self {
        self.0.position.get_or_insert(position);
        self
    }

    /// The same error with another position: of a text that contains the one it was found in.
    pub fn moved(mut self, position: u32) -> Self {
        self.0.position = Some(position);
        self
    }

    /// The same error, with what the statements before the one that failed were answered (`Outcomes::encode`): it has no
    /// effect, but a client is shown it.
    pub fn after(mut self, outcomes: Bytes) -> Self {
        self.0.before = Some(outcomes);
        self
    }

    /// The same error, with what the statement that failed said before it did: told to the client first.
    pub fn said(mut self, notices: Vec<Notice>) -> Self {
        self.0.notices = notices;
        self
    }

    /// The same error under another SQLSTATE.
    pub fn recode(mut self, sqlstate: &str) -> Self {
        if sqlstate.len() == 5 {
            self.0.sqlstate.copy_from_slice(sqlstate.as_bytes());
        }
        self
    }

    pub fn class(&self) -> Class {
        self.0.class
    }

    pub fn sqlstate(&self) -> &str {
        std::str::from_utf8(&self.0.sqlstate).unwrap_or("XX000")
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

    pub fn position(&self) -> Option<u32> {
        self.0.position
    }

    /// What the statements before it were answered, if it came from one of several.
    pub fn before(&self) -> Option<&Bytes> {
        self.0.before.as_ref()
    }

    /// What the statement that failed said before it did.
    pub fn notices(&self) -> &[Notice] {
        &self.0.notices
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.sqlstate())?;
        if let Some(hint) = &self.0.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
