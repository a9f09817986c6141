//! Errors on the wire: class, SQLSTATE and all fields arrive as they left.

use super::proto::{Failure, Notice as Said};
use crate::error::{Class, Error, Notice};

pub fn to_failure(error: &Error) -> Failure {
    Failure {
        class: match error.class() {
            Class::Request => 0,
            Class::Retry => 1,
            Class::Unknown => 2,
        },
        sqlstate: error.sqlstate().to_string(),
        message: error.message().to_string(),
        detail: error.get_detail().map(str::to_string),
        hint: error.get_hint().map(str::to_string),
        position: error.position(),
        before: error.before().cloned(),
        notices: error.notices().iter().map(to_said).collect(),
    }
}

fn to_said(notice: &Notice) -> Said {
    Said {
        severity: notice.severity.clone(),
        sqlstate: notice.sqlstate.clone(),
        message: notice.message.clone(),
        detail: notice.detail.clone(),
        hint: notice.hint.clone(),
    }
}

fn from_said(said: Said) -> Notice {
    Notice {
        severity: said.severity,
        sqlstate: said.sqlstate,
        message: said.message,
        detail: said.detail,
        hint: said.hint,
    }
}

pub fn from_failure(failure: Failure) -> Error {
    let class = match failure.class {
        0 => Class::Request,
        1 => Class::Retry,
        // A class this version does not know promises nothing.
        _ => Class::Unknown,
    };
    let mut error = Error::with_class(class, &failure.sqlstate, failure.message);
    if let Some(detail) = failure.detail {
        error = error.detail(detail);
    }
    if let Some(hint) = failure.hint {
        error = error.hint(hint);
    }
    if let Some(position) = failure.position {
        error = error.at(position);
    }
    if let Some(before) = failure.before {
        error = error.after(before);
    }
    error.said(failure.notices.into_iter().map(from_said).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for error in [
            Error::new("42703", "column x").hint("h").at(7),
            Error::retry("DB002", "not leader").detail("3"),
            Error::unknown("lost"),
            Error::new("22012", "division by zero").after(bytes::Bytes::from_static(b"before")),
            Error::new("P0001", "no").said(vec![Notice {
                severity: "WARNING".to_string(),
                sqlstate: "01000".to_string(),
                message: "before it".to_string(),
                detail: Some("d".to_string()),
                hint: None,
            }]),
        ] {
            assert_eq!(from_failure(to_failure(&error)), error);
        }
    }
}
