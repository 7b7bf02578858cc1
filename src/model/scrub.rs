//! Holding the mirror against the source beyond what events and times tell: what is asked, what was found. Plain values, no I/O.

use std::fmt;

use crate::model::cycle::NodeRef;
use crate::model::meta::{Ident, Kind, Meta, Time};
use crate::model::op::Entry;
use crate::model::path::{NameBuf, RelPath};

/// A part of a file whose content is to be digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file's name in its directory.
    pub name: NameBuf,
    /// Where the part begins.
    pub offset: u64,
    /// Its length; less is digested where the file ends before.
    pub len: u64,
}

/// What a receiver says of a [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartSum {
    /// The file is there and could be read.
    Read {
        /// Length of the whole file.
        size: u64,
        /// BLAKE3 of the part's bytes.
        digest: [u8; 32],
    },
    /// It could not; the system's error number. `ENOENT`, `ENOTDIR` or `ESTALE`: no regular file has the name.
    Failed(i32),
}

/// Files of one directory whose content is to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumTask {
    /// Number that the report repeats.
    pub id: u64,
    /// The directory, at the same relative path in source and mirror.
    pub dir: RelPath,
    /// Which directory the source must have there, where that is known.
    pub expect: Option<Ident>,
    /// The files: one of any length, or several small ones.
    pub files: Vec<SumFile>,
}

/// A file whose content is to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumFile {
    /// The planner's node.
    pub node: NodeRef,
    /// Name in the directory.
    pub name: NameBuf,
    /// Which object the source must have there, where that is known.
    pub ident: Option<Ident>,
    /// The length that both sides must have.
    pub size: u64,
    /// The modification time that the source must have.
    pub mtime: Time,
}

/// What became of a [`SumFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summed {
    /// Both sides hold the same.
    Equal,
    /// The source is not what it should be, or changed while it was read: this says nothing of the mirror.
    Changed,
    /// The source was what it should be from beginning to end, and the mirror holds something else.
    Differs,
    /// The mirror has no regular file there.
    Missing,
    /// One of the sides could not be read; the system's error number.
    Failed(i32),
}

/// The report on a [`SumTask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumDone {
    /// The task's number.
    pub id: u64,
    /// What became of each file, in their order.
    pub files: Vec<Summed>,
}

/// A directory of the mirror whose entries are to be compared with what the mirror should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookTask {
    /// Number that the report repeats.
    pub id: u64,
    /// The directory.
    pub dir: RelPath,
}

/// A part of the answer to a [`LookTask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookDone {
    /// The task's number.
    pub id: u64,
    /// No further part follows.
    pub last: bool,
    /// The directory's own metadata, or why it could not be read to its end; the system's error number.
    pub dir: Result<Meta, i32>,
    /// Entries: all parts together have each once.
    pub entries: Vec<Entry>,
}

/// The first letter of an [`Item`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Content has to go to the mirror.
    Content,
    /// Something else has to be made or changed there.
    Local,
    /// A hard link has to be made.
    Link,
    /// Only metadata differs.
    Meta,
    /// The source does not have it.
    Extra,
}

/// How an entry of the mirror differs: what rsync's `--itemize-changes` says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What has to be done about it.
    pub cause: Cause,
    /// What the source has (for [`Cause::Extra`]: what the mirror has).
    pub kind: Kind,
    /// The mirror has nothing, or another kind of entry, at the name.
    pub missing: bool,
    /// Content, target or device number.
    pub content: bool,
    /// Length.
    pub size: bool,
    /// Modification time.
    pub time: bool,
    /// Permission bits.
    pub perms: bool,
    /// Owner.
    pub owner: bool,
    /// Group.
    pub group: bool,
    /// Extended attributes or access control lists.
    pub attrs: bool,
}

impl Item {
    /// One without any difference yet.
    pub fn of(cause: Cause, kind: Kind) -> Self {
        Self {
            cause,
            kind,
            missing: false,
            content: false,
            size: false,
            time: false,
            perms: false,
            owner: false,
            group: false,
            attrs: false,
        }
    }

    /// Whether anything was noted beside the cause.
    pub fn is_empty(&self) -> bool {
        *self == Self::of(self.cause, self.kind)
    }
}

impl fmt::Display for Item {
    /// rsync's eleven letters: `>fcstpog...`, `cd+++++++++`, `*deleting  `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Extra => return f.write_str("*deleting  "),
            Cause::Content => '>',
            Cause::Local => 'c',
            Cause::Link => 'h',
            Cause::Meta => '.',
        };
        let kind = match self.kind {
            Kind::File => 'f',
            Kind::Dir => 'd',
            Kind::Symlink => 'L',
            Kind::Char | Kind::Block => 'D',
            Kind::Fifo | Kind::Socket => 'S',
        };
        if self.missing {
            return write!(f, "{cause}{kind}+++++++++");
        }
        let letter = |set: bool, letter: char| if set { letter } else { '.' };
        write!(f, "{cause}{kind}")?;
        for (set, name) in [
            (self.content, 'c'),
            (self.size, 's'),
            (self.time, 't'),
            (self.perms, 'p'),
            (self.owner, 'o'),
            (self.group, 'g'),
            (false, 'u'),
            (false, 'a'),
            (self.attrs, 'x'),
        ] {
            write!(f, "{}", letter(set, name))?;
        }
        Ok(())
    }
}

/// A difference that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The entry.
    pub path: RelPath,
    /// How it differs.
    pub item: Item,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Files whose content was compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Differences at the mirror.
    pub drift: u64,
    /// Those that were repaired.
    pub repaired: u64,
    /// Files that one of the sides could not read, or that did not rest.
    pub unsure: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_as_rsync_shows_them() {
        let of = Item::of;
        for (item, text) in [
            (Item { content: true, ..of(Cause::Content, Kind::File) }, ">fc........"),
            (Item { content: true, size: true, time: true, ..of(Cause::Content, Kind::File) }, ">fcst......"),
            (Item { missing: true, ..of(Cause::Content, Kind::File) }, ">f+++++++++"),
            (Item { missing: true, ..of(Cause::Local, Kind::Dir) }, "cd+++++++++"),
            (Item { time: true, perms: true, owner: true, group: true, ..of(Cause::Meta, Kind::Dir) }, ".d..tpog..."),
            (Item { content: true, ..of(Cause::Local, Kind::Symlink) }, "cLc........"),
            (of(Cause::Link, Kind::File), "hf........."),
            (of(Cause::Extra, Kind::Dir), "*deleting  "),
        ] {
            assert_eq!(item.to_string(), text);
            assert_eq!(text.len(), 11);
        }
    }
}
