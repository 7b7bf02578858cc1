//! What brings changes to stable storage: `syncfs(2)` and `fsync(2)`.
//!
//! Never retries: an error is reported once for each descriptor, and what it was about is lost, so a second call that succeeds says nothing. The receiving end calls it.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::dir::check;

/// Writes all that has changed in the filesystem that `fd` is on, which may be more than ours.
///
/// # Errors
/// As `syncfs(2)`. Of data that could not be written since `fd` was opened it tells from Linux 5.8 on.
pub fn sync_filesystem(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open.
    check(unsafe { libc::syncfs(fd.as_raw_fd()) })
}

/// Writes what has changed of the one file or directory that `fd` is open on.
///
/// # Errors
/// As `fsync(2)`.
pub fn sync_one(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open.
    check(unsafe { libc::fsync(fd.as_raw_fd()) })
}

/// Whether the filesystem cannot be written to (any more): filesystems whose log failed become so, and then say that syncing them succeeds.
///
/// # Errors
/// As `fstatvfs(3)`.
pub fn is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut raw = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is borrowed, so open; `raw` is writable.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), raw.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid `statvfs`, and the call has filled it.
    let raw = unsafe { raw.assume_init() };
    Ok(raw.f_flag & libc::ST_RDONLY != 0)
}
