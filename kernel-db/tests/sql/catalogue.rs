//! Schema changes: versions, installation, index filling.

use std::sync::Arc;

use kernel_db::partition::Transaction;
use kernel_db::sql::catalog::{Catalog, IndexState};
use kernel_db::sql::transaction::{
    Backfill, CatalogChange, InstallSchema, Outcomes, SCHEMA_CHANGED, SqlTransaction,
};
use kernel_db::{Class, Error};

use crate::database::Database;

fn ddl(sql: &str) -> CatalogChange {
    CatalogChange::Ddl(vec![sql.to_string()])
}

#[test]
fn a_transaction_planned_for_another_version_is_refused_and_changes_nothing() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    let old = Arc::new(db.prepare("INSERT INTO t VALUES (1)").unwrap());
    db.run("CREATE TABLE u (a int PRIMARY KEY)").unwrap();
    let before = db.rows.rows.clone();
    let error = db
        .transact(&SqlTransaction::new(vec![(old, Vec::new())], ""))
        .unwrap_err();
    assert_eq!(
        (error.sqlstate(), error.class()),
        (SCHEMA_CHANGED, Class::Retry)
    );
    assert_eq!(db.rows.rows, before);
}

#[test]
fn the_catalogue_survives_its_bytes() {
    let db = Database::with(
        "CREATE TABLE t (a int, b varchar(5) DEFAULT 'q' CHECK (b <> ''), PRIMARY KEY (a)); CREATE INDEX i ON t (b DESC);
         CREATE SEQUENCE s; CREATE FUNCTION f(x int DEFAULT 3) RETURNS int LANGUAGE sql AS $$ SELECT x $$; DROP INDEX i",
    );
    let copy = Catalog::from_bytes(&db.catalog.to_bytes().unwrap()).unwrap();
    assert_eq!(copy.to_bytes().unwrap(), db.catalog.to_bytes().unwrap());
    assert_eq!(copy.version, db.catalog.version);
    assert_eq!(copy.table(None, "t"), db.catalog.table(None, "t"));
}

#[test]
fn a_change_of_several_statements_is_one_version_or_none() {
    let mut db = Database::new();
    let version = db.catalog.version;
    let two = vec![
        "CREATE TABLE t (a int PRIMARY KEY)".to_string(),
        "CREATE INDEX i ON t (a)".to_string(),
    ];
    db.change(&CatalogChange::Ddl(two)).unwrap();
    assert_eq!(db.catalog.version, version + 1);
    assert_eq!(
        db.catalog.index("i").unwrap().1.state,
        IndexState::Ready,
        "an index of a new table needs no filling"
    );
    let bad = vec![
        "CREATE TABLE u (a int PRIMARY KEY)".to_string(),
        "CREATE TABLE t (a int)".to_string(),
    ];
    assert!(db.change(&CatalogChange::Ddl(bad)).is_err());
    assert!(db.catalog.table(None, "u").is_none());
    db.change(&ddl("CREATE TABLE IF NOT EXISTS t (a int)"))
        .unwrap();
    assert_eq!(
        db.catalog.version,
        version + 1,
        "nothing changed, so neither did the version"
    );
}

#[test]
fn an_index_is_written_before_it_is_read_and_filled_in_steps() {
    let mut db = Database::with(
        "CREATE TABLE t (p int, id int, v int, PRIMARY KEY (p, id));
         INSERT INTO t SELECT 1, n, n % 5 FROM generate_series(1, 20) n",
    );
    db.change(&ddl("CREATE INDEX i ON t (v)")).unwrap();
    assert!(
        !db.explain("SELECT 1 FROM t WHERE v = 3")
            .contains("using i"),
        "read before it is filled"
    );
    let table = db.catalog.table(None, "t").unwrap().id;
    let mut after = None;
    let mut steps = 0;
    loop {
        // Writes between the steps keep the index too.
        db.run(&format!("INSERT INTO t VALUES (1, {}, 3)", 100 + steps))
            .unwrap();
        db.run(&format!(
            "UPDATE t SET v = v + 1 WHERE p = 1 AND id = {}",
            20 - steps
        ))
        .unwrap();
        db.run(&format!("DELETE FROM t WHERE p = 1 AND id = {}", steps + 1))
            .unwrap();
        let fill = Backfill {
            catalog: Arc::clone(&db.catalog),
            table,
            index: 1,
            after,
            max_rows: 4,
        };
        after = Backfill::decode(&db.transact(&fill).unwrap());
        steps += 1;
        if after.is_none() {
            break;
        }
    }
    assert!(steps > 3);
    db.change(&CatalogChange::IndexReady { table, index: 1 })
        .unwrap();
    assert!(
        db.explain("SELECT 1 FROM t WHERE v = 3")
            .contains("using i")
    );
    for v in 0..7 {
        let by_index = db.show(&format!("SELECT id FROM t WHERE v = {v} ORDER BY id"));
        assert_eq!(
            by_index,
            db.show(&format!("SELECT id FROM t WHERE v + 0 = {v} ORDER BY id")),
            "v = {v}"
        );
    }
}

