//! `read(2)` into a vector's spare room, without clearing it first.
//!
//! It never grows the vector. The readers of fanotify and inotify use it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Appends what one `read(2)` gives, up to the spare capacity of `buffer`; returns how much that was.
///
/// # Errors
/// As `read(2)`; an interrupted call is made again.
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let (at, room) = (spare.as_mut_ptr(), spare.len());
    loop {
        // SAFETY: the kernel writes at most `room` bytes to `at`, which are the vector's own.
        let got = unsafe { libc::read(fd.as_raw_fd(), at.cast(), room) };
        match usize::try_from(got) {
            Ok(got) => {
                let len = buffer.len() + got;
                // SAFETY: the kernel has written the `got` bytes behind the former length, within capacity.
                unsafe { buffer.set_len(len) };
                return Ok(got);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// A fixed-size piece of `bytes` at `at`; `None` where they end before.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
