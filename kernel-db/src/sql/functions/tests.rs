//! Functions and operators as a statement would call them: resolved by types, arguments cast, then called.

use sqlparser::ast::{BinaryOperator as Op, UnaryOperator};

use super::*;
use crate::sql::cast::{CastContext, cast};
use crate::sql::text::{from_text, to_text};
use DataType::*;

fn context(seed: &mut u64) -> FnCtx<'_> {
    FnCtx {
        wall_us: 1_000_000,
        seed,
        wait: None,
        lease: None,
        user: "me",
        database: "db",
        application: "",
    }
}

/// An argument written as text; an `Unknown` one stays a literal.
fn call(function: &Function, args: &[(&str, DataType)]) -> Result<Option<String>> {
    let mut seed = 7;
    let mut values = Vec::new();
    for ((text, data_type), to) in args.iter().zip(&function.args) {
        let value = if *text == "NULL" {
            Value::Null
        } else {
            from_text(text, *data_type)?
        };
        values.push(cast(&value, *to, CastContext::Explicit)?);
    }
    let result = function.call(&values, &mut context(&mut seed))?;
    let right_type =
        result.data_type() == function.ret || function.ret == Varchar && result.data_type() == Text;
    assert!(
        result.is_null() || right_type,
        "{} gives {result:?}",
        function.name
    );
    Ok(to_text(&result))
}

fn run(name: &str, args: &[(&str, DataType)]) -> Result<Option<String>> {
    let types: Vec<DataType> = args.iter().map(|(_, data_type)| *data_type).collect();
    call(&resolve_function(name, &types)?, args)
}

fn shown(name: &str, args: &[(&str, DataType)]) -> String {
    run(name, args)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .unwrap_or("NULL".into())
}

fn code(name: &str, args: &[(&str, DataType)]) -> String {
    run(name, args).unwrap_err().sqlstate().to_string()
}

fn op(op: Op, left: (&str, DataType), right: (&str, DataType)) -> Result<(String, DataType)> {
    let function = resolve_operator(&op, left.1, right.1)?;
    Ok((
        call(&function, &[left, right])?.unwrap_or("NULL".into()),
        function.ret,
    ))
}

fn op_code(operator: Op, left: (&str, DataType), right: (&str, DataType)) -> String {
    op(operator, left, right)
        .unwrap_err()
        .sqlstate()
        .to_string()
}

#[test]
fn integers_promote_and_overflow() {
    assert_eq!(
        op(Op::Plus, ("1", Int2), ("2", Int4)).unwrap(),
        ("3".into(), Int4)
    );
    assert_eq!(
        op(Op::Plus, ("1", Int2), ("2", Int2)).unwrap(),
        ("3".into(), Int2)
    );
    assert_eq!(
        op(Op::Plus, ("1", Int4), ("2", Unknown)).unwrap(),
        ("3".into(), Int4)
    );
    assert_eq!(
        op(Op::Divide, ("-7", Int4), ("2", Int4)).unwrap(),
        ("-3".into(), Int4)
    );
    assert_eq!(
        op(Op::Modulo, ("-7", Int4), ("2", Int4)).unwrap(),
        ("-1".into(), Int4)
    );
    assert_eq!(
        op(Op::Modulo, ("-2147483648", Int4), ("-1", Int4))
            .unwrap()
            .0,
        "0"
    );
    assert_eq!(
        op_code(Op::Plus, ("2147483647", Int4), ("1", Int4)),
        "22003"
    );
    assert_eq!(
        op_code(Op::Divide, ("-2147483648", Int4), ("-1", Int4)),
        "22003"
    );
    assert_eq!(op_code(Op::Divide, ("1", Int8), ("0", Int4)), "22012");
    assert_eq!(op(Op::Plus, ("NULL", Int4), ("1", Int4)).unwrap().0, "NULL");
    assert_eq!(
        op(Op::Multiply, ("2", Int4), ("1.50", Numeric)).unwrap(),
        ("3.00".into(), Numeric)
    );
    assert_eq!(
        op(Op::Plus, ("1.5", Numeric), ("1", Float8)).unwrap(),
        ("2.5".into(), Float8)
    );
    assert_eq!(op_code(Op::Modulo, ("1", Float8), ("1", Float8)), "42883");
    assert_eq!(
        op_code(Op::Multiply, ("1e300", Float8), ("1e300", Float8)),
        "22003"
    );
    assert_eq!(op_code(Op::Divide, ("1", Float8), ("0", Float8)), "22012");
}

