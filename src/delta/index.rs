//! Finds the blocks of a base by their rolling hash, in one table with bounded chains.
//!
//! Decides nothing: what it names may be equal. Used by the search.

use crate::delta::Signature;
use crate::delta::roll;
use crate::limits::DELTA_CHAIN_MAX;

/// No block.
const NONE: u32 = u32::MAX;

/// The blocks of a base, except a short one at its end.
///
/// Invariant: a block is at most [`DELTA_CHAIN_MAX`] places behind the one that its hash names, with no free place between, and the filter has its bit.
pub struct Index<'a> {
    base: &'a Signature,
    filter: Filter,
    /// A power of two of places, at least twice as many as blocks, and behind them so many that no chain has to begin anew at the front.
    places: Vec<Place>,
    /// Places without those behind.
    slots_shift: u32,
}

/// A block, with as much of its hash as tells most false alarms without a look at the block.
#[derive(Clone, Copy)]
struct Place {
    tag: u32,
    number: u32,
}

/// One bit for each of many ranges of hashes: says "no" for nearly all windows of new content, from the cache.
struct Filter {
    bits: Vec<u64>,
    shift: u32,
}

impl Filter {
    fn new(blocks: usize) -> Self {
        // 64 bits a block leave one false alarm in 64. From 2 MiB on the cache is left, and a larger table would cost more than it saves.
        let bits = (64 * blocks).next_power_of_two().clamp(1 << 12, 1 << 24);
        Self { bits: vec![0; bits / 64], shift: 64 - bits.trailing_zeros() }
    }

    #[inline(always)]
    fn may_have(&self, hash: u64) -> bool {
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
        let places = vec![Place { tag: 0, number: NONE }; slots + DELTA_CHAIN_MAX];
        let mut index = Self { base, filter: Filter::new(whole), places, slots_shift: slots.trailing_zeros() };
        for number in 0..whole {
            index.add(number);
        }
        index
    }

    fn add(&mut self, number: usize) {
        let block = &self.base.blocks()[number];
        let slot = self.slot(block.weak);
        for place in &mut self.places[slot..slot + DELTA_CHAIN_MAX] {
            if place.number == NONE {
                *place = Place { tag: tag(block.weak), number: number as u32 };
                self.filter.add(block.weak << (64 - roll::KEPT_BITS));
                return;
            }
            // Content that repeats is found at its first place.
            if place.tag == tag(block.weak) && self.base.blocks()[place.number as usize] == *block {
                return;
            }
        }
    }

    fn slot(&self, weak: u64) -> usize {
        // There are at most 2^21 slots, less than the bits that are kept.
        (weak >> (roll::KEPT_BITS - self.slots_shift)) as usize
    }

    /// Whether some of these four hashes may be a block's. Without a branch for each: nearly all are unknown.
    #[inline(always)]
    pub fn may_have_any(&self, hashes: [u64; 4]) -> bool {
        hashes.iter().fold(false, |any, hash| any | self.filter.may_have(*hash))
    }

    /// Whether this hash is, in all likelihood, a block's.
    #[inline(always)]
    pub fn has(&self, hash: u64) -> bool {
        self.filter.may_have(hash) && self.chain(roll::kept(hash)).next().is_some()
    }

    /// Numbers of the blocks with this rolling hash, at most [`DELTA_CHAIN_MAX`].
    pub fn find(&self, hash: u64) -> impl Iterator<Item = usize> {
        let weak = roll::kept(hash);
        self.chain(weak).filter(move |at| self.base.blocks()[*at].weak == weak)
    }

    /// Numbers of the blocks with this rolling hash's tag.
    fn chain(&self, weak: u64) -> impl Iterator<Item = usize> {
        let slot = self.slot(weak);
        let chain = self.places[slot..slot + DELTA_CHAIN_MAX].iter().take_while(|place| place.number != NONE);
        chain.filter(move |place| place.tag == tag(weak)).map(|place| place.number as usize)
    }
}

/// The lower bits of a rolling hash: the upper ones name the place.
fn tag(weak: u64) -> u32 {
    weak as u32
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
            assert!(index.has(hash) && index.may_have_any([0, hash, 1, 2]));
            assert_eq!(index.find(hash).collect::<Vec<_>>(), [number]);
        }
        assert_eq!(index.find(1 << 16).count(), 0);

        let crowded = base((0..1000).map(|n| block(n, 77)).collect());
        assert_eq!(Index::new(&crowded).find(77 << 16).collect::<Vec<_>>(), (0..DELTA_CHAIN_MAX).collect::<Vec<_>>());
        let same = base((0..1000).map(|_| block(5, 77)).collect());
        assert_eq!(Index::new(&same).find(77 << 16).collect::<Vec<_>>(), [0]);
    }
}
