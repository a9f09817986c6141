//! Parser: from tokens to the syntax tree.

mod block;
mod control;
mod raise;
mod sql;

use super::ast::{Block, Fragment, Name};
use super::lexer::{self, Kind, Token};
use crate::error::{Error, Result};

/// Depth of nested blocks and statements.
const MAX_DEPTH: usize = 100;

/// Parses a whole body.
pub fn parse(body: &str) -> Result<Block> {
    let mut parser = Parser {
        body,
        tokens: lexer::tokens(body)?,
        next: 0,
        depth: 0,
    };
    let label = parser.label()?;
    let block = parser.block(label)?;
    parser.eat_symbol(";");
    match parser.peek().kind {
        Kind::End => Ok(block),
        _ => Err(parser.unexpected()),
    }
}

struct Parser<'a> {
    body: &'a str,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.next + ahead).min(last)]
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn text(&self, token: &Token) -> &str {
        &self.body[token.start..token.end]
    }

    fn at_word(&self, word: &str) -> bool {
        self.word_at(0, word)
    }

    fn word_at(&self, ahead: usize, word: &str) -> bool {
        matches!(&self.peek_at(ahead).kind, Kind::Word(w) if w == word)
    }

    fn at_any_word(&self, words: &[&str]) -> bool {
        words.iter().any(|w| self.at_word(w))
    }

    fn symbol_at(&self, ahead: usize, symbol: &str) -> bool {
        let token = self.peek_at(ahead);
        token.kind == Kind::Symbol && self.text(token) == symbol
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn eat_symbol(&mut self, symbol: &str) -> bool {
        let found = self.symbol_at(0, symbol);
        if found {
            self.advance();
        }
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.eat_symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> Error {
        self.unexpected_at(self.peek())
    }

    fn unexpected_at(&self, token: &Token) -> Error {
        let message = match token.kind {
            Kind::End => "syntax error at end of input".to_string(),
            _ => format!("syntax error at or near \"{}\"", self.text(token)),
        };
        lexer::syntax_error(self.body, token.start, &message)
    }

    fn error(&self, at: usize, message: &str) -> Error {
        lexer::syntax_error(self.body, at, message)
    }

    /// A name without qualification.
    fn identifier(&mut self) -> Result<String> {
        let token = self.advance();
        match token.kind {
            Kind::Word(name) | Kind::Quoted(name) => Ok(name),
            _ => Err(self.unexpected_at(&token)),
        }
    }

    fn name(&mut self) -> Result<Name> {
        let mut parts = vec![self.identifier()?];
        while self.eat_symbol(".") {
            parts.push(self.identifier()?);
        }
        Ok(parts)
    }

    /// `<<label>>`, if there is one.
    fn label(&mut self) -> Result<Option<String>> {
        if !self.eat_symbol("<<") {
            return Ok(None);
        }
        let label = self.identifier()?;
        self.expect_symbol(">>")?;
        Ok(Some(label))
    }

    /// SQL up to, not including, the first of `stops` outside parentheses and CASE ... END.
    fn fragment(&mut self, stops: &[&str]) -> Result<Fragment> {
        let first = self.next;
        self.skip_to(stops)?;
        self.fragment_of(first)
    }

    /// The text from token `first` to the current place.
    fn fragment_of(&self, first: usize) -> Result<Fragment> {
        if first == self.next {
            return Err(match self.peek().kind {
                Kind::End => self.unexpected(),
                _ => self.error(
                    self.peek().start,
                    &format!(
                        "missing expression at or near \"{}\"",
                        self.text(self.peek())
                    ),
                ),
            });
        }
        let at = self.tokens[first].start;
        let end = self.tokens[self.next - 1].end;
        Ok(Fragment {
            text: self.body[at..end].to_string(),
            at,
        })
    }

    fn skip_to(&mut self, stops: &[&str]) -> Result<()> {
        let (mut parens, mut cases) = (0usize, 0usize);
        loop {
            let token = self.peek().clone();
            let text = match &token.kind {
                Kind::End => return Err(self.unexpected_at(&token)),
                Kind::Word(word) => word.as_str(),
                Kind::Symbol => self.text(&token),
                _ => "",
            };
            if parens == 0 && cases == 0 && stops.contains(&text) {
                return Ok(());
            }
            match text {
                ";" => return Err(self.unexpected_at(&token)),
                "(" | "[" => parens += 1,
                ")" | "]" if parens == 0 => return Err(self.unexpected_at(&token)),
                ")" | "]" => parens -= 1,
                "case" => cases += 1,
                "end" if cases > 0 => cases -= 1,
                _ => {}
            }
            self.advance();
        }
    }

    /// Guards recursion against bodies nested without end.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new(
                "54001",
                format!("more than {MAX_DEPTH} nested statements"),
            ));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }
}

#[cfg(test)]
mod tests;
