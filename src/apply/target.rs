//! What a mirror must be able to do, as a trait: the real one is `FsTarget`, tests have a strict
//! one in memory.
//!
//! Nothing here does I/O. The receiver calls a target for every operation that arrives; both targets use the checks below, so
//! that they agree about which places a peer may name.

use std::sync::Arc;

use crate::model::attrs::Attrs;
use crate::model::meta::{Extent, Kind, Meta};
use crate::model::op::{Entry, Op, Spot};
use crate::model::path::{Name, RelPath};

/// A system's error number, as the wire carries it.
pub type Errno = i32;

/// One thing that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// The entries that follow are in this directory.
    Dir {
        /// The directory.
        dir: RelPath,
        /// Its own metadata.
        meta: Meta,
    },
    /// An entry of the last [`Listed::Dir`].
    Entry(Entry),
    /// The directory could not be read, or not all of it: what it holds is not known.
    Failed {
        /// The directory.
        dir: RelPath,
        /// Why.
        errno: Errno,
    },
}

/// Executes operations on a mirror. Each thread has its own; those of one session share what is staged.
///
/// Every operation is safe to repeat. Those that take something from elsewhere (`Move`, `Park`, `Link`, `Place`, `SetMeta`) need it to be there and
/// say `ENOENT` otherwise; nothing is half done when an operation fails, but that the modification time of the directory may have changed, and that a file which the
/// session asked to be written in place may be half written.
pub trait Target {
    /// Executes one operation.
    ///
    /// # Errors
    /// The system's error number. Beside what the calls themselves say: `EINVAL` for a reserved name, a value that does not fit the operation, or attributes that did not come,
    /// `EISDIR` for a directory at a name where something else is to be put, `EEXIST` for a directory that would have to be moved over a directory,
    /// `ESTALE` where `SetMeta` finds another kind than it expects, `ENODATA` where `Place` finds that not everything was staged.
    fn op(&mut self, op: &Op) -> Result<(), Errno>;

