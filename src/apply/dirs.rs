//! The directories that one thread holds open while it works off a frame.
//!
//! Never outlives a frame: a directory that a local user moves out of the mirror is looked up anew by the next one. Whatever renames or removes a
//! directory within a frame says so.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::apply::meta::Identity;
use crate::apply::target::is_at_or_beneath;
use crate::limits::HELD_DIRS_MAX;
use crate::model::op::Spot;
use crate::model::path::RelPath;
use crate::sys::acl;
use crate::sys::dir::Dir;

/// An opened directory, and what it does to new entries.
pub(super) struct Held {
    path: RelPath,
    pub(super) dir: Dir,
    /// Group of new entries, once one has been made: the process's, or the directory's own by its setgid bit or by a mount option.
    pub(super) gid: OnceLock<u32>,
    /// New entries get exactly the permission bits asked for.
    pub(super) exact: bool,
    /// New entries get an access control list.
    pub(super) inherits: bool,
    ident: OnceLock<(u64, u64)>,
}

impl Held {
    /// Device and inode.
    pub(super) fn ident(&self) -> io::Result<(u64, u64)> {
        if let Some(ident) = self.ident.get() {
            return Ok(*ident);
        }
        let ident = self.dir.stat()?.ident;
        Ok(*self.ident.get_or_init(|| (ident.dev, ident.ino)))
    }
}

/// Opens the directory at `path` beneath `root`. A symbolic link on the way is no directory: the kernel says so in two ways, this in one, `ENOTDIR`.
pub(super) fn open_beneath(root: &Dir, path: &RelPath) -> io::Result<Dir> {
    match root.open_beneath(path) {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        other => other,
    }
}

/// Invariant: at most [`HELD_DIRS_MAX`], each path once, `last` is the one used last if there is any.
pub(super) struct Dirs {
    held: Vec<Arc<Held>>,
    last: usize,
}

impl Dirs {
    pub(super) fn new() -> Self {
        Self { held: Vec::with_capacity(HELD_DIRS_MAX), last: 0 }
    }

    /// The directory at `path` beneath `root`.
    pub(super) fn get(&mut self, root: &Dir, who: &Identity, path: &RelPath) -> io::Result<Arc<Held>> {
        if let Some(held) = self.held.get(self.last).filter(|held| held.path == *path) {
            return Ok(Arc::clone(held));
        }
        if let Some(at) = self.held.iter().position(|held| held.path == *path) {
            self.last = at;
            return Ok(Arc::clone(&self.held[at]));
        }
        let dir = open_beneath(root, path)?;
        let inherits = acl::has_default_acl(&dir);
        let exact = who.umask_is_zero() && !inherits;
        let held = Arc::new(Held { path: path.clone(), dir, gid: OnceLock::new(), exact, inherits, ident: OnceLock::new() });
        if self.held.len() < HELD_DIRS_MAX {
            self.last = self.held.len();
            self.held.push(Arc::clone(&held));
        } else {
            self.last = (self.last + 1) % HELD_DIRS_MAX;
            self.held[self.last] = Arc::clone(&held);
        }
        Ok(held)
    }

    /// The entry `at` is another one now, or gone: what is held there or beneath is not what its path says any more.
    pub(super) fn forget(&mut self, at: &Spot) {
        self.held.retain(|held| !is_at_or_beneath(&held.path, at));
        self.last = 0;
    }

    /// Metadata of a directory changed: what was noted about new entries may be wrong.
    pub(super) fn forget_dir(&mut self, path: &RelPath) {
        self.held.retain(|held| held.path != *path);
        self.last = 0;
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.last = 0;
    }
}
