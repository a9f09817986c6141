//! Transaction blocks: status, warnings, failed blocks, savepoints, and what the backend is asked.

use std::time::{Duration, Instant};

use crate::backend::Server;
use crate::raw::{Client, Reply, kinds};

/// What a simple query was answered with: tags, errors and warnings by SQLSTATE, and the block's status.
fn ask(client: &mut Client, sql: &str) -> String {
    say(&client.query(sql).ask())
}

fn say(replies: &[Reply]) -> String {
    let one = |reply: &Reply| match reply.kind {
        'C' => Some(reply.text()),
        'E' | 'N' => reply.field('C'),
        'Z' => Some(char::from(reply.body[0]).to_string()),
        _ => None,
    };
    let said: Vec<String> = replies.iter().filter_map(one).collect();
    said.join(" ")
}

fn happened(server: &Server) -> Vec<String> {
    std::mem::take(&mut server.handle.log().blocks)
}

#[test]
fn a_block_runs_its_statements_one_by_one_and_commits() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(ask(&mut client, "BEGIN"), "BEGIN T");
    assert_eq!(ask(&mut client, "put 1; rows 2"), "PUT SELECT 2 T");
    assert_eq!(ask(&mut client, "BEGIN"), "25001 BEGIN T");
    assert_eq!(ask(&mut client, "END"), "COMMIT I");
    assert_eq!(ask(&mut client, "COMMIT"), "25P01 COMMIT I");
    assert_eq!(ask(&mut client, "ABORT"), "25P01 ROLLBACK I");
    assert_eq!(
        happened(&server),
        [
            "begin serializable",
            "put 1",
            "rows 2",
            "commit [put 1; rows 2]"
        ]
    );
    assert!(server.handle.log().submitted.is_empty());
}

#[test]
fn a_failed_block_answers_nothing_but_its_end() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(
        ask(&mut client, "BEGIN; put 1; fail 23505; put 2"),
        "BEGIN PUT 23505 E"
    );
    for sql in ["put 3", "SHOW all", "BEGIN", "SAVEPOINT a", "nonsense"] {
        assert_eq!(ask(&mut client, sql), "25P02 E", "{sql}");
    }
    assert_eq!(ask(&mut client, "COMMIT"), "ROLLBACK I");
    assert_eq!(
        ask(&mut client, "START TRANSACTION; use nothing"),
        "START TRANSACTION 42P01 E"
    );
    assert_eq!(ask(&mut client, "ROLLBACK; put 4"), "ROLLBACK PUT I");
    assert_eq!(
        ask(&mut client, "BEGIN; conflict; COMMIT"),
        "BEGIN PUT 40001 I"
    );
    let log = happened(&server);
    assert_eq!(
        log[..5],
        [
            "begin serializable",
            "put 1",
            "fail 23505",
            "give up",
            "rollback"
        ]
    );
    assert_eq!(log.last().unwrap(), "commit [conflict]");
    assert_eq!(server.handle.log().submitted, ["put 4"]);
}

#[test]
fn savepoints_nest_and_are_found_by_their_newest_name() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(ask(&mut client, "SAVEPOINT a"), "25P01 I");
    assert_eq!(
        ask(
            &mut client,
            "BEGIN; put 1; SAVEPOINT a; put 2; SAVEPOINT A; put 3"
        ),
        "BEGIN PUT SAVEPOINT PUT SAVEPOINT PUT T"
    );
    assert_eq!(ask(&mut client, "fail 22012"), "22012 E");
    assert_eq!(ask(&mut client, "ROLLBACK TO a"), "ROLLBACK T");
    assert_eq!(
        ask(&mut client, "RELEASE a; ROLLBACK TO SAVEPOINT a"),
        "RELEASE ROLLBACK T"
    );
    assert_eq!(ask(&mut client, "RELEASE SAVEPOINT a"), "RELEASE T");
    assert_eq!(ask(&mut client, "ROLLBACK TO a"), "3B001 E");
    assert_eq!(ask(&mut client, "ROLLBACK TO b"), "3B001 E");
    assert_eq!(ask(&mut client, "ROLLBACK AND CHAIN"), "ROLLBACK T");
    assert_eq!(ask(&mut client, "put 9; COMMIT AND CHAIN"), "PUT COMMIT T");
    assert_eq!(ask(&mut client, "ROLLBACK"), "ROLLBACK I");
    let log = happened(&server);
    assert!(log.contains(&"commit [put 9]".to_owned()), "{log:?}");
}

