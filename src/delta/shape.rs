//! How content is cut into blocks: a length with a block length, always within the limits.
//!
//! Holds no content. Used by all of this room and by whoever names a digest.

use crate::limits::{DELTA_BLOCK_BYTES_MAX, DELTA_BLOCK_BYTES_MIN, DELTA_BLOCK_EXCESS_MAX, SIGNATURE_BLOCKS_MAX, SIGNATURE_BLOCKS_WANTED};

/// A length and the length of the blocks that it is cut into; the last block may be shorter.
///
/// Invariant: the block length is a power of two within the limits, and there are at most
/// [`SIGNATURE_BLOCKS_MAX`] blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    len: u64,
    /// The block length is two to the power of this.
    shift: u32,
}

impl Shape {
    /// No content.
    pub const EMPTY: Self = Self { len: 0, shift: DELTA_BLOCK_BYTES_MIN.trailing_zeros() };

    /// This length in blocks of this length; `None` beyond the limits.
    pub fn new(len: u64, block: u64) -> Option<Self> {
        let allowed = block.is_power_of_two() && (DELTA_BLOCK_BYTES_MIN..=DELTA_BLOCK_BYTES_MAX).contains(&block);
        (allowed && len.div_ceil(block) <= SIGNATURE_BLOCKS_MAX).then(|| Self { len, shift: block.trailing_zeros() })
    }

    /// This length in blocks of the length that the rule gives it; `None` for content that is too long for a signature.
    pub fn of(len: u64) -> Option<Self> {
        let block = len.div_ceil(SIGNATURE_BLOCKS_WANTED).checked_next_power_of_two()?;
        Self::new(len, block.clamp(DELTA_BLOCK_BYTES_MIN, DELTA_BLOCK_BYTES_MAX))
    }

    /// The shape of what replaces content of shape `base`: in the same blocks, so that the new content is hashed once for both, unless they would be too many or
    /// much too long.
    pub fn after(len: u64, base: Self) -> Option<Self> {
        let by_rule = Self::of(len)?;
        match Self::new(len, base.block()) {
            Some(kept) if kept.block() <= by_rule.block() * DELTA_BLOCK_EXCESS_MAX => Some(kept),
            _ => Some(by_rule),
        }
    }

    /// The length.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block length.
    pub fn block(&self) -> u64 {
        1 << self.shift
    }

    /// The block length as the power of two that it is.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.len.div_ceil(self.block()) as usize
    }

    /// Whether a block begins at `at`.
    pub fn starts(&self, at: u64) -> bool {
        at < self.len && at & (self.block() - 1) == 0
    }

    /// The length of the block that begins at `at`.
    pub fn len_at(&self, at: u64) -> u64 {
        self.block().min(self.len.saturating_sub(at))
    }

    /// The number of the block that holds `at`.
    pub fn number(&self, at: u64) -> usize {
        (at >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn blocks_grow_with_the_length() {
        for (len, block) in [
            (0, 4096),
            (1, 4096),
            (2 * GIB, 4096),
            (2 * GIB + 1, 8192),
            (20 * GIB, 65_536),
            (8192 * GIB, 16 << 20),
            (16_384 * GIB, 16 << 20),
        ] {
            assert_eq!(Shape::of(len).expect("within the limits").block(), block, "{len}");
        }
        assert_eq!(Shape::of(16_384 * GIB + 1), None);
        assert_eq!(Shape::of(u64::MAX), None);
    }

    #[test]
    fn a_block_length_is_kept_within_reason() {
        let block = |len, base| Shape::after(len, Shape::of(base).expect("base")).expect("new").block();
        assert_eq!(block(4 * GIB, GIB), 4096, "appended to");
        assert_eq!(block(4 * GIB + 1, GIB), 16_384, "too many blocks");
        assert_eq!(block(GIB, 8 * GIB), 16_384, "cut");
        assert_eq!(block(GIB, 20 * GIB), 4096, "cut to a small part");
    }

    #[test]
    fn odd_shapes_are_refused() {
        for (len, block) in [(1, 0), (1, 4095), (1, 2048), (1, 12_288), (1, 32 << 20), (4 * GIB + 1, 4096), (u64::MAX, 4096)] {
            assert_eq!(Shape::new(len, block), None, "{len} {block}");
        }
    }
}
