//! Opening a regular file and nothing else: to open a device may do something already (a watchdog starts, a tape is rewound), and a peer may have made one.
//!
//! Follows no symbolic link. Used where a peer names what is read in the mirror.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::model::meta::Kind;
use crate::model::path::Name;
use crate::sys::dir::{Dir, stat_fd};

/// Opens the regular file `name` in `dir` for reading. It is looked at through a descriptor that only names it and opened through that one, so that nobody can put
/// something else there in between.
///
/// # Errors
/// As `openat(2)`; `ESTALE` for anything but a regular file.
pub fn open_regular(dir: &Dir, name: Name<'_>) -> io::Result<File> {
    match open(dir, name, OpenOptions::new().read(true).custom_flags(FLAGS | libc::O_NOATIME)) {
        // Somebody else's.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => open(dir, name, OpenOptions::new().read(true).custom_flags(FLAGS)),
        other => other,
    }
}

/// As [`open_regular`], for reading and writing.
///
/// # Errors
/// As [`open_regular`].
pub fn open_regular_write(dir: &Dir, name: Name<'_>) -> io::Result<File> {
    open(dir, name, OpenOptions::new().read(true).write(true).custom_flags(FLAGS))
}

const FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

fn open(dir: &Dir, name: Name<'_>, how: &OpenOptions) -> io::Result<File> {
    let place = dir.open_path(name)?;
    if stat_fd(place.as_fd())?.meta.kind != Kind::File {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    how.open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use std::io::Read;

    #[test]
    fn only_regular_files_are_opened() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        std::fs::write(tmp.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", tmp.path().join("link")).unwrap();
        nix::unistd::mkfifo(&tmp.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let name = |name: &'static [u8]| Name::new(name).unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        inotify.add_watch(&tmp.path().join("fifo"), AddWatchFlags::IN_OPEN).unwrap();
        let mut read = String::new();
        open_regular(&root, name(b"file")).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
        for other in [&b"link"[..], b"fifo"] {
            assert_eq!(open_regular(&root, name(other)).unwrap_err().raw_os_error(), Some(libc::ESTALE));
            assert_eq!(open_regular_write(&root, name(other)).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        }
        assert_eq!(inotify.read_events().unwrap_err(), nix::errno::Errno::EAGAIN, "it was not even opened");
        assert_eq!(open_regular(&root, name(b"none")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
