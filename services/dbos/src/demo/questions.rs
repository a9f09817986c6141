//! Questions about the state of the operating system, each one SELECT.

use tokio_postgres::Client;

use crate::db;
use crate::exit::Result;

/// A question in words and in SQL.
pub struct Question {
    words: &'static str,
    sql: &'static str,
}

pub const CLUSTER: Question = Question {
    words: "Who leads which partition?",
    sql: "SELECT partition_id, leader, term, slots FROM dbos.partitions ORDER BY partition_id",
};

pub const STATE: [Question; 4] = [
    Question {
        words: "Which workers are fullest?",
        sql: "SELECT p_key, worker_id, slots - capacity AS tasks, capacity AS free FROM worker
              ORDER BY capacity, p_key, worker_id LIMIT 5",
    },
    Question {
        words: "Who has unread messages?",
        sql: "SELECT receiver_id, count(*) AS unread, min(sent_at) AS oldest FROM message
              GROUP BY receiver_id ORDER BY unread DESC, receiver_id LIMIT 5",
    },
    Question {
        words: "The biggest files, by owner?",
        sql: "SELECT user_name, name, size FROM directory WHERE kind <> 0 ORDER BY size DESC, name LIMIT 5",
    },
    Question {
        words: "Which nodes hold the leaders of the partitions that most tasks run in?",
        sql: "SELECT r.node_id, r.partition_id, count(*) AS tasks, count(DISTINCT w.worker_id) AS workers
              FROM task t
              JOIN worker w ON w.p_key = t.p_key AND w.worker_id = t.worker_id
              JOIN dbos.replicas r ON r.partition_id = dbos.partition_of('task', t.p_key) AND r.role = 'leader'
              GROUP BY r.node_id, r.partition_id ORDER BY tasks DESC",
    },
];

/// Prints question and answer.
pub async fn ask(client: &Client, question: &Question) -> Result<()> {
    let text: Vec<&str> = question.sql.split_whitespace().collect();
    println!("\n{}\n  {}", question.words, text.join(" "));
    println!("{}", db::rows(client, question.sql).await?.table());
    Ok(())
}
