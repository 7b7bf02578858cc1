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

use crate::apply::access::with_access;
use crate::apply::manifest::errno;
use crate::apply::partial::{self, Key};
use crate::apply::root::Root;
use crate::apply::sweep;
use crate::apply::target::Errno;
use crate::apply::temp::IdName;
use crate::limits::{PARTIALS_KEPT_MAX, RESUME_BYTES_MIN, STAGE_WRITE_BYTES, STAGED_FILES_MAX};
use crate::model::meta::{Kind, Stat, Time};
use crate::model::path::{Name, STAGING_NAME};
use crate::sys::dir::{self, Dir, stat_fd};
use crate::sys::holes;

/// Of a file on its way.
const STAGED_MODE: u32 = 0o600;

/// Invariant: every file in `files` is in the staging directory, as `f<id>` or `k<key>`, unless somebody else removed it; no two have one key; `made` if this session
/// made or used the directory, or found something in it.
#[derive(Default)]
struct State {
    made: bool,
    /// What earlier sessions left is of no use any more.
    forgotten: bool,
    files: HashMap<u64, Progress>,
}

/// How far a staged file is.
#[derive(Clone, Copy, Default)]
struct Progress {
    received: u64,
    /// Why a piece could not be written: the file is of no use any more, and the rest is not worth its space.
    failed: Option<Errno>,
    /// What its content is called, if it may be taken up by a later session.
    key: Option<Key>,
}

