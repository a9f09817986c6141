//! Statements about the connection itself, which never reach a partition.
//!
//! SET, SHOW, RESET, DISCARD and DEALLOCATE work on the connection. Transaction blocks and COPY are recognised here to be
//! refused with a hint: until they are built nothing may look as if it were inside a transaction that it is not in.

use super::backend::Column;
use super::settings::Settings;
use super::split;
use crate::error::{Error, Result};
use crate::sql::DataType;

/// Setting that is the session's next request number (I11).
pub const REQUEST: &str = "dbos.request";
/// Setting that shows the client's session (I11); given by startup options only.
pub const SESSION: &str = "dbos.session";

/// A statement about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `None`: DEFAULT.
    Set {
        name: String,
        value: Option<String>,
    },
    Show {
        name: String,
    },
    ShowAll,
    Reset {
        name: String,
    },
    ResetAll,
    DiscardAll,
    /// DISCARD of something this server does not keep.
    DiscardNothing {
        tag: &'static str,
    },
    /// `None`: all.
    Deallocate {
        name: Option<String>,
    },
    /// SET SESSION CHARACTERISTICS: every transaction here satisfies any of them.
    Characteristics,
}

impl Command {
    /// Result columns, as Describe shows them.
    pub fn columns(&self) -> Vec<Column> {
        let text = |name: &str| Column {
            name: name.to_owned(),
            data_type: DataType::Text,
        };
        match self {
            Command::Show { name } => vec![text(Settings::shown_name(name).unwrap_or(name))],
            Command::ShowAll => vec![text("name"), text("setting"), text("description")],
            _ => Vec::new(),
        }
    }

    pub fn tag(&self) -> &'static str {
        match self {
            Command::Set { .. } | Command::Characteristics => "SET",
            Command::Show { .. } | Command::ShowAll => "SHOW",
            Command::Reset { .. } | Command::ResetAll => "RESET",
            Command::DiscardAll => "DISCARD ALL",
            Command::DiscardNothing { tag } => tag,
            Command::Deallocate { name: Some(_) } => "DEALLOCATE",
            Command::Deallocate { name: None } => "DEALLOCATE ALL",
        }
    }
}

/// The command that `sql` is, or `None` if it is a statement for the backend.
pub fn parse(sql: &str) -> Result<Option<Command>> {
    let mut words = Words { text: sql, at: 0 };
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let command = match first.to_ascii_uppercase().as_str() {
        "SET" => set(&mut words)?,
        "SHOW" => show(&mut words)?,
        "RESET" => reset(&mut words)?,
        "DISCARD" => discard(&mut words)?,
        "DEALLOCATE" => deallocate(&mut words)?,
        word @ ("BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT"
        | "RELEASE" | "PREPARE") => {
            // PREPARE TRANSACTION is a block's end; PREPARE name AS is the parser's.
            if word == "PREPARE"
                && !words
                    .next()
                    .is_some_and(|w| w.eq_ignore_ascii_case("TRANSACTION"))
            {
                return Ok(None);
            }
            return Err(Error::unsupported(format_args!("{word} (a transaction block)"))
                .hint("send the statements as one simple query, or pipeline them before one Sync: they run as one transaction; or write a function"));
        }
        "COPY" => return Err(Error::unsupported("COPY").hint("use INSERT with several rows")),
        _ => return Ok(None),
    };
    match words.next() {
        Some(extra) => Err(syntax(extra)),
        None => Ok(Some(command)),
    }
}

fn set(words: &mut Words<'_>) -> Result<Command> {
    let mut name = words.name()?;
    if name == "session" || name == "local" {
        let local = name == "local";
        name = words.name()?;
        if local {
            return Err(
                Error::unsupported("SET LOCAL").hint("use SET; it lasts until the connection ends")
            );
        }
        if name == "characteristics" {
            words.rest();
            return Ok(Command::Characteristics);
        }
    }
    match name.as_str() {
        "time" => {
            words.expect("ZONE")?;
            name = "timezone".to_owned();
        }
        "names" => name = "client_encoding".to_owned(),
        "transaction" => {
            return Err(
                Error::unsupported("SET TRANSACTION").hint("every transaction is serializable")
            );
        }
        "authorization" | "role" => return Err(Error::unsupported("changing the role")),
        _ => match words.next() {
            Some("=") => {}
            Some(word) if word.eq_ignore_ascii_case("TO") => {}
            Some(word) => return Err(syntax(word)),
            None => return Err(end()),
        },
    }
    let value = words.value()?;
    Ok(Command::Set { name, value })
}

fn show(words: &mut Words<'_>) -> Result<Command> {
    let name = words.name()?;
    Ok(match name.as_str() {
        "all" => Command::ShowAll,
        "time" => {
            words.expect("ZONE")?;
            Command::Show {
                name: "timezone".to_owned(),
            }
        }
        "transaction" => {
            words.expect("ISOLATION")?;
            words.expect("LEVEL")?;
            Command::Show {
                name: "transaction_isolation".to_owned(),
            }
        }
        _ => Command::Show { name },
    })
}

fn reset(words: &mut Words<'_>) -> Result<Command> {
    let name = words.name()?;
    Ok(match name.as_str() {
        "all" => Command::ResetAll,
        "time" => {
            words.expect("ZONE")?;
            Command::Reset {
                name: "timezone".to_owned(),
            }
        }
        _ => Command::Reset { name },
    })
}

fn discard(words: &mut Words<'_>) -> Result<Command> {
    let what = words.name()?;
    Ok(match what.as_str() {
        "all" => Command::DiscardAll,
        "plans" => Command::DiscardNothing {
            tag: "DISCARD PLANS",
        },
        "sequences" => Command::DiscardNothing {
            tag: "DISCARD SEQUENCES",
        },
        "temp" | "temporary" => Command::DiscardNothing {
            tag: "DISCARD TEMP",
        },
        other => return Err(syntax(other)),
    })
}

