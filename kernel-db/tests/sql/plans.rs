//! Access paths: what EXPLAIN shows, and that little is read.

use crate::database::Database;

fn database() -> Database {
    let mut database = Database::with(
        "CREATE TABLE task (p int, id int, state text, size int, PRIMARY KEY (p, id));
         CREATE INDEX by_state ON task (p, state, size DESC);
         CREATE INDEX by_size ON task (size);
         INSERT INTO task SELECT n % 10, n, CASE WHEN n % 3 = 0 THEN 'open' ELSE 'done' END, n % 100
             FROM generate_series(1, 1000) n",
    );
    database.rows.scanned = 0;
    database
}

#[test]
fn a_whole_primary_key_is_a_point_get() {
    let mut db = database();
    let plan = db.explain("SELECT * FROM task WHERE id = 7 AND p = 7");
    assert_eq!(
        plan,
        "Point Get on task using task_pkey\n  Index Cond: p = 7 AND id = 7\nPartitions: one, of key 7"
    );
    assert_eq!(db.show("SELECT id FROM task WHERE id = 7 AND p = 7"), ["7"]);
    assert_eq!(db.rows.scanned, 0);
}

#[test]
fn the_longest_equality_prefix_wins_and_its_order_needs_no_sort() {
    let mut db = database();
    let sql = "SELECT id, size FROM task WHERE p = 3 AND state = 'open' ORDER BY size DESC LIMIT 1";
    let plan = db.explain(sql);
    let expected = "Limit\n  Index Scan on task using by_state\n    Index Cond: p = 3 AND state = open\nPartitions: one, of key 3";
    assert_eq!(plan, expected);
    let backward =
        db.explain("SELECT id FROM task WHERE p = 3 AND state = 'open' ORDER BY size LIMIT 1");
    assert!(
        backward.contains("Index Scan Backward on task using by_state")
            && !backward.contains("Sort"),
        "{backward}"
    );
    db.rows.scanned = 0;
    assert_eq!(db.show(sql), ["93|93"]);
    assert_eq!(db.rows.scanned, 1, "the scan did not stop early");
}

#[test]
fn ranges_use_the_next_key_column_and_nulls_are_outside_of_them() {
    let mut db = database();
    db.run("INSERT INTO task VALUES (3, 5000, 'open', NULL)")
        .unwrap();
    let conditions = [
        "size > 90",
        "size >= 93",
        "size < 33",
        "size <= 33",
        "size > 30 AND size <= 63",
        "size IS NULL",
        "size > 3000000000",
        "size < 3000000000",
        "size > -3000000000",
        "size > NULL",
    ];
    for condition in conditions {
        // A descending index (nulls first), then an ascending one (nulls last).
        for keys in ["p = 3 AND state = 'open' AND", ""] {
            let unkeyed = keys
                .replace("p =", "p + 0 =")
                .replace("state", "state || ''");
            let sql = format!("SELECT count(*) FROM task WHERE {keys} {condition}");
            let by_scan =
                format!("SELECT count(*) FROM task WHERE {unkeyed} ({condition}) IS TRUE");
            assert_eq!(db.show(&sql), db.show(&by_scan), "{sql}");
        }
    }
    assert!(
        db.explain("SELECT 1 FROM task WHERE size > 90")
            .contains("using by_size")
    );
    let plan = db.explain("SELECT 1 FROM task WHERE p = 3 AND state = 'open' AND size > 90");
    assert!(
        plan.contains("Index Cond: p = 3 AND state = open AND size > 90"),
        "{plan}"
    );
}

#[test]
fn an_index_without_the_partition_key_fans_out_and_explain_says_so() {
    let mut db = database();
    let plan = db.explain("SELECT id FROM task WHERE size = 5");
    assert!(
        plan.contains("using by_size") && plan.ends_with("Partitions: all"),
        "{plan}"
    );
    let plan = db.explain("SELECT id FROM task");
    assert_eq!(plan, "Full Scan on task\nPartitions: all");
}

#[test]
fn joins_go_by_key_or_by_hash() {
    let mut db = database();
    db.run("CREATE TABLE worker (p int, w int, name text, PRIMARY KEY (p, w))")
        .unwrap();
    let by_key = db
        .explain("SELECT 1 FROM task t JOIN worker w ON w.p = t.p AND w.w = t.size WHERE t.p = 1");
    assert!(
        by_key.contains("Nested Loop: Point Get on worker w"),
        "{by_key}"
    );
    assert!(by_key.ends_with("Partitions: one, of key 1"), "{by_key}");
    let by_hash = db.explain("SELECT 1 FROM task t JOIN worker w ON w.name = t.state");
    assert!(
        by_hash.contains("Hash Join: Full Scan on worker w"),
        "{by_hash}"
    );
}