#[test]
fn unknown_operands_take_the_other_type() {
    assert_eq!(op(Op::Lt, ("10", Unknown), ("9", Int8)).unwrap().0, "f");
    assert_eq!(op(Op::Lt, ("10", Unknown), ("9", Unknown)).unwrap().0, "t");
    assert_eq!(op_code(Op::Plus, ("1", Unknown), ("1", Unknown)), "42725");
    assert_eq!(op_code(Op::Eq, ("x", Unknown), ("1", Int4)), "22P02");
    let error = resolve_operator(&Op::Eq, Int4, Text).unwrap_err();
    assert_eq!(error.message(), "operator does not exist: integer = text");
    assert_eq!(
        op(Op::Plus, ("2026-01-01", Timestamptz), ("1 day", Interval))
            .unwrap()
            .0,
        "2026-01-02 00:00:00+00"
    );
}

#[test]
fn concatenation_needs_a_text() {
    assert_eq!(
        op(Op::StringConcat, ("a", Unknown), ("1", Int4)).unwrap(),
        ("a1".into(), Text)
    );
    assert_eq!(
        op(Op::StringConcat, ("t", Bool), ("x", Text)).unwrap().0,
        "truex"
    );
    assert_eq!(
        op(Op::StringConcat, ("\\x01", Bytea), ("\\x02", Unknown)).unwrap(),
        ("\\x0102".into(), Bytea)
    );
    assert_eq!(
        op(Op::StringConcat, ("a", Varchar), ("b", Varchar)).unwrap(),
        ("ab".into(), Text)
    );
    assert_eq!(op_code(Op::StringConcat, ("1", Int4), ("2", Int4)), "42883");
}

#[test]
fn times_and_bits() {
    let (difference, data_type) = op(
        Op::Minus,
        ("2026-01-03 01:00", Timestamptz),
        ("2026-01-01", Timestamptz),
    )
    .unwrap();
    assert_eq!(
        (difference.as_str(), data_type),
        ("2 days 01:00:00", Interval)
    );
    assert_eq!(
        op(Op::Multiply, ("2", Int4), ("1 day", Interval))
            .unwrap()
            .0,
        "2 days"
    );
    assert_eq!(op(Op::BitwiseAnd, ("6", Int4), ("3", Int4)).unwrap().0, "2");
    assert_eq!(
        op(Op::PGBitwiseShiftLeft, ("1", Int8), ("40", Int4))
            .unwrap()
            .0,
        "1099511627776"
    );
    assert_eq!(
        op(Op::PGBitwiseShiftLeft, ("1", Int8), ("3", Unknown))
            .unwrap()
            .0,
        "8"
    );
    assert_eq!(
        op(Op::Divide, ("1 day", Interval), ("2", Unknown))
            .unwrap()
            .0,
        "12:00:00"
    );
    assert_eq!(
        op_code(Op::Minus, ("2026-01-01", Timestamptz), ("1 day", Unknown)),
        "22007"
    );
    let sum = op(Op::Plus, ("1 day", Unknown), ("2026-01-01", Timestamptz)).unwrap();
    assert_eq!(sum.0, "2026-01-02 00:00:00+00");
    assert_eq!(
        resolve_unary(&UnaryOperator::Minus, Unknown)
            .unwrap_err()
            .sqlstate(),
        "42725"
    );
    let negate = resolve_unary(&UnaryOperator::Minus, Int4).unwrap();
    assert_eq!(
        call(&negate, &[("-2147483648", Int4)])
            .unwrap_err()
            .sqlstate(),
        "22003"
    );
    assert_eq!(
        resolve_unary(&UnaryOperator::Minus, Text)
            .unwrap_err()
            .sqlstate(),
        "42883"
    );
}

