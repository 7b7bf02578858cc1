//! How long to wait before a lost connection is made again: doubled with each failure, never longer than a limit, and never quite the same, so that many
//! senders whose server was away do not all come back at one moment. No clock of its own.

use std::time::Duration;

/// The first wait, doubled with each failure.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A session that lasted so long was a good one: the next wait is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// See the module's comment. Invariant: `WAIT_MIN <= next <= WAIT_MAX`.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: WAIT_MIN }
    }

    /// The wait after a session that lasted for `lasted`; zero where none came about. `random` is any number: the wait is cut by up to a half.
    pub(super) fn wait(&mut self, lasted: Duration, random: u64) -> Duration {
        if lasted >= GOOD_SESSION {
            self.next = WAIT_MIN;
        }
        let full = self.next;
        self.next = (full * 2).min(WAIT_MAX);
        let half = full / 2;
        half + half.mul_f64((random % 1024) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_begin_again_after_a_good_session() {
        let mut backoff = Backoff::new();
        let mut full = WAIT_MIN;
        for random in 0..40 {
            let wait = backoff.wait(Duration::from_secs(1), random * 51);
            assert!(full / 2 <= wait && wait < full, "{wait:?} of {full:?}");
            full = (full * 2).min(WAIT_MAX);
        }
        assert!(backoff.wait(GOOD_SESSION, 1023) < WAIT_MIN);
        assert!(backoff.wait(Duration::ZERO, 0) >= WAIT_MIN);
    }
}