#[test]
fn modes_are_set_before_the_first_statement() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(ask(&mut client, "SET TRANSACTION READ ONLY"), "25P01 SET I");
    assert_eq!(
        ask(
            &mut client,
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY"
        ),
        "BEGIN T"
    );
    assert_eq!(
        ask(
            &mut client,
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; rows 1"
        ),
        "SET SELECT 1 T"
    );
    let shown = client
        .query("SHOW transaction_isolation; SHOW transaction_read_only")
        .ask();
    let values: Vec<_> = crate::raw::rows(&shown)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert_eq!(values, [b"repeatable read".to_vec(), b"on".to_vec()]);
    assert_eq!(
        ask(&mut client, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
        "25001 E"
    );
    assert_eq!(ask(&mut client, "ROLLBACK"), "ROLLBACK I");
    let sql = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ; BEGIN";
    assert_eq!(ask(&mut client, sql), "SET BEGIN T");
    assert_eq!(happened(&server).last().unwrap(), "begin repeatable read");
}

#[test]
fn statements_before_begin_in_one_query_belong_to_the_block() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(ask(&mut client, "put 1; BEGIN; put 2"), "PUT BEGIN PUT T");
    assert_eq!(ask(&mut client, "COMMIT"), "COMMIT I");
    assert_eq!(happened(&server).last().unwrap(), "commit [put 1; put 2]");
}

#[test]
fn the_extended_protocol_knows_blocks_and_keeps_portals_in_them() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let begun = client.run("BEGIN").sync().ask();
    assert_eq!(
        (kinds(&begun), say(&begun)),
        ("12CZ".into(), "BEGIN T".into())
    );
    let first = client
        .parse("", "rows 3")
        .bind("p", "", (0, 0), &[])
        .execute("p", 2)
        .sync()
        .ask();
    assert_eq!(kinds(&first), "12DDsZ");
    let rest = client.execute("p", 0).sync().ask();
    assert_eq!(
        (kinds(&rest), say(&rest)),
        ("DCZ".into(), "SELECT 1 T".into())
    );
    // A writing statement may be flushed before Sync: it is in a block.
    client.run("put 1").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    assert_eq!(
        say(&client.run("fail 23505").run("put 2").sync().ask()),
        "23505 E"
    );
    assert_eq!(say(&client.run("put 2").sync().ask()), "25P02 E");
    assert_eq!(say(&client.run("ROLLBACK").sync().ask()), "ROLLBACK I");
    assert_eq!(say(&client.execute("p", 0).sync().ask()), "34000 I");
}

#[test]
fn a_block_ends_with_its_connection_and_with_its_patience() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(ask(&mut client, "BEGIN; put 1"), "BEGIN PUT T");
    drop(client);
    server.handle.until("a rollback", |log| {
        log.blocks.contains(&"rollback".to_owned())
    });
    let mut client = (0..50).find_map(|_| idle_for_a_while(&server)).unwrap();
    let end = client.until_closed();
    assert_eq!(say(&end), "25P03");
    assert_eq!(happened(&server).last().unwrap(), "rollback");
}

/// A client in a block, which was idle for less than it may be. None if that took longer, as the machine stood still, and the block
/// was ended.
fn idle_for_a_while(server: &Server) -> Option<Client> {
    let mut client = Client::connect(server.port);
    let begun = Instant::now();
    let sql = "SET idle_in_transaction_session_timeout = '60ms'; BEGIN; put 2";
    assert_eq!(ask(&mut client, sql), "SET BEGIN PUT T");
    std::thread::sleep(Duration::from_millis(20));
    client.query("put 3").send();
    let replies: Vec<Reply> = std::iter::from_fn(|| client.reply()).take(2).collect();
    if say(&replies) == "PUT T" {
        return Some(client);
    }
    assert!(["25P03", ""].contains(&&*say(&replies)), "{replies:?}");
    assert!(begun.elapsed() >= Duration::from_millis(60));
    None
}

