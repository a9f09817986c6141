//! Statements: dispatch, assignments, conditions, loops, RETURN.

use super::super::ast::{Block, ForRange, Fragment, Name, Statement, StatementKind};
use super::super::lexer::Kind;
use super::Parser;
use crate::error::{Error, Result};

/// Words that begin a statement of another kind than an assignment.
const LEAVING: [&str; 2] = ["exit", "continue"];
const REFUSED: [&str; 10] = [
    "execute", "open", "fetch", "move", "close", "commit", "rollback", "call", "foreach", "merge",
];

impl Parser<'_> {
    pub(super) fn statement(&mut self) -> Result<Statement> {
        let label = self.label()?;
        if self.is_assignment() {
            let kind = self.assignment()?;
            return Ok(Statement { kind });
        }
        let Kind::Word(word) = self.peek().kind.clone() else {
            return Err(self.unexpected());
        };
        let kind = match word.as_str() {
            "declare" | "begin" => StatementKind::Block(self.inner_block(label)?),
            "loop" => {
                let body = self.loop_body(label.as_deref())?;
                StatementKind::Loop { label, body }
            }
            "while" => self.while_loop(label)?,
            "for" => self.for_loop(label)?,
            _ if label.is_some() => return Err(self.unexpected()),
            "if" => self.if_statement()?,
            "case" => self.case_statement()?,
            "return" => self.return_statement()?,
            "raise" => self.raise()?,
            "assert" => self.assert()?,
            "perform" => self.perform()?,
            "get" => self.diagnostics()?,
            "null" => {
                self.advance();
                self.expect_symbol(";")?;
                StatementKind::Null
            }
            word if LEAVING.contains(&word) => self.leave(word == "continue")?,
            word if REFUSED.contains(&word) => {
                return Err(Error::unsupported(format!(
                    "{} in a procedure",
                    word.to_uppercase()
                )));
            }
            _ => self.sql_statement()?,
        };
        Ok(Statement { kind })
    }

    fn inner_block(&mut self, label: Option<String>) -> Result<Block> {
        let block = self.block(label)?;
        self.expect_symbol(";")?;
        Ok(block)
    }

    /// `name[.name] :=` or `=`.
    fn is_assignment(&self) -> bool {
        if !matches!(self.peek().kind, Kind::Word(_) | Kind::Quoted(_)) {
            return false;
        }
        let mut ahead = 1;
        while self.symbol_at(ahead, ".") {
            ahead += 2;
        }
        self.symbol_at(ahead, ":=") || self.symbol_at(ahead, "=")
    }

    fn assignment(&mut self) -> Result<StatementKind> {
        let target = self.name()?;
        self.advance();
        let value = self.fragment(&[";"])?;
        self.expect_symbol(";")?;
        Ok(StatementKind::Assign { target, value })
    }

    fn if_statement(&mut self) -> Result<StatementKind> {
        self.advance();
        let mut arms = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let condition = self.fragment(&["then"])?;
            self.expect_word("then")?;
            arms.push((
                condition,
                self.statements(&["elsif", "elseif", "else", "end"])?,
            ));
            if !(self.eat_word("elsif") || self.eat_word("elseif")) {
                break;
            }
        }
        if self.eat_word("else") {
            otherwise = self.statements(&["end"])?;
        }
        self.end_of("if")?;
        Ok(StatementKind::If { arms, otherwise })
    }

    fn case_statement(&mut self) -> Result<StatementKind> {
        self.advance();
        let operand = if self.at_word("when") {
            None
        } else {
            Some(self.fragment(&["when"])?)
        };
        let mut arms = Vec::new();
        while self.eat_word("when") {
            let condition = self.fragment(&["then"])?;
            self.expect_word("then")?;
            arms.push((condition, self.statements(&["when", "else", "end"])?));
        }
        let otherwise = if self.eat_word("else") {
            Some(self.statements(&["end"])?)
        } else {
            None
        };
        self.end_of("case")?;
        Ok(StatementKind::Case {
            operand,
            arms,
            otherwise,
        })
    }

    fn end_of(&mut self, what: &str) -> Result<()> {
        self.expect_word("end")?;
        self.expect_word(what)?;
        self.expect_symbol(";")
    }

    /// `LOOP ... END LOOP [label];`
    fn loop_body(&mut self, label: Option<&str>) -> Result<Vec<Statement>> {
        self.expect_word("loop")?;
        let body = self.statements(&["end"])?;
        self.expect_word("end")?;
        self.expect_word("loop")?;
        self.end_label(label)?;
        self.expect_symbol(";")?;
        Ok(body)
    }

    fn while_loop(&mut self, label: Option<String>) -> Result<StatementKind> {
        self.advance();
        let condition = self.fragment(&["loop"])?;
        let body = self.loop_body(label.as_deref())?;
        Ok(StatementKind::While {
            label,
            condition,
            body,
        })
    }

    fn for_loop(&mut self, label: Option<String>) -> Result<StatementKind> {
        self.advance();
        let mut targets = vec![self.name()?];
        while self.eat_symbol(",") {
            targets.push(self.name()?);
        }
        self.expect_word("in")?;
        if self.at_word("execute") {
            return Err(Error::unsupported("EXECUTE in a procedure"));
        }
        let reverse = self.eat_word("reverse");
        let first = self.next;
        self.skip_to(&["loop", ".."])?;
        if !self.symbol_at(0, "..") {
            let query = self.fragment_of(first)?;
            let body = self.loop_body(label.as_deref())?;
            return Ok(StatementKind::ForQuery {
                label,
                targets,
                query,
                body,
            });
        }
        let from = self.fragment_of(first)?;
        let variable = self.range_variable(&targets)?;
        self.advance();
        let to = self.fragment(&["loop", "by"])?;
        let by = if self.eat_word("by") {
            Some(self.fragment(&["loop"])?)
        } else {
            None
        };
        let body = self.loop_body(label.as_deref())?;
        Ok(StatementKind::ForRange(Box::new(ForRange {
            label,
            variable,
            reverse,
            from,
            to,
            by,
            body,
        })))
    }

    fn range_variable(&self, targets: &[Name]) -> Result<String> {
        match targets {
            [name] if name.len() == 1 => Ok(name[0].clone()),
            _ => Err(self.error(
                self.peek().start,
                "integer FOR loop must have only one target variable",
            )),
        }
    }

    fn leave(&mut self, again: bool) -> Result<StatementKind> {
        self.advance();
        let label = if self.symbol_at(0, ";") || self.at_word("when") {
            None
        } else {
            Some(self.identifier()?)
        };
        let when = if self.eat_word("when") {
            Some(self.fragment(&[";"])?)
        } else {
            None
        };
        self.expect_symbol(";")?;
        Ok(StatementKind::Leave { again, label, when })
    }

    fn return_statement(&mut self) -> Result<StatementKind> {
        self.advance();
        if self.eat_word("next") {
            return Ok(StatementKind::ReturnNext(self.rest_of_statement()?));
        }
        if self.eat_word("query") {
            if self.at_word("execute") {
                return Err(Error::unsupported("EXECUTE in a procedure"));
            }
            let query = self.fragment(&[";"])?;
            self.expect_symbol(";")?;
            return Ok(StatementKind::ReturnQuery(query));
        }
        Ok(StatementKind::Return(self.rest_of_statement()?))
    }

    /// An expression up to `;`, or nothing.
    fn rest_of_statement(&mut self) -> Result<Option<Fragment>> {
        let rest = if self.symbol_at(0, ";") {
            None
        } else {
            Some(self.fragment(&[";"])?)
        };
        self.expect_symbol(";")?;
        Ok(rest)
    }
}
