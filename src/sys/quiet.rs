//! Reading a file without filling the page cache with it: what is read once, to be digested, must not push out what others use.
//!
//! Where the kernel or the filesystem cannot (Linux before 6.14, tmpfs), it is an ordinary read.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pages that come into the cache for this read leave it again (`RWF_DONTCACHE`, Linux 6.14).
const DONT_CACHE: i32 = 0x80;

/// Set once the kernel turned out not to know the call or the flag at all.
static UNKNOWN: AtomicBool = AtomicBool::new(false);

/// A file that is read so.
#[derive(Debug)]
pub struct Quiet {
    file: File,
    plain: bool,
}

impl Quiet {
    /// Takes a file open for reading.
    pub fn new(file: File) -> Self {
        Self { file, plain: UNKNOWN.load(Ordering::Relaxed) }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads into `buffer` from `offset` on; how many bytes, 0 at the end of the file.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            let read = if self.plain { self.file.read_at(buffer, offset) } else { self.uncached(buffer, offset) };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if !self.plain && matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EPERM)) => {
                    if e.raw_os_error() == Some(libc::ENOSYS) {
                        UNKNOWN.store(true, Ordering::Relaxed);
                    }
                    self.plain = true;
                }
                other => return other,
            }
        }
    }

    fn uncached(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: `piece` describes the writable `buffer`, and both outlive the call.
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const piece, 1, at, DONT_CACHE) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_the_file_holds_wherever_it_lies() {
        for dir in ["/dev/shm", "/var/tmp"] {
            let Ok(file) = tempfile::tempfile_in(dir) else { continue };
            let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
            file.write_all_at(&bytes, 0).unwrap();
            let mut quiet = Quiet::new(file);
            let mut buffer = vec![0; 70_000];
            let (mut at, mut all) = (0, Vec::new());
            while let len @ 1.. = quiet.read_at(&mut buffer, at).unwrap() {
                all.extend_from_slice(&buffer[..len]);
                at += len as u64;
            }
            assert!(all == bytes, "{dir}");
        }
    }
}
