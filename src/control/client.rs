//! The asking end: one request, one reply, within a time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::{Reply, Request};
use crate::limits::CONTROL_REPLY_BYTES_MAX;

/// Asks whoever listens at `socket`; `None` waits without end.
///
/// # Errors
/// `ConnectionRefused`, `NotFound`: nobody is there. `TimedOut`: no reply in time. `InvalidData`: the reply makes no sense.
pub fn ask(socket: &Path, request: Request, patience: Option<Duration>) -> io::Result<Reply> {
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(request.line().as_bytes())?;
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
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
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
