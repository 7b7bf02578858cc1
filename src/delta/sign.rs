//! Signatures: the hashes of all blocks of one content, and the digest of the whole, made in one pass over bytes that come in any pieces.
//!
//! Reads nothing itself. Used by `work` for what it sends and by `apply` for what it holds.

use crate::delta::roll::{self, Sums};
use crate::delta::strong::{self, LANE_BYTES, LANES, Lanes, Strong};
use crate::delta::{Flaw, Shape};

/// Sets our digests apart from every other use of BLAKE3.
const CONTEXT: &str = "ringsync 2026 content digest of block hashes";

/// The hashes of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The first 16 bytes of its BLAKE3.
    pub strong: [u8; 16],
    /// The upper 48 bits of its rolling hash.
    pub weak: u64,
}

/// Decides whether two contents of one shape are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// What is known of some content without having it.
///
/// Invariant: there are as many blocks as the shape says, and the digest is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    shape: Shape,
    blocks: Vec<Block>,
    digest: Digest,
}

impl Signature {
    /// From blocks that came from elsewhere; the digest is computed anew.
    pub(super) fn of_blocks(shape: Shape, blocks: Vec<Block>) -> Result<Self, Flaw> {
        if blocks.len() != shape.blocks() {
            return Err(Flaw::Shape);
        }
        let mut total = Total::new(shape);
        for block in &blocks {
            total.push(&block.strong);
        }
        Ok(Self { shape, digest: total.finish(), blocks })
    }

    /// The length of the content and of its blocks.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The digest of the whole.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it takes in memory.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.blocks.capacity() * size_of::<Block>()
    }
}

/// The digest in the making: the shape, then the strong hashes.
struct Total(blake3::Hasher);

impl Total {
    fn new(shape: Shape) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&shape.len().to_le_bytes()).update(&shape.block().to_le_bytes());
        Self(hasher)
    }

    fn push(&mut self, strong: &Strong) {
        self.0.update(strong);
    }

    fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Makes a [`Signature`].
///
/// Invariant: `taken` is at most the shape's length, and every block that lies before `taken` is in `blocks` but the one that `part` holds the beginning of.
pub struct Signer {
    core: Core,
    blocks: Vec<Block>,
}

impl Signer {
    /// For content of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { core: Core::new(shape), blocks: Vec::with_capacity(shape.blocks()) }
    }

    /// The next bytes, any number of them.
    ///
    /// # Errors
    /// There are more than the shape says; the signer is of no more use then.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        self.update_beside(bytes, &[])
    }

    /// [`Signer::update`], where the content is likely to have blocks `like` at the same places: the rolling hash of an equal block is taken over.
    pub(super) fn update_beside(&mut self, bytes: &[u8], like: &[Block]) -> Result<(), Flaw> {
        let Self { core, blocks } = self;
        core.update(bytes, Some(like), &mut |block| blocks.push(block))
    }

    /// Zeros, as many: what [`Signer::update`] would make of them, without reading them.
    ///
    /// # Errors
    /// There are more than the shape says; the signer is of no more use then.
    pub fn zeros(&mut self, len: u64) -> Result<(), Flaw> {
        let Self { core, blocks } = self;
        core.zeros(len, Some(&[]), &mut |block| blocks.push(block))
    }

    /// The blocks that are complete.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The signature.
    ///
    /// # Errors
    /// There were fewer bytes than the shape says.
    pub fn finish(self) -> Result<Signature, Flaw> {
        Ok(Signature { shape: self.core.shape, digest: self.core.finish()?, blocks: self.blocks })
    }
}

/// Makes only the [`Digest`], in constant memory.
pub struct Digester(Core);

impl Digester {
    /// For content of this shape.
    pub fn new(shape: Shape) -> Self {
        Self(Core::new(shape))
    }

    /// The next bytes, any number of them.
    ///
    /// # Errors
    /// There are more than the shape says; the digester is of no more use then.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        self.0.update(bytes, None, &mut |_| {})
    }

    /// Zeros, as many: what [`Digester::update`] would make of them, without reading them.
    ///
    /// # Errors
    /// There are more than the shape says; the digester is of no more use then.
    pub fn zeros(&mut self, len: u64) -> Result<(), Flaw> {
        self.0.zeros(len, None, &mut |_| {})
    }

    /// A whole block whose hash is known, in place of its bytes.
    ///
    /// # Errors
    /// The last bytes did not end a block, or there are no more blocks.
    pub fn update_known(&mut self, block: &Block) -> Result<(), Flaw> {
        self.0.known(block)
    }

    /// The digest.
    ///
    /// # Errors
    /// There were fewer bytes than the shape says.
    pub fn finish(self) -> Result<Digest, Flaw> {
        self.0.finish()
    }
}