#[test]
fn indexes_equal_their_table_after_many_changes() {
    let mut db = database();
    db.run(
        "UPDATE task SET size = size + 1 WHERE id % 7 = 0;
         UPDATE task SET state = 'x' WHERE size = 9;
         UPDATE task SET id = id + 5000 WHERE p = 4;
         UPDATE task SET p = 11 WHERE p = 5;
         DELETE FROM task WHERE id % 5 = 0;
         INSERT INTO task VALUES (1, 1, 'y', NULL) ON CONFLICT (p, id) DO UPDATE SET size = NULL",
    )
    .unwrap();
    let table = db.show("SELECT p, id FROM task ORDER BY p, id");
    let by_size = db.show("SELECT p, id FROM task WHERE size > -1 OR size IS NULL ORDER BY p, id");
    assert_eq!(table, by_size);
    let entries = |db: &Database, index: u16| {
        let id = db.catalog.table(None, "task").unwrap().id;
        let mut prefix = id.to_be_bytes().to_vec();
        prefix.extend_from_slice(&index.to_be_bytes());
        db.rows
            .rows
            .keys()
            .filter(|k| k.starts_with(&prefix))
            .count()
    };
    assert_eq!(entries(&db, 0), table.len());
    assert_eq!(
        entries(&db, 1),
        table.len(),
        "an index has more or fewer entries than its table rows"
    );
    assert_eq!(entries(&db, 2), table.len());
    for size in 0..102 {
        let by_index = db.show(&format!(
            "SELECT id FROM task WHERE size = {size} ORDER BY id"
        ));
        let by_scan = db.show(&format!(
            "SELECT id FROM task WHERE size + 0 = {size} ORDER BY id"
        ));
        assert_eq!(by_index, by_scan, "size {size}");
    }
}

#[test]
fn a_list_of_keys_is_a_walk_for_each_value() {
    let mut db = database();
    let plan = db.explain("SELECT * FROM task WHERE p = 3 AND id IN (3, 13, 13, NULL, 5000000000)");
    assert_eq!(
        plan,
        "Point Get on task using task_pkey\n  Index Cond: p = 3 AND id IN (3, 13, 13, NULL, 5000000000)\nPartitions: one, of key 3"
    );
    let plan = db.explain("SELECT * FROM task WHERE p = ANY ('{1,2}') AND id = 11");
    assert_eq!(
        plan,
        "Point Get on task using task_pkey\n  Index Cond: p IN (1, 2) AND id = 11\nPartitions: those of keys 1, 2"
    );
    let plan = db.explain("SELECT * FROM task WHERE p = 1 OR p = 4 OR 2 = p");
    assert!(plan.contains("p IN (1, 4, 2)"), "{plan}");
    assert!(plan.ends_with("those of keys 1, 4, 2"), "{plan}");
    // One list a path; the other is a filter. A sort stays.
    let plan = db.explain("SELECT * FROM task WHERE p IN (1, 2) AND id IN (11, 12) ORDER BY p, id");
    assert!(plan.contains("Sort") && plan.contains("Filter"), "{plan}");
    for (sql, rows) in [
        (
            "SELECT id FROM task WHERE p = 3 AND id IN (13, 3, 13, NULL, 5000000000) ORDER BY id",
            vec!["3", "13"],
        ),
        (
            "SELECT id FROM task WHERE p IN (1, 2) AND id IN (11, 12, 13) ORDER BY id DESC",
            vec!["12", "11"],
        ),
        (
            "SELECT count(*) FROM task WHERE size IN (5, 6, 6)",
            vec!["20"],
        ),
        (
            "SELECT count(*) FROM task WHERE p IN (1, 2) AND state = 'open' AND size > 90",
            vec!["6"],
        ),
        (
            "SELECT t.id FROM generate_series(1, 2) n JOIN task t ON t.p = n AND t.id IN (n, n + 10) ORDER BY 1",
            vec!["1", "2", "11", "12"],
        ),
        (
            "SELECT n, t.id FROM generate_series(1, 2) n LEFT JOIN task t ON t.p = n AND t.id IN (2, 3) ORDER BY 1",
            vec!["1|NULL", "2|2"],
        ),
        (
            "SELECT count(*) FROM task a JOIN task b ON a.p = b.p AND b.id IN (1, 2) WHERE a.p IN (1, 2, 3)",
            vec!["200"],
        ),
        (
            "SELECT count(*) FROM task WHERE p IN (1, 1, 2) OR id = 9",
            vec!["201"],
        ),
        (
            "SELECT count(*) FROM task WHERE p IN (1, 2) LIMIT 1",
            vec!["200"],
        ),
    ] {
        assert_eq!(db.show(sql), rows, "{sql}");
    }
    db.rows.scanned = 0;
    db.show("SELECT id FROM task WHERE p IN (1, 2) AND state = 'open' AND size = 33");
    assert!(db.rows.scanned < 10, "{} rows scanned", db.rows.scanned);
}

