//! Functions of texts. Lengths and positions count characters, from 1.

use super::{Args, FnCtx, mismatch};
use crate::error::{Error, Result};
use crate::sql::like::LikePattern;
use crate::sql::{Value, text};

/// The longest text or byte string a function makes. PostgreSQL stops at 1 GiB; here values are made on a partition's
/// core and rows have at most 8 MiB, so that a loop that doubles a text must end sooner.
const MAX_BYTES: usize = 64 << 20;

pub(in crate::sql) fn check_size(bytes: usize) -> Result<()> {
    if bytes > MAX_BYTES {
        let hint = format!("a value in an expression has at most {MAX_BYTES} bytes");
        return Err(Error::new("54000", "requested length too large").hint(hint));
    }
    Ok(())
}

pub(super) fn length(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Text(text)] => Ok(Value::Int4(text.chars().count() as i32)),
        [Value::Bytea(bytes)] => Ok(Value::Int4(bytes.len() as i32)),
        _ => Err(mismatch(args)),
    }
}

pub(super) fn octet_length(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Text(text)] => Ok(Value::Int4(text.len() as i32)),
        [Value::Bytea(bytes)] => Ok(Value::Int4(bytes.len() as i32)),
        _ => Err(mismatch(args)),
    }
}

/// Letters of ASCII only, as in PostgreSQL's locale C, which text is sorted by too.
pub(super) fn lower(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.to_ascii_lowercase().into())
}

pub(super) fn upper(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.to_ascii_uppercase().into())
}

pub(super) fn initcap(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let mut inside = false;
    let shown = args.text(0)?.chars().map(|c| {
        let shown = match inside {
            true => c.to_ascii_lowercase(),
            false => c.to_ascii_uppercase(),
        };
        inside = c.is_ascii_alphanumeric();
        shown
    });
    Ok(shown.collect::<String>().into())
}

/// The window [from, to) of 1-based positions that substr(start, length) asks for.
pub(super) fn window(start: i64, length: Option<i64>) -> Result<(usize, usize)> {
    let end = match length {
        None => i64::MAX,
        Some(length) if length < 0 => {
            return Err(Error::new("22011", "negative substring length not allowed"));
        }
        Some(length) => start.saturating_add(length),
    };
    let from = usize::try_from(start.max(1) - 1).unwrap_or(0);
    let to = usize::try_from(end.max(1) - 1).unwrap_or(usize::MAX);
    Ok((from, to.max(from)))
}

pub(super) fn substr(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let length = if args.len() > 2 {
        Some(args.int(2)?)
    } else {
        None
    };
    let (from, to) = window(args.int(1)?, length)?;
    match &args[0] {
        Value::Text(text) => Ok(text
            .chars()
            .skip(from)
            .take(to - from)
            .collect::<String>()
            .into()),
        Value::Bytea(bytes) => {
            let from = from.min(bytes.len());
            Ok(Value::Bytea(
                bytes.slice(from..to.min(bytes.len()).max(from)),
            ))
        }
        _ => Err(mismatch(args)),
    }
}

/// The set of characters to trim: blanks by default.
fn trim_set(args: &[Value]) -> Result<Vec<char>> {
    if args.len() > 1 {
        Ok(args.text(1)?.chars().collect())
    } else {
        Ok(vec![' '])
    }
}

pub(super) fn btrim(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.trim_matches(&trim_set(args)?[..]).into())
}

pub(super) fn ltrim(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args
        .text(0)?
        .trim_start_matches(&trim_set(args)?[..])
        .into())
}

pub(super) fn rtrim(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.trim_end_matches(&trim_set(args)?[..]).into())
}

pub(super) fn replace(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, from, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    if from.is_empty() {
        return Ok(args[0].clone());
    }
    if to.len() > from.len() {
        check_size(
            text.len()
                + text
                    .matches(from)
                    .count()
                    .saturating_mul(to.len() - from.len()),
        )?;
    }
    Ok(text.replace(from, to).into())
}

/// strpos(text, part): 0 if the part does not occur.
pub(super) fn strpos(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, part) = (args.text(0)?, args.text(1)?);
    let position = text
        .find(part)
        .map_or(0, |at| text[..at].chars().count() as i32 + 1);
    Ok(Value::Int4(position))
}

/// The first n characters; all but the last -n for a negative n.
pub(super) fn left(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, n) = (args.text(0)?, args.int(1)?);
    let count = if n >= 0 {
        n
    } else {
        (text.chars().count() as i64 + n).max(0)
    };
    Ok(text.chars().take(count as usize).collect::<String>().into())
}

