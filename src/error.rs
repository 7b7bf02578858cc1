//! Errors that reach a person, with the exit code that a script sees.

use std::io;

/// Exit codes, as rsync has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Ok = 0,
    /// Wrong command line or configuration.
    Usage = 1,
    /// The peers could not agree to start.
    Handshake = 5,
    /// A socket could not be opened, bound or reached, or broke.
    Socket = 10,
    /// A file or directory that the whole run depends on.
    File = 11,
    /// The peer broke the protocol.
    Protocol = 12,
    /// Ended by SIGINT or SIGTERM.
    Signal = 20,
    /// Some entries could not be mirrored.
    Partial = 23,
    /// Deletions are held.
    MaxDelete = 25,
    /// The peer was silent too long, or what was waited for took too long.
    Timeout = 30,
}

/// An error that ends a run or a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or configuration is wrong: says what, and what to do.
    #[error("{0}")]
    Usage(String),
    /// The peer refused, or speaks something else.
    #[error("{0}")]
    Handshake(String),
    /// A connection could not be made, or was lost.
    #[error("{what}: {source}")]
    Socket {
        /// The operation and its object.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A file operation that the run depends on.
    #[error("{what}: {source}")]
    File {
        /// The operation and its path.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The peer broke the protocol: says where.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer was silent too long.
    #[error("io timeout after {0} seconds")]
    Timeout(u64),
}

impl Error {
    /// A [`Error::File`].
    pub fn file(what: impl Into<String>, source: io::Error) -> Self {
        Self::File { what: what.into(), source }
    }

    /// A [`Error::Socket`].
    pub fn socket(what: impl Into<String>, source: io::Error) -> Self {
        Self::Socket { what: what.into(), source }
    }

    /// The exit code of a run that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Handshake(_) => Exit::Handshake,
            Self::Socket { .. } => Exit::Socket,
            Self::File { .. } => Exit::File,
            Self::Protocol(_) => Exit::Protocol,
            Self::Timeout(_) => Exit::Timeout,
        }
    }

    /// Whether trying again, on a new connection, can help. What a person has to mend first cannot be retried.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Socket { .. } | Self::Timeout(_) | Self::Protocol(_))
    }
}

/// The result of whatever can end a run or a session.
pub type Result<T> = std::result::Result<T, Error>;
