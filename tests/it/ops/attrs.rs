//! Attributes set, changed and removed at random: `user.*` and access control lists, and as root `trusted.*` and capabilities.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, lremovexattr, lsetxattr};
use rustix::io::Errno;

use super::{Kind, Ops};

/// An access control list: what user 7 may, what the mask leaves of it, and what all others may.
fn acl(user: u8, mask: u8, other: u8) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    let unnamed = u32::MAX;
    for (tag, perm, id) in [(1u8, 7u8, unnamed), (2, user, 7), (4, 4, unnamed), (16, mask, unnamed), (32, other, unnamed)] {
        value.extend_from_slice(&[tag, 0, perm, 0]);
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// What a filesystem, or an ordinary user, may not have is no operation.
fn allowed(done: Result<(), Errno>) -> io::Result<()> {
    match done {
        // Not there when it is removed; no room for it: ext4 has one block.
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NODATA | Errno::NOSPC) => Ok(()),
        other => Ok(other?),
    }
}

impl Ops {
    pub(super) fn attribute(&mut self) -> io::Result<()> {
        let Some(node) = self.any(|_| true) else { return self.create() };
        let (path, kind) = (self.path(node), self.nodes[node].kind);
        let numbered = [1, 2][self.rng.below(2)];
        let name = match self.rng.below(if self.choice.root { 10 } else { 6 }) {
            0..=2 => format!("user.n{numbered}"),
            3 | 4 => "system.posix_acl_access".to_owned(),
            5 if kind == Kind::Dir => "system.posix_acl_default".to_owned(),
            5 => format!("user.other {numbered}"),
            6..=7 => format!("trusted.n{numbered}"),
            _ => "security.capability".to_owned(),
        };
        if self.rng.chance(30) {
            self.say(&format!("remove {name}"), &[&path]);
            allowed(lremovexattr(&path, name.as_str()))?;
            return self.changed(node);
        }
        let value = match name.as_str() {
            "security.capability" => {
                let bits = self.rng.below(256) as u8;
                [&[0, 0, 0, 2, 0, bits][..], &[0; 14]].concat()
            }
            acls if acls.starts_with("system.") => acl(self.rng.pick(&[0, 4, 7]), self.rng.pick(&[0, 4, 7]), self.rng.pick(&[0, 5])),
            _ => {
                let len = self.rng.below(60);
                crate::content::whole(self.seed, self.count, len)
            }
        };
        self.set(&path, &name, &value)?;
        self.changed(node)
    }

    fn set(&mut self, path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
        self.say(&format!("set {name} {value:02x?}"), &[path]);
        allowed(lsetxattr(path, name, value, XattrFlags::empty()))
    }
}