/// The last n characters; all but the first -n for a negative n.
pub(super) fn right(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, n) = (args.text(0)?, args.int(1)?);
    let skip = if n >= 0 {
        (text.chars().count() as i64 - n).max(0)
    } else {
        -n
    };
    Ok(text.chars().skip(skip as usize).collect::<String>().into())
}

pub(super) fn repeat(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, count) = (args.text(0)?, args.int(1)?.max(0) as usize);
    check_size(text.len().saturating_mul(count))?;
    Ok(text.repeat(count).into())
}

pub(super) fn reverse(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.chars().rev().collect::<String>().into())
}

/// Text cut to `length`, and the filling it lacks.
fn padding(args: &[Value]) -> Result<(String, String)> {
    let fill = if args.len() > 2 { args.text(2)? } else { " " };
    let length = args.int(1)?.max(0) as usize;
    check_size(length.saturating_mul(4))?;
    let kept: String = args.text(0)?.chars().take(length).collect();
    let lacking = length - kept.chars().count();
    Ok((kept, fill.chars().cycle().take(lacking).collect()))
}

pub(super) fn lpad(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (kept, filling) = padding(args)?;
    Ok((filling + &kept).into())
}

pub(super) fn rpad(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (kept, filling) = padding(args)?;
    Ok((kept + &filling).into())
}

/// concat(any...): NULLs are skipped.
pub(super) fn concat(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let mut out = String::new();
    for arg in args {
        text::write_text(arg, &mut out);
        check_size(out.len())?;
    }
    Ok(out.into())
}

/// concat_ws(separator, any...): NULL only for a NULL separator.
pub(super) fn concat_ws(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let separator = args.text(0)?;
    let mut out = String::new();
    for (at, arg) in args[1..].iter().filter(|arg| !arg.is_null()).enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        text::write_text(arg, &mut out);
        check_size(out.len())?;
    }
    Ok(out.into())
}

pub(super) fn concat_texts(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (a, b) = (args.text(0)?, args.text(1)?);
    check_size(a.len() + b.len())?;
    Ok([a, b].concat().into())
}

pub(super) fn concat_bytes(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    match args {
        [Value::Bytea(a), Value::Bytea(b)] => {
            check_size(a.len() + b.len())?;
            Ok(Value::bytea([&a[..], &b[..]].concat()))
        }
        _ => Err(mismatch(args)),
    }
}

pub(super) fn split_part(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let (text, separator, n) = (args.text(0)?, args.text(1)?, args.int(2)?);
    if n == 0 {
        return Err(Error::new("22023", "field position must not be zero"));
    }
    if separator.is_empty() {
        return Ok(if n == 1 || n == -1 {
            args[0].clone()
        } else {
            "".into()
        });
    }
    let parts: Vec<&str> = text.split(separator).collect();
    let at = if n > 0 { n - 1 } else { parts.len() as i64 + n };
    let part = usize::try_from(at)
        .ok()
        .and_then(|at| parts.get(at))
        .copied();
    Ok(part.unwrap_or("").into())
}

pub(super) fn starts_with(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(args.text(0)?.starts_with(args.text(1)?).into())
}

pub(super) fn translate(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let from: Vec<char> = args.text(1)?.chars().collect();
    let to: Vec<char> = args.text(2)?.chars().collect();
    let out: String = args
        .text(0)?
        .chars()
        .filter_map(|c| match from.iter().position(|f| *f == c) {
            Some(at) => to.get(at).copied(),
            None => Some(c),
        })
        .collect();
    Ok(out.into())
}

pub(super) fn ascii(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(Value::Int4(
        args.text(0)?.chars().next().map_or(0, |c| c as i32),
    ))
}

pub(super) fn chr(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    let code = args.int(0)?;
    if code == 0 {
        return Err(Error::new("54000", "null character not permitted"));
    }
    if code < 0 {
        return Err(Error::new("54000", "character number must be positive"));
    }
    let c = u32::try_from(code)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| {
            Error::new(
                "54000",
                format!("requested character too large for encoding: {code}"),
            )
        })?;
    Ok(c.to_string().into())
}

fn matches(args: &[Value], ignore_case: bool) -> Result<bool> {
    LikePattern::new(args.text(1)?, Some('\\'), ignore_case).matches(args.text(0)?)
}

pub(super) fn like(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(matches(args, false)?.into())
}

pub(super) fn not_like(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok((!matches(args, false)?).into())
}

pub(super) fn ilike(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok(matches(args, true)?.into())
}

pub(super) fn not_ilike(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    Ok((!matches(args, true)?).into())
}
