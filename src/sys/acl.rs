//! Whether a directory gives its new entries an access control list of its own.
//!
//! Never reads nor sets a list. The receiver asks it once per opened directory, since a default list overrides the permission bits
//! that a new file is made with.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use crate::sys::dir::Dir;

/// Whether `dir` has a default access control list. Where the filesystem knows no such lists, or the question fails, it has none.
pub fn has_default_acl(dir: &Dir) -> bool {
    // SAFETY: the name is a NUL-ended literal; with length 0 the kernel writes nothing through the null pointer.
    unsafe { libc::fgetxattr(dir.as_raw_fd(), c"system.posix_acl_default".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}