#[test]
fn overloads_are_chosen_as_postgresql_chooses() {
    for (name, args, ret) in [
        ("sqrt", &[Int4][..], Float8),
        ("sqrt", &[Numeric], Numeric),
        ("abs", &[Int2], Int2),
        ("abs", &[Unknown], Float8),
        ("round", &[Int4], Float8),
        ("round", &[Int4, Int4], Numeric),
        ("length", &[Unknown], Int4),
        ("substr", &[Varchar, Int4], Text),
        ("mod", &[Int4, Int8], Int8),
        ("greatest", &[Int4, Float8], Float8),
        ("least", &[Unknown, Unknown], Text),
    ] {
        assert_eq!(
            resolve_function(name, args).unwrap().ret,
            ret,
            "{name} {args:?}"
        );
    }
    let error = resolve_function("lower", &[Int4]).unwrap_err();
    assert_eq!(error.message(), "function lower(integer) does not exist");
    assert_eq!(error.sqlstate(), "42883");
    assert!(error.get_hint().is_some());
    assert_eq!(
        resolve_function("extract", &[Text, Unknown])
            .unwrap_err()
            .sqlstate(),
        "42725"
    );
    assert_eq!(
        resolve_function("round", &[Float8, Int4])
            .unwrap_err()
            .sqlstate(),
        "42883"
    );
}

#[test]
fn texts() {
    let t = |text| (text, Text);
    assert_eq!(
        shown("substr", &[t("hello"), ("2", Int4), ("3", Int4)]),
        "ell"
    );
    assert_eq!(
        shown("substring", &[t("hello"), ("-1", Int4), ("4", Int4)]),
        "he"
    );
    assert_eq!(
        shown("substr", &[("\\x010203", Bytea), ("2", Int4)]),
        "\\x0203"
    );
    assert_eq!(
        code("substr", &[t("a"), ("1", Int4), ("-1", Int4)]),
        "22011"
    );
    assert_eq!(shown("left", &[t("abc"), ("-1", Int4)]), "ab");
    assert_eq!(shown("right", &[t("abc"), ("-1", Int4)]), "bc");
    assert_eq!(shown("right", &[t("abc"), ("2", Int4)]), "bc");
    assert_eq!(shown("lpad", &[t("5"), ("3", Int4), t("0")]), "005");
    assert_eq!(shown("rpad", &[t("abcdef"), ("3", Int4)]), "abc");
    assert_eq!(shown("strpos", &[t("äbc"), t("c")]), "3");
    assert_eq!(
        shown("split_part", &[t("a,b,c"), t(","), ("-1", Int4)]),
        "c"
    );
    assert_eq!(code("split_part", &[t("a"), t(","), ("0", Int4)]), "22023");
    assert_eq!(
        shown(
            "concat",
            &[t("a"), ("NULL", Text), ("t", Bool), ("1", Int4)]
        ),
        "at1"
    );
    assert_eq!(
        shown("concat_ws", &[t("-"), t("a"), ("NULL", Text), t("b")]),
        "a-b"
    );
    assert_eq!(shown("btrim", &[t("xxaxx"), t("x")]), "a");
    assert_eq!(shown("replace", &[t("aXbX"), t("X"), t("--")]), "a--b--");
    assert_eq!(shown("translate", &[t("12345"), t("143"), t("ax")]), "a2x5");
    assert_eq!(code("repeat", &[t("aaaa"), ("2147483647", Int4)]), "54000");
    assert_eq!(shown("initcap", &[t("hi THOMAS")]), "Hi Thomas");
    assert_eq!(shown("chr", &[("8364", Int4)]), "€");
    assert_eq!(shown("ascii", &[t("x")]), "120");
    assert_eq!(code("chr", &[("0", Int4)]), "54000");
}

