//! The reader thread and its pool of buffers: kernel queues in, batches out.
//!
//! It looks at events only to count them. It never blocks on anything but its poll, and never holds more than
//! `WATCH_BATCHES_MAX` buffers: when all are with the planner, events stay in the kernel's queues, and overflow there in the end.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::Kernel;
use super::fan::Fan;
use super::ino::{self, Ino};
use crate::limits::{WATCH_BATCH_BYTES, WATCH_BATCHES_MAX, WATCH_EAGER_READS, WATCH_ERROR_PAUSE, WATCH_GATHER, WATCH_LOAD_EVENTS};
use crate::model::event::Event;
use crate::ring::Producer;
use crate::stats::Stats;
use crate::sys::mounts::{Change, MountsBelow};
use crate::sys::wake::{Bell, Wake, wait_readable};

/// What the reader shares with the batches that it made.
pub(super) struct Shared {
    pub(super) kernel: Arc<Kernel>,
    /// Empty buffers. Together with the batches in the ring and at the planner: [`WATCH_BATCHES_MAX`].
    pool: ArrayQueue<Vec<u8>>,
    /// The reader found the pool empty and sleeps until a buffer comes back.
    /// Its store before the reader's second look pairs with the swap after a buffer's return (both sequentially consistent): one of them sees the other.
    starved: AtomicBool,
    /// The reader's own.
    pub(super) wake: Wake,
    pub(super) stop: AtomicBool,
}

