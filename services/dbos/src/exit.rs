//! How a command ends when it does not succeed: an exit code, a message on standard error, and a hint.

use std::fmt::Display;

/// Documented exit codes; `--help` prints them.
pub const CODES: &str = "Exit codes:
  0  done
  1  failed: the message says why and what to do
  2  wrong arguments
  3  a benchmark or the demo finished, but with errors
  4  no such cluster, task, file or node
  5  the outcome is unknown: the change may or may not have happened
  6  nothing was changed, and the same may work later: a full mailbox, a busy cluster, a conflict
  130  interrupted";

/// It may or may not have happened.
pub const UNKNOWN: u8 = 5;

/// As of a process that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(message: impl Display) -> Self {
        Self::with_code(1, message)
    }

    pub fn usage(message: impl Display) -> Self {
        Self::with_code(2, message)
    }

    pub fn not_found(message: impl Display) -> Self {
        Self::with_code(4, message)
    }

    pub fn interrupted() -> Self {
        Self::with_code(130, "interrupted")
    }

    pub fn with_code(code: u8, message: impl Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Prints to standard error what a person needs.
    pub fn print(&self) {
        eprintln!("dbos: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

/// What writing to standard output gave. `dbos ... | head` closes it: that is no fault of anybody, and the command ends as others do.
pub fn written(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|error| {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE);
        }
        Failure::new(format!("cannot write to standard output: {error}"))
    })
}

/// For `println!`, which panics where it cannot write: ends the process as `written` does.
pub fn end_where_output_ends() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        let Some(why) = message.strip_prefix("failed printing to stdout: ") else {
            return report(panic);
        };
        if why.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        Failure::new(format!("cannot write to standard output: {why}")).print();
        std::process::exit(1);
    }));
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

impl From<kernel_db::Error> for Failure {
    fn from(error: kernel_db::Error) -> Self {
        let code = if error.sqlstate() == "08007" {
            UNKNOWN
        } else {
            1
        };
        let text = format!("{} ({})", error.message(), error.sqlstate());
        let failure = Self::with_code(code, text);
        match error.get_hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
