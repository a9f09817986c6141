//! Exact decimals with PostgreSQL's display scales.
//!
//! A number is an integer times ten to the minus scale; the scale is what PostgreSQL shows, so it survives every
//! operation: a sum has the larger scale, a product both together, a quotient enough for 16 significant digits.
//! NaN and the infinities of PostgreSQL's numeric are left out.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};
use bigdecimal::num_traits::{Pow, Signed, ToPrimitive, Zero};

use crate::error::{Error, Result};

/// PostgreSQL's bounds: digits before and after the point.
const MAX_INTEGER_DIGITS: i64 = 131_072;
const MAX_SCALE: i64 = 16_383;
/// Significant digits a quotient or a root has at least.
const MIN_SIGNIFICANT: i64 = 16;
const MAX_RESULT_SCALE: i64 = 1000;
/// PostgreSQL's numeric counts in digits of base 10,000; quotients' scales depend on it.
const BASE_DIGITS: i64 = 4;

fn ten_to(exponent: i64) -> BigInt {
    let exponent = u32::try_from(exponent).unwrap_or(0);
    Pow::pow(BigInt::from(10), exponent)
}

fn overflow() -> Error {
    Error::new("22003", "value overflows numeric format")
}

fn division_by_zero() -> Error {
    Error::new("22012", "division by zero")
}

fn parts(number: &BigDecimal) -> (BigInt, i64) {
    number.as_bigint_and_exponent()
}

/// Digits and scale checked against the bounds; a negative scale becomes zeros.
fn make(digits: BigInt, scale: i64) -> Result<BigDecimal> {
    // 3.33 bits a decimal digit: a cheap bound before anything is printed.
    let most_bits = (MAX_INTEGER_DIGITS + scale.max(0)) * 10 / 3 + 8;
    let bits = i64::try_from(digits.bits()).unwrap_or(i64::MAX);
    if bits > most_bits || scale < -MAX_INTEGER_DIGITS {
        return Err(overflow());
    }
    if scale > MAX_SCALE {
        return Ok(BigDecimal::new(
            rounded_quotient(&digits, &ten_to(scale - MAX_SCALE)),
            MAX_SCALE,
        ));
    }
    if scale < 0 {
        return Ok(BigDecimal::new(digits * ten_to(-scale), 0));
    }
    Ok(BigDecimal::new(digits, scale))
}

/// `a / b`, halves away from zero.
fn rounded_quotient(a: &BigInt, b: &BigInt) -> BigInt {
    let quotient = a / b;
    let remainder = a % b;
    if remainder.abs() * 2 < b.abs() {
        return quotient;
    }
    let negative = a.is_negative() != b.is_negative();
    if negative { quotient - 1 } else { quotient + 1 }
}

fn aligned(a: &BigDecimal, b: &BigDecimal) -> (BigInt, BigInt, i64) {
    let (mut x, x_scale) = parts(a);
    let (mut y, y_scale) = parts(b);
    let scale = x_scale.max(y_scale);
    if x_scale < scale {
        x *= ten_to(scale - x_scale);
    }
    if y_scale < scale {
        y *= ten_to(scale - y_scale);
    }
    (x, y, scale)
}

/// Parses PostgreSQL's input syntax: 22P02 when it is none, 22003 beyond the bounds.
pub fn parse(text: &str) -> Result<BigDecimal> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let invalid = || {
        Error::new(
            "22P02",
            format!("invalid input syntax for type numeric: \"{text}\""),
        )
    };
    let (negative, unsigned) = match trimmed.as_bytes().first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    if matches!(
        unsigned.to_ascii_lowercase().as_str(),
        "nan" | "inf" | "infinity"
    ) {
        return Err(Error::unsupported("numeric NaN and infinity").hint("use double precision"));
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        None => (unsigned, 0),
        Some(at) => (
            &unsigned[..at],
            parse_exponent(&unsigned[at + 1..]).ok_or_else(invalid)?,
        ),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    if digits.len() as i64 > MAX_INTEGER_DIGITS + MAX_SCALE {
        return Err(overflow());
    }
    let number = BigInt::parse_bytes(digits.as_bytes(), 10).ok_or_else(invalid)?;
    let number = if negative { -number } else { number };
    let scale = fraction.len() as i64 - exponent;
    if number.is_zero() {
        return Ok(BigDecimal::new(number, scale.clamp(0, MAX_SCALE)));
    }
    make_checked_scale(number, scale)
}

