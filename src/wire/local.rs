//! The in-process link: payloads go from one thread to another by move, without checksum, compression or copy.
//!
//! Each way is a queue bounded in frames and bytes. A sender that finds it full sleeps until there is room and takes in what comes
//! for it meanwhile, so that two ends that both send cannot block each other.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::limits::{FRAME_PAYLOAD_BYTES_MAX, INBOX_BYTES_MAX, LOCAL_QUEUE_BYTES_MAX, LOCAL_QUEUE_FRAMES_MAX};
use crate::sys::wake::{Wake, wait_readable};
use crate::wire::link::Incoming;
use crate::wire::pool::Pool;

/// What is on its way to one end. Invariant: `bytes` is the sum of the lengths of `frames`.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The other end sleeps until there is room.
    sender_waits: bool,
}

impl Queue {
    fn has_room(&self, len: usize) -> bool {
        self.frames.is_empty() || (self.frames.len() < LOCAL_QUEUE_FRAMES_MAX && self.bytes + len <= LOCAL_QUEUE_BYTES_MAX)
    }
}

#[derive(Default)]
struct State {
    /// By the end that receives.
    queues: [Queue; 2],
    gone: [bool; 2],
    pool: Pool,
}

/// One end of an in-process link, to be sent to its thread and turned into a link there. Dropping it closes the link.
pub struct LocalEnd {
    state: Arc<Mutex<State>>,
    side: usize,
    /// Rung by the other end: something came, there is room again, or it is gone.
    bell: Wake,
    peer_bell: Wake,
    /// Given out by `Link::wake`.
    wake: Wake,
}

/// The two ends of a new link.
///
/// # Errors
/// As `eventfd(2)`: out of descriptors.
pub(super) fn pair() -> Result<(LocalEnd, LocalEnd)> {
    let wake = || Wake::new().map_err(|e| Error::socket("eventfd", e));
    let state = Arc::new(Mutex::new(State::default()));
    let bells = [wake()?, wake()?];
    let end = |side: usize, wake: Wake| LocalEnd {
        state: Arc::clone(&state),
        side,
        bell: bells[side].clone(),
        peer_bell: bells[1 - side].clone(),
        wake,
    };
    Ok((end(0, wake()?), end(1, wake()?)))
}

impl LocalEnd {
    /// A panic while the lock is held leaves a queue that is whole: every change under it is complete in itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalEnd {
    fn drop(&mut self) {
        let mut state = self.state();
        state.gone[self.side] = true;
        state.queues[self.side] = Queue::default();
        drop(state);
        self.peer_bell.wake();
    }
}

/// The link, in the thread that uses it.
pub struct LocalLink {
    end: LocalEnd,
    /// Taken out of the queue, not yet asked for.
    inbox: VecDeque<Vec<u8>>,
    inbox_bytes: usize,
    peer_gone: bool,
    woken_last: bool,
}

impl LocalLink {
    pub(super) fn new(end: LocalEnd) -> Self {
        Self { end, inbox: VecDeque::new(), inbox_bytes: 0, peer_gone: false, woken_last: false }
    }

    pub(super) fn wake(&self) -> Wake {
        self.end.wake.clone()
    }

    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.end.state().pool.get()
    }

    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        self.end.state().pool.put(buffer);
    }

    /// Moves what has come from the queue into the inbox.
    fn take_in(&mut self) {
        let mut state = self.end.state();
        let queue = &mut state.queues[self.end.side];
        let frames = std::mem::take(&mut queue.frames);
        let bytes = std::mem::take(&mut queue.bytes);
        let ring = std::mem::take(&mut queue.sender_waits);
        self.peer_gone = state.gone[1 - self.end.side];
        drop(state);
        if ring {
            self.end.peer_bell.wake();
        }
        self.inbox_bytes += bytes;
        self.inbox.extend(frames);
    }

    pub(super) fn send(&mut self, payload: Vec<u8>) -> Result<()> {
        debug_assert!((1..=FRAME_PAYLOAD_BYTES_MAX).contains(&payload.len()));
        loop {
            let mut state = self.end.state();
            if state.gone[1 - self.end.side] {
                return Err(Error::socket("send to the mirror's thread", std::io::ErrorKind::BrokenPipe.into()));
            }
            let queue = &mut state.queues[1 - self.end.side];
            if queue.has_room(payload.len()) {
                queue.bytes += payload.len();
                queue.frames.push_back(payload);
                drop(state);
                self.end.peer_bell.wake();
                return Ok(());
            }
            queue.sender_waits = true;
            drop(state);
            self.end.bell.wait(None);
            if self.inbox_bytes < INBOX_BYTES_MAX {
                self.take_in();
            }
        }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> Result<Incoming> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if self.inbox.is_empty() {
                self.end.bell.clear();
                self.take_in();
            }
            if (!self.woken_last || self.inbox.is_empty()) && self.end.wake.is_set() {
                self.end.wake.clear();
                self.woken_last = true;
                return Ok(Incoming::Woken);
            }
            self.woken_last = false;
            if let Some(payload) = self.inbox.pop_front() {
                self.inbox_bytes -= payload.len();
                return Ok(Incoming::Frame(payload));
            }
            if self.peer_gone {
                return Ok(Incoming::Closed);
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Incoming::TimedOut);
            }
            wait_readable(&[self.end.bell.as_fd(), self.end.wake.as_fd()], left).map_err(|e| Error::socket("poll", e))?;
            // The descriptor may be readable for a wake-up that was taken already; that must not make the next poll return at once again.
            if !self.end.wake.is_set() && self.end.wake.clear() {
                self.woken_last = true;
                return Ok(Incoming::Woken);
            }
        }
    }
}
