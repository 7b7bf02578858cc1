//! Questions about the source and their answers: what the planner asks, what a worker sees.

use std::sync::Arc;

use crate::model::attrs::Attrs;
use crate::model::event::Key;
use crate::model::meta::{Ident, Stat};
use crate::model::path::{NameBuf, RelPath};

/// A question about one directory of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Number that the answer repeats.
    pub id: u64,
    /// Where the directory should be.
    pub dir: RelPath,
    /// Which directory it should be, where that is known: another one at the path is answered by [`ProbeError::Stale`].
    pub expect: Option<Ident>,
    /// What to look at.
    pub ask: Ask,
    /// The attributes of small files with one name may be left to whoever reads them ([`attrs::UNKNOWN`](crate::model::attrs::UNKNOWN)): by the descriptor they cost a
    /// third.
    pub lazy: bool,
}

/// What to look at in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// These names (none: the directory's own metadata only).
    Names(Vec<NameBuf>),
    /// All names, after the directory is being watched.
    List,
}

/// The answer to a [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The question's number.
    pub id: u64,
    /// What was seen.
    pub outcome: Result<DirSeen, ProbeError>,
}

/// Why a directory could not be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeError {
    /// The path names nothing, no directory, or another directory: the tree has to be looked at higher up.
    Stale,
    /// The directory is there but cannot be read; the system's error number.
    Failed(i32),
}

/// What was seen in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirSeen {
    /// The directory itself.
    pub stat: Stat,
    /// Under which key its events come; only in the answer to [`Ask::List`].
    pub key: Option<Key>,
    /// Its changes make no events: it has to be listed again from time to time. Only in the answer to [`Ask::List`].
    pub unwatched: bool,
    /// The names asked for, or all names.
    pub names: Vec<(NameBuf, Seen)>,
    /// What the digests in the metadata of all of these stand for.
    pub attrs: Vec<Arc<Attrs>>,
    /// Listing ended early: what is not in `names` may still be there.
    pub list_error: Option<i32>,
}

/// What was seen at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is there.
    Absent,
    /// This is there.
    Present {
        /// Metadata and identity.
        stat: Stat,
        /// What a symbolic link points to.
        target: Option<Box<[u8]>>,
        /// The key that a directory has now, where it can be told without opening it.
        key: Option<Key>,
    },
    /// Something is there, or not: it could not be told; the system's error number.
    Failed(i32),
}
