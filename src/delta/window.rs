//! The part of new content that a search looks at: read in order, once, in pieces, into one buffer.
//!
//! Knows nothing of blocks' meaning. Used by the search only.

use crate::buffer::PageBuffer;
use crate::limits::{DELTA_LITERAL_BYTES_MAX, DELTA_READ_BYTES};

/// The bytes `low..high` of content that is `len` long.
pub struct Window<R> {
    read: R,
    len: u64,
    low: u64,
    high: u64,
    buffer: PageBuffer,
    /// What it holds.
    room: usize,
    /// The least that is read at a time, but at the end.
    piece: usize,
}

impl<R> Window<R> {
    /// For two blocks of this length with a literal before them.
    pub fn new<E>(read: R, len: u64, block: usize) -> Self
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let piece = DELTA_READ_BYTES.max(2 * block);
        let room = DELTA_LITERAL_BYTES_MAX + 2 * block + piece;
        Self { read, len, low: 0, high: 0, buffer: PageBuffer::default(), room: len.min(room as u64) as usize, piece }
    }

    /// Reads on until `to`, or the end of the content, is there. Bytes before `keep` may go. The new bytes are told.
    ///
    /// `keep` is not before what is there, and `to` not further from it than a literal and two blocks.
    pub fn fill<E>(&mut self, keep: u64, to: u64, mut tell: impl FnMut(&[u8])) -> Result<(), E>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let to = to.min(self.len);
        if self.high >= to {
            return Ok(());
        }
        let (from, end) = ((keep - self.low) as usize, (self.high - self.low) as usize);
        let buffer = self.buffer.piece(self.room);
        buffer.copy_within(from..end, 0);
        self.low = keep;
        let end = end - from;
        let more = (to - self.high).max(self.piece as u64).min(self.len - self.high) as usize;
        let fresh = &mut buffer[end..end + more];
        (self.read)(self.high, fresh)?;
        self.high += more as u64;
        tell(fresh);
        Ok(())
    }

    /// Goes on at `to`, which is behind what is there, without reading what lies between.
    pub fn skip(&mut self, to: u64) {
        debug_assert!(to >= self.high);
        (self.low, self.high) = (to, to);
    }

    /// Where what is there ends.
    pub fn high(&self) -> u64 {
        self.high
    }

    /// Bytes that are there.
    pub fn get(&self, at: u64, len: u64) -> &[u8] {
        debug_assert!(self.low <= at && at + len <= self.high);
        let from = (at - self.low) as usize;
        &self.buffer.held(from + len as usize)[from..]
    }
}
