//! Transaction blocks: the statements that open, divide and end them, and what a connection knows of its open one.
//!
//! What holds: a statement inside a block runs when it is executed, not at Sync, and the reader waits for it, so the block's
//! status is always known when ReadyForQuery is written. An error fails the block: until ROLLBACK, COMMIT or ROLLBACK TO
//! everything else answers 25P02. A block whose connection ends is rolled back by dropping it. Left out: PREPARE
//! TRANSACTION, SET TRANSACTION SNAPSHOT.

use std::rc::Rc;

use super::backend::{Block, BlockMode, Isolation, Notice, Outcome};
use super::session::{Words, end, syntax};
use super::settings::Settings;
use crate::error::{Error, Result};

/// Savepoints of one block.
const SAVEPOINTS_MAX: usize = 10_000;

/// What BEGIN and SET TRANSACTION say; `None`: as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
}

/// A statement about the transaction block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockCommand {
    Begin { modes: Modes, tag: &'static str },
    SetTransaction(Modes),
    Commit { chain: bool },
    Rollback { chain: bool },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
}

impl BlockCommand {
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Begin { tag, .. } => tag,
            Self::SetTransaction(_) => "SET",
            Self::Commit { .. } => "COMMIT",
            Self::Rollback { .. } | Self::RollbackTo(_) => "ROLLBACK",
            Self::Savepoint(_) => "SAVEPOINT",
            Self::Release(_) => "RELEASE",
        }
    }

    /// True if it may run in a failed block.
    pub fn ends_failure(&self) -> bool {
        matches!(
            self,
            Self::Commit { .. } | Self::Rollback { .. } | Self::RollbackTo(_)
        )
    }
}

/// The command that begins with `first`, or `None` if it is of another kind.
pub(super) fn parse(first: &str, words: &mut Words<'_>) -> Result<Option<BlockCommand>> {
    let command = match first {
        "BEGIN" => {
            let next = words.work();
            let modes = modes(words, next)?;
            BlockCommand::Begin {
                modes,
                tag: "BEGIN",
            }
        }
        "START" => {
            words.expect("TRANSACTION")?;
            let next = words.upper();
            let modes = modes(words, next)?;
            BlockCommand::Begin {
                modes,
                tag: "START TRANSACTION",
            }
        }
        "COMMIT" | "END" => {
            let next = words.work();
            if next.as_deref() == Some("PREPARED") {
                return Err(prepared());
            }
            let chain = chain(words, next)?;
            BlockCommand::Commit { chain }
        }
        "ROLLBACK" | "ABORT" => {
            let next = words.work();
            match next.as_deref() {
                Some("PREPARED") => return Err(prepared()),
                Some("TO") => BlockCommand::RollbackTo(words.savepoint()?),
                _ => BlockCommand::Rollback {
                    chain: chain(words, next)?,
                },
            }
        }
        "SAVEPOINT" => BlockCommand::Savepoint(words.name()?),
        "RELEASE" => BlockCommand::Release(words.savepoint()?),
        // PREPARE name AS is the parser's.
        "PREPARE" if words.upper().as_deref() == Some("TRANSACTION") => return Err(prepared()),
        _ => return Ok(None),
    };
    Ok(Some(command))
}

fn prepared() -> Error {
    Error::unsupported("PREPARE TRANSACTION")
        .hint("COMMIT is atomic over all partitions; nothing else needs to be prepared")
}

/// `[AND [NO] CHAIN]`
fn chain(words: &mut Words<'_>, next: Option<String>) -> Result<bool> {
    match next.as_deref() {
        None => Ok(false),
        Some("AND") => match words.upper().as_deref() {
            Some("CHAIN") => Ok(true),
            Some("NO") => words.expect("CHAIN").map(|()| false),
            Some(word) => Err(syntax(word)),
            None => Err(end()),
        },
        Some(word) => Err(syntax(word)),
    }
}

/// Transaction modes, separated by commas or by nothing, beginning with `next`.
pub(super) fn modes(words: &mut Words<'_>, next: Option<String>) -> Result<Modes> {
    let mut modes = Modes::default();
    let mut next = next;
    while let Some(word) = next {
        match word.as_str() {
            "ISOLATION" => {
                words.expect("LEVEL")?;
                modes.isolation = Some(level(words)?);
            }
            "READ" => {
                modes.read_only = Some(match words.upper().as_deref() {
                    Some("ONLY") => true,
                    Some("WRITE") => false,
                    Some(word) => return Err(syntax(word)),
                    None => return Err(end()),
                });
            }
            // Every transaction may be cancelled by a conflict; waiting for a safe moment would only be slower.
            "DEFERRABLE" => {}
            "NOT" => words.expect("DEFERRABLE")?,
            "SNAPSHOT" => return Err(Error::unsupported("SET TRANSACTION SNAPSHOT")),
            word => return Err(syntax(word)),
        }
        next = words.upper();
        if next.as_deref() == Some(",") {
            next = Some(words.upper().ok_or_else(end)?);
        }
    }
    Ok(modes)
}

