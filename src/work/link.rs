//! What a worker and the sender do alike with their connections.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::wire::session::{Welcomed, welcomed};
use crate::wire::{Incoming, Link, Messages, Payload};

/// Sends what is in the payload, if anything.
///
/// # Errors
/// Of the link.
pub fn send(link: &mut Link, payload: &mut Payload) -> Result<()> {
    if payload.is_empty() {
        return Ok(());
    }
    let buffer = link.buffer();
    link.send(payload.replace(buffer))
}

/// Sends what is in the payload and all that the link has queued.
///
/// # Errors
/// Of the link.
pub fn flush(link: &mut Link, payload: &mut Payload) -> Result<()> {
    send(link, payload)?;
    link.flush()
}

/// Waits for the server's first message, no longer than `patience`, nor after a wake-up for which `over` says that it is of no use any more.
///
/// # Errors
/// Refused, or not our protocol, or the link's; `Timeout`.
pub fn greet(link: &mut Link, patience: Duration, mut over: impl FnMut() -> bool) -> Result<Welcomed> {
    let deadline = Instant::now() + patience;
    loop {
        if over() {
            return Err(Error::socket("wait for the receiver", std::io::ErrorKind::ConnectionAborted.into()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match link.wait(Some(left))? {
            Incoming::Frame(frame) => {
                let first = Messages::new(&frame).next().ok_or_else(|| Error::Protocol("an empty first frame".into()))??;
                let welcome = welcomed(&first)?;
                drop(first);
                link.recycle(frame);
                return Ok(welcome);
            }
            Incoming::TimedOut if left.is_zero() => return Err(Error::Timeout(patience.as_secs())),
            Incoming::Woken | Incoming::TimedOut => {}
            Incoming::Closed => return Err(closed()),
        }
    }
}

/// The receiver has closed the connection.
pub fn closed() -> Error {
    Error::socket("the receiver closed the connection", std::io::ErrorKind::ConnectionReset.into())
}
