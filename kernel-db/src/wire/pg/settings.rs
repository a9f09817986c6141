//! A connection's settings: what SET, SHOW and RESET work on.
//!
//! A setting is accepted only if the server then does what it says; values that would change how results look or what
//! isolation means are refused with 0A000 instead of being ignored. A change belongs to its transaction: `restore` takes it
//! back, `end_local` ends what SET LOCAL did.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// The server's version as clients compare it: the dialect follows this PostgreSQL.
pub const SERVER_VERSION: &str = "15.0";

type Check = fn(&str) -> Result<String>;

/// One setting: name as shown, default, whether the client is told about changes, and the check that makes a value
/// canonical (`None`: read-only).
struct Definition {
    name: &'static str,
    default: &'static str,
    reported: bool,
    check: Option<Check>,
}

impl Definition {
    fn shown(&self, value: &str) -> String {
        match value.parse() {
            Ok(ms) if TIMES.contains(&self.name) => in_units(ms),
            _ => value.to_owned(),
        }
    }
}

/// Settings that are times, kept in milliseconds.
const TIMES: [&str; 3] = [
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "statement_timeout",
];

/// PostgreSQL's units of time, in milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

fn in_units(ms: u64) -> String {
    match UNITS.iter().find(|(_, unit)| ms.is_multiple_of(*unit)) {
        Some((name, unit)) if ms > 0 => format!("{}{name}", ms / unit),
        _ => ms.to_string(),
    }
}

const fn fixed(name: &'static str, default: &'static str, reported: bool) -> Definition {
    Definition {
        name,
        default,
        reported,
        check: None,
    }
}

const fn free(
    name: &'static str,
    default: &'static str,
    reported: bool,
    check: Check,
) -> Definition {
    Definition {
        name,
        default,
        reported,
        check: Some(check),
    }
}

const DEFINITIONS: &[Definition] = &[
    free("application_name", "", true, any),
    free("bytea_output", "hex", false, |v| only(v, &["hex"])),
    free("client_encoding", "UTF8", true, encoding),
    free("client_min_messages", "notice", false, min_messages),
    free("DateStyle", "ISO, MDY", true, date_style),
    free("dbos.pipeline_order", "connection", false, |v| {
        only(v, &["connection", "partition"])
    }),
    free("default_transaction_deferrable", "off", false, |v| {
        boolean(v, None)
    }),
    free(
        "default_transaction_isolation",
        "serializable",
        false,
        isolation,
    ),
    free("default_transaction_read_only", "off", true, |v| {
        boolean(v, Some(false))
    }),
    free("extra_float_digits", "1", false, float_digits),
    free(
        "idle_in_transaction_session_timeout",
        "0",
        false,
        milliseconds,
    ),
    fixed("in_hot_standby", "off", true),
    fixed("integer_datetimes", "on", true),
    free("IntervalStyle", "postgres", true, |v| {
        only(v, &["postgres"])
    }),
    fixed("is_superuser", "on", true),
    free("lock_timeout", "0", false, milliseconds),
    fixed("max_identifier_length", "63", false),
    free("search_path", "\"$user\", public", false, search_path),
    fixed("server_encoding", "UTF8", true),
    fixed("server_version", SERVER_VERSION, true),
    fixed("server_version_num", "150000", false),
    free("standard_conforming_strings", "on", true, |v| {
        boolean(v, Some(true))
    }),
    free("statement_timeout", "0", false, milliseconds),
    free("synchronous_commit", "on", false, |v| {
        boolean(v, Some(true))
    }),
    free("TimeZone", "UTC", true, time_zone),
    fixed("transaction_isolation", "serializable", false),
    free("transaction_read_only", "off", false, |v| {
        boolean(v, Some(false))
    }),
];

fn definition(name: &str) -> Result<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|d| d.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            Error::new(
                "42704",
                format!("unrecognized configuration parameter \"{name}\""),
            )
        })
}

type Values = HashMap<&'static str, String>;

/// Values that differ from the defaults.
#[derive(Clone, Default)]
pub struct Settings {
    values: Values,
    /// What the transaction's end returns to, by names that SET LOCAL has changed; `None`: the default.
    local: HashMap<&'static str, Option<String>>,
    /// What RESET returns to: values from the startup message.
    startup: Values,
}

/// A change the client may have to be told about (ParameterStatus).
#[derive(Debug, PartialEq, Eq)]
pub struct Changed {
    pub name: &'static str,
    pub reported: bool,
}

impl Settings {
    /// From the startup message: checked like SET, and the value RESET returns to.
    pub fn start(&mut self, name: &str, value: &str) -> Result<()> {
        let changed = self.set(name, Some(value))?;
        if let Some(value) = self.values.get(changed.name) {
            self.startup.insert(changed.name, value.clone());
        }
        Ok(())
    }