#[test]
fn bytes_and_digits() {
    assert_eq!(
        shown("md5", &[("abc", Text)]),
        "900150983cd24fb0d6963f7d28e17f72"
    );
    assert_eq!(shown("to_hex", &[("-1", Int4)]), "ffffffff");
    assert_eq!(
        shown("encode", &[("\\x00ff41", Bytea), ("base64", Text)]),
        "AP9B"
    );
    assert_eq!(
        shown("encode", &[("\\x00ff41", Bytea), ("escape", Text)]),
        "\\000\\377A"
    );
    assert_eq!(
        shown("decode", &[("AP8=", Text), ("base64", Text)]),
        "\\x00ff"
    );
    assert_eq!(shown("decode", &[("0aFf", Text), ("hex", Text)]), "\\x0aff");
    assert_eq!(code("decode", &[("AP8", Text), ("base64", Text)]), "22023");
    assert_eq!(shown("get_byte", &[("\\x0102", Bytea), ("1", Int4)]), "2");
    assert_eq!(
        code("get_byte", &[("\\x0102", Bytea), ("2", Int4)]),
        "2202E"
    );
}

#[test]
fn full_base64_lines_end() {
    let line = "\\x".to_string() + &"00".repeat(57);
    let full = shown("encode", &[(line.as_str(), Bytea), ("base64", Text)]);
    assert_eq!((full.len(), full.ends_with('\n')), (77, true));
}

#[test]
fn numbers() {
    assert_eq!(shown("round", &[("2.5", Float8)]), "2");
    assert_eq!(shown("round", &[("2.5", Numeric)]), "3");
    assert_eq!(shown("round", &[("2.456", Numeric), ("2", Int4)]), "2.46");
    assert_eq!(shown("power", &[("2", Int4), ("10", Int4)]), "1024");
    assert_eq!(shown("div", &[("-7", Numeric), ("2", Numeric)]), "-3");
    assert_eq!(shown("sign", &[("-2.5", Numeric)]), "-1");
    assert_eq!(code("ln", &[("0", Float8)]), "2201E");
    assert_eq!(code("sqrt", &[("-1", Float8)]), "2201F");
    assert_eq!(code("exp", &[("1000", Float8)]), "22003");
    assert_eq!(
        shown("greatest", &[("1", Int4), ("NULL", Int4), ("3", Int4)]),
        "3"
    );
    assert_eq!(shown("least", &[("NULL", Int4), ("NULL", Int4)]), "NULL");
}

#[test]
fn formats_and_quotes() {
    let args = [
        ("%s %I %L %%|%-4s|%3s|%1$s", Text),
        ("a", Text),
        ("B c", Text),
        ("d'e", Text),
        ("x", Text),
        ("y", Text),
    ];
    assert_eq!(shown("format", &args), "a \"B c\" 'd''e' %|x   |  y|a");
    assert_eq!(code("format", &[("%s", Text)]), "22023");
    assert_eq!(code("format", &[("%d", Text), ("1", Int4)]), "22023");
    assert_eq!(shown("format", &[("%L", Text), ("NULL", Text)]), "NULL");
    assert_eq!(shown("quote_ident", &[("select", Text)]), "\"select\"");
    assert_eq!(shown("quote_ident", &[("abc_1", Text)]), "abc_1");
    assert_eq!(shown("quote_literal", &[("a\\b", Text)]), "E'a\\\\b'");
    assert_eq!(
        shown("quote_literal", &[("42", Int4)]),
        "42".replace("42", "'42'")
    );
}

#[test]
fn surroundings() {
    assert_eq!(shown("now", &[]), "1970-01-01 00:00:01+00");
    assert_eq!(
        shown("extract", &[("epoch", Text), ("1 day", Interval)]),
        "86400.000000"
    );
    assert_eq!(
        shown(
            "date_part",
            &[("epoch", Text), ("1970-01-01 00:01", Timestamptz)]
        ),
        "60"
    );
    assert_eq!(
        shown("to_timestamp", &[("1.5", Float8)]),
        "1970-01-01 00:00:01.5+00"
    );
    assert_eq!(shown("pg_typeof", &[("NULL", Int8)]), "bigint");
    assert_eq!(shown("current_user", &[]), "me");
    let uuid = shown("gen_random_uuid", &[]);
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    assert_eq!(uuid, shown("gen_random_uuid", &[]), "the seed decides");
    let random: f64 = shown("random", &[]).parse().unwrap();
    assert!((0.0..1.0).contains(&random));
    assert!(shown("version", &[]).starts_with("PostgreSQL 15.0 (DBOS kernel-db "));
}
