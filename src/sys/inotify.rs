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
    /// The same for both halves of a rename; otherwise 0.
    pub cookie: u32,
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
        let cookie = u32::from_ne_bytes(array(self.rest, 8)?);
        let name_len = usize::try_from(u32::from_ne_bytes(array(self.rest, 12)?)).ok()?;
        let (name, rest) = self.rest.get(HEADER_BYTES..)?.split_at_checked(name_len)?;
        self.rest = rest;
        Some(RawEvent { wd, mask, cookie, name: name.split(|b| *b == 0).next().unwrap_or_default() })
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

#[cfg(test)]
mod tests {
    use super::super::spare::mutation::mutate;
    use super::*;

    fn event(wd: i32, mask: u32, name: &[u8]) -> Vec<u8> {
        let mut padded = name.to_vec();
        if !name.is_empty() {
            padded.resize((name.len() + 1).next_multiple_of(16), 0);
        }
        let mut event = wd.to_ne_bytes().to_vec();
        event.extend(mask.to_ne_bytes());
        event.extend(99_u32.to_ne_bytes());
        event.extend((padded.len() as u32).to_ne_bytes());
        event.extend(padded);
        event
    }

    #[test]
    fn reads_events_with_and_without_names() {
        let bytes = [
            event(1, libc::IN_CREATE, b"file"),
            event(2, libc::IN_IGNORED, b""),
            event(-1, libc::IN_Q_OVERFLOW, b""),
            event(3, libc::IN_MODIFY, &[b'x'; 255]),
        ]
        .concat();
        let events: Vec<_> = Events::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            events,
            [
                RawEvent { wd: 1, mask: libc::IN_CREATE, cookie: 99, name: b"file" },
                RawEvent { wd: 2, mask: libc::IN_IGNORED, cookie: 99, name: b"" },
                RawEvent { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 99, name: b"" },
                RawEvent { wd: 3, mask: libc::IN_MODIFY, cookie: 99, name: &[b'x'; 255] },
            ]
        );
        assert!(events[2].is_overflow() && !events[0].is_overflow());
    }

    #[test]
    fn a_cut_event_ends_the_buffer() {
        let whole = event(1, libc::IN_CREATE, b"file");
        assert_eq!(Events::new(&[]).count(), 0);
        for len in 1..whole.len() {
            assert_eq!(Events::new(&whole[..len]).collect::<Vec<_>>(), [Err(Malformed)], "{len}");
        }
        let mut long = whole.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(Events::new(&[whole.clone(), long, whole].concat()).map(|e| e.is_ok()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let bytes = [event(1, libc::IN_CREATE, b"file"), event(2, libc::IN_IGNORED, b""), event(-1, libc::IN_Q_OVERFLOW, b"")].concat();
        mutate(&bytes, 50_000, |damaged| {
            assert!(Events::new(damaged).flatten().count() * HEADER_BYTES <= damaged.len());
        });
    }
}
