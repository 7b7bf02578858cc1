//! What to carry, and what to do about a difference: one value, with rsync's names.

use crate::model::times::Times;

/// The options of a mirror. [`Options::mirror`] is what a live mirror does unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Set permission bits (`--perms`).
    pub perms: bool,
    /// Set the owner (`--owner`).
    pub owner: bool,
    /// Set the group (`--group`).
    pub group: bool,
    /// Set modification times (`--times`), also of directories and symbolic links.
    pub times: bool,
    /// Which times the mirror can hold, and how it cuts others: such a one is no difference. The receiver tells.
    pub held: Times,
    /// Carry symbolic links as links (`--links`).
    pub links: bool,
    /// Carry device nodes (`--devices`).
    pub devices: bool,
    /// Carry FIFOs and sockets (`--specials`).
    pub specials: bool,
    /// Carry hard links as such (`--hard-links`).
    pub hard_links: bool,
    /// Carry extended attributes (`--xattrs`).
    pub xattrs: bool,
    /// Carry access control lists (`--acls`).
    pub acls: bool,
    /// Keep holes (`--sparse`).
    pub sparse: bool,
    /// How the mirror's files are written.
    pub writing: Writing,
    /// Delete what the source does not have (`--delete`).
    pub delete: bool,
    /// Delete also what the filter excludes (`--delete-excluded`).
    pub delete_excluded: bool,
    /// More deletions than this in one burst are held (`--max-delete`).
    pub max_delete: Option<MaxDelete>,
    /// A source that has no entry at all empties the mirror, which is held otherwise (`--allow-empty`).
    pub allow_empty: bool,
}

/// How many deletions are too many: of the first look of a session, or within a minute (`DELETE_BURST_NS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDelete {
    /// More than so many entries.
    Entries(u64),
    /// More than so many of a hundred entries that the mirror held when the burst began.
    Percent(u8),
}

impl Options {
    /// Everything is carried and what the source lacks is deleted.
    pub fn mirror() -> Self {
        Self {
            perms: true,
            owner: true,
            group: true,
            times: true,
            held: Times::ALL,
            links: true,
            devices: true,
            specials: true,
            hard_links: true,
            xattrs: true,
            acls: true,
            sparse: true,
            writing: Writing::default(),
            delete: true,
            delete_excluded: false,
            max_delete: None,
            allow_empty: false,
        }
    }
}

/// How a receiver writes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writing {
    /// Into the file that is there, where it has no other name, instead of beside it (`--inplace`).
    pub in_place: bool,
    /// After room for all of it was taken (`--preallocate`).
    pub preallocate: bool,
    /// What is on stable storage when (`--durability`).
    pub durability: Durability,
}

/// What a power failure may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// What the kernel has not written yet, of its own accord.
    #[default]
    None,
    /// Nothing that was acknowledged: content is written before it gets its name, by as few calls as may be, and all else of a cycle by one call for each
    /// filesystem before the acknowledgement.
    Cycle,
    /// The same, by a call for each file and each directory: for filesystems on which others write much.
    File,
}

/// How changes are found (`--watch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchChoice {
    /// fanotify where the kernel and the filesystem allow it, inotify elsewhere.
    #[default]
    Auto,
    /// fanotify only: a directory that it cannot serve is an error at the start.
    Fanotify,
    /// inotify only.
    Inotify,
}

/// How sockets are driven (`--io`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoChoice {
    /// io_uring, or epoll where it is blocked or missing.
    #[default]
    Auto,
    /// io_uring only.
    Uring,
    /// epoll only.
    Epoll,
}

/// Whether frames are compressed (`--compress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// lz4 where it pays: not on this machine, nor where the link is faster than it.
    #[default]
    Auto,
    /// lz4 always, but for frames that do not shrink.
    Lz4,
    /// Never.
    None,
}

impl Compress {
    /// What it means towards a peer that is on this machine, or not.
    #[must_use]
    pub fn towards(self, is_local: bool) -> Self {
        if self == Self::Auto && is_local { Self::None } else { self }
    }
}
