//! The root of a mirror, with all that the threads of a session share.
//!
//! Never opens anything above it. The receiver makes one for each session and one [`FsTarget`](crate::apply::FsTarget) a thread from it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::apply::access::Loosened;
use crate::apply::attrs::Keeper;
use crate::apply::durable::{Changes, Touched};
use crate::apply::held;
use crate::apply::leftovers::Leftovers;
use crate::apply::meta::Identity;
use crate::apply::outdated::Outdated;
use crate::apply::staging::Staging;
use crate::model::attrs::Namespaces;
use crate::model::meta::Ident;
use crate::model::op::Abilities;
use crate::model::options::{Durability, Writing};
use crate::model::times::Times;
use crate::sys::dir::Dir;

/// A mirror's root during a session.
pub struct Root {
    pub(super) dir: Dir,
    pub(super) who: Identity,
    pub(super) staging: Staging,
    pub(super) loosened: Loosened,
    pub(super) leftovers: Leftovers,
    pub(super) outdated: Outdated,
    pub(super) attrs: Keeper,
    times: Times,
    pub(super) read_only: bool,
    pub(super) writing: Writing,
    pub(super) changes: Changes,
    sweep: AtomicBool,
    named_only: AtomicBool,
    /// Shared by every patch that is open: how many have it is how many there are.
    pub(super) patches: Arc<()>,
}

impl Root {
    /// The root at `path`, whose last component may be a symbolic link. All attributes are carried that can be.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Arc<Self>> {
        Dir::open_root(path).map(|dir| Self::new(dir, read_only, (Namespaces::ALL, Writing::default())))
    }

    /// The root that is open as `dir`. A read-only one refuses every change with `EROFS`. Of attributes those are carried that are in `wanted` and can be set here.
    pub fn new(dir: Dir, read_only: bool, (wanted, writing): (Namespaces, Writing)) -> Arc<Self> {
        Arc::new(Self {
            attrs: Keeper::new(&dir, wanted),
            times: held::times(&dir),
            dir,
            who: Identity::of_process(),
            staging: Staging::new(),
            loosened: Loosened::new(),
            leftovers: Leftovers::default(),
            outdated: Outdated::default(),
            read_only,
            writing,
            changes: Changes::default(),
            sweep: AtomicBool::new(!read_only),
            named_only: AtomicBool::new(false),
            patches: Arc::new(()),
        })
    }

    /// What can be set here.
    pub fn abilities(&self) -> Abilities {
        Abilities { attrs: self.attrs.settable(), times: self.times, ..self.who.abilities() }
    }

    /// Whether every change is refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether what is applied has to be on stable storage before it is acknowledged.
    pub fn is_durable(&self) -> bool {
        !self.read_only && self.writing.durability != Durability::None
    }

    /// What was changed since this was asked last; nothing where it need not be known.
    pub fn take_touched(&self) -> Touched {
        self.changes.take()
    }

    /// Which directory it is.
    ///
    /// # Errors
    /// As `statx(2)`.
    pub fn ident(&self) -> io::Result<Ident> {
        self.dir.stat().map(|stat| stat.ident)
    }

    /// The session is over and no thread applies any more: permissions are restored, and what it staged goes; with `keep`, because it broke, not what the next
    /// one may take up.
    pub fn end_session(&self, keep: bool) {
        self.leftovers.retry(self);
        self.staging.end_session(self, keep);
        self.loosened.restore_all();
    }

    /// It is as an earlier session of this process left it, and perhaps never listed in this one.
    pub fn goes_on(&self) {
        self.staging.goes_on();
    }

    /// Whether something of ours could not be removed at some time: it may be there, and be found by a first listing only.
    pub fn has_leftovers(&self) -> bool {
        self.leftovers.were_any()
    }

    /// Whether a file may be made without a name and get one later, as far as is known.
    pub(super) fn can_be_unnamed(&self) -> bool {
        !self.named_only.load(Ordering::Relaxed)
    }

    /// It may not: the filesystem has no such files, or the kernel does not let this process link them. Not asked again.
    pub(super) fn cannot_be_unnamed(&self) {
        self.named_only.store(true, Ordering::Relaxed);
    }

    /// Whether this is the first full listing, which removes what an earlier session left behind; asked once for each.
    pub(super) fn is_first_listing(&self) -> bool {
        self.sweep.swap(false, Ordering::Relaxed)
    }
}
