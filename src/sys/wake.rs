//! A wake-up for one thread from any other: an eventfd that a thread can wait on beside its other descriptors.
//!
//! Carries no data: what there is to do stands in a queue that the woken thread looks through after [`Wake::clear`]. It never loses
//! a wake-up and never blocks the waker. Used by the planner, the watcher's consumers and every link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

struct Inner {
    fd: EventFd,
    /// Set from the first `wake` until `clear`: further wakes then cost no system call.
    /// The swap in `wake` (release) pairs with the swap in `clear` (acquire): what was queued before a wake is seen after the clear that takes it.
    set: AtomicBool,
}

/// A wake-up that any thread can give and one thread waits for. Clones are the same wake-up.
///
/// Invariant: if the flag is set, the descriptor is readable, or will be as soon as the waker that set it has finished its call.
#[derive(Clone)]
pub struct Wake(Arc<Inner>);

impl Wake {
    /// A new one, not woken.
    ///
    /// # Errors
    /// As `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Inner { fd, set: AtomicBool::new(false) })))
    }

    /// Wakes the waiting thread, or makes its next wait return at once. Wakes before the next [`Wake::clear`] count as one and cost no system call.
    pub fn wake(&self) {
        if !self.0.set.swap(true, Ordering::AcqRel) {
            // The only way for this to fail is a counter at its maximum, and then the descriptor is readable already.
            let _ = self.0.fd.write(1);
        }
    }

    /// Whether it is woken and not cleared: one atomic load.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Takes the wake-up: to be called after a poll of the descriptor returned, or when [`Wake::is_set`], and *before* queues are looked through. A wake
    /// after it is always seen. Says whether there was one: the descriptor can have been readable for one that was taken already.
    pub fn clear(&self) -> bool {
        // In this order: a wake between the two finds the flag still set and writes nothing, but its work is queued before the flag is
        // taken here, so the caller sees it. The other order could leave the flag set over an empty descriptor, for ever.
        let mut count = [0; 8];
        let _ = nix::unistd::read(&self.0.fd, &mut count);
        self.0.set.swap(false, Ordering::AcqRel)
    }

    /// Waits until woken, or until `timeout` has passed; `None` waits without end. Takes the wake-up and says whether there was one.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if self.is_set() && self.clear() {
                return true;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            match wait_readable(&[self.as_fd()], left) {
                // The descriptor may be readable for a wake-up that was taken already: look again.
                Ok(true) => {
                    if self.clear() {
                        return true;
                    }
                }
                Ok(false) if left.is_some() => return self.clear(),
                // Neither a timeout without a deadline nor a failing poll of a live descriptor happens; looking again is right for both.
                Ok(false) | Err(_) => {}
            }
        }
    }
}

/// Rings whoever waits now: a [`Wake`] that can be exchanged for another while others hold it. Clones are the same bell. Costs a lock that nobody else takes, but for
/// whoever exchanges it.
#[derive(Debug, Clone)]
pub struct Bell(Arc<Mutex<Wake>>);

impl Bell {
    /// One that wakes `wake`.
    pub fn new(wake: Wake) -> Self {
        Self(Arc::new(Mutex::new(wake)))
    }

    /// Wakes who is to be woken now.
    pub fn ring(&self) {
        self.lock().wake();
    }

    /// From the return on it wakes `wake`. What was rung for before has to be looked for once more.
    pub fn wake_by(&self, wake: Wake) {
        *self.lock() = wake;
    }

    fn lock(&self) -> MutexGuard<'_, Wake> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wake({})", self.is_set())
    }
}

/// Waits until one of `fds` is readable (or has hung up), or until `timeout` has passed; `None` waits without end. `false`: nothing is readable.
/// An interrupting signal counts as readable: the caller looks again.
///
/// # Errors
/// As `ppoll(2)`.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn wakes_add_up_to_one_and_a_clear_takes_them() {
        let wake = Wake::new().unwrap();
        assert!(!wake.wait(Some(Duration::ZERO)));
        wake.wake();
        wake.clone().wake();
        assert!(wake.is_set());
        assert!(wake.wait(None));
        assert!(!wake.is_set());
        assert!(!wake.wait(Some(Duration::from_millis(1))));
        wake.wake();
        assert!(wake.clear());
        assert!(!wake.clear());
    }

    #[test]
    fn a_bell_rings_whoever_it_was_given_last() {
        let (first, second) = (Wake::new().unwrap(), Wake::new().unwrap());
        let bell = Bell::new(first.clone());
        bell.clone().ring();
        assert!(first.clear());
        bell.wake_by(second.clone());
        bell.clone().ring();
        assert!(!first.is_set() && second.is_set());
    }

    /// A lost wake-up would leave the waiter asleep with work in the queue: the deadline fails the test then.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ROUNDS: u64 = 100_000;
        let wake = Wake::new().unwrap();
        let queued = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let waker = std::thread::spawn({
            let (wake, queued, seen) = (wake.clone(), Arc::clone(&queued), Arc::clone(&seen));
            move || {
                for round in 1..=ROUNDS {
                    queued.store(round, Ordering::Relaxed);
                    wake.wake();
                    if round % 16 == 0 {
                        while seen.load(Ordering::Relaxed) < round {
                            std::thread::yield_now();
                        }
                    }
                }
            }
        });
        while seen.load(Ordering::Relaxed) < ROUNDS {
            assert!(wake.wait(Some(Duration::from_secs(20))), "a wake-up was lost");
            seen.store(queued.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        waker.join().unwrap();
    }
}
