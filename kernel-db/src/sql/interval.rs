//! Intervals: months, days and microseconds kept apart, since months and days have no fixed length.

use std::fmt::Write;

use super::Value;
use crate::error::{Error, Result};

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const DAYS_PER_MONTH: i64 = 30;

/// The length that comparisons use: a month is 30 days, a day 24 hours.
pub fn length(months: i32, days: i32, micros: i64) -> i128 {
    let days = i128::from(months) * i128::from(DAYS_PER_MONTH) + i128::from(days);
    days * i128::from(MICROS_PER_DAY) + i128::from(micros)
}

pub fn out_of_range() -> Error {
    Error::new("22008", "interval out of range")
}

/// An interval whose months and days fit.
fn make(months: i64, days: i64, micros: i64) -> Result<Value> {
    Ok(Value::Interval {
        months: i32::try_from(months).map_err(|_| out_of_range())?,
        days: i32::try_from(days).map_err(|_| out_of_range())?,
        micros,
    })
}

/// A span of microseconds with whole days split off, as timestamp subtraction gives it.
pub fn from_micros(micros: i64) -> Result<Value> {
    make(0, micros / MICROS_PER_DAY, micros % MICROS_PER_DAY)
}

type Parts = (i32, i32, i64);

pub fn add(a: Parts, b: Parts) -> Result<Value> {
    make(
        i64::from(a.0) + i64::from(b.0),
        i64::from(a.1) + i64::from(b.1),
        a.2.checked_add(b.2).ok_or_else(out_of_range)?,
    )
}

pub fn negate(a: Parts) -> Result<Value> {
    make(
        -i64::from(a.0),
        -i64::from(a.1),
        a.2.checked_neg().ok_or_else(out_of_range)?,
    )
}

/// interval_mul of timestamp.c: fractions of months go down to days, fractions of days to microseconds.
pub fn multiply(a: Parts, factor: f64) -> Result<Value> {
    let (months, days, micros) = (f64::from(a.0), f64::from(a.1), a.2 as f64);
    let whole_months = (months * factor).trunc();
    let mut whole_days = (days * factor).trunc();
    let month_days = round_micros((months * factor - whole_months) * DAYS_PER_MONTH as f64);
    let day_fraction = days * factor - whole_days + (month_days - month_days.trunc());
    let mut seconds = round_micros(day_fraction * 86_400.0);
    if seconds.abs() >= 86_400.0 {
        whole_days += (seconds / 86_400.0).trunc();
        seconds %= 86_400.0;
    }
    whole_days += month_days.trunc();
    let micros = (micros * factor + seconds * MICROS_PER_SECOND as f64).round_ties_even();
    let fits = |number: f64| number.is_finite() && number.abs() <= f64::from(i32::MAX);
    if !fits(whole_months) || !fits(whole_days) || micros.is_nan() || micros.abs() >= 9.2e18 {
        return Err(out_of_range());
    }
    make(whole_months as i64, whole_days as i64, micros as i64)
}

pub fn divide(a: Parts, divisor: f64) -> Result<Value> {
    if divisor == 0.0 {
        return Err(Error::new("22012", "division by zero"));
    }
    let (months, days, micros) = (f64::from(a.0), f64::from(a.1), a.2 as f64);
    let whole_months = (months / divisor).trunc();
    let mut whole_days = (days / divisor).trunc();
    let month_days = round_micros((months / divisor - whole_months) * DAYS_PER_MONTH as f64);
    let day_fraction = days / divisor - whole_days + (month_days - month_days.trunc());
    let mut seconds = round_micros(day_fraction * 86_400.0);
    if seconds.abs() >= 86_400.0 {
        whole_days += (seconds / 86_400.0).trunc();
        seconds %= 86_400.0;
    }
    whole_days += month_days.trunc();
    let micros = (micros / divisor + seconds * MICROS_PER_SECOND as f64).round_ties_even();
    if !micros.is_finite() || micros.abs() >= 9.2e18 {
        return Err(out_of_range());
    }
    make(whole_months as i64, whole_days as i64, micros as i64)
}

