//! RAISE and ASSERT.

use super::super::ast::{Level, Raise, StatementKind};
use super::super::conditions;
use super::super::lexer::Kind;
use super::Parser;
use crate::error::Result;

const OPTIONS: [&str; 9] = [
    "message",
    "detail",
    "hint",
    "errcode",
    "column",
    "constraint",
    "datatype",
    "table",
    "schema",
];

impl Parser<'_> {
    pub(super) fn raise(&mut self) -> Result<StatementKind> {
        self.advance();
        let mut raise = Raise {
            level: Level::Exception,
            format: None,
            arguments: Vec::new(),
            state: None,
            name: None,
            using: Vec::new(),
            again: false,
        };
        if self.eat_symbol(";") {
            raise.again = true;
            return Ok(StatementKind::Raise(Box::new(raise)));
        }
        raise.level = self.level();
        let token = self.peek().clone();
        match token.kind {
            Kind::Str(format) => {
                self.advance();
                while self.eat_symbol(",") {
                    raise.arguments.push(self.fragment(&[",", "using", ";"])?);
                }
                self.check_arguments(token.start, &format, raise.arguments.len())?;
                raise.format = Some(format);
            }
            Kind::Word(word) if word == "sqlstate" => {
                self.advance();
                raise.state = Some(self.sqlstate()?);
            }
            Kind::Word(word) if word != "using" => {
                self.advance();
                let state = conditions::state(&word).map(str::to_string);
                let unknown = || {
                    self.error(
                        token.start,
                        &format!("unrecognized exception condition \"{word}\""),
                    )
                };
                raise.state = Some(state.ok_or_else(|| unknown().recode("42704"))?);
                raise.name = Some(word);
            }
            _ => {}
        }
        if self.eat_word("using") {
            self.using(&mut raise)?;
        }
        self.expect_symbol(";")?;
        Ok(StatementKind::Raise(Box::new(raise)))
    }

    fn level(&mut self) -> Level {
        let Kind::Word(word) = &self.peek().kind else {
            return Level::Exception;
        };
        let level = match word.as_str() {
            "debug" | "log" => Level::Quiet,
            "info" => Level::Info,
            "notice" => Level::Notice,
            "warning" => Level::Warning,
            "exception" => Level::Exception,
            _ => return Level::Exception,
        };
        self.advance();
        level
    }

    fn check_arguments(&self, at: usize, format: &str, given: usize) -> Result<()> {
        let wanted = format.replace("%%", "").matches('%').count();
        match given.cmp(&wanted) {
            std::cmp::Ordering::Less => {
                Err(self.error(at, "too few parameters specified for RAISE"))
            }
            std::cmp::Ordering::Greater => {
                Err(self.error(at, "too many parameters specified for RAISE"))
            }
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn using(&mut self, raise: &mut Raise) -> Result<()> {
        loop {
            let token = self.peek().clone();
            let option = self.identifier()?;
            if !OPTIONS.contains(&option.as_str()) {
                return Err(self.error(token.start, "unrecognized RAISE statement option"));
            }
            if !self.eat_symbol("=") {
                self.expect_symbol(":=")?;
            }
            raise.using.push((option, self.fragment(&[",", ";"])?));
            if !self.eat_symbol(",") {
                return Ok(());
            }
        }
    }

    pub(super) fn assert(&mut self) -> Result<StatementKind> {
        self.advance();
        let condition = self.fragment(&[",", ";"])?;
        let message = if self.eat_symbol(",") {
            Some(self.fragment(&[";"])?)
        } else {
            None
        };
        self.expect_symbol(";")?;
        Ok(StatementKind::Assert { condition, message })
    }
}
