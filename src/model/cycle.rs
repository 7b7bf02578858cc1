//! One micro-batch of work as plain values: what the planner emits, and what workers report back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::attrs::Attrs;
use crate::model::meta::{Ident, Meta, Stat, Time};
use crate::model::op::{Op, Spot};
use crate::model::path::{NameBuf, RelPath};

/// A handle of a planner's node that goes stale when the node is freed: workers carry it and give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeRef {
    /// Slot of the node.
    pub id: u32,
    /// How often the slot has been freed.
    pub generation: u32,
}

/// Attributes by their digest.
pub type AttrsTable = BTreeMap<u64, Arc<Attrs>>;

/// The operations of one cycle. FILES are `batches`, `metas` and `places`; their indexes run over all three.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cycle {
    /// Number, from 1, without gaps in a session.
    pub number: u64,
    /// In order, before the files.
    pub pre: Vec<Op>,
    /// Files whose content has to be read and sent, by directory.
    pub batches: Vec<FileBatch>,
    /// [`Op::SetMeta`] operations with their indexes.
    pub metas: Vec<(u32, Op)>,
    /// Staged files that are put in place.
    pub places: Vec<Placing>,
    /// In order, after the files.
    pub post: Vec<Op>,
    /// What the digests in the metadata of `pre`, `metas`, `places` and `post` stand for.
    pub attrs: AttrsTable,
}

/// Files of one directory whose content has to be read and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBatch {
    /// The cycle they belong to.
    pub cycle: u64,
    /// The directory, at the same relative path in source and mirror.
    pub dir: RelPath,
    /// Which directory the source must have there.
    pub expect: Ident,
    /// The files.
    pub files: Vec<FileTask>,
}

/// A file whose content has to be read and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTask {
    /// Number among the FILES of the cycle.
    pub index: u32,
    /// The planner's node.
    pub node: NodeRef,
    /// Name in the directory.
    pub name: NameBuf,
    /// What was there when it was looked at; the object must still be there.
    pub stat: Stat,
    /// The mirror has nothing at the name, as far as is known.
    pub new: bool,
    /// Its attributes then.
    pub attrs: Option<Arc<Attrs>>,
    /// Send what was read even if the file changed meanwhile: it has been tried often enough.
    pub insist: bool,
    /// Which object's content the mirror has at the name now, most likely.
    pub base: Option<Ident>,
}

/// A staged file that is put in place by the worker that staged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placing {
    /// Number among the FILES of the cycle.
    pub index: u32,
    /// The planner's node.
    pub node: NodeRef,
    /// The worker whose connection carried the content.
    pub worker: usize,
    /// Where it goes.
    pub at: Spot,
    /// Metadata.
    pub meta: Meta,
    /// Number of the staged file.
    pub stage: u64,
}

/// A large file that has to be read and sent into staging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageTask {
    /// Number of the staged file, unique in a session.
    pub stage: u64,
    /// The planner's node.
    pub node: NodeRef,
    /// The directory in the source.
    pub dir: RelPath,
    /// Which directory must be there.
    pub expect: Ident,
    /// Name in the directory.
    pub name: NameBuf,
    /// Which object must be there.
    pub ident: Ident,
    /// Which object's content the mirror has at the name now, if any.
    pub base: Option<Ident>,
    /// Length of the file that the mirror has at the name; 0 for none, and where its signature is of no use.
    pub there: u64,
    /// Length when it was looked at.
    pub size: u64,
    /// Keep what was read even if the file changed meanwhile.
    pub insist: bool,
}

/// Whether a change right after the reading shows in a file's times, which have a grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Racy {
    /// It would show: the last change was long before the reading.
    No,
    /// A write would show, for the filesystem gives a time of its own to the first change after a look (Linux 6.13, multigrain timestamps); but a
    /// new file that took the inode number of a deleted one within a tick would not.
    Reuse,
    /// It may not show.
    Yes,
}

/// What became of a [`FileTask`] or [`StageTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// It is on its way.
    Sent {
        /// Metadata at the moment of reading, which the mirror will have.
        meta: Meta,
        /// Its time of change at that moment.
        ctime: Time,
        /// Whether its times would show a further change.
        racy: Racy,
        /// It changed while it was read and was sent nevertheless.
        changed: bool,
    },
    /// Nothing was sent: the name holds nothing, or another object, or the directory is elsewhere.
    Gone,
    /// Nothing was sent: it changed while it was read.
    Changed,
    /// Nothing was sent: it cannot be read; the system's error number.
    Failed(i32),
}

/// The report on one [`FileTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDone {
    /// The cycle.
    pub cycle: u64,
    /// The planner's node.
    pub node: NodeRef,
    /// What became of it.
    pub read: Read,
}

/// The report on one [`StageTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageDone {
    /// Number of the staged file.
    pub stage: u64,
    /// The planner's node.
    pub node: NodeRef,
    /// The worker that did it.
    pub worker: usize,
    /// What became of it.
    pub read: Read,
}
