//! Files of the mirror that kept their content because a new one did not come: cycles that were on their way by then may give them the new one's metadata, or its
//! other names. They must not. If the connection is lost before the failure is known, the next manifest would tell of an old content with the new one's time.
//!
//! Bounded in time by how many cycles a client may have on their way, and in number: beyond, no object is trusted. Costs an atomic load while there is nothing.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::fs::FsTarget;
use crate::apply::target::Errno;
use crate::limits::{CYCLES_IN_FLIGHT_MAX, OUTDATED_MAX};
use crate::model::meta::{Ident, Kind};
use crate::model::op::Spot;
use crate::model::path::Name;
use crate::sys::dir::Dir;

/// Why a content did not come, and in which cycle.
#[derive(Clone, Copy)]
struct Cause {
    errno: Errno,
    cycle: u64,
}

#[derive(Default)]
struct State {
    /// Cycles that have ended.
    cycle: u64,
    objects: HashMap<Ident, Cause>,
    /// Some that had no room.
    others: Option<Cause>,
}

/// See the module's comment. `any` is set exactly if there is something in the state, but for a moment.
#[derive(Default)]
pub(super) struct Outdated {
    any: AtomicBool,
    state: Mutex<State>,
}

impl Outdated {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, ident: Ident, errno: Errno) {
        let mut state = self.lock();
        let cause = Cause { errno, cycle: state.cycle };
        if state.objects.len() < OUTDATED_MAX || state.objects.contains_key(&ident) {
            state.objects.insert(ident, cause);
        } else {
            state.others = Some(cause);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Notes the file at the name if its new content has not come. What else is there the client makes anew, and a manifest tells all of it.
    pub(super) fn note_if_failed(&self, dir: &Dir, name: Name<'_>, done: Result<(), Errno>) -> Result<(), Errno> {
        if let Err(errno) = done
            && let Ok(stat) = dir.stat_at(name)
            && stat.meta.kind == Kind::File
        {
            self.note(stat.ident, errno);
        }
        done
    }

    /// As [`Outdated::check`] for what is at the name; where nothing is, that is found by who wants it.
    pub(super) fn check_at(&self, dir: &Dir, name: Name<'_>) -> io::Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        dir.stat_at(name).map_or(Ok(()), |stat| self.check(&stat.ident))
    }

    /// Whether the object may get other metadata, or another name.
    ///
    /// # Errors
    /// What its content failed with.
    pub(super) fn check(&self, ident: &Ident) -> io::Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.lock();
        match state.objects.get(ident).or(state.others.as_ref()) {
            Some(cause) => Err(io::Error::from_raw_os_error(cause.errno)),
            None => Ok(()),
        }
    }

    /// A cycle has ended: what failed so long ago is known to the client since before it made any that is still to come.
    pub(super) fn end_cycle(&self) {
        let mut state = self.lock();
        state.cycle += 1;
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let now = state.cycle;
        let matters = |cause: &Cause| cause.cycle + CYCLES_IN_FLIGHT_MAX as u64 > now;
        state.objects.retain(|_, cause| matters(cause));
        state.others = state.others.filter(matters);
        self.any.store(!state.objects.is_empty() || state.others.is_some(), Ordering::Release);
    }
}

impl FsTarget {
    /// The content of a file has come, or has failed to.
    pub(super) fn content_came(&mut self, at: &Spot, done: Result<(), Errno>) -> Result<(), Errno> {
        if done.is_err()
            && let Ok(held) = self.held(&at.dir)
        {
            return self.root.outdated.note_if_failed(&held.dir, at.name.as_name(), done);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ident(ino: u64) -> Ident {
        Ident { dev: 1, ino, birth_ns: 0 }
    }

    fn errno(outdated: &Outdated, ino: u64) -> Option<Errno> {
        outdated.check(&ident(ino)).err().and_then(|e| e.raw_os_error())
    }

    #[test]
    fn an_object_is_outdated_for_as_long_as_cycles_may_be_on_their_way() {
        let outdated = Outdated::default();
        outdated.end_cycle();
        outdated.note(ident(1), libc::ENOSPC);
        for _ in 1..CYCLES_IN_FLIGHT_MAX {
            outdated.end_cycle();
            assert_eq!((errno(&outdated, 1), errno(&outdated, 2)), (Some(libc::ENOSPC), None));
        }
        outdated.end_cycle();
        assert_eq!(errno(&outdated, 1), None);
    }

    #[test]
    fn beyond_the_limit_no_object_is_trusted() {
        let outdated = Outdated::default();
        (0..=OUTDATED_MAX as u64).for_each(|ino| outdated.note(ident(ino), libc::EIO));
        assert_eq!(errno(&outdated, u64::MAX), Some(libc::EIO));
        assert_eq!(outdated.lock().objects.len(), OUTDATED_MAX);
        (0..CYCLES_IN_FLIGHT_MAX).for_each(|_| outdated.end_cycle());
        assert_eq!((errno(&outdated, u64::MAX), errno(&outdated, 0)), (None, None));
    }
}
