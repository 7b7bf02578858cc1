//! The kernel's clock for file times, and how fine a filesystem's times are.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use crate::model::meta::Time;

/// The time that a file changed right now would get, where the filesystem is local: the clock of the last tick.
pub fn coarse_now() -> Time {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is writable; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, now.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `timespec`, filled or not.
    let now = unsafe { now.assume_init() };
    Time { sec: now.tv_sec, nsec: now.tv_nsec as u32 }
}

/// How a filesystem stamps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// The first change after a look gets a time of its own (multigrain timestamps, Linux 6.13: ext4, XFS, btrfs, tmpfs).
    Fine,
    /// The clock of the last tick.
    Tick,
    /// Not known: another machine's clock, perhaps.
    Unknown,
}

/// How the filesystem of an open descriptor stamps its files.
pub fn grain(fd: BorrowedFd<'_>) -> Grain {
    let mut raw = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is borrowed, so open; `raw` is writable.
    let result = unsafe { libc::fstatfs(fd.as_raw_fd(), raw.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `statfs`, filled or not.
    let raw = unsafe { raw.assume_init() };
    let local = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::BTRFS_SUPER_MAGIC, libc::TMPFS_MAGIC];
    match result == 0 && local.contains(&raw.f_type) {
        false => Grain::Unknown,
        true if has_multigrain() => Grain::Fine,
        true => Grain::Tick,
    }
}

fn has_multigrain() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
        (parts.next().unwrap_or(0u32), parts.next().unwrap_or(0u32)) >= (6, 13)
    })
}
