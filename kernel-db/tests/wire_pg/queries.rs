//! Simple and extended queries, portals, errors.

use crate::backend::Server;
use crate::raw::{Client, kinds, rows, sqlstate};

#[test]
fn the_greeting_tells_what_drivers_look_at() {
    let server = Server::start();
    let mut client = Client::open(server.port);
    // SSLRequest and GSSENCRequest are refused with one byte each, then startup goes on.
    for code in [80_877_103u32, 80_877_104] {
        client.out.extend_from_slice(&8u32.to_be_bytes());
        client.out.extend_from_slice(&code.to_be_bytes());
        client.send();
        let mut answer = [0];
        std::io::Read::read_exact(&mut client.socket, &mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    drop(client);
    let client = Client::connect_with(server.port, &[("user", "u"), ("application_name", "app")]);
    let value = |name: &str| {
        client
            .parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(value("server_version"), Some("15.0"));
    assert_eq!(value("client_encoding"), Some("UTF8"));
    assert_eq!(value("DateStyle"), Some("ISO, MDY"));
    assert_eq!(value("integer_datetimes"), Some("on"));
    assert_eq!(value("standard_conforming_strings"), Some("on"));
    assert_eq!(value("TimeZone"), Some("UTC"));
    assert_eq!(value("application_name"), Some("app"));
    assert_ne!(client.pid, Client::connect(server.port).pid);
}

#[test]
fn newer_protocols_are_negotiated_and_get_long_keys() {
    let server = Server::start();
    let mut client = Client::open(server.port);
    client.out = crate::raw::startup(3 << 16 | 9999, &[("user", "u"), ("_pq_.dreams", "on")]);
    let replies = client.ask();
    assert_eq!(replies[0].kind, 'v');
    assert_eq!(replies[0].body[..8], [0, 3, 0, 2, 0, 0, 0, 1]);
    let key = replies.iter().find(|reply| reply.kind == 'K').unwrap();
    assert_eq!(key.body.len(), 4 + 32);
}

#[test]
fn a_simple_query_is_one_transaction() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client.query("put 1; rows 2;\n put 2").ask();
    assert_eq!(kinds(&replies), "CTDDCCZ");
    assert_eq!(rows(&replies)[1], [Some(b"1".to_vec())]);
    assert_eq!(server.handle.log().submitted, ["put 1; rows 2; put 2"]);
    assert_eq!(kinds(&client.query(" -- nothing\n ;").ask()), "IZ");
    assert_eq!(kinds(&client.query("notice").ask()), "NCZ");
    assert_eq!(
        kinds(
            &client
                .query("set client_min_messages = error; notice")
                .ask()
        ),
        "CCZ"
    );
}

#[test]
fn notices_come_before_the_error_of_their_statement() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client.query("put 1; complain; put 2").ask();
    assert_eq!(kinds(&replies), "CNEZ");
    assert_eq!(replies[1].field('D').as_deref(), Some("in detail"));
    let replies = client.run("complain").sync().ask();
    assert_eq!(kinds(&replies), "12NEZ");
    assert_eq!(kinds(&client.query("begin; complain").ask()), "CNEZ");
    assert_eq!(kinds(&client.query("rollback").ask()), "CZ");
    client.query("set client_min_messages = error").ask();
    assert_eq!(kinds(&client.query("complain").ask()), "EZ");
}

#[test]
fn times_are_shown_in_their_largest_unit() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    for (given, shown) in [
        ("30s", "30s"),
        ("5min", "5min"),
        ("1500", "1500ms"),
        ("0", "0"),
    ] {
        let text = format!("set statement_timeout = '{given}'; show statement_timeout");
        let replies = client.query(&text).ask();
        assert_eq!(rows(&replies), [[Some(shown.as_bytes().to_vec())]]);
    }
}

#[test]
fn an_error_in_a_simple_query_leaves_nothing_and_points_into_the_text() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client.query("put 1; /* é */ nonsense").ask();
    assert_eq!(kinds(&replies), "EZ");
    assert_eq!(replies[0].field('P').as_deref(), Some("16"));
    assert_eq!(replies[0].field('S').as_deref(), Some("ERROR"));
    assert!(server.handle.log().submitted.is_empty());
    let replies = client.query("put 1; fail 23505; put 2").ask();
    assert_eq!(
        (kinds(&replies).as_str(), sqlstate(&replies).as_str()),
        ("CEZ", "23505")
    );
    assert_eq!(
        replies[1].field('H').as_deref(),
        Some("ask for something else")
    );
    assert_eq!(sqlstate(&client.query("echo int4").ask()), "42P02");
    assert_eq!(kinds(&client.query("put 1").ask()), "CZ");
}

#[test]
fn everything_up_to_a_sync_is_one_transaction() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client.run("put 1").run("rows 1").run("put 1").sync().ask();
    assert_eq!(kinds(&replies), "12C12DC12CZ");
    assert_eq!(server.handle.log().submitted, ["put 1; rows 1; put 1"]);
}

