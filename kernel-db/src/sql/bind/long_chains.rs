//! Chains such as `a + b + c`, casts of casts and UNIONs, whose syntax tree is as deep as they are long.
//!
//! sqlparser builds them in loops, past its limit of recursion, and dropping such a tree recurses: some hundred thousand links end
//! the process. So what is too long is refused before it is parsed.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::parse::is_blank;
use crate::error::{Error, Result};

/// Most tokens between two commas of the same parentheses: each may be a level. A quarter of the stack of a thread (2 MiB) holds them.
const TOKENS_MAX: usize = 20_000;
/// Most UNION, INTERSECT and EXCEPT of the same parentheses.
const SET_OPERATIONS_MAX: usize = 2_000;

/// Counted in the same parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    tokens: usize,
    set_operations: usize,
}

/// 54001 if the tree of `tokens` may be too deep.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut outer = Vec::new();
    let mut level = Level::default();
    for token in tokens.iter().filter(|token| !is_blank(token)) {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                outer.push(level);
                level = Level::default();
                continue;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                level = outer.pop().unwrap_or_default();
            }
            Token::Comma => level.tokens = 0,
            Token::SemiColon => level = Level::default(),
            Token::Word(word) => {
                let set_operation = [Keyword::UNION, Keyword::INTERSECT, Keyword::EXCEPT];
                level.set_operations += usize::from(set_operation.contains(&word.keyword));
            }
            _ => {}
        }
        level.tokens += 1;
        if level.tokens > TOKENS_MAX || level.set_operations > SET_OPERATIONS_MAX {
            let hint =
                "split the statement, write lists as IN (...), or give the values as an array";
            return Err(Error::new(
                "54001",
                format!("stack depth limit exceeded: more than {TOKENS_MAX} words without a comma, or {SET_OPERATIONS_MAX} set operations"),
            )
            .hint(hint));
        }
    }
    Ok(())
}
