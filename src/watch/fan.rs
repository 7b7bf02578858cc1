//! fanotify's half of the watcher: which filesystems it can serve, and what its events say.
//!
//! A filesystem mark reports everything on the filesystem, not only what was covered; who gets the events looks at the key.
//! It never opens anything by handle. `watch::mod` decides with it, the reader thread reads from its group.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::limits::HANDLE_SAMPLES_MAX;
use crate::model::event::{Event, Hint, Key};
use crate::model::meta::Kind;
use crate::model::path::Name;
use crate::sys::dir::Dir;
use crate::sys::fanotify::{Events, Fanotify, Place, RawEvent, Renames, Role};
use crate::sys::handle::{self, Filesystem, HANDLE_BYTES_MAX, Handle, InodeAt};
use crate::watch::cookie::COOKIE_NAME;

/// First byte of every key of this half.
const KEY_TAG: u8 = 1;
/// Tag 1, fsid 8, handle type 4, handle.
const KEY_HEAD_BYTES: usize = 13;
/// No process has this number.
const NOBODY: i32 = -1;

/// A key in the making, on the stack.
struct KeyBytes {
    bytes: [u8; KEY_HEAD_BYTES + HANDLE_BYTES_MAX],
    len: usize,
}

impl KeyBytes {
    fn new() -> Self {
        Self { bytes: [KEY_TAG; KEY_HEAD_BYTES + HANDLE_BYTES_MAX], len: 0 }
    }

    /// `None` for a handle longer than any.
    fn set(&mut self, fsid: [u8; 8], kind: i32, handle: &[u8]) -> Option<&[u8]> {
        self.len = KEY_HEAD_BYTES + handle.len();
        self.bytes[1..9].copy_from_slice(&fsid);
        self.bytes[9..KEY_HEAD_BYTES].copy_from_slice(&kind.to_le_bytes());
        self.bytes.get_mut(KEY_HEAD_BYTES..self.len)?.copy_from_slice(handle);
        self.bytes.get(..self.len)
    }
}

fn key(fsid: [u8; 8], handle: &Handle) -> Option<Key> {
    KeyBytes::new().set(fsid, handle.kind(), handle.as_bytes()).map(|bytes| Key(bytes.into()))
}

/// A filesystem that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) fsid: [u8; 8],
    pub(super) renames: Renames,
    /// Where its handles hold the inode number, if that is known.
    pub(super) inodes: Option<InodeAt>,
}

impl Served {
    /// For people.
    pub(super) fn abilities(&self) -> &'static str {
        match (self.renames, self.inodes) {
            (Renames::Whole, Some(_)) => "RENAME, inodes",
            (Renames::Whole, None) => "RENAME",
            (Renames::Halves, Some(_)) => "MOVED_FROM, MOVED_TO, inodes",
            (Renames::Halves, None) => "MOVED_FROM, MOVED_TO",
        }
    }
}

/// What tells the inode number of objects on a filesystem.
#[derive(Debug, Clone, Copy)]
struct Inodes {
    fsid: [u8; 8],
    dev: u64,
    at: InodeAt,
}

/// The group, with what is needed to judge its events.
pub(super) struct Fan {
    group: Fanotify,
    /// The process whose events are left out, or [`NOBODY`].
    ignored_pid: AtomicI32,
    /// Cookies are waited for: they are not left out.
    cookies: AtomicBool,
    /// One for each filesystem number: those that are served and whose handles are understood.
    inodes: RwLock<Vec<Inodes>>,
}

