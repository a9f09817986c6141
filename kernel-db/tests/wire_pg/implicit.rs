//! Implicit transactions that are not over at once: results before a failure, Flush, and changes of the schema.

use crate::backend::Server;
use crate::raw::{Client, kinds, rows, sqlstate};

fn blocks(server: &Server) -> Vec<String> {
    std::mem::take(&mut server.handle.log().blocks)
}

#[test]
fn results_before_the_failing_statement_are_shown() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client.query("rows 2; put 1; fail 22012; rows 1").ask();
    assert_eq!(kinds(&replies), "TDDCCEZ");
    assert_eq!(rows(&replies)[1], [Some(b"1".to_vec())]);
    assert_eq!(sqlstate(&replies), "22012");
    // A failure at planning: what came before it runs, is shown, and is taken back.
    let replies = client.query("put 1; rows 1; use nothing; put 2").ask();
    assert_eq!(kinds(&replies), "CTDCEZ");
    assert_eq!(sqlstate(&replies), "42P01");
    let error = replies.iter().find(|reply| reply.kind == 'E').unwrap();
    assert_eq!(error.field('P').as_deref(), Some("20"));
    assert_eq!(
        blocks(&server),
        ["begin serializable", "put 1", "rows 1", "rollback"]
    );
    // If it fails by itself, that is the error.
    let replies = client.query("put 1; fail 23505; use nothing").ask();
    assert_eq!(
        (kinds(&replies), sqlstate(&replies)),
        ("CEZ".into(), "23505".into())
    );
    assert_eq!(
        server.handle.log().submitted,
        ["rows 2; put 1; fail 22012; rows 1"]
    );
    // A statement named before the failure is there, one named after it is not.
    client
        .run("put 1")
        .parse("early", "rows 1")
        .run("fail 22012")
        .parse("late", "rows 1");
    assert_eq!(kinds(&client.sync().ask()), "12C112EZ");
    assert_eq!(
        sqlstate(&client.parse("early", "rows 1").sync().ask()),
        "42P05"
    );
    assert_eq!(kinds(&client.parse("late", "rows 1").sync().ask()), "1Z");
}

#[test]
fn flush_shows_results_before_the_commit_and_sync_commits() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client.run("put 1").run("rows 1").flush().send();
    assert_eq!(kinds(&client.replies(7)), "12C12DC");
    assert_eq!(blocks(&server), ["begin serializable", "put 1", "rows 1"]);
    // What comes after it belongs to the same transaction, and runs at once.
    client.run("put 2").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    assert_eq!(blocks(&server), ["put 2"]);
    let end = client.run("put 3").sync().ask();
    assert_eq!((kinds(&end), end[3].body[0]), ("12CZ".into(), b'I'));
    assert_eq!(
        blocks(&server),
        ["put 3", "commit [put 1; rows 1; put 2; put 3]"]
    );
    assert!(server.handle.log().submitted.is_empty());
    // The next one is collected as ever.
    assert_eq!(kinds(&client.run("put 4").sync().ask()), "12CZ");
    assert_eq!(server.handle.log().submitted, ["put 4"]);
}

#[test]
fn a_portal_goes_on_after_flush() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client.parse("", "rows 3").bind("", "", (0, 0), &[]);
    client.execute("", 2).flush().send();
    assert_eq!(kinds(&client.replies(5)), "12DDs");
    client.execute("", 2).flush().send();
    assert_eq!(kinds(&client.replies(2)), "DC");
    assert_eq!(kinds(&client.sync().ask()), "Z");
    assert_eq!(sqlstate(&client.execute("", 2).sync().ask()), "34000");
}

#[test]
fn a_flushed_transaction_that_fails_leaves_nothing() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client
        .run("put 1")
        .run("refuse 22012")
        .flush()
        .run("put 2")
        .send();
    assert_eq!(kinds(&client.replies(6)), "12C12E");
    let end = client.run("put 3").sync().ask();
    assert_eq!((kinds(&end), end[0].body[0]), ("Z".into(), b'I'));
    let happened = [
        "begin serializable",
        "put 1",
        "refuse 22012",
        "give up",
        "rollback",
    ];
    assert_eq!(blocks(&server), happened);
    // Refused at its end.
    client.run("conflict").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    let end = client.sync().ask();
    assert_eq!((kinds(&end), sqlstate(&end)), ("EZ".into(), "40001".into()));
    // Gone before its end.
    client.run("put 9").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    drop(client);
    server.handle.until("a rollback", |log| {
        log.blocks
            .ends_with(&["put 9".to_owned(), "rollback".to_owned()])
    });
    assert!(server.handle.log().submitted.is_empty());
}