#[test]
fn a_unique_index_over_doubles_fails_and_goes_away() {
    let mut db = Database::with(
        "CREATE TABLE t (p int, id int, v int, PRIMARY KEY (p, id)); INSERT INTO t VALUES (1, 1, 7), (1, 2, 7), (2, 1, 7)",
    );
    let error: Error = db.run("CREATE UNIQUE INDEX u ON t (p, v)").unwrap_err();
    assert_eq!(error.sqlstate(), "23505");
    assert!(db.catalog.index("u").is_none());
    db.run("DELETE FROM t WHERE p = 1 AND id = 2; CREATE UNIQUE INDEX u ON t (p, v)")
        .unwrap();
    assert_eq!(db.fails("INSERT INTO t VALUES (1, 3, 7)"), "23505");
}

#[test]
fn dropped_tables_and_indexes_leave_no_keys() {
    let mut db = Database::with(
        "CREATE TABLE keep (a int PRIMARY KEY); INSERT INTO keep VALUES (1);
         CREATE TABLE t (a int PRIMARY KEY, b int); CREATE INDEX i ON t (b); INSERT INTO t VALUES (1, 2), (3, 4)",
    );
    let all = db.rows.rows.len();
    db.run("DROP INDEX i").unwrap();
    assert_eq!(db.rows.rows.len(), all - 2);
    db.run("TRUNCATE t").unwrap();
    assert_eq!(db.show("SELECT count(*) FROM t"), ["0"]);
    assert_eq!(db.rows.rows.len(), all - 4);
    db.run("INSERT INTO t VALUES (1, 2); DROP TABLE t").unwrap();
    assert_eq!(db.rows.rows.len(), all - 4);
    assert_eq!(db.show("SELECT * FROM keep"), ["1"]);
}

#[test]
fn installing_an_older_version_changes_nothing() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    let old = InstallSchema::new(&db.catalog);
    db.run("CREATE TABLE u (a int PRIMARY KEY)").unwrap();
    let before = db.rows.rows.clone();
    let mut env = db.env();
    old.run(&mut db.rows, &mut env).unwrap();
    assert_eq!(db.rows.rows, before);
}

#[test]
fn what_is_skipped_is_told_under_postgresqls_code() {
    let mut db = Database::with(
        "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE INDEX i ON t (b); CREATE SEQUENCE s",
    );
    for (sql, code, tag) in [
        (
            "CREATE TABLE IF NOT EXISTS t (a int)",
            "42P07",
            "CREATE TABLE",
        ),
        (
            "CREATE INDEX IF NOT EXISTS i ON t (b)",
            "42P07",
            "CREATE INDEX",
        ),
        (
            "CREATE SEQUENCE IF NOT EXISTS s",
            "42P07",
            "CREATE SEQUENCE",
        ),
        ("DROP TABLE IF EXISTS x", "00000", "DROP TABLE"),
        ("DROP INDEX IF EXISTS x", "00000", "DROP INDEX"),
        ("DROP SEQUENCE IF EXISTS x", "00000", "DROP SEQUENCE"),
        ("DROP FUNCTION IF EXISTS x", "00000", "DROP FUNCTION"),
    ] {
        let outcome = db.run(sql).unwrap();
        let told: Vec<(&str, &str)> = outcome
            .notices
            .iter()
            .map(|n| (n.severity.as_str(), n.sqlstate.as_str()))
            .collect();
        assert_eq!(
            (told, outcome.tag.as_str()),
            (vec![("NOTICE", code)], tag),
            "{sql}"
        );
    }
}

#[test]
fn each_change_of_a_query_has_its_own_notices() {
    let mut db = Database::with("CREATE TABLE t (a int PRIMARY KEY)");
    let texts = [
        "DROP TABLE IF EXISTS x, y",
        "CREATE TABLE u (a int)",
        "DROP TABLE IF EXISTS z",
    ];
    let change = |texts: &[&str]| CatalogChange::Ddl(texts.iter().map(|t| t.to_string()).collect());
    let outcomes = db.change(&change(&texts)).unwrap();
    let counts: Vec<usize> = outcomes.iter().map(|o| o.notices.len()).collect();
    assert_eq!(counts, [2, 0, 1]);
    let error = db
        .change(&change(&[
            "DROP TABLE IF EXISTS x",
            "DROP TABLE IF EXISTS y, t, z",
            "DROP TABLE u, w",
        ]))
        .unwrap_err();
    let before = Outcomes::decode(error.before().unwrap()).unwrap();
    let counts: Vec<usize> = before.iter().map(|o| o.notices.len()).collect();
    assert_eq!((error.sqlstate(), counts), ("42P01", vec![1, 2]));
}

#[test]
fn an_error_comes_with_the_notices_before_it() {
    let mut db = Database::with(
        "CREATE TABLE t (a int PRIMARY KEY);
         CREATE FUNCTION f(n int) RETURNS int LANGUAGE plpgsql AS $$
         BEGIN
             RAISE NOTICE 'n is %', n USING DETAIL = 'more';
             BEGIN
                 RAISE WARNING 'inside';
                 INSERT INTO t VALUES (1 / n);
             EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught';
             END;
             RETURN 1 / n;
         END $$",
    );
    let error = db.run("SELECT f(0)").unwrap_err();
    let said: Vec<&str> = error.notices().iter().map(|n| n.message.as_str()).collect();
    assert_eq!(
        (error.sqlstate(), said),
        ("22012", vec!["n is 0", "inside", "caught"])
    );
    assert_eq!(error.notices()[0].detail.as_deref(), Some("more"));
    let outcome = db.run("SELECT f(1)").unwrap();
    assert_eq!(outcome.notices.len(), 2);
}
