//! The source's root: held while it is mirrored, and looked up by its name again before anything is deleted.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::meta::Ident;
use crate::sys::dir::Dir;
use crate::sys::mounts::MountsBelow;

/// How often a source that is missing is looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module's comment.
pub(super) struct SourceRoot {
    path: PathBuf,
    dir: Dir,
    ident: Ident,
}

impl SourceRoot {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e| Error::file(format!("source {}", path.display()), e);
        let dir = Dir::open_root(path).map_err(failed)?;
        let ident = dir.stat().map_err(failed)?.ident;
        Ok(Self { path: path.to_owned(), dir, ident })
    }

    /// A descriptor of it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn dir(&self) -> Result<Dir> {
        self.dir.try_clone().map_err(|e| Error::file(format!("source {}", self.path.display()), e))
    }

    /// Opens it anew, if its name names it: what was held may be of a mount that is gone, in which nothing is mounted any more. False if it does not.
    pub(super) fn reopen(&mut self) -> bool {
        match Self::open(&self.path) {
            Ok(again) if again.ident == self.ident => {
                *self = again;
                true
            }
            _ => false,
        }
    }

    /// Where something is mounted below it now, if that can be told.
    pub(super) fn mounts(&self) -> Option<Vec<PathBuf>> {
        MountsBelow::open(&self.path).map(MountsBelow::points).ok()
    }

    /// Whether its name still names it.
    pub(super) fn is_there(&self) -> bool {
        Dir::open_root(&self.path).and_then(|dir| dir.stat()).is_ok_and(|stat| stat.ident == self.ident)
    }

    /// Whether its name is seen to name nothing, or something else: not where it cannot be told.
    pub(super) fn is_replaced(&self) -> bool {
        match Dir::open_root(&self.path).and_then(|dir| dir.stat()) {
            Ok(stat) => stat.ident != self.ident,
            Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// The error of a run that cannot wait.
    pub(super) fn lost(&self) -> Error {
        let cause = io::Error::other("it is missing or another directory than at the start; nothing was deleted");
        Error::file(format!("source {}", self.path.display()), cause)
    }
}
