//! DO: a block of plpgsql that has no name.
//!
//! It is planned as a call of a function that only this plan's catalogue knows, so it finds its partitions, takes its locks
//! and is undone like any call.

use std::sync::Arc;

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::rewrite::{is_word, solid};
use super::{Binder, ident, prepare_text};
use crate::error::{Error, Result};
use crate::sql::ddl;
use crate::sql::plan::Plan;
use crate::sql::prepare::{Kind, Prepared};

/// The function's name, which no text can contain.
const NAME: &str = "\0do";

/// `DO [LANGUAGE l] 'body' [LANGUAGE l]` as `CREATE FUNCTION name() RETURNS void LANGUAGE l AS 'body'`.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places = solid(&tokens);
    let words: Vec<&TokenWithSpan> = places.iter().map(|p| &tokens[*p]).collect();
    let (body, language) = match words.as_slice() {
        [first, body] if is_word(first, "do") => (*body, None),
        [first, body, word, language] if is_word(first, "do") && is_word(word, "language") => {
            (*body, Some(*language))
        }
        [first, word, language, body] if is_word(first, "do") && is_word(word, "language") => {
            (*body, Some(*language))
        }
        _ => return tokens,
    };
    let language = match language.map(|l| &l.token) {
        None => Token::make_keyword("plpgsql"),
        Some(Token::SingleQuotedString(name)) => Token::make_word(name, None),
        Some(word) => word.clone(),
    };
    let name = Token::Word(Word {
        value: NAME.to_owned(),
        quote_style: Some('"'),
        keyword: Keyword::NoKeyword,
    });
    let (create, function) = (
        Token::make_keyword("CREATE"),
        Token::make_keyword("FUNCTION"),
    );
    let (returns, void) = (
        Token::make_keyword("RETURNS"),
        Token::make_word("void", None),
    );
    let (word, as_) = (Token::make_keyword("LANGUAGE"), Token::make_keyword("AS"));
    let made = [
        create,
        function,
        name,
        Token::LParen,
        Token::RParen,
        returns,
        void,
        word,
        language,
        as_,
        body.token.clone(),
    ];
    let span = body.span;
    made.map(|token| TokenWithSpan { token, span }).to_vec()
}

/// True if the statement was a DO.
pub(super) fn is_do(create: &ast::CreateFunction) -> bool {
    let name = create.name.0.first().and_then(|part| part.as_ident());
    name.is_some_and(|name| ident(name) == NAME)
}

impl Binder<'_> {
    pub(super) fn do_block(self, create: &ast::CreateFunction) -> Result<Prepared> {
        let mut change = ddl::Change::new(self.catalog.as_ref().clone());
        change.block(create)?;
        let catalog = Arc::new(change.into_catalog());
        let mut prepared = prepare_text(&catalog, &format!("SELECT \"{NAME}\"()"), &[])?;
        prepared.kind = Kind::Do;
        prepared.columns.clear();
        prepared.plan = match prepared.plan {
            Plan::Query(call) => Plan::Do(call),
            _ => return Err(Error::internal("a call that is no query")),
        };
        Ok(prepared)
    }
}