/// TSROUND: a double of seconds to whole microseconds.
fn round_micros(seconds: f64) -> f64 {
    (seconds * 1e6).round_ties_even() / 1e6
}

/// PostgreSQL's default output style: `1 year 2 mons -3 days +04:05:06.7`.
pub fn write(out: &mut String, months: i32, days: i32, micros: i64) {
    let start = out.len();
    let mut negative_before = false;
    for (number, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number == 0 {
            continue;
        }
        if out.len() > start {
            out.push(' ');
        }
        if negative_before && number > 0 {
            out.push('+');
        }
        let plural = if number == 1 { "" } else { "s" };
        let _ = write!(out, "{number} {unit}{plural}");
        negative_before = number < 0;
    }
    if micros == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.push(' ');
    }
    if micros < 0 {
        out.push('-');
    } else if negative_before {
        out.push('+');
    }
    let size = micros.unsigned_abs();
    let seconds = size / 1_000_000;
    let _ = write!(
        out,
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    super::time::write_fraction(out, (size % 1_000_000) as u32);
}

/// Parses `1 day 02:03:04`, `-5 s`, `1.5 hours ago` and the like; a bare number is seconds.
pub fn parse(text: &str) -> Result<Value> {
    Parser::default().run(text).unwrap_or_else(|| {
        Err(Error::new(
            "22007",
            format!("invalid input syntax for type interval: \"{text}\""),
        ))
    })
}

#[derive(Default)]
struct Parser {
    months: f64,
    days: f64,
    micros: f64,
    fields: usize,
}

impl Parser {
    /// `None`: not an interval.
    fn run(mut self, text: &str) -> Option<Result<Value>> {
        let tokens = tokens(text)?;
        let mut ago = false;
        let mut at = 0;
        while at < tokens.len() {
            let token = tokens[at].as_str();
            at += 1;
            if token == "ago" && at == tokens.len() && self.fields > 0 {
                ago = true;
            } else if token == "@" && at == 1 {
                continue;
            } else if token.contains(':') {
                self.micros += clock(token)?;
                self.fields += 1;
            } else {
                let number = decimal(token)?;
                let unit = match tokens.get(at) {
                    Some(unit) if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                        at += 1;
                        unit.as_str()
                    }
                    // A number before a clock time is days, the last number seconds.
                    Some(next) if next.contains(':') => "days",
                    Some(_) => return None,
                    None => "seconds",
                };
                self.add(number, unit)?;
            }
        }
        if self.fields == 0 {
            return None;
        }
        let sign = if ago { -1.0 } else { 1.0 };
        Some(self.finish(sign))
    }

    fn add(&mut self, number: f64, unit: &str) -> Option<()> {
        self.fields += 1;
        match unit {
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => self.micros += number,
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => self.micros += number * 1e3,
            "s" | "sec" | "secs" | "second" | "seconds" => self.micros += number * 1e6,
            "m" | "min" | "mins" | "minute" | "minutes" => self.micros += number * 6e7,
            "h" | "hr" | "hrs" | "hour" | "hours" => self.micros += number * 3.6e9,
            "d" | "day" | "days" => self.add_days(number),
            "w" | "week" | "weeks" => self.add_days(number * 7.0),
            "mon" | "mons" | "month" | "months" => {
                self.months += number.trunc();
                self.add_days(number.fract() * DAYS_PER_MONTH as f64);
            }
            "y" | "yr" | "yrs" | "year" | "years" => self.months += (number * 12.0).round(),
            "decade" | "decades" => self.months += (number * 120.0).round(),
            "c" | "century" | "centuries" => self.months += (number * 1200.0).round(),
            _ => return None,
        }
        Some(())
    }

    fn add_days(&mut self, number: f64) {
        self.days += number.trunc();
        self.micros += number.fract() * MICROS_PER_DAY as f64;
    }

    fn finish(self, sign: f64) -> Result<Value> {
        let micros = (self.micros * sign).round_ties_even();
        if micros.abs() >= 9.2e18 || self.months.abs() > 4e9 || self.days.abs() > 4e9 {
            return Err(Error::new("22015", "interval field value out of range"));
        }
        make(
            (self.months * sign) as i64,
            (self.days * sign) as i64,
            micros as i64,
        )
    }
}

