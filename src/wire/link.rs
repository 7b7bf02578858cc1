//! A link: frames to and from one peer, for exactly one thread.
//!
//! One enum over the ways to carry them, not a trait: the set is closed. A link knows no message and no session. It blocks only in
//! [`Link::send`], [`Link::flush`] and [`Link::wait`], and while it is blocked it goes on reading, so that two peers that both send cannot block each other.
//! Used by the sender, the workers and the receiver.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::model::options::{Compress, IoChoice};
use crate::stats::Stats;
use crate::sys::wake::Wake;
pub use crate::wire::local::LocalEnd;
use crate::wire::local::{self, LocalLink};
use crate::wire::stream::StreamLink;
pub use crate::wire::stream::keep_alive;

/// What ended a wait.
#[derive(Debug)]
pub enum Incoming {
    /// The payload of one frame, checked and decompressed. [`Link::recycle`] takes its memory back.
    Frame(Vec<u8>),
    /// Somebody rang [`Link::wake`]. Comes before frames that are there too, but never twice in a row while there are any.
    Woken,
    /// The timeout has passed.
    TimedOut,
    /// The peer has closed the link, between two frames, and all it sent has been handed out.
    Closed,
}

/// Frames to and from one peer. Made in the thread that uses it.
pub enum Link {
    /// Over TCP, driven by io_uring or epoll.
    Stream(Box<StreamLink>),
    /// In one process.
    Local(LocalLink),
}

/// Cuts a connection.
#[derive(Debug)]
pub struct Cutter(TcpStream);

impl Cutter {
    /// Nothing more is sent or received.
    pub fn cut(&self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Link {
    /// The two ends of a new in-process link, each to be turned into a link in its thread.
    ///
    /// # Errors
    /// `Socket`: no descriptors left.
    pub fn pair() -> Result<(LocalEnd, LocalEnd)> {
        local::pair()
    }

    /// A link over one end of a [pair](Link::pair).
    pub fn local(end: LocalEnd) -> Self {
        Self::Local(LocalLink::new(end))
    }

    /// A link over a connected socket, driven as `io` says; frames are compressed as `compress` says, with `Auto` while it pays. `stats` counts the bytes sent.
    ///
    /// # Errors
    /// `Usage`: io_uring was asked for and cannot be had. `Socket`: the connection is gone, or no descriptors are left.
    pub fn tcp(stream: TcpStream, io: IoChoice, compress: Compress, stats: Option<Arc<Stats>>) -> Result<Self> {
        StreamLink::new(stream, io, compress, stats).map(|link| Self::Stream(Box::new(link)))
    }

    /// The same link, which while it is blocked holds only so many bytes of what comes for its user: for whoever cannot choose how many links there are.
    #[must_use]
    pub fn with_inbox(mut self, bytes_max: usize) -> Self {
        if let Self::Stream(link) = &mut self {
            link.set_inbox_max(bytes_max);
        }
        self
    }

    /// What wakes the thread that is, or will be, in [`Link::wait`].
    pub fn wake(&self) -> Wake {
        match self {
            Self::Stream(link) => link.wake(),
            Self::Local(link) => link.wake(),
        }
    }

    /// What cuts the connection from another thread, whatever its own is blocked in. `None` within one process.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn cutter(&self) -> std::io::Result<Option<Cutter>> {
        match self {
            Self::Stream(link) => link.cutter().map(|socket| Some(Cutter(socket))),
            Self::Local(_) => Ok(None),
        }
    }

    /// Whether the peer has neither closed the connection nor lost it, as far as can be seen. Within one process it always has.
    pub fn has_peer(&self) -> bool {
        match self {
            Self::Stream(link) => link.has_peer(),
            Self::Local(_) => true,
        }
    }

    /// Queues `payload`, 1 to `FRAME_PAYLOAD_BYTES_MAX` bytes, as one frame. It goes to the kernel when enough has gathered, or with the next
    /// [`Link::flush`] or [`Link::wait`]. Blocks while the peer is slow and the queue is full.
    ///
    /// # Errors
    /// `Socket`: the connection is lost. `Protocol`, `Handshake`: what came meanwhile is not our protocol. What broke a link is told once, then it
    /// is `Socket`, `NotConnected`; [`Link::wait`] still hands out what had come before.
    pub fn send(&mut self, payload: Vec<u8>) -> Result<()> {
        match self {
            Self::Stream(link) => link.send(payload),
            Self::Local(link) => link.send(payload),
        }
    }

    /// Hands all that is queued to the kernel; blocks until it has taken it.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Stream(link) => link.flush(),
            Self::Local(_) => Ok(()),
        }
    }

    /// Waits for a frame, a wake-up, the end of the link, or until `timeout` has passed (`None`: without end; zero: a look). What is queued is sent meanwhile.
    ///
    /// # Errors
    /// As [`Link::send`]; a peer that closes within a frame is `Socket`, `UnexpectedEof`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Incoming> {
        match self {
            Self::Stream(link) => link.wait(timeout),
            Self::Local(link) => link.wait(timeout),
        }
    }

    /// An empty buffer with memory from an earlier use if there is some.
    pub fn buffer(&mut self) -> Vec<u8> {
        match self {
            Self::Stream(link) => link.buffer(),
            Self::Local(link) => link.buffer(),
        }
    }

    /// Takes the memory of a payload back.
    pub fn recycle(&mut self, payload: Vec<u8>) {
        match self {
            Self::Stream(link) => link.recycle(payload),
            Self::Local(link) => link.recycle(payload),
        }
    }

    /// How frames are carried: "io_uring", "epoll" or "in-process".
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Stream(link) => link.describe(),
            Self::Local(_) => "in-process",
        }
    }

    /// Ends the link in good order: sends what is queued and waits, no longer than `linger`, until the peer closes too; what still comes is dropped. A link that is
    /// just dropped may lose what was sent last.
    ///
    /// # Errors
    /// As [`Link::send`]; `Timeout`: not all was sent.
    pub fn close(self, linger: Duration) -> Result<()> {
        match self {
            Self::Stream(link) => link.close(linger),
            Self::Local(_) => Ok(()),
        }
    }
}
