//! PostgreSQL's grammar where the parser's own dialect of that name reads expressions otherwise.
//!
//! Precedence, from PostgreSQL's manual: unary minus binds closer than `^`, `~` as loosely as other operators, and what
//! follows IS DISTINCT FROM ends before AND. ISNULL is a test, not an alias.

use std::any::TypeId;

use sqlparser::ast::{Expr, UnaryOperator};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// The language of statements, functions and expressions.
#[derive(Debug)]
pub struct Grammar;

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// Just below subscripts and casts.
const UNARY_MINUS: u8 = 125;

macro_rules! as_in_postgresql {
    ($($method:ident),*) => {
        $(fn $method(&self) -> bool {
            POSTGRES.$method()
        })*
    };
}

impl Dialect for Grammar {
    fn dialect(&self) -> TypeId {
        POSTGRES.dialect()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    /// Words that are no name in PostgreSQL: what begins with one is not read again as a name when it does not parse, which
    /// would hide that it is nested too deeply.
    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        matches!(keyword, Keyword::CASE | Keyword::CAST | Keyword::NOT)
            || POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    as_in_postgresql!(
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_factorial_operator,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_colon_operator,
        supports_named_fn_args_with_expr_name,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_xml_expressions,
        supports_comment_optimizer_hint
    );

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match is_null_test(&parser.peek_token_ref().token) {
            true => Some(Ok(self.prec_value(Precedence::Is))),
            false => POSTGRES.get_next_precedence(parser),
        }
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let (op, precedence) = match parser.peek_token_ref().token {
            Token::Minus => (UnaryOperator::Minus, UNARY_MINUS),
            Token::Plus => (UnaryOperator::Plus, UNARY_MINUS),
            Token::Tilde => (
                UnaryOperator::BitwiseNot,
                self.prec_value(Precedence::PgOther),
            ),
            _ => return None,
        };
        parser.next_token();
        let expr = parser.parse_subexpr(precedence).map(Box::new);
        Some(expr.map(|expr| Expr::UnaryOp { op, expr }))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let left = || Box::new(expr.clone());
        if is_null_test(&parser.peek_token_ref().token) {
            parser.next_token();
            return Some(Ok(Expr::IsNull(left())));
        }
        let negated = parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]);
        if !negated && !parser.parse_keywords(&[IS, DISTINCT, FROM]) {
            return None;
        }
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(Box::new).map(|right| match negated {
            true => Expr::IsNotDistinctFrom(left(), right),
            false => Expr::IsDistinctFrom(left(), right),
        }))
    }
}

fn is_null_test(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("isnull"))
}
