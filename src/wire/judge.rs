//! Whether compression pays on one link: it does while the bytes that it saves would take longer on the way than it takes to save them.
//!
//! Pure: it is told what compression cost and what the connection has carried, and reads no clock. Whether a payload shrinks at all is
//! seen by its sample, in `frame`; what does not shrink says nothing here.

use crate::limits::{COMPRESS_JUDGED_BYTES, COMPRESS_TRIAL_BYTES};
use crate::sys::tcp::Carried;

/// Part of the cost that the gain has to differ by before anything is changed: 1/4.
const MARGIN: u64 = 4;
/// Verdicts that have to agree, one after the other, before anything is changed.
const VERDICTS: u8 = 2;

/// Decides for one link. Begins with compression.
///
/// Invariant: `raw`, `saved` and `cost_ns` are of the payloads compressed since the last verdict.
#[derive(Debug)]
pub struct Judge {
    on: bool,
    raw: u64,
    saved: u64,
    cost_ns: u64,
    /// Payload bytes sent as they are since compression was tried last, while it is off.
    passed: u64,
    seen: Carried,
    /// Verdicts against the present state, one after the other.
    against: u8,
}

impl Default for Judge {
    fn default() -> Self {
        Self { on: true, raw: 0, saved: 0, cost_ns: 0, passed: 0, seen: Carried::default(), against: 0 }
    }
}

impl Judge {
    /// Whether the next payload is to be compressed: because it pays, or for a trial.
    pub fn wants(&self) -> bool {
        self.on || self.passed >= COMPRESS_TRIAL_BYTES
    }

    /// A payload of `raw` bytes was compressed to `packed` within so many nanoseconds.
    pub fn compressed(&mut self, raw: usize, packed: usize, cost_ns: u64) {
        self.raw += raw as u64;
        self.saved += raw.saturating_sub(packed) as u64;
        self.cost_ns += cost_ns;
    }

    /// A payload of `raw` bytes goes as it is.
    pub fn passed(&mut self, raw: usize) {
        self.passed = self.passed.saturating_add(raw as u64);
    }

    /// Whether enough was compressed for a verdict.
    pub fn is_due(&self) -> bool {
        self.raw >= COMPRESS_JUDGED_BYTES
    }

    /// The verdict, from what the connection has carried up to now. Says whether compression is on from here on, if that is new.
    pub fn judge(&mut self, now: Carried) -> Option<bool> {
        let bytes = now.bytes.saturating_sub(self.seen.bytes);
        let busy_ns = now.busy_ns.saturating_sub(self.seen.busy_ns);
        let (saved, cost_ns) = (self.saved, self.cost_ns);
        (self.raw, self.saved, self.cost_ns, self.passed, self.seen) = (0, 0, 0, 0, now);
        if bytes == 0 || busy_ns == 0 {
            return None;
        }
        // What the saved bytes would have taken, at the rate of those that went.
        let gain_ns = (u128::from(saved) * u128::from(busy_ns) / u128::from(bytes)) as u64;
        let margin = cost_ns / MARGIN;
        let is_against = if self.on { gain_ns + margin < cost_ns } else { gain_ns > cost_ns + margin };
        self.against = if is_against { self.against + 1 } else { 0 };
        if self.against < VERDICTS {
            if is_against {
                // Once more, at once.
                self.passed = COMPRESS_TRIAL_BYTES;
            }
            return None;
        }
        self.against = 0;
        self.on = !self.on;
        Some(self.on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A link of so many bytes a millisecond, over which payloads that shrink to a quarter go; compression takes 1 ms a mebibyte.
    struct Link {
        rate: u64,
        carried: Carried,
        judge: Judge,
        changes: Vec<bool>,
    }

    impl Link {
        fn send(&mut self, mebibytes: u64) {
            for _ in 0..mebibytes {
                let wanted = self.judge.wants();
                let on_wire = if wanted { MIB / 4 } else { MIB };
                if wanted {
                    self.judge.compressed(MIB as usize, on_wire as usize, 1_000_000);
                } else {
                    self.judge.passed(MIB as usize);
                }
                self.carried.bytes += on_wire;
                self.carried.busy_ns += on_wire * 1_000_000 / self.rate;
                if self.judge.is_due() {
                    self.changes.extend(self.judge.judge(self.carried));
                }
            }
        }
    }

    #[test]
    fn compression_is_off_where_the_link_is_faster() {
        // 0.75 MiB a millisecond are saved: a link that carries more needs no compression.
        for (rate, changes) in [(MIB / 80, vec![]), (MIB / 2, vec![]), (2 * MIB, vec![false]), (100 * MIB, vec![false])] {
            let mut link = Link { rate, carried: Carried::default(), judge: Judge::default(), changes: vec![] };
            link.send(1000);
            assert_eq!(link.changes, changes, "{rate}");
        }
    }

    #[test]
    fn a_link_that_becomes_slow_is_noticed_and_one_near_the_border_rests() {
        let mut link = Link { rate: 2 * MIB, carried: Carried::default(), judge: Judge::default(), changes: vec![] };
        link.send(100);
        link.rate = MIB / 80;
        link.send(300);
        assert_eq!(link.changes, [false, true]);
        // A little above, a little below: within the margin.
        for round in 0..50 {
            link.rate = if round % 2 == 0 { MIB * 70 / 100 } else { MIB * 80 / 100 };
            link.send(100);
        }
        assert_eq!(link.changes, [false, true]);
    }

    #[test]
    fn without_figures_nothing_changes() {
        let mut judge = Judge::default();
        for _ in 0..10 {
            judge.compressed(2 << 20, 1000, 5);
            assert_eq!(judge.judge(Carried::default()), None);
        }
        assert!(judge.wants());
    }
}
