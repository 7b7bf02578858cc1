//! What has to be on stable storage, and when: content before it has its name, all else before its cycle is acknowledged.
//!
//! Content first, for two cycles overlap: while what one changed is written, names of the next are made, and the filesystem's log may take those along. Without
//! their content a power failure would leave empty files where an acknowledged cycle has whole ones. So the files of a frame are written out together, and then get
//! their names. Nothing here runs in a session that does not ask for it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::apply::access::with_access;
use crate::apply::dirs::Held;
use crate::apply::fs::FsTarget;
use crate::apply::manifest::errno;
use crate::apply::root::Root;
use crate::apply::target::Errno;
use crate::apply::temp::{TempName, TempNames};
use crate::limits::{DURABLE_DIRS_MAX, DURABLE_FILES_BY_ONE};
use crate::model::op::Op;
use crate::model::options::Durability;
use crate::model::path::{Name, NameBuf, RelPath};
use crate::sys::stable;

/// What was changed and may not be on stable storage.
///
/// Invariant: at most [`DURABLE_DIRS_MAX`] of `dirs`; each filesystem once.
#[derive(Default)]
pub struct Touched {
    /// By device; the first directory that was changed there, which was open before it was.
    filesystems: Vec<(u64, Arc<Held>)>,
    /// By device and inode: those that are written one by one.
    dirs: HashMap<(u64, u64), Arc<Held>>,
}

impl Touched {
    fn filesystem(&mut self, dev: u64, held: Arc<Held>) {
        if self.filesystems.iter().all(|(known, _)| *known != dev) {
            self.filesystems.push((dev, held));
        }
    }

    fn dir(&mut self, (dev, ino): (u64, u64), held: Arc<Held>) {
        if self.dirs.len() < DURABLE_DIRS_MAX || self.dirs.contains_key(&(dev, ino)) {
            self.dirs.entry((dev, ino)).or_insert(held);
        } else {
            self.filesystem(dev, held);
        }
    }

    /// Adds what a later cycle changed.
    pub fn merge(&mut self, later: Self) {
        for (dev, held) in later.filesystems {
            self.filesystem(dev, held);
        }
        for (ident, held) in later.dirs {
            self.dir(ident, held);
        }
    }

    /// Brings it to stable storage.
    ///
    /// # Errors
    /// As `syncfs(2)` and `fsync(2)`; `EROFS` where the filesystem has become read-only since. What is on storage then is not known, nor what is lost.
    pub fn sync(&self) -> io::Result<()> {
        for (_, held) in &self.filesystems {
            stable::sync_filesystem(held.dir.as_fd())?;
            check_writable(held)?;
        }
        for ((dev, _), held) in &self.dirs {
            if self.filesystems.iter().all(|(synced, _)| synced != dev) {
                stable::sync_one(held.dir.as_fd())?;
                check_writable(held)?;
            }
        }
        Ok(())
    }

    /// The same for what was merely seen, which may be read-only as well.
    ///
    /// # Errors
    /// As `syncfs(2)`.
    pub(super) fn sync_seen(&self) -> io::Result<()> {
        self.filesystems.iter().try_for_each(|(_, held)| stable::sync_filesystem(held.dir.as_fd()))
    }

    /// A directory that was seen.
    pub(super) fn saw(&mut self, held: Arc<Held>) -> io::Result<()> {
        let (dev, _) = held.ident()?;
        self.filesystem(dev, held);
        Ok(())
    }
}

fn check_writable(held: &Held) -> io::Result<()> {
    if stable::is_read_only(held.dir.as_fd())? { Err(io::Error::from_raw_os_error(libc::EROFS)) } else { Ok(()) }
}

/// What the cycle that is being applied has changed so far, by all threads of a session.
#[derive(Default)]
pub(super) struct Changes(Mutex<Touched>);

impl Changes {
    pub(super) fn take(&self) -> Touched {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An operation on entries of these directories has succeeded; with `all` it changed something that is not written with its directory.
    pub(super) fn add(&self, dirs: &mut Vec<Arc<Held>>, all: bool) -> io::Result<()> {
        let mut touched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for held in dirs.drain(..) {
            let (dev, ino) = held.ident()?;
            if all { touched.filesystem(dev, held) } else { touched.dir((dev, ino), held) }
        }
        Ok(())
    }
}

/// Whether what it changes is written with the directories that it names: metadata of an entry is not, and a symbolic link or a device cannot be by itself.
pub(super) fn is_of_dirs(op: &Op) -> bool {
    !matches!(op, Op::SetMeta { .. } | Op::Symlink { .. } | Op::Special { .. })
}

/// A file that is complete but for its name. Who does not give it one discards it.
pub(super) struct Nameless {
    held: Arc<Held>,
    name: NameBuf,
    /// Its name for the time being, if it has one.
    temp: Option<TempName>,
    file: File,
}

impl Nameless {
    fn discard(self, root: &Root) {
        if let Some(temp) = self.temp {
            root.discard(&self.held.dir, temp.name());
        }
    }