/// Splits at blanks and between a number and its unit (`5s`).
fn tokens(text: &str) -> Option<Vec<String>> {
    let mut tokens = Vec::new();
    for word in text.to_ascii_lowercase().split_ascii_whitespace() {
        if !word.is_ascii() {
            return None;
        }
        match word.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) if at > 0 => {
                tokens.push(word[..at].to_string());
                tokens.push(word[at..].to_string());
            }
            _ => tokens.push(word.to_string()),
        }
    }
    Some(tokens)
}

fn decimal(token: &str) -> Option<f64> {
    let digits = token.strip_prefix(['+', '-']).unwrap_or(token);
    let plain = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !plain || digits.is_empty() {
        None
    } else {
        token.parse().ok()
    }
}

/// `[-]hh:mm[:ss[.ffffff]]` in microseconds.
fn clock(token: &str) -> Option<f64> {
    let (sign, rest) = match token.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, token.strip_prefix('+').unwrap_or(token)),
    };
    let fields: Vec<f64> = rest.split(':').map(decimal).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match fields[..] {
        [hours, minutes] => (hours, minutes, 0.0),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    if minutes >= 60.0 || seconds >= 61.0 || hours.fract() != 0.0 || minutes.fract() != 0.0 {
        return None;
    }
    Some(sign * (hours * 3.6e9 + minutes * 6e7 + seconds * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let Value::Interval {
            months,
            days,
            micros,
        } = parse(text).unwrap()
        else {
            panic!()
        };
        let mut out = String::new();
        write(&mut out, months, days, micros);
        out
    }

    #[test]
    fn reads_and_prints() {
        for (input, output) in [
            ("5 s", "00:00:05"),
            ("5", "00:00:05"),
            ("1 day 02:03:04", "1 day 02:03:04"),
            ("1 2:03", "1 day 02:03:00"),
            ("-1 days", "-1 days"),
            ("1 month -1 day", "1 mon -1 days"),
            ("-1 month 1 day 1 hour", "-1 mons +1 day 01:00:00"),
            ("1.5 hours", "01:30:00"),
            ("1.5 days", "1 day 12:00:00"),
            ("14 months", "1 year 2 mons"),
            ("2 weeks ago", "-14 days"),
            ("100ms", "00:00:00.1"),
            ("0", "00:00:00"),
            ("-00:00:05", "-00:00:05"),
            ("-1 day -5 s", "-1 days -00:00:05"),
            ("100 hours", "100:00:00"),
        ] {
            assert_eq!(shown(input), output, "{input}");
        }
        for bad in ["", "abc", "5 foo", "1 2 3", "ago", "1:99"] {
            assert_eq!(parse(bad).unwrap_err().sqlstate(), "22007", "{bad}");
        }
    }

    #[test]
    fn multiplies_with_fractions() {
        let Value::Interval {
            months,
            days,
            micros,
        } = multiply((1, 0, 0), 1.5).unwrap()
        else {
            panic!()
        };
        assert_eq!((months, days, micros), (1, 15, 0));
        let Value::Interval { days, micros, .. } = divide((0, 1, 0), 2.0).unwrap() else {
            panic!()
        };
        assert_eq!((days, micros), (0, MICROS_PER_DAY / 2));
        assert_eq!(
            multiply((i32::MAX, 0, 0), 2.0).unwrap_err().sqlstate(),
            "22008"
        );
    }
}
