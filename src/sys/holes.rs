//! Where a file has data and where holes, and making holes.
//!
//! Says what the filesystem says, and treats one that cannot tell as all data. Readers of large files use it, and what applies them.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

/// Walks over a file's data and holes. The position of the descriptor moves: whoever has one reads by offset.
///
/// Invariant: what lies in `from..to` is a hole or data, as `is_hole` says.
#[derive(Debug, Clone)]
pub struct Holes {
    len: u64,
    from: u64,
    to: u64,
    is_hole: bool,
}

impl Holes {
    /// Those of a file that is `len` long: one look tells whether there are any.
    pub fn of(file: &File, len: u64) -> Self {
        let mut holes = Self::none(len);
        if len > 0 {
            holes.to = 0;
            holes.look(file, 0);
        }
        holes
    }

    /// For a file whose holes are not asked for.
    pub fn none(len: u64) -> Self {
        Self { len, from: 0, to: len, is_hole: false }
    }

    /// Whether no hole is known of, from the start to the end.
    pub fn is_dense(&self) -> bool {
        !self.is_hole && self.from == 0 && self.to >= self.len
    }

    /// How long the hole is that `at` is in; 0 in data and at the end.
    pub fn hole(&mut self, file: &File, at: u64) -> u64 {
        self.look(file, at);
        if self.is_hole { self.to - at } else { 0 }
    }

    /// How much data follows from `at` on; 0 in a hole and at the end.
    pub fn data(&mut self, file: &File, at: u64) -> u64 {
        self.look(file, at);
        if self.is_hole { 0 } else { self.to.saturating_sub(at) }
    }

    fn look(&mut self, file: &File, at: u64) {
        if (self.from..self.to).contains(&at) || at >= self.len {
            if at >= self.len {
                (self.from, self.to, self.is_hole) = (self.len, self.len, false);
            }
            return;
        }
        let seek = |whence| lseek(file, at.cast_signed(), whence).map(|found| found.cast_unsigned().clamp(at, self.len));
        // ENXIO: no data up to the end, or the file has become shorter than it was.
        (self.from, self.to, self.is_hole) = match seek(Whence::SeekData) {
            Err(Errno::ENXIO) => (at, self.len, true),
            Ok(data) if data > at => (at, data, true),
            Ok(_) => match seek(Whence::SeekHole) {
                Ok(hole) if hole > at => (at, hole, false),
                _ => (at, self.len, false),
            },
            Err(_) => (at, self.len, false),
        };
    }
}

/// Makes a hole; the length of the file stays.
///
/// # Errors
/// As `fallocate(2)`: `EOPNOTSUPP` where the filesystem has no holes.
pub fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, at.cast_signed(), len.cast_signed())?)
}

/// Takes room for the first `len` bytes, all of it or none; the length of the file stays. False where the filesystem cannot.
///
/// # Errors
/// As `fallocate(2)`: `ENOSPC` above all.
pub fn allocate(file: &File, len: u64) -> io::Result<bool> {
    if len == 0 {
        return Ok(true);
    }
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, i64::try_from(len).unwrap_or(i64::MAX)) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_and_data_alternate() {
        const PAGE: u64 = 65_536;
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * PAGE).unwrap();
        assert_eq!(Holes::of(&file, 10 * PAGE).hole(&file, 0), 10 * PAGE);
        file.write_all_at(&vec![1; PAGE as usize], 3 * PAGE).unwrap();
        let mut holes = Holes::of(&file, 10 * PAGE);
        assert!(!holes.is_dense());
        assert_eq!([holes.hole(&file, PAGE), holes.data(&file, PAGE)], [2 * PAGE, 0]);
        assert_eq!([holes.hole(&file, 3 * PAGE + 5), holes.data(&file, 3 * PAGE + 5)], [0, PAGE - 5]);
        assert_eq!([holes.hole(&file, 4 * PAGE), holes.data(&file, 10 * PAGE), holes.hole(&file, 10 * PAGE)], [6 * PAGE, 0, 0]);
        // Backwards too, and a file that was cut is a hole to its end.
        assert_eq!(holes.hole(&file, 0), 3 * PAGE);
        file.set_len(PAGE).unwrap();
        assert_eq!(Holes::of(&file, 10 * PAGE).hole(&file, 2 * PAGE), 8 * PAGE);

        file.write_all_at(&vec![1; 2 * PAGE as usize], 0).unwrap();
        assert!(Holes::of(&file, 2 * PAGE).is_dense());
        punch(&file, PAGE, PAGE).unwrap();
        assert_eq!(Holes::of(&file, 2 * PAGE).hole(&file, PAGE), PAGE);
        assert!(Holes::none(2 * PAGE).is_dense() && Holes::of(&file, 0).is_dense());
    }
}
