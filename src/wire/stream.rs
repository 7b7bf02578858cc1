//! A link over a stream socket: queues, framing and fairness, above one of two engines that move the bytes.
//!
//! Invariant of the whole: whatever it is blocked in, it goes on receiving until [`INBOX_BYTES_MAX`], or less if that is set, waits for the user.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{Error, Result};
use crate::limits::{INBOX_BYTES_MAX, SEND_GATHER_BYTES, SEND_QUEUE_BYTES_MAX, TIMEOUT_SECONDS_MAX};
use crate::model::options::{Compress, IoChoice};
use crate::stats::Stats;
use crate::sys::tcp;
use crate::sys::uring::{Packet, Ring};
use crate::sys::wake::Wake;
use crate::wire::WireError;
use crate::wire::epoll::EpollSocket;
use crate::wire::frame::{Deframer, Framer, Packed, RSYNC_ANSWER};
use crate::wire::link::Incoming;

/// What one look for received bytes found.
pub(super) enum Taken<E> {
    /// Some, and they were taken.
    Some,
    /// Some, and they were refused.
    Bad(E),
    /// None now.
    Nothing,
    /// The peer has closed its side.
    End,
}

/// Frames to be sent. Invariant: `bytes` is what of `packets` the kernel has not taken; `taken` is below the length of the first.
#[derive(Default)]
pub(super) struct Outbox {
    packets: VecDeque<Packet>,
    taken: usize,
    bytes: usize,
    /// Memory of what was sent.
    spent: Vec<Vec<u8>>,
    sent_bytes: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn push(&mut self, packet: Packet) {
        self.bytes += packet.len();
        self.packets.push_back(packet);
    }

    /// Fills `pieces` with what is to be sent next and says how many it filled.
    pub(super) fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.taken;
        let parts = self.packets.iter().flat_map(|p| [&p.head[..], &p.body]).filter_map(|part| {
            let cut = skip.min(part.len());
            skip -= cut;
            part.get(cut..).filter(|rest| !rest.is_empty())
        });
        pieces.iter_mut().zip(parts).map(|(piece, part)| *piece = IoSlice::new(part)).count()
    }

    /// Says that the kernel took `n` bytes from the front.
    pub(super) fn advance(&mut self, n: usize) {
        self.taken += n;
        self.bytes = self.bytes.saturating_sub(n);
        self.sent_bytes += n as u64;
        while self.packets.front().is_some_and(|first| self.taken >= first.len()) {
            if let Some(first) = self.packets.pop_front() {
                self.taken -= first.len();
                self.spent.push(first.body);
            }
        }
    }

    /// Takes frames out whole, for an engine that keeps them until they are sent.
    fn batch(&mut self) -> impl Iterator<Item = Packet> + '_ {
        debug_assert_eq!(self.taken, 0, "an outbox serves one engine");
        std::iter::from_fn(|| {
            let packet = self.packets.pop_front()?;
            self.bytes = self.bytes.saturating_sub(packet.len());
            Some(packet)
        })
    }
}

/// What moves the bytes.
enum Engine {
    Epoll(EpollSocket),
    Uring(Box<Ring>),
}

impl Engine {
    /// Starts, or goes on with, sending what is in `out`; never blocks.
    fn start_send(&mut self, out: &mut Outbox) -> io::Result<()> {
        match self {
            Self::Epoll(socket) => socket.start_send(out),
            Self::Uring(ring) => loop {
                collect(ring, out)?;
                if ring.is_sending() || out.is_empty() {
                    return Ok(());
                }
                ring.send(&mut out.batch())?;
            },
        }
    }

    /// Bytes that the kernel has not taken.
    fn unsent(&self, out: &Outbox) -> usize {
        match self {
            Self::Epoll(_) => out.bytes,
            Self::Uring(ring) => out.bytes + ring.sending_bytes(),
        }
    }

    fn receive<E>(&mut self, take: impl FnOnce(&[u8]) -> std::result::Result<(), E>) -> io::Result<Taken<E>> {
        match self {
            Self::Epoll(socket) => socket.receive(take),
            Self::Uring(ring) => match ring.take_received(take) {
                Some(Ok(())) => Ok(Taken::Some),
                Some(Err(e)) => Ok(Taken::Bad(e)),
                None => match ring.take_end() {
                    Some(end) => end.map(|()| Taken::End),
                    None => Ok(Taken::Nothing),
                },
            },
        }
    }

