//! Steps and signatures as bytes. The decoders take nothing for granted: they return what is there or a [`Flaw`], and allocate no more than what came.
//!
//! Knows no messages and no frames. Used by whoever puts these bytes into messages and takes them out.
//!
//! A number is a varint: seven bits a byte, the lowest first, in its shortest form. A batch of steps is the offset of the first one in the new content, then for
//! each step its length times two, plus one for a literal. A literal's bytes follow. A 0 is a hole, and its length follows. For a copy follows by how much its shift, the distance from the base's offset to the
//! new one, differs from that of the copy before it in the batch, at first from 0, with the sign in the lowest bit. Each batch stands for itself.
//!
//! A shape is its length and one byte, the block length as a power of two. Blocks are 22 bytes each: the strong hash, then 48 bits of the rolling hash, the lowest
//! byte first. A digest is not sent with its signature: it follows from it.

use crate::delta::roll::KEPT_BITS;
use crate::delta::{Block, Flaw, Shape, Signature, Step};

/// Length of an encoded block.
pub const BLOCK_BYTES: usize = 16 + WEAK_BYTES;
const WEAK_BYTES: usize = KEPT_BITS as usize / 8;

/// Longest varint: 64 bits, 7 a byte.
const NUMBER_BYTES_MAX: usize = 10;

/// The most that a batch's head, or a step without its literal, takes.
pub const STEP_BYTES_MAX: usize = 2 * NUMBER_BYTES_MAX;

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, Flaw> {
    let mut value = 0;
    for at in 0..NUMBER_BYTES_MAX {
        let byte = *bytes.split_off_first().ok_or(Flaw::Short)?;
        let bits = u64::from(byte & 0x7f);
        if at == NUMBER_BYTES_MAX - 1 && byte > 1 {
            return Err(Flaw::Number);
        }
        value |= bits << (7 * at);
        if byte < 0x80 {
            // A last byte of 0 could have been left away.
            return if byte == 0 && at > 0 { Err(Flaw::Number) } else { Ok(value) };
        }
    }
    Err(Flaw::Number)
}

/// Writes a batch of steps.
pub struct StepWriter {
    out: Vec<u8>,
    at: u64,
    shift: i64,
}

impl StepWriter {
    /// A batch behind `out` whose first step makes the content from `at` on.
    pub fn new(mut out: Vec<u8>, at: u64) -> Self {
        put_number(&mut out, at);
        Self { out, at, shift: 0 }
    }

    /// The next step, which begins where the one before it ended.
    pub fn push(&mut self, step: &Step<'_>) {
        debug_assert_eq!(step.at(), self.at, "steps follow each other");
        match *step {
            Step::Copy { at, from, len } => {
                put_number(&mut self.out, len << 1);
                let shift = at.wrapping_sub(from).cast_signed();
                let change = shift.wrapping_sub(self.shift);
                put_number(&mut self.out, ((change << 1) ^ (change >> 63)).cast_unsigned());
                self.shift = shift;
            }
            Step::Literal { bytes, .. } => {
                put_number(&mut self.out, (bytes.len() as u64) << 1 | 1);
                self.out.extend_from_slice(bytes);
            }
            Step::Hole { len, .. } => {
                put_number(&mut self.out, 0);
                put_number(&mut self.out, len);
            }
        }
        self.at += step.len();
    }

    /// How long `out` is now.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// All that was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Never: a batch has its head at least.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

/// Reads a batch of steps. Says what is written, not whether it is valid: that is the [`Patcher`](crate::delta::Patcher)'s part. Ends after a flaw.
#[derive(Debug)]
pub struct Steps<'a> {
    bytes: &'a [u8],
    at: u64,
    shift: i64,
}

impl<'a> Steps<'a> {
    /// Of all of `bytes`.
    ///
    /// # Errors
    /// The head is cut short or no number.
    pub fn new(mut bytes: &'a [u8]) -> Result<Self, Flaw> {
        let at = take_number(&mut bytes)?;
        Ok(Self { bytes, at, shift: 0 })
    }

    /// Where the next step goes.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn take(&mut self) -> Result<Step<'a>, Flaw> {
        let head = take_number(&mut self.bytes)?;
        let at = self.at;
        let len = if head == 0 { take_number(&mut self.bytes)? } else { head >> 1 };
        // Offsets of files are below 2^63, and so no sum of two can overflow.
        self.at = at.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Flaw::Number)?;
        if head & 1 == 1 {
            let len = usize::try_from(len).map_err(|_| Flaw::Short)?;
            return Ok(Step::Literal { at, bytes: self.bytes.split_off(..len).ok_or(Flaw::Short)? });
        }
        if head == 0 {
            return Ok(Step::Hole { at, len });
        }
        let change = take_number(&mut self.bytes)?;
        let change = (change >> 1).cast_signed() ^ -(change & 1).cast_signed();
        self.shift = self.shift.checked_add(change).ok_or(Flaw::Number)?;
        let from = at.cast_signed().checked_sub(self.shift).ok_or(Flaw::Number)?;
        Ok(Step::Copy { at, from: u64::try_from(from).map_err(|_| Flaw::Base)?, len })
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let step = self.take();
        if step.is_err() {
            self.bytes = &[];
        }
        Some(step)
    }
}

