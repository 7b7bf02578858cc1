//! What of ours could not be removed for a cause that may end: a disk that is read-only or full, an immutable file. It is tried again with each cycle and at the end of the session;
//! what is left then is found by the next session's first listing.
//!
//! Bounded: what is beyond waits for that listing at once. Costs an atomic load while there is nothing.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::access::with_access;
use crate::apply::meta::left_behind;
use crate::apply::root::Root;
use crate::apply::sweep;
use crate::limits::LEFTOVERS_MAX;
use crate::model::meta::Ident;
use crate::model::path::{Name, NameBuf, STAGING_NAME, Shown};
use crate::sys::dir::Dir;

/// A name, once, in a directory that is found by its identity.
struct Leftover {
    within: Ident,
    dir: Dir,
    name: NameBuf,
}

impl Leftover {
    /// What is left of it: the name, or, where that is gone, the names of ours that what is in it was moved to when it was to be removed.
    fn now(&self) -> Vec<NameBuf> {
        let mut names = vec![self.name.clone()];
        if matches!(self.dir.stat_at(self.name.as_name()), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            let is_ours = |name: Name<'_>| name.is_reserved() && name.as_bytes() != STAGING_NAME && !name.is_parked();
            // What cannot be listed cannot be removed either.
            let _ = self.dir.list(|name| names.extend(is_ours(name).then(|| name.to_owned())));
        }
        names
    }
}

#[derive(Default)]
struct State {
    names: Vec<Leftover>,
    /// The staging directory or something in it: both may be in use again under the same name.
    staged: bool,
}

/// See the module's comment. `any` is set exactly if there is something in the state, but for a moment.
#[derive(Default)]
pub(super) struct Leftovers {
    any: AtomicBool,
    /// There was something, noted or not.
    ever: AtomicBool,
    /// It was said that something is immutable, or the like.
    warned: AtomicBool,
    state: Mutex<State>,
}

fn may_end(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EROFS | libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EPERM))
}

impl Root {
    /// Removes a temporary name, if it is still there.
    pub(super) fn discard(&self, dir: &Dir, temp: Name<'_>) {
        match with_access(dir, &self.who, || dir.unlink(temp)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => self.leftovers.note(dir, temp, &e),
            _ => {}
        }
    }
}

impl Leftovers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something could not be removed. That somebody keeps it from being removed is said aloud, once.
    pub(super) fn tell(&self, name: Name<'_>, e: &io::Error) {
        self.ever.store(true, Ordering::Relaxed);
        if e.raw_os_error() == Some(libc::EPERM) && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} could not be removed: {e}; it is tried again with each cycle", Shown(name.as_bytes()));
        }
        left_behind(name, e);
    }

    /// The name could not be removed from `dir`. Between cycles nothing else of ours gets it, unless it is the staging directory's.
    pub(super) fn note(&self, dir: &Dir, name: Name<'_>, e: &io::Error) {
        if name.as_bytes() == STAGING_NAME {
            return self.note_staged(name, e);
        }
        self.tell(name, e);
        let mut state = self.lock();
        if may_end(e)
            && state.names.len() < LEFTOVERS_MAX
            && let Ok(within) = dir.stat().map(|stat| stat.ident)
            && !state.names.iter().any(|other| other.within == within && other.name.as_name() == name)
            && let Ok(dir) = dir.try_clone()
        {
            state.names.push(Leftover { within, dir, name: name.to_owned() });
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// The staging directory, or something in it, could not be removed.
    pub(super) fn note_staged(&self, name: Name<'_>, e: &io::Error) {
        self.tell(name, e);
        if may_end(e) {
            self.lock().staged = true;
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there ever was something, noted or not.
    pub(super) fn were_any(&self) -> bool {
        self.ever.load(Ordering::Relaxed)
    }

    /// Tries all of it again. No cycle is open.
    pub(super) fn retry(&self, root: &Root) {
        if !self.any.swap(false, Ordering::Relaxed) {
            return;
        }
        let State { names, staged } = std::mem::take(&mut *self.lock());
        for leftover in names {
            sweep::remove_all(&leftover.dir, root, &leftover.now());
        }
        if staged {
            root.staging.sweep(root);
        }
    }
}
