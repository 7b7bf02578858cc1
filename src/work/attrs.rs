//! Attributes of the source: which are carried, on which of its filesystems there are any, and each different value once an answer.
//!
//! Never writes, never follows a symbolic link. The other files of the room read attributes through it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{ATTRS_FILESYSTEMS_MAX, INLINE_FILE_BYTES_MAX};
use crate::model::attrs::{Attrs, Namespaces, UNKNOWN};
use crate::model::meta::{Kind, Stat};
use crate::sys::dir::Dir;
use crate::sys::xattr::{At, has_any};

/// The attributes that both ends can hold, and so are carried.
pub struct Carried {
    namespaces: Namespaces,
    /// By device: whether the filesystem has attributes at all.
    filesystems: Mutex<HashMap<u64, bool>>,
}

impl Carried {
    /// These.
    pub fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, filesystems: Mutex::default() }
    }

    /// What of them to look for in a directory on the device `dev`: nothing, without a call, where its filesystem is known to have none.
    pub(super) fn on(&self, dir: &Dir, dev: u64) -> Namespaces {
        if self.namespaces.is_empty() {
            return Namespaces::NONE;
        }
        let mut known = self.filesystems.lock().unwrap_or_else(PoisonError::into_inner);
        let has = match known.get(&dev) {
            Some(has) => *has,
            None => {
                let has = has_any(dir.as_fd());
                if known.len() < ATTRS_FILESYSTEMS_MAX {
                    known.insert(dev, has);
                }
                has
            }
        };
        if has { self.namespaces } else { Namespaces::NONE }
    }

    /// To look at a directory on the device `dev`, and at what is in it.
    pub(super) fn collect(&self, dir: &Dir, dev: u64) -> Collector {
        Collector { dev, here: self.on(dir, dev), elsewhere: self.namespaces, found: BTreeMap::new() }
    }
}

/// Collects what is found in one directory: each value once, by its digest.
pub(super) struct Collector {
    dev: u64,
    here: Namespaces,
    /// On what is mounted in the directory.
    elsewhere: Namespaces,
    found: BTreeMap<u64, Arc<Attrs>>,
}

impl Collector {
    /// What of an entry is wanted.
    fn wanted(&self, stat: &Stat) -> Namespaces {
        let wanted = if stat.ident.dev == self.dev { self.here } else { self.elsewhere };
        if stat.meta.kind == Kind::Symlink { wanted.of_links() } else { wanted }
    }

    /// Leaves the attributes of what was looked at to whoever reads it, if it is a small file with one name that may have some.
    pub(super) fn leave(&self, stat: &mut Stat) -> bool {
        let left = stat.meta.kind == Kind::File && stat.nlink == 1 && stat.meta.size <= INLINE_FILE_BYTES_MAX as u64;
        if left && !self.wanted(stat).is_empty() {
            stat.meta.attrs = UNKNOWN;
        }
        left
    }

    /// The digest of what an entry has; 0 for none.
    pub(super) fn look(&mut self, at: At<'_>, stat: &Stat) -> io::Result<u64> {
        let wanted = self.wanted(stat);
        if wanted.is_empty() {
            return Ok(0);
        }
        let Some(attrs) = at.read(wanted)? else { return Ok(0) };
        let digest = attrs.digest();
        self.found.entry(digest).or_insert_with(|| Arc::new(attrs));
        Ok(digest)
    }

    /// All that was found.
    pub(super) fn all(self) -> Vec<Arc<Attrs>> {
        self.found.into_values().collect()
    }
}