    /// Puts a file with this content at a name, replacing what is there if it is not a directory. Readers see the old or the new one, never a part.
    ///
    /// # Errors
    /// As [`Target::op`].
    fn put(&mut self, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno>;

    /// As [`Target::put`], for a name that nothing is thought to have: only faster if that is so.
    ///
    /// # Errors
    /// As [`Target::op`].
    fn put_new(&mut self, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno> {
        self.put(at, meta, data)
    }

    /// Takes the attributes that the metadata of operations from here on may name by their digest.
    fn attrs(&mut self, attrs: &Arc<Attrs>);

    /// [`Target::put`] of a file with holes: `data` is what stands in `extents`, one behind the other, which are in order, do not overlap and lie within the size.
    ///
    /// # Errors
    /// As [`Target::op`].
    fn put_sparse(&mut self, at: &Spot, meta: &Meta, extents: &[Extent], data: &[u8]) -> Result<(), Errno>;

    /// [`Target::put`] of what a delta makes of the file that has the name now ([`patched`](crate::delta::patch::patched)).
    ///
    /// # Errors
    /// As [`Target::op`]; `ESTALE` if what is there is not what the delta is from, `EPROTO` for a delta that is none.
    fn put_patch(&mut self, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) -> Result<(), Errno>;

    /// Leaves a hole in a staged file, in place of a piece. Its first piece may be one.
    ///
    /// # Errors
    /// As [`Target::stage`].
    fn stage_hole(&mut self, id: u64, offset: u64, len: u64) -> Result<(), Errno>;

    /// Writes a piece of a staged file, which is made by its first piece. Pieces come in any order and from any thread, each once.
    ///
    /// # Errors
    /// As [`Target::op`]; the staged file then is incomplete and `Place` will refuse it.
    fn stage(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Forgets a staged file; nothing if there is none.
    fn drop_stage(&mut self, id: u64);

    /// Reports the directory `dir` and everything beneath it, reserved names excepted.
    ///
    /// # Errors
    /// Why `dir` itself could not be opened; nothing has been reported then. Trouble further down is reported as [`Listed::Failed`].
    fn list(&mut self, dir: &RelPath, each: &mut dyn FnMut(Listed)) -> Result<(), Errno>;

    /// The operations of one frame are done: descriptors of directories held for speed are closed, so that a directory moved away by a local
    /// user is noticed by the next frame.
    fn end_frame(&mut self);

    /// All operations of a cycle are done: what was made only for its sake goes (an empty staging directory, loosened permissions).
    fn end_cycle(&mut self);
}

/// Whether `data` can be what stands in `extents` of a file of this size.
pub fn fits(meta: &Meta, extents: &[Extent], data: &[u8]) -> bool {
    let end = extents.iter().try_fold((0u64, 0u64), |(end, sum), extent| {
        let after = extent.at.checked_add(extent.len)?;
        (extent.at >= end && extent.len > 0 && after <= meta.size).then_some((after, sum + extent.len))
    });
    meta.kind == Kind::File && end.is_some_and(|(_, sum)| sum == data.len() as u64)
}

/// Whether a peer may name `at`: reserved names are ours, but for those of parked entries.
pub fn may_name(at: &Spot) -> bool {
    may_name_dir(&at.dir) && is_free(at.name.as_name())
}

/// Whether a peer may name the directory `dir`; see [`may_name`].
pub fn may_name_dir(dir: &RelPath) -> bool {
    dir.names().all(is_free)
}

fn is_free(name: Name<'_>) -> bool {
    !name.is_reserved() || name.is_parked()
}

/// Whether `path` is the entry `at`, or beneath it.
pub fn is_at_or_beneath(path: &RelPath, at: &Spot) -> bool {
    let (dir, name) = (at.dir.as_bytes(), at.name.as_bytes());
    let rest = if dir.is_empty() { Some(path.as_bytes()) } else { path.as_bytes().strip_prefix(dir).and_then(|r| r.strip_prefix(b"/")) };
    rest.and_then(|r| r.strip_prefix(name)).is_some_and(|r| r.is_empty() || r[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(dir: &[u8], name: &[u8]) -> Spot {
        Spot { dir: RelPath::new(dir).unwrap(), name: Name::new(name).unwrap().to_owned() }
    }

    #[test]
    fn of_reserved_names_only_parked_entries_may_be_named() {
        for (dir, name, allowed) in [
            (&b""[..], &b"a"[..], true),
            (b"a/b", b"c", true),
            (b"", b".ringsync-staging-p12", true),
            (b"a/.ringsync-staging-p12-of/a", b"b", true),
            (b"", b".ringsync-staging", false),
            (b".ringsync-staging", b"f1", false),
            (b".ringsync-staging", b"p1", false),
            (b"", b".ringsync-staging-p", false),
            (b"", b".ringsync-staging-p1x", false),
            (b"", b".ringsync-staging-p1-", false),
            (b"", b".ringsync-staging-p-x", false),
            (b"", b".ringsync-staging-p1-..", false),
            (b"", b".ringsync-stagingp1", false),
            (b"", b".ringsync-staging-0123456789abcdef", false),
            (b".ringsync-staging-p1", b".ringsync-staging-1", false),
            (b"a/.ringsync-staging", b"p1", false),
        ] {
            assert_eq!(may_name(&spot(dir, name)), allowed, "{:?}", spot(dir, name));
        }
    }

    #[test]
    fn beneath_is_by_component() {
        let path = |bytes: &[u8]| RelPath::new(bytes).unwrap();
        assert!(is_at_or_beneath(&path(b"a/b"), &spot(b"a", b"b")));
        assert!(is_at_or_beneath(&path(b"a/b/c"), &spot(b"a", b"b")));
        assert!(is_at_or_beneath(&path(b"a/b/c"), &spot(b"", b"a")));
        assert!(!is_at_or_beneath(&path(b"a/bc"), &spot(b"a", b"b")));
        assert!(!is_at_or_beneath(&path(b"ab/b"), &spot(b"a", b"b")));
        assert!(!is_at_or_beneath(&path(b"a"), &spot(b"a", b"b")));
        assert!(!is_at_or_beneath(&path(b""), &spot(b"", b"a")));
    }
}
