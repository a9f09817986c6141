//! Many Syncs under way at once.

use kernel_db::wire::pg::Limits;

use crate::backend::Server;
use crate::raw::{Client, kinds};

/// A server of which nothing commits until its gate is opened, and a client of it.
fn gated() -> (Server, Client) {
    gated_with(Limits::default())
}

fn gated_with(limits: Limits) -> (Server, Client) {
    let server = Server::with(limits);
    server.handle.log().gate = Some(0);
    let client = Client::connect(server.port);
    (server, client)
}

#[test]
fn a_thousand_syncs_are_submitted_before_one_of_them_commits() {
    let (server, mut client) = gated();
    client.parse("s", "put 1");
    for _ in 0..1_000 {
        client.bind("", "s", (0, 0), &[]).execute("", 0).sync();
    }
    client.send();
    server
        .handle
        .until("all are submitted", |log| log.submitted.len() == 1_000);
    server.handle.log().gate = None;
    assert_eq!(kinds(&client.until_ready()), "12CZ");
    for _ in 1..1_000 {
        assert_eq!(kinds(&client.until_ready()), "2CZ");
    }
}

#[test]
fn no_more_than_the_bound_of_syncs_is_taken_in() {
    let (server, mut client) = gated();
    for _ in 0..1_100 {
        client.run("put 1").sync();
    }
    client.send();
    server
        .handle
        .until("the bound is reached", |log| log.submitted.len() == 1_024);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(server.handle.log().submitted.len(), 1_024);
    server.handle.log().gate = None;
    for _ in 0..1_100 {
        assert_eq!(kinds(&client.until_ready()), "12CZ");
    }
}

#[test]
fn an_error_in_the_middle_leaves_the_others_alone() {
    let (server, mut client) = gated();
    for n in 0..30 {
        match n % 3 {
            0 => client.run("put 1"),
            1 => client.run("fail 23505"),
            _ => client.run("nonsense").run("put 1"),
        };
        client.sync();
    }
    client.send();
    server
        .handle
        .until("all are submitted", |log| log.submitted.len() == 20);
    server.handle.log().gate = None;
    for _ in 0..10 {
        assert_eq!(kinds(&client.until_ready()), "12CZ");
        assert_eq!(kinds(&client.until_ready()), "12EZ");
        assert_eq!(kinds(&client.until_ready()), "EZ");
    }
}

#[test]
fn another_partition_waits_for_the_one_before() {
    let (server, mut client) = gated();
    client
        .run("put 1")
        .sync()
        .run("put 1")
        .sync()
        .run("rows 1")
        .sync()
        .run("put 2")
        .sync()
        .run("put 2")
        .sync()
        .send();
    server.handle.until("one partition's are submitted", |log| {
        log.submitted.len() == 3
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(server.handle.log().submitted, ["put 1", "put 1", "rows 1"]);
    server.handle.log().gate = Some(3);
    server
        .handle
        .until("the other's follow", |log| log.submitted.len() == 5);
    server.handle.log().gate = None;
    (0..5).for_each(|_| drop(client.until_ready()));
}

#[test]
fn a_client_may_say_that_partitions_do_not_matter_to_each_other() {
    let server = Server::start();
    server.handle.log().gate = Some(0);
    let mut client = Client::connect_with(
        server.port,
        &[
            ("user", "u"),
            ("options", "-c dbos.pipeline_order=partition"),
        ],
    );
    client
        .run("put 1")
        .sync()
        .run("put 2")
        .sync()
        .run("put 1")
        .sync()
        .run("alone")
        .sync()
        .run("put 3")
        .sync()
        .send();
    server
        .handle
        .until("partitions overlap", |log| log.submitted.len() == 3);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(
        server.handle.log().submitted.len(),
        3,
        "what runs alone must wait"
    );
    server.handle.log().gate = Some(3);
    server
        .handle
        .until("it runs alone", |log| log.submitted.len() == 4);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(
        server.handle.log().submitted.len(),
        4,
        "nothing overtakes what runs alone"
    );
    server.handle.log().gate = None;
    (0..5).for_each(|_| drop(client.until_ready()));
}

#[test]
fn nothing_is_planned_while_something_runs_alone() {
    let (server, mut client) = gated();
    client.run("alone").sync().run("put 1").sync().send();
    server
        .handle
        .until("it runs", |log| log.submitted.len() == 1);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(
        server.handle.log().prepared,
        ["alone"],
        "it may change what names mean"
    );
    server.handle.log().gate = None;
    (0..2).for_each(|_| assert_eq!(kinds(&client.until_ready()), "12CZ"));
}

#[test]
fn what_was_sent_before_the_end_is_answered() {
    let (mut server, mut client) = gated_with(Limits {
        drain: std::time::Duration::from_secs(30),
        ..Limits::default()
    });
    client
        .run("put 1")
        .sync()
        .run("put 1")
        .sync()
        .message('X', b"")
        .send();
    server
        .handle
        .until("both are submitted", |log| log.submitted.len() == 2);
    let mut stopped = Client::connect(server.port);
    stopped.run("put 1").sync().send();
    server
        .handle
        .until("the third is submitted", |log| log.submitted.len() == 3);
    let handle = server.handle.clone();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        handle.log().gate = None;
    });
    server.stop();
    opener.join().unwrap();
    assert_eq!(kinds(&client.until_closed()), "12CZ12CZ");
    let replies = stopped.until_closed();
    assert_eq!(kinds(&replies), "12CZE");
    assert_eq!(
        (
            replies[4].field('C').unwrap().as_str(),
            replies[4].field('S').unwrap().as_str()
        ),
        ("57P01", "FATAL")
    );
}
