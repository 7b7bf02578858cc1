//! The staging directory: parts of large files.
//!
//! It is made when it is needed and removed when it is empty, and neither changes the root's modification time. Everything that makes or removes
//! it, and whatever sets the root's own times, holds one lock. The directory is looked up by name each time, so that one moved away by a local
//! user is not used.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::manifest::errno;
use crate::apply::meta::left_behind;
use crate::apply::root::Root;
use crate::apply::target::Errno;
use crate::apply::temp::IdName;
use crate::limits::STAGED_FILES_MAX;
use crate::model::meta::Kind;
use crate::model::path::{Name, STAGING_NAME};
use crate::sys::dir::{self, Dir, stat_fd};

/// Invariant: every file in `files` is `f<id>` in the staging directory unless somebody else removed it; `made` if this session made or used the directory.
#[derive(Default)]
struct State {
    made: bool,
    files: HashMap<u64, Progress>,
}

/// How far a staged file is.
#[derive(Clone, Copy, Default)]
struct Progress {
    received: u64,
    /// Why a piece could not be written: the file is of no use any more, and the rest is not worth its space.
    failed: Option<Errno>,
}

pub(super) struct Staging(Mutex<State>);

/// A completely staged file.
pub(super) struct Staged {
    pub(super) dir: Dir,
    pub(super) id_name: IdName,
    pub(super) file: File,
}

fn staging_name() -> Name<'static> {
    Name::new(STAGING_NAME).expect("the constant is a valid name")
}

impl Staging {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::default()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` while nobody makes or removes the staging directory.
    pub(super) fn still<R>(&self, f: impl FnOnce() -> R) -> R {
        let _held = self.lock();
        f()
    }

    /// Writes a piece of the staged file `id`. Why it failed is also what `complete` will say.
    pub(super) fn write(&self, root: &Root, id: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.piece(root, id, offset, data.len() as u64, |file| file.write_all_at(data, offset))
    }

    /// Leaves a hole in the staged file `id`. Why it failed is also what `complete` will say.
    pub(super) fn hole(&self, root: &Root, id: u64, offset: u64, len: u64) -> io::Result<()> {
        self.piece(root, id, offset, len, |file| {
            // Nothing was written there: it is one already, but for where the file ends.
            let end = offset + len;
            if stat_fd(file.as_fd())?.meta.size < end { file.set_len(end) } else { Ok(()) }
        })
    }

    fn piece(&self, root: &Root, id: u64, offset: u64, len: u64, make: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let done = self.open_piece(root, id, offset, len).and_then(|file| make(&file));
        let mut state = self.lock();
        match &done {
            Ok(()) => {
                if let Some(progress) = state.files.get_mut(&id) {
                    // Beyond any file's length it is wrong anyway.
                    progress.received = progress.received.saturating_add(len);
                }
            }
            // Not for good: the caller may loosen permissions and try again.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {}
            Err(e) => {
                if state.files.contains_key(&id) || state.files.len() < STAGED_FILES_MAX {
                    state.files.entry(id).or_default().failed = Some(errno(e));
                }
            }
        }
        done
    }

    fn open_piece(&self, root: &Root, id: u64, offset: u64, len: u64) -> io::Result<File> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        if end.is_none() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let id_name = IdName::new(b'f', id);
        let mut state = self.lock();
        let progress = state.files.get(&id).copied();
        if let Some(errno) = progress.and_then(|progress| progress.failed) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let dir = state.enter(root)?;
        if progress.is_some() {
            return dir.open_write(id_name.name());
        }
        if state.files.len() >= STAGED_FILES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EDQUOT));
        }
        let file = create_over(&dir, id_name.name())?;
        state.files.insert(id, Progress::default());
        Ok(file)
    }

    /// Makes the staged file `id`, which must be a new one, to be filled by the caller.
    pub(super) fn create(&self, root: &Root, id: u64) -> io::Result<File> {
        let mut state = self.lock();
        if state.files.contains_key(&id) || state.files.len() >= STAGED_FILES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EDQUOT));
        }
        let dir = state.enter(root)?;
        let file = create_over(&dir, IdName::new(b'f', id).name())?;
        state.files.insert(id, Progress::default());
        Ok(file)
    }

    /// The staged file `id` has all its `size` bytes.
    pub(super) fn is_complete(&self, id: u64, size: u64) {
        if let Some(progress) = self.lock().files.get_mut(&id) {
            progress.received = size;
        }
    }

    /// The staged file `id`, which must be complete with `size` bytes.
    pub(super) fn complete(&self, root: &Root, id: u64, size: u64) -> io::Result<Staged> {
        let progress = self.lock().files.get(&id).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        if let Some(errno) = progress.failed {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if progress.received != size {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        let dir = open_own(root)?;
        let id_name = IdName::new(b'f', id);
        let file = dir.open_write(id_name.name())?;
        let meta = dir::stat_fd(file.as_fd())?.meta;
        if meta.kind != Kind::File || meta.size != size {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        Ok(Staged { dir, id_name, file })
    }

    /// The staged file `id` has left for its place.
    pub(super) fn placed(&self, id: u64) {
        self.lock().files.remove(&id);
    }

    /// Removes the staged file `id`, if there is one, and the directory if nothing is left in it: no cycle may follow.
    pub(super) fn drop_file(&self, root: &Root, id: u64) {
        let mut state = self.lock();
        if state.files.remove(&id).is_some() {
            remove_file(root, id);
            // No cycle need follow that would see it empty.
            state.leave(root);
        }
    }

    /// Removes the staging directory if nothing is in it.
    pub(super) fn remove_if_empty(&self, root: &Root) {
        self.lock().leave(root);
    }

    /// Removes what was staged.
    pub(super) fn end_session(&self, root: &Root) {
        let mut state = self.lock();
        for (id, _) in std::mem::take(&mut state.files) {
            remove_file(root, id);
        }
        state.leave(root);
    }
}

impl State {
    /// Opens the directory, making it if need be.
    fn enter(&mut self, root: &Root) -> io::Result<Dir> {
        let name = staging_name();
        match open_own(root) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => root.dir.unlink(name)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => {
                self.made |= other.is_ok();
                return other;
            }
        }
        let kept = root.dir.stat()?.meta.mtime;
        root.dir.mkdir(name, 0o700)?;
        self.made = true;
        dir::set_mtime(root.dir.as_fd(), kept)?;
        open_own(root)
    }

    fn leave(&mut self, root: &Root) {
        if !self.made || !self.files.is_empty() {
            return;
        }
        let removed = root.dir.stat().and_then(|stat| {
            root.dir.rmdir(staging_name())?;
            self.made = false;
            dir::set_mtime(root.dir.as_fd(), stat.meta.mtime)
        });
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.made = false,
            // Somebody else's.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => left_behind(staging_name(), &e),
            Ok(()) => {}
        }
    }
}

/// The staging directory, unless it is somebody else's: they could read and change what is staged.
fn open_own(root: &Root) -> io::Result<Dir> {
    let dir = root.dir.open_dir(staging_name())?;
    if dir.stat()?.meta.uid == root.who.uid() { Ok(dir) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn create_over(dir: &Dir, name: Name<'_>) -> io::Result<File> {
    match dir.create_new(name, 0o600) {
        // An earlier session's, and nobody has asked for a listing since.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            dir.unlink(name)?;
            dir.create_new(name, 0o600)
        }
        other => other,
    }
}

fn remove_file(root: &Root, id: u64) {
    let id_name = IdName::new(b'f', id);
    match open_own(root).and_then(|dir| dir.unlink(id_name.name())) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => left_behind(id_name.name(), &e),
        _ => {}
    }
}
