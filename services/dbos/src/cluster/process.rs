//! The processes of a local cluster: started detached, found again by their pid file, signalled.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::home::ClusterSpec;
use crate::exit::{Failure, Result};

/// How long a node may take to stop by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The pid of a node's process if it runs.
pub fn running(spec: &ClusterSpec, node: u16) -> Option<u32> {
    let pid: u32 = fs::read_to_string(spec.pid_path(node))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let handle = Pid::from_raw(pid.try_into().ok()?)?;
    // A child of this very process that ended stays a zombie until somebody asks.
    let _ = waitpid(Some(handle), WaitOptions::NOHANG);
    // The pid may belong to somebody else by now: the command line tells.
    let command = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(command) => String::from_utf8_lossy(&command).into_owned(),
        Err(_) if cfg!(target_os = "linux") => return None,
        Err(_) => {
            return rustix::process::test_kill_process(handle)
                .is_ok()
                .then_some(pid);
        }
    };
    // Between fork and exec a process has no command line yet; neither has one that ended and was not waited for.
    if command.is_empty() {
        return is_alive(pid).then_some(pid);
    }
    command
        .contains(&*spec.config_path(node).to_string_lossy())
        .then_some(pid)
}

/// False for a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
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
    wait_gone(spec, node, STOP_TIMEOUT)?;
    Ok(true)
}

/// SIGSTOP or SIGCONT. False if the node does not run.
pub fn pause(spec: &ClusterSpec, node: u16, stop: bool) -> Result<bool> {
    let Some(pid) = running(spec, node) else {
        return Ok(false);
    };
    signal(pid, if stop { Signal::STOP } else { Signal::CONT })?;
    Ok(true)
}

/// SIGTERM to all nodes that run, then waits for them; what does not stop in time is killed.
pub fn stop(spec: &ClusterSpec, nodes: impl Iterator<Item = u16> + Clone) -> Result<u16> {
    let mut stopped = 0;
    for node in nodes.clone() {
        if let Some(pid) = running(spec, node) {
            signal(pid, Signal::TERM)?;
            stopped += 1;
        }
    }
    for node in nodes {
        if wait_gone(spec, node, STOP_TIMEOUT).is_err() {
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

fn wait_gone(spec: &ClusterSpec, node: u16, timeout: Duration) -> Result<()> {
    let start = Instant::now();
    while running(spec, node).is_some() {
        if start.elapsed() > timeout {
            return Err(Failure::new(format!("node {node} is still running")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
