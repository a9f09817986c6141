//! I11, the client's side: whatever is cut, lost or moved, a call runs exactly once, and its caller gets its own reply.

mod fake_kernel;

use std::time::Duration;

use dbos_client::{Class, Client, Options, Target, field};
use fake_kernel::{CALL, FREE, Fault, Shared, WRONG, lock, start, url};
use futures::future::join_all;

const KEY: i64 = 5;

async fn client(shared: &Shared) -> Client {
    let target = Target::parse(&url(shared)).unwrap();
    Client::connect_with(
        &target,
        Options {
            deadline: Duration::from_secs(60),
            ..Options::default()
        },
    )
    .await
    .unwrap()
}

async fn call(client: &Client, sql: &str, value: i64) -> dbos_client::Result<i64> {
    let rows = client.call(KEY, sql, &[&value]).await?;
    field(&rows[0], 0)
}

/// Makes `count` calls, pipelined; each must get its own value back, and be executed once.
async fn all_run_once(shared: &Shared, count: i64) {
    let client = client(shared).await;
    call(&client, CALL, -1).await.unwrap();
    let replies = join_all((0..count).map(|value| call(&client, CALL, value))).await;
    for (value, reply) in (0..).zip(replies) {
        assert_eq!(reply.unwrap(), value);
    }
    let mut executed = lock(shared).executed.clone();
    executed.sort_unstable();
    assert_eq!(executed, (-1..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn calls_without_faults_are_pipelined_in_order_on_one_connection() {
    let shared = start(vec![]).await;
    all_run_once(&shared, 500).await;
    let executed = lock(&shared).executed.clone();
    assert!(executed.is_sorted());
}

#[tokio::test]
async fn a_call_whose_reply_was_cut_off_runs_once() {
    for fault in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Unknown,
        Fault::Busy,
        Fault::Move,
    ] {
        for at in [0, 1, 7] {
            let mut faults = vec![Fault::None; at];
            faults.extend([fault, fault]);
            all_run_once(&start(faults).await, 20).await;
        }
    }
}

#[tokio::test]
async fn many_calls_under_many_faults_run_once_each() {
    let kinds = [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Unknown,
        Fault::Busy,
        Fault::Move,
    ];
    for seed in 1..=3_u64 {
        let mut random = seed;
        let mut fault = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let drawn = usize::try_from(random >> 33).unwrap() % 60;
            kinds.get(drawn).copied().unwrap_or(Fault::None)
        };
        all_run_once(&start((0..900).map(|_| fault()).collect()).await, 600).await;
    }
}

/// A statement that the server does not count must not move the client's count.
#[tokio::test]
async fn an_uncounted_statement_in_between_does_no_harm() {
    // Replies of counted calls are cut off, right behind uncounted ones.
    let faults = vec![Fault::None, Fault::CutAfter, Fault::None, Fault::CutAfter];
    let shared = start(faults).await;
    let client = client(&shared).await;
    for value in 0..3 {
        assert_eq!(call(&client, FREE, 100 + value).await.unwrap(), 100 + value);
        assert_eq!(call(&client, CALL, value).await.unwrap(), value);
        assert_eq!(call(&client, FREE, 200 + value).await.unwrap(), 200 + value);
    }
    assert_eq!(lock(&shared).executed, [0, 1, 2]);
}

#[tokio::test]
async fn a_failed_statement_in_between_does_no_harm() {
    let shared = start(vec![Fault::None, Fault::CutAfter, Fault::CutAfter]).await;
    let client = client(&shared).await;
    for value in 0..4 {
        let error = call(&client, WRONG, value).await.unwrap_err();
        assert_eq!(
            (error.class(), error.sqlstate()),
            (Class::Request, Some("22012"))
        );
        assert_eq!(call(&client, CALL, value).await.unwrap(), value);
    }
    assert_eq!(lock(&shared).executed, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_wrong_parameter_is_never_sent_and_takes_no_number() {
    let shared = start(vec![Fault::None, Fault::CutAfter]).await;
    let client = client(&shared).await;
    assert_eq!(call(&client, CALL, 0).await.unwrap(), 0);
    let error = client.call(KEY, CALL, &[&"text"]).await.unwrap_err();
    assert_eq!((error.class(), error.sqlstate()), (Class::Request, None));
    assert_eq!(call(&client, CALL, 1).await.unwrap(), 1);
    assert_eq!(lock(&shared).executed, [0, 1]);
}

#[tokio::test]
async fn a_forgotten_session_is_replaced_for_new_calls() {
    let shared = start(vec![Fault::None, Fault::Evict]).await;
    all_run_once(&shared, 3).await;
}

/// The reply is cut off, and by the time of the retry the session is forgotten: it may not run again.
#[tokio::test]
async fn a_forgotten_session_behind_a_lost_reply_is_an_unknown_outcome() {
    let shared = start(vec![Fault::None, Fault::CutAfter, Fault::Evict]).await;
    let client = client(&shared).await;
    call(&client, CALL, 0).await.unwrap();
    assert!(call(&client, CALL, 1).await.unwrap_err().is_unknown());
    assert_eq!(lock(&shared).executed, [0, 1]);
}

#[tokio::test]
async fn a_leader_that_moves_quietly_is_followed() {
    let shared = start(vec![]).await;
    let client = client(&shared).await;
    call(&client, CALL, 0).await.unwrap();
    lock(&shared).leader = 1;
    call(&client, CALL, 1).await.unwrap();
    let retries = client.stats().retries;
    assert!(retries >= 1);
    call(&client, CALL, 2).await.unwrap();
    assert_eq!(client.stats().retries, retries, "the leader is known again");
    assert_eq!(client.topology().leaders, [Some(1)]);
}

#[tokio::test]
async fn a_leader_that_never_comes_back_ends_the_call_at_its_deadline() {
    let shared = start(vec![Fault::Busy; 100_000]).await;
    let target = Target::parse(&url(&shared)).unwrap();
    let options = Options {
        deadline: Duration::from_secs(3),
        ..Options::default()
    };
    let client = Client::connect_with(&target, options).await.unwrap();
    let error = call(&client, CALL, 1).await.unwrap_err();
    assert_eq!(
        (error.class(), error.sqlstate()),
        (Class::Retry, Some("53300"))
    );
    assert!(lock(&shared).executed.is_empty());
}
