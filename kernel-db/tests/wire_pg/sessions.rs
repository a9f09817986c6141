//! Session numbers (I11), cancel keys, registration.

use std::io::Write;

use crate::backend::Server;
use crate::raw::{Client, kinds, rows, sqlstate};

const OPTIONS: &str = "-c dbos.session=0000000000000000000000000000002a -c dbos.request=10";

fn with_session(server: &Server) -> Client {
    Client::connect_with(server.port, &[("user", "u"), ("options", OPTIONS)])
}

// I11: the client counts the same transactions in the same order.
#[test]
fn numbers_follow_the_order_of_syncs_and_skip_what_is_not_numbered() {
    let server = Server::start();
    let mut client = with_session(&server);
    client
        .run("put 1")
        .sync()
        .run("rows 1")
        .sync()
        .run("fail 23505")
        .sync()
        .run("put 1")
        .run("put 1")
        .sync();
    client.run("nonsense").sync().query("put 2; put 2").send();
    (0..6).for_each(|_| drop(client.until_ready()));
    let numbers: Vec<_> = server
        .handle
        .log()
        .numbers
        .iter()
        .map(|n| n.map(|(_, number)| number))
        .collect();
    assert_eq!(numbers, [Some(10), None, Some(11), Some(12), Some(13)]);
    assert_eq!(server.handle.log().numbers[0].unwrap().0, 42);
}

// I11: a retry runs under the number it had.
#[test]
fn a_retry_sets_its_number() {
    let server = Server::start();
    let mut client = with_session(&server);
    client
        .query("SET dbos.request TO 5")
        .run("put 1")
        .sync()
        .query("SHOW dbos.request")
        .send();
    client.until_ready();
    client.until_ready();
    assert_eq!(rows(&client.until_ready())[0], [Some(b"6".to_vec())]);
    assert_eq!(server.handle.log().numbers, [Some((42, 5))]);
    let replies = client.query("SHOW dbos.session").ask();
    assert_eq!(
        rows(&replies)[0],
        [Some(b"0000000000000000000000000000002a".to_vec())]
    );
    assert_eq!(
        sqlstate(&client.query("SET dbos.request TO nothing").ask()),
        "22023"
    );
    assert_eq!(
        sqlstate(&client.query("SET dbos.session TO 1").ask()),
        "55P02"
    );
}

#[test]
fn without_a_session_nothing_is_numbered() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(kinds(&client.query("put 1").ask()), "CZ");
    assert_eq!(server.handle.log().numbers, [None]);
    assert_eq!(
        sqlstate(&client.query("SET dbos.request TO 5").ask()),
        "55000"
    );
}

#[test]
fn cancel_needs_the_key() {
    let server = Server::start();
    let client = Client::connect(server.port);
    let cancel = |pid: i32, secret: &[u8]| {
        let mut request = Client::open(server.port);
        let mut packet = (12 + secret.len() as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&80_877_102u32.to_be_bytes());
        packet.extend_from_slice(&pid.to_be_bytes());
        packet.extend_from_slice(secret);
        request.socket.write_all(&packet).unwrap();
        assert!(request.reply().is_none());
    };
    let mut wrong = client.secret.clone();
    wrong[0] ^= 1;
    cancel(client.pid, &wrong);
    cancel(client.pid + 1, &client.secret);
    assert!(server.handle.log().cancelled.is_empty());
    cancel(client.pid, &client.secret);
    assert_eq!(server.handle.log().cancelled, [client.pid]);
}

#[test]
fn connections_are_registered_while_they_live() {
    let server = Server::start();
    let clients: Vec<_> = (0..3).map(|_| Client::connect(server.port)).collect();
    server
        .handle
        .until("three are known", |log| log.connected == 3);
    drop(clients);
    server
        .handle
        .until("none is known", |log| log.connected == 0);
}

#[test]
fn what_another_node_has_shown_is_handed_over() {
    let server = Server::start();
    let mut client = Client::connect(server.port);
    assert_eq!(
        rows(&client.query("SHOW dbos.seen").ask())[0],
        [Some(b"0".to_vec())]
    );
    client.query("SET dbos.seen TO 1766000000000000").ask();
    assert_eq!(
        rows(&client.query("SHOW dbos.seen").ask())[0],
        [Some(b"1766000000000000".to_vec())]
    );
    assert_eq!(
        sqlstate(&client.query("SET dbos.seen TO soon").ask()),
        "22023"
    );
}