impl Shared {
    pub(super) fn new(kernel: Arc<Kernel>) -> io::Result<Arc<Self>> {
        let pool = ArrayQueue::new(WATCH_BATCHES_MAX);
        // Memory is taken when a buffer is first used: at rest one or two are.
        while pool.push(Vec::new()).is_ok() {}
        Ok(Arc::new(Self { kernel, pool, starved: AtomicBool::new(false), wake: Wake::new()?, stop: AtomicBool::new(false) }))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // No more buffers exist than the pool has places.
        let _ = self.pool.push(buffer);
        if self.starved.swap(false, Ordering::SeqCst) {
            self.wake.wake();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Fan,
    Ino,
    /// A read failed: its queue may have lost events. Or something was mounted, or is not any more, where nothing tells events of what is there now.
    Lost,
}

/// Events as one read gave them. Dropping it gives the buffer back to the watcher, which has [`WATCH_BATCHES_MAX`] of them in all.
pub struct Batch {
    pub(super) source: Source,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Batch {
    /// Calls `each` with every event, in the kernel's order: which is no order between different names.
    pub fn for_each(&self, mut each: impl FnMut(Event<'_>)) {
        match (self.source, &self.shared.kernel.fan) {
            (Source::Fan, Some(fan)) => fan.for_each(&self.buffer, each),
            (Source::Ino, _) => ino::for_each(&self.buffer, each),
            (Source::Lost | Source::Fan, _) => each(Event::Overflow),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.give_back(std::mem::take(&mut self.buffer));
    }
}

/// The thread's own.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) ring: Producer<Batch>,
    pub(super) planner: Bell,
    pub(super) stats: Arc<Stats>,
    /// What is mounted in what is watched, where that can be told.
    pub(super) mounts: Option<MountsBelow>,
}

/// How eagerly to read: a bucket of tokens, one for each read, refilled by one every [`WATCH_GATHER`].
struct Pace {
    tokens: u32,
    refilled: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { tokens: WATCH_EAGER_READS, refilled: now }
    }

    fn refill(&mut self, now: Instant) -> Duration {
        let past = now.saturating_duration_since(self.refilled);
        let earned = past.as_micros() / WATCH_GATHER.as_micros().max(1);
        if earned == 0 {
            return past;
        }
        self.tokens = self.tokens.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(WATCH_EAGER_READS);
        self.refilled = now;
        Duration::ZERO
    }

    /// How long to let events gather before the read that is due `now`.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let past = self.refill(now);
        if self.tokens > 0 { None } else { Some(WATCH_GATHER.saturating_sub(past)) }
    }

    /// Notes a read at `now` that gave `events`.
    fn spend(&mut self, events: u64, now: Instant) {
        // What was earned while events gathered pays for this read.
        self.refill(now);
        self.tokens = if events >= WATCH_LOAD_EVENTS { 0 } else { self.tokens.saturating_sub(1) };
    }
}

impl Reader {
    /// Runs until told to stop, or until the planner's end of the ring is gone.
    pub(super) fn run(mut self) {
        let kernel = Arc::clone(&self.shared.kernel);
        let own_wake = self.shared.wake.clone();
        let mut fds = vec![own_wake.as_fd()];
        fds.extend(kernel.fan.as_ref().map(Fan::as_fd));
        fds.extend(kernel.ino.as_ref().map(Ino::as_fd));
        let mut pace = Pace::new(Instant::now());
        while !self.is_over() {
            let waited = match &mut self.mounts {
                Some(mounts) => mounts.wait(&fds),
                None => wait_readable(&fds, None).map(|_| Change::None),
            };
            match waited {
                Ok(Change::None) => {}
                Ok(change) => {
                    tracing::info!("something was mounted or unmounted in the source: every directory is looked at again");
                    self.stats.mounts.add(1);
                    self.stats.unmounts.add(u64::from(change == Change::Unmounted));
                    self.lost();
                }
                Err(e) => {
                    // The kernel is short of memory, if anything: look what there is, but do not spin.
                    tracing::warn!("waiting for file system events: {e}");
                    self.pause(WATCH_ERROR_PAUSE);
                }
            }
            if self.shared.wake.is_set() {
                self.shared.wake.clear();
            }
            if let Some(gather) = pace.wait(Instant::now()) {
                self.pause(gather);
            }
            let mut events = 0;
            if let Some(fan) = &kernel.fan {
                events += self.drain(Source::Fan, |buffer| fan.read(buffer), |buffer| fan.count(buffer));
            }
            if let Some(ino) = &kernel.ino {
                events += self.drain(Source::Ino, |buffer| ino.read(buffer), ino::count);
            }
            pace.spend(events, Instant::now());
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire) || self.ring.is_closed()
    }

    /// Sleeps for `time`, or until this thread is woken.
    fn pause(&self, time: Duration) {
        self.shared.wake.wait(Some(time));
    }

    /// Reads one queue until it is empty, as it was when this began: a buffer that was not filled ends it. Returns how many events came.
    fn drain(
        &mut self,
        source: Source,
        mut read: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
        mut count: impl FnMut(&[u8]) -> (u64, u64),
    ) -> u64 {
        let mut total = 0;
        loop {
            let Some(mut buffer) = self.buffer() else { return total };
            buffer.reserve_exact(WATCH_BATCH_BYTES);
            let got = match read(&mut buffer) {
                Ok(got) => got,
                Err(e) => {
                    self.shared.give_back(buffer);
                    if e.kind() != io::ErrorKind::WouldBlock {
                        self.failed(&e);
                    }
                    return total;
                }
            };
            let (events, overflows) = count(&buffer);
            total += events;
            self.stats.events.add(events);
            self.stats.overflows.add(overflows);
            if events + overflows > 0 {
                self.publish(source, buffer);
            } else {
                self.shared.give_back(buffer);
            }
            // The kernel stops when the next event does not fit; none is longer than a page.
            if got + 4096 <= WATCH_BATCH_BYTES {
                return total;
            }
        }
    }

    /// An empty buffer; waits until there is one. `None` when it is time to stop.
    fn buffer(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.is_over() {
                return None;
            }
            if let Some(buffer) = self.shared.pool.pop() {
                return Some(buffer);
            }
            self.shared.starved.store(true, Ordering::SeqCst);
            if let Some(buffer) = self.shared.pool.pop() {
                self.shared.starved.store(false, Ordering::SeqCst);
                return Some(buffer);
            }
            // Stop, the planner's leaving and a buffer's return all wake.
            self.shared.wake.wait(None);
        }
    }

    fn publish(&mut self, source: Source, buffer: Vec<u8>) {
        let batch = Batch { source, buffer, shared: Arc::clone(&self.shared) };
        // The ring has a place for every buffer that exists, so it takes this one. A planner that is gone reads nothing.
        let refused = self.ring.push(batch).is_err();
        debug_assert!(!refused, "more batches than buffers");
        self.planner.ring();
    }

    /// A queue could not be read: whatever was in it has to be looked for.
    fn failed(&mut self, error: &io::Error) {
        tracing::error!("reading file system events: {error}; a full scan follows");
        self.stats.overflows.add(1);
        self.lost();
        self.pause(WATCH_ERROR_PAUSE);
    }

    /// Whatever there is has to be looked at.
    fn lost(&mut self) {
        if let Some(buffer) = self.buffer() {
            self.publish(Source::Lost, buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_reads_are_eager_and_load_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..WATCH_EAGER_READS {
            assert_eq!(pace.wait(start), None);
            pace.spend(1, start);
        }
        assert_eq!(pace.wait(start), Some(WATCH_GATHER));
        assert_eq!(pace.wait(start + WATCH_GATHER / 2), Some(WATCH_GATHER / 2));
        // One read in each gathering time from now on, be it waited for before or after.
        let mut now = start;
        for _ in 0..10 {
            now += WATCH_GATHER;
            pace.spend(1, now);
            assert_eq!(pace.wait(now), Some(WATCH_GATHER));
            now += WATCH_GATHER;
            assert_eq!(pace.wait(now), None);
            pace.spend(1, now);
            assert_eq!(pace.wait(now), Some(WATCH_GATHER));
        }
        // Rest fills the bucket again; load empties it at once.
        now += WATCH_GATHER * 1000;
        assert_eq!(pace.wait(now), None);
        pace.spend(WATCH_LOAD_EVENTS, now);
        assert_eq!(pace.wait(now), Some(WATCH_GATHER));
    }
}
