//! Bad input and bounds: a clear error, and the server lives on.

use std::io::{Read, Write};

use kernel_db::wire::pg::Limits;
use proptest::prelude::*;

use crate::backend::Server;
use crate::raw::{Client, kinds, sqlstate, startup};

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::with(Limits {
        connections: 2,
        ..Limits::default()
    });
    let first = Client::connect(server.port);
    let mut second = Client::connect(server.port);
    let mut third = Client::open(server.port);
    third
        .socket
        .write_all(&startup(3 << 16, &[("user", "u")]))
        .unwrap();
    let replies = third.until_closed();
    assert_eq!(
        (kinds(&replies).as_str(), sqlstate(&replies).as_str()),
        ("E", "53300")
    );
    assert_eq!(kinds(&second.query("put 1").ask()), "CZ");
    drop(first);
    server.handle.until("one left", |log| log.connected == 1);
    assert_eq!(
        kinds(&Client::connect(server.port).query("put 1").ask()),
        "CZ"
    );
}

#[test]
fn a_message_too_long_names_the_bound() {
    let server = Server::with(Limits {
        message_bytes: 1_000,
        ..Limits::default()
    });
    let mut client = Client::connect(server.port);
    client.run("put 1").sync().query(&"x".repeat(1_001)).send();
    let replies = client.until_closed();
    assert_eq!(kinds(&replies), "12CZE");
    assert_eq!(replies[4].field('C').as_deref(), Some("54000"));
    assert!(replies[4].field('M').unwrap().contains("1000 bytes"));
}

#[test]
fn too_many_statements_in_one_transaction_name_the_bound() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    client.parse("s", "put 1");
    for _ in 0..10_001 {
        client.bind("", "s", (0, 0), &[]).execute("", 0);
    }
    let replies = client.sync().ask();
    assert_eq!(sqlstate(&replies), "54000");
    assert!(server.handle.log().submitted.is_empty());
    assert_eq!(kinds(&client.query("put 1").ask()), "CZ");
}

#[test]
fn broken_messages_end_the_connection_after_earlier_replies() {
    let server = Server::start();
    for (kind, body) in [
        ('?', &b""[..]),
        ('P', b"no end"),
        ('E', b"\0\0"),
        ('B', b"\0\0\0\x09"),
        ('S', b"x"),
    ] {
        let mut client = Client::connect(server.port);
        client.run("put 1").sync().message(kind, body).send();
        let replies = client.until_closed();
        assert_eq!(kinds(&replies), "12CZE", "{kind}");
        let error = &replies[4];
        assert_eq!(
            (error.field('C').as_deref(), error.field('S').as_deref()),
            (Some("08P01"), Some("FATAL"))
        );
    }
    let mut client = Client::connect(server.port);
    assert_eq!(sqlstate(&client.message('F', b"").ask()), "0A000");
    assert_eq!(
        sqlstate(&client.message('Q', b"put '\xff'\0").ask()),
        "22021"
    );
    assert_eq!(
        kinds(&client.message('d', b"copy data").query("put 1").ask()),
        "CZ"
    );
}

#[test]
fn bad_startups_are_refused() {
    let server = Server::start();
    let short = [0, 0, 0, 4, 0, 0, 0, 0].to_vec();
    let huge = [0x7f, 0, 0, 0, 0, 3, 0, 0].to_vec();
    for (packet, state) in [
        (startup(2 << 16, &[]), "0A000"),
        (startup(3 << 16, &[]), "28000"),
        (
            startup(3 << 16, &[("user", "u"), ("nonsense", "1")]),
            "42704",
        ),
        (short, "08P01"),
        (huge, "08P01"),
    ] {
        let mut client = Client::open(server.port);
        client.socket.write_all(&packet).unwrap();
        assert_eq!(sqlstate(&client.until_closed()), state);
    }
}

#[test]
fn a_client_that_never_starts_is_closed() {
    let server = Server::with(Limits {
        startup: std::time::Duration::from_millis(50),
        ..Limits::default()
    });
    let mut client = Client::open(server.port);
    client.socket.write_all(&[0, 0]).unwrap();
    assert!(client.reply().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Thirty-two connections a case, each sent something else that is no protocol.
    #[test]
    fn random_bytes_never_stop_the_server(seeds in proptest::collection::vec(
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)), 32)
    ) {
        let server = Server::start();
        for (started, bytes) in &seeds {
            let mut client = if *started { Client::connect(server.port) } else { Client::open(server.port) };
            // The server may close before everything is written.
            let _ = client.socket.write_all(bytes);
            let _ = client.socket.shutdown(std::net::Shutdown::Write);
            let _ = client.socket.read_to_end(&mut Vec::new());
        }
        prop_assert_eq!(kinds(&Client::connect(server.port).query("put 1").ask()), "CZ");
    }

    /// Well-formed messages in any order: every Sync and Query is answered by one ReadyForQuery.
    #[test]
    fn any_order_of_messages_is_answered(choice in proptest::collection::vec(0u8..12, 1..60)) {
        let server = Server::start();
        let mut client = Client::connect(server.port);
        let mut skipping_may_hide = 0;
        for n in &choice {
            match n {
                0 => client.parse("s", "rows 3"),
                1 => client.parse("", "put 1"),
                2 => client.bind("", "", (0, 0), &[]),
                3 => client.bind("p", "s", (1, 1), &[]),
                4 => client.execute("", 0),
                5 => client.execute("p", 1),
                6 => client.describe('P', "p"),
                7 => client.describe('S', "s"),
                8 => client.message('C', b"Ps\0"),
                9 => client.flush(),
                10 => { skipping_may_hide += 1; client.query("put 1; rows 1") }
                _ => client.sync(),
            };
        }
        let syncs = choice.iter().filter(|n| **n == 11).count();
        client.sync().message('X', b"").send();
        let replies = client.until_closed();
        let ready = kinds(&replies).matches('Z').count();
        prop_assert!((syncs + 1..=syncs + 1 + skipping_may_hide).contains(&ready));
        prop_assert_eq!(replies.last().map(|r| r.kind), Some('Z'));
    }
}