/// The value of a setting.
fn shown(client: &mut Client, name: &str) -> String {
    let replies = client.query(&format!("SHOW {name}")).ask();
    let value = crate::raw::rows(&replies).remove(0).remove(0).unwrap();
    String::from_utf8(value).unwrap()
}

#[test]
fn a_setting_goes_with_its_transaction() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let name = "application_name";
    ask(&mut client, "SET application_name = 'one'");
    ask(&mut client, "BEGIN; SET application_name = 'two'");
    assert_eq!(shown(&mut client, name), "two");
    // The client is told of the return too.
    assert_eq!(kinds(&client.query("ROLLBACK").ask()), "SCZ");
    assert_eq!(shown(&mut client, name), "one");
    ask(&mut client, "BEGIN; SET application_name = 'three'; COMMIT");
    assert_eq!(shown(&mut client, name), "three");
    ask(
        &mut client,
        "BEGIN; SET application_name = 'four'; fail 22012",
    );
    assert_eq!(ask(&mut client, "COMMIT"), "ROLLBACK I");
    assert_eq!(shown(&mut client, name), "three");
    assert_eq!(
        ask(&mut client, "BEGIN; SET application_name = 'x'; conflict"),
        "BEGIN SET PUT T"
    );
    assert_eq!(ask(&mut client, "COMMIT"), "40001 I");
    assert_eq!(shown(&mut client, name), "three");
    ask(
        &mut client,
        "BEGIN; SET application_name = 'a'; SAVEPOINT s; SET application_name = 'b'",
    );
    ask(&mut client, "ROLLBACK TO s");
    assert_eq!(shown(&mut client, name), "a");
    ask(&mut client, "COMMIT");
    assert_eq!(shown(&mut client, name), "a");
    // Of an implicit transaction: a simple query, what fails at planning, a pipeline.
    assert_eq!(
        ask(&mut client, "SET application_name = 'c'; fail 22012"),
        "SET 22012 I"
    );
    assert_eq!(shown(&mut client, name), "a");
    assert_eq!(
        ask(&mut client, "SET application_name = 'c'; use nothing"),
        "SET 42P01 I"
    );
    assert_eq!(shown(&mut client, name), "a");
    client
        .run("SET application_name = 'c'")
        .run("put 1")
        .run("fail 22012")
        .sync()
        .ask();
    assert_eq!(shown(&mut client, name), "a");
    client
        .run("SET application_name = 'd'")
        .run("put 1")
        .sync()
        .ask();
    assert_eq!(shown(&mut client, name), "d");
    ask(&mut client, "RESET application_name; fail 22012");
    assert_eq!(shown(&mut client, name), "d");
}

#[test]
fn a_local_setting_ends_with_its_transaction() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let name = "statement_timeout";
    ask(&mut client, "SET statement_timeout = 1000");
    let local = "BEGIN; SET LOCAL statement_timeout = 2000";
    assert_eq!(ask(&mut client, local), "BEGIN SET T");
    assert_eq!(shown(&mut client, name), "2s");
    ask(&mut client, "SET LOCAL statement_timeout = 3000; COMMIT");
    assert_eq!(shown(&mut client, name), "1s");
    ask(&mut client, local);
    ask(&mut client, "ROLLBACK");
    assert_eq!(shown(&mut client, name), "1s");
    // What is set for good in between stays.
    ask(&mut client, local);
    ask(&mut client, "SET statement_timeout = 4000; COMMIT");
    assert_eq!(shown(&mut client, name), "4s");
    ask(
        &mut client,
        "BEGIN; SET statement_timeout = 5000; SET LOCAL statement_timeout = 6000; COMMIT",
    );
    assert_eq!(shown(&mut client, name), "5s");
    // Without a block only the rest of a query has something of it.
    assert_eq!(
        ask(&mut client, "SET LOCAL statement_timeout = 7000"),
        "25P01 SET I"
    );
    assert_eq!(shown(&mut client, name), "5s");
    let replies = client
        .query("SET LOCAL statement_timeout = 7000; SHOW statement_timeout")
        .ask();
    assert_eq!(crate::raw::rows(&replies)[0], [Some(b"7s".to_vec())]);
    assert_eq!(shown(&mut client, name), "5s");
}
