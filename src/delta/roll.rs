//! The rolling hash: a polynomial modulo 2^64 over a window of one block.
//!
//! Says only that two blocks may be equal: equal values can be made at will, so whoever uses it bounds what an equal value can cost.

/// Base of the polynomial: odd and 5 modulo 8, so that its powers take long to repeat, with its bits well mixed.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Powers 0 to 8 of the factor.
const POWERS: [u64; 9] = {
    let mut powers = [1u64; 9];
    let mut at = 1;
    while at < 9 {
        powers[at] = powers[at - 1].wrapping_mul(FACTOR);
        at += 1;
    }
    powers
};

/// How many of its bits a signature keeps: the upper ones, which depend on all others.
pub const KEPT_BITS: u32 = 48;

/// The bits of a hash that are kept.
pub fn kept(hash: u64) -> u64 {
    hash >> (64 - KEPT_BITS)
}

/// The hash of what `hash` is the hash of, with `bytes` behind it. The hash of nothing is 0.
pub fn extend(hash: u64, bytes: &[u8]) -> u64 {
    let (groups, rest) = bytes.as_chunks::<8>();
    // Eight products that do not wait for each other, and one that does.
    let hash = groups.iter().fold(hash, |hash, group| {
        let sum = (0..8).fold(0u64, |sum, at| sum.wrapping_add(u64::from(group[at]).wrapping_mul(POWERS[7 - at])));
        hash.wrapping_mul(POWERS[8]).wrapping_add(sum)
    });
    rest.iter().fold(hash, |hash, byte| hash.wrapping_mul(FACTOR).wrapping_add(u64::from(*byte)))
}

/// Moves windows of one length on by a byte.
#[derive(Debug)]
pub struct Roller {
    /// What each byte has to be replaced by when it leaves the window.
    leaving: [u64; 256],
}

impl Roller {
    /// For windows of `len` bytes.
    pub fn new(len: u32) -> Self {
        let power = FACTOR.wrapping_pow(len);
        Self { leaving: std::array::from_fn(|byte| (byte as u64).wrapping_mul(power).wrapping_neg()) }
    }

    /// The hash of the window that lost `old` in front and has `new` at its end.
    #[inline(always)]
    pub fn roll(&self, hash: u64, old: u8, new: u8) -> u64 {
        hash.wrapping_mul(FACTOR).wrapping_add(u64::from(new).wrapping_add(self.leaving[usize::from(old)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_equals_hashing() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        for len in [1, 7, 8, 4096] {
            let roller = Roller::new(len as u32);
            let mut hash = extend(0, &bytes[..len]);
            for at in 0..bytes.len() - len {
                assert_eq!(hash, bytes[at..at + len].iter().fold(0u64, |h, b| h.wrapping_mul(FACTOR).wrapping_add(u64::from(*b))));
                hash = roller.roll(hash, bytes[at], bytes[at + len]);
            }
            assert_eq!(extend(extend(0, &bytes[..123]), &bytes[123..]), extend(0, &bytes));
        }
    }
}