/// Writes a shape.
pub fn put_shape(out: &mut Vec<u8>, shape: Shape) {
    put_number(out, shape.len());
    out.push(shape.shift() as u8);
}

/// Reads a shape and leaves what is behind it.
///
/// # Errors
/// It is cut short or beyond the limits.
pub fn take_shape(bytes: &mut &[u8]) -> Result<Shape, Flaw> {
    let len = take_number(bytes)?;
    let shift = *bytes.split_off_first().ok_or(Flaw::Short)?;
    let block = 1u64.checked_shl(u32::from(shift)).ok_or(Flaw::Shape)?;
    Shape::new(len, block).ok_or(Flaw::Shape)
}

/// Writes blocks of a signature: all, or as many as fit into one message.
pub fn put_blocks(out: &mut Vec<u8>, blocks: &[Block]) {
    out.reserve(blocks.len() * BLOCK_BYTES);
    for block in blocks {
        out.extend_from_slice(&block.strong);
        out.extend_from_slice(&block.weak.to_le_bytes()[..WEAK_BYTES]);
    }
}

/// Puts a signature together from blocks that come in pieces.
#[derive(Debug)]
pub struct SignatureReader {
    shape: Shape,
    blocks: Vec<Block>,
}

impl SignatureReader {
    /// For a signature of this shape. Memory is taken as blocks come.
    pub fn new(shape: Shape) -> Self {
        Self { shape, blocks: Vec::new() }
    }

    /// The shape that it will have.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The next blocks: all of `bytes`, which end where a block ends.
    ///
    /// # Errors
    /// They do not, or these are more blocks than the shape has.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        if !rest.is_empty() {
            return Err(Flaw::Short);
        }
        if blocks.len() > self.shape.blocks() - self.blocks.len() {
            return Err(Flaw::Long);
        }
        self.blocks.extend(blocks.iter().map(|bytes| {
            let mut strong = [0; 16];
            let mut weak = [0; 8];
            strong.copy_from_slice(&bytes[..16]);
            weak[..WEAK_BYTES].copy_from_slice(&bytes[16..]);
            Block { strong, weak: u64::from_le_bytes(weak) }
        }));
        Ok(())
    }

    /// The signature, with the digest that follows from its blocks.
    ///
    /// # Errors
    /// Blocks are missing.
    pub fn finish(mut self) -> Result<Signature, Flaw> {
        self.blocks.shrink_to_fit();
        Signature::of_blocks(self.shape, self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_written_like_this() {
        let steps = [
            Step::Copy { at: 300, from: 4096, len: 8192 },
            Step::Literal { at: 8492, bytes: b"abc" },
            Step::Copy { at: 8495, from: 12_291, len: 5 },
            Step::Hole { at: 8500, len: 300 },
            Step::Copy { at: 8800, from: 8800, len: 1 },
        ];
        let mut writer = StepWriter::new(Vec::new(), 300);
        steps.iter().for_each(|step| writer.push(step));
        let out = writer.finish();
        let expected = b"\xac\x02\x80\x80\x01\xa7\x3b\x07abc\x0a\x00\x00\xac\x02\x02\xa8\x3b";
        assert_eq!(out, expected);
        assert_eq!(Steps::new(&out).expect("a head").collect::<Result<Vec<_>, _>>().expect("all valid"), steps);
    }

    #[test]
    fn bad_bytes_are_refused() {
        let first = |bytes: &[u8]| Steps::new(bytes).and_then(|mut steps| steps.next().unwrap_or(Err(Flaw::Short)).map(|_| ()));
        for (bytes, flaw) in [
            (&b""[..], Flaw::Short),
            (b"\x80", Flaw::Short),
            (b"\x80\x00", Flaw::Number),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Flaw::Number),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Flaw::Number),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x00", Flaw::Number),
            (b"\x00\x07ab", Flaw::Short),
            (b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Flaw::Short),
            (b"\x00\x02\x02", Flaw::Base),
            (b"\x00\x02", Flaw::Short),
            (b"\x00\x00", Flaw::Short),
            (b"\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f", Flaw::Number),
        ] {
            assert_eq!(first(bytes), Err(flaw), "{bytes:x?}");
        }
        for bytes in [&b"\x05"[..], b"\x05\x00", b"\x05\x0b", b"\x05\x19", b"\x05\x3f", b"\x05\x40", b"\x05\xff"] {
            assert!(take_shape(&mut &*bytes).is_err(), "{bytes:x?}");
        }
        assert_eq!(take_shape(&mut &b"\x05\x0c"[..]), Ok(Shape::of(5).expect("small")));

        let mut reader = SignatureReader::new(Shape::of(5000).expect("small"));
        assert_eq!(reader.take(&[0; 21]), Err(Flaw::Short));
        assert_eq!(reader.take(&[0; 66]), Err(Flaw::Long));
        assert_eq!(reader.take(&[0; 22]), Ok(()));
        assert_eq!(reader.finish(), Err(Flaw::Shape));
    }
}
