//! Slurm: one operation is one job submitted with `sbatch`, as its users do; jobs do nothing.
//!
//! A private controller and one node with a private munge, all as the user who runs this, with their state in a temporary
//! folder.

use std::fmt::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Server, command, free_addresses, missing, program, server_folder};
use crate::run::{Operation, Prepared};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const KEY_BYTES: usize = 1024;

/// Stops in the order of the fields.
#[derive(Debug)]
pub(crate) struct Slurm {
    _node: Server,
    _controller: Server,
    _munge: Server,
    sbatch: PathBuf,
    config: PathBuf,
    pub version: String,
    _folder: tempfile::TempDir,
}

impl Slurm {
    pub fn start() -> anyhow::Result<Self> {
        // Debian's names end in -wlm behind its alternatives.
        let either = |name: &str| program(name).or_else(|_| program(&format!("{name}-wlm")));
        let (controller, node) = (either("slurmctld")?, either("slurmd")?);
        let (munged, sbatch) = (program("munged")?, program("sbatch")?);
        let folder = server_folder("slurm")?;
        let socket = folder.path().join("munge.socket");
        let munge = start_munge(&munged, folder.path(), &socket)?;
        let config = folder.path().join("slurm.conf");
        std::fs::write(&config, configuration(folder.path(), &socket, &controller)?)?;
        let started = |binary: &Path, name: &str, flags: &[&str]| -> anyhow::Result<Server> {
            let mut start = command(binary);
            start.args(flags).arg("-f").arg(&config);
            Server::start(name, start, server_folder(name)?)
        };
        let controller = started(&controller, "slurmctld", &["-D", "-c"])?;
        let node = started(&node, "slurmd", &["-D", "-N", "localhost"])?;
        let slurm = Self {
            version: version(&sbatch, &config),
            _node: node,
            _controller: controller,
            _munge: munge,
            sbatch,
            config,
            _folder: folder,
        };
        slurm.wait()?;
        Ok(slurm)
    }

    fn submit(&self) -> Command {
        let mut submit = command(&self.sbatch);
        submit.env("SLURM_CONF", &self.config);
        submit.args(["--quiet", "--output=/dev/null", "--wrap", "true"]);
        submit.stdout(Stdio::null());
        submit
    }

    /// Until the controller takes a job.
    fn wait(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let output = self.submit().output()?;
            if output.status.success() {
                return Ok(());
            }
            if start.elapsed() > START_TIMEOUT {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
                let log = std::fs::read_to_string(self._controller.folder().join("server.log"));
                let log = log.unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_string();
                return Err(missing(format!("slurm does not run here: {said}; {last}")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The program does not say it without a configuration.
fn version(sbatch: &Path, config: &Path) -> String {
    let output = command(sbatch)
        .arg("--version")
        .env("SLURM_CONF", config)
        .output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    text.unwrap_or_default()
}

fn start_munge(munged: &Path, folder: &Path, socket: &Path) -> anyhow::Result<Server> {
    let private = folder.join("munge");
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let key = private.join("key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&key)?;
    let bytes: Vec<u8> = (0..KEY_BYTES).map(|_| rand::random()).collect();
    std::io::Write::write_all(&mut file, &bytes)?;
    let mut start = command(munged);
    start.args(["--foreground", "--force"]);
    for (flag, path) in [
        ("--key-file", &key),
        ("--socket", &socket.to_path_buf()),
        ("--pid-file", &private.join("pid")),
        ("--log-file", &private.join("log")),
        ("--seed-file", &private.join("seed")),
    ] {
        start.arg(flag).arg(path);
    }
    let server = Server::start("munged", start, server_folder("munged")?)?;
    let begin = Instant::now();
    while !socket.exists() {
        if begin.elapsed() > START_TIMEOUT {
            bail!("munged does not start");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// One node with as many slots as a benchmark may fill; accounting and limits off.
fn configuration(folder: &Path, socket: &Path, controller: &Path) -> anyhow::Result<String> {
    let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
    let addresses = free_addresses(2);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let folder = folder.display();
    let mut text = String::new();
    let settings = [
        ("ClusterName", "bench".to_string()),
        ("SlurmctldHost", format!("{}(127.0.0.1)", host.trim())),
        ("SlurmUser", user.clone()),
        ("SlurmdUser", user),
        ("AuthType", "auth/munge".into()),
        ("AuthInfo", format!("socket={}", socket.display())),
        ("CredType", "cred/munge".into()),
        ("SlurmctldPort", addresses[0].port().to_string()),
        ("SlurmdPort", addresses[1].port().to_string()),
        ("StateSaveLocation", format!("{folder}/state")),
        ("SlurmdSpoolDir", format!("{folder}/spool")),
        ("SlurmctldPidFile", format!("{folder}/slurmctld.pid")),
        ("SlurmdPidFile", format!("{folder}/slurmd.pid")),
        ("ProctrackType", "proctrack/linuxproc".into()),
        ("TaskPlugin", "task/none".into()),
        ("SwitchType", "switch/none".into()),
        ("MpiDefault", "none".into()),
        ("SelectType", "select/cons_tres".into()),
        ("ReturnToService", "2".into()),
        ("MaxJobCount", "1000000".into()),
        ("SchedulerParameters", "defer,sched_interval=1".into()),
    ];
    for (name, value) in settings {
        writeln!(text, "{name}={value}")?;
    }
    // Packages unpacked elsewhere have their plugins beside their programs.
    let plugins = controller
        .parent()
        .and_then(Path::parent)
        .map(|usr| {
            usr.join(format!(
                "lib/{}-linux-gnu/slurm-wlm",
                std::env::consts::ARCH
            ))
        })
        .context("a program has a folder")?;
    if plugins.is_dir() {
        writeln!(text, "PluginDir={}", plugins.display())?;
    }
    writeln!(text, "NodeName=localhost NodeAddr=127.0.0.1 CPUs=2")?;
    writeln!(
        text,
        "PartitionName=bench Nodes=localhost Default=YES State=UP OverSubscribe=FORCE:64"
    )?;
    std::fs::create_dir(Path::new(&format!("{folder}/state")))?;
    std::fs::create_dir(Path::new(&format!("{folder}/spool")))?;
    Ok(text)
}

pub(crate) fn prepare(slurm: &Slurm) -> Prepared {
    let (sbatch, config) = (slurm.sbatch.clone(), slurm.config.clone());
    let operation: Operation = std::rc::Rc::new(move |_| {
        let mut submit = command(&sbatch);
        submit.env("SLURM_CONF", &config);
        submit.args(["--quiet", "--output=/dev/null", "--wrap", "true"]);
        let mut submit = tokio::process::Command::from(submit);
        Box::pin(async move {
            let output = submit.output().await.map_err(|e| e.to_string())?;
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
            }
        })
    });
    Prepared::new(operation, |_| async { Ok(()) })
}
