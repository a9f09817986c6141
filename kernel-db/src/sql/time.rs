//! Points in time: microseconds since the Unix epoch, shown and read in UTC.
//!
//! Session time zones are left out: the zone is UTC. Input may carry a numeric offset.

use std::fmt::Write;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;
use chrono::{Datelike, Months, NaiveDate};

use super::Value;
use super::interval::{MICROS_PER_DAY, MICROS_PER_SECOND};
use crate::error::{Error, Result};

/// The two infinities.
pub const INFINITY: i64 = i64::MAX;
pub const MINUS_INFINITY: i64 = i64::MIN;

/// From 4714-11-24 BC, as in PostgreSQL, to 294247-01-10: PostgreSQL's end lies 29 years later, since it counts from 2000.
const FIRST: i64 = -210_866_803_200_000_000;
const LAST: i64 = i64::MAX - 1;

/// Days from 0001-01-01 (chrono's day 1) to 1970-01-01.
const EPOCH_FROM_CE: i64 = 719_163;

pub fn out_of_range() -> Error {
    Error::new("22008", "timestamp out of range")
}

fn in_range(micros: i128) -> Result<i64> {
    match i64::try_from(micros) {
        Ok(micros) if (FIRST..=LAST).contains(&micros) => Ok(micros),
        _ => Err(out_of_range()),
    }
}

pub fn is_finite(micros: i64) -> bool {
    micros != INFINITY && micros != MINUS_INFINITY
}

fn date_of(micros: i64) -> Result<NaiveDate> {
    let day = micros.div_euclid(MICROS_PER_DAY) + EPOCH_FROM_CE;
    i32::try_from(day)
        .ok()
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .ok_or_else(out_of_range)
}

fn micros_of(date: NaiveDate) -> i128 {
    (i128::from(date.num_days_from_ce()) - i128::from(EPOCH_FROM_CE)) * i128::from(MICROS_PER_DAY)
}

/// `.123456` without trailing zeros; nothing for zero.
pub fn write_fraction(out: &mut String, micros: u32) {
    if micros == 0 {
        return;
    }
    let digits = format!("{micros:06}");
    let _ = write!(out, ".{}", digits.trim_end_matches('0'));
}

