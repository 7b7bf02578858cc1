//! The operations that change a mirror, and the entries of a manifest, as plain values.
//!
//! The planner emits operations, the wire carries them, the receiver executes them. Each is safe to repeat: executed twice, or on a
//! mirror that already has the result, it succeeds without a change.

use crate::model::attrs::Namespaces;
use crate::model::meta::{Kind, Meta};
use crate::model::path::{NameBuf, RelPath};
use crate::model::times::Times;

/// What the operations do that set metadata and nothing else, for messages.
pub const SET_METADATA: &str = "set metadata";
/// The word for [`Op::Unlink`].
pub const UNLINK: &str = "unlink";
/// The word for [`Op::Rmdir`].
pub const RMDIR: &str = "rmdir";

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The directory, relative to the module's root.
    pub dir: RelPath,
    /// The name in it.
    pub name: NameBuf,
}

/// One change of the mirror. The comment names the list of a cycle in which it may stand: PRE (in order, before the files), FILES (any order) or POST
/// (in order, after the files).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// PRE. Rename; what is at `to` is replaced if it is not a directory.
    Move {
        /// What is moved.
        from: Spot,
        /// Its new place.
        to: Spot,
    },
    /// PRE. Rename to [`NameBuf::parked`] in the same directory, from where it is moved or deleted later in the same cycle.
    Park {
        /// What is moved away.
        from: Spot,
        /// Number of the name, unique in a session.
        id: u64,
    },
    /// PRE. Make a directory; one that exists already is kept. Its metadata follows in POST.
    Mkdir {
        /// The new directory.
        at: Spot,
        /// Metadata it will have in the end, but for attributes.
        meta: Meta,
    },
    /// PRE. Make a symbolic link, replacing what is there if it is not a directory. The result has no other name.
    Symlink {
        /// The link.
        at: Spot,
        /// What it points to: any bytes but NUL, 1 to 4095.
        target: Box<[u8]>,
        /// Owner, group, mtime.
        meta: Meta,
    },
    /// PRE. Make a FIFO, socket or device (by `meta.kind` and `meta.rdev`), replacing what is there if it is not a directory. The result has no other
    /// name.
    Special {
        /// The node.
        at: Spot,
        /// Kind, device number and all else.
        meta: Meta,
    },
    /// FILES. Set mode, owner, group and mtime of an entry that is not a directory and is of `meta.kind`.
    SetMeta {
        /// The entry.
        at: Spot,
        /// What to set.
        meta: Meta,
    },
    /// FILES. Put a completely staged file into place, replacing what is there if it is not a directory.
    Place {
        /// The file.
        at: Spot,
        /// Metadata; `meta.size` must be the length staged.
        meta: Meta,
        /// Number of the staged file.
        stage: u64,
    },
    /// PRE or POST. Make `to` another name of the object at `from`, replacing what is there if it is not a directory. In PRE it is a move of a file whose old name is taken
    /// by another: it stays there until that one comes. Where the filesystem cannot link it, it is moved.
    Link {
        /// The existing name.
        from: Spot,
        /// The new name.
        to: Spot,
    },
    /// PRE or POST. Remove an entry that is not a directory; success if nothing is there.
    Unlink {
        /// The entry.
        at: Spot,
    },
    /// POST. Remove an empty directory; success if nothing is there.
    Rmdir {
        /// The directory.
        at: Spot,
    },
    /// POST. Set mode, owner, group and mtime of a directory (the root too).
    DirMeta {
        /// The directory.
        dir: RelPath,
        /// What to set.
        meta: Meta,
    },
}

impl Op {
    /// The metadata that it sets.
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Mkdir { meta, .. }
            | Self::Symlink { meta, .. }
            | Self::Special { meta, .. }
            | Self::SetMeta { meta, .. }
            | Self::Place { meta, .. }
            | Self::DirMeta { meta, .. } => Some(meta),
            Self::Move { .. } | Self::Park { .. } | Self::Link { .. } | Self::Unlink { .. } | Self::Rmdir { .. } => None,
        }
    }

    /// A word for messages: what the operation does.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Move { .. } => "rename",
            Self::Park { .. } => "park",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Special { .. } => "mknod",
            Self::SetMeta { .. } | Self::DirMeta { .. } => SET_METADATA,
            Self::Place { .. } => "place",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => UNLINK,
            Self::Rmdir { .. } => RMDIR,
        }
    }
}

/// Which list of a cycle an operation stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Section {
    /// In order, before the files.
    Pre = 1,
    /// In any order, in parallel.
    Files = 2,
    /// In order, after the files.
    Post = 3,
}

/// An operation that the receiver could not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpError {
    /// The list.
    pub section: Section,
    /// Number of the operation in its list of the cycle, from 0.
    pub index: u32,
    /// The system's error number.
    pub errno: i32,
}

/// One entry of a manifest: what a mirror holds at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: NameBuf,
    /// Its metadata.
    pub meta: Meta,
    /// What a symbolic link points to.
    pub target: Option<Box<[u8]>>,
    /// Equal and not 0 for names that are hard links of one object; 0 where the object has one name only. Of a directory 0, or 1 where it is a border:
    /// the top of another filesystem or mount than its parent's, over which nothing can be renamed or linked.
    pub link_group: u64,
}

impl Entry {
    /// Whether it is a directory that is the top of another filesystem or mount than its parent's.
    pub fn is_border(&self) -> bool {
        self.meta.kind == Kind::Dir && self.link_group != 0
    }
}

/// What the receiver cannot set on its side, found once at the start of a session; its planner does not ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Owners and groups can be set freely.
    pub chown: bool,
    /// Device nodes can be made.
    pub mknod: bool,
    /// The attributes that can be set.
    pub attrs: Namespaces,
    /// The times that the root's filesystem can hold.
    pub times: Times,
}
