//! Finds the blocks of a base by their rolling hash, with bounded chains.
//!
//! Decides nothing: what it names may be equal. Used by the search.

use crate::delta::Signature;
use crate::delta::roll;
use crate::limits::DELTA_CHAIN_MAX;

/// End of a chain.
const NONE: u32 = u32::MAX;

/// The blocks of a base, except a short one at its end.
///
/// Invariant: no chain is longer than [`DELTA_CHAIN_MAX`], and the filter has the bit of every block in a chain.
pub struct Index<'a> {
    base: &'a Signature,
    /// One bit for each of many ranges of hashes: says "no" for nearly all windows of new content, from cache.
    filter: Filter,
    /// First block of each chain; a power of two of them.
    heads: Vec<u32>,
    /// The next block of its chain, for every block.
    next: Vec<u32>,
}

/// Bits for ranges of hashes.
pub struct Filter {
    bits: Vec<u64>,
    shift: u32,
}

impl Filter {
    fn new(blocks: usize) -> Self {
        // 16 bits a block leave one false alarm in 16; from 512 KiB on a larger table falls out of the cache and costs more than it saves.
        let bits = (16 * blocks).next_power_of_two().clamp(1 << 12, 1 << 22);
        Self { bits: vec![0; bits / 64], shift: 64 - bits.trailing_zeros() }
    }

    /// Whether a block may have this hash.
    #[inline(always)]
    pub fn may_have(&self, hash: u64) -> bool {
        let bit = hash >> self.shift;
        (self.bits[(bit / 64) as usize] >> (bit % 64)) & 1 != 0
    }

    fn add(&mut self, hash: u64) {
        let bit = hash >> self.shift;
        self.bits[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

impl<'a> Index<'a> {
    /// Of all whole blocks of `base`.
    pub fn new(base: &'a Signature) -> Self {
        let whole = (base.shape().len() >> base.shape().shift()) as usize;
        let slots = (2 * whole).next_power_of_two();
        let mut index = Self { base, filter: Filter::new(whole), heads: vec![NONE; slots], next: vec![NONE; whole] };
        for number in 0..whole {
            index.add(number);
        }
        index
    }

    fn add(&mut self, number: usize) {
        let block = &self.base.blocks()[number];
        let slot = self.slot(block.weak);
        let mut length = 0;
        let mut last = None;
        let mut at = self.heads[slot];
        while at != NONE {
            let other = &self.base.blocks()[at as usize];
            length += 1;
            // Content that repeats is found at its first place.
            if length == DELTA_CHAIN_MAX || other == block {
                return;
            }
            last = Some(at as usize);
            at = self.next[at as usize];
        }
        let link = last.map_or(&mut self.heads[slot], |last| &mut self.next[last]);
        *link = number as u32;
        self.filter.add(block.weak << (64 - roll::KEPT_BITS));
    }

    fn slot(&self, weak: u64) -> usize {
        // There are at most 2^21 slots, less than the bits that are kept.
        (weak >> (roll::KEPT_BITS - self.heads.len().trailing_zeros())) as usize
    }

    /// The filter, for the inner loop.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Numbers of the blocks with this rolling hash, at most [`DELTA_CHAIN_MAX`].
    pub fn find(&self, hash: u64) -> impl Iterator<Item = usize> {
        let weak = roll::kept(hash);
        let first = self.heads[self.slot(weak)];
        std::iter::successors((first != NONE).then_some(first as usize), |at| {
            let next = self.next[*at];
            (next != NONE).then_some(next as usize)
        })
        .filter(move |at| self.base.blocks()[*at].weak == weak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{Block, Shape};

    fn base(blocks: Vec<Block>) -> Signature {
        Signature::of_blocks(Shape::new(blocks.len() as u64 * 4096, 4096).expect("small"), blocks).expect("as many as the shape says")
    }

    #[test]
    fn every_block_is_found_and_chains_end() {
        let block = |number: u64, weak| {
            let mut strong = [0; 16];
            strong[..8].copy_from_slice(&number.to_le_bytes());
            Block { strong, weak }
        };
        let spread = base((0..1000).map(|n: u64| block(n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16)).collect());
        let index = Index::new(&spread);
        for (number, block) in spread.blocks().iter().enumerate() {
            let hash = block.weak << 16 | 0xabc;
            assert!(index.filter().may_have(hash));
            assert_eq!(index.find(hash).collect::<Vec<_>>(), [number]);
        }
        assert_eq!(index.find(1 << 16).count(), 0);

        let crowded = base((0..1000).map(|n| block(n, 77)).collect());
        assert_eq!(Index::new(&crowded).find(77 << 16).collect::<Vec<_>>(), (0..DELTA_CHAIN_MAX).collect::<Vec<_>>());
        let same = base((0..1000).map(|_| block(5, 77)).collect());
        assert_eq!(Index::new(&same).find(77 << 16).collect::<Vec<_>>(), [0]);
    }
}
