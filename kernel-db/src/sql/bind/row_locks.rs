//! FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE.
//!
//! The parser knows two of the four strengths. The other two are written into the clause's `OF` as a first part of the
//! name that no text can contain. It also knows one name after `OF`: several become a clause each.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::{Binder, ident};
use crate::error::{Error, Result};
use crate::partition::RowLock;
use crate::sql::plan::{Query, QueryBody, Source, Step, TableLock};
use crate::txn::messages::{LockMode, WaitPolicy};

const NO_KEY: &str = "\0no key";
const KEY: &str = "\0key";

fn is(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == keyword)
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

/// Writes what the parser does not know in words that it knows.
pub(super) fn rewrite(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        match one_name_each(&tokens[at..]) {
            Some((length, clauses)) => {
                let next = at + clauses.len();
                tokens.splice(at..at + length, clauses);
                at = next;
            }
            None => at += 1,
        }
    }
    rewrite_strengths(tokens);
}

/// If `tokens` begin with `FOR strength OF a, b [NOWAIT | SKIP LOCKED]`: how many they are, and a clause for each name.
fn one_name_each(tokens: &[TokenWithSpan]) -> Option<(usize, Vec<TokenWithSpan>)> {
    if !is(tokens.first()?, Keyword::FOR) {
        return None;
    }
    let mut words = (1..tokens.len()).filter(|n| !is_space(&tokens[*n]));
    let of = words
        .by_ref()
        .take(4)
        .find(|n| is(&tokens[*n], Keyword::OF))?;
    let strength = [Keyword::NO, Keyword::KEY, Keyword::UPDATE, Keyword::SHARE];
    let known = |t: &TokenWithSpan| is_space(t) || strength.iter().any(|k| is(t, *k));
    if !tokens[1..of].iter().all(known) {
        return None;
    }
    let mut names = vec![Vec::new()];
    let (mut end, mut policy) = (of + 1, Vec::new());
    for n in words {
        match &tokens[n].token {
            Token::Comma if policy.is_empty() => names.push(Vec::new()),
            Token::Word(_) | Token::Period => {
                let waits = [Keyword::NOWAIT, Keyword::SKIP, Keyword::LOCKED];
                let is_policy = waits.iter().any(|k| is(&tokens[n], *k));
                let after = policy.is_empty() && !is_policy;
                // Another clause begins, or something else that is not this one's.
                if is(&tokens[n], Keyword::FOR) || !(is_policy || after) {
                    break;
                }
                match is_policy {
                    true => policy.push(n),
                    false => names.last_mut()?.push(n),
                }
            }
            _ => break,
        }
        end = n + 1;
    }
    if names.len() < 2 || names.iter().any(Vec::is_empty) {
        return None;
    }
    let space = TokenWithSpan {
        token: Token::Whitespace(sqlparser::tokenizer::Whitespace::Space),
        span: tokens[of].span,
    };
    let mut clauses = Vec::new();
    for name in &names {
        clauses.extend_from_slice(&tokens[..=of]);
        clauses.push(space.clone());
        clauses.extend(name.iter().map(|n| tokens[*n].clone()));
        for n in &policy {
            clauses.extend([space.clone(), tokens[*n].clone()]);
        }
        clauses.push(space.clone());
    }
    Some((end, clauses))
}

