//! Statements about the connection itself, which never reach a partition.
//!
//! SET, SHOW, RESET, DISCARD and DEALLOCATE work on the connection; BEGIN and what belongs to it on its transaction block
//! (`block`). COPY is recognised here to be refused with a hint.

use super::backend::Column;
use super::block::{self, BlockCommand, Modes};
use super::settings::Settings;
use super::split;
use crate::error::{Error, Result};
use crate::sql::DataType;

/// Setting that is the highest timestamp seen by the node, in hybrid logical microseconds.
pub const SEEN: &str = "dbos.seen";
/// Setting that is the session's next request number (I11).
pub const REQUEST: &str = "dbos.request";
/// Setting that shows the client's session (I11); given by startup options only.
pub const SESSION: &str = "dbos.session";

/// A statement about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `None`: DEFAULT. `local`: until the transaction's end.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
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
    /// SET SESSION CHARACTERISTICS: of later transaction blocks.
    Characteristics(Modes),
    Block(BlockCommand),
}

impl Command {
    /// Result columns, as Describe shows them.
    pub fn columns(&self) -> Option<Vec<Column>> {
        let text = |name: &str| Column {
            name: name.to_owned(),
            data_type: DataType::Text,
        };
        match self {
            Command::Show { name } => Some(vec![text(Settings::shown_name(name).unwrap_or(name))]),
            Command::ShowAll => Some(vec![text("name"), text("setting"), text("description")]),
            _ => None,
        }
    }

    pub fn tag(&self) -> &'static str {
        match self {
            Command::Set { .. } | Command::Characteristics(_) => "SET",
            Command::Show { .. } | Command::ShowAll => "SHOW",
            Command::Reset { .. } | Command::ResetAll => "RESET",
            Command::DiscardAll => "DISCARD ALL",
            Command::DiscardNothing { tag } => tag,
            Command::Deallocate { name: Some(_) } => "DEALLOCATE",
            Command::Deallocate { name: None } => "DEALLOCATE ALL",
            Command::Block(command) => command.tag(),
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
        "COPY" => return Err(Error::unsupported("COPY").hint("use INSERT with several rows")),
        word => match block::parse(word, &mut words)? {
            Some(command) => Command::Block(command),
            None => return Ok(None),
        },
    };
    match words.next() {
        Some(extra) => Err(syntax(extra)),
        None => Ok(Some(command)),
    }
}

fn set(words: &mut Words<'_>) -> Result<Command> {
    let mut name = words.name()?;
    let local = name == "local";
    if name == "session" || local {
        name = words.name()?;
        if name == "characteristics" && !local {
            words.expect("AS")?;
            words.expect("TRANSACTION")?;
            let next = words.upper();
            return block::modes(words, next).map(Command::Characteristics);
        }
    }
    match name.as_str() {
        "time" => {
            words.expect("ZONE")?;
            name = "timezone".to_owned();
        }
        "names" => name = "client_encoding".to_owned(),
        "transaction" => {
            let next = words.upper();
            let modes = block::modes(words, next)?;
            return Ok(Command::Block(BlockCommand::SetTransaction(modes)));
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
    Ok(Command::Set { name, value, local })
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

pub(super) fn syntax(near: &str) -> Error {
    Error::new("42601", format!("syntax error at or near \"{near}\""))
}

pub(super) fn end() -> Error {
    Error::new("42601", "syntax error at end of input")
}

/// The tokens of one statement.
pub(super) struct Words<'a> {
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

    /// The next word in upper case.
    pub(super) fn upper(&mut self) -> Option<String> {
        self.next().map(str::to_ascii_uppercase)
    }

    /// The word after an optional WORK or TRANSACTION.
    pub(super) fn work(&mut self) -> Option<String> {
        match self.upper() {
            Some(word) if word == "WORK" || word == "TRANSACTION" => self.upper(),
            next => next,
        }
    }

    /// A savepoint's name after an optional SAVEPOINT.
    pub(super) fn savepoint(&mut self) -> Result<String> {
        let name = self.identifier()?;
        if name == "savepoint" && self.peek().is_some() {
            return self.identifier();
        }
        Ok(name)
    }

    fn peek(&self) -> Option<&'a str> {
        let mut ahead = Words { ..*self };
        ahead.next()
    }

    pub(super) fn expect(&mut self, keyword: &str) -> Result<()> {
        match self.next() {
            Some(word) if word.eq_ignore_ascii_case(keyword) => Ok(()),
            Some(word) => Err(syntax(word)),
            None => Err(end()),
        }
    }

    /// An identifier, possibly dotted, as PostgreSQL folds it.
    pub(super) fn name(&mut self) -> Result<String> {
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
    use crate::wire::pg::backend::Isolation;

    fn set_to(name: &str, value: &str) -> Option<Command> {
        Some(Command::Set {
            name: name.into(),
            value: Some(value.into()),
            local: false,
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
                value: None,
                local: false,
            })
        );
        assert_eq!(
            parse("SET LOCAL TIME ZONE DEFAULT").unwrap(),
            Some(Command::Set {
                name: "timezone".into(),
                value: None,
                local: true,
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
            Some(Command::Characteristics(Modes {
                isolation: Some(Isolation::ReadCommitted),
                read_only: None,
            }))
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
    fn what_is_not_there_is_refused_with_a_hint() {
        for sql in [
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "copy t from stdin",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.sqlstate(), "0A000", "{sql}");
            assert!(error.get_hint().is_some(), "{sql}");
        }
    }

    #[test]
    fn blocks_in_all_spellings() {
        let begin = |isolation, read_only, tag| {
            let modes = Modes {
                isolation,
                read_only,
            };
            BlockCommand::Begin { modes, tag }
        };
        let serializable = Some(Isolation::Serializable);
        for (sql, command) in [
            ("begin", begin(None, None, "BEGIN")),
            ("BEGIN WORK;", begin(None, None, "BEGIN")),
            (
                "begin isolation level serializable, read only, not deferrable",
                begin(serializable, Some(true), "BEGIN"),
            ),
            (
                "START TRANSACTION READ WRITE ISOLATION LEVEL READ UNCOMMITTED",
                begin(
                    Some(Isolation::ReadCommitted),
                    Some(false),
                    "START TRANSACTION",
                ),
            ),
            ("END", BlockCommand::Commit { chain: false }),
            ("commit and chain", BlockCommand::Commit { chain: true }),
            ("commit and no chain", BlockCommand::Commit { chain: false }),
            ("ABORT TRANSACTION", BlockCommand::Rollback { chain: false }),
            (
                "rollback to savepoint a",
                BlockCommand::RollbackTo("a".into()),
            ),
            ("ROLLBACK WORK TO B", BlockCommand::RollbackTo("b".into())),
            ("savepoint \"A\"", BlockCommand::Savepoint("A".into())),
            (
                "release savepoint",
                BlockCommand::Release("savepoint".into()),
            ),
            ("release savepoint x", BlockCommand::Release("x".into())),
        ] {
            assert_eq!(parse(sql).unwrap(), Some(Command::Block(command)), "{sql}");
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
            "begin nonsense",
            "start",
            "commit and",
            "begin isolation level x",
            "end end",
        ] {
            assert_eq!(parse(sql).unwrap_err().sqlstate(), "42601", "{sql}");
        }
    }
}
