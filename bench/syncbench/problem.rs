//! What can go wrong in syncbench, and the exit code that says so. It prints nothing itself; `main` does.

use std::fmt::{self, Display};

/// Why syncbench ends without having done what it was asked.
#[derive(Debug)]
pub enum Problem {
    /// The command line asks for something that makes no sense.
    Usage(String),
    /// Something that the run depends on failed: operation, object, cause.
    Failed(String),
    /// SIGINT, SIGTERM or SIGHUP.
    Interrupted,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Problem>;

/// Everything asked for was done.
pub const EXIT_DONE: u8 = 0;
/// `compare`: something became worse. `budget`: a goal is missed.
pub const EXIT_WORSE: u8 = 2;
/// Trees are not equal: `verify` found differences, or a ringsync peer of a run did not become equal.
pub const EXIT_UNEQUAL: u8 = 23;

impl Problem {
    /// The exit code; ringsync's where both know the case.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 1,
            Self::Failed(_) => 11,
            Self::Interrupted => 20,
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Interrupted => f.write_str("interrupted; peers are stopped and the working directory is gone"),
        }
    }
}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// The problem is `what: cause`.
    ///
    /// # Errors
    /// When `self` is one.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Problem::Failed(format!("{}: {e}", what())))
    }
}