impl Progress {
    fn name(&self, id: u64) -> IdName {
        self.key.as_ref().map_or_else(|| IdName::new(b'f', id), |key| IdName::keyed(b'k', key))
    }
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
        self.piece(root, id, offset, data.len() as u64, |file| {
            let mut parts = (offset..).step_by(STAGE_WRITE_BYTES).zip(data.chunks(STAGE_WRITE_BYTES));
            parts.try_for_each(|(at, part)| file.write_all_at(part, at))
        })
    }

    /// Leaves a hole in the staged file `id`. Why it failed is also what `complete` will say.
    pub(super) fn hole(&self, root: &Root, id: u64, offset: u64, len: u64) -> io::Result<()> {
        self.piece(root, id, offset, len, |file| {
            // Nothing was written there: it is one already, but for where the file ends, unless room was taken for it.
            if root.writing.preallocate {
                match holes::punch(file, offset, len) {
                    Err(e) if e.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(e),
                    _ => {}
                }
            }
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
        let mut state = self.lock();
        let progress = state.files.get(&id).copied();
        let id_name = progress.unwrap_or_default().name(id);
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

    /// The staged file `id`, which must be a new one, will have `size` bytes of the content that `key` names, or that has no name and is not kept.
    /// The file, for reading, if an earlier session left a part of it.
    pub(super) fn take_up(&self, root: &Root, id: u64, key: Option<Key>, size: u64) -> io::Result<Option<File>> {
        let mut state = self.lock();
        if state.files.contains_key(&id) || state.files.len() >= STAGED_FILES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EDQUOT));
        }
        // What is on its way already cannot be two.
        let key = key.filter(|key| state.files.values().all(|other| other.key != Some(*key)));
        if key.is_none() && !root.writing.preallocate {
            return Ok(None);
        }
        let mut progress = Progress { key, ..Progress::default() };
        let id_name = progress.name(id);
        let dir = state.enter(root)?;
        let there = dir.open_write(id_name.name()).ok().filter(|file| {
            let stat = stat_fd(file.as_fd());
            let is_ours = |stat: Stat| stat.meta.kind == Kind::File && stat.nlink == 1 && stat.meta.uid == root.who.uid();
            key.is_some() && stat.is_ok_and(|stat| is_ours(stat) && (1..=size).contains(&stat.meta.size))
        });
        let file = match &there {
            Some(file) => file.try_clone()?,
            None => create_over(&dir, id_name.name())?,
        };
        if there.is_some() {
            progress.received = stat_fd(file.as_fd())?.meta.size;
        }
        if root.writing.preallocate
            && let Err(e) = holes::allocate(&file, size)
        {
            progress.failed = Some(errno(&e));
        }
        state.files.insert(id, progress);
        Ok(there)
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
        let id_name = progress.name(id);
        let file = open_again(&dir, id_name.name())?;
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
        if let Some(progress) = state.files.remove(&id) {
            remove_file(root, progress.name(id).name());
            // No cycle need follow that would see it empty.
            state.leave(root);
        }
    }

    /// Removes the staging directory if nothing is in it.
    pub(super) fn remove_if_empty(&self, root: &Root) {
        self.lock().leave(root);
    }

    /// Removes what was staged; with `keep` all but what a later session may take up.
    pub(super) fn end_session(&self, root: &Root, keep: bool) {
        let mut kept = 0;
        for (id, progress) in std::mem::take(&mut self.lock().files) {
            let is_worth = progress.key.is_some() && progress.failed.is_none() && progress.received >= RESUME_BYTES_MIN;
            if keep && is_worth && kept < PARTIALS_KEPT_MAX {
                kept += 1;
            } else {
                remove_file(root, progress.name(id).name());
            }
        }
        if !keep {
            self.forget_partials(root);
        }
        self.lock().leave(root);
    }

    /// An earlier session of this process may have left parts of large files, which no listing will tell of.
    pub(super) fn goes_on(&self) {
        self.lock().made = true;
    }

    /// Removes what earlier sessions left and this one has not taken up.
    pub(super) fn forget_partials(&self, root: &Root) {
        let mut state = self.lock();
        state.forgotten = true;
        // Without the directory there is nothing.
        if state.made
            && let Ok(dir) = open_own(root)
        {
            state.remove_unknown(root, &dir);
        }
        state.leave(root);
    }

    /// Removes what earlier sessions left, and this one could not remove before, but for parts of large files that are young and may still be of use; all of it, if
    /// the directory is not to be trusted and nothing is on its way. The root's time stays as it is.
    pub(super) fn sweep(&self, root: &Root) {
        let mut state = self.lock();
        let swept = open_own(root).is_ok_and(|dir| state.remove_unknown(root, &dir));
        if !swept && state.files.is_empty() {
            sweep::remove_all(&root.dir, root, &[staging_name().to_owned()]);
        }
        state.made = true;
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
        restore_time(root, kept)?;
        open_own(root)
    }

    /// Removes what no staged file of this session is, nor may become one. False if `dir` cannot be listed.
    fn remove_unknown(&self, root: &Root, dir: &Dir) -> bool {
        let keep = if self.forgotten { 0 } else { PARTIALS_KEPT_MAX };
        let Ok(mut gone) = partial::leftovers(dir, keep) else { return false };
        let known: Vec<IdName> = self.files.iter().map(|(id, progress)| progress.name(*id)).collect();
        gone.retain(|gone| !known.iter().any(|known| known.name() == gone.as_name()));
        sweep::remove_staged(dir, root, &gone);
        true
    }

    fn leave(&mut self, root: &Root) {
        if !self.made || !self.files.is_empty() {
            return;
        }
        let removed = root.dir.stat().and_then(|stat| {
            with_access(&root.dir, &root.who, || root.dir.rmdir(staging_name()))?;
            self.made = false;
            restore_time(root, stat.meta.mtime)
        });
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.made = false,
            // Somebody else's.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => root.leftovers.tell(staging_name(), &e),
            Ok(()) => {}
        }
    }
}

/// The staging directory, unless it is somebody else's: they could read and change what is staged.
fn open_own(root: &Root) -> io::Result<Dir> {
    let dir = root.dir.open_dir(staging_name())?;
    if dir.stat()?.meta.uid == root.who.uid() { Ok(dir) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Gives the root the time that it had. Where it is somebody else's, who lets us write to it, that cannot be.
fn restore_time(root: &Root, mtime: Time) -> io::Result<()> {
    match dir::set_mtime(root.dir.as_fd(), mtime) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(()),
        done => done,
    }
}

/// Opens a complete file, which has the mode that it shall have if it could not be placed before: that may keep us out.
fn open_again(dir: &Dir, name: Name<'_>) -> io::Result<File> {
    match dir.open_write(name) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
            dir.set_mode_at(name, STAGED_MODE)?;
            dir.open_write(name)
        }
        other => other,
    }
}

fn create_over(dir: &Dir, name: Name<'_>) -> io::Result<File> {
    match dir.create_new(name, STAGED_MODE) {
        // An earlier session's, and nobody has asked for a listing since.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            dir.unlink(name)?;
            dir.create_new(name, STAGED_MODE)
        }
        other => other,
    }
}

fn remove_file(root: &Root, name: Name<'_>) {
    match with_access(&root.dir, &root.who, || open_own(root)?.unlink(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => root.leftovers.note_staged(name, &e),
        _ => {}
    }
}
