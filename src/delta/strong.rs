//! The strong hash of a block: the first 16 bytes of its BLAKE3.
//!
//! Blocks of 4 KiB are hashed eight at a time, one to a lane, because one alone has too few chunks to fill the lanes. What comes out is the same.

use blake3::IncrementCounter;
use blake3::platform::Platform;

/// A block's strong hash.
pub type Strong = [u8; 16];

/// Blocks hashed side by side.
pub const LANES: usize = 8;

/// Length of the blocks that gain by it. Longer ones fill the lanes themselves.
pub const LANE_BYTES: usize = 4096;

/// BLAKE3's initial value, which is the key of the plain hash, and its flags, as its specification has them.
const KEY: [u32; 8] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

const CHUNK_BYTES: usize = 1024;
const CHUNKS: usize = LANE_BYTES / CHUNK_BYTES;
const HASH_BYTES: usize = 32;

/// The hash of one block.
pub fn hash(block: &[u8]) -> Strong {
    cut(blake3::hash(block).as_bytes())
}

/// The first 16 bytes of 32.
pub fn cut(hash: &[u8; HASH_BYTES]) -> Strong {
    *hash.first_chunk().expect("32 bytes have a first 16")
}

/// Hashes eight blocks at once.
pub struct Lanes(Platform);

impl Lanes {
    /// With the instructions that this processor has.
    pub fn new() -> Self {
        Self(Platform::detect())
    }

    /// The hashes of eight blocks that stand one behind the other.
    pub fn hash(&self, blocks: &[u8; LANES * LANE_BYTES]) -> [Strong; LANES] {
        // For each chunk of a block: the chunk of that number of every block, then the hashes of pairs, then the root.
        let (chunks, _) = blocks.as_chunks::<CHUNK_BYTES>();
        let mut leaves = [[0u8; LANES * HASH_BYTES]; CHUNKS];
        for (number, out) in leaves.iter_mut().enumerate() {
            let inputs: [&[u8; CHUNK_BYTES]; LANES] = std::array::from_fn(|lane| &chunks[lane * CHUNKS + number]);
            self.0.hash_many(&inputs, &KEY, number as u64, IncrementCounter::No, 0, CHUNK_START, CHUNK_END, out);
        }
        let left = self.join(&leaves[0], &leaves[1], PARENT);
        let right = self.join(&leaves[2], &leaves[3], PARENT);
        let roots = self.join(&left, &right, PARENT | ROOT);
        let (roots, _) = roots.as_chunks::<HASH_BYTES>();
        std::array::from_fn(|lane| cut(&roots[lane]))
    }

    fn join(&self, left: &[u8; LANES * HASH_BYTES], right: &[u8; LANES * HASH_BYTES], flags: u8) -> [u8; LANES * HASH_BYTES] {
        let mut pairs = [[0u8; 2 * HASH_BYTES]; LANES];
        let sides = left.as_chunks::<HASH_BYTES>().0.iter().zip(right.as_chunks::<HASH_BYTES>().0);
        for (pair, (left, right)) in pairs.iter_mut().zip(sides) {
            pair[..HASH_BYTES].copy_from_slice(left);
            pair[HASH_BYTES..].copy_from_slice(right);
        }
        let mut out = [0u8; LANES * HASH_BYTES];
        self.0.hash_many(&pairs.each_ref(), &KEY, 0, IncrementCounter::No, flags, 0, 0, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_give_what_blake3_gives() {
        let mut blocks = [0u8; LANES * LANE_BYTES];
        blake3::Hasher::new().update(b"blocks").finalize_xof().fill(&mut blocks);
        let expected: Vec<Strong> = blocks.chunks(LANE_BYTES).map(hash).collect();
        assert_eq!(Lanes::new().hash(&blocks).to_vec(), expected);
        assert_eq!(Lanes(Platform::Portable).hash(&blocks).to_vec(), expected);
    }
}