#[test]
fn an_array_parameter_is_a_list_of_keys() {
    use kernel_db::sql::prepare::{Route, prepare};
    use kernel_db::sql::{DataType, Value, array};
    let mut db = database();
    let sql = "SELECT id FROM task WHERE p = ANY ($1) AND id < 5 ORDER BY id";
    let list = |items: &[i32]| {
        array::value(
            DataType::Int4,
            items.iter().map(|i| Value::Int4(*i)).collect(),
        )
        .unwrap()
    };
    let prepared = prepare(&db.catalog, sql, &[]).unwrap();
    assert_eq!(prepared.params, [DataType::Int4Array]);
    let route = |items: &[i32]| prepared.route(&[list(items)]).unwrap();
    assert_eq!(route(&[5, 3, 5]), Route::Slots(vec![3, 5]));
    assert_eq!(route(&[7]), Route::Slot(7));
    let plan = db.explain("SELECT id FROM task WHERE p = ANY ($1)");
    assert!(plan.contains("Index Cond: p = ANY ($1)"), "{plan}");
    assert!(plan.ends_with("those of the keys in $1"), "{plan}");
    db.rows.scanned = 0;
    let rows = db.run_one(sql, &[list(&[4, 3, 3, 2])]).unwrap().rows;
    assert_eq!(rows, [[Value::Int4(2)], [Value::Int4(3)], [Value::Int4(4)]]);
    assert!(db.rows.scanned < 10);
    assert!(db.run_one(sql, &[Value::Null]).unwrap().rows.is_empty());
}

#[test]
fn windows_and_recursive_queries_are_shown() {
    let mut db = Database::with("CREATE TABLE t (k int PRIMARY KEY, up int)");
    let plan = db.explain(
        "SELECT DISTINCT ON (up) up, rank() OVER (ORDER BY k) FROM t WHERE k = 1 ORDER BY up",
    );
    assert_eq!(
        plan,
        "Sort\n  Unique\n    WindowAgg\n      Point Get on t using t_pkey\n        Index Cond: k = 1\nPartitions: one, of key 1"
    );
    let plan = db.explain(
        "WITH RECURSIVE n(k) AS (SELECT 1 UNION SELECT t.up FROM n JOIN t ON t.k = n.k) SELECT * FROM n",
    );
    assert!(plan.contains("Recursive Union"), "{plan}");
    assert!(plan.contains("WorkTable Scan on n"), "{plan}");
    assert!(plan.ends_with("Partitions: all"), "{plan}");
}

#[test]
fn what_a_group_is_routed_by_are_its_keys() {
    let mut db = Database::with(
        "CREATE TABLE s (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE t (k int PRIMARY KEY, n int8);
         CREATE FUNCTION f(x int) RETURNS int8 LANGUAGE sql AS $$ SELECT n FROM t WHERE k = x $$",
    );
    for (sql, partitions) in [
        (
            "INSERT INTO t SELECT b, count(*) FROM s WHERE a = 5 GROUP BY b",
            "all",
        ),
        (
            "INSERT INTO t SELECT a, count(*) FROM s WHERE a = 5 GROUP BY a",
            "one, of key 5",
        ),
        ("SELECT b, f(b) FROM s WHERE a = 5 GROUP BY b", "all"),
        (
            "SELECT f(a) FROM s WHERE a = 5 GROUP BY b, a",
            "one, of key 5",
        ),
        (
            "SELECT a, (SELECT n FROM t WHERE k = a) FROM s WHERE a = 5 GROUP BY a",
            "one, of key 5",
        ),
        (
            "SELECT b, (SELECT n FROM t WHERE k = b) FROM s WHERE a = 5 GROUP BY b, a",
            "all",
        ),
        (
            "SELECT 1 UNION ALL SELECT 2 LIMIT (SELECT n FROM t WHERE k = 12)",
            "one, of key 12",
        ),
    ] {
        let plan = db.explain(sql);
        assert!(
            plan.ends_with(&format!("Partitions: {partitions}")),
            "{sql}: {plan}"
        );
    }
}