impl Fan {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            group: Fanotify::new()?,
            ignored_pid: AtomicI32::new(NOBODY),
            cookies: AtomicBool::new(false),
            inodes: RwLock::default(),
        })
    }

    pub(super) fn ignore_pid(&self, pid: i32) {
        self.ignored_pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }

    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.group.read(buffer)
    }

    /// Marks the filesystem of `dir`, whose device is `dev`, if it can be served: its directories have handles, and events carry its number.
    ///
    /// # Errors
    /// Why not; see [`is_refusal`].
    pub(super) fn serve(&self, dir: &Dir, dev: u64) -> io::Result<Served> {
        let samples = samples(dir, dev);
        let dir = dir.as_fd();
        let filesystem = Filesystem::of(dir)?;
        if filesystem.fsid == [0; 8] {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        if filesystem.is_overlay() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        handle::of_fd(dir)?;
        let renames = match self.group.mark_filesystem(dir, Renames::Whole) {
            Ok(()) => Renames::Whole,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                self.group.mark_filesystem(dir, Renames::Halves)?;
                Renames::Halves
            }
            Err(e) => return Err(e),
        };
        let inodes = InodeAt::learn(&samples);
        let mut known = self.inodes.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|k| k.fsid != filesystem.fsid && k.dev != dev);
        known.extend(inodes.map(|at| Inodes { fsid: filesystem.fsid, dev, at }));
        Ok(Served { fsid: filesystem.fsid, renames, inodes })
    }

    /// The key of `dir` on a filesystem that is `served`. The mark is set once more: if the filesystem was unmounted since, its mark went
    /// with it, and another may have come with the same device number. `Ok(None)`: that happened, and the other is not the same.
    pub(super) fn cover(&self, dir: BorrowedFd<'_>, served: Served) -> io::Result<Option<Key>> {
        self.group.mark_filesystem(dir, served.renames)?;
        if Filesystem::of(dir)?.fsid != served.fsid {
            return Ok(None);
        }
        Ok(key(served.fsid, &handle::of_fd(dir)?))
    }

    /// The key of the directory `name` in `parent` on a filesystem that is `served`.
    pub(super) fn key_at(&self, parent: BorrowedFd<'_>, name: Name<'_>, served: Served) -> Option<Key> {
        key(served.fsid, &handle::of_name(parent, name).ok()?)
    }

    /// From now on, or no longer, cookies are reported, whoever made them.
    pub(super) fn expect_cookies(&self, on: bool) {
        self.cookies.store(on, Ordering::SeqCst);
    }

    /// Has the directory `dir`, which is on no served filesystem, reported for cookies; returns the key of its events.
    pub(super) fn cover_for_cookie(&self, dir: BorrowedFd<'_>) -> io::Result<Key> {
        let filesystem = Filesystem::of(dir)?;
        if filesystem.fsid == [0; 8] || filesystem.is_overlay() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let handle = handle::of_fd(dir)?;
        self.group.mark_directory(dir)?;
        key(filesystem.fsid, &handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))
    }

    fn is_ignored(&self, event: &RawEvent<'_>) -> bool {
        event.pid == self.ignored_pid.load(Ordering::Relaxed)
            && !event.is_overflow()
            && !(self.cookies.load(Ordering::Relaxed) && event.places().flatten().any(|place| place.name == COOKIE_NAME))
    }

    /// Counts the events in `buffer` that are not ignored, and the overflows among them.
    pub(super) fn count(&self, buffer: &[u8]) -> (u64, u64) {
        let (mut events, mut overflows) = (0, 0);
        for event in Events::new(buffer) {
            match event {
                Ok(event) if self.is_ignored(&event) => {}
                Ok(event) => {
                    events += 1;
                    overflows += u64::from(event.is_overflow());
                }
                Err(_) => overflows += 1,
            }
        }
        (events, overflows)
    }

    /// Calls `each` with what the events in `buffer` say. Where the bytes make no sense, events are lost: an overflow.
    pub(super) fn for_each(&self, buffer: &[u8], mut each: impl FnMut(Event<'_>)) {
        let mut key = KeyBytes::new();
        let inodes = self.inodes.read().unwrap_or_else(PoisonError::into_inner).clone();
        for event in Events::new(buffer) {
            match event {
                Ok(event) if self.is_ignored(&event) => {}
                Ok(event) => report(&event, &inodes, &mut key, &mut each),
                Err(_) => each(Event::Overflow),
            }
        }
    }
}

/// Handles of the directory and of some of its entries, with their inode numbers.
fn samples(dir: &Dir, dev: u64) -> Vec<(Handle, u64)> {
    let mut samples = Vec::new();
    if let (Ok(handle), Ok(stat)) = (handle::of_fd(dir.as_fd()), dir.stat()) {
        samples.push((handle, stat.ident.ino));
    }
    let (mut dirs, mut others) = (0, 0);
    // A listing that fails gives fewer samples.
    let _ = dir.list(|name| {
        if dirs + others >= 2 * HANDLE_SAMPLES_MAX {
            return;
        }
        let Ok(before) = handle::of_name(dir.as_fd(), name) else { return };
        let Ok(stat) = dir.stat_at(name) else { return };
        let count = if stat.meta.kind == Kind::Dir { &mut dirs } else { &mut others };
        // Not what another object took the place of meanwhile.
        let same = handle::of_name(dir.as_fd(), name).is_ok_and(|after| after.as_bytes() == before.as_bytes());
        if same && stat.ident.dev == dev && *count < HANDLE_SAMPLES_MAX {
            *count += 1;
            samples.push((before, stat.ident.ino));
        }
    });
    samples
}

