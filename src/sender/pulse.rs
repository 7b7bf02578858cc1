//! Whether the receiver still lives, where the user gave a timeout: asked when it has been silent for half of it. Time and counters come from outside.

use std::time::{Duration, Instant};

/// What is sent on all connections while a question is out, and is no sign of life: the question itself.
const PING_BYTES: u64 = 64;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing.
    None,
    /// Send a Ping.
    Ask,
    /// The receiver was silent too long.
    Dead,
}

/// See the module's comment. Alive is who says something, or takes bytes: a large cycle is answered only when all of it has arrived.
pub(super) struct Pulse {
    limit: Duration,
    alive: Instant,
    taken: u64,
    asked: bool,
}

impl Pulse {
    /// `taken` is how many bytes connections have taken before.
    pub(super) fn new(limit: Duration, taken: u64, now: Instant) -> Self {
        Self { limit, alive: now, taken, asked: false }
    }

    /// The timeout.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// The receiver said something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.alive = now;
        self.asked = false;
    }

    /// When [`Pulse::beat`] is to be called.
    pub(super) fn due(&self) -> Instant {
        self.alive + if self.asked { self.limit } else { self.limit / 2 }
    }

    /// What is to be done now; `taken` is how many bytes all connections have taken so far.
    pub(super) fn beat(&mut self, taken: u64, now: Instant) -> Beat {
        if now < self.due() {
            return Beat::None;
        }
        if taken > self.taken + PING_BYTES {
            self.taken = taken;
            self.alive = now;
            return Beat::None;
        }
        self.taken = taken;
        if self.asked {
            return Beat::Dead;
        }
        // It has half of the limit to answer, however late it is asked: this process may have been stopped.
        self.alive = now - self.limit / 2;
        self.asked = true;
        Beat::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn whoever_is_silent_is_asked_and_then_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(LIMIT, 0, start);
        assert_eq!((pulse.beat(0, at(4)), pulse.due()), (Beat::None, at(5)));
        assert_eq!((pulse.beat(0, at(5)), pulse.due()), (Beat::Ask, at(10)));
        assert_eq!(pulse.beat(17, at(9)), Beat::None);
        pulse.heard(at(9));
        assert_eq!(pulse.beat(17, at(14)), Beat::Ask);
        assert_eq!(pulse.beat(34, at(19)), Beat::Dead);
    }

    #[test]
    fn whoever_takes_bytes_lives() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(LIMIT, 0, start);
        assert_eq!(pulse.beat(0, at(5)), Beat::Ask);
        for turn in 1..10 {
            assert_eq!(pulse.beat(turn * 1_000_000, at(turn * 10)), Beat::None);
        }
        assert_eq!(pulse.beat(9_000_000, at(100)), Beat::Dead);
    }

    #[test]
    fn who_was_stopped_itself_asks_first() {
        let start = Instant::now();
        let mut pulse = Pulse::new(LIMIT, 0, start);
        let later = start + LIMIT * 100;
        assert_eq!((pulse.beat(0, later), pulse.due()), (Beat::Ask, later + LIMIT / 2));
    }
}
