//! The asking end: one request, one reply, within a time.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::control::{Reply, Request};
use crate::limits::CONTROL_REPLY_BYTES_MAX;

/// Connects; also one that is stopped, whose queue is full of those who asked before, is not waited for longer than that.
fn dial(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(patience) = patience {
        // 0 would be for ever.
        let millis = patience.as_millis().clamp(1, 1_000_000_000) as i64;
        setsockopt(&fd, SendTimeout, &TimeVal::milliseconds(millis))?;
    }
    connect(fd.as_raw_fd(), &address).map_err(io::Error::from).map_err(in_time)?;
    Ok(fd.into())
}

/// An error of a socket with a time limit.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// Asks whoever listens at `path`; `None` waits without end.
///
/// # Errors
/// `ConnectionRefused`, `NotFound`: nobody is there. `TimedOut`: no reply in time. `InvalidData`: the reply makes no sense.
pub fn ask(path: &Path, request: Request, patience: Option<Duration>) -> io::Result<Reply> {
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    let mut stream = dial(path, patience)?;
    stream.write_all(request.line().as_bytes()).map_err(in_time)?;
    let mut reply = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => reply.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(in_time(e)),
        }
        if reply.len() > CONTROL_REPLY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply has no end"));
        }
    }
    if reply.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
    }
    serde_json::from_slice(&reply).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    #[test]
    fn one_that_is_stopped_holds_up_nobody_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.sock");
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&fd, Backlog::new(1).unwrap()).unwrap();
        // Those who asked and went away fill its queue.
        for _ in 0..4 {
            let error = ask(&path, Request::Status, Some(Duration::from_millis(10))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }
}