    /// Receives what has come, at most `most` bytes of it, to the end of `buffer`; false if that is nothing, or has to be [received](Self::receive) to be known.
    fn receive_now(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        match self {
            Self::Epoll(socket) => socket.receive_now(buffer, most),
            Self::Uring(ring) => ring.receive_now(buffer, most),
        }
    }

    /// Sleeps until something can be done. With `past`, what comes will be [received now](Self::receive_now).
    fn block(&mut self, timeout: Option<Duration>, past: bool, out: &mut Outbox) -> io::Result<()> {
        match self {
            Self::Epoll(socket) => socket.block(timeout),
            Self::Uring(ring) => {
                ring.enter(timeout, past)?;
                collect(ring, out)
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        match self {
            Self::Epoll(socket) => socket.say(bytes),
            Self::Uring(ring) => ring.say(bytes),
        }
    }

    fn end_writing(&self) -> io::Result<()> {
        match self {
            Self::Epoll(socket) => socket.end_writing(),
            Self::Uring(ring) => ring.end_writing(),
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Epoll(socket) => socket.socket(),
            Self::Uring(ring) => ring.socket(),
        }
    }
}

/// Takes back what the ring has sent.
fn collect(ring: &mut Ring, out: &mut Outbox) -> io::Result<()> {
    let Some(result) = ring.take_sent(|body| out.spent.push(body)) else { return Ok(()) };
    out.sent_bytes += result? as u64;
    Ok(())
}

/// Whether the connection works.
enum Fate {
    Live,
    /// It does not, and its user has not been told why.
    Failed(Error),
    /// Its user knows.
    Dead,
}

/// A link over TCP.
pub struct StreamLink {
    engine: Engine,
    wake: Wake,
    framer: Framer,
    /// The socket, to be asked what it has carried.
    counted: Option<TcpStream>,
    deframer: Deframer,
    /// What is received of a header on its own.
    head: Vec<u8>,
    out: Outbox,
    inbox: VecDeque<Packed>,
    inbox_bytes: usize,
    inbox_bytes_max: usize,
    /// Nothing more will be received: the peer has closed its side, or receiving failed.
    ended: bool,
    fate: Fate,
    has_sent: bool,
    woken_last: bool,
    stats: Option<Arc<Stats>>,
}

impl StreamLink {
    pub(super) fn new(socket: TcpStream, io: IoChoice, compress: Compress, stats: Option<Arc<Stats>>) -> Result<Self> {
        // Frames are gathered here already.
        socket.set_nodelay(true).map_err(|e| Error::socket("set up a connection", e))?;
        let wake = Wake::new().map_err(|e| Error::socket("eventfd", e))?;
        let framer = match compress {
            Compress::Auto => Framer::judged(),
            Compress::Lz4 => Framer::new(true),
            Compress::None => Framer::new(false),
        };
        let counted = match compress {
            Compress::Auto => Some(socket.try_clone().map_err(|e| Error::socket("set up a connection", e))?),
            Compress::Lz4 | Compress::None => None,
        };
        let engine = engine(socket, io, &wake)?;
        Ok(Self {
            engine,
            wake,
            framer,
            counted,
            deframer: Deframer::new(),
            head: Vec::new(),
            out: Outbox::default(),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            inbox_bytes_max: INBOX_BYTES_MAX,
            ended: false,
            fate: Fate::Live,
            has_sent: false,
            woken_last: false,
            stats,
        })
    }

    pub(super) fn wake(&self) -> Wake {
        self.wake.clone()
    }

    pub(super) fn cutter(&self) -> io::Result<TcpStream> {
        self.engine.socket().try_clone_to_owned().map(TcpStream::from)
    }

    pub(super) fn has_peer(&self) -> bool {
        // Where the kernel does not tell, reading does.
        tcp::is_open(self.engine.socket()).unwrap_or(true)
    }

    pub(super) fn set_inbox_max(&mut self, bytes: usize) {
        self.inbox_bytes_max = bytes;
    }

    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.framer.buffer()
    }

    /// A link mostly sends or mostly receives: what is received and given back serves the next that come.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        self.deframer.recycle(buffer);
    }