/// Cuts bytes into blocks and hashes them.
struct Core {
    shape: Shape,
    /// Bytes taken.
    taken: u64,
    /// Bytes of the block that is not complete; its hashes so far.
    part: u64,
    part_strong: blake3::Hasher,
    part_weak: Sums,
    /// Blocks complete.
    done: usize,
    lanes: Lanes,
    total: Total,
    /// The strong hash of a block of zeros, once it was needed.
    zero: Option<Strong>,
}

impl Core {
    fn new(shape: Shape) -> Self {
        let part_strong = blake3::Hasher::new();
        Self {
            shape,
            taken: 0,
            part: 0,
            part_strong,
            part_weak: Sums::default(),
            done: 0,
            lanes: Lanes::new(),
            total: Total::new(shape),
            zero: None,
        }
    }

    /// Takes bytes and tells each block that they complete. Rolling hashes only where `like` is given.
    fn update(&mut self, mut bytes: &[u8], like: Option<&[Block]>, tell: &mut impl FnMut(Block)) -> Result<(), Flaw> {
        if bytes.len() as u64 > self.shape.len() - self.taken {
            return Err(Flaw::Long);
        }
        while !bytes.is_empty() {
            let block = self.shape.len_at(self.taken - self.part);
            let missing = (block - self.part) as usize;
            if self.part == 0
                && block as usize == LANE_BYTES
                && let Some((eight, rest)) = bytes.split_first_chunk::<{ LANES * LANE_BYTES }>()
            {
                let hashes = self.lanes.hash(eight);
                for (strong, bytes) in hashes.iter().zip(eight.chunks_exact(LANE_BYTES)) {
                    self.push(*strong, bytes, like, tell);
                }
                bytes = rest;
            } else if self.part == 0 && bytes.len() >= missing {
                let (whole, rest) = bytes.split_at(missing);
                self.push(strong::hash(whole), whole, like, tell);
                bytes = rest;
            } else {
                let (some, rest) = bytes.split_at(missing.min(bytes.len()));
                self.part_strong.update(some);
                if like.is_some() {
                    self.part_weak = self.part_weak.extend(some);
                }
                self.taken += some.len() as u64;
                self.part += some.len() as u64;
                if self.part == block {
                    let strong = strong::cut(self.part_strong.finalize().as_bytes());
                    self.complete(Block { strong, weak: roll::kept(self.part_weak.mixed()) }, tell);
                    self.part_strong.reset();
                    (self.part, self.part_weak) = (0, Sums::default());
                }
                bytes = rest;
            }
        }
        Ok(())
    }

    /// Takes zeros. All blocks of them have one hash: the strong one is taken once, and the rolling one is 0.
    fn zeros(&mut self, mut len: u64, like: Option<&[Block]>, tell: &mut impl FnMut(Block)) -> Result<(), Flaw> {
        const ZEROS: [u8; LANE_BYTES] = [0; LANE_BYTES];
        if len > self.shape.len() - self.taken {
            return Err(Flaw::Long);
        }
        let block = self.shape.block();
        while len > 0 {
            if self.part == 0 && len >= block {
                let strong = *self.zero.get_or_insert_with(|| {
                    let mut hasher = blake3::Hasher::new();
                    for _ in 0..block / LANE_BYTES as u64 {
                        hasher.update(&ZEROS);
                    }
                    strong::cut(hasher.finalize().as_bytes())
                });
                self.taken += block;
                len -= block;
                self.complete(Block { strong, weak: 0 }, tell);
            } else {
                let some = len.min(LANE_BYTES as u64 - self.part % LANE_BYTES as u64);
                self.update(&ZEROS[..some as usize], like, tell)?;
                len -= some;
            }
        }
        Ok(())
    }

