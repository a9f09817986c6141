//! `dbos bench`: one benchmark on a cluster or on any PostgreSQL.

use std::time::Duration;

use bench::peers::NotInstalled;
use bench::{Kind, Options, Target, files, messages, sched};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{BenchArgs, BenchKind};
use crate::cluster::ClusterSpec;
use crate::exit::{Failure, Result};
use crate::output::spinner;

/// Accounts of `bench txn` and `bench read` unless said otherwise.
const ACCOUNTS: u32 = 100_000;

pub async fn run(args: BenchArgs) -> Result<()> {
    let kind = kind(&args)?;
    // Before a private server is started: it must not be left behind.
    let mut interrupts = signal(SignalKind::interrupt())?;
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
        _ = interrupts.recv() => Err(Failure::interrupted()),
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

fn transfers(args: &BenchArgs) -> Result<Kind> {
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
    refuse_others_numbers(args)?;
    match args.kind {
        BenchKind::Txn => {
            refuse("size", &args.size.map(|n| n.to_string()))?;
            refuse("policy", &args.policy)?;
            refuse("shape", &args.shape)?;
            transfers(args)
        }
        BenchKind::Read => {
            refuse("size", &args.size.map(|n| n.to_string()))?;
            refuse("policy", &args.policy)?;
            refuse("shape", &args.shape)?;
            Ok(Kind::Read {
                accounts: args.accounts.unwrap_or(ACCOUNTS),
            })
        }
        BenchKind::Sched => {
            refuse("shape", &args.shape)?;
            refuse("size", &args.size.map(|n| n.to_string()))?;
            let policy = one_of("policy", &args.policy, &names(&sched::Policy::ALL[..5]))?;
            Ok(Kind::Sched(sched::Spec::new(parsed(&policy)?)))
        }
        BenchKind::Ipc => {
            refuse("policy", &args.policy)?;
            let shape = one_of("shape", &args.shape, &names(&messages::Shape::ALL))?;
            ipc(args, parsed(&shape)?)
        }
        BenchKind::Fs => {
            refuse("policy", &args.policy)?;
            let shape = one_of("shape", &args.shape, &names(&files::Shape::ALL))?;
            let size = args.size.map(|n| n as usize);
            if size.is_some_and(|size| size > bench::files::BLOCK_MAX) {
                return Err(Failure::usage("--size: a block has 1 to 4194304 bytes"));
            }
            Ok(Kind::Fs {
                shape: parsed(&shape)?,
                size,
                cache_bytes: args.cache.unwrap_or(0) as usize,
            })
        }
    }
}

/// Numbers that belong to one benchmark are refused by the others.
fn refuse_others_numbers(args: &BenchArgs) -> Result<()> {
    if args.kind != BenchKind::Ipc {
        let numbers = [
            ("pairs", args.pairs),
            ("outstanding", args.outstanding),
            ("receivers", args.receivers),
        ];
        for (flag, number) in numbers {
            if number.is_some() {
                return Err(Failure::usage(format!("--{flag} applies to bench ipc")));
            }
        }
    }
    if args.kind != BenchKind::Fs && args.cache.is_some() {
        return Err(Failure::usage("--cache applies to bench fs"));
    }
    if args.kind != BenchKind::Txn && (args.multi_partition.is_some() || args.hot) {
        return Err(Failure::usage(
            "--multi-partition and --hot apply to bench txn",
        ));
    }
    if !matches!(args.kind, BenchKind::Txn | BenchKind::Read) && args.accounts.is_some() {
        return Err(Failure::usage("--accounts applies to bench txn and read"));
    }
    Ok(())
}

fn names<T>(known: &[(&'static str, T)]) -> Vec<&'static str> {
    known.iter().map(|(name, _)| *name).collect()
}

fn parsed<T: std::str::FromStr<Err = anyhow::Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|e| Failure::usage(format!("{e:#}")))
}

fn ipc(args: &BenchArgs, shape: messages::Shape) -> Result<Kind> {
    use messages::Shape;
    let only = |flag: &str, given: Option<u32>, shapes: &[Shape]| match given {
        Some(_) if !shapes.contains(&shape) => Err(Failure::usage(format!(
            "--{flag} does not apply to this shape"
        ))),
        _ => Ok(()),
    };
    only("outstanding", args.outstanding, &[Shape::Batch])?;
    only(
        "receivers",
        args.receivers,
        &[Shape::FanOut, Shape::AllToAll],
    )?;
    if shape != Shape::SendReceive && args.pairs.is_some() && args.in_flight.is_some() {
        return Err(Failure::usage(
            "--pairs and --in-flight are the same number for this shape: give one",
        ));
    }
    let default_receivers = if shape == Shape::AllToAll { 8 } else { 40 };
    let receivers = args.receivers.unwrap_or(default_receivers);
    if shape == Shape::AllToAll && receivers < 2 {
        return Err(Failure::usage("--receivers: all-to-all needs two"));
    }
    Ok(Kind::Ipc(messages::Spec {
        shape,
        size: args.size.unwrap_or(64) as usize,
        outstanding: args.outstanding.unwrap_or(20),
        pairs: args.in_flight.or(args.pairs).unwrap_or(1),
        receivers,
    }))
}

fn target(args: &BenchArgs) -> Result<Target> {
    let failed = |e: anyhow::Error| match e.downcast_ref::<NotInstalled>() {
        Some(missing) => Failure::new(missing)
            .hint("install it, or let scripts/peers.sh fetch it and set DBOS_PEERS to its folder"),
        None => Failure::new(format!("{e:#}")),
    };
    match args.target.as_deref() {
        Some("local-postgres") => Target::local_postgres().map_err(failed),
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(Target::url(url))
        }
        Some(other) => Target::peer(other).map_err(failed)?.ok_or_else(|| {
            Failure::usage(format!(
                "--target {other:?}: use postgres://..., local-postgres, {}",
                bench::PEERS.join(", ")
            ))
        }),
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
