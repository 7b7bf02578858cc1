//! The digest of a part of a file, piece by piece: what both sides of a scrub compare. Content comes in by a reader; nothing here opens anything.

use std::io;

/// A part that is being digested.
pub struct PartDigest {
    hasher: blake3::Hasher,
    at: u64,
    end: u64,
}

impl PartDigest {
    /// The part from `offset` on, of `len` bytes.
    pub fn new(offset: u64, len: u64) -> Self {
        Self { hasher: blake3::Hasher::new(), at: offset, end: offset.saturating_add(len) }
    }

    /// Reads on by `read`, about `budget` bytes at most, which it takes from it. True at the end of the part, or where `read` says that the file ends.
    ///
    /// # Errors
    /// Of `read`.
    pub fn go_on(
        &mut self,
        buffer: &mut [u8],
        budget: &mut u64,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<bool> {
        while self.at < self.end {
            if *budget == 0 {
                return Ok(false);
            }
            let len = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
            let got = read(&mut buffer[..len], self.at)?;
            if got == 0 {
                return Ok(true);
            }
            self.hasher.update(&buffer[..got]);
            self.at += got as u64;
            *budget = budget.saturating_sub(got as u64);
        }
        Ok(true)
    }

    /// BLAKE3 of what was read.
    pub fn finish(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_digest_of_the_whole_part() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 253) as u8).collect();
        let read = |buffer: &mut [u8], at: u64| {
            let rest = &bytes[bytes.len().min(at as usize)..];
            // Short reads are no end.
            let len = rest.len().min(buffer.len()).min(777);
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        };
        for (offset, len, part) in [(0, 100_000, &bytes[..]), (5, 40_000, &bytes[5..40_005]), (99_000, 5000, &bytes[99_000..]), (7, 0, &[])]
        {
            let mut digest = PartDigest::new(offset, len);
            let mut turns = 0;
            while !digest.go_on(&mut [0; 4096], &mut 10_000, read).unwrap() {
                turns += 1;
            }
            assert_eq!(turns, part.len().saturating_sub(1) / 10_101, "{offset} {len}");
            assert_eq!(digest.finish(), *blake3::hash(part).as_bytes());
        }
    }
}