    /// `None`: back to the default.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<Changed> {
        let definition = definition(name)?;
        let Some(check) = definition.check else {
            return Err(Error::new(
                "55P02",
                format!("parameter \"{}\" cannot be changed", definition.name),
            ));
        };
        let value = match value {
            Some(value) => {
                Some(check(value).map_err(|error| invalid(error, definition.name, value))?)
            }
            None => self.startup.get(definition.name).cloned(),
        };
        self.put(definition.name, value);
        self.local.remove(definition.name);
        Ok(Changed {
            name: definition.name,
            reported: definition.reported,
        })
    }

    fn put(&mut self, name: &'static str, value: Option<String>) {
        match value {
            Some(value) => self.values.insert(name, value),
            None => self.values.remove(name),
        };
    }

    /// As `set`, until the transaction's end.
    pub fn set_local(&mut self, name: &str, value: Option<&str>) -> Result<Changed> {
        let name = definition(name)?.name;
        let before = match self.local.get(name) {
            Some(before) => before.clone(),
            None => self.values.get(name).cloned(),
        };
        let changed = self.set(name, value)?;
        self.local.insert(name, before);
        Ok(changed)
    }

    /// The transaction is over: SET LOCAL has no effect any more. Returns what that changes.
    pub fn end_local(&mut self) -> Vec<Changed> {
        let before = self.values.clone();
        for (name, value) in std::mem::take(&mut self.local) {
            self.put(name, value);
        }
        self.changes(&before)
    }

    /// All as it was in `saved`; returns what that changes.
    pub fn restore(&mut self, saved: Settings) -> Vec<Changed> {
        let before = std::mem::replace(self, saved).values;
        self.changes(&before)
    }

    /// Every setting back to its default; returns those that were changed.
    pub fn reset(&mut self) -> Vec<Changed> {
        let before = std::mem::replace(&mut self.values, self.startup.clone());
        self.local.clear();
        self.changes(&before)
    }

    fn changes(&self, before: &Values) -> Vec<Changed> {
        let differs = |d: &&Definition| before.get(d.name) != self.values.get(d.name);
        DEFINITIONS
            .iter()
            .filter(differs)
            .map(|d| Changed {
                name: d.name,
                reported: d.reported,
            })
            .collect()
    }

    pub fn get(&self, name: &str) -> Result<&str> {
        let definition = definition(name)?;
        Ok(self
            .values
            .get(definition.name)
            .map_or(definition.default, String::as_str))
    }

    /// The value as SHOW prints it: a time in the largest unit that it is a whole number of.
    pub fn shown(&self, name: &str) -> Result<String> {
        let definition = definition(name)?;
        self.get(name).map(|value| definition.shown(value))
    }

    /// The setting's name as it is shown.
    pub fn shown_name(name: &str) -> Result<&'static str> {
        definition(name).map(|d| d.name)
    }

    /// All names and values as SHOW prints them; `reported`: only those told to the client at start.
    pub fn all(&self, reported: bool) -> impl Iterator<Item = (&'static str, String)> {
        let value = |d: &'static Definition| {
            d.shown(self.values.get(d.name).map_or(d.default, String::as_str))
        };
        DEFINITIONS
            .iter()
            .filter(move |d| d.reported || !reported)
            .map(move |d| (d.name, value(d)))
    }
}

/// Puts the parameter's name into the message of a check.
fn invalid(error: Error, name: &str, value: &str) -> Error {
    let message = match error.sqlstate() {
        "0A000" => format!("value \"{value}\" of parameter \"{name}\" is not supported yet"),
        _ => format!("invalid value for parameter \"{name}\": \"{value}\""),
    };
    let mut named = Error::new(error.sqlstate(), message);
    if let Some(hint) = error.get_hint() {
        named = named.hint(hint);
    }
    named
}

fn bad(hint: impl Into<String>) -> Error {
    Error::new("22023", "invalid value").hint(hint)
}

fn other(hint: &str) -> Error {
    Error::new("0A000", "value not supported").hint(hint)
}

fn any(value: &str) -> Result<String> {
    Ok(value.to_owned())
}

fn only(value: &str, allowed: &[&str]) -> Result<String> {
    match allowed.iter().find(|a| a.eq_ignore_ascii_case(value)) {
        Some(found) => Ok((*found).to_owned()),
        None => Err(other(&format!("available values: {}", allowed.join(", ")))),
    }
}

fn boolean(value: &str, only: Option<bool>) -> Result<String> {
    let parsed = match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => true,
        "off" | "false" | "no" | "0" | "f" | "n" => false,
        _ => return Err(bad("use on or off")),
    };
    let shown = if parsed { "on" } else { "off" };
    match only {
        Some(only) if only != parsed => Err(other(if only {
            "only on is supported"
        } else {
            "only off is supported"
        })),
        _ => Ok(shown.to_owned()),
    }
}

fn encoding(value: &str) -> Result<String> {
    let plain: String = value
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    match plain.as_str() {
        "utf8" | "unicode" => Ok("UTF8".to_owned()),
        _ => Err(other("the only client encoding is UTF8")),
    }
}