fn deallocate(words: &mut Words<'_>) -> Result<Command> {
    let mut name = words.name()?;
    if name == "prepare" {
        name = words.name()?;
    }
    Ok(Command::Deallocate {
        name: (name != "all").then_some(name),
    })
}

fn syntax(near: &str) -> Error {
    Error::new("42601", format!("syntax error at or near \"{near}\""))
}

fn end() -> Error {
    Error::new("42601", "syntax error at end of input")
}

/// The tokens of one statement.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        while let Some(end) = (self.at < self.text.len())
            .then(|| split::blank(self.text, self.at))
            .flatten()
        {
            self.at = end;
        }
        if self.at >= self.text.len() || self.text.as_bytes()[self.at] == b';' {
            return None;
        }
        let start = self.at;
        self.at = split::token(self.text, start);
        Some(&self.text[start..self.at])
    }

    fn rest(&mut self) {
        while self.next().is_some() {}
    }

    fn expect(&mut self, keyword: &str) -> Result<()> {
        match self.next() {
            Some(word) if word.eq_ignore_ascii_case(keyword) => Ok(()),
            Some(word) => Err(syntax(word)),
            None => Err(end()),
        }
    }

    /// An identifier, possibly dotted, as PostgreSQL folds it.
    fn name(&mut self) -> Result<String> {
        let mut name = self.identifier()?;
        while self.text.as_bytes().get(self.at) == Some(&b'.') {
            self.at += 1;
            name.push('.');
            name.push_str(&self.identifier()?);
        }
        Ok(name)
    }

    fn identifier(&mut self) -> Result<String> {
        let word = self.next().ok_or_else(end)?;
        if let Some(quoted) = word.strip_prefix('"') {
            return Ok(quoted
                .strip_suffix('"')
                .unwrap_or(quoted)
                .replace("\"\"", "\""));
        }
        if word.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Ok(word.to_lowercase());
        }
        Err(syntax(word))
    }

    /// The value of SET: words, numbers and strings, separated by commas; `None` for DEFAULT.
    fn value(&mut self) -> Result<Option<String>> {
        let first = self.next().ok_or_else(end)?;
        if first.eq_ignore_ascii_case("DEFAULT") {
            return Ok(None);
        }
        let mut value = unquoted(first);
        let mut glue = first == "-";
        while let Some(word) = self.next() {
            if word == "," {
                value.push_str(", ");
                value.push_str(&unquoted(self.next().ok_or_else(end)?));
            } else if glue || word == "." || value.ends_with('.') {
                value.push_str(word);
                glue = false;
            } else {
                return Err(syntax(word));
            }
        }
        Ok(Some(value))
    }
}

fn unquoted(word: &str) -> String {
    match word.strip_prefix('\'').and_then(|w| w.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_to(name: &str, value: &str) -> Option<Command> {
        Some(Command::Set {
            name: name.into(),
            value: Some(value.into()),
        })
    }

    #[test]
    fn the_forms_drivers_send_are_understood() {
        assert_eq!(
            parse("SET extra_float_digits = 3").unwrap(),
            set_to("extra_float_digits", "3")
        );
        assert_eq!(
            parse("set session DateStyle to 'ISO', MDY;").unwrap(),
            set_to("datestyle", "ISO, MDY")
        );
        assert_eq!(
            parse("/* x */ SET TIME ZONE 'UTC'").unwrap(),
            set_to("timezone", "UTC")
        );
        assert_eq!(
            parse("SET NAMES 'utf8'").unwrap(),
            set_to("client_encoding", "utf8")
        );
        assert_eq!(
            parse("SET dbos.request TO 42").unwrap(),
            set_to("dbos.request", "42")
        );
        assert_eq!(parse("SET x = -1").unwrap(), set_to("x", "-1"));
        assert_eq!(
            parse("SET x TO DEFAULT").unwrap(),
            Some(Command::Set {
                name: "x".into(),
                value: None
            })
        );
        let isolation = Command::Show {
            name: "transaction_isolation".into(),
        };
        assert_eq!(
            parse("SHOW TRANSACTION ISOLATION LEVEL").unwrap(),
            Some(isolation)
        );
        assert_eq!(
            parse("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
                .unwrap(),
            Some(Command::Characteristics)
        );
        assert_eq!(
            parse("deallocate \"S_1\"").unwrap(),
            Some(Command::Deallocate {
                name: Some("S_1".into())
            })
        );
        assert_eq!(
            parse("DEALLOCATE ALL").unwrap(),
            Some(Command::Deallocate { name: None })
        );
        assert_eq!(parse("DISCARD ALL").unwrap(), Some(Command::DiscardAll));
        assert_eq!(parse("select 1").unwrap(), None);
        assert_eq!(parse("prepare x as select 1").unwrap(), None);
        assert_eq!(parse(" -- nothing").unwrap(), None);
    }

    #[test]
    fn transaction_blocks_and_copy_are_refused_with_a_hint() {
        for sql in [
            "BEGIN",
            "start transaction",
            "COMMIT;",
            "rollback",
            "SAVEPOINT a",
            "copy t from stdin",
            "SET LOCAL a = 1",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.sqlstate(), "0A000", "{sql}");
            assert!(error.get_hint().is_some(), "{sql}");
        }
        for sql in [
            "SET",
            "SET x",
            "SET x =",
            "SHOW",
            "SHOW a b",
            "SET x = 1 2",
            "DISCARD x",
            "RESET 'a'",
        ] {
            assert_eq!(parse(sql).unwrap_err().sqlstate(), "42601", "{sql}");
        }
    }
}
