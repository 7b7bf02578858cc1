//! inotify: watches on held directories, and the parser of what they report.
//!
//! The parser takes any bytes, says where they make no sense and never panics. Which events matter is the watcher's business.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::spare::{self, array};

/// What a watch on a directory reports. Not `IN_DELETE_SELF`: a watch that ends says so by `IN_IGNORED` anyhow.
const MASK: u32 = libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_ATTRIB
    | libc::IN_MODIFY
    | libc::IN_CLOSE_WRITE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_ONLYDIR;

const HEADER_BYTES: usize = 16;

/// An inotify instance.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Inotify {
    /// Makes an instance. Its queue holds `fs.inotify.max_queued_events` as they are now.
    ///
    /// # Errors
    /// As `inotify_init1(2)`: `EMFILE` beyond `fs.inotify.max_user_instances`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor to us and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches the directory that `dir` holds, whatever its path is by now; returns its watch descriptor. A directory that is watched
    /// already gives the one that it has.
    ///
    /// # Errors
    /// As `inotify_add_watch(2)`: `ENOSPC` beyond `fs.inotify.max_user_watches`, `ENOENT` where `/proc` is not mounted.
    pub fn watch(&self, dir: BorrowedFd<'_>) -> io::Result<i32> {
        let path = CString::new(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        // SAFETY: `path` is NUL-ended and outlives the call.
        let wd = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), MASK) };
        if wd < 0 { Err(io::Error::last_os_error()) } else { Ok(wd) }
    }

    /// Ends a watch. One that has ended already is none to complain about.
    pub fn unwatch(&self, wd: i32) {
        // SAFETY: the call takes no pointer. Its only error is a number that is no watch: nothing to end.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), wd) };
    }

    /// Appends queued events to `buffer`, as many as fit into its spare capacity (4 KiB at least); returns their bytes.
    ///
    /// # Errors
    /// As `read(2)`; `WouldBlock` when there are none.
    pub fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        spare::read(self.as_fd(), buffer)
    }
}

/// The bytes make no sense from here on: what follows is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// The watch descriptor; −1 for an overflow.
    pub wd: i32,
    /// `IN_*` bits.
    pub mask: u32,
    /// The entry; empty for the directory itself.
    pub name: &'a [u8],
}

impl RawEvent<'_> {
    /// Whether events were lost.
    pub fn is_overflow(&self) -> bool {
        self.mask & libc::IN_Q_OVERFLOW != 0
    }
}

/// The events of a buffer that [`Inotify::read`] filled; ends after a [`Malformed`].
#[derive(Debug, Clone)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// Over the events in `buffer`.
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer }
    }

    fn take(&mut self) -> Option<RawEvent<'a>> {
        let wd = i32::from_ne_bytes(array(self.rest, 0)?);
        let mask = u32::from_ne_bytes(array(self.rest, 4)?);
        let name_len = usize::try_from(u32::from_ne_bytes(array(self.rest, 12)?)).ok()?;
        let (name, rest) = self.rest.get(HEADER_BYTES..)?.split_at_checked(name_len)?;
        self.rest = rest;
        Some(RawEvent { wd, mask, name: name.split(|b| *b == 0).next().unwrap_or_default() })
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<RawEvent<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.take().ok_or(Malformed);
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}