fn min_messages(value: &str) -> Result<String> {
    let value = value.to_ascii_lowercase();
    if severity_rank(&value).is_some() {
        Ok(value)
    } else {
        Err(bad(
            "available values: debug5, debug4, debug3, debug2, debug1, log, notice, warning, error",
        ))
    }
}

/// Order of message severities, lowest first.
pub fn severity_rank(severity: &str) -> Option<u8> {
    let rank = match severity.to_ascii_lowercase().as_str() {
        "debug" | "debug1" | "debug2" | "debug3" | "debug4" | "debug5" => 0,
        "log" => 1,
        "notice" => 2,
        "warning" => 3,
        "error" => 4,
        // INFO is always sent.
        "info" => u8::MAX,
        _ => return None,
    };
    Some(rank)
}

fn date_style(value: &str) -> Result<String> {
    for part in value.split(',') {
        match part.trim().to_ascii_lowercase().as_str() {
            "iso" | "mdy" | "us" | "default" => {}
            _ => return Err(other("dates are shown as ISO, MDY")),
        }
    }
    Ok("ISO, MDY".to_owned())
}

fn time_zone(value: &str) -> Result<String> {
    match value.to_ascii_lowercase().as_str() {
        "utc" | "etc/utc" | "gmt" | "etc/gmt" | "zulu" | "z" | "uct" | "universal" | "default"
        | "local" | "0" => Ok("UTC".to_owned()),
        _ => Err(other("times are read and shown in UTC")),
    }
}

fn isolation(value: &str) -> Result<String> {
    let value = value.to_ascii_lowercase();
    match value.as_str() {
        "serializable" | "repeatable read" | "read committed" | "read uncommitted" => Ok(value),
        _ => Err(bad(
            "available values: serializable, repeatable read, read committed, read uncommitted",
        )),
    }
}

fn float_digits(value: &str) -> Result<String> {
    match value.trim().parse::<i32>() {
        Ok(1..=3) => Ok(value.trim().to_owned()),
        Ok(-15..=0) => Err(other(
            "floats are shown in their shortest exact form: use 1, 2 or 3",
        )),
        _ => Err(bad("use a number from 1 to 3")),
    }
}

fn search_path(value: &str) -> Result<String> {
    let known = |part: &str| {
        matches!(
            part.trim().trim_matches('"'),
            "public" | "$user" | "pg_catalog" | "dbos"
        )
    };
    if value.split(',').all(known) {
        Ok(value.to_owned())
    } else {
        Err(other("tables live in the schema public"))
    }
}

/// A time with PostgreSQL's units; canonical in milliseconds.
fn milliseconds(value: &str) -> Result<String> {
    let value = value.trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let given = match value[digits..].trim() {
        "" => "ms",
        given => given,
    };
    let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == given) else {
        return Err(bad(
            "valid units are \"ms\", \"s\", \"min\", \"h\" and \"d\"",
        ));
    };
    let number = value[..digits]
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*unit));
    match number {
        // PostgreSQL's bound: an int4 of milliseconds.
        Some(n) if n <= i32::MAX as u64 => Ok(n.to_string()),
        _ => Err(bad(
            "use a number of milliseconds from 0 to 2147483647, or with a unit",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_canonical_and_reset_returns_to_the_startup_value() {
        let mut settings = Settings::default();
        settings.start("application_name", "psql").unwrap();
        settings.set("Statement_Timeout", Some("2 min")).unwrap();
        settings.set("APPLICATION_NAME", Some("x")).unwrap();
        assert_eq!(settings.get("statement_timeout").unwrap(), "120000");
        assert_eq!(settings.shown("statement_timeout").unwrap(), "2min");
        for (given, shown) in [
            ("30s", "30s"),
            ("1500", "1500ms"),
            ("0", "0"),
            ("3600s", "1h"),
            ("48h", "2d"),
            ("90min", "90min"),
        ] {
            settings.set("statement_timeout", Some(given)).unwrap();
            assert_eq!(settings.shown("statement_timeout").unwrap(), shown);
        }
        let changed: Vec<_> = settings.reset().into_iter().map(|c| c.name).collect();
        assert_eq!(changed, ["application_name", "statement_timeout"]);
        assert_eq!(settings.get("application_name").unwrap(), "psql");
        assert_eq!(settings.get("statement_timeout").unwrap(), "0");
    }

    #[test]
    fn what_the_server_would_not_do_is_refused() {
        let mut settings = Settings::default();
        for (name, value, state) in [
            ("TimeZone", "Europe/Berlin", "0A000"),
            ("client_encoding", "LATIN1", "0A000"),
            ("standard_conforming_strings", "off", "0A000"),
            ("statement_timeout", "5 weeks", "22023"),
            ("statement_timeout", "-1", "22023"),
            ("server_version", "16", "55P02"),
            ("no_such", "1", "42704"),
            ("extra_float_digits", "0", "0A000"),
        ] {
            assert_eq!(
                settings.set(name, Some(value)).unwrap_err().sqlstate(),
                state,
                "{name} = {value}"
            );
        }
        assert_eq!(settings.get("TimeZone").unwrap(), "UTC");
    }
}