    fn push(&mut self, strong: Strong, bytes: &[u8], like: Option<&[Block]>, tell: &mut impl FnMut(Block)) {
        let weak = like.map_or(0, |like| match like.get(self.done) {
            Some(block) if block.strong == strong => block.weak,
            _ => roll::of_block(bytes),
        });
        self.taken += bytes.len() as u64;
        self.complete(Block { strong, weak }, tell);
    }

    fn complete(&mut self, block: Block, tell: &mut impl FnMut(Block)) {
        self.total.push(&block.strong);
        self.done += 1;
        tell(block);
    }

    fn known(&mut self, block: &Block) -> Result<(), Flaw> {
        let len = self.shape.len_at(self.taken);
        if self.part != 0 || len == 0 {
            return Err(Flaw::Order);
        }
        self.taken += len;
        self.complete(*block, &mut |_| {});
        Ok(())
    }

    fn finish(self) -> Result<Digest, Flaw> {
        if self.taken == self.shape.len() { Ok(self.total.finish()) } else { Err(Flaw::Short) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter() {
        let bytes: Vec<u8> = (0..100_001u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let shape = Shape::of(bytes.len() as u64).expect("small");
        let mut whole = Signer::new(shape);
        whole.update(&bytes).expect("as long as it is");
        let whole = whole.finish().expect("complete");
        for (block, bytes) in whole.blocks().iter().zip(bytes.chunks(4096)) {
            assert_eq!(*block, Block { strong: strong::hash(bytes), weak: roll::of_block(bytes) });
        }
        assert_eq!(whole.blocks().len(), 25);
        for piece in [1, 63, 4095, 4096, 4097, 40_000] {
            let mut signer = Signer::new(shape);
            let mut digester = Digester::new(shape);
            for bytes in bytes.chunks(piece) {
                signer.update(bytes).expect("as long as it is");
                digester.update(bytes).expect("as long as it is");
            }
            assert_eq!(signer.finish().expect("complete"), whole, "{piece}");
            assert_eq!(digester.finish(), Ok(whole.digest()), "{piece}");
        }
        let mut known = Digester::new(shape);
        for block in whole.blocks() {
            known.update_known(block).expect("there are so many");
        }
        assert_eq!(known.update_known(&whole.blocks()[0]), Err(Flaw::Order));
        assert_eq!(known.finish(), Ok(whole.digest()));
        assert_eq!(Signature::of_blocks(shape, whole.blocks().to_vec()), Ok(whole));
    }

    #[test]
    fn zeros_need_not_be_read() {
        for (len, block) in [(20_000, 4096), (100_000, 16_384), (3 * 65_536, 65_536)] {
            let shape = Shape::new(len, block).expect("allowed");
            let mut bytes = vec![0; len as usize];
            bytes[5000..5100].fill(1);
            let (mut read, mut told, mut digester) = (Signer::new(shape), Signer::new(shape), Digester::new(shape));
            read.update(&bytes).expect("as long as it is");
            for zeros in [5000, len - 5100] {
                told.zeros(zeros).expect("so many");
                digester.zeros(zeros).expect("so many");
                if zeros == 5000 {
                    told.update(&bytes[5000..5100]).expect("as long as it is");
                    digester.update(&bytes[5000..5100]).expect("as long as it is");
                }
            }
            assert_eq!(told.zeros(1), Err(Flaw::Long));
            let read = read.finish().expect("complete");
            assert_eq!(told.finish(), Ok(read.clone()));
            assert_eq!(digester.finish(), Ok(read.digest()));
        }
    }

    #[test]
    fn length_and_block_length_are_part_of_the_digest() {
        let digest = |len, block| {
            let mut digester = Digester::new(Shape::new(len, block).expect("allowed"));
            digester.update(&vec![0; len as usize]).expect("as long as it is");
            digester.finish().expect("complete")
        };
        assert_ne!(digest(0, 4096), digest(0, 8192));
        assert_ne!(digest(4096, 4096), digest(4096, 8192));
        assert_ne!(digest(4096, 4096), digest(4097, 4096));
    }

    #[test]
    fn too_much_and_too_little_is_refused() {
        let mut digester = Digester::new(Shape::of(10).expect("small"));
        assert_eq!(digester.update(&[0; 11]), Err(Flaw::Long));
        assert_eq!(digester.finish(), Err(Flaw::Short));
    }
}