#[test]
fn after_an_error_everything_is_skipped_up_to_sync() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    // At parsing: the statement executed before it is answered, and taken back.
    let replies = client
        .run("put 1")
        .parse("", "nonsense")
        .run("put 2")
        .query("put 3")
        .sync()
        .ask();
    assert_eq!(
        (kinds(&replies).as_str(), sqlstate(&replies).as_str()),
        ("12CEZ", "42601")
    );
    assert!(server.handle.log().submitted.is_empty());
    let taken_back = ["begin serializable", "put 1", "rollback"];
    assert_eq!(server.handle.log().blocks, taken_back);
    // At execution.
    let replies = client
        .run("put 1")
        .run("fail 22012")
        .run("put 2")
        .sync()
        .ask();
    assert_eq!(
        (kinds(&replies).as_str(), sqlstate(&replies).as_str()),
        ("12C12EZ", "22012")
    );
    assert_eq!(kinds(&client.run("put 4").sync().ask()), "12CZ");
}

#[test]
fn an_error_is_told_before_sync() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client
        .parse("a", "rows 1")
        .describe('S', "a")
        .flush()
        .send();
    assert_eq!(kinds(&client.replies(3)), "1tT");
    client.parse("b", "nonsense").send();
    assert_eq!(kinds(&client.replies(1)), "E");
    assert_eq!(kinds(&client.parse("c", "put 1").sync().ask()), "Z");
}

#[test]
fn statements_and_portals_have_names() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(
        kinds(&client.parse("s", "rows 3").describe('S', "s").sync().ask()),
        "1tTZ"
    );
    assert_eq!(sqlstate(&client.parse("s", "rows 1").sync().ask()), "42P05");
    let replies = client
        .bind("p", "s", (0, 1), &[])
        .describe('P', "p")
        .execute("p", 0)
        .sync()
        .ask();
    assert_eq!(kinds(&replies), "2TDDDCZ");
    assert_eq!(rows(&replies)[2], [Some(2i32.to_be_bytes().to_vec())]);
    // Sync ended the portal.
    assert_eq!(sqlstate(&client.execute("p", 0).sync().ask()), "34000");
    assert_eq!(
        sqlstate(
            &client
                .bind("p", "s", (0, 0), &[])
                .bind("p", "s", (0, 0), &[])
                .sync()
                .ask()
        ),
        "42P03"
    );
    assert_eq!(kinds(&client.message('C', b"Ss\0").sync().ask()), "3Z");
    assert_eq!(
        sqlstate(&client.bind("", "s", (0, 0), &[]).sync().ask()),
        "26000"
    );
    assert_eq!(
        sqlstate(&client.parse("", "rows 1; rows 2").sync().ask()),
        "42601"
    );
    assert_eq!(
        kinds(
            &client
                .parse("", "")
                .bind("", "", (0, 0), &[])
                .execute("", 0)
                .sync()
                .ask()
        ),
        "12IZ"
    );
    assert_eq!(
        sqlstate(
            &client
                .parse("", "echo int4")
                .bind("", "", (0, 0), &[])
                .sync()
                .ask()
        ),
        "08P01"
    );
}

#[test]
fn a_statement_named_after_a_failed_execute_does_not_exist() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(
        kinds(
            &client
                .run("fail 22012")
                .parse("late", "rows 1")
                .sync()
                .ask()
        ),
        "12EZ"
    );
    assert_eq!(kinds(&client.parse("late", "rows 1").sync().ask()), "1Z");
}

#[test]
fn a_portal_gives_its_rows_in_portions() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client
        .parse("", "rows 5")
        .bind("", "", (0, 0), &[])
        .execute("", 2)
        .execute("", 2)
        .execute("", 2)
        .execute("", 2);
    let replies = client.sync().ask();
    assert_eq!(kinds(&replies), "12DDsDDsDCCZ");
    assert_eq!(replies[9].text(), "SELECT 1");
    assert_eq!(replies[10].text(), "SELECT 0");
    assert_eq!(server.handle.log().submitted, ["rows 5"]);
    assert_eq!(
        sqlstate(&client.run("put 1").execute("", 0).sync().ask()),
        "55000"
    );
}

#[test]
fn statements_about_the_connection_never_reach_the_backend() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    let replies = client
        .query("SET application_name = 'me'; SHOW application_name")
        .ask();
    assert_eq!(kinds(&replies), "SCTDCZ");
    assert_eq!(rows(&replies)[0], [Some(b"me".to_vec())]);
    for sql in ["PREPARE TRANSACTION 'x'", "COPY t FROM STDIN"] {
        let replies = client.query(sql).ask();
        assert_eq!(sqlstate(&replies), "0A000", "{sql}");
        assert!(replies[0].field('H').is_some(), "{sql}");
    }
    let replies = client
        .parse("", "SHOW transaction_isolation")
        .describe('S', "")
        .bind("", "", (0, 0), &[]);
    let replies = replies.execute("", 0).sync().ask();
    assert_eq!(kinds(&replies), "1tT2DCZ");
    assert_eq!(rows(&replies)[0], [Some(b"serializable".to_vec())]);
    client.parse("kept", "rows 1").sync().ask();
    assert_eq!(
        kinds(&client.query("DEALLOCATE kept; DISCARD ALL").ask()),
        "CSCZ"
    );
    assert_eq!(sqlstate(&client.query("DEALLOCATE kept").ask()), "26000");
    assert!(server.handle.log().submitted.is_empty());
}
