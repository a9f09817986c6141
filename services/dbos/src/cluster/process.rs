//! The processes of a local cluster: started detached, found again by their pid file, signalled.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::home::ClusterSpec;
use crate::exit::{Failure, Result};

/// How long a node may take to stop by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The pid of a node's process if it runs, paused or not. The pid file says where to look first; a process that was
/// started and not written down is found by its command line.
pub fn running(spec: &ClusterSpec, node: u16) -> Option<u32> {
    let config = spec.config_path(node);
    let noted = fs::read_to_string(spec.pid_path(node)).ok();
    let noted: Option<u32> = noted.and_then(|pid| pid.trim().parse().ok());
    if let Some(pid) = noted
        && runs(pid, &config)
    {
        return Some(pid);
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| has_command(*pid, &config))
}

/// True if `pid`, which was this node's, still is and lives.
fn runs(pid: u32, config: &Path) -> bool {
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    // A child of this very process that ended stays a zombie until somebody asks.
    let _ = waitpid(Some(handle), WaitOptions::NOHANG);
    match fs::read(format!("/proc/{pid}/cmdline")) {
        // A process that is ending has no command line any more, but holds its ports and files until it is a zombie.
        Ok(command) if command.is_empty() => matches!(state(pid), Some(state) if state != 'Z'),
        Ok(_) => has_command(pid, config),
        Err(_) if cfg!(target_os = "linux") => false,
        Err(_) => rustix::process::test_kill_process(handle).is_ok(),
    }
}

/// The pid may belong to somebody else by now: the command line tells.
fn has_command(pid: u32, config: &Path) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"node")
        && words.next() == Some(b"--config")
        && words.next() == Some(config.as_os_str().as_bytes())
}

/// `T` is stopped by a signal, `Z` has ended. `None` for a process that is gone, and for a thread of the system, which may
/// have got the number.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?;
    (parent != "2" && state != 'X').then_some(state)
}

/// True if the node's process is there and was stopped by `pause`.
pub fn paused(spec: &ClusterSpec, node: u16) -> bool {
    running(spec, node).and_then(state) == Some('T')
}

/// SIGSTOP, or SIGCONT; false if the node does not run.
pub fn pause(spec: &ClusterSpec, node: u16, stop: bool) -> Result<bool> {
    let Some(pid) = running(spec, node) else {
        return Ok(false);
    };
    signal(pid, if stop { Signal::STOP } else { Signal::CONT })?;
    let start = Instant::now();
    while paused(spec, node) != stop {
        if start.elapsed() > STOP_TIMEOUT {
            let what = if stop { "pause" } else { "go on" };
            return Err(Failure::new(format!(
                "node {node} (process {pid}) does not {what}"
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Starts a node in a process group of its own, so that Ctrl-C here does not reach it.
pub fn start(spec: &ClusterSpec, node: u16) -> Result<u32> {
    let binary = std::env::current_exe()?;
    let log = spec.log_path(node);
    let open = || fs::File::options().create(true).append(true).open(&log);
    let child = Command::new(&binary)
        .arg("node")
        .arg("--config")
        .arg(spec.config_path(node))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open().map_err(|e| Failure::new(format!("{}: {e}", log.display())))?)
        .process_group(0)
        .spawn()
        .map_err(|e| Failure::new(format!("cannot start {}: {e}", binary.display())))?;
    fs::write(spec.pid_path(node), child.id().to_string())?;
    Ok(child.id())
}

/// SIGKILL: what a crash of the process is.
pub fn kill(spec: &ClusterSpec, node: u16) -> Result<bool> {
    let Some(pid) = running(spec, node) else {
        return Ok(false);
    };
    signal(pid, Signal::KILL)?;
    wait_gone(spec, node, pid, STOP_TIMEOUT)?;
    Ok(true)
}

/// SIGTERM to all nodes that run, then waits for them; what does not stop in time is killed.
pub fn stop(spec: &ClusterSpec, nodes: impl Iterator<Item = u16> + Clone) -> Result<u16> {
    let mut stopped = 0;
    let pids: Vec<_> = nodes.clone().map(|node| running(spec, node)).collect();
    for pid in &pids {
        if let Some(pid) = *pid {
            signal(pid, Signal::TERM)?;
            // A paused one would hear of it only when it is resumed.
            signal(pid, Signal::CONT)?;
            stopped += 1;
        }
    }
    for (node, pid) in nodes.zip(pids) {
        if pid.is_some_and(|pid| wait_gone(spec, node, pid, STOP_TIMEOUT).is_err()) {
            eprintln!("node {node} did not stop within {STOP_TIMEOUT:?}: killing it");
            kill(spec, node)?;
        }
        let _ = fs::remove_file(spec.pid_path(node));
    }
    Ok(stopped)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid as i32).ok_or_else(|| Failure::new("no such process"))?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot signal process: {error}"))),
    }
}

/// By its number: a process that is ending has no command line to be found by.
fn wait_gone(spec: &ClusterSpec, node: u16, pid: u32, timeout: Duration) -> Result<()> {
    let start = Instant::now();
    let config = spec.config_path(node);
    while runs(pid, &config) {
        if start.elapsed() > timeout {
            return Err(Failure::new(format!("node {node} is still running")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
