//! The same statements on the kernel's SQL and on a real PostgreSQL must end the same way: same rows (in order where the
//! statement orders them), same column names, same number of rows touched, or an error of the same SQLSTATE.
//!
//! Statements come from `sql/*.sql` (written by hand) and from a seeded generator. PostgreSQL 15 is started privately and
//! removed afterwards; a missing one fails these tests. The kernel's side is one partition over a store in memory, or a node.
//!
//! A hand-written statement after a line `-- differs: reason` is run on both sides but not compared; if the two agree
//! after all, that is an error too, so that no reason outlives its cause.

mod kernel;
mod outcome;
#[path = "../support/partition.rs"]
mod partition;
#[path = "../../../services/client/src/ports.rs"]
mod ports;
mod postgres;
mod random;
mod script;
mod server;

use kernel::Kernel;
use outcome::Outcome;
use postgres::Postgres;
use server::Server;

/// Differences printed before a test gives up.
const SHOWN_MAX: usize = 40;

/// The kernel, one way or another.
trait Side {
    /// An empty database.
    fn reset(&mut self);
    /// Runs one statement as a transaction of its own.
    fn run(&mut self, sql: &str) -> Outcome;
}

/// Runs statements on both sides and collects what differs.
struct Pair {
    kernel: Box<dyn Side>,
    postgres: Postgres,
    statements: usize,
    differences: Vec<String>,
}

impl Pair {
    fn new(kernel: impl Side + 'static) -> Self {
        Self {
            kernel: Box::new(kernel),
            postgres: Postgres::start(),
            statements: 0,
            differences: Vec::new(),
        }
    }

    /// An empty database on both sides.
    fn reset(&mut self) {
        self.kernel.reset();
        self.postgres.reset();
    }

    fn run(&mut self, from: &str, sql: &str, differs: Option<&str>) {
        self.statements += 1;
        let ordered = outcome::is_ordered(sql);
        let kernel = self.kernel.run(sql).normalised(ordered);
        let postgres = self.postgres.run(sql).normalised(ordered);
        match (kernel == postgres, differs) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(reason)) => self
                .differences
                .push(format!("{from}: {sql}\n  no longer differs: {reason}")),
            (false, None) => {
                let text =
                    format!("{from}: {sql}\n  kernel:     {kernel}\n  PostgreSQL: {postgres}");
                self.differences.push(text);
            }
        }
    }

    fn finish(self, at_least: usize) {
        let count = self.differences.len();
        let shown = self
            .differences
            .iter()
            .take(SHOWN_MAX)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            count == 0,
            "{count} of {} statements differ:\n{shown}",
            self.statements
        );
        assert!(
            self.statements >= at_least,
            "only {} statements ran",
            self.statements
        );
    }
}

#[test]
fn hand_written_statements_end_as_on_postgresql() {
    hand_written(Pair::new(Kernel::new()), &[]);
}

/// The same through a node's sockets, gateway, log and state store.
#[test]
fn hand_written_statements_end_as_on_postgresql_through_a_node() {
    hand_written(Pair::new(Server::start(1)), &[]);
}

/// Sequences are left out: each partition hands out values of its own, so they are not dense.
#[test]
fn hand_written_statements_end_as_on_postgresql_over_four_partitions() {
    hand_written(Pair::new(Server::start(4)), &["sequences.sql"]);
}

fn hand_written(mut pair: Pair, left_out: &[&str]) {
    let scripts = script::all().into_iter();
    for script in scripts.filter(|s| !left_out.contains(&s.name.as_str())) {
        pair.reset();
        for statement in &script.statements {
            let from = format!("{}:{}", script.name, statement.line);
            pair.run(&from, &statement.sql, statement.differs.as_deref());
        }
    }
    pair.finish(500);
}

#[test]
fn random_statements_end_as_on_postgresql() {
    let mut pair = Pair::new(Kernel::new());
    // Ten databases of a thousand statements each, so that one difference does not blur all that follows.
    for seed in 0..10 {
        pair.reset();
        let mut generator = random::Generator::new(seed);
        for sql in generator.setup() {
            pair.run(&format!("seed {seed}"), &sql, None);
        }
        for number in 0..1000 {
            let sql = generator.statement();
            pair.run(&format!("seed {seed}, statement {number}"), &sql, None);
        }
    }
    pair.finish(10_000);
}

#[test]
fn a_difference_is_found() {
    let one = Outcome::rows(vec!["a".into()], vec![vec![Some("1".into())], vec![None]]);
    let other = Outcome::rows(vec!["a".into()], vec![vec![None], vec![Some("1".into())]]);
    assert_eq!(
        one.clone().normalised(false),
        other.clone().normalised(false)
    );
    assert_ne!(one.clone().normalised(true), other.normalised(true));
    assert_ne!(
        one.normalised(false),
        Outcome::error("22012", "").normalised(false)
    );
    assert_ne!(Outcome::Touched(1), Outcome::Touched(2));
}
