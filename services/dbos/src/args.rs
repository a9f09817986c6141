//! The command line: every command and flag, with the help that users see.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;

/// DBOS in Rust: a cluster operating system whose state is rows of one replicated, transactional database.
#[derive(Parser)]
#[command(name = "dbos", version, after_help = exit::CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start, inspect and stop clusters on this machine
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Run one node in the foreground until SIGTERM or Ctrl-C
    Node {
        /// Configuration file; `dbos config --default` prints one
        #[arg(long)]
        config: PathBuf,
    },
    /// Print configuration: every setting with its unit and reason
    Config {
        /// The defaults
        #[arg(long, required = true)]
        default: bool,
    },
    /// Run SQL, one statement with -c or an interactive shell
    Sql {
        /// Statements to run, as one transaction unless they say BEGIN and COMMIT; without it a shell starts, or standard
        /// input is read as a whole and run likewise
        #[arg(short = 'c', long = "command")]
        command: Option<String>,
        #[command(flatten)]
        target: TargetArgs,
        /// One JSON object per row
        #[arg(long)]
        json: bool,
    },
    /// Submit, schedule and look at tasks
    Task {
        #[command(subcommand)]
        command: TaskCommand,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Be a worker: take tasks, run them, finish them, until Ctrl-C; then those that run may end, and no more are taken
    Worker(WorkerArgs),
    /// Files and directories
    Fs {
        #[command(subcommand)]
        command: FsCommand,
        #[command(flatten)]
        target: TargetArgs,
        /// The user whose files are meant
        #[arg(long, global = true, default_value = "dbos")]
        user: String,
    },
    /// Messages between receivers
    Msg {
        #[command(subcommand)]
        command: MsgCommand,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Measure throughput and latency
    Bench(BenchArgs),
    /// Show it all: a three-node cluster at work, the death of a leader, SQL over the state
    Demo {
        /// End with one line of JSON: acked, found, lost, doubled, unknown, leader_killed, failover_ms
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

/// Which database a command talks to.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// Local cluster
    #[arg(long, global = true, default_value = "default")]
    pub name: String,
    /// Any postgres:// URL instead of a local cluster
    #[arg(long, global = true)]
    pub target: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// On disk on a majority before the reply
    Fsync,
    /// Written on a majority before the reply, synced in the background
    Memory,
}

/// Name of a local cluster.
#[derive(Args, Clone, Debug)]
pub struct Name {
    #[arg(long, default_value = "default")]
    pub name: String,
}

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Start a cluster: a new one, or an existing one on its data
    Up(UpArgs),
    /// Nodes, partitions and replicas
    Status {
        #[command(flatten)]
        name: Name,
        #[arg(long)]
        json: bool,
    },
    /// Print a node's log
    Logs {
        node: u16,
        /// Follow
        #[arg(short = 'f', long)]
        follow: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Kill a node's process (SIGKILL)
    Kill {
        node: u16,
        #[command(flatten)]
        name: Name,
    },
    /// Stop a node's process where it is (SIGSTOP): it keeps its sockets and says nothing
    Pause {
        node: u16,
        #[command(flatten)]
        name: Name,
    },
    /// Let a paused node go on (SIGCONT)
    Resume {
        node: u16,
        #[command(flatten)]
        name: Name,
    },
    /// Start a node again that was killed or stopped, restart one that runs, or all of them one after the other
    Restart {
        #[arg(required_unless_present = "rolling", conflicts_with = "rolling")]
        node: Option<u16>,
        /// All nodes, one at a time, while clients run: leaderships move away first, and the next waits for the last to catch up
        #[arg(long)]
        rolling: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Add a node while the cluster runs, and spread replicas and leaderships over it
    Add {
        /// Its id [default: the next one]; a node that lost its disk comes back under a new id. That of a node whose addition
        /// was not brought to its end: goes on with it
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        node: Option<u16>,
        #[command(flatten)]
        name: Name,
    },
    /// Remove a node, running or not: its replicas move to the others, then its process and data go. Said again, it goes on
    /// with what was interrupted
    Remove {
        node: u16,
        #[command(flatten)]
        name: Name,
    },
    /// Bring all tables of the cluster back to an earlier moment, in one transaction
    Rollback {
        /// When: a time ('2026-01-31 12:00:00+00'), an interval back from now ('-90s'), or a commit stamp in microseconds
        #[arg(long, allow_hyphen_values = true)]
        to: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// One line: the moment gone back to, the one to return to, and rows restored and removed per table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Stop all nodes; the data stays
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Clusters of this user
    List {
        #[arg(long)]
        json: bool,
    },
    /// Stop a cluster and remove its data
    Destroy {
        #[command(flatten)]
        name: Name,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// All clusters of this user
        #[arg(long)]
        all: bool,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub struct UpArgs {
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Number of nodes [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub nodes: Option<u16>,
    /// Number of partitions [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: Option<u32>,
    /// Copies of every partition: 1, 3 or 5 [default: 3, or 1 with fewer than three nodes]
    #[arg(long)]
    pub replicas: Option<u32>,
    /// When a commit is acknowledged [default: fsync]
    #[arg(long, value_enum)]
    pub durability: Option<Durability>,
    /// Directory for data and logs [default: $XDG_DATA_HOME/dbos/NAME]
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// SQL port of node 1; node n has BASE+n-1, and peers talk 100 above [default: 5440 or the next free one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub port: Option<u16>,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum TaskCommand {
    /// Create the scheduler's tables and procedures
    Install,
    /// Submit a command as a pending task
    Submit {
        /// Partition key of the task [default: a random one of 64]
        #[arg(long)]
        key: Option<i32>,
        /// Program and arguments
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
        /// Wait so long for its end, as in 500ms or 10s, and tell its exit code; another one than 0, or no end in this time,
        /// is exit code 1 (before the program's name)
        #[arg(long, value_parser = crate::bench::duration)]
        wait: Option<std::time::Duration>,
        /// One line of JSON: task_id, key, and with --wait exit_code, null if it has not ended (before the program's name)
        #[arg(long)]
        json: bool,
    },
    /// Tasks and their states, by partition key and id
    List {
        /// At most this many; 0 for all
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
        /// One JSON object per task
        #[arg(long)]
        json: bool,
    },
    /// Workers and their free capacity
    Workers {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Worker number, unique within its partition key
    #[arg(long, default_value_t = 1)]
    pub id: i32,
    /// Partition key whose tasks this worker takes
    #[arg(long, default_value_t = 0)]
    pub key: i32,
    /// Tasks that run at the same time
    #[arg(long, default_value_t = 4)]
    pub capacity: i32,
    /// Shard of data that this worker holds, for the locality-aware policy
    #[arg(long, default_value_t = 0)]
    pub shard: i32,
    /// End with one line of JSON: finished and lost
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Subcommand)]
pub enum FsCommand {
    /// Create the file system's tables and procedures, and the user
    Install,
    /// Make a directory
    Mkdir { path: String },
    /// Copy a local file (or standard input: -) into the file system
    Put {
        local: String,
        path: String,
        /// Spread the blocks over all partitions
        #[arg(long)]
        parallel: bool,
    },
    /// Append a local file (or standard input: -) to a file
    Append { local: String, path: String },
    /// Print a file
    Cat {
        path: String,
        /// First byte
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// Number of bytes
        #[arg(long)]
        length: Option<u64>,
    },
    /// Entries of a directory, but those whose names begin with a dot
    Ls {
        #[arg(default_value = "/")]
        path: String,
        /// These too
        #[arg(short = 'a', long)]
        all: bool,
        #[arg(long)]
        json: bool,
    },
    /// Size, kind and times
    Stat {
        path: String,
        #[arg(long)]
        json: bool,
    },
    /// Rename a file or a directory
    Mv {
        from: String,
        to: String,
        /// Give the file to this user, as TO in the user's tree
        #[arg(long)]
        to_user: Option<String>,
    },
    /// Cut a file's content into blocks of another size in bytes
    Reblock {
        path: String,
        #[arg(long)]
        block_size: i32,
    },
    /// Cut or extend a file to a size in bytes
    Truncate { path: String, size: u64 },
    /// Delete a file or an empty directory
    Rm { path: String },
}

#[derive(Subcommand)]
pub enum MsgCommand {
    /// Create the message table and procedures
    Install,
    /// Send one message to each receiver: to all or to none. Exit code 6 if a mailbox is full
    Send {
        #[arg(long, default_value_t = 0)]
        from: i64,
        /// Receivers, separated by commas
        #[arg(long, required = true, value_delimiter = ',')]
        to: Vec<i64>,
        /// What it says
        text: String,
        /// One JSON object per message: message_id and receiver_id
        #[arg(long)]
        json: bool,
    },
    /// Receive and remove messages
    #[command(alias = "recv")]
    Receive {
        receiver: i64,
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: i32,
        /// Wait for a message so long, as in 500ms or 10s
        #[arg(long, value_parser = crate::bench::duration)]
        wait: Option<std::time::Duration>,
        #[arg(long)]
        json: bool,
    },
    /// Unread messages by receiver
    Unread {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchKind {
    /// Scheduling: one call of the loaded procedure
    Sched,
    /// Messages: one round
    Ipc,
    /// Files: one operation on a file
    Fs,
    /// Transactions: one transfer between two accounts, some of them in different partitions
    Txn,
    /// Point reads: one row by its key
    Read,
}

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[arg(value_enum)]
    pub kind: BenchKind,
    /// Local cluster
    #[arg(long, default_value = "default")]
    pub name: String,
    /// postgres://... of any PostgreSQL, or local-postgres for a private one made and removed by this command.
    /// ipc: also grpc, grpc-stream, tcp, redis, nats. sched: also etcd, etcd-one, slurm. fs: also ext4:DIR, ext4-fsync:DIR and,
    /// mounted there by FUSE for the run, bindfs:DIR, bindfs-fsync:DIR
    #[arg(long)]
    pub target: Option<String>,
    /// sched: fifo, least-loaded, locality, push, pull
    #[arg(long)]
    pub policy: Option<String>,
    /// ipc: ping-pong, batch, fan-out, all-to-all, send-receive. fs: create, delete, write, read (a random block),
    /// write-1x20, write-20x1, read-1x20, read-20x1 (files x random blocks), seq-write, seq-read (parallel files), aggregate
    #[arg(long)]
    pub shape: Option<String>,
    /// ipc: bytes of a message [default: 64]. fs: bytes of a block [default: the shape's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub size: Option<u32>,
    /// fs: reads go through the client's read cache, of so many bytes [without a number: 268435456]; it is filled before
    /// a shape that reads random blocks, and hits and misses are timed apart
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "268435456",
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    pub cache: Option<u32>,
    /// ipc batch: messages before their answers [default: 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub outstanding: Option<u32>,
    /// ipc: rounds at the same time, each with mailboxes of its own [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: Option<u32>,
    /// ipc fan-out: receivers [default: 40]; all-to-all: participants [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub receivers: Option<u32>,
    /// txn: fraction of transfers between two partitions, 0 to 1
    #[arg(long)]
    pub multi_partition: Option<f64>,
    /// txn, read: number of accounts
    #[arg(long, value_parser = clap::value_parser!(u32).range(128..=1_000_000))]
    pub accounts: Option<u32>,
    /// txn: every transfer has the same account on one side
    #[arg(long)]
    pub hot: bool,
    /// Connections per node of the target
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Operations in flight in all; without it 1, 4, 16 and 64 are tried and the best is reported
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub in_flight: Option<u32>,
    /// Open loop: operations offered per second, timed from the intended start
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long to measure, such as 10s, 500ms or 2m
    #[arg(long, default_value = "10s", value_parser = crate::bench::duration)]
    pub duration: std::time::Duration,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}
