//! The oracle's own reading of attributes, by another library and another road than the code under test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ringsync::model::path::Name;
use ringsync::sys::dir::Dir;
use rustix::fs::{getxattr, lgetxattr, listxattr, llistxattr};
use rustix::io::Errno;

/// Where an entry of a held directory is, or the directory itself, however deep it lies.
pub(super) fn path(dir: &Dir, name: Option<Name<'_>>) -> PathBuf {
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    name.map_or_else(|| path.clone(), |name| path.join(OsStr::from_bytes(name.as_bytes())))
}

/// Name → value of what a mirror carries: all, or `user.*` and access control lists.
pub fn read(path: &Path, all: bool) -> io::Result<BTreeMap<String, Vec<u8>>> {
    // The directory itself is what its link in /proc points to.
    let own = path.parent() == Some(Path::new("/proc/self/fd"));
    let mut names = vec![0; 65_536];
    let len = match if own { listxattr(path, &mut names) } else { llistxattr(path, &mut names) } {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let text = String::from_utf8_lossy(name).into_owned();
        let carried = match text.split_once('.') {
            Some(("user", _)) => true,
            Some(("system", rest)) => rest.starts_with("posix_acl_"),
            // XFS has second names for access control lists.
            Some(("trusted", rest)) => all && !rest.starts_with("SGI_ACL_"),
            Some(("security", rest)) => all && !matches!(rest, "selinux" | "evm"),
            _ => false,
        };
        if !carried {
            continue;
        }
        let mut value = vec![0; 65_536];
        let len = if own { getxattr(path, name, &mut value)? } else { lgetxattr(path, name, &mut value)? };
        value.truncate(len);
        found.insert(text, value);
    }
    Ok(found)
}
