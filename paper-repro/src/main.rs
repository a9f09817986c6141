//! `paper-repro`: measures the experiments of the DBOS papers on this machine, beside what a user would pick instead, and
//! writes one report. `make repro` runs it; docs/report/README.md says how.
//!
//! * [`experiments`]: what is measured, one module each. [`runner`] runs their points and [`record`] keeps what they gave.
//! * [`systems`]: clusters, PostgreSQL and peers, started when they are needed.
//! * [`csv`], [`plot`], [`report`], [`output`]: from records to files; nothing of them measures.
//! * [`verify`]: whether a run is whole and without errors. It never judges speed.
//!
//! An interrupted run goes on where it stopped, unless the commit or the scale changed: then earlier records are set aside.

mod action;
mod bounds;
mod csv;
mod experiments;
mod machine;
mod output;
mod plot;
mod probe;
mod record;
mod report;
mod runner;
mod scale;
mod systems;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

use experiments::Experiment;
use machine::Machine;
use record::{Journal, Record, Status};
use report::Parts;
use scale::Scale;
use systems::Systems;

const JOURNAL: &str = "runs.jsonl";
const ORIGIN: &str = "origin.json";

/// The papers' experiments, measured again.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "default")]
    scale: Scale,
    /// Run these experiments only
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure again what is there already
    #[arg(long)]
    again: bool,
    /// Time for all of it: what would be longer leaves later repeats out [default: 25 minutes at default scale]
    #[arg(long)]
    minutes: Option<u64>,
    /// Folder of the results [default: target/repro/SCALE]
    #[arg(long)]
    out: Option<PathBuf>,
    /// First port of the clusters that are started
    #[arg(long, default_value_t = 24_000)]
    port: u16,
    /// Names of the experiments
    #[arg(long)]
    list: bool,
    /// Do not measure: copy an earlier report to docs/report and its summary to the README
    #[arg(long)]
    publish: bool,
}

/// What records of one folder must have in common.
#[derive(PartialEq, Serialize, Deserialize)]
struct Origin {
    scale: String,
    machine: Machine,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("{faults} faults; the report lists them");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many faults there are.
fn run(args: &Args) -> anyhow::Result<usize> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => repository
            .canonicalize()?
            .join("target/repro")
            .join(args.scale.name()),
    };
    if args.publish {
        let journal = Journal::open(&out.join(JOURNAL))?;
        output::check_peers(&journal.records)?;
        output::publish(
            &out,
            &repository.join("docs/report"),
            &repository.join("README.md"),
        )?;
        return Ok(0);
    }
    let all = experiments::all(args.scale);
    if args.list {
        for experiment in &all {
            println!("{:18} {}", experiment.name, experiment.title);
        }
        return Ok(0);
    }
    let selected = select(all, &args.only)?;
    stop_on_ctrl_c()?;
    std::fs::create_dir_all(&out)?;
    let machine = Machine::look(&out, &repository);
    let origin = Origin {
        scale: args.scale.name().into(),
        machine,
    };
    let mut journal = journal(&out, &origin)?;
    // What failed is tried once more.
    let names: Vec<&str> = selected.iter().map(|e| e.name).collect();
    let again = |record: &Record| {
        let failed = matches!(record.status, Status::Failed(_));
        (args.again || failed) && names.contains(&record.experiment.as_str())
    };
    journal = journal.keep(&out.join(JOURNAL), |record| !again(record))?;
    let mut systems = Systems::new(dbos()?, out.join("clusters"), args.port)?;
    let minutes = |minutes| Duration::from_secs(minutes * 60);
    let budget = args.minutes.map_or(args.scale.budget(), minutes);
    runner::run(
        &selected,
        args.scale,
        budget,
        &mut journal,
        &mut systems,
        &out,
    )?;
    drop(systems);
    write(args.scale, &origin.machine, &journal, &selected, &out)
}

/// Everything there are records of goes into the report.
fn write(
    scale: Scale,
    machine: &Machine,
    journal: &Journal,
    selected: &[Experiment],
    out: &Path,
) -> anyhow::Result<usize> {
    let mut shown = experiments::all(scale);
    let chosen = |name| selected.iter().any(|e| e.name == name);
    let recorded = |name| journal.records.iter().any(|r| r.experiment == name);
    shown.retain(|e| chosen(e.name) || recorded(e.name));
    let results = output::results(&shown, &journal.records);
    let mut faults = Vec::new();
    for (experiment, results) in shown.iter().zip(&results) {
        faults.extend(verify::faults(experiment, results));
    }
    let parts = Parts {
        scale,
        machine,
        experiments: &shown,
        results: &results,
        faults: &faults,
    };
    let unseen = output::write(&parts, out)?;
    for fault in faults.iter().chain(&unseen) {
        eprintln!("{fault}");
    }
    println!("{}", out.join(output::REPORT).display());
    Ok(faults.len() + unseen.len())
}

fn select(mut all: Vec<Experiment>, only: &[String]) -> anyhow::Result<Vec<Experiment>> {
    let known: Vec<&str> = all.iter().map(|e| e.name).collect();
    for name in only {
        if !known.contains(&name.as_str()) {
            bail!("no experiment {name:?}: there are {}", known.join(", "));
        }
    }
    all.retain(|e| only.is_empty() || only.iter().any(|name| name == e.name));
    Ok(all)
}

/// The records of `out`, if they are of this origin; others are set aside under their commit's name.
fn journal(out: &Path, origin: &Origin) -> anyhow::Result<Journal> {
    let (path, noted) = (out.join(JOURNAL), out.join(ORIGIN));
    if let Ok(text) = std::fs::read_to_string(&noted) {
        let earlier: Origin = serde_json::from_str(&text).context("reading origin.json")?;
        if earlier != *origin && path.exists() {
            let aside = format!(
                "runs.{}.jsonl",
                earlier.machine.commit.replace('+', "-changed")
            );
            eprintln!(
                "earlier records are of commit {}: now {aside}",
                earlier.machine.commit
            );
            std::fs::rename(&path, out.join(aside))?;
        }
    }
    std::fs::write(&noted, serde_json::to_string_pretty(origin)?)?;
    Journal::open(&path)
}

/// The `dbos` binary beside this one.
fn dbos() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("dbos");
    if !binary.is_file() {
        bail!("there is no {}: run `make repro`", binary.display());
    }
    Ok(binary)
}

/// The first Ctrl-C ends the run behind the point it is at; a second one ends the process.
fn stop_on_ctrl_c() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listen = async {
        while tokio::signal::ctrl_c().await.is_ok() {
            if runner::STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("ending behind this run; Ctrl-C again leaves its servers running");
        }
    };
    std::thread::Builder::new()
        .name("ctrl-c".into())
        .spawn(move || runtime.block_on(listen))?;
    Ok(())
}
