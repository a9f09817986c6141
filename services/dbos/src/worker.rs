//! `dbos worker`: takes tasks, runs them, finishes them.

use scheduler::{Registration, Scheduler, worker};
use serde_json::json;

use crate::args::WorkerArgs;
use crate::exit::Result;
use crate::service::{client, failure};

pub async fn run(args: WorkerArgs) -> Result<()> {
    let scheduler = Scheduler::new(client(&args.target).await?);
    let registration = Registration {
        key: args.key,
        worker_id: args.id,
        slots: args.capacity,
        shard: args.shard,
        url: None,
    };
    eprintln!(
        "worker {} of key {}: {} slots, until Ctrl-C",
        args.id, args.key, args.capacity
    );
    let options = worker::Options::new(registration);
    let report = worker::run(&scheduler, &options, kernel_db::node::terminated())
        .await
        .map_err(failure)?;
    match args.json {
        true => println!(
            "{}",
            json!({"finished": report.finished, "lost": report.lost})
        ),
        false => println!(
            "{} tasks finished, {} lost to another worker",
            report.finished, report.lost
        ),
    }
    Ok(())
}
