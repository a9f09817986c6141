//! What the machine's processors did while a run was measured: whose time an operation takes, and how often somebody is woken for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use procfs::process::{Process, Task, all_processes};
use procfs::{CurrentSI, KernelStats};
use serde::{Deserialize, Serialize};

/// Threads with less of the time than this are left out.
const SHARE_MIN: f64 = 0.01;

/// Of all threads of the machine, the kernel's included, but for those that ended meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Processors {
    /// The part of all processors' time in which they ran threads.
    pub busy: f64,
    /// The part of it that the hypervisor gave to others while a thread here wanted it.
    #[serde(default)]
    pub stolen: f64,
    /// Threads of one name together, those that ran longest first.
    pub threads: Vec<Thread>,
}

/// Per successful operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Process and thread: `dbos` is a node's core with its sockets, `client` the load generator.
    pub name: String,
    /// Microseconds on a processor.
    pub run_us: f64,
    /// Microseconds in which it was ready and waited for a processor.
    pub wait_us: f64,
    /// How often it was given a processor.
    pub turns: f64,
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.threads.iter();
        let threads: Vec<String> = threads
            .map(|t| format!("{} {:.1}", t.name, t.run_us))
            .collect();
        write!(f, "{}", threads.join(", "))
    }
}

/// Nanoseconds and numbers since a thread's start.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    run: u64,
    wait: u64,
    turns: u64,
}

/// By process and thread.
type Sample = BTreeMap<(i32, i32), (String, Used)>;

struct Samples {
    before: Sample,
    after: Sample,
    elapsed: Duration,
    stolen: f64,
}

/// Watches from the end of the warm-up to the end of the run.
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Option<Samples>>,
}

impl Watch {
    /// On a thread of its own: a look takes some milliseconds.
    pub fn start(warm_up: Duration, duration: Duration) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(warm_up) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            let (before, start, clock) = (sample()?, Instant::now(), ticks());
            let _ = stopped.recv_timeout(duration);
            let (elapsed, stolen) = (start.elapsed(), stolen(clock, ticks()));
            let after = sample()?;
            Some(Samples {
                before,
                after,
                elapsed,
                stolen,
            })
        });
        Self { stop, thread }
    }

    /// Behind the run, in which so many operations were completed. `None` if nothing was, or the run ended before it began.
    pub fn end(self, completed: u64) -> Option<Processors> {
        let _ = self.stop.send(());
        let samples = self.thread.join().ok()??;
        (completed > 0).then(|| samples.between(completed))
    }
}

impl Samples {
    fn between(self, completed: u64) -> Processors {
        let mut by_name: BTreeMap<String, Used> = BTreeMap::new();
        for (id, (name, after)) in self.after {
            let before = self
                .before
                .get(&id)
                .map_or(Used::default(), |(_, used)| *used);
            let sum = by_name.entry(name).or_default();
            sum.run += after.run.saturating_sub(before.run);
            sum.wait += after.wait.saturating_sub(before.wait);
            sum.turns += after.turns.saturating_sub(before.turns);
        }
        let total = by_name.values().map(|used| used.run).sum::<u64>() as f64;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let each = |number: u64| number as f64 / completed as f64;
        let mut threads: Vec<Thread> = by_name
            .into_iter()
            .filter(|(_, used)| used.run as f64 >= total * SHARE_MIN)
            .map(|(name, used)| Thread {
                name,
                run_us: each(used.run) / 1_000.0,
                wait_us: each(used.wait) / 1_000.0,
                turns: each(used.turns),
            })
            .collect();
        threads.sort_by(|a, b| b.run_us.total_cmp(&a.run_us));
        Processors {
            busy: total / (self.elapsed.as_nanos() as f64 * cores as f64),
            stolen: self.stolen,
            threads,
        }
    }
}

