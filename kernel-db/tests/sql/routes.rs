//! Which slots a statement touches.

use kernel_db::sql::Value;
use kernel_db::sql::prepare::Route;

use crate::database::Database;

fn database() -> Database {
    Database::with(
        "CREATE TABLE a (k int8, n int, v text, PRIMARY KEY (k, n));
         CREATE TABLE b (k int4 PRIMARY KEY, v text);
         CREATE TABLE named (name text PRIMARY KEY);
         CREATE TABLE loose (v int);
         CREATE SEQUENCE s;
         CREATE FUNCTION by_key(key int, what text) RETURNS int8 LANGUAGE sql AS $$
             INSERT INTO a VALUES (key, 1, what); SELECT count(*) FROM b WHERE k = key $$;
         CREATE FUNCTION all_of(key int) RETURNS int8 LANGUAGE sql AS $$ SELECT count(*) FROM a $$;
         CREATE FUNCTION plain(key int) RETURNS int LANGUAGE sql AS $$ SELECT key + 1 $$;
         CREATE FUNCTION nested(x text, key int) RETURNS int8 LANGUAGE sql AS $$ SELECT by_key(key, x) $$",
    )
}

fn route(db: &Database, sql: &str, params: &[Value]) -> Route {
    let prepared = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    prepared
        .route(params)
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

#[test]
fn equal_known_keys_are_one_slot() {
    let db = database();
    let five = [Value::Int4(5), Value::text("x")];
    for sql in [
        "SELECT * FROM a WHERE k = 5",
        "SELECT * FROM a WHERE k = $1",
        "SELECT * FROM a WHERE k = $1 AND n > 3 ORDER BY v",
        "SELECT * FROM a JOIN b ON a.k = b.k WHERE b.k = $1",
        "SELECT * FROM a JOIN b USING (k) WHERE a.k = 5",
        "SELECT * FROM a LEFT JOIN b ON b.k = a.k WHERE a.k = $1",
        "SELECT * FROM a WHERE k = $1 AND EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
        "SELECT (SELECT count(*) FROM b WHERE b.k = 5) FROM a WHERE k = 5",
        "SELECT * FROM (SELECT * FROM a WHERE k = 5) x",
        "INSERT INTO a VALUES ($1, 1, $2), (5, 2, 'y')",
        "INSERT INTO a SELECT k, 9, v FROM b WHERE k = 5",
        "UPDATE a SET v = $2 WHERE k = $1 AND n = 4",
        "DELETE FROM a USING b WHERE a.k = b.k AND a.k = $1",
        "SELECT by_key($1, $2)",
        "SELECT nested('x', 5)",
        "SELECT * FROM by_key(5, 'x')",
        "SELECT count(*) FROM a WHERE k = 1029",
    ] {
        assert_eq!(route(&db, sql, &five), Route::Slot(5), "{sql}");
    }
}

#[test]
fn anything_else_is_several_slots_or_everywhere() {
    let db = database();
    assert_eq!(
        route(&db, "INSERT INTO b VALUES (1), (2), (1)", &[]),
        Route::Slots(vec![1, 2])
    );
    assert_eq!(
        route(&db, "SELECT * FROM b WHERE k IN (7, 3)", &[]),
        Route::Slots(vec![3, 7])
    );
    assert_eq!(
        route(&db, "UPDATE b SET k = 9 WHERE k = 8", &[]),
        Route::Slots(vec![8, 9])
    );
    assert_eq!(
        route(&db, "SELECT * FROM a, b WHERE a.k = 1 AND b.k = 2", &[]),
        Route::Slots(vec![1, 2])
    );
    for sql in [
        "SELECT * FROM a",
        "SELECT * FROM a WHERE n = 5",
        "SELECT * FROM a WHERE k > 5",
        "SELECT all_of(5)",
    ] {
        assert_eq!(route(&db, sql, &[]), Route::AllRead, "{sql}");
    }
    for sql in [
        "SELECT * FROM a LEFT JOIN b ON b.k = a.k WHERE b.k = 5",
        "SELECT * FROM a JOIN b ON a.k = 5 OR b.k = 5",
        "SELECT * FROM a WHERE k = 5 AND EXISTS (SELECT 1 FROM b WHERE b.v = a.v)",
        "SELECT * FROM a WHERE k = 5 OR n = 1",
    ] {
        assert_eq!(route(&db, sql, &[]), Route::AllRead, "{sql}");
    }
    for sql in [
        "UPDATE a SET v = 'x'",
        "DELETE FROM loose",
        "UPDATE b SET k = k + 1 WHERE k = 5",
    ] {
        assert_eq!(route(&db, sql, &[]), Route::AllWrite, "{sql}");
    }
    for sql in [
        "SELECT 1",
        "SELECT nextval('s')",
        "INSERT INTO loose VALUES (1)",
        "SELECT plain(5)",
    ] {
        assert_eq!(route(&db, sql, &[]), Route::Anywhere, "{sql}");
    }
    assert!(db.prepare("SELECT nextval('s')").unwrap().writes());
    assert!(db.prepare("INSERT INTO loose VALUES (1)").unwrap().writes());
    assert!(db.prepare("SELECT by_key(1, 'x')").unwrap().writes());
    assert!(!db.prepare("SELECT all_of(1)").unwrap().writes());
    assert_eq!(route(&db, "CREATE TABLE x (y int)", &[]), Route::Ddl);
    assert_eq!(
        route(&db, "SET application_name TO 'x'", &[]),
        Route::Session
    );
}

#[test]
fn parameters_take_their_types_from_their_places() {
    use kernel_db::sql::DataType::{Int4, Int8, Text};
    let db = database();
    for (sql, types) in [
        (
            "SELECT * FROM a WHERE k = $1 AND v LIKE $2 AND n = $3",
            vec![Int8, Text, Int4],
        ),
        ("INSERT INTO b VALUES ($2, $1)", vec![Text, Int4]),
        (
            "UPDATE a SET n = n + $1 WHERE k IN ($2, $3)",
            vec![Int4, Int8, Int8],
        ),
        ("SELECT $1", vec![Text]),
        ("SELECT by_key($1, $2) LIMIT $3", vec![Int4, Text, Int8]),
    ] {
        assert_eq!(db.prepare(sql).unwrap().params, types, "{sql}");
    }
}

#[test]
fn a_sequence_gives_each_partition_values_of_its_own() {
    let mut all = Vec::new();
    for partition in 0..3 {
        let mut db = Database::with("CREATE SEQUENCE s; CREATE TABLE loose (v int)");
        db.partition = (partition, 3);
        for _ in 0..4 {
            all.push(db.show("SELECT nextval('s')")[0].parse::<i64>().unwrap());
        }
        db.run("INSERT INTO loose VALUES (1), (2)").unwrap();
        assert_eq!(db.show("SELECT count(*) FROM loose"), ["2"]);
    }
    all.sort_unstable();
    assert_eq!(all, (1..=12).collect::<Vec<i64>>());
}
