//! Attributes of the mirror's entries: which of them the session carries, reading their digest, and setting what differs.
//!
//! Never touches an attribute that the session does not carry, nor follows a symbolic link. `meta` sets attributes through it, `manifest` reads digests.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::attrs::{ACL_ACCESS, Attrs, Namespaces, UNKNOWN};
use crate::model::meta::Kind;
use crate::model::path::Shown;
use crate::sys::dir::Dir;
use crate::sys::xattr::{At, settable};

/// The attributes of a session.
#[derive(Debug)]
pub(super) struct Keeper {
    settable: Namespaces,
    carried: Namespaces,
    /// It was said that the system refuses some.
    reported: AtomicBool,
}

impl Keeper {
    /// Of a session that wants to carry `wanted` to the mirror at `root`.
    pub(super) fn new(root: &Dir, wanted: Namespaces) -> Self {
        let settable = settable(root);
        Self { settable, carried: settable.and(wanted), reported: AtomicBool::new(false) }
    }

    /// What can be set here.
    pub(super) fn settable(&self) -> Namespaces {
        self.settable
    }

    /// Whether all of these are among what is carried.
    pub(super) fn carries(&self, attrs: &Attrs) -> bool {
        self.carried.has(attrs.namespaces())
    }

    fn of_kind(&self, kind: Kind) -> Namespaces {
        if kind == Kind::Symlink { self.carried.of_links() } else { self.carried }
    }

    /// The digest of what an entry has; [`UNKNOWN`] where that cannot be read.
    pub(super) fn digest(&self, at: At<'_>, kind: Kind) -> u64 {
        let carried = self.of_kind(kind);
        if carried.is_empty() {
            return 0;
        }
        match at.read(carried) {
            Ok(attrs) => attrs.map_or(0, |attrs| attrs.digest()),
            Err(e) => {
                tracing::debug!(error = %e, "attributes of an entry of the mirror could not be read");
                UNKNOWN
            }
        }
    }

    /// An entry shall have these and no others.
    pub(super) fn of<'a>(&'a self, attrs: Option<&'a Attrs>) -> Wanted<'a> {
        Wanted { keeper: self, attrs, how: if self.carried.is_empty() { How::Leave } else { How::Equal } }
    }

    /// The same of a new entry, which has none unless it `inherits` some.
    pub(super) fn of_new<'a>(&'a self, attrs: Option<&'a Attrs>, inherits: bool) -> Wanted<'a> {
        match attrs {
            _ if inherits => self.of(attrs),
            None => Wanted { keeper: self, attrs, how: How::Leave },
            Some(_) => Wanted { keeper: self, attrs, how: How::Add },
        }
    }

    /// What the system does not let us have is no error, and said once: the filesystem here is another than the root's, or its entry is of a kind that has none.
    fn bear(&self, name: &[u8], done: io::Result<()>) -> io::Result<()> {
        match done {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)) => {
                if !self.reported.swap(true, Ordering::Relaxed) {
                    tracing::warn!("not all attributes can be set here ({}: {e}): such entries keep what they have", Shown(name));
                }
                Ok(())
            }
            other => other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As it is.
    Leave,
    /// They are added to none.
    Add,
    /// What is there is made equal.
    Equal,
}

/// The attributes that an entry shall have.
pub(super) struct Wanted<'a> {
    keeper: &'a Keeper,
    attrs: Option<&'a Attrs>,
    how: How,
}

impl Wanted<'_> {
    /// Sets what differs. Says whether an access control list was set or removed, which changes permission bits.
    pub(super) fn set(&self, at: At<'_>, kind: Kind) -> io::Result<bool> {
        let carried = self.keeper.of_kind(kind);
        if self.how == How::Leave || carried.is_empty() {
            return Ok(false);
        }
        let mut bits = false;
        let there = if self.how == How::Equal { at.names(carried)? } else { Vec::new() };
        let wanted = |name: &[u8]| self.attrs.is_some_and(|attrs| attrs.get(name).is_some());
        for name in there.iter().filter(|name| !wanted(name)) {
            match at.remove(name) {
                Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
                done => self.keeper.bear(name, done)?,
            }
            bits |= **name == *ACL_ACCESS;
        }
        for (name, value) in self.attrs.iter().flat_map(|attrs| attrs.iter()) {
            let same = there.iter().any(|there| **there == *name) && at.has(name, value)?;
            if !same {
                self.keeper.bear(name, at.set(name, value))?;
                bits |= name == ACL_ACCESS;
            }
        }
        Ok(bits)
    }
}
