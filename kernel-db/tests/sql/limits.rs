//! Bounds: each a clear error, and nothing left behind.

use kernel_db::Class;
use kernel_db::sql::Value;

use crate::database::Database;

#[test]
fn a_statement_over_the_run_limit_is_undone_and_may_run_elsewhere() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    let before = db.rows.rows.clone();
    assert_eq!(
        db.fails("INSERT INTO t SELECT n FROM generate_series(1, 2000000) n"),
        "DB003"
    );
    assert_eq!(db.rows.rows, before);
    assert_eq!(
        db.fails("SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"),
        "DB003"
    );
}

#[test]
fn a_row_over_the_bound_is_refused_by_name() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY, b bytea)");
    let big = |n: usize| Value::bytea(vec![7_u8; n]);
    let error = db
        .run_one("INSERT INTO t VALUES (1, $1)", &[big(9 << 20)])
        .unwrap_err();
    assert_eq!((error.sqlstate(), error.class()), ("54000", Class::Request));
    assert!(error.message().contains("8388608"), "{error}");
    db.run_one("INSERT INTO t VALUES (1, $1)", &[big(8_000_000)])
        .unwrap();
    assert_eq!(db.show("SELECT length(b) FROM t"), ["8000000"]);
}

#[test]
fn texts_of_a_growing_frame_are_bounded_together() {
    let mut db = Database::new();
    let length = |frame: &str, rows: u32| {
        format!(
            "SELECT sum(length(s)) FROM (SELECT string_agg(repeat('x', 100000), ',') OVER (ORDER BY n {frame}) AS s \
             FROM generate_series(1, {rows}) n) q"
        )
    };
    // 51 * 50 / 2 texts of 100,000 bytes, one comma less than texts in each row.
    assert_eq!(db.show(&length("", 50)), ["127501225"]);
    // Two gigabytes in all, of which no row has more than 20 MB.
    assert_eq!(db.fails(&length("", 200)), "54000");
    assert_eq!(db.show(&length("ROWS 1 PRECEDING", 200)), ["39900199"]);
    // The same text for every row is one text.
    let whole = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING";
    assert_eq!(db.show(&length(whole, 200)), ["4000039800"]);
}

#[test]
fn a_long_chain_of_windows_is_no_crash() {
    let mut db = Database::new();
    let links = (1..20_000).map(|n| format!(", w{n} AS (w{})", n - 1));
    let chain: String = links.collect();
    let sql = format!(
        "SELECT rank() OVER w19999 FROM generate_series(1, 2) n WINDOW w0 AS (ORDER BY n){chain} ORDER BY 1"
    );
    assert_eq!(db.show(&sql), ["1", "2"]);
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let mut db = Database::new();
    let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert_eq!(db.fails(&deep), "54001");
    let sum = format!("SELECT {}", vec!["1"; 5_000].join(" + "));
    assert_eq!(db.fails(&sum), "54001");
    for (open, close) in [
        ("CASE WHEN true THEN ", " ELSE 0 END"),
        ("CASE ", " WHEN 1 THEN 1 END"),
        ("CAST(", " AS int)"),
        ("NOT ", ""),
        ("(SELECT ", ")"),
        ("COALESCE(", ", 1)"),
    ] {
        for depth in [60, 150, 1_000] {
            let deep = format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth));
            let Err(error) = db.run_one(&deep, &[]) else {
                continue;
            };
            assert!(
                ["54001", "42804"].contains(&error.sqlstate()),
                "{depth} times {open}: {error}"
            );
        }
        let deep = format!("SELECT {}1{}", open.repeat(1_000), close.repeat(1_000));
        assert_eq!(db.fails(&deep), "54001", "{open}");
    }
}

#[test]
fn a_long_chain_of_operators_is_an_error_and_no_crash() {
    let mut db = Database::new();
    for link in [
        " + 1",
        " OR true",
        "::int",
        " IS NULL",
        " UNION ALL SELECT 1",
        " UNION SELECT 1, 2",
        " || 'a'",
        " AT TIME ZONE 'UTC'",
        " COLLATE \"C\"",
        "[1]",
        ".a",
        " BETWEEN 1 AND 2",
        " LIKE 'a'",
    ] {
        // The first has ended a node, if few of the stack's bytes are needed for a link; the last fit.
        for length in [200_000, 9_000, 2_000] {
            let chain = format!("1{}", link.repeat(length));
            for sql in [
                format!("SELECT {chain}"),
                format!("CREATE TABLE t (a int PRIMARY KEY, b int DEFAULT {chain})"),
                format!(
                    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN {chain}; END $$"
                ),
            ]
            .iter()
            .take(if length > 20_000 && link != " + 1" { 1 } else { 3 })
            {
                let outcome = db.run_one(sql, &[]);
                if length > 20_000 {
                    let state = outcome.err().map(|e| e.sqlstate().to_owned());
                    assert!(
                        matches!(state.as_deref(), Some("54001" | "42601")),
                        "{}: {state:?}",
                        &sql[..80]
                    );
                }
                db.run_one("DROP TABLE IF EXISTS t", &[]).unwrap();
                db.run_one("DROP FUNCTION IF EXISTS f()", &[]).unwrap();
            }
        }
    }
}