/// Rewrites `FOR NO KEY UPDATE` and `FOR KEY SHARE`.
fn rewrite_strengths(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        if !is(&tokens[at], Keyword::FOR) {
            at += 1;
            continue;
        }
        // Places of the next words, white space left out.
        let next: Vec<usize> = (at + 1..tokens.len())
            .filter(|i| !matches!(tokens[*i].token, Token::Whitespace(_)))
            .take(4)
            .collect();
        let found = |n: usize, k: Keyword| next.get(n).is_some_and(|i| is(&tokens[*i], k));
        let (mark, words) =
            if found(0, Keyword::NO) && found(1, Keyword::KEY) && found(2, Keyword::UPDATE) {
                (NO_KEY, 3)
            } else if found(0, Keyword::KEY) && found(1, Keyword::SHARE) {
                (KEY, 2)
            } else {
                at += 1;
                continue;
            };
        let last = next[words - 1];
        let of = next
            .get(words)
            .copied()
            .filter(|i| is(&tokens[*i], Keyword::OF));
        let span = tokens[last].span;
        let token = |token| TokenWithSpan { token, span };
        let name = token(Token::Word(Word {
            value: mark.to_owned(),
            quote_style: Some('"'),
            keyword: Keyword::NoKeyword,
        }));
        match of {
            Some(of) => drop(tokens.splice(of + 1..of + 1, [name, token(Token::Period)])),
            None => {
                let space = token(Token::Whitespace(sqlparser::tokenizer::Whitespace::Space));
                let of = token(Token::make_keyword("OF"));
                drop(tokens.splice(last + 1..last + 1, [space.clone(), of, space, name]));
            }
        }
        tokens.drain(at + 1..last);
        at += 2;
    }
}

impl Binder<'_> {
    /// Puts the query's locking clauses into its plan.
    pub(super) fn row_locks(&mut self, query: &ast::Query, bound: &mut Query) -> Result<()> {
        for clause in &query.locks {
            let (mode, of) = strength(clause);
            let what = match mode {
                LockMode::Update => "FOR UPDATE",
                LockMode::NoKeyUpdate => "FOR NO KEY UPDATE",
                LockMode::Share => "FOR SHARE",
                LockMode::KeyShare => "FOR KEY SHARE",
            };
            let refused = |with: &str| {
                Err(Error::new(
                    "0A000",
                    format!("{what} is not allowed with {with}"),
                ))
            };
            if bound.distinct || !bound.distinct_on.is_empty() {
                return refused("DISTINCT clause");
            }
            let QueryBody::Select {
                steps,
                grouping,
                windows,
                ..
            } = &bound.body
            else {
                return refused("UNION/INTERSECT/EXCEPT or VALUES");
            };
            if grouping.is_some() {
                return refused("GROUP BY clause or aggregate functions");
            }
            if !windows.is_empty() {
                return refused("window functions");
            }
            let wait = match clause.nonblock {
                None => WaitPolicy::Wait,
                Some(ast::NonBlock::Nowait) => WaitPolicy::NoWait,
                Some(ast::NonBlock::SkipLocked) => WaitPolicy::SkipLocked,
            };
            let lock = RowLock { mode, wait };
            let before = bound.locks.len();
            let locked = |step: &Step| table_lock(step, of.as_deref(), lock);
            bound.locks.extend(steps.iter().filter_map(locked));
            if let Some(of) = of.filter(|_| bound.locks.len() == before) {
                let message =
                    format!("relation \"{of}\" in {what} clause not found in FROM clause");
                return Err(Error::new("42P01", message));
            }
        }
        Ok(())
    }
}

fn strength(clause: &ast::LockClause) -> (LockMode, Option<String>) {
    let parts = clause.of.iter().flat_map(|name| &name.0);
    let mut parts: Vec<String> = parts.filter_map(|p| p.as_ident().map(ident)).collect();
    let first = parts.first().cloned().unwrap_or_default();
    let marked = first == NO_KEY || first == KEY;
    if marked {
        parts.remove(0);
    }
    let mode = match (&clause.lock_type, first.as_str()) {
        (ast::LockType::Update, NO_KEY) => LockMode::NoKeyUpdate,
        (ast::LockType::Update, _) => LockMode::Update,
        (ast::LockType::Share, KEY) => LockMode::KeyShare,
        (ast::LockType::Share, _) => LockMode::Share,
    };
    (mode, parts.pop())
}

fn table_lock(step: &Step, of: Option<&str>, lock: RowLock) -> Option<TableLock> {
    let Source::Table { table, alias, .. } = &step.source else {
        return None;
    };
    of.is_none_or(|of| of == alias).then(|| TableLock {
        table: table.clone(),
        offset: step.offset,
        lock,
    })
}
