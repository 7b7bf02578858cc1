//! Memory that file content is read into: it begins at a page's start.
//!
//! Content in the page cache begins there too. On some processors (AMD Zen 3) the kernel copies to an address that lies some bytes behind the source's place in its page two and
//! a half times slower (each load seems to depend on a store before it), and sixteen bytes behind a page's start is where malloc puts what is large.
//! perf/delta.md has the figures.

/// The processor compares addresses within this many bytes.
const PAGE_BYTES: usize = 4096;

/// Reused memory. Holds no more than the largest piece that was asked for, and a page.
#[derive(Debug, Default)]
pub struct PageBuffer {
    bytes: Vec<u8>,
    /// Where in `bytes` a page begins.
    start: usize,
}

impl PageBuffer {
    /// `len` bytes, the first one at a page's start. What they held stays, as long as nothing longer is asked for than ever before.
    pub fn piece(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.start + len {
            self.bytes = vec![0; len + PAGE_BYTES];
            self.start = self.bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        }
        &mut self.bytes[self.start..self.start + len]
    }

    /// The first `len` bytes of it.
    ///
    /// # Panics
    /// No such piece was asked for before.
    pub fn held(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_begins_with_a_page_and_keeps_its_bytes() {
        let mut buffer = PageBuffer::default();
        for len in [0, 1, 300_000, 131_072, 1 << 20, 5] {
            let piece = buffer.piece(len);
            assert_eq!((piece.len(), piece.as_ptr().addr() % PAGE_BYTES * usize::from(len > 0)), (len, 0));
            piece.fill(7);
            assert_eq!(buffer.held(len), vec![7; len]);
        }
        assert!(buffer.bytes.len() <= (1 << 20) + PAGE_BYTES);
    }
}
