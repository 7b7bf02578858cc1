//! What a watcher says: where to look. Never what to do.

use std::num::NonZeroU32;
use std::ops::{BitOr, BitOrAssign};

/// Which directory an event is about: a file handle with its filesystem's number (fanotify), or a watch descriptor (inotify), as opaque bytes.
/// Two directories never share a key at one time; a directory keeps its key when it is renamed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Box<[u8]>);

/// Why to look, as a set of bits. Only a hint: it decides how soon and how strictly to compare, never what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint(pub u16);

impl Hint {
    /// An entry appeared under the name (created, linked, moved here).
    pub const APPEARED: Self = Self(1);
    /// An entry went away from the name (deleted, moved away).
    pub const WENT: Self = Self(1 << 1);
    /// Content was written; more may follow.
    pub const WRITTEN: Self = Self(1 << 2);
    /// A file that was open for writing was closed.
    pub const CLOSED: Self = Self(1 << 3);
    /// Metadata changed.
    pub const ATTRIB: Self = Self(1 << 4);
    /// The entry is a directory.
    pub const DIR: Self = Self(1 << 5);
    /// The key itself is dead: the watch is gone, no further event will carry it. The name is empty.
    pub const KEY_DEAD: Self = Self(1 << 6);
    /// It appeared by a move, so with its content; or went away by one, and may have appeared elsewhere.
    pub const MOVED: Self = Self(1 << 7);

    /// Whether any bit of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Hint {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Hint {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// One event, borrowed from the buffer that the kernel filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Look at `name` in the directory with this key; an empty name is the directory itself.
    At {
        /// Bytes of the directory's [`Key`]; empty where only the object is known.
        key: &'a [u8],
        /// The entry; empty for the directory itself.
        name: &'a [u8],
        /// Why.
        hint: Hint,
        /// Device and inode number of the changed object, where the watcher can tell and content or metadata changed: it may have other names, which no
        /// event will tell. Never a directory.
        object: Option<(u64, u64)>,
        /// What both halves of a rename have in common, where the watcher does not tell objects: the old name's comes first.
        rename: Option<NonZeroU32>,
    },
    /// Events were lost: anything may have changed.
    Overflow,
}
