//! What the compiler finds out about procedures. What they do when run is compared with PostgreSQL in
//! tests/differential.

use std::path::Path;
use std::sync::Arc;

use crate::sql::catalog::{Catalog, Procedure};
use crate::sql::ddl::Change;
use crate::sql::prepare::parse_many;

fn catalog_of(texts: &[String]) -> Arc<Catalog> {
    let mut change = Change::new(Catalog::new());
    for text in texts {
        for (_, statement) in parse_many(text).unwrap() {
            change
                .apply(&statement)
                .unwrap_or_else(|e| panic!("{e} in {statement}"));
        }
    }
    Arc::new(change.finish().unwrap().0)
}

fn compiled(catalog: &Arc<Catalog>, name: &str) -> Arc<dyn Procedure> {
    Arc::clone(catalog.functions_named(name)[0].compiled(catalog).unwrap())
}

/// One procedure over table `t (k, v)`.
fn procedure(args: &str, body: &str) -> Arc<dyn Procedure> {
    let texts = [
        "CREATE TABLE t (k int4 PRIMARY KEY, v int4)".to_string(),
        "CREATE FUNCTION get(x int4) RETURNS int4 LANGUAGE sql AS $$ SELECT v FROM t WHERE k = x $$".to_string(),
        format!("CREATE FUNCTION f({args}) RETURNS int4 LANGUAGE plpgsql AS $$ {body} $$"),
    ];
    compiled(&catalog_of(&texts), "f")
}

#[test]
fn services_procedures_stay_in_the_partition_of_their_first_argument() {
    let mut checked = 0;
    // Transactions over several partitions: parallel files, other users, many mailboxes.
    let mut several = Vec::new();
    for service in ["scheduler", "ipc", "dbfs"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(service)
            .join("sql");
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        // The schema comes first; functions may call those of earlier files.
        paths.sort_by_key(|p| (!p.ends_with("schema.sql"), p.clone()));
        let texts: Vec<String> = paths
            .iter()
            .map(|p| std::fs::read_to_string(p).unwrap())
            .collect();
        let catalog = catalog_of(&texts);
        for def in catalog.functions() {
            let procedure = def
                .compiled(&catalog)
                .unwrap_or_else(|e| panic!("{e} in {}", def.name));
            match procedure.partition_param() {
                None if !procedure.touches_no_table() => several.push(def.name.clone()),
                None => {}
                param => assert_eq!(param, Some(0), "{}", def.name),
            }
            checked += 1;
        }
    }
    several.sort();
    assert_eq!(
        several,
        [
            "dbfs_delete_parallel",
            "dbfs_give",
            "dbfs_read_parallel",
            "dbfs_set_block_size",
            "dbfs_truncate_parallel",
            "dbfs_write_parallel",
            "msg_broadcast",
        ]
    );
    assert!(checked > 25, "{checked}");
}

#[test]
fn an_argument_that_is_assigned_does_not_tell_the_partition() {
    let read = "RETURN (SELECT v FROM t WHERE k = a); END";
    assert_eq!(
        procedure("a int4", &format!("BEGIN {read}")).partition_param(),
        Some(0)
    );
    assert_eq!(
        procedure("a int4", &format!("BEGIN a := a + 1; {read}")).partition_param(),
        None
    );
    assert_eq!(
        procedure("INOUT a int4", "BEGIN UPDATE t SET v = 1 WHERE k = a; END").partition_param(),
        None
    );
    let into = format!("BEGIN SELECT v INTO a FROM t WHERE k = a; {read}");
    assert_eq!(procedure("a int4", &into).partition_param(), None);
}

#[test]
fn every_statement_must_route_by_the_same_argument() {
    let two = "BEGIN UPDATE t SET v = 1 WHERE k = a; DELETE FROM t WHERE k = b; RETURN 1; END";
    assert_eq!(procedure("a int4, b int4", two).partition_param(), None);
    let scan = "BEGIN RETURN (SELECT count(*) FROM t); END";
    assert_eq!(procedure("a int4", scan).partition_param(), None);
    let second = "BEGIN INSERT INTO t VALUES (b, a); RETURN get(b); END";
    assert_eq!(
        procedure("a int4, b int4", second).partition_param(),
        Some(1)
    );
    let called = "BEGIN UPDATE t SET v = 1 WHERE k = a; RETURN get(b); END";
    assert_eq!(procedure("a int4, b int4", called).partition_param(), None);
}

#[test]
fn knows_whether_it_writes_and_touches_tables() {
    let pure = procedure("a int4", "BEGIN RETURN a + 1; END");
    assert!(pure.touches_no_table() && !pure.writes());
    let reads = procedure("a int4", "BEGIN RETURN get(a); END");
    assert!(!reads.touches_no_table() && !reads.writes());
    let writes = procedure(
        "a int4",
        "BEGIN IF a > 0 THEN DELETE FROM t WHERE k = a; END IF; RETURN 1; END",
    );
    assert!(writes.writes());
}