/// ISO output: `2026-11-22 00:00:00.5+00`.
pub fn write(out: &mut String, micros: i64) {
    if !is_finite(micros) {
        out.push_str(if micros == INFINITY {
            "infinity"
        } else {
            "-infinity"
        });
        return;
    }
    let Ok(date) = date_of(micros) else {
        // Values outside of the range cannot be made; shown raw rather than wrong.
        let _ = write!(out, "{micros} us");
        return;
    };
    let rest = micros.rem_euclid(MICROS_PER_DAY);
    let seconds = rest / MICROS_PER_SECOND;
    let before_christ = date.year() <= 0;
    let year = if before_christ {
        1 - date.year()
    } else {
        date.year()
    };
    let _ = write!(
        out,
        "{year:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        date.month(),
        date.day(),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    write_fraction(out, (rest % MICROS_PER_SECOND) as u32);
    out.push_str("+00");
    if before_christ {
        out.push_str(" BC");
    }
}

/// Parses ISO dates and times with an optional offset; `now` gives the names `now`, `today`, `tomorrow` and `yesterday`.
pub fn parse(text: &str, now: Option<i64>) -> Result<i64> {
    let invalid = || {
        let message = format!("invalid input syntax for type timestamp with time zone: \"{text}\"");
        Error::new("22007", message)
    };
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let lower = trimmed.to_ascii_lowercase();
    match (lower.as_str(), now) {
        ("epoch", _) => return Ok(0),
        ("infinity" | "+infinity", _) => return Ok(INFINITY),
        ("-infinity", _) => return Ok(MINUS_INFINITY),
        ("now", Some(now)) => return Ok(now),
        ("today", Some(now)) => return Ok(now - now.rem_euclid(MICROS_PER_DAY)),
        ("tomorrow", Some(now)) => {
            return Ok(now - now.rem_euclid(MICROS_PER_DAY) + MICROS_PER_DAY);
        }
        ("yesterday", Some(now)) => {
            return Ok(now - now.rem_euclid(MICROS_PER_DAY) - MICROS_PER_DAY);
        }
        _ => {}
    }
    let (body, before_christ) = match lower.strip_suffix("bc") {
        Some(body) => (body.trim_end(), true),
        None => (lower.strip_suffix("ad").unwrap_or(&lower).trim_end(), false),
    };
    let fields = split(body).ok_or_else(invalid)?;
    let micros = fields.micros(before_christ).ok_or_else(|| {
        Error::new(
            "22008",
            format!("date/time field value out of range: \"{text}\""),
        )
    })?;
    in_range(micros).map_err(|_| Error::new("22008", format!("timestamp out of range: \"{text}\"")))
}

/// The fields of a time as written.
struct Fields {
    year: i32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    fraction: i64,
    /// Seconds east of Greenwich.
    offset: i64,
}

impl Fields {
    /// `None` if a field is out of its range.
    fn micros(&self, before_christ: bool) -> Option<i128> {
        if self.year == 0 {
            return None;
        }
        let year = if before_christ {
            1 - self.year
        } else {
            self.year
        };
        let date = NaiveDate::from_ymd_opt(year, self.month, self.day)?;
        let end_of_day =
            self.hour == 24 && self.minute == 0 && self.second == 0 && self.fraction == 0;
        if (self.hour > 23 && !end_of_day) || self.minute > 59 || self.second > 60 {
            return None;
        }
        if self.offset.abs() >= 16 * 3600 {
            return None;
        }
        let seconds = i64::from(self.hour * 3600 + self.minute * 60 + self.second) - self.offset;
        Some(micros_of(date) + i128::from(seconds * MICROS_PER_SECOND + self.fraction))
    }
}

/// `None`: not in the form `date[ time[offset]]`.
fn split(text: &str) -> Option<Fields> {
    let at = text.find([' ', 't']).unwrap_or(text.len());
    let (date, rest) = text.split_at(at);
    let (year, month, day) = split_date(date)?;
    let rest = rest.trim_start_matches(['t', ' ']);
    let zone_at = rest
        .find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
        .unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let (hour, minute, second, fraction) = if clock.is_empty() {
        (0, 0, 0, 0)
    } else {
        split_clock(clock)?
    };
    let offset = split_offset(zone.trim())?;
    Some(Fields {
        year,
        month,
        day,
        hour,
        minute,
        second,
        fraction,
        offset,
    })
}

fn split_date(text: &str) -> Option<(i32, u32, u32)> {
    let mut parts = text.split('-');
    let fields = (parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    match fields {
        (year, Some(month), Some(day)) if year.len() >= 3 => {
            Some((digits(year)? as i32, digits(month)?, digits(day)?))
        }
        // 20261122
        (compact, None, None) if compact.len() == 8 && compact.is_ascii() => Some((
            digits(&compact[..4])? as i32,
            digits(&compact[4..6])?,
            digits(&compact[6..])?,
        )),
        _ => None,
    }
}

fn split_clock(text: &str) -> Option<(u32, u32, u32, i64)> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?)?;
    let minute = digits(parts.next()?)?;
    let (second, fraction) = match parts.next() {
        None => (0, 0),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            (digits(whole)?, fraction_micros(fraction)?)
        }
    };
    if parts.next().is_some() {
        None
    } else {
        Some((hour, minute, second, fraction))
    }
}