#[test]
fn an_error_of_an_earlier_sync_is_none_of_a_later_flush() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client
        .run("fail 23505")
        .sync()
        .run("rows 1")
        .flush()
        .run("rows 2")
        .sync()
        .send();
    assert_eq!(kinds(&client.until_ready()), "12EZ");
    assert_eq!(kinds(&client.until_ready()), "12DC12DDCZ");
}

#[test]
fn under_a_session_number_nothing_is_shown_before_it_is_committed() {
    let server = Server::start();
    let session = "-c dbos.session=000102030405060708090a0b0c0d0e0f";
    let mut client = Client::connect_with(server.port, &[("user", "u"), ("options", session)]);
    let replies = client.run("put 1").flush().sync().ask();
    assert_eq!(sqlstate(&replies), "0A000");
    assert!(server.handle.log().submitted.is_empty());
    assert_eq!(kinds(&client.run("put 1").sync().ask()), "12CZ");
    assert_eq!(server.handle.log().numbers.len(), 1);
}

#[test]
fn begin_and_commit_meet_a_flushed_transaction() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client.run("put 1").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    assert_eq!(sqlstate(&client.run("SAVEPOINT a").sync().ask()), "25P01");
    blocks(&server);
    client.run("put 1").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    let begun = client.run("BEGIN").run("put 2").sync().ask();
    assert_eq!((kinds(&begun), begun[6].body[0]), ("12C12CZ".into(), b'T'));
    assert_eq!(kinds(&client.query("COMMIT").ask()), "CZ");
    assert_eq!(blocks(&server).last().unwrap(), "commit [put 1; put 2]");
    client.run("put 3").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    let ended = client.run("COMMIT").run("put 4").sync().ask();
    assert_eq!(kinds(&ended), "12NC12CZ");
    assert_eq!(blocks(&server).last().unwrap(), "commit [put 3]");
    assert_eq!(server.handle.log().submitted, ["put 4"]);
}

#[test]
fn commit_and_rollback_divide_a_simple_query() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client
        .query("put 1; COMMIT; put 2; put 3; ROLLBACK; put 4")
        .ask();
    assert_eq!(kinds(&replies), "CNCCCNCCZ");
    assert_eq!(server.handle.log().submitted, ["put 1", "put 4"]);
    assert_eq!(
        blocks(&server),
        ["begin serializable", "put 2", "put 3", "rollback"]
    );
}

#[test]
fn a_change_of_the_schema_is_there_for_what_comes_after_it() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let sql = "put 1; make a; make b; use a; put 2; make c; BEGIN; use c; COMMIT";
    let replies = client.query(sql).ask();
    assert_eq!(kinds(&replies), "CCCCCCCCCZ");
    // Changes that follow each other are one.
    let submitted = ["put 1", "make a; make b", "use a; put 2", "make c"];
    assert_eq!(server.handle.log().submitted, submitted);
    assert_eq!(blocks(&server).last().unwrap(), "commit [use c]");
    // With the extended protocol, up to a Sync.
    let replies = client.run("make d").run("use d").run("put 3").sync().ask();
    assert_eq!(kinds(&replies), "12C12C12CZ");
    assert_eq!(
        server.handle.log().submitted[4..],
        ["make d", "use d; put 3"]
    );
    client.run("make e").flush().send();
    assert_eq!(kinds(&client.replies(3)), "12C");
    assert_eq!(kinds(&client.run("use e").sync().ask()), "12CZ");
}

#[test]
fn what_fails_after_a_change_of_the_schema_says_that_it_stays() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let detail = |replies: &[crate::raw::Reply]| {
        let error = replies.iter().find(|reply| reply.kind == 'E').unwrap();
        error.field('D')
    };
    let replies = client.query("make a; put 1; fail 22012; make b").ask();
    assert_eq!(kinds(&replies), "CCEZ");
    assert!(detail(&replies).unwrap().contains("committed"));
    assert_eq!(
        server.handle.log().submitted,
        ["make a", "put 1; fail 22012"]
    );
    // At planning, and in the last piece, which is answered behind the reader's back.
    let replies = client.query("make b; put 1; use nothing").ask();
    assert_eq!(kinds(&replies), "CCEZ");
    assert!(detail(&replies).unwrap().contains("committed"));
    let replies = client.query("make c; put 1; fail 22012").ask();
    assert_eq!(kinds(&replies), "CCEZ");
    assert!(detail(&replies).unwrap().contains("committed"));
    // Nothing runs if the text cannot be parsed, and nothing is said where nothing stays.
    let replies = client.query("make d; put 1; nonsense").ask();
    assert_eq!(
        (kinds(&replies), sqlstate(&replies)),
        ("EZ".into(), "42601".into())
    );
    assert_eq!(detail(&replies), None);
    assert_eq!(detail(&client.query("put 1; fail 22012").ask()), None);
    assert_eq!(server.handle.log().made, ["a", "b", "c"]);
}
