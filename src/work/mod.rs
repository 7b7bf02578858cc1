//! The workers' room: looking at the source, reading files, packing them into frames.
//!
//! Nothing here decides what to mirror, knows the tree or waits for an acknowledgement. The sender runs [`worker`] in its threads and calls
//! [`probe`] and [`files`] itself where a batch is so small that handing it over would cost more.

mod attrs;
mod base;
pub mod files;
mod lanes;
mod later;
pub mod link;
mod patch;
pub mod probe;
pub mod rate;
mod resume;
mod small;
mod sparse;
pub mod stage;
mod sum;
pub mod worker;

pub use attrs::Carried;
pub use lanes::Lanes;

use crate::delta::{Signature, SignatureCache};
use crate::limits::SIGNATURE_CACHE_BYTES_MAX;
use crate::model::event::Key;
use crate::model::meta::{Ident, Stat};
use crate::model::path::Name;
use crate::sys::dir::Dir;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Has directories watched; implemented over the watcher by the sender.
pub trait Cover: Send + Sync {
    /// From the return on, changes in `dir` make events with the key returned; the flag says that they do not and that it has to be polled.
    ///
    /// # Errors
    /// Of the directory.
    fn cover(&self, dir: &Dir, stat: &Stat) -> io::Result<(Option<Key>, bool)>;

    /// The key of a directory that is not opened, where it can be told.
    fn key_at(&self, parent: &Dir, name: Name<'_>, stat: &Stat) -> Option<Key>;
}

/// The source, shared by all who look at it.
pub struct Source {
    /// Its root, held.
    pub root: Dir,
    /// The watcher.
    pub cover: Box<dyn Cover>,
    /// What is known of the mirror's content.
    pub signatures: Signatures,
    /// Attributes that are carried.
    pub carried: Carried,
    /// How fast content is read to be compared.
    pub rate: rate::Rate,
    /// Holes are told; otherwise they are read and sent as the zeros that they stand for.
    pub sparse: bool,
    /// Small files that change are sent as deltas too: they save what has to be sent, not time.
    pub small_deltas: bool,
    /// The receiver is told how long a large file will be before its first piece comes.
    pub preallocate: bool,
}

/// Signatures of the large files that went to the mirror, by the object in the source that they were read from.
pub struct Signatures(Option<Mutex<SignatureCache<Ident>>>);

impl Signatures {
    /// Signatures are kept if there will be a use for them: not for a single run.
    pub fn new(kept: bool) -> Self {
        Self(kept.then(|| Mutex::new(SignatureCache::new(SIGNATURE_CACHE_BYTES_MAX))))
    }

    fn with<R>(&self, act: impl FnOnce(&mut SignatureCache<Ident>) -> R) -> Option<R> {
        Some(act(&mut self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Whether signatures are to be made.
    pub fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// That of what the mirror got from this object last, if it is known.
    pub fn get(&self, ident: &Ident) -> Option<Arc<Signature>> {
        self.with(|cache| cache.get(ident)).flatten()
    }

    /// What the mirror has of the object is not known.
    pub fn remove(&self, ident: &Ident) {
        self.with(|cache| cache.remove(ident));
    }

    /// The mirror has this content of the object now.
    pub fn insert(&self, ident: Ident, signature: Arc<Signature>) {
        self.with(|cache| cache.insert(ident, signature));
    }
}
