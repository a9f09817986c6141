use super::super::ast::{Condition, Level, StatementKind, TypeName};
use super::*;

fn error_of(body: &str) -> (String, Option<u32>) {
    let error = parse(body).unwrap_err();
    assert_eq!(error.sqlstate(), "42601", "{error}");
    (error.message().to_string(), error.position())
}

fn first(body: &str) -> StatementKind {
    parse(body).unwrap().body.remove(0).kind
}

#[test]
fn declarations() {
    let body = "DECLARE a constant int4 := 1; b text NOT NULL DEFAULT 'x;y'; c t.col%TYPE; d t%ROWTYPE; e RECORD;
                f varchar(10) = 'q'; g ALIAS FOR $1; BEGIN END";
    let block = parse(body).unwrap();
    assert_eq!(block.declarations.len(), 7);
    let types: Vec<_> = block
        .declarations
        .iter()
        .filter_map(|d| match &d.kind {
            super::super::ast::DeclarationKind::Variable { of, .. } => Some(of),
            super::super::ast::DeclarationKind::Alias(_) => None,
        })
        .collect();
    assert!(matches!(types[0], TypeName::Sql(f) if f.text == "int4"));
    assert!(matches!(types[2], TypeName::SameAs(n) if n.join(".") == "t.col"));
    assert!(matches!(types[3], TypeName::RowOf(n) if n.join(".") == "t"));
    assert!(matches!(types[4], TypeName::Record));
    assert!(matches!(types[5], TypeName::Sql(f) if f.text == "varchar(10)"));
}

#[test]
fn into_is_cut_out_where_it_stands() {
    let StatementKind::Sql {
        text,
        into: Some(into),
    } = first("BEGIN SELECT a, b INTO STRICT x, r.y FROM t; END")
    else {
        panic!("not SQL");
    };
    assert!(into.strict);
    assert_eq!(
        into.targets,
        [vec!["x".to_string()], vec!["r".into(), "y".into()]]
    );
    assert_eq!(
        text.text.split_whitespace().collect::<Vec<_>>().join(" "),
        "SELECT a, b FROM t"
    );
    assert_eq!(
        text.text.find("FROM"),
        "SELECT a, b INTO STRICT x, r.y FROM t".find("FROM")
    );
    let body = "BEGIN INSERT INTO t (a) SELECT 1 RETURNING a INTO x; END";
    let StatementKind::Sql {
        text,
        into: Some(_),
    } = first(body)
    else {
        panic!("no INTO")
    };
    assert_eq!(
        text.text.trim_end(),
        "INSERT INTO t (a) SELECT 1 RETURNING a"
    );
}

#[test]
fn loops_over_ranges_and_queries() {
    let StatementKind::ForRange(range) =
        first("BEGIN FOR i IN REVERSE 10..f(1, 2) BY 3 LOOP NULL; END LOOP; END")
    else {
        panic!("not a range");
    };
    assert!(range.reverse);
    assert_eq!(
        (range.from.text.as_str(), range.to.text.as_str()),
        ("10", "f(1, 2)")
    );
    assert_eq!(range.by.unwrap().text, "3");
    let body =
        "BEGIN <<l>> FOR r IN SELECT 1 FOR UPDATE LOOP CONTINUE l WHEN true; END LOOP l; END";
    let StatementKind::ForQuery {
        label, query, body, ..
    } = first(body)
    else {
        panic!("not a query")
    };
    assert_eq!(label.as_deref(), Some("l"));
    assert_eq!(query.text, "SELECT 1 FOR UPDATE");
    assert!(matches!(
        &body[0].kind,
        StatementKind::Leave {
            again: true,
            label: Some(_),
            when: Some(_)
        }
    ));
}

#[test]
fn case_expressions_do_not_end_fragments() {
    let body =
        "BEGIN IF CASE WHEN a THEN b ELSE c END THEN x := CASE 1 WHEN 1 THEN 2 END; END IF; END";
    let StatementKind::If { arms, .. } = first(body) else {
        panic!("not an IF")
    };
    assert_eq!(arms[0].0.text, "CASE WHEN a THEN b ELSE c END");
    assert_eq!(arms[0].1.len(), 1);
}

#[test]
fn raise_in_all_forms() {
    let StatementKind::Raise(raise) =
        first("BEGIN RAISE 'a % b %%', x USING ERRCODE = '22012', HINT = 'h'; END")
    else {
        panic!("not RAISE");
    };
    assert_eq!(
        (raise.level, raise.arguments.len(), raise.using.len()),
        (Level::Exception, 1, 2)
    );
    let StatementKind::Raise(raise) = first("BEGIN RAISE division_by_zero; END") else {
        panic!("not RAISE")
    };
    assert_eq!(raise.state.as_deref(), Some("22012"));
    assert_eq!(
        error_of("BEGIN RAISE '% %', 1; END").0,
        "too few parameters specified for RAISE"
    );
    assert_eq!(
        error_of("BEGIN RAISE 'x', 1; END").0,
        "too many parameters specified for RAISE"
    );
}

#[test]
fn handlers_by_name_and_state() {
    let block = parse("BEGIN NULL; EXCEPTION WHEN division_by_zero OR SQLSTATE '23505' THEN NULL; WHEN OTHERS THEN END").unwrap();
    let conditions: Vec<_> = block
        .handlers
        .iter()
        .flat_map(|h| h.conditions.clone())
        .collect();
    let states = ["22012", "23505"].map(|s| Condition::State(s.to_string()));
    assert_eq!(
        conditions,
        [states[0].clone(), states[1].clone(), Condition::Others]
    );
    assert_eq!(
        parse("BEGIN NULL; EXCEPTION WHEN nonsense THEN END")
            .unwrap_err()
            .sqlstate(),
        "42704"
    );
}

#[test]
fn syntax_errors_say_where() {
    assert_eq!(
        error_of("BEGIN x := 1 END"),
        ("syntax error at end of input".into(), Some(17))
    );
    assert_eq!(
        error_of("BEGIN IF a THEN END LOOP; END"),
        ("syntax error at or near \"LOOP\"".into(), Some(21))
    );
    assert_eq!(
        error_of("BEGIN frobnicate; END"),
        ("syntax error at or near \"frobnicate\"".into(), Some(7))
    );
    assert_eq!(error_of("BEGIN RETURN 1; END; x").1, Some(22));
    assert_eq!(
        error_of("<<a>> BEGIN END b").0,
        "end label \"b\" differs from block's label \"a\""
    );
}

#[test]
fn nesting_has_a_bound() {
    let body = format!("{}{}", "BEGIN ".repeat(200), "END; ".repeat(200));
    assert_eq!(parse(&body).unwrap_err().sqlstate(), "54001");
}

/// The services' procedures are what this parser is for.
#[test]
fn parses_every_procedure_of_the_services() {
    let mut parsed = 0;
    for service in ["scheduler", "ipc", "dbfs"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(service)
            .join("sql");
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let mut rest = text.as_str();
            while let Some((head, tail)) = rest.split_once("$$") {
                let (body, after) = tail.split_once("$$").unwrap();
                if head.rfind("LANGUAGE plpgsql") > head.rfind("LANGUAGE sql") {
                    parse(body).unwrap_or_else(|e| panic!("{e} in {body}"));
                    parsed += 1;
                }
                rest = after;
            }
        }
    }
    assert!(parsed > 20, "{parsed}");
}
