//! The workers' room: looking at the source, reading files, packing them into frames.
//!
//! Nothing here decides what to mirror, knows the tree or waits for an acknowledgement. The sender runs [`worker`] in its threads and calls
//! [`probe`] and [`files`] itself where a batch is so small that handing it over would cost more.

pub mod files;
pub mod probe;
pub mod stage;
pub mod worker;

use crate::model::event::Key;
use crate::model::meta::Stat;
use crate::model::path::Name;
use crate::sys::dir::Dir;
use std::io;

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
}
