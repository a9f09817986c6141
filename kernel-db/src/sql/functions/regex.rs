//! Regular expressions: `~`, `!~`, `~*`, `!~*`.
//!
//! Patterns are those that PostgreSQL's advanced expressions and the crate `regex` have in common, matched in time linear in
//! the text. Left out: back references, look-around and embedded options at the end (2201B).

use std::cell::RefCell;
use std::num::NonZeroUsize;

use lru::LruCache;
use regex::{Regex, RegexBuilder};

use super::{Args, FnCtx};
use crate::error::{Error, Result};
use crate::sql::Value;

/// Memory one compiled expression may take, bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Compiled expressions kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("positive");

type Kept = LruCache<(String, bool), Regex>;

thread_local! {
    static COMPILED: RefCell<Kept> = RefCell::new(LruCache::new(KEPT));
}

fn matches(args: &[Value], ignore_case: bool) -> Result<bool> {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    COMPILED.with_borrow_mut(|kept| {
        let key = (pattern.to_string(), ignore_case);
        if let Some(found) = kept.get(&key) {
            return Ok(found.is_match(text));
        }
        let built = RegexBuilder::new(pattern)
            .case_insensitive(ignore_case)
            .dot_matches_new_line(true)
            .size_limit(COMPILED_BYTES_MAX)
            .build();
        let built = built.map_err(|e| {
            let reason = e.to_string();
            let last = reason.lines().last().unwrap_or_default();
            let last = last.trim().trim_start_matches("error: ");
            Error::new("2201B", format!("invalid regular expression: {last}"))
        })?;
        let found = built.is_match(text);
        kept.put(key, built);
        Ok(found)
    })
}

pub(super) fn matching(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    matches(args, false).map(Value::Bool)
}

pub(super) fn not_matching(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    matches(args, false).map(|m| Value::Bool(!m))
}

pub(super) fn matching_any_case(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    matches(args, true).map(Value::Bool)
}

pub(super) fn not_matching_any_case(args: &[Value], _: &mut FnCtx<'_>) -> Result<Value> {
    matches(args, true).map(|m| Value::Bool(!m))
}
