//! Files that have no name until they are complete (`O_TMPFILE`): they cost a rename less than a temporary name, and a crash leaves nothing behind.
//!
//! Never replaces an entry. The receiver makes new files so.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::model::path::Name;
use crate::sys::dir::{CName, Dir, check};

impl Dir {
    /// Makes a file without a name on this directory's filesystem, open for reading and writing, with exactly the permission bits `mode` if the
    /// process's umask is 0. It is gone when it is closed, unless it has got a name by [`Dir::link_unnamed`].
    ///
    /// # Errors
    /// As `openat(2)` with `O_TMPFILE`: `EOPNOTSUPP` where the filesystem has no such files.
    pub fn create_unnamed(&self, mode: u32) -> io::Result<File> {
        const FLAGS: i32 = libc::O_RDWR | libc::O_TMPFILE | libc::O_CLOEXEC;
        // SAFETY: the path is NUL-ended and outlives the call.
        let fd = unsafe { libc::openat(self.as_raw_fd(), c".".as_ptr(), FLAGS, mode) };
        check(fd)?;
        // SAFETY: the call has just given us this descriptor, and nobody else has it.
        Ok(unsafe { File::from_raw_fd(fd) })
    }

    /// Gives a file of [`Dir::create_unnamed`] the name `name` in this directory, where nothing may be.
    ///
    /// # Errors
    /// As `linkat(2)`: `EEXIST` if something has the name. `ENOENT` also where the process may not link by descriptor (before Linux 6.10 that takes
    /// `CAP_DAC_READ_SEARCH`) and has no `/proc`.
    pub fn link_unnamed(&self, file: &File, name: Name<'_>) -> io::Result<()> {
        let name = CName::new(name);
        // SAFETY: both paths are NUL-ended and outlive the call.
        let linked = unsafe { libc::linkat(file.as_raw_fd(), c"".as_ptr(), self.as_raw_fd(), name.as_ptr(), libc::AT_EMPTY_PATH) };
        match check(linked) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => self.link_by_proc(file, &name),
            other => other,
        }
    }

    fn link_by_proc(&self, file: &File, name: &CName) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
        // SAFETY: both paths are NUL-ended and outlive the call.
        check(unsafe { libc::linkat(libc::AT_FDCWD, path.as_ptr().cast(), self.as_raw_fd(), name.as_ptr(), libc::AT_SYMLINK_FOLLOW) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_gets_its_name_when_it_is_complete() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let held = Dir::open_root(dir.path()).unwrap();
        let name = Name::new(b"f").unwrap();
        for by_proc in [false, true] {
            let mut file = held.create_unnamed(0o640).unwrap();
            file.write_all(b"whole").unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            if by_proc { held.link_by_proc(&file, &CName::new(name)) } else { held.link_unnamed(&file, name) }.unwrap();
            assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"whole");
            let again = held.link_unnamed(&file, name).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            std::fs::remove_file(dir.path().join("f")).unwrap();
        }
    }
}