/// An absurd negative exponent rounds to zero without building ten to its power.
fn make_checked_scale(number: BigInt, scale: i64) -> Result<BigDecimal> {
    let digits = number.abs().to_string().len() as i64;
    if digits - scale > MAX_INTEGER_DIGITS {
        return Err(overflow());
    }
    if scale - digits > MAX_SCALE + 1 {
        return Ok(BigDecimal::new(BigInt::zero(), MAX_SCALE));
    }
    make(number, scale)
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Beyond any bound is as good as far beyond it.
    let exponent = digits.parse::<i64>().unwrap_or(i64::MAX).min(1_000_000_000);
    Some(if text.starts_with('-') {
        -exponent
    } else {
        exponent
    })
}

/// PostgreSQL's output: all digits of the scale, never an exponent.
pub fn format(number: &BigDecimal) -> String {
    let (digits, scale) = parts(number);
    let mut text = digits.abs().to_string();
    if let Ok(scale) = usize::try_from(scale) {
        if scale > 0 {
            if text.len() <= scale {
                text.insert_str(0, &"0".repeat(scale + 1 - text.len()));
            }
            text.insert(text.len() - scale, '.');
        }
    } else if !digits.is_zero() {
        text.push_str(&"0".repeat(scale.unsigned_abs() as usize));
    }
    if digits.sign() == Sign::Minus {
        text.insert(0, '-');
    }
    text
}

