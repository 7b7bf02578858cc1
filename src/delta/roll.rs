//! The rolling hash: the sum of a window's bytes and the sum of those sums, modulo 2^32 each, mixed where they are compared.
//!
//! Says only that two blocks may be equal: equal values can be made at will, so whoever uses it bounds what an equal value can cost.

/// Odd, with its bits well mixed (2^64 by the golden ratio).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many of its bits a signature keeps: the upper ones, which depend on all others.
pub const KEPT_BITS: u32 = 48;

/// Bytes are summed by columns of so many rows, as long as a row is wide: two bytes hold what a column can come to.
const ROWS: usize = 16;

/// The bits of a mixed hash that are kept.
pub fn kept(mixed: u64) -> u64 {
    mixed >> (64 - KEPT_BITS)
}

/// What is kept of the hash of a block.
pub fn of_block(bytes: &[u8]) -> u64 {
    kept(Sums::default().extend(bytes).mixed())
}

/// The two sums of a window, in which the first byte counts most. Those of nothing, and of zeros, are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    bytes: u32,
    sums: u32,
}

impl Sums {
    /// Those of the same window with `more` behind it.
    pub fn extend(self, more: &[u8]) -> Self {
        let (rows, rest) = more.as_chunks::<ROWS>();
        let (tiles, rows) = rows.as_chunks::<ROWS>();
        let sums = tiles.iter().fold(self, Self::tile);
        rows.as_flattened().iter().chain(rest).fold(sums, |sums, byte| sums.push(*byte))
    }

    fn tile(self, rows: &[[u8; ROWS]; ROWS]) -> Self {
        // The compiler makes sixteen bytes a step of these loops.
        let (mut columns, mut before) = ([0u16; ROWS], [0u16; ROWS]);
        for row in rows {
            for at in 0..ROWS {
                before[at] += columns[at];
                columns[at] += u16::from(row[at]);
            }
        }
        let (mut bytes, mut sums) = (0u32, 0u32);
        for at in 0..ROWS {
            let column = u32::from(columns[at]);
            bytes += column;
            // A byte counts once for itself and each byte behind it in its row, and for all of each row behind.
            sums += (ROWS - at) as u32 * column + ROWS as u32 * u32::from(before[at]);
        }
        let ahead = self.bytes.wrapping_mul((ROWS * ROWS) as u32);
        Self { bytes: self.bytes.wrapping_add(bytes), sums: self.sums.wrapping_add(ahead).wrapping_add(sums) }
    }

    #[inline(always)]
    fn push(self, byte: u8) -> Self {
        let bytes = self.bytes.wrapping_add(byte.into());
        Self { bytes, sums: self.sums.wrapping_add(bytes) }
    }

    /// The hash, of which the upper bits depend on all of both sums. That of zeros is 0.
    #[inline(always)]
    pub fn mixed(self) -> u64 {
        let both = u64::from(self.sums) << 32 | u64::from(self.sums ^ self.bytes);
        both.wrapping_mul(FACTOR)
    }
}

/// Moves windows of one length on by a byte.
#[derive(Debug)]
pub struct Roller {
    len: u32,
}

impl Roller {
    /// For windows of `len` bytes.
    pub fn new(len: u32) -> Self {
        Self { len }
    }

    /// The sums of the window that lost `old` in front and has `new` at its end.
    #[inline(always)]
    pub fn roll(&self, sums: Sums, old: u8, new: u8) -> Sums {
        let without = Sums { bytes: sums.bytes.wrapping_sub(old.into()), sums: sums.sums.wrapping_sub(self.len.wrapping_mul(old.into())) };
        without.push(new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::limits::DELTA_CHAIN_MAX;

    fn simple(bytes: &[u8]) -> Sums {
        bytes.iter().fold(Sums::default(), |sums, byte| sums.push(*byte))
    }

    #[test]
    fn rolling_equals_hashing() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        for len in [1, 7, 16, 4096] {
            let roller = Roller::new(len as u32);
            let mut sums = Sums::default().extend(&bytes[..len]);
            for at in 0..bytes.len() - len {
                assert_eq!(sums, simple(&bytes[at..at + len]));
                sums = roller.roll(sums, bytes[at], bytes[at + len]);
            }
        }
    }

    #[test]
    fn pieces_do_not_matter_and_sums_may_overflow() {
        let bytes = vec![255; 70_000];
        let whole = simple(&bytes);
        for cut in [0, 1, 15, 16, 17, 123, 65_536, 70_000] {
            assert_eq!(Sums::default().extend(&bytes[..cut]).extend(&bytes[cut..]), whole, "{cut}");
        }
        assert_eq!(Sums::default().extend(&[0; 4096]).mixed(), 0);
    }

    /// Of blocks of counters, of records that are like each other and of single bits, few enough share a hash that all of them are found.
    #[test]
    fn few_blocks_that_are_like_each_other_share_a_hash() {
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut note = |block: &[u8]| *seen.entry(of_block(block)).or_default() += 1;
        for bit in 0..8 * 4096 {
            let mut block = vec![0; 4096];
            block[bit / 8] |= 1 << (bit % 8);
            note(&block);
        }
        for number in 0..20_000u64 {
            let block: Vec<u8> = (0..512).flat_map(|at| (number * 512 + at).to_le_bytes()).collect();
            note(&block);
            let text: Vec<u8> = format!("record {number}: state ok, value {}; ", number * 7 % 1000).into_bytes().repeat(200);
            note(&text[..4096]);
        }
        assert!(seen.values().all(|count| *count <= DELTA_CHAIN_MAX / 2), "{:?}", seen.values().max());
    }
}
