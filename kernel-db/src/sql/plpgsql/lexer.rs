//! Splits a procedure's body into tokens.
//!
//! Only as much is understood as it takes to find where statements and SQL fragments begin and end; the fragments
//! themselves go to the SQL parser as text. Tokens carry byte offsets into the body.

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keyword or name, in lower case.
    Word(String),
    /// `"Name"`.
    Quoted(String),
    /// A string literal's value.
    Str(String),
    Number,
    /// Operator or punctuation; multi-character ones that matter here are one token.
    Symbol,
    End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

const SYMBOLS: [&str; 9] = [":=", "::", "..", "=>", "<<", ">>", "<=", ">=", "<>"];

/// All tokens, the last one `End`.
pub fn tokens(body: &str) -> Result<Vec<Token>> {
    let mut lexer = Lexer { body, pos: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank()?;
        let start = lexer.pos;
        let kind = lexer.next_kind()?;
        let done = kind == Kind::End;
        out.push(Token {
            kind,
            start,
            end: lexer.pos,
        });
        if done {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    body: &'a str,
    pos: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.body[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, start: usize, message: &str) -> Error {
        syntax_error(self.body, start, message)
    }

    fn skip_blank(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.pos += rest.len() - trimmed.len();
            if self.rest().starts_with("--") {
                self.pos += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                self.skip_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Block comments nest.
    fn skip_comment(&mut self) -> Result<()> {
        let start = self.pos;
        let mut depth = 0;
        loop {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.pos += 2;
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.pos += 2;
                if depth == 0 {
                    return Ok(());
                }
            } else if let Some(c) = self.peek() {
                self.pos += c.len_utf8();
            } else {
                return Err(self.error(start, "unterminated /* comment"));
            }
        }
    }

    fn next_kind(&mut self) -> Result<Kind> {
        let start = self.pos;
        let Some(c) = self.peek() else {
            return Ok(Kind::End);
        };
        if (c == 'e' || c == 'E') && self.rest()[1..].starts_with('\'') {
            self.pos += 1;
            return self.string(start, true);
        }
        if c.is_alphabetic() || c == '_' {
            self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '$');
            return Ok(Kind::Word(self.body[start..self.pos].to_lowercase()));
        }
        if c.is_ascii_digit() {
            self.number();
            return Ok(Kind::Number);
        }
        match c {
            '\'' => self.string(start, false),
            '"' => self.quoted(start),
            '$' => self.dollar(start),
            _ => {
                let symbol = SYMBOLS.iter().find(|s| self.rest().starts_with(**s));
                self.pos += symbol.map_or(c.len_utf8(), |s| s.len());
                Ok(Kind::Symbol)
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.pos += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }

    /// `1..10` is a range, so a point followed by another one ends the number.
    fn number(&mut self) {
        self.take_while(|c| c.is_ascii_digit());
        if self.rest().starts_with('.') && !self.rest().starts_with("..") {
            self.pos += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        let exponent = self
            .rest()
            .strip_prefix(['e', 'E'])
            .map(|r| r.trim_start_matches(['+', '-']));
        if exponent.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) {
            self.pos += 1;
            self.take_while(|c| c == '+' || c == '-');
            self.take_while(|c| c.is_ascii_digit());
        }
    }

    fn string(&mut self, start: usize, escapes: bool) -> Result<Kind> {
        self.pos += 1;
        let mut value = String::new();
        loop {
            let Some(c) = self.peek() else {
                return Err(self.error(start, "unterminated quoted string"));
            };
            self.pos += c.len_utf8();
            match c {
                '\'' if self.peek() == Some('\'') => {
                    self.pos += 1;
                    value.push('\'');
                }
                '\'' => return Ok(Kind::Str(value)),
                '\\' if escapes => {
                    let escaped = self.peek().unwrap_or('\\');
                    self.pos += escaped.len_utf8();
                    value.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                c => value.push(c),
            }
        }
    }

    fn quoted(&mut self, start: usize) -> Result<Kind> {
        let rest = &self.body[start + 1..];
        let Some(len) = rest.find('"') else {
            return Err(self.error(start, "unterminated quoted identifier"));
        };
        self.pos = start + len + 2;
        Ok(Kind::Quoted(rest[..len].to_string()))
    }

    /// `$1`, or a string between `$tag$`s.
    fn dollar(&mut self, start: usize) -> Result<Kind> {
        self.pos += 1;
        if self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.take_while(|c| c.is_ascii_digit());
            return Ok(Kind::Word(self.body[start..self.pos].to_string()));
        }
        self.take_while(|c| c.is_alphanumeric() || c == '_');
        if self.peek() != Some('$') {
            return Err(self.error(start, "syntax error at or near \"$\""));
        }
        self.pos += 1;
        let tag = &self.body[start..self.pos];
        let Some(len) = self.rest().find(tag) else {
            return Err(self.error(start, "unterminated dollar-quoted string"));
        };
        let value = self.rest()[..len].to_string();
        self.pos += len + tag.len();
        Ok(Kind::Str(value))
    }
}

/// 42601 at a byte offset of the body; the position counts characters of the body from 1.
pub fn syntax_error(body: &str, offset: usize, message: &str) -> Error {
    let before = body.get(..offset).unwrap_or(body);
    let line = before.matches('\n').count() + 1;
    let position = u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX);
    Error::new("42601", message)
        .at(position)
        .detail(format!("line {line} of the function's body"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Vec<String> {
        let tokens = tokens(body).unwrap();
        tokens
            .iter()
            .map(|t| body[t.start..t.end].to_string())
            .collect()
    }

    #[test]
    fn splits_words_symbols_and_literals() {
        assert_eq!(
            texts("x := f(1..10, 2.5e3) || 'it''s' -- end\n /* a /* b */ c */ $q$ ; $q$;"),
            [
                "x",
                ":=",
                "f",
                "(",
                "1",
                "..",
                "10",
                ",",
                "2.5e3",
                ")",
                "|",
                "|",
                "'it''s'",
                "$q$ ; $q$",
                ";",
                ""
            ]
        );
        assert_eq!(tokens("'it''s'").unwrap()[0].kind, Kind::Str("it's".into()));
        assert_eq!(
            tokens("Foo \"Bar\"").unwrap()[1].kind,
            Kind::Quoted("Bar".into())
        );
    }

    #[test]
    fn says_where_a_string_was_left_open() {
        let error = tokens("BEGIN\n  x := 'abc").unwrap_err();
        assert_eq!((error.sqlstate(), error.position()), ("42601", Some(14)));
    }
}
