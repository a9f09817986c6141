//! SQL statements inside a procedure: finding INTO, PERFORM, GET DIAGNOSTICS.

use super::super::ast::{Fragment, Into, Name, StatementKind};
use super::super::lexer::{Kind, Token};
use super::Parser;
use crate::error::Result;

/// First words of SQL statements.
const STARTS: [&str; 6] = ["select", "insert", "update", "delete", "with", "values"];

impl Parser<'_> {
    /// A statement up to `;`. Its INTO clause is blanked out of the text, so that positions stay.
    pub(super) fn sql_statement(&mut self) -> Result<StatementKind> {
        if !self.at_any_word(&STARTS) {
            return Err(self.unexpected());
        }
        let first = self.next;
        let mut into = None;
        let mut blank = 0..0;
        loop {
            self.skip_to(&[";", "into"])?;
            if self.symbol_at(0, ";") {
                break;
            }
            let after_insert =
                matches!(&self.tokens[self.next - 1].kind, Kind::Word(w) if w == "insert");
            let start = self.peek().clone();
            self.advance();
            if after_insert {
                continue;
            }
            if into.is_some() {
                return Err(self.error(start.start, "INTO specified more than once"));
            }
            into = Some(self.destination()?);
            blank = start.start..self.tokens[self.next - 1].end;
        }
        let mut text = self.fragment_of(first)?;
        if into.is_some() {
            text = blanked(&text, &blank);
        }
        self.advance();
        Ok(StatementKind::Sql { text, into })
    }

    fn destination(&mut self) -> Result<Into> {
        let strict = self.eat_word("strict");
        let mut targets = vec![self.name()?];
        while self.eat_symbol(",") {
            targets.push(self.name()?);
        }
        Ok(Into { strict, targets })
    }

    /// PERFORM is SELECT without a result.
    pub(super) fn perform(&mut self) -> Result<StatementKind> {
        let word = self.advance();
        let rest = self.fragment(&[";"])?;
        self.expect_symbol(";")?;
        // One character shorter than PERFORM, so one blank keeps positions.
        let gap = " ".repeat(rest.at - word.start - "SELECT".len());
        Ok(StatementKind::Perform(Fragment {
            text: format!("SELECT{gap}{}", rest.text),
            at: word.start,
        }))
    }

    /// `GET [CURRENT | STACKED] DIAGNOSTICS variable = ITEM, ...;`
    pub(super) fn diagnostics(&mut self) -> Result<StatementKind> {
        self.advance();
        let stacked = self.eat_word("stacked");
        if !stacked {
            self.eat_word("current");
        }
        self.expect_word("diagnostics")?;
        let mut items: Vec<(Name, String)> = Vec::new();
        loop {
            let target = self.name()?;
            if !self.eat_symbol("=") {
                self.expect_symbol(":=")?;
            }
            let token: Token = self.peek().clone();
            let item = self.identifier()?;
            let known: &[&str] = match stacked {
                true => &[
                    "returned_sqlstate",
                    "message_text",
                    "pg_exception_detail",
                    "pg_exception_hint",
                ],
                false => &["row_count"],
            };
            if !known.contains(&item.as_str()) {
                return Err(self.error(
                    token.start,
                    &format!("unrecognized GET DIAGNOSTICS item \"{item}\""),
                ));
            }
            items.push((target, item));
            if !self.eat_symbol(",") {
                break;
            }
        }
        self.expect_symbol(";")?;
        Ok(StatementKind::Diagnostics { stacked, items })
    }
}

fn blanked(fragment: &Fragment, range: &std::ops::Range<usize>) -> Fragment {
    let (from, to) = (range.start - fragment.at, range.end - fragment.at);
    let text = &fragment.text;
    Fragment {
        text: format!("{}{}{}", &text[..from], " ".repeat(to - from), &text[to..]),
        at: fragment.at,
    }
}