#[test]
fn a_query_that_refers_to_itself_without_end_meets_the_run_limit() {
    let mut db = Database::new();
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n)";
    assert_eq!(
        db.fails(&format!("{endless} SELECT count(*) FROM n")),
        "DB003"
    );
    assert_eq!(
        db.show(&format!("{endless} SELECT * FROM n LIMIT 2")),
        ["1", "1"]
    );
}

#[test]
fn a_function_that_is_one_expression_serves_as_a_key() {
    let mut db = database();
    db.run(
        "CREATE FUNCTION home(n int) RETURNS int LANGUAGE sql AS 'SELECT n % 10';
         CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT home(n) + home(n)';
         CREATE FUNCTION careful(n int) RETURNS int LANGUAGE sql STRICT AS 'SELECT coalesce(n, 1)';
         CREATE FUNCTION wide(n int) RETURNS bigint LANGUAGE sql AS 'SELECT n';
         CREATE FUNCTION ignores(n int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION looks(n int) RETURNS int LANGUAGE sql AS 'SELECT id FROM task WHERE p = n AND id = n'",
    )
    .unwrap();
    db.rows.scanned = 0;
    let sql = "SELECT id FROM task WHERE p = home(1007) AND id = 7";
    let plan = db.explain(sql);
    assert!(plan.contains("Point Get on task"), "{plan}");
    assert!(plan.contains("Partitions: one"), "{plan}");
    assert_eq!(db.show(sql), ["7"]);
    assert_eq!(db.rows.scanned, 0);
    // What a call would give, whatever is put in its place.
    assert_eq!(
        db.show("SELECT twice(17), careful(NULL), pg_typeof(wide(3)), looks(7)"),
        ["14|NULL|bigint|7"]
    );
    assert_eq!(
        db.show("SELECT home(home(home(id))) + twice(id + 1) FROM task WHERE p = 7 AND id = 17"),
        ["23"]
    );
    assert_eq!(db.fails("SELECT ignores(1 / 0)"), "22012");
    // In FROM, and in another function.
    assert_eq!(db.show("SELECT * FROM home(35) AS h"), ["5"]);
}

#[test]
fn functions_of_functions_neither_double_without_end_nor_nest_too_deep() {
    let mut db =
        Database::with("CREATE FUNCTION f0(n float8) RETURNS float8 LANGUAGE sql AS 'SELECT n'");
    for level in 1..=12 {
        let below = level - 1;
        db.run(&format!(
            "CREATE FUNCTION f{level}(n float8) RETURNS float8 LANGUAGE sql AS 'SELECT f{below}(n) + f{below}(n)'"
        ))
        .unwrap();
    }
    assert_eq!(db.show("SELECT f12(1)"), ["4096"]);
    let chain = |db: &mut Database, levels: std::ops::RangeInclusive<u32>| -> Vec<String> {
        let create = |level: u32| {
            let below = level - 1;
            format!(
                "CREATE FUNCTION g{level}(n int) RETURNS int LANGUAGE sql AS 'SELECT g{below}(n) + 1'"
            )
        };
        let made = levels.map(|level| db.run(&create(level)));
        made.filter_map(|made| Some(made.err()?.sqlstate().to_string()))
            .collect()
    };
    db.run("CREATE FUNCTION g0(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'")
        .unwrap();
    assert_eq!(chain(&mut db, 1..=63), [""; 0]);
    assert_eq!(db.show("SELECT g63(1)"), ["65"]);
    // Each of them may nest as deep as an expression may.
    db.run("CREATE FUNCTION h0(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'")
        .unwrap();
    for level in 1..=63 {
        let call = format!("h{}(n)", level - 1);
        let deep = (0..8).fold(call, |inner, _| format!("abs({inner})"));
        db.run(&format!(
            "CREATE FUNCTION h{level}(n int) RETURNS int LANGUAGE sql AS 'SELECT {deep}'"
        ))
        .unwrap();
    }
    assert_eq!(db.show("SELECT h63(1)"), ["2"]);
    // One more than may call each other; those before it are as they were.
    assert_eq!(chain(&mut db, 64..=64), ["54001"]);
    assert_eq!(db.show("SELECT g63(1), g1(1)"), ["65|3"]);
}
