//! Which times a filesystem can hold.

use crate::model::meta::Time;

const SECOND: u32 = 1_000_000_000;

/// The times that a filesystem can hold: what it is given beyond is cut as Linux does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    grain: u32,
    first: i64,
    last: i64,
}

impl Default for Times {
    fn default() -> Self {
        Self::ALL
    }
}

impl Times {
    /// All that there are.
    pub const ALL: Self = Self { grain: 1, first: i64::MIN, last: i64::MAX };

    /// The multiples of `grain` nanoseconds from the second `first` to the second `last`; `None` for a grain that is no part of a second, nor one or two, or for no
    /// times at all.
    pub fn new(grain: u32, first: i64, last: i64) -> Option<Self> {
        let is_grain = grain == 2 * SECOND || (grain > 0 && SECOND.is_multiple_of(grain));
        (is_grain && first < last).then_some(Self { grain, first, last })
    }

    /// By what became of a time with an odd second and 999,999,999 ns, and by what became of the earliest and the latest of all.
    pub fn by_samples(sample: Time, first: Time, last: Time) -> Option<Self> {
        let grain = if sample.sec & 1 == 0 { 2 * SECOND } else { SECOND - sample.nsec.min(SECOND - 1) };
        Self::new(grain, first.sec, last.sec)
    }

    /// The grain in nanoseconds.
    pub fn grain(self) -> u32 {
        self.grain
    }

    /// The first and the last second.
    pub fn range(self) -> (i64, i64) {
        (self.first, self.last)
    }

    /// What becomes of a time.
    pub fn cut(self, time: Time) -> Time {
        match time {
            Time { sec, .. } if sec <= self.first => Time { sec: self.first, nsec: 0 },
            Time { sec, .. } if sec >= self.last => Time { sec: self.last, nsec: 0 },
            Time { sec, .. } if self.grain == 2 * SECOND => Time { sec: sec & !1, nsec: 0 },
            Time { sec, nsec } => Time { sec, nsec: nsec - nsec % self.grain },
        }
    }

    /// Whether `have` is what becomes of `want`, or is `want`: not whether two times would become one there, for one that is known whole tells more.
    pub fn holds(self, want: Time, have: Time) -> bool {
        have == want || have == self.cut(want)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sec: i64, nsec: u32) -> Time {
        Time { sec, nsec }
    }

    #[test]
    fn samples_tell_what_is_held_and_how_it_is_cut() {
        let (first, last) = (at(-1 << 31, 0), at((1 << 31) - 1, 0));
        for (sample, grain, time, cut) in [
            (at(1, 999_999_999), 1, at(7, 123_456_789), at(7, 123_456_789)),
            (at(1, 999_999_900), 100, at(7, 123_456_789), at(7, 123_456_700)),
            (at(1, 990_000_000), 10_000_000, at(-7, 123_456_789), at(-7, 120_000_000)),
            (at(1, 0), SECOND, at(7, 123_456_789), at(7, 0)),
            (at(0, 0), 2 * SECOND, at(7, 123_456_789), at(6, 0)),
        ] {
            let times = Times::by_samples(sample, first, last).unwrap();
            assert_eq!((times.grain(), times.range()), (grain, (first.sec, last.sec)));
            assert_eq!(times.cut(time), cut);
            assert_eq!([times.cut(at(1 << 40, 5)), times.cut(at(-1 << 40, 5))], [last, first]);
            assert!(times.holds(time, cut) && times.holds(time, time) && times.holds(at(1 << 40, 5), last));
            assert!(!times.holds(time, at(9, 0)) && !times.holds(time, at(time.sec, 123_456_788)));
            assert!(!times.holds(at(-1 << 40, 5), at(i64::MIN, 0)), "what is not known is like no other");
        }
        assert_eq!(Times::by_samples(at(1, 999_999_998), first, last).map(Times::grain), Some(2));
        for (sample, last) in [(at(1, 999_999_993), last), (at(1, 999_999_999), first)] {
            assert_eq!(Times::by_samples(sample, first, last), None);
        }
        assert!(Times::ALL.cut(at(i64::MAX - 1, 999_999_999)).nsec > 0 && !Times::ALL.holds(at(1, 1), at(1, 0)));
    }
}