fn level(words: &mut Words<'_>) -> Result<Isolation> {
    let first = words.upper().ok_or_else(end)?;
    if first == "SERIALIZABLE" {
        return Ok(Isolation::Serializable);
    }
    let second = words.upper().ok_or_else(end)?;
    Isolation::from_name(&format!("{first} {second}")).ok_or_else(|| syntax(&second))
}

/// The open block of a connection.
pub struct OpenBlock {
    pub block: Rc<dyn Block>,
    pub mode: BlockMode,
    /// The client did not begin it: it is an implicit transaction that was flushed, and ends with it.
    pub implicit: bool,
    /// After an error nothing runs but its end.
    pub failed: bool,
    /// A statement has run: the isolation level stays.
    pub started: bool,
    /// Newest last; with the block's mark and the settings to return to.
    savepoints: Vec<(String, usize, Settings)>,
}

impl OpenBlock {
    pub fn new(block: Rc<dyn Block>, mode: BlockMode) -> Self {
        Self {
            block,
            mode,
            implicit: false,
            failed: false,
            started: false,
            savepoints: Vec::new(),
        }
    }

    /// A statement failed. What the block holds is only of use if it can return to a savepoint.
    pub fn fail(&mut self) {
        if !self.failed && self.savepoints.is_empty() {
            self.block.give_up();
        }
        self.failed = true;
    }

    pub fn savepoint(&mut self, name: String, settings: Settings) -> Result<()> {
        if self.savepoints.len() >= SAVEPOINTS_MAX {
            let message = format!("more than {SAVEPOINTS_MAX} savepoints in one transaction");
            return Err(Error::new("54000", message).hint("RELEASE those that are not needed"));
        }
        let mark = self.block.savepoint();
        self.savepoints.push((name, mark, settings));
        Ok(())
    }

    /// Forgets a savepoint and those after it; what was done since stays.
    pub fn release(&mut self, name: &str) -> Result<()> {
        let at = self.find(name)?;
        self.savepoints.truncate(at);
        Ok(())
    }

    /// Undoes what was done since the savepoint, which stays, and returns the settings of then.
    pub fn rollback_to(&mut self, name: &str) -> Result<Settings> {
        let at = self.find(name)?;
        self.savepoints.truncate(at + 1);
        let (_, mark, settings) = &self.savepoints[at];
        self.block.rollback_to(*mark);
        self.failed = false;
        Ok(settings.clone())
    }

    fn find(&self, name: &str) -> Result<usize> {
        self.savepoints
            .iter()
            .rposition(|(n, ..)| n == name)
            .ok_or_else(|| Error::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    /// SET TRANSACTION: before the first statement, but for READ ONLY, which may always be added.
    pub fn set(&mut self, modes: Modes) -> Result<()> {
        let mut mode = self.mode;
        if let Some(isolation) = modes.isolation {
            if self.started && isolation != mode.isolation {
                return Err(Error::new(
                    "25001",
                    "SET TRANSACTION ISOLATION LEVEL must be called before any query",
                ));
            }
            mode.isolation = isolation;
        }
        if let Some(read_only) = modes.read_only {
            if self.started && mode.read_only && !read_only {
                return Err(Error::new(
                    "25001",
                    "transaction read-write mode must be set before any query",
                ));
            }
            mode.read_only = read_only;
        }
        self.mode = mode;
        self.block.set_mode(mode);
        Ok(())
    }
}

/// Nothing but its end is possible in a failed block.
pub fn aborted() -> Error {
    Error::new(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// The reply of a command, with a warning if it had nothing to do.
pub fn done(tag: &str, warning: Option<(&str, &str)>) -> Outcome {
    let notice = |(sqlstate, message): (&str, &str)| Notice {
        severity: "WARNING".to_owned(),
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        detail: None,
        hint: None,
    };
    Outcome {
        rows: Vec::new(),
        tag: tag.to_owned(),
        notices: warning.map(notice).into_iter().collect(),
    }
}
