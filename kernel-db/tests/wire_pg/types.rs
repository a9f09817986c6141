//! Every type as parameter and result, in text and binary, by hand and through a driver.

use std::time::{Duration, UNIX_EPOCH};

use crate::backend::Server;
use crate::raw::{Client, kinds, rows, sqlstate};

/// Type, text and binary form.
const VALUES: &[(&str, &str, &[u8])] = &[
    ("bool", "t", &[1]),
    ("int2", "-2", &[0xff, 0xfe]),
    ("int4", "258", &[0, 0, 1, 2]),
    ("int8", "-1", &[0xff; 8]),
    ("float8", "1.5", &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
    ("text", "grün", "grün".as_bytes()),
    ("varchar", "", b""),
    ("bytea", "\\x00ff", &[0, 0xff]),
    (
        "timestamptz",
        "2000-01-01 00:00:01+00",
        &[0, 0, 0, 0, 0, 0x0f, 0x42, 0x40],
    ),
    (
        "uuid",
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    ),
    (
        "numeric",
        "1.50",
        &[0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88],
    ),
    (
        "interval",
        "1 day 00:00:01",
        &[0, 0, 0, 0, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 1, 0, 0, 0, 0],
    ),
];

#[test]
fn every_type_in_both_formats_both_ways() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    for (name, text, binary) in VALUES {
        let forms = [text.as_bytes(), binary];
        for (given, wanted) in [(0u8, 0u8), (0, 1), (1, 0), (1, 1)] {
            client.parse("", &format!("echo {name}"));
            client
                .bind("", "", (given, wanted), &[Some(forms[usize::from(given)])])
                .execute("", 0);
            let replies = client.sync().ask();
            assert_eq!(
                kinds(&replies),
                "12DCZ",
                "{name} {given} {wanted}: {replies:?}"
            );
            assert_eq!(
                rows(&replies)[0],
                [Some(forms[usize::from(wanted)].to_vec())],
                "{name} {given} {wanted}"
            );
        }
        client
            .parse("", &format!("echo {name}"))
            .bind("", "", (1, 1), &[None])
            .execute("", 0);
        assert_eq!(rows(&client.sync().ask())[0], [None], "{name}");
    }
}

#[test]
fn bad_parameters_are_errors_of_the_statement() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    for (name, binary, bytes, state) in [
        ("int4", 0, &b"x"[..], "22P02"),
        ("int2", 0, b"40000", "22003"),
        ("int4", 1, b"abc", "22P03"),
        ("text", 1, b"\xff", "22021"),
        ("text", 0, b"a\0b", "22021"),
        ("uuid", 1, b"short", "22P03"),
        ("int4", 7, b"1", "22023"),
    ] {
        client
            .parse("", &format!("echo {name}"))
            .bind("", "", (binary, 0), &[Some(bytes)]);
        assert_eq!(sqlstate(&client.sync().ask()), state, "{name} {bytes:?}");
    }
    assert!(server.handle.log().submitted.is_empty());
}

#[test]
fn a_driver_prepares_queries_and_pipelines() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = format!("host=127.0.0.1 port={} user=u dbname=d", server.port);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let types = "echo bool int2 int4 int8 float8 text varchar bytea timestamptz uuid";
        let statement = client.prepare(types).await.unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let id = uuid::Uuid::from_u128(7);
        let (text, bytes) = ("héllo", vec![1u8, 2, 3]);
        let row = client
            .query_one(
                &statement,
                &[
                    &true, &2i16, &4i32, &8i64, &0.5f64, &text, &text, &bytes, &time, &id,
                ],
            )
            .await
            .unwrap();
        assert_eq!(
            (
                row.get::<_, i16>(1),
                row.get::<_, i32>(2),
                row.get::<_, i64>(3)
            ),
            (2, 4, 8)
        );
        assert_eq!((row.get::<_, bool>(0), row.get::<_, f64>(4)), (true, 0.5));
        assert_eq!((row.get::<_, &str>(5), row.get::<_, &str>(6)), (text, text));
        assert_eq!(
            (
                row.get::<_, Vec<u8>>(7),
                row.get::<_, std::time::SystemTime>(8)
            ),
            (bytes, time)
        );
        assert_eq!(row.get::<_, uuid::Uuid>(9), id);
        let put = client.prepare("put 1").await.unwrap();
        let all = futures::future::join_all((0..200).map(|_| client.execute(&put, &[]))).await;
        assert!(all.into_iter().all(|result| result.is_ok()));
        let error = client.batch_execute("fail 23505").await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23505");
        assert_eq!(client.query("rows 3", &[]).await.unwrap().len(), 3);
        assert_eq!(client.simple_query("rows 3; put 1").await.unwrap().len(), 6);
    });
}
