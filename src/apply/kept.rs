//! What an earlier session left parked, and which may be the only copy of what it is: found by the first listing, and removed when the client says that nothing is in doubt.
//!
//! It gets names that no session parks anything at. Bounded: what is beyond stays until a later session.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::apply::access::with_access;
use crate::apply::root::Root;
use crate::apply::sweep;
use crate::limits::KEPT_MAX;
use crate::model::path::{Name, NameBuf};
use crate::sys::dir::Dir;

#[derive(Default)]
struct State {
    names: Vec<(Dir, NameBuf)>,
    /// There are others.
    more: bool,
}

/// See the module's comment. At most [`KEPT_MAX`] names, each with a descriptor of its directory.
#[derive(Default)]
pub(super) struct Kept(Mutex<State>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These of `dir`, whose modification time stays as it is, are parked or were kept before.
    pub(super) fn keep(&self, root: &Root, dir: &Dir, names: Vec<NameBuf>) {
        if names.is_empty() {
            return;
        }
        sweep::keeping_time(dir, || {
            for name in names {
                match set_aside(root, dir, name) {
                    Ok(name) => self.add(dir, name),
                    Err((name, e)) => root.leftovers.tell(name.as_name(), &e),
                }
            }
        });
    }

    fn add(&self, dir: &Dir, name: NameBuf) {
        let mut state = self.lock();
        match dir.try_clone() {
            Ok(dir) if state.names.len() < KEPT_MAX => state.names.push((dir, name)),
            _ => state.more = true,
        }
    }

    /// Whether something is kept.
    pub(super) fn is_any(&self) -> bool {
        let state = self.lock();
        state.more || !state.names.is_empty()
    }

    /// The mirror has all that it shall have: none of it is needed.
    pub(super) fn remove(&self, root: &Root) {
        for (dir, name) in std::mem::take(&mut self.lock().names) {
            sweep::remove_all(&dir, root, &[name]);
        }
    }
}

/// Gives a parked entry a name that stays its own. The name that it has then.
fn set_aside(root: &Root, dir: &Dir, name: NameBuf) -> Result<NameBuf, (NameBuf, io::Error)> {
    if !name.as_name().is_parked() {
        return Ok(name);
    }
    let kept = NameBuf::kept(RandomState::new().hash_one(name.as_bytes()));
    let rename = |to: Name<'_>| with_access(dir, &root.who, || dir.rename_new(name.as_name(), dir, to));
    match rename(kept.as_name()) {
        Ok(()) => Ok(kept),
        Err(e) => Err((name, e)),
    }
}
