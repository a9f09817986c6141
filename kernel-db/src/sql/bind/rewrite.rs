//! PostgreSQL's syntax that `sqlparser` does not take, brought to a form that it takes, token by token.
//!
//! `TABLE t` becomes `SELECT * FROM t`; the options of CREATE SEQUENCE, which PostgreSQL takes in any order, are put into the one
//! order that the parser knows; AS OF SYSTEM TIME is taken out and handed over beside the statement. DO: see `do_block`.

use sqlparser::ast::{self, Expr};
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::do_block;
use super::parse::{DIALECT, is_blank};
use crate::error::{Error, Result};

/// A statement's tokens as the parser takes them.
pub struct Rewritten {
    pub tokens: Vec<TokenWithSpan>,
    /// The time of AS OF SYSTEM TIME.
    pub as_of: Option<Expr>,
}

pub fn rewrite(tokens: &[TokenWithSpan]) -> Result<Rewritten> {
    let mut tokens = tokens.to_vec();
    let as_of = take_as_of(&mut tokens)?;
    let tokens = tables(tokens);
    let tokens = sequence_options(tokens);
    let tokens = do_block::rewrite(tokens);
    Ok(Rewritten { tokens, as_of })
}

fn keyword(token: &TokenWithSpan) -> Option<Keyword> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
        _ => None,
    }
}

pub(super) fn is_word(token: &TokenWithSpan, text: &str) -> bool {
    matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text))
}

/// Places of the tokens that mean something.
pub(super) fn solid(tokens: &[TokenWithSpan]) -> Vec<usize> {
    (0..tokens.len())
        .filter(|i| !is_blank(&tokens[*i]))
        .collect()
}

/// `AS OF SYSTEM TIME <expression>`, once.
fn take_as_of(tokens: &mut Vec<TokenWithSpan>) -> Result<Option<Expr>> {
    let mut found = None;
    loop {
        let places = solid(tokens);
        let starts = |w: &[usize]| {
            let words = ["as", "of", "system", "time"];
            w.iter()
                .zip(words)
                .all(|(i, word)| is_word(&tokens[*i], word))
        };
        let Some(first) = places.windows(4).position(starts) else {
            return Ok(found);
        };
        if found.is_some() {
            return Err(Error::new("42601", "AS OF SYSTEM TIME is given twice"));
        }
        let rest = places.get(first + 4).copied().unwrap_or(tokens.len());
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens[rest..].to_vec());
        let time = parser.parse_expr().map_err(|e| {
            Error::new("42601", format!("syntax error after AS OF SYSTEM TIME: {e}"))
                .hint("write a time such as '2026-01-31 12:00:00+00', an interval such as '-10s', or a commit stamp")
        })?;
        // Blanks are among what the parser has passed.
        tokens.drain(places[first]..rest + parser.index().min(tokens.len() - rest));
        found = Some(time);
    }
}

/// `TABLE t` where a query can stand.
fn tables(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|t| keyword(t) == Some(Keyword::TABLE)) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let begins_query = |before: Option<&TokenWithSpan>| match before {
        None => true,
        Some(t) if t.token == Token::LParen => true,
        Some(t) => matches!(
            keyword(t),
            Some(
                Keyword::UNION
                    | Keyword::EXCEPT
                    | Keyword::INTERSECT
                    | Keyword::ALL
                    | Keyword::DISTINCT
            )
        ),
    };
    for token in tokens {
        let before = out.iter().rev().find(|t| !is_blank(t));
        if keyword(&token) == Some(Keyword::TABLE) && begins_query(before) {
            let blank = Token::Whitespace(sqlparser::tokenizer::Whitespace::Space);
            for made in [
                Token::make_keyword("SELECT"),
                blank.clone(),
                Token::Mul,
                blank,
                Token::make_keyword("FROM"),
            ] {
                out.push(TokenWithSpan {
                    token: made,
                    span: token.span,
                });
            }
        } else {
            out.push(token);
        }
    }
    out
}

/// Places in the parser's order: AS, INCREMENT, MINVALUE, MAXVALUE, START, CACHE, CYCLE, OWNED BY.
fn option_rank(tokens: &[&TokenWithSpan]) -> Option<usize> {
    let at = |i: usize| tokens.get(i).and_then(|t| keyword(t));
    let ranked = |k: Option<Keyword>| match k? {
        Keyword::AS => Some(0),
        Keyword::INCREMENT => Some(1),
        Keyword::MINVALUE => Some(2),
        Keyword::MAXVALUE => Some(3),
        Keyword::START => Some(4),
        Keyword::CACHE => Some(5),
        Keyword::CYCLE => Some(6),
        Keyword::OWNED => Some(7),
        _ => None,
    };
    match at(0) {
        Some(Keyword::NO) => ranked(at(1)),
        other => ranked(other),
    }
}

/// The options of CREATE SEQUENCE and of identity columns in the parser's order.
fn sequence_options(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places = solid(&tokens);
    let word = |i: usize| places.get(i).and_then(|p| keyword(&tokens[*p]));
    if word(0) != Some(Keyword::CREATE) {
        return tokens;
    }
    let own: Vec<&TokenWithSpan> = places.iter().map(|p| &tokens[*p]).collect();
    let temporary = matches!(word(1), Some(Keyword::TEMP | Keyword::TEMPORARY));
    let named = 1 + usize::from(temporary);
    if word(named) == Some(Keyword::SEQUENCE) {
        let (head, options) = own.split_at(named + 1);
        return copied(head.iter().copied().chain(in_order(options)));
    }
    let identity = |i: &usize| {
        keyword(own[i - 1]) == Some(Keyword::IDENTITY) && own[*i].token == Token::LParen
    };
    if !(1..own.len()).any(|i| identity(&i)) {
        return tokens;
    }
    let mut out = Vec::with_capacity(own.len());
    let mut at = 0;
    while at < own.len() {
        out.push(own[at]);
        at += 1;
        if at >= 2 && identity(&(at - 1)) {
            let length = own[at..].iter().position(|t| t.token == Token::RParen);
            let end = at + length.unwrap_or(0);
            out.extend(in_order(&own[at..end]));
            at = end;
        }
    }
    copied(out.into_iter())
}

fn copied<'t>(tokens: impl Iterator<Item = &'t TokenWithSpan>) -> Vec<TokenWithSpan> {
    tokens.cloned().collect()
}

/// What is no option stays at the beginning, for the parser to refuse.
fn in_order<'t>(tokens: &[&'t TokenWithSpan]) -> Vec<&'t TokenWithSpan> {
    let begins: Vec<usize> = (0..tokens.len())
        .filter(|i| option_rank(&tokens[*i..]).is_some())
        .filter(|i| *i == 0 || keyword(tokens[i - 1]) != Some(Keyword::NO))
        .collect();
    let Some(first) = begins.first() else {
        return tokens.to_vec();
    };
    let ends = begins.iter().skip(1).copied().chain([tokens.len()]);
    let ranges = begins.iter().zip(ends);
    let mut options: Vec<&[&TokenWithSpan]> = ranges.map(|(from, to)| &tokens[*from..to]).collect();
    options.sort_by_key(|option| option_rank(option));
    let head = tokens[..*first].iter();
    head.chain(options.into_iter().flatten()).copied().collect()
}

/// A statement with the time of its AS OF SYSTEM TIME.
pub struct Parsed {
    pub statement: ast::Statement,
    /// Its own text.
    pub text: String,
    pub as_of: Option<Expr>,
}
