//! Copies between two open files inside the kernel, sharing blocks where the filesystem can.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::buffer::PageBuffer;
use crate::sys::holes::Holes;

/// Where the kernel copies nothing: what goes through our memory at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// Makes `to`, which is empty, share all blocks of `from` (`FICLONE`, ioctl_ficlone(2)); false where that is not possible.
///
/// # Errors
/// Of the device, or no space.
pub fn clone_all(from: &File, to: &File) -> io::Result<bool> {
    // SAFETY: both descriptors are open for the time of the call, which touches no memory of ours.
    let done = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EIO | libc::ENOSPC | libc::EDQUOT) => Err(error),
        _ => Ok(false),
    }
}

/// Copies up to `len` bytes with `copy_file_range(2)`, or through memory where that is not possible. Says how many, 0 at the end of `from`.
///
/// # Errors
/// Of reading and writing.
pub fn copy_range(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> io::Result<u64> {
    let (mut source, mut target) = (from_at.cast_signed(), to_at.cast_signed());
    let wanted = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
    // SAFETY: both descriptors are open, and the two offsets live on the stack for the time of the call.
    let done = unsafe { libc::copy_file_range(from.as_raw_fd(), &mut source, to.as_raw_fd(), &mut target, wanted, 0) };
    if let Ok(done) = u64::try_from(done) {
        return Ok(done);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EXDEV | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EPERM) => {
            through_memory(from, from_at, to, to_at, wanted)
        }
        _ => Err(error),
    }
}

/// Copies the first `len` bytes into `to`, which is empty, and leaves holes where `from` has them. False if `from` is shorter.
///
/// # Errors
/// As [`copy_range`].
pub fn copy_sparse(from: &File, to: &File, len: u64) -> io::Result<bool> {
    let mut holes = Holes::of(from, len);
    let mut at = 0;
    while at < len {
        let hole = holes.hole(from, at);
        at += match hole {
            0 => match copy_range(from, at, to, at, holes.data(from, at))? {
                0 => return Ok(false),
                done => done,
            },
            hole => hole,
        };
    }
    to.set_len(len)?;
    Ok(true)
}

fn through_memory(from: &File, from_at: u64, to: &File, to_at: u64, len: usize) -> io::Result<u64> {
    let mut buffer = PageBuffer::default();
    let buffer = buffer.piece(len.min(BUFFER_BYTES));
    let got = from.read_at(buffer, from_at)?;
    to.write_all_at(&buffer[..got], to_at)?;
    Ok(got as u64)
}
