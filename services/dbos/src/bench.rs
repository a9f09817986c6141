//! `dbos bench`: one benchmark on a cluster or on any PostgreSQL.

use std::time::Duration;

use bench::{Kind, Options, Target};

use crate::args::{BenchArgs, BenchKind};
use crate::cluster::ClusterSpec;
use crate::exit::{Failure, Result};
use crate::output::spinner;

/// Accounts of `bench txn` unless said otherwise.
const ACCOUNTS: u32 = 100_000;

pub async fn run(args: BenchArgs) -> Result<()> {
    let kind = kind(&args)?;
    let progress = spinner("starting");
    let target = target(&args)?;
    let options = Options {
        kind,
        connections: args.connections,
        in_flight: args.in_flight,
        rate: args.rate,
        duration: args.duration,
    };
    let show = |line: String| {
        if line.starts_with("errors") {
            progress.suspend(|| eprintln!("{line}"));
        } else {
            progress.set_message(line);
        }
    };
    let result = tokio::select! {
        result = bench::run(&target, &options, &show) => result.map_err(|e| Failure::new(format!("{e:#}"))),
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    progress.finish_and_clear();
    let report = result?;
    match args.json {
        true => println!("{}", serde_json::to_string(&report).map_err(Failure::new)?),
        false => println!("{report}"),
    }
    if report.errors > 0 {
        return Err(Failure::with_code(
            3,
            format!("{} operations failed", report.errors),
        ));
    }
    Ok(())
}

fn kind(args: &BenchArgs) -> Result<Kind> {
    let refuse = |flag: &str, given: &Option<String>| match given {
        Some(_) => Err(Failure::usage(format!(
            "--{flag} does not apply to this benchmark"
        ))),
        None => Ok(()),
    };
    let one_of = |flag: &str, given: &Option<String>, known: &[&str]| {
        let chosen = given.as_deref().unwrap_or(known[0]);
        match known.contains(&chosen) {
            true => Ok(chosen.to_string()),
            false => Err(Failure::usage(format!(
                "--{flag} {chosen:?}: use {}",
                known.join(", ")
            ))),
        }
    };
    if args
        .rate
        .is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
    {
        return Err(Failure::usage("--rate must be above 0"));
    }
    if args.kind != BenchKind::Txn
        && (args.multi_partition.is_some() || args.accounts.is_some() || args.hot)
    {
        return Err(Failure::usage(
            "--multi-partition, --accounts and --hot apply to bench txn",
        ));
    }
    match args.kind {
        BenchKind::Txn => {
            refuse("policy", &args.policy)?;
            refuse("shape", &args.shape)?;
            let multi_partition = args.multi_partition.unwrap_or(0.0);
            if !(0.0..=1.0).contains(&multi_partition) {
                return Err(Failure::usage("--multi-partition must be from 0 to 1"));
            }
            Ok(Kind::Txn {
                multi_partition,
                accounts: args.accounts.unwrap_or(ACCOUNTS),
                hot: args.hot,
            })
        }
        BenchKind::Sched => {
            refuse("shape", &args.shape)?;
            let policies = ["fifo", "least-loaded", "locality", "push", "pull"];
            Ok(Kind::Sched {
                policy: one_of("policy", &args.policy, &policies)?,
            })
        }
        BenchKind::Ipc => {
            refuse("policy", &args.policy)?;
            Ok(Kind::Ipc {
                shape: one_of("shape", &args.shape, &["send-receive", "fan-out"])?,
            })
        }
        BenchKind::Fs => {
            refuse("policy", &args.policy)?;
            Ok(Kind::Fs {
                shape: one_of("shape", &args.shape, &["create", "write", "read"])?,
            })
        }
    }
}

fn target(args: &BenchArgs) -> Result<Target> {
    match args.target.as_deref() {
        Some("local-postgres") => {
            Target::local_postgres().map_err(|e| Failure::new(format!("{e:#}")))
        }
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(Target::url(url))
        }
        Some(other) => Err(Failure::usage(format!(
            "--target {other:?}: use postgres://... or local-postgres"
        ))),
        None => Ok(of_cluster(&ClusterSpec::existing(&args.name)?)),
    }
}

/// A local cluster as a benchmark's target.
pub fn of_cluster(spec: &ClusterSpec) -> Target {
    let shape = [spec.ids().len() as u32, spec.partitions, spec.replicas];
    Target::cluster(
        &spec.name,
        spec.urls(),
        spec.data.clone(),
        shape,
        &spec.durability(),
    )
}

/// Reads "10s", "500ms" or "2m".
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?}: use a number and a unit, such as 10s"))?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" | "min" => number * 60.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s or m")),
    };
    if !(0.01..=86_400.0).contains(&seconds) {
        return Err(format!("{text:?}: use 10ms to 24 hours"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "s", "10h", "-1s", "0s", "ten"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