#[test]
fn long_filters_are_no_nesting() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    db.run_one("INSERT INTO t SELECT generate_series(1, 10)", &[])
        .unwrap();
    for (operator, rows) in [(" OR ", 10), (" AND ", 0)] {
        let terms: Vec<_> = (1..=4_000).map(|n| format!("a = {n}")).collect();
        let sql = format!("SELECT a FROM t WHERE {}", terms.join(operator));
        assert_eq!(db.show(&sql).len(), rows, "{operator}");
    }
}

#[test]
fn errors_carry_their_position() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    for (sql, state, position) in [
        ("SELECT b FROM t", "42703", Some(8)),
        ("SELECT *\n  FROM nowhere", "42P01", Some(17)),
        ("SELECT a FROM t WHERE", "42601", Some(22)),
        ("SELEC 1", "42601", Some(1)),
        ("SELECT f(a) FROM t", "42883", Some(8)),
        ("SELECT x.a FROM t", "42P01", Some(8)),
    ] {
        let error = db.run_one(sql, &[]).unwrap_err();
        assert_eq!(
            (error.sqlstate(), error.position()),
            (state, position),
            "{sql}: {error}"
        );
    }
}

#[test]
fn results_are_bounded_in_bytes_and_what_is_not_shown_is_not_counted() {
    let mut db = Database::new();
    let text =
        |rows: u32| format!("SELECT repeat('x', 1000000) AS t FROM generate_series(1, {rows})");
    assert_eq!(db.fails(&text(300)), "54000");
    let most = format!("SELECT max(length(t)), count(*) FROM ({}) AS q", text(300));
    assert_eq!(db.show(&most), ["1000000|300"]);
    // What a function returns is held, even if it is not shown.
    db.run(
        "CREATE FUNCTION wide(n int) RETURNS SETOF text LANGUAGE plpgsql AS $$
         BEGIN
             FOR i IN 1..n LOOP
                 RETURN NEXT repeat('x', 1000000);
             END LOOP;
         END $$",
    )
    .unwrap();
    assert_eq!(db.show("SELECT count(*) FROM wide(100)"), ["100"]);
    assert_eq!(db.fails("SELECT count(*) FROM wide(300)"), "54000");
}

#[test]
fn what_a_query_keeps_is_bounded_in_bytes() {
    let mut db = Database::new();
    let rows = "SELECT n, repeat('x', 1000000) || n AS t FROM generate_series(1, 300) n";
    for keeps in [
        format!("SELECT n FROM ({rows}) q ORDER BY t"),
        format!("SELECT count(*) FROM (SELECT DISTINCT t FROM ({rows}) q) r"),
        format!("SELECT count(*) FROM (SELECT DISTINCT ON (t) n FROM ({rows}) q) r"),
        format!("SELECT count(DISTINCT t) FROM ({rows}) q"),
        format!("SELECT string_agg('', '' ORDER BY t) FROM ({rows}) q"),
        format!("SELECT count(*) FROM (SELECT t FROM ({rows}) q GROUP BY t) r"),
        format!("SELECT count(*) FROM (SELECT rank() OVER (ORDER BY t) FROM ({rows}) q) r"),
        format!("SELECT count(*) FROM (SELECT t FROM ({rows}) q UNION SELECT '') r"),
        format!("SELECT count(*) FROM (SELECT '' EXCEPT SELECT t FROM ({rows}) q) r"),
        format!("SELECT count(*) FROM (SELECT t FROM ({rows}) q EXCEPT SELECT '') r"),
        format!("SELECT count(*) FROM generate_series(1, 300) m JOIN ({rows}) q ON q.n = m"),
        "WITH RECURSIVE r(n, t) AS (SELECT 1, '' UNION SELECT n + 1, repeat('x', 1000000) || n FROM r WHERE n < 300) \
             SELECT count(*) FROM r"
            .to_string(),
    ] {
        assert_eq!(db.fails(&keeps), "54000", "{keeps}");
    }
    assert_eq!(
        db.show(&format!("SELECT count(*), max(length(t)) FROM ({rows}) q")),
        ["300|1000003"]
    );
}