/// Digits behind the point as microseconds, rounded.
fn fraction_micros(digits: &str) -> Option<i64> {
    if digits.is_empty() {
        return Some(0);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: f64 = format!("0.{digits}").parse().ok()?;
    Some((seconds * 1e6).round_ties_even() as i64)
}

fn split_offset(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.as_bytes().first() {
        None => return Some(0),
        Some(b'+') => (1, &zone[1..]),
        Some(b'-') => (-1, &zone[1..]),
        Some(_) if matches!(zone, "z" | "utc" | "gmt" | "ut" | "zulu") => return Some(0),
        Some(_) => return None,
    };
    let (hours, minutes, seconds) = match rest.split(':').collect::<Vec<_>>()[..] {
        [hours] if hours.len() == 4 && hours.is_ascii() => {
            (digits(&hours[..2])?, digits(&hours[2..])?, 0)
        }
        [hours] => (digits(hours)?, 0, 0),
        [hours, minutes] => (digits(hours)?, digits(minutes)?, 0),
        [hours, minutes, seconds] => (digits(hours)?, digits(minutes)?, digits(seconds)?),
        _ => return None,
    };
    Some(sign * i64::from(hours * 3600 + minutes * 60 + seconds))
}

fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Adds months by the calendar (the day is cut to the month's length), then days, then microseconds.
pub fn add_interval(micros: i64, months: i32, days: i32, more: i64) -> Result<i64> {
    if !is_finite(micros) {
        return Ok(micros);
    }
    let mut sum = i128::from(micros);
    if months != 0 {
        let date = date_of(micros)?;
        let count = Months::new(months.unsigned_abs());
        let moved = if months > 0 {
            date.checked_add_months(count)
        } else {
            date.checked_sub_months(count)
        };
        let moved = moved.ok_or_else(out_of_range)?;
        sum = micros_of(moved) + i128::from(micros.rem_euclid(MICROS_PER_DAY));
    }
    sum += i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(more);
    in_range(sum)
}

/// `a - b` as an interval of days and microseconds.
pub fn difference(a: i64, b: i64) -> Result<Value> {
    if !is_finite(a) || !is_finite(b) {
        return Err(Error::new("22008", "cannot subtract infinite timestamps"));
    }
    super::interval::from_micros(a.checked_sub(b).ok_or_else(super::interval::out_of_range)?)
}

/// to_timestamp(double precision).
pub fn from_seconds(seconds: f64) -> Result<i64> {
    if seconds.is_nan() {
        return Err(Error::new("22008", "timestamp cannot be NaN"));
    }
    if seconds.is_infinite() {
        return Ok(if seconds > 0.0 {
            INFINITY
        } else {
            MINUS_INFINITY
        });
    }
    let micros = (seconds * 1e6).round_ties_even();
    if micros.abs() > LAST as f64 {
        let message = format!(
            "timestamp out of range: \"{}\"",
            super::text::float_text(seconds)
        );
        return Err(Error::new("22008", message));
    }
    in_range(micros as i128)
}

/// A whole number, or micros over a power of ten shown with that many digits.
fn decimal(number: i64, scale: i64) -> BigDecimal {
    BigDecimal::new(BigInt::from(number), scale)
}

fn unknown_field(field: &str, of: &str) -> Error {
    Error::new(
        "22023",
        format!("unit \"{field}\" not recognized for type {of}"),
    )
}

/// extract(field from timestamptz).
pub fn extract(field: &str, micros: i64) -> Result<BigDecimal> {
    if !is_finite(micros) {
        return Err(Error::unsupported("extract from an infinite timestamp"));
    }
    let date = date_of(micros)?;
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    let of_minute = of_day % (60 * MICROS_PER_SECOND);
    let seconds = of_day / MICROS_PER_SECOND;
    let year = i64::from(date.year());
    let shown_year = if year > 0 { year } else { year - 1 };
    let whole = match field.to_ascii_lowercase().as_str() {
        "year" | "years" => shown_year,
        "month" | "months" => i64::from(date.month()),
        "day" | "days" => i64::from(date.day()),
        "hour" | "hours" => seconds / 3600,
        "minute" | "minutes" => seconds / 60 % 60,
        "second" | "seconds" => return Ok(decimal(of_minute, 6)),
        "millisecond" | "milliseconds" => return Ok(decimal(of_minute, 3)),
        "microsecond" | "microseconds" => of_minute,
        "epoch" => return Ok(decimal(micros, 6)),
        "dow" => i64::from(date.weekday().num_days_from_sunday()),
        "isodow" => i64::from(date.weekday().number_from_monday()),
        "doy" => i64::from(date.ordinal()),
        "week" => i64::from(date.iso_week().week()),
        "isoyear" => i64::from(date.iso_week().year()),
        "quarter" => i64::from((date.month() - 1) / 3 + 1),
        "decade" => year.div_euclid(10),
        "century" => {
            if year > 0 {
                (year + 99) / 100
            } else {
                -((99 - (year - 1)) / 100)
            }
        }
        "millennium" => {
            if year > 0 {
                (year + 999) / 1000
            } else {
                -((999 - (year - 1)) / 1000)
            }
        }
        "timezone" | "timezone_hour" | "timezone_minute" => 0,
        _ => return Err(unknown_field(field, "timestamp with time zone")),
    };
    Ok(decimal(whole, 0))
}

/// extract(field from interval).
pub fn extract_interval(field: &str, months: i32, days: i32, micros: i64) -> Result<BigDecimal> {
    let of_minute = micros % (60 * MICROS_PER_SECOND);
    let seconds = micros / MICROS_PER_SECOND;
    let whole = match field.to_ascii_lowercase().as_str() {
        "year" | "years" => i64::from(months / 12),
        "month" | "months" => i64::from(months % 12),
        "day" | "days" => i64::from(days),
        "hour" | "hours" => seconds / 3600,
        "minute" | "minutes" => seconds / 60 % 60,
        "second" | "seconds" => return Ok(decimal(of_minute, 6)),
        "millisecond" | "milliseconds" => return Ok(decimal(of_minute, 3)),
        "microsecond" | "microseconds" => of_minute,
        "quarter" => i64::from(months % 12 / 3 + 1),
        "decade" => i64::from(months / 120),
        "century" => i64::from(months / 1200),
        "millennium" => i64::from(months / 12_000),
        "epoch" => {
            // A year is 365.25 days here, as in PostgreSQL.
            let days = i128::from(months / 12) * 1_461 * i128::from(MICROS_PER_DAY) / 4
                + (i128::from(months % 12) * 30 + i128::from(days)) * i128::from(MICROS_PER_DAY);
            return Ok(BigDecimal::new(BigInt::from(days + i128::from(micros)), 6));
        }
        _ => return Err(unknown_field(field, "interval")),
    };
    Ok(decimal(whole, 0))
}

/// date_trunc(field, timestamptz).
pub fn truncate(field: &str, micros: i64) -> Result<i64> {
    if !is_finite(micros) {
        return Ok(micros);
    }
    let step = match field.to_ascii_lowercase().as_str() {
        "microsecond" | "microseconds" => 1,
        "millisecond" | "milliseconds" => 1_000,
        "second" | "seconds" => MICROS_PER_SECOND,
        "minute" | "minutes" => 60 * MICROS_PER_SECOND,
        "hour" | "hours" => 3600 * MICROS_PER_SECOND,
        "day" | "days" => MICROS_PER_DAY,
        other => return truncate_date(other, field, micros),
    };
    Ok(micros - micros.rem_euclid(step))
}

fn truncate_date(lower: &str, field: &str, micros: i64) -> Result<i64> {
    let date = date_of(micros)?;
    let year = date.year();
    let first = |year: i32, month: u32| NaiveDate::from_ymd_opt(year, month, 1);
    let start = match lower {
        "week" | "weeks" => {
            let back = i64::from(date.weekday().num_days_from_monday());
            date.checked_sub_signed(chrono::Duration::days(back))
        }
        "month" | "months" => first(year, date.month()),
        "quarter" => first(year, (date.month() - 1) / 3 * 3 + 1),
        "year" | "years" => first(year, 1),
        "decade" | "decades" => first(year.div_euclid(10) * 10, 1),
        "century" | "centuries" => first((year - 1).div_euclid(100) * 100 + 1, 1),
        "millennium" | "millenniums" => first((year - 1).div_euclid(1000) * 1000 + 1, 1),
        _ => return Err(unknown_field(field, "timestamp with time zone")),
    };
    in_range(micros_of(start.ok_or_else(out_of_range)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut out = String::new();
        write(&mut out, parse(text, None).unwrap());
        out
    }

    #[test]
    fn reads_and_prints() {
        for (input, output) in [
            ("2026-11-22", "2026-11-22 00:00:00+00"),
            ("2026-11-22 01:02", "2026-11-22 01:02:00+00"),
            ("2026-11-22T01:02:03.45Z", "2026-11-22 01:02:03.45+00"),
            ("2026-11-22 01:02:03+02", "2026-11-21 23:02:03+00"),
            ("2026-11-22 01:02:03-05:30", "2026-11-22 06:32:03+00"),
            ("2026-11-22 01:02:03 UTC", "2026-11-22 01:02:03+00"),
            ("20261122", "2026-11-22 00:00:00+00"),
            (
                "1969-12-31 23:59:59.999999",
                "1969-12-31 23:59:59.999999+00",
            ),
            ("epoch", "1970-01-01 00:00:00+00"),
            ("-infinity", "-infinity"),
            ("0044-03-15 BC", "0044-03-15 00:00:00+00 BC"),
            ("2026-01-01 24:00", "2026-01-02 00:00:00+00"),
        ] {
            assert_eq!(shown(input), output, "{input}");
        }
        for (bad, code) in [
            ("", "22007"),
            ("foo", "22007"),
            ("2026-02-30", "22008"),
            ("2026-13-01", "22008"),
            ("2026-01-01 25:00", "22008"),
            ("2026-01-01 x", "22007"),
            ("999999-01-01", "22008"),
        ] {
            assert_eq!(parse(bad, None).unwrap_err().sqlstate(), code, "{bad}");
        }
    }

    #[test]
    fn adds_by_the_calendar() {
        let start = parse("2026-01-31 10:00", None).unwrap();
        let mut out = String::new();
        write(&mut out, add_interval(start, 1, 1, 1).unwrap());
        assert_eq!(out, "2026-03-01 10:00:00.000001+00");
        assert_eq!(add_interval(INFINITY, 1, 0, 0).unwrap(), INFINITY);
        assert_eq!(add_interval(LAST, 0, 1, 0).unwrap_err().sqlstate(), "22008");
    }

    #[test]
    fn extracts_fields() {
        let at = parse("2026-11-22 13:45:06.5", None).unwrap();
        let field = |name| super::super::numeric::format(&extract(name, at).unwrap());
        assert_eq!(field("second"), "6.500000");
        assert_eq!(field("EPOCH"), "1795355106.500000");
        assert_eq!(field("dow"), "0");
        assert_eq!(field("week"), "47");
        assert_eq!(field("quarter"), "4");
        assert_eq!(field("century"), "21");
        assert_eq!(extract("foo", at).unwrap_err().sqlstate(), "22023");
        let mut out = String::new();
        write(&mut out, truncate("week", at).unwrap());
        assert_eq!(out, "2026-11-16 00:00:00+00");
    }
}
