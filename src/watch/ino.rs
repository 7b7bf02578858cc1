//! inotify's half of the watcher: a watch for each directory, and what its events say.
//!
//! It pairs no renames: where a name went is found by looking. `watch::mod` covers with it, the reader thread reads from its instance.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};

use crate::model::event::{Event, Hint, Key};
use crate::sys::inotify::{Events, Inotify, RawEvent};

/// First byte of every key of this half.
const KEY_TAG: u8 = 2;

/// Tag 1, watch descriptor 4.
fn key(wd: i32) -> [u8; 5] {
    let [a, b, c, d] = wd.to_le_bytes();
    [KEY_TAG, a, b, c, d]
}

/// The instance.
pub(super) struct Ino(Inotify);

impl Ino {
    pub(super) fn new() -> io::Result<Self> {
        Inotify::new().map(Self)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.0.read(buffer)
    }

    /// Watches `dir`.
    pub(super) fn cover(&self, dir: BorrowedFd<'_>) -> io::Result<Key> {
        Ok(Key(key(self.0.watch(dir)?).into()))
    }

    /// Ends the watch that the key stands for; nothing for a key of the other half.
    pub(super) fn forget(&self, key: &Key) {
        if let [KEY_TAG, a, b, c, d] = *key.0 {
            self.0.unwatch(i32::from_le_bytes([a, b, c, d]));
        }
    }
}

/// Counts the events in `buffer`, and the overflows among them.
pub(super) fn count(buffer: &[u8]) -> (u64, u64) {
    let (mut events, mut overflows) = (0, 0);
    for event in Events::new(buffer) {
        events += 1;
        overflows += u64::from(event.is_ok_and(|e| e.is_overflow()));
    }
    (events, overflows)
}

/// Calls `each` with what the events in `buffer` say. Where the bytes make no sense, events are lost: an overflow.
pub(super) fn for_each(buffer: &[u8], mut each: impl FnMut(Event<'_>)) {
    for event in Events::new(buffer) {
        match event {
            Ok(event) if !event.is_overflow() => each(Event::At {
                key: &key(event.wd),
                name: event.name,
                hint: hint(&event),
                object: None,
                rename: NonZeroU32::new(event.cookie),
            }),
            Ok(_) | Err(_) => each(Event::Overflow),
        }
    }
}

fn hint(event: &RawEvent<'_>) -> Hint {
    let mut hint = Hint::default();
    for (bits, says) in [
        (libc::IN_CREATE | libc::IN_MOVED_TO, Hint::APPEARED),
        (libc::IN_DELETE | libc::IN_MOVED_FROM, Hint::WENT),
        (libc::IN_MOVED_TO | libc::IN_MOVED_FROM, Hint::MOVED),
        (libc::IN_MODIFY, Hint::WRITTEN),
        (libc::IN_CLOSE_WRITE, Hint::CLOSED),
        (libc::IN_ATTRIB, Hint::ATTRIB),
        (libc::IN_ISDIR, Hint::DIR),
        (libc::IN_IGNORED | libc::IN_UNMOUNT, Hint::KEY_DEAD | Hint::DIR),
    ] {
        if event.mask & bits != 0 {
            hint |= says;
        }
    }
    hint
}
