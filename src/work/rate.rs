//! A bound on how fast content is read to be compared: a schedule that all workers share. It wakes nobody; whoever is told to wait sets its own alarm.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::SUM_BYTES_MAX;

/// The shortest part of a file that is asked for, however low the rate.
const PART_BYTES_MIN: u64 = 64 * 1024;

/// Bytes in a second, or no bound. Invariant: what was granted so far is spent at `free` at the earliest.
#[derive(Debug)]
pub struct Rate {
    bytes_per_sec: u64,
    free: Mutex<Option<Instant>>,
}

impl Rate {
    /// `bytes_per_sec` of 0 is no bound.
    pub fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec, free: Mutex::new(None) }
    }

    /// From when on `bytes` may be read. They count as read.
    pub fn grant(&self, bytes: u64, now: Instant) -> Instant {
        if self.bytes_per_sec == 0 {
            return now;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.map_or(now, |free| free.max(now));
        let cost = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_sec as f64).unwrap_or(Duration::MAX);
        *free = at.checked_add(cost).or(*free);
        at
    }

    /// Most bytes to be granted at once: a quarter of a second's.
    pub fn part_bytes(&self) -> u64 {
        if self.bytes_per_sec == 0 { SUM_BYTES_MAX } else { (self.bytes_per_sec / 4).clamp(PART_BYTES_MIN, SUM_BYTES_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_keeps_to_the_rate_and_time_that_passed_is_not_saved_up() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rate = Rate::new(1_000_000);
        assert_eq!(rate.grant(100_000, start), start);
        assert_eq!(rate.grant(100_000, start), at(100));
        assert_eq!(rate.grant(1, at(5000)), at(5000));
        assert_eq!(rate.grant(1_000_000, at(5000)), at(5000) + Duration::from_micros(1));
        assert_eq!(rate.part_bytes(), 250_000);
        let free = Rate::new(0);
        assert_eq!([free.grant(u64::MAX, start), free.grant(u64::MAX, start)], [start; 2]);
        assert_eq!((free.part_bytes(), Rate::new(1).part_bytes()), (SUM_BYTES_MAX, PART_BYTES_MIN));
    }
}
