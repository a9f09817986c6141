//! Implicit transactions, message by message: simple queries of several statements, pipelines with Flush, failures in the
//! middle. A node must answer exactly what PostgreSQL does, but for the one thing that is promised to differ: what fails
//! after a change of the schema does not take it back.

use crate::raw::{Client, Reply, rows};
use crate::systems::{Node, Postgres};

/// What is compared of a reply; of a setting only the name, because defaults differ.
fn told(reply: &Reply) -> String {
    let values = |row: Vec<Option<Vec<u8>>>| {
        let text = |v: Option<Vec<u8>>| v.map_or("NULL".into(), |v| String::from_utf8(v).unwrap());
        row.into_iter().map(text).collect::<Vec<_>>().join("|")
    };
    match reply.kind {
        'C' => reply.text(),
        'D' => values(rows(std::slice::from_ref(reply)).remove(0)),
        'E' | 'N' => format!("{}:{}", reply.kind, reply.field('C').unwrap()),
        'S' => format!("S:{}", reply.text().split('\0').next().unwrap()),
        'Z' => format!("Z:{}", char::from(reply.body[0])),
        kind => kind.to_string(),
    }
}

/// One step of a script. `Q` simple query, `X` Parse, Bind and Execute, `P name sql` Parse, `F n` Flush and n replies,
/// `S` Sync.
fn play(client: &mut Client, script: &str) -> String {
    let mut answers = Vec::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (step, rest) = line.split_once(' ').unwrap_or((line, ""));
        let replies = match step {
            "Q" => client.query(rest).ask(),
            "X" => {
                client.run(rest);
                continue;
            }
            "P" => {
                let (name, sql) = rest.split_once(' ').unwrap();
                client.parse(name, sql);
                continue;
            }
            "F" => {
                client.flush().send();
                client.replies(rest.parse().unwrap())
            }
            "S" => client.sync().ask(),
            other => panic!("{other}"),
        };
        let all: Vec<String> = replies.iter().map(told).collect();
        answers.push(format!("{line}\n  {}", all.join(" ")));
    }
    answers.join("\n")
}

const SAME: &[&str] = &[
    // Created and used in one query.
    "Q CREATE TABLE a (k int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 10), (2, 20); SELECT v FROM a ORDER BY k
     Q CREATE TABLE b (k int PRIMARY KEY); CREATE INDEX b_k ON b (k); INSERT INTO b SELECT k FROM a; SELECT count(*) FROM b
     Q CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql AS $$ SELECT x + 1 $$; SELECT f(1); DROP FUNCTION f; SELECT 1
     Q DROP TABLE b; CREATE TABLE b (k int PRIMARY KEY, w text); INSERT INTO b VALUES (1, 'x'); SELECT * FROM b
     Q SELECT * FROM b; DROP TABLE b; SELECT count(*) FROM a",
    // And up to one Sync.
    "X CREATE TABLE c (k int PRIMARY KEY, v int)
     X INSERT INTO c VALUES (1, 1)
     X SELECT v FROM c
     S
     X CREATE TABLE d (k int PRIMARY KEY)
     F 3
     X INSERT INTO d VALUES (1)
     F 3
     S
     Q SELECT count(*) FROM d",
    // Results before the failing statement; nothing of it stays.
    "Q SELECT 1; INSERT INTO a VALUES (3, 30); SELECT count(*) FROM a; SELECT 1/0; INSERT INTO a VALUES (4, 40)
     Q SELECT count(*) FROM a
     Q INSERT INTO a VALUES (3, 30); INSERT INTO a VALUES (1, 0); SELECT 1
     Q INSERT INTO a VALUES (3, 30); SELECT count(*) FROM a; SELECT nope FROM a; SELECT 2
     Q INSERT INTO a VALUES (3, 30); SELECT * FROM nowhere
     Q INSERT INTO a VALUES (3, 30); SELEC 1
     Q SELECT count(*) FROM a
     X INSERT INTO a VALUES (3, 30)
     X SELECT count(*) FROM a
     X INSERT INTO a VALUES (1, 0)
     X INSERT INTO a VALUES (4, 40)
     S
     X INSERT INTO a VALUES (3, 30)
     P late SELECT nope FROM a
     S
     Q SELECT count(*) FROM a",
    // Flush shows what was done before it is committed; Sync commits it.
    "X INSERT INTO a VALUES (5, 50)
     X SELECT count(*) FROM a
     F 7
     X UPDATE a SET v = v + 1 WHERE k = 5
     F 3
     X SELECT v FROM a WHERE k = 5
     S
     Q SELECT v FROM a WHERE k = 5
     X DELETE FROM a WHERE k = 5
     F 3
     X INSERT INTO a VALUES (1, 1)
     F 3
     X SELECT 1
     S
     Q SELECT v FROM a WHERE k = 5
     X SELECT count(*) FROM a
     F 4
     X DELETE FROM a WHERE k = 5
     S
     Q SELECT count(*) FROM a",
    // COMMIT and ROLLBACK divide a query; BEGIN takes in what came before it.
    "Q INSERT INTO a VALUES (6, 60); COMMIT; INSERT INTO a VALUES (7, 70); SELECT 1/0
     Q SELECT k FROM a ORDER BY k
     Q INSERT INTO a VALUES (8, 80); ROLLBACK; INSERT INTO a VALUES (9, 90)
     Q SELECT k FROM a ORDER BY k
     Q INSERT INTO a VALUES (10, 0); BEGIN; INSERT INTO a VALUES (11, 0)
     Q ROLLBACK
     Q SELECT k FROM a ORDER BY k
     Q SAVEPOINT s",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn implicit_transactions_answer_as_in_postgresql() {
    let node = Node::start().await;
    let postgres = Postgres::start().await;
    let mut here = Client::connect_with(node.port(), &[("user", "dbos"), ("database", "postgres")]);
    let theirs = [("user", "dbos"), ("database", "postgres")];
    let mut there = Client::connect_with(postgres.port(), &theirs);
    for script in SAME {
        let (ours, theirs) = (play(&mut here, script), play(&mut there, script));
        assert_eq!(ours, theirs, "\nhere:\n{ours}\nPostgreSQL:\n{theirs}\n");
    }
    // The difference.
    let script = "Q CREATE TABLE e (k int PRIMARY KEY); INSERT INTO e VALUES (1); SELECT 1/0
        Q SELECT count(*) FROM e";
    let theirs = play(&mut there, script);
    assert!(
        theirs.contains("CREATE TABLE INSERT 0 1 E:22012 Z:I"),
        "{theirs}"
    );
    assert!(theirs.ends_with("E:42P01 Z:I"), "{theirs}");
    let ours = play(&mut here, script);
    assert!(
        ours.contains("CREATE TABLE INSERT 0 1 E:22012 Z:I"),
        "{ours}"
    );
    assert!(ours.ends_with("T 0 SELECT 1 Z:I"), "{ours}");
}