pub fn add(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal> {
    let (x, y, scale) = aligned(a, b);
    make(x + y, scale)
}

pub fn subtract(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal> {
    let (x, y, scale) = aligned(a, b);
    make(x - y, scale)
}

pub fn multiply(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal> {
    let (x, x_scale) = parts(a);
    let (y, y_scale) = parts(b);
    make(x * y, x_scale + y_scale)
}

pub fn divide(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal> {
    let (x, x_scale) = parts(a);
    let (y, y_scale) = parts(b);
    if y.is_zero() {
        return Err(division_by_zero());
    }
    let scale = quotient_scale(a, b);
    // x/10^xs / (y/10^ys) * 10^scale
    let shift = scale + y_scale - x_scale;
    let quotient = if shift >= 0 {
        rounded_quotient(&(x * ten_to(shift)), &y)
    } else {
        rounded_quotient(&x, &(y * ten_to(-shift)))
    };
    make(quotient, scale)
}

/// select_div_scale of numeric.c.
fn quotient_scale(a: &BigDecimal, b: &BigDecimal) -> i64 {
    let (a_weight, a_first) = leading(a);
    let (b_weight, b_first) = leading(b);
    let mut weight = a_weight - b_weight;
    if a_first <= b_first {
        weight -= 1;
    }
    (MIN_SIGNIFICANT - weight * BASE_DIGITS)
        .max(scale_of(a))
        .max(scale_of(b))
        .clamp(0, MAX_RESULT_SCALE)
}

/// Weight and value of the first base-10,000 digit that is not zero; (0, 0) for zero.
fn leading(number: &BigDecimal) -> (i64, i64) {
    let (digits, scale) = parts(number);
    if digits.is_zero() {
        return (0, 0);
    }
    let text = digits.abs().to_string();
    let before_point = text.len() as i64 - scale;
    let weight = (before_point - 1).div_euclid(BASE_DIGITS);
    let take = ((before_point - 1).rem_euclid(BASE_DIGITS) + 1) as usize;
    let first = text
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(take)
        .fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
    (weight, first)
}

/// The remainder of the division truncated towards zero.
pub fn modulo(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal> {
    let (x, y, scale) = aligned(a, b);
    if y.is_zero() {
        return Err(division_by_zero());
    }
    make(x % y, scale)
}

pub fn negate(number: &BigDecimal) -> BigDecimal {
    let (digits, scale) = parts(number);
    BigDecimal::new(-digits, scale)
}

pub fn abs(number: &BigDecimal) -> BigDecimal {
    let (digits, scale) = parts(number);
    BigDecimal::new(digits.abs(), scale)
}

pub fn compare(a: &BigDecimal, b: &BigDecimal) -> Ordering {
    let (x, y, _) = aligned(a, b);
    x.cmp(&y)
}

/// -1, 0 or 1.
pub fn sign(number: &BigDecimal) -> BigDecimal {
    let (digits, _) = parts(number);
    BigDecimal::new(digits.signum(), 0)
}

/// Digits shown after the point.
pub fn scale_of(number: &BigDecimal) -> i64 {
    number.fractional_digit_count().max(0)
}

/// Rounds to `scale` digits, halves away from zero; a negative scale rounds before the point.
pub fn round(number: &BigDecimal, scale: i64) -> Result<BigDecimal> {
    rescale(number, scale, rounded_quotient)
}

/// Cuts after `scale` digits.
pub fn truncate(number: &BigDecimal, scale: i64) -> Result<BigDecimal> {
    rescale(number, scale, |digits, power| digits / power)
}

fn rescale(
    number: &BigDecimal,
    scale: i64,
    divide: fn(&BigInt, &BigInt) -> BigInt,
) -> Result<BigDecimal> {
    let scale = scale.clamp(-MAX_INTEGER_DIGITS, MAX_SCALE);
    let (digits, old_scale) = parts(number);
    if scale >= old_scale {
        return make(digits * ten_to(scale - old_scale), scale);
    }
    let kept = divide(&digits, &ten_to(old_scale - scale));
    if scale >= 0 {
        make(kept, scale)
    } else {
        make(kept * ten_to(-scale), 0)
    }
}

pub fn floor(number: &BigDecimal) -> Result<BigDecimal> {
    let whole = truncate(number, 0)?;
    if compare(&whole, number) == Ordering::Greater {
        return subtract(&whole, &BigDecimal::from(1));
    }
    Ok(whole)
}

pub fn ceil(number: &BigDecimal) -> Result<BigDecimal> {
    let whole = truncate(number, 0)?;
    if compare(&whole, number) == Ordering::Less {
        return add(&whole, &BigDecimal::from(1));
    }
    Ok(whole)
}

pub fn sqrt(number: &BigDecimal) -> Result<BigDecimal> {
    let (digits, scale) = parts(number);
    if digits.is_negative() {
        return Err(Error::new(
            "2201F",
            "cannot take square root of a negative number",
        ));
    }
    let (weight, _) = leading(number);
    let result_scale = (MIN_SIGNIFICANT - (weight * BASE_DIGITS / 2 + 1))
        .max(scale_of(number))
        .clamp(0, MAX_RESULT_SCALE);
    // One digit more than shown, so that the last one is rounded.
    let shift = 2 * (result_scale + 1) - scale;
    let root = if shift >= 0 {
        (digits * ten_to(shift)).sqrt()
    } else {
        (digits / ten_to(-shift)).sqrt()
    };
    make(rounded_quotient(&root, &BigInt::from(10)), result_scale)
}

/// The integer nearest to the number, halves away from zero; `None` outside of int8.
pub fn to_i64(number: &BigDecimal) -> Option<i64> {
    let (digits, scale) = parts(number);
    let whole = if scale > 0 {
        rounded_quotient(&digits, &ten_to(scale))
    } else {
        digits * ten_to(-scale)
    };
    whole.to_i64()
}

pub fn to_f64(number: &BigDecimal) -> f64 {
    format(number).parse().unwrap_or(f64::NAN)
}

/// PostgreSQL keeps 15 significant digits of a double.
pub fn from_f64(number: f64) -> Result<BigDecimal> {
    if !number.is_finite() {
        return Err(Error::unsupported("numeric NaN and infinity").hint("use double precision"));
    }
    let exact = parse(&format!("{number:.14e}"))?;
    let (mut digits, mut scale) = parts(&exact);
    let ten = BigInt::from(10);
    while scale > 0 && (&digits % &ten).is_zero() {
        digits /= &ten;
        scale -= 1;
    }
    Ok(BigDecimal::new(digits, scale))
}

/// The number without trailing zeros: equal numbers get equal digits and scale.
pub fn canonical(number: &BigDecimal) -> (BigInt, i64) {
    let (digits, scale) = parts(number);
    if digits.is_zero() {
        return (digits, 0);
    }
    let text = digits.to_string();
    let kept = text.trim_end_matches('0');
    let zeros = text.len() - kept.len();
    (kept.parse().unwrap_or_default(), scale - zeros as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> BigDecimal {
        parse(text).unwrap()
    }

    #[test]
    fn reads_and_prints_with_scale() {
        for (input, output) in [
            ("1", "1"),
            ("-1.50", "-1.50"),
            ("  +.5 ", "0.5"),
            ("5.", "5"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            ("-0.00", "0.00"),
            ("12.345e1", "123.45"),
            ("0e5", "0"),
        ] {
            assert_eq!(format(&n(input)), output, "{input}");
        }
        for bad in ["", "abc", "1e", "1 2", "--1", ".", "1e+"] {
            assert_eq!(parse(bad).unwrap_err().sqlstate(), "22P02", "{bad}");
        }
        assert_eq!(parse("1e999999999").unwrap_err().sqlstate(), "22003");
        assert_eq!(parse("NaN").unwrap_err().sqlstate(), "0A000");
    }

    #[test]
    fn quotients_have_postgresql_scales() {
        for (a, b, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("10", "4", "2.5000000000000000"),
            ("2", "3", "0.66666666666666666667"),
            ("6", "2", "3.0000000000000000"),
            ("100000", "3", "33333.333333333333"),
            ("1", "30000", "0.000033333333333333333333"),
            ("-7", "2", "-3.5000000000000000"),
            ("0", "5", "0.00000000000000000000"),
        ] {
            assert_eq!(format(&divide(&n(a), &n(b)).unwrap()), quotient, "{a}/{b}");
        }
        assert_eq!(divide(&n("1"), &n("0.0")).unwrap_err().sqlstate(), "22012");
    }

    #[test]
    fn rounds_away_from_zero() {
        for (number, scale, result) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("2.45", 1, "2.5"),
            ("1234.5", -2, "1200"),
            ("1250", -2, "1300"),
            ("1.2", 3, "1.200"),
        ] {
            assert_eq!(format(&round(&n(number), scale).unwrap()), result);
        }
        assert_eq!(format(&floor(&n("-1.5")).unwrap()), "-2");
        assert_eq!(format(&ceil(&n("1.2")).unwrap()), "2");
        assert_eq!(format(&modulo(&n("-7.5"), &n("2")).unwrap()), "-1.5");
    }

    #[test]
    fn roots_and_conversions() {
        assert_eq!(format(&sqrt(&n("2")).unwrap()), "1.414213562373095");
        assert_eq!(format(&sqrt(&n("144")).unwrap()), "12.000000000000000");
        assert_eq!(to_i64(&n("2.5")), Some(3));
        assert_eq!(to_i64(&n("9223372036854775808")), None);
        assert_eq!(format(&from_f64(0.1).unwrap()), "0.1");
        assert_eq!(format(&from_f64(1e20).unwrap()), "100000000000000000000");
        assert_eq!(canonical(&n("1.500")), canonical(&n("1.5")));
        assert_eq!(canonical(&n("100")), (BigInt::from(1), -2));
    }
}
