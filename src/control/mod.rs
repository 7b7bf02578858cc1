//! The control socket: how a running mirror or server is asked what it does.
//!
//! A client connects to a Unix socket, sends one line ([`Request`]), reads one line of JSON ([`Reply`]) and is hung up on. [`server`] is one thread that no
//! client can block, [`client`] the other end, [`place`] where sockets are, [`status`] what is told. Nothing here knows a mirror: the sender and the receiver
//! answer through [`server::Office`]. The command line is the only client.

pub mod client;
pub mod place;
pub mod server;
pub mod status;
mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use status::Status;

/// What a client asks: one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `status`: what it does.
    Status,
    /// `flush` or `flush SECONDS`: answered when all that was written before is acknowledged, or after so long.
    Flush(Option<Duration>),
    /// `approve`: deletions that are held go.
    Approve,
}

impl Request {
    /// The line without its end; `None` if it is none.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let request = match (words.next()?, words.next()) {
            ("status", None) => Self::Status,
            ("approve", None) => Self::Approve,
            ("flush", None) => Self::Flush(None),
            ("flush", Some(seconds)) => Self::Flush(Some(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?)),
            _ => return None,
        };
        words.next().is_none().then_some(request)
    }

    /// The line, with its end.
    pub fn line(&self) -> String {
        match self {
            Self::Status => "status\n".into(),
            Self::Approve => "approve\n".into(),
            Self::Flush(None) => "flush\n".into(),
            Self::Flush(Some(timeout)) => format!("flush {}\n", timeout.as_secs_f64()),
        }
    }
}

/// What is answered: one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `flush`.
    Flush(Flushed),
    /// To `approve`: how many entries are deleted now.
    Approved(u64),
    /// To `approve`: the source is the directory that is there now.
    ApprovedSource,
    /// It could not be done; why.
    Error(String),
}

/// What became of a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Everything is acknowledged, but for what follows; else the time was over.
    pub done: bool,
    /// What is left, roughly: entries, files and cycles. 0 when it is done.
    pub left: u64,
    /// Entries that fail.
    pub failing: u64,
    /// Entries whose deletion is held.
    pub held: u64,
    /// No cookie could be put into the queue of the watcher: everything was looked at instead.
    pub by_full_look: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        for request in [
            Request::Status,
            Request::Approve,
            Request::Flush(None),
            Request::Flush(Some(Duration::from_millis(1500))),
            Request::Flush(Some(Duration::ZERO)),
        ] {
            assert_eq!(Request::parse(request.line().trim_end().as_bytes()), Some(request));
        }
        for line in
            [&b""[..], b"stat", b"status now", b"flush -1", b"flush x", b"flush 1 2", b"flush NaN", b"flush inf", b"\xff", b"approve "]
        {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
    }
}
