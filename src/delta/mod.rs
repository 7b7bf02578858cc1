//! Deltas: what a file's new content has in common with what the mirror holds, found by signatures of blocks.
//!
//! Nothing here does I/O, reads a clock or starts a thread: content comes in by slices and by readers that the caller gives. `work` makes signatures and
//! deltas, `apply` makes signatures and checks the deltas of a peer that may be hostile; both have to agree on every rule here.
//!
//! - [`Shape`] is a length with a block length: the rule of how content is cut into blocks.
//! - [`Signer`] turns content into a [`Signature`]: for each block a strong and a rolling hash, and a [`Digest`] of the whole.
//! - [`Differ`] reads new content once and gives [`Step`]s: copies out of the base and literals, in order, with no gap.
//! - [`Patcher`] checks steps and takes the digest of their result while the bytes go by.
//! - [`PartDigest`] is the digest of a part of a file, for whoever only compares.
//! - [`code`] is what steps and signatures look like as bytes.
//! - [`SignatureCache`] remembers the signatures of what the mirror holds.
//!
//! # Equality
//!
//! A digest is BLAKE3, keyed for this use, over the shape and the strong hashes of the blocks, each 16 bytes of the block's BLAKE3. So content is hashed in
//! one pass wherever it comes from; a block that is copied from a base with a known signature need not be hashed, or even read, again; and a signature that
//! came over the wire is held against the digest that names it. Two digests can be compared only if their shapes are equal, so whoever asks for a digest
//! says the shape. 16 bytes: to find two blocks with one hash takes 2^64 trials, and harms only the file of whoever made both.
//!
//! # Choice of hashes and blocks
//!
//! See `perf/delta.md` for the figures behind the choices.
//!
//! - *Block length*: the power of two that gives at most [`SIGNATURE_BLOCKS_WANTED`](crate::limits::SIGNATURE_BLOCKS_WANTED) blocks, 4 KiB at least. A
//!   page that was written in place costs a page, up to files of 2 GiB. A signature is 0.6 % of its content at most.
//! - *Strong hash*: BLAKE3. A cryptographic one is needed, since whoever writes a file must not be able to make its mirror differ.
//! - *Rolling hash*: a polynomial modulo 2^64, of which 48 bits are kept. Sums in the manner of Adler are hardly faster to roll, because the look-up that follows is
//!   what takes the time, and collide on regular content; cyclic polynomials collide on content of a period that divides their word. With 32 bits
//!   one position in 8192 of a large file would be a false alarm that costs a strong hash.
//!
//! # The search
//!
//! One pass, so memory is flat and literals are the very bytes that were hashed. Wherever a block of the base may begin, cheap guesses come first:
//! the same offset (edits in place, appends, truncation), the shift that the last copy had, the shift that aligns the ends of both files (one insertion or deletion).
//! Only what no guess explains is searched by the rolling hash, position by position, and that search is bounded: few blocks to one place of its table,
//! strong hashes on suspicion in proportion to the blocks searched, and stretches skipped once much was searched in vain. Every position costs a
//! bounded amount of work, whatever the content.

pub mod cache;
pub mod code;
mod differ;
mod index;
pub mod patch;
pub mod roll;
pub mod shape;
pub mod sign;
mod strong;
mod sum;
mod window;

pub use cache::SignatureCache;
pub use differ::{Differ, Outcome, Work};
pub use patch::Patcher;
pub use shape::Shape;
pub use sign::{Block, Digest, Digester, Signature, Signer};
pub use sum::PartDigest;

/// One step of a delta. Steps come in order of `at`, each begins where the one before it ended, and together they make all of the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Bytes of the base: whole blocks, or a tail that ends where the base ends.
    Copy {
        /// Where they go in the new content.
        at: u64,
        /// Where they are in the base: at the start of a block.
        from: u64,
        /// How many; not 0.
        len: u64,
    },
    /// Bytes that the base does not have, or where they were not found.
    Literal {
        /// Where they go in the new content.
        at: u64,
        /// At least one, at most [`DELTA_LITERAL_BYTES_MAX`](crate::limits::DELTA_LITERAL_BYTES_MAX).
        bytes: &'a [u8],
    },
    /// Zeros that take no room: a hole.
    Hole {
        /// Where it is in the new content.
        at: u64,
        /// How long it is; not 0.
        len: u64,
    },
}

impl Step<'_> {
    /// Where its bytes go in the new content.
    pub fn at(&self) -> u64 {
        match self {
            Self::Copy { at, .. } | Self::Literal { at, .. } | Self::Hole { at, .. } => *at,
        }
    }

    /// How many bytes of the new content it makes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Copy { len, .. } | Self::Hole { len, .. } => *len,
            Self::Literal { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Whether it makes nothing, which no valid step does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is wrong with a signature, a delta or what was fed into either. From a peer, it breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes end too early.
    #[error("delta: cut short")]
    Short,
    /// There are more bytes than there should be.
    #[error("delta: too long")]
    Long,
    /// A number that is too large, or not written in its shortest form.
    #[error("delta: bad number")]
    Number,
    /// A block length that is not allowed, or too many blocks.
    #[error("delta: bad block length")]
    Shape,
    /// A step that does not begin where the one before it ended.
    #[error("delta: step out of order")]
    Order,
    /// A copy that is outside of the base or does not fit its blocks.
    #[error("delta: copy of what the base does not have")]
    Base,
    /// A step that is empty or goes beyond the end of the content, or a literal that is too long.
    #[error("delta: bad length of a step")]
    Length,
    /// More steps than content of that length can need.
    #[error("delta: too many steps")]
    Count,
}
