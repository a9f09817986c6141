//! Blocks: labels, declarations, bodies, exception handlers.

use super::super::ast::{
    Block, Condition, Declaration, DeclarationKind, Handler, Statement, TypeName,
};
use super::super::conditions;
use super::Parser;
use crate::error::{Error, Result};
use crate::sql::plpgsql::lexer::Kind;

impl Parser<'_> {
    /// A block after its label: `[DECLARE ...] BEGIN ... [EXCEPTION ...] END [label]`.
    pub(super) fn block(&mut self, label: Option<String>) -> Result<Block> {
        let mut declarations = Vec::new();
        while self.eat_word("declare") {
            while !self.at_any_word(&["begin", "declare"]) {
                declarations.push(self.declaration()?);
            }
        }
        self.expect_word("begin")?;
        let body = self.statements(&["end", "exception"])?;
        let mut handlers = Vec::new();
        if self.eat_word("exception") {
            while self.at_word("when") {
                handlers.push(self.handler()?);
            }
            if handlers.is_empty() {
                return Err(self.unexpected());
            }
        }
        self.expect_word("end")?;
        self.end_label(label.as_deref())?;
        Ok(Block {
            label,
            declarations,
            body,
            handlers,
        })
    }

    /// The label repeated after END, if it is.
    pub(super) fn end_label(&mut self, label: Option<&str>) -> Result<()> {
        let at = self.peek().start;
        if !matches!(self.peek().kind, Kind::Word(_) | Kind::Quoted(_)) {
            return Ok(());
        }
        let name = self.identifier()?;
        if Some(name.as_str()) == label {
            return Ok(());
        }
        let message = match label {
            Some(label) => format!("end label \"{name}\" differs from block's label \"{label}\""),
            None => format!("end label \"{name}\" specified for unlabeled block"),
        };
        Err(self.error(at, &message))
    }

    fn declaration(&mut self) -> Result<Declaration> {
        let name = self.identifier()?;
        if self.eat_word("alias") {
            self.expect_word("for")?;
            let other = self.name()?;
            self.expect_symbol(";")?;
            return Ok(Declaration {
                name,
                kind: DeclarationKind::Alias(other),
            });
        }
        let constant = self.eat_word("constant");
        if self.at_word("cursor") || self.at_word("refcursor") {
            return Err(
                Error::unsupported("a cursor variable").hint("use FOR variable IN query LOOP")
            );
        }
        let of = self.type_name()?;
        let not_null = self.at_word("not") && self.word_at(1, "null");
        if not_null {
            self.advance();
            self.advance();
        }
        let default = if self.eat_word("default") || self.eat_symbol(":=") || self.eat_symbol("=") {
            Some(self.fragment(&[";"])?)
        } else {
            None
        };
        self.expect_symbol(";")?;
        Ok(Declaration {
            name,
            kind: DeclarationKind::Variable {
                of,
                constant,
                not_null,
                default,
            },
        })
    }

    fn type_name(&mut self) -> Result<TypeName> {
        let first = self.next;
        if self.at_word("record") {
            self.advance();
            return Ok(TypeName::Record);
        }
        self.skip_to(&["not", "default", ":=", "=", ";", "%", "collate"])?;
        if self.at_word("collate") {
            return Err(Error::unsupported("COLLATE of a variable"));
        }
        if !self.eat_symbol("%") {
            return Ok(TypeName::Sql(self.fragment_of(first)?));
        }
        self.next = first;
        let name = self.name()?;
        self.expect_symbol("%")?;
        match self.identifier()?.as_str() {
            "type" => Ok(TypeName::SameAs(name)),
            "rowtype" => Ok(TypeName::RowOf(name)),
            _ => Err(self.unexpected()),
        }
    }

    fn handler(&mut self) -> Result<Handler> {
        self.expect_word("when")?;
        let mut conditions = vec![self.condition()?];
        while self.eat_word("or") {
            conditions.push(self.condition()?);
        }
        self.expect_word("then")?;
        let body = self.statements(&["when", "end"])?;
        Ok(Handler { conditions, body })
    }

    fn condition(&mut self) -> Result<Condition> {
        let token = self.peek().clone();
        let name = self.identifier()?;
        if name == "others" {
            return Ok(Condition::Others);
        }
        if name == "sqlstate" {
            return Ok(Condition::State(self.sqlstate()?));
        }
        match conditions::state(&name) {
            Some(state) => Ok(Condition::State(state.to_string())),
            None => Err(self
                .error(
                    token.start,
                    &format!("unrecognized exception condition \"{name}\""),
                )
                .recode("42704")),
        }
    }

    /// A SQLSTATE as a string literal.
    pub(super) fn sqlstate(&mut self) -> Result<String> {
        let token = self.advance();
        match token.kind {
            Kind::Str(state) if conditions::is_state(&state) => Ok(state),
            _ => Err(self.error(token.start, "invalid SQLSTATE code")),
        }
    }

    /// Statements up to, not including, one of the words `stops`.
    pub(super) fn statements(&mut self, stops: &[&str]) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        while !self.at_any_word(stops) {
            if self.peek().kind == Kind::End {
                return Err(self.unexpected());
            }
            statements.push(self.nested(Self::statement)?);
        }
        Ok(statements)
    }
}
