//! Text to syntax trees, with PostgreSQL's error fields.

use sqlparser::ast::Statement;

use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use super::dialect::Grammar;
use super::rewrite::{Parsed, Rewritten, rewrite};
use crate::error::{Error, Result};

/// Longest statement text taken.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// The language of statements, functions and expressions.
pub const DIALECT: Grammar = Grammar;

/// Splits `text` into statements, each with its own text. A statement AS OF SYSTEM TIME is refused: see [`parse_timed`].
pub fn parse_many(text: &str) -> Result<Vec<(Statement, String)>> {
    let one = |parsed: Parsed| match parsed.as_of {
        None => Ok((parsed.statement, parsed.text)),
        Some(_) => Err(Error::unsupported("AS OF SYSTEM TIME at this place")
            .hint("send the SELECT on its own, outside of functions")),
    };
    parse_timed(text)?.into_iter().map(one).collect()
}

/// Splits `text` into statements, each with its own text and the time it reads at.
pub fn parse_timed(text: &str) -> Result<Vec<Parsed>> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::new(
            "54000",
            format!("statement text is longer than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    let mut tokens = tokens_of(text)?;
    for token in &mut tokens {
        // Hive's INSERT INTO DIRECTORY is no PostgreSQL: there it is a table's name like any other.
        if let Token::Word(word) = &mut token.token
            && word.keyword == Keyword::DIRECTORY
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
    super::row_locks::rewrite(&mut tokens);
    let mut statements = Vec::new();
    let mut start = 0;
    while start < tokens.len() {
        let length = tokens[start..]
            .iter()
            .position(|t| t.token == Token::SemiColon)
            .unwrap_or(tokens.len() - start);
        let end = start + length;
        let part = &tokens[start..end];
        start = end + 1;
        let Some(first) = part.iter().find(|t| !is_blank(t)) else {
            continue;
        };
        let from = byte_offset(text, first.span.start);
        let to = tokens
            .get(end)
            .map_or(text.len(), |t| byte_offset(text, t.span.start));
        let Rewritten {
            tokens: part,
            as_of,
        } = rewrite(part)?;
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(part);
        let statement = parser
            .parse_statement()
            .map_err(|e| syntax_error(text, &e))?;
        let next = parser.next_token();
        if next.token != Token::EOF {
            return Err(near(text, &next.token.to_string(), Some(next.span.start)));
        }
        statements.push(Parsed {
            statement,
            text: text[from..to].trim_end().to_string(),
            as_of,
        });
    }
    Ok(statements)
}

fn tokens_of(text: &str) -> Result<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|e| syntax_error(text, &ParserError::TokenizerError(e.to_string())))?;
    super::long_chains::check(&tokens)?;
    Ok(tokens)
}

pub(super) fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

/// The expression in `text`, alone: defaults, checks, procedure expressions.
pub fn parse_expression(text: &str) -> Result<sqlparser::ast::Expr> {
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens_of(text)?);
    let expr = parser.parse_expr().map_err(|e| syntax_error(text, &e))?;
    let next = parser.next_token();
    if next.token == Token::EOF {
        Ok(expr)
    } else {
        Err(near(text, &next.token.to_string(), Some(next.span.start)))
    }
}

/// sqlparser's message ends in "found: X at Line: l, Column: c".
fn syntax_error(text: &str, error: &ParserError) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Error::new(
                "54001",
                "stack depth limit exceeded: the statement is nested too deeply",
            );
        }
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m.as_str(),
    };
    let location = location_in(message);
    if let ParserError::TokenizerError(_) = error {
        let what = message.split(" at Line:").next().unwrap_or(message);
        let error = Error::new("42601", format!("syntax error: {what}"));
        return location.map_or(error.clone(), |l| error.at(position(text, l)));
    }
    let found = message
        .rsplit_once("found: ")
        .map(|(_, rest)| rest.split(" at Line:").next().unwrap_or(rest));
    match found {
        Some("EOF") => near(text, "EOF", None),
        None if location.is_none() => Error::new("42601", format!("syntax error: {message}")),
        Some(token) => near(text, token, location),
        None => near(
            text,
            message.split(" at Line:").next().unwrap_or(message),
            location,
        ),
    }
}

fn near(text: &str, token: &str, location: Option<Location>) -> Error {
    if token == "EOF" {
        let end = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        return Error::new("42601", "syntax error at end of input").at(end.saturating_add(1));
    }
    let error = Error::new("42601", format!("syntax error at or near \"{token}\""));
    match location {
        Some(location) => error.at(position(text, location)),
        None => error,
    }
}

fn location_in(message: &str) -> Option<Location> {
    let (_, rest) = message.rsplit_once("Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
    Some(Location {
        line: line.trim().parse().ok()?,
        column: digits.parse().ok()?,
    })
}

/// Characters from the text's start, from 1, as PostgreSQL counts.
fn position(text: &str, location: Location) -> u32 {
    let offset = byte_offset(text, location);
    u32::try_from(text[..offset].chars().count() + 1).unwrap_or(u32::MAX)
}

fn byte_offset(text: &str, location: Location) -> usize {
    let line = usize::try_from(location.line).unwrap_or(1).max(1);
    let column = usize::try_from(location.column).unwrap_or(1).max(1);
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(end) => start += end + 1,
            None => return text.len(),
        }
    }
    text[start..]
        .char_indices()
        .nth(column - 1)
        .map_or(text.len(), |(i, _)| start + i)
}

/// Adds the position of `span` to an error, if the text and the place are known.
pub fn locate(error: Error, text: Option<&str>, span: Span) -> Error {
    match text {
        Some(text) if span.start.line > 0 => error.at(position(text, span.start)),
        _ => error,
    }
}
