//! The epoll engine of a TCP link, over mio: what is used where io_uring is blocked or missing.
//!
//! It moves bytes and knows readiness; frames and queues are the link's.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::limits::{RECEIVE_BYTES, SEND_PIECES_MAX};
use crate::sys::append::append_received;
use crate::sys::wake::Wake;
use crate::wire::stream::{Outbox, Taken};

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

/// A socket and what is known of its readiness.
pub(super) struct EpollSocket {
    poll: Poll,
    events: Events,
    socket: mio::net::TcpStream,
    /// Readiness is told on its edge only, so it is kept until the socket says otherwise.
    readable: bool,
    writable: bool,
    /// The peer has closed its side: a short read does not mean that nothing is left to learn.
    read_closed: bool,
    scratch: Box<[u8]>,
}

impl EpollSocket {
    pub(super) fn new(socket: TcpStream, wake: &Wake) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE | Interest::WRITABLE)?;
        poll.registry().register(&mut SourceFd(&wake.as_fd().as_raw_fd()), WAKE, Interest::READABLE)?;
        let scratch = vec![0; RECEIVE_BYTES].into_boxed_slice();
        Ok(Self { poll, events: Events::with_capacity(8), socket, readable: false, writable: true, read_closed: false, scratch })
    }

    /// Writes as much as the kernel takes now.
    pub(super) fn start_send(&mut self, out: &mut Outbox) -> io::Result<()> {
        while self.writable && !out.is_empty() {
            let mut pieces = [IoSlice::new(&[]); SEND_PIECES_MAX];
            let count = out.pieces(&mut pieces);
            match self.socket.write_vectored(pieces.get(..count).unwrap_or_default()) {
                Ok(n) => out.advance(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // What the peer said before it went may not have been announced yet.
                    self.readable = true;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Reads once and hands what came to `take`.
    pub(super) fn receive<E>(&mut self, take: impl FnOnce(&[u8]) -> Result<(), E>) -> io::Result<Taken<E>> {
        while self.readable {
            match self.socket.read(&mut self.scratch) {
                Ok(0) => return Ok(Taken::End),
                Ok(n) => {
                    self.readable = self.read_closed || n == self.scratch.len();
                    return Ok(take(self.scratch.get(..n).unwrap_or_default()).map_or_else(Taken::Bad, |()| Taken::Some));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Taken::Nothing)
    }

    /// Receives what has come, at most `most` bytes of it, to the end of `buffer`. False: that is nothing, or the end.
    pub(super) fn receive_now(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        let got = append_received(self.socket.as_fd(), most, buffer)?;
        // The end is read again.
        self.readable = self.read_closed || got == Some(most) || got == Some(0);
        Ok(got.is_some_and(|got| got > 0))
    }

    /// Sleeps until the socket can do something it could not, the wake-up rings, or the time is over.
    pub(super) fn block(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            if event.token() == SOCKET {
                self.readable |= event.is_readable() || event.is_error() || event.is_read_closed();
                self.writable |= event.is_writable() || event.is_error() || event.is_write_closed();
                self.read_closed |= event.is_read_closed();
            }
        }
        Ok(())
    }

    /// Writes bytes outside the protocol, if that goes at once.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        let _ = self.socket.write(bytes);
    }

    pub(super) fn end_writing(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