/// `None` where the system does not tell.
fn sample() -> Option<Sample> {
    let own = i32::try_from(std::process::id()).ok()?;
    let mut sample = Sample::new();
    // Processes and threads may end while they are looked at.
    for process in all_processes().ok()?.flatten() {
        let Ok(stat) = process.stat() else { continue };
        let name = if process.pid == own {
            "client"
        } else {
            &stat.comm
        };
        for task in process.tasks().into_iter().flatten().flatten() {
            if let Some((thread, used)) = of(&process, &task) {
                let name = if stat.ppid == KERNEL {
                    "Linux".into()
                } else {
                    joined(name, &thread)
                };
                sample.insert((process.pid, task.tid), (name, used));
            }
        }
    }
    Some(sample)
}

/// Ticks of all processors since the start, and those of them that the hypervisor took. Zeroes where the system does not tell.
fn ticks() -> (u64, u64) {
    let Ok(stat) = KernelStats::current() else {
        return (0, 0);
    };
    let cpu = stat.total;
    let taken = cpu.steal.unwrap_or(0);
    let waits = cpu.iowait.unwrap_or(0) + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
    let all = cpu.user + cpu.nice + cpu.system + cpu.idle + waits + taken;
    (all, taken)
}

fn stolen(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.0.saturating_sub(before.0);
    after.1.saturating_sub(before.1) as f64 / all.max(1) as f64
}

/// Parent of the kernel's own threads.
const KERNEL: i32 = 2;

/// Name and use of a thread; the first of a process has no name of its own.
fn of(process: &Process, task: &Task) -> Option<(String, Used)> {
    let used = task.schedstat().ok()?;
    let name = match task.tid == process.pid {
        true => String::new(),
        false => task.stat().ok()?.comm,
    };
    let used = Used {
        run: used.sum_exec_runtime,
        wait: used.run_delay,
        turns: used.pcount,
    };
    Some((name, used))
}

/// Threads that are numbered get one name.
fn joined(process: &str, thread: &str) -> String {
    let thread = thread.trim_end_matches(|c: char| c.is_ascii_digit() || ":-_#".contains(c));
    match thread.is_empty() || thread == process {
        true => process.to_string(),
        false => format!("{process} {thread}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_busy_thread_is_seen() {
        let (before, start) = (sample().unwrap(), Instant::now());
        let busy = std::thread::Builder::new().name("busy-7".into());
        let (told, tell) = channel();
        let spin = move || {
            while start.elapsed() < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
            told.send(()).unwrap();
            // A thread that has ended is not seen.
            std::thread::park();
        };
        let busy = busy.spawn(spin).unwrap();
        tell.recv().unwrap();
        let after = sample().unwrap();
        let elapsed = start.elapsed();
        busy.thread().unpark();
        busy.join().unwrap();
        let samples = Samples {
            before,
            after,
            elapsed,
            stolen: stolen((100, 10), (200, 35)),
        };
        let seen = samples.between(10);
        let thread = seen.threads.iter().find(|t| t.name == "client busy");
        let thread = thread.unwrap_or_else(|| panic!("{seen:?}"));
        // It may have waited for a processor, and the hypervisor may have taken that.
        let us = (thread.run_us + thread.wait_us) * 10.0;
        assert!(
            us > 1_000.0 && us <= elapsed.as_micros() as f64 * 1.1,
            "{seen:?}"
        );
        // Begun behind the first look: it was given a processor once at least.
        assert!(thread.turns > 0.0 && seen.busy > 0.0, "{seen:?}");
        assert_eq!(seen.stolen, 0.25);
        assert!(ticks().0 > 0);
    }

    #[test]
    fn a_run_that_ends_in_its_warm_up_has_nothing_to_say() {
        let watch = Watch::start(Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(watch.end(1), None);
    }

    #[test]
    fn numbered_threads_have_one_name() {
        assert_eq!(joined("dbos", "rocksdb:low1"), "dbos rocksdb:low");
        assert_eq!(joined("dbos", ""), "dbos");
        assert_eq!(joined("etcd", "etcd"), "etcd");
    }
}
