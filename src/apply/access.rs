//! Directories of ours whose permission bits keep even us out: loosened for the time being, restored when the cycle ends.
//!
//! Never loosens a directory of somebody else, and never anything for a process that permission bits do not bind.

use std::io;
use std::sync::Mutex;

use crate::apply::meta::Identity;
use crate::limits::LOOSENED_DIRS_MAX;
use crate::model::meta::{Ident, Kind, Stat};
use crate::model::path::{Name, RelPath};
use crate::sys::dir::{self, Dir};
use std::os::fd::AsFd;

/// All that the owner needs.
const OWNER_ALL: u32 = 0o700;

struct Loose {
    dir: Dir,
    ident: Ident,
    was: u32,
    now: u32,
}

impl Loose {
    /// Loosens `dir`; `None` if there is nothing to loosen, or it is not ours.
    fn new(dir: &Dir, who: &Identity) -> io::Result<Option<Self>> {
        let stat = dir.stat()?;
        let Some(now) = looser(&stat, who) else { return Ok(None) };
        let dir = dir.try_clone()?;
        dir::set_mode(dir.as_fd(), now)?;
        Ok(Some(Self { dir, ident: stat.ident, was: stat.meta.mode, now }))
    }

    /// Somebody may have set the bits meanwhile: those stay.
    fn restore(&self) {
        if self.dir.stat().is_ok_and(|stat| stat.meta.mode == self.now)
            && let Err(e) = dir::set_mode(self.dir.as_fd(), self.was)
        {
            tracing::debug!(error = %e, "permissions of a directory could not be restored");
        }
    }
}

/// What is loosened now, held by descriptor so that a rename does not hide it. At most [`LOOSENED_DIRS_MAX`].
pub(super) struct Loosened(Mutex<Vec<Loose>>);

impl Loosened {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Loosens what keeps us from working in the directory at `path`, and on the directory `entry` in it. Says whether anything was loosened.
    pub(super) fn loosen(&self, root: &Dir, who: &Identity, path: &RelPath, entry: Option<Name<'_>>) -> io::Result<bool> {
        if who.any_access() {
            return Ok(false);
        }
        let mut any = self.loosen_root(root, who)?;
        let mut dir = root.try_clone()?;
        for name in path.names() {
            any |= self.loosen_entry(&dir, who, name)?;
            dir = dir.open_dir(name)?;
        }
        if let Some(name) = entry {
            any |= self.loosen_entry(&dir, who, name)?;
        }
        Ok(any)
    }

    fn loosen_root(&self, root: &Dir, who: &Identity) -> io::Result<bool> {
        let Some(loose) = Loose::new(root, who)? else { return Ok(false) };
        self.add(loose);
        Ok(true)
    }

    fn loosen_entry(&self, dir: &Dir, who: &Identity, name: Name<'_>) -> io::Result<bool> {
        let stat = match dir.stat_at(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let Some(now) = looser(&stat, who) else { return Ok(false) };
        dir.set_mode_at(name, now)?;
        self.add(Loose { dir: dir.open_dir(name)?, ident: stat.ident, was: stat.meta.mode, now });
        Ok(true)
    }

    fn add(&self, loose: Loose) {
        let mut all = self.lock();
        if all.len() == LOOSENED_DIRS_MAX {
            all.remove(0).restore();
        }
        all.push(loose);
    }

    /// The directory gets its permissions set for good: they are not to be restored.
    pub(super) fn forget(&self, ident: Ident) {
        self.lock().retain(|loose| loose.ident != ident);
    }

    /// The permissions that a loosened directory has in the end.
    pub(super) fn was(&self, ident: Ident) -> Option<u32> {
        self.lock().iter().find(|loose| loose.ident == ident).map(|loose| loose.was)
    }

    pub(super) fn restore_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        all.iter().rev().for_each(Loose::restore);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Loose>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Runs `act`, and again with looser permissions of `dir` meanwhile if they stand against it: for what no operation of a cycle does.
pub(super) fn with_access<R>(dir: &Dir, who: &Identity, mut act: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    match act() {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && !who.any_access() => {
            // Where there is nothing to loosen, another thread may have done it just now.
            let loose = Loose::new(dir, who);
            let done = act();
            if let Ok(Some(loose)) = loose {
                loose.restore();
            }
            done
        }
        done => done,
    }
}

fn looser(stat: &Stat, who: &Identity) -> Option<u32> {
    let meta = &stat.meta;
    (meta.kind == Kind::Dir && meta.uid == who.uid() && meta.mode & OWNER_ALL != OWNER_ALL).then_some(meta.mode | OWNER_ALL)
}