    fn settle(&mut self, root: &Root, temps: &mut TempNames) -> io::Result<()> {
        let (dir, name) = (&self.held.dir, self.name.as_name());
        if self.temp.is_none() {
            match dir.link_unnamed(&self.file, name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.temp = Some(temps.with_free(|temp| dir.link_unnamed(&self.file, temp))?.0);
                }
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => return Err(e),
                Err(e) => {
                    // This process may not link them: the next try makes it with a name.
                    root.cannot_be_unnamed();
                    return Err(e);
                }
                Ok(()) => return Ok(()),
            }
        }
        if let Some(temp) = &self.temp {
            dir.rename(temp.name(), dir, name)?;
            self.temp = None;
        }
        Ok(())
    }
}

/// Temporary names, and the files that wait for their own.
pub(super) struct Temps {
    pub(super) names: TempNames,
    waiting: Vec<Nameless>,
}

impl Temps {
    pub(super) fn new() -> Self {
        Self { names: TempNames::new(), waiting: Vec::new() }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The complete file gets its name once its content is written.
    pub(super) fn wait(&mut self, held: &Arc<Held>, name: Name<'_>, temp: Option<TempName>, file: File) {
        self.waiting.push(Nameless { held: Arc::clone(held), name: name.to_owned(), temp, file });
    }

    /// Writes the content of all that wait, and gives them their names. How that went, in their order.
    pub(super) fn settle(&mut self, root: &Root) -> Vec<Result<(), Errno>> {
        let waiting = std::mem::take(&mut self.waiting);
        let written = write_out(root, &waiting);
        let settled = waiting.into_iter().zip(written).map(|(mut file, written)| {
            let held = Arc::clone(&file.held);
            // Its directory may have been loosened for it, and closed again for others since.
            let mut settle = || with_access(&held.dir, &root.who, || file.settle(root, &mut self.names)).map_err(|e| errno(&e));
            let done = written.and_then(|()| settle());
            let done = root.outdated.note_if_failed(&held.dir, file.name.as_name(), done);
            file.discard(root);
            done
        });
        settled.collect()
    }

    /// Removes all that wait: the session is over.
    fn discard(&mut self, root: &Root) {
        self.waiting.drain(..).for_each(|file| file.discard(root));
    }
}

impl Drop for FsTarget {
    fn drop(&mut self) {
        self.temps.discard(&self.root);
    }
}

impl FsTarget {
    /// The operation is done: notes what it changed, if that has to be known. With `all` that is more than directories.
    pub(super) fn noted(&mut self, done: Result<(), Errno>, all: bool) -> Result<(), Errno> {
        if done.is_ok() && !self.used.is_empty() {
            self.root.changes.add(&mut self.used, all || self.root.writing.durability == Durability::Cycle).map_err(|e| errno(&e))?;
        }
        self.used.clear();
        done
    }

    /// Files that are complete and wait for [`FsTarget::settle`] to get their names: only where they have to be on stable storage first.
    pub fn waiting(&self) -> usize {
        self.temps.waiting()
    }

    /// Has the content of all that wait written to stable storage, then gives them their names. How that went, in the order of the operations. Those that fail are gone.
    pub fn settle(&mut self) -> Vec<Result<(), Errno>> {
        self.temps.settle(&self.root)
    }

    /// Brings the filesystems of these directories to stable storage: what was seen in them is to be relied upon.
    ///
    /// # Errors
    /// As `syncfs(2)`. Directories that are gone are left out.
    pub fn sync_seen(&mut self, dirs: &[RelPath]) -> io::Result<()> {
        let mut seen = Touched::default();
        for dir in dirs {
            if let Ok(held) = self.held(dir) {
                seen.saw(held)?;
            }
        }
        self.used.clear();
        self.dirs.clear();
        seen.sync_seen()
    }
}

/// Has the contents written.
fn write_out(root: &Root, files: &[Nameless]) -> Vec<Result<(), Errno>> {
    if root.writing.durability == Durability::File || files.len() <= DURABLE_FILES_BY_ONE {
        return files.iter().map(|file| file.file.sync_all().map_err(|e| errno(&e))).collect();
    }
    let mut synced: Vec<(u64, Result<(), Errno>)> = Vec::new();
    let one = |file: &Nameless| {
        let (dev, _) = file.held.ident().map_err(|e| errno(&e))?;
        if let Some((_, done)) = synced.iter().find(|(known, _)| *known == dev) {
            return *done;
        }
        // The first one's directory was open before any of these was written, so that it is told of their errors.
        let done = stable::sync_filesystem(file.held.dir.as_fd()).map_err(|e| errno(&e));
        synced.push((dev, done));
        done
    };
    files.iter().map(one).collect()
}
