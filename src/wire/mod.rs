//! What goes between a sender and a receiver: messages, the frames around them, the rules of a session, and the links that carry them.
//!
//! `PROTOCOL.md` is normative; the vectors in it are checked against this code. All but the links is without I/O. Nothing here
//! looks at a file or decides what to mirror; the sender, the workers and the receiver use it.

mod codec;
mod content;
mod epoll;
pub mod frame;
pub mod judge;
pub mod link;
mod local;
pub mod message;
pub mod payload;
mod pool;
mod scrub;
pub mod session;
#[cfg(test)]
mod session_tests;
mod stream;
mod tag;

pub use link::{Cutter, Incoming, Link};
pub use local::LocalEnd;
pub use message::{Hello, Message, Messages, Role};
pub use payload::{Mark, Payload};

use crate::error::Error;
use crate::model::attrs::AttrsError;
use crate::model::path::PathError;

/// What both ends of this build can speak, oldest and newest.
pub const VERSION_MIN: u16 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u16 = 1;

/// Proves that a content connection belongs to a session: made by the server at random, given in its Welcome.
pub type Token = [u8; 16];

/// Bytes that are not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The peer does not speak this protocol at all.
    #[error("the peer speaks something else, not ringsync's protocol")]
    Foreign,
    /// The peer greeted as rsync's daemon or its client do.
    #[error("the peer speaks rsync's protocol (@RSYNCD:), not ringsync's")]
    Rsync,
    /// A frame's header or body is wrong.
    #[error("bad frame: {0}")]
    Frame(&'static str),
    /// A message ends before its fields do.
    #[error("message cut short")]
    Short,
    /// No message has this tag.
    #[error("unknown message {0:#04x}")]
    Tag(u8),
    /// A field is out of its range.
    #[error("bad message: {0}")]
    Value(&'static str),
    /// A name or path is not a plain relative one.
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// Attributes in no canonical form, or beyond their limits.
    #[error("bad attributes: {0}")]
    Attrs(#[from] AttrsError),
    /// A message that may not stand here.
    #[error("unexpected message: {0}")]
    Order(&'static str),
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Self {
        match e {
            WireError::Foreign | WireError::Rsync => Self::Handshake(e.to_string()),
            e => Self::Protocol(e.to_string()),
        }
    }
}