fn report(event: &RawEvent<'_>, inodes: &[Inodes], key: &mut KeyBytes, each: &mut impl FnMut(Event<'_>)) {
    if event.is_overflow() {
        each(Event::Overflow);
        return;
    }
    let object = object(event, inodes);
    let mut told = false;
    for place in event.places() {
        told = true;
        match place {
            Ok(Place { role, fsid, handle_kind, handle, name }) => {
                if let Some(key) = key.set(fsid, handle_kind, handle) {
                    each(Event::At { key, name, hint: hint(event.mask, role), object, rename: None });
                }
            }
            Err(_) => each(Event::Overflow),
        }
    }
    // A file server writes to what it has found by handle: nobody knows under which name. Only `FAN_ATTRIB` is the number of names that changed.
    if !told && object.is_some() && event.mask & (libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE) != 0 {
        each(Event::At { key: &[], name: &[], hint: hint(event.mask, Role::Plain), object, rename: None });
    }
}

/// Device and inode number of what the event says was changed, if it can be told and may have other names.
fn object(event: &RawEvent<'_>, inodes: &[Inodes]) -> Option<(u64, u64)> {
    const CHANGES: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB;
    if event.mask & CHANGES == 0 || event.mask & libc::FAN_ONDIR != 0 {
        return None;
    }
    let object = event.object()?;
    let Inodes { dev, at, .. } = inodes.iter().find(|known| known.fsid == object.fsid)?;
    Some((*dev, at.inode(object.handle_kind, object.handle)?))
}

fn hint(mask: u64, role: Role) -> Hint {
    let mut hint = match role {
        Role::Plain => Hint::default(),
        Role::Old => Hint::WENT | Hint::MOVED,
        Role::New => Hint::APPEARED | Hint::MOVED,
    };
    for (bits, says) in [
        (libc::FAN_CREATE | libc::FAN_MOVED_TO, Hint::APPEARED),
        (libc::FAN_DELETE | libc::FAN_MOVED_FROM, Hint::WENT),
        (libc::FAN_MOVED_TO | libc::FAN_MOVED_FROM, Hint::MOVED),
        (libc::FAN_MODIFY, Hint::WRITTEN),
        (libc::FAN_CLOSE_WRITE, Hint::CLOSED),
        (libc::FAN_ATTRIB, Hint::ATTRIB),
        (libc::FAN_ONDIR, Hint::DIR),
    ] {
        if mask & bits != 0 {
            hint |= says;
        }
    }
    hint
}

/// Whether the error says that fanotify cannot serve a filesystem, now and later, rather than that a directory is gone or memory short.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EXDEV
                | libc::EOPNOTSUPP
                | libc::ENODEV
                | libc::EPERM
                | libc::EACCES
                | libc::EINVAL
                | libc::ENOSYS
                | libc::ENOSPC
                | libc::EOVERFLOW
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::dir::Dir;

    /// What kernels before 5.17 report: the halves of a rename, each under the key of its directory.
    #[test]
    fn a_rename_in_halves_says_both_places() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: fanotify takes root");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("d")).unwrap();
        std::fs::write(tmp.path().join("old"), b"").unwrap();
        let (root, d) = (Dir::open_root(tmp.path()).unwrap(), Dir::open_root(&tmp.path().join("d")).unwrap());
        let fan = Fan::new().unwrap();
        fan.group.mark_filesystem(root.as_fd(), Renames::Halves).unwrap();
        let served = Served { fsid: Filesystem::of(root.as_fd()).unwrap().fsid, renames: Renames::Halves, inodes: None };
        let [root_key, d_key] = [&root, &d].map(|dir| fan.cover(dir.as_fd(), served).unwrap().unwrap());
        std::fs::rename(tmp.path().join("old"), tmp.path().join("d/new")).unwrap();

        let mut seen = Vec::new();
        let mut buffer = Vec::with_capacity(1 << 20);
        while fan.read(&mut buffer).is_ok() {
            fan.for_each(&buffer, |event| {
                if let Event::At { key, name, hint, .. } = event {
                    seen.push((key.to_vec(), name.to_vec(), hint));
                }
            });
            buffer.clear();
        }
        assert!(seen.contains(&(root_key.0.to_vec(), b"old".to_vec(), Hint::WENT | Hint::MOVED)), "{seen:?}");
        assert!(seen.contains(&(d_key.0.to_vec(), b"new".to_vec(), Hint::APPEARED | Hint::MOVED)), "{seen:?}");
    }

    #[test]
    fn a_handle_longer_than_any_has_no_key() {
        let mut key = KeyBytes::new();
        assert!(key.set([0; 8], 1, &[7; HANDLE_BYTES_MAX + 1]).is_none());
        assert_eq!(key.set([9; 8], 0x0403_0201, b"handle"), Some(&b"\x01\x09\x09\x09\x09\x09\x09\x09\x09\x01\x02\x03\x04handle"[..]));
    }
}