    pub(super) fn describe(&self) -> &'static str {
        match self.engine {
            Engine::Epoll(_) => "epoll",
            Engine::Uring(_) => "io_uring",
        }
    }

    fn fail(&mut self, error: Error) {
        if matches!(self.fate, Fate::Live) {
            self.fate = Fate::Failed(error);
        }
    }

    /// What broke the connection, if something did.
    fn check(&mut self) -> Result<()> {
        if matches!(self.fate, Fate::Live) {
            return Ok(());
        }
        match std::mem::replace(&mut self.fate, Fate::Dead) {
            Fate::Failed(error) => Err(error),
            Fate::Live | Fate::Dead => Err(Error::socket("the connection", io::ErrorKind::NotConnected.into())),
        }
    }

    /// After a failure to send: takes in what had come before it, since the peer's reason may be in it.
    fn lost(&mut self, what: &str, source: io::Error) -> Result<()> {
        self.fail(Error::socket(what, source));
        while !self.ended && self.take_in() {}
        self.check()
    }

    fn start_send(&mut self) -> Result<()> {
        let result = self.engine.start_send(&mut self.out);
        self.settle();
        result.or_else(|e| self.lost("send to the peer", e))
    }

    fn block(&mut self, timeout: Option<Duration>) -> Result<()> {
        let is_open = self.inbox_bytes < self.inbox_bytes_max;
        let past = is_open && (self.deframer.room().is_some() || self.deframer.head_before_large().is_some());
        let result = self.engine.block(timeout, past, &mut self.out);
        self.settle();
        result.or_else(|e| self.lost("wait for the peer", e))
    }

    /// Counts what was sent and takes its memory back.
    fn settle(&mut self) {
        for body in self.out.spent.drain(..) {
            self.framer.recycle(body);
        }
        let sent = std::mem::take(&mut self.out.sent_bytes);
        if let Some(stats) = self.stats.as_ref().filter(|_| sent > 0) {
            stats.wire_bytes.add(sent);
        }
    }

    /// Receives once: the bytes of a large frame into its own memory, what else comes by way of the engine's.
    fn receive(&mut self) -> io::Result<Taken<WireError>> {
        let Self { engine, deframer, head, inbox, inbox_bytes, .. } = self;
        let mut feed = |deframer: &mut Deframer, mut bytes: &[u8]| {
            while let Some(packed) = deframer.feed_packed(&mut bytes)? {
                *inbox_bytes += packed.memory();
                inbox.push_back(packed);
            }
            Ok(())
        };
        head.clear();
        let came = if let Some((body, most)) = deframer.room() {
            engine.receive_now(body, most)?
        } else if let Some(missing) = deframer.head_before_large() {
            engine.receive_now(head, missing)?
        } else {
            false
        };
        if came {
            return Ok(feed(deframer, head).map_or_else(Taken::Bad, |()| Taken::Some));
        }
        engine.receive(|bytes| feed(deframer, bytes))
    }

    /// Takes in once what has come. `false`: nothing had, or nothing more will.
    fn take_in(&mut self) -> bool {
        match self.receive() {
            Ok(Taken::Some) => return true,
            Ok(Taken::Nothing) => return false,
            Ok(Taken::End) => {
                if !self.deframer.is_between() {
                    self.fail(Error::socket("receive a frame from the peer", io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Ok(Taken::Bad(e)) => {
                if e == WireError::Rsync && !self.has_sent {
                    self.engine.say(RSYNC_ANSWER);
                    // The peer may be gone already; there is nobody else to tell.
                    let _ = self.engine.end_writing();
                }
                self.fail(e.into());
            }
            Err(e) => self.fail(Error::socket("receive from the peer", e)),
        }
        self.ended = true;
        false
    }

    /// Sends, and takes in what comes as far as there is room for it, until the kernel has taken all but `left_max` bytes.
    fn pump(&mut self, left_max: usize) -> Result<()> {
        loop {
            self.start_send()?;
            while self.inbox_bytes < self.inbox_bytes_max && !self.ended && self.take_in() {}
            self.check()?;
            if self.engine.unsent(&self.out) <= left_max {
                return Ok(());
            }
            self.block(None)?;
        }
    }

    pub(super) fn send(&mut self, payload: Vec<u8>) -> Result<()> {
        self.check()?;
        self.has_sent = true;
        self.out.push(self.framer.frame(payload));
        if let (Some(judge), Some(socket)) = (self.framer.judge().filter(|judge| judge.is_due()), &self.counted)
            && let Some(on) = judge.judge(tcp::carried(socket.as_fd()).unwrap_or_default())
        {
            tracing::debug!(
                "compression is {} on a connection",
                if on { "on: it pays again" } else { "off: it takes longer than it saves" }
            );
        }
        if self.out.bytes >= SEND_GATHER_BYTES {
            self.start_send()?;
        }
        if self.engine.unsent(&self.out) > SEND_QUEUE_BYTES_MAX { self.pump(SEND_QUEUE_BYTES_MAX) } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.check()?;
        self.start_send()?;
        if self.engine.unsent(&self.out) > 0 { self.pump(0) } else { Ok(()) }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> Result<Incoming> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut looked = false;
        loop {
            if (!self.woken_last || self.inbox.is_empty()) && self.wake.is_set() && self.wake.clear() {
                self.woken_last = true;
                return Ok(Incoming::Woken);
            }
            if let Some(packed) = self.inbox.pop_front() {
                self.woken_last = false;
                self.inbox_bytes -= packed.memory();
                match self.deframer.unpack(packed) {
                    Ok(payload) => return Ok(Incoming::Frame(payload)),
                    Err(e) => {
                        self.inbox.clear();
                        self.inbox_bytes = 0;
                        self.ended = true;
                        self.fail(e.into());
                    }
                }
            }
            self.check()?;
            if self.ended {
                return Ok(Incoming::Closed);
            }
            // In this order: what a send completes beside itself is taken in, or seen in the flag, before anything sleeps.
            self.start_send()?;
            if self.take_in() || self.ended || self.wake.is_set() {
                continue;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if looked && left == Some(Duration::ZERO) {
                return Ok(Incoming::TimedOut);
            }
            self.block(left)?;
            looked = true;
        }
    }

    /// Sends what is queued, says that no more will come, and drops what comes until the peer closes too or the time is over: so that what was
    /// sent last is not lost with the connection.
    pub(super) fn close(mut self, linger: Duration) -> Result<()> {
        let deadline = Instant::now() + linger;
        self.check()?;
        let mut done = false;
        loop {
            self.start_send()?;
            if !done && self.engine.unsent(&self.out) == 0 {
                self.engine.end_writing().map_err(|e| Error::socket("close the connection", e))?;
                done = true;
            }
            // A peer that sends as fast as this takes must not keep it from looking at the time.
            while !self.ended && Instant::now() < deadline && self.take_in() {
                self.inbox.clear();
                self.inbox_bytes = 0;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.ended && done || left.is_zero() {
                return if done { Ok(()) } else { Err(Error::Timeout(linger.as_secs())) };
            }
            self.block(Some(left))?;
        }
    }
}

/// Has the kernel end the connection of a host that has gone without a word: one that leaves probes, or what was sent, unanswered for `silence` (whole
/// seconds, at least 1), or takes nothing more for so long. It wakes no thread.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn keep_alive(socket: &TcpStream, silence: Duration) -> io::Result<()> {
    let seconds = silence.as_secs().clamp(1, TIMEOUT_SECONDS_MAX.into()) as u32;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &(seconds / 2).max(1))?;
    setsockopt(socket, sockopt::TcpKeepInterval, &(seconds / 8).max(1))?;
    setsockopt(socket, sockopt::TcpKeepCount, &4)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &(seconds * 1000))?;
    Ok(())
}

fn engine(socket: TcpStream, io: IoChoice, wake: &Wake) -> Result<Engine> {
    if io != IoChoice::Epoll {
        match socket.try_clone().and_then(|socket| Ring::new(socket, wake)) {
            Ok(ring) => return Ok(Engine::Uring(Box::new(ring))),
            Err(e) if io == IoChoice::Uring => {
                return Err(Error::Usage(format!("io_uring cannot be used here ({e}); --io=auto or --io=epoll can")));
            }
            Err(e) => say_once(&e),
        }
    }
    EpollSocket::new(socket, wake).map(Engine::Epoll).map_err(|e| Error::socket("epoll", e))
}

fn say_once(why: &io::Error) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| tracing::info!("io_uring cannot be used here ({why}): sockets are driven by epoll"));
}
