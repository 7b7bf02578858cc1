//! A held directory: every operation takes one validated name, or walks beneath it without following a symbolic link.
//!
//! Readers of the source and writers of the mirror both work through it, so that whatever a local user renames or links
//! meanwhile, nothing outside the root is touched. It never resolves an absolute path but in [`Dir::open_root`].
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits::LINK_TARGET_BYTES_MAX;
use crate::model::meta::{Ident, Kind, Meta, Stat, Time};
use crate::model::path::{Name, RelPath};

const DIR_FLAGS: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
/// Longest piece of a path that one system call takes, with its NUL.
const WALK_BYTES_MAX: usize = libc::PATH_MAX as usize - 1;

/// Set once `openat2` turned out to be missing or forbidden.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);
/// Set once `fchmodat2` turned out to be missing or forbidden.
static NO_FCHMODAT2: AtomicBool = AtomicBool::new(false);

/// A name as the kernel wants it: NUL-ended, on the stack.
pub(super) struct CName([u8; 256]);

impl CName {
    pub(super) fn new(name: Name<'_>) -> Self {
        let mut bytes = [0; 256];
        bytes[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
        Self(bytes)
    }

    pub(super) fn as_ptr(&self) -> *const libc::c_char {
        self.0.as_ptr().cast()
    }
}

pub(super) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the kernel has just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of a directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Dir {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Dir {
    /// Opens the directory at `path`, following symbolic links: the root that a user named.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_root(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: `path` is NUL-ended and outlives the call.
        owned(unsafe { libc::open(path.as_ptr(), flags) }).map(Self)
    }

    /// Where it is now, as far as `/proc` tells.
    pub fn place(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Opens the directory at `path` beneath this one; no symbolic link on the way is followed, mounts are crossed.
    /// Paths longer than `PATH_MAX` are walked in pieces.
    ///
    /// # Errors
    /// As `openat2(2)`; `ELOOP` or `ENOTDIR` where a component is a symbolic link.
    pub fn open_beneath(&self, path: &RelPath) -> io::Result<Self> {
        if path.is_root() {
            return self.try_clone();
        }
        let mut rest = path.as_bytes();
        let mut held: Option<Dir> = None;
        while !rest.is_empty() {
            let end = piece_end(rest);
            let piece = CString::new(&rest[..end])?;
            held = Some(held.as_ref().unwrap_or(self).open_piece(&piece)?);
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        held.map_or_else(|| self.try_clone(), Ok)
    }

    fn open_piece(&self, piece: &CString) -> io::Result<Self> {
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            match self.openat2(piece, DIR_FLAGS) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::E2BIG)) => {
                    NO_OPENAT2.store(true, Ordering::Relaxed);
                }
                other => return other.map(Self),
            }
        }
        let mut held: Option<Dir> = None;
        for part in piece.as_bytes().split(|b| *b == b'/') {
            let name = Name::new(part).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            held = Some(Dir(held.as_ref().unwrap_or(self).openat(name, DIR_FLAGS, 0)?));
        }
        held.map_or_else(|| self.try_clone(), Ok)
    }

    fn openat2(&self, piece: &CString, flags: i32) -> io::Result<OwnedFd> {
        // SAFETY: all-zero is a valid `open_how`.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = flags as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        loop {
            // SAFETY: `piece` is NUL-ended, `how` is initialised and its true size is given; both outlive the call.
            let fd =
                unsafe { libc::syscall(libc::SYS_openat2, self.as_raw_fd(), piece.as_ptr(), &raw const how, size_of::<libc::open_how>()) };
            match owned(fd as i32) {
                // A rename or mount raced with a ".." check; the kernel asks to try again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
                other => return other,
            }
        }
    }

    fn openat(&self, name: Name<'_>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
        let name = CName::new(name);
        loop {
            // SAFETY: `name` is NUL-ended and outlives the call.
            match owned(unsafe { libc::openat(self.as_raw_fd(), name.as_ptr(), flags, mode) }) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Opens the directory `name` in this one; never through a symbolic link.
    ///
    /// # Errors
    /// As `openat(2)`; `ENOTDIR` or `ELOOP` for a symbolic link.
    pub fn open_dir(&self, name: Name<'_>) -> io::Result<Self> {
        self.openat(name, DIR_FLAGS, 0).map(Self)
    }

    /// Opens the file `name` for reading, without following a symbolic link, waiting for a FIFO's peer or becoming a terminal's
    /// controller; the access time is left alone where the kernel allows it. The caller checks by `fstat` that it is a regular file.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn open_read(&self, name: Name<'_>) -> io::Result<File> {
        const FLAGS: i32 = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        match self.openat(name, FLAGS | libc::O_NOATIME, 0) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => self.openat(name, FLAGS, 0).map(File::from),
            other => other.map(File::from),
        }
    }

    /// Makes the file `name`, which must not exist, open for reading and writing, with exactly the permission bits `mode` if the process's umask is 0.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn create_new(&self, name: Name<'_>, mode: u32) -> io::Result<File> {
        const FLAGS: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        self.openat(name, FLAGS, mode).map(File::from)
    }

    /// Opens the existing regular file `name` for writing, without following a symbolic link.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn open_write(&self, name: Name<'_>) -> io::Result<File> {
        self.openat(name, libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0).map(File::from)
    }

    /// Opens the entry `name` as a mere place (`O_PATH`), whatever its kind, without following a symbolic link.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn open_path(&self, name: Name<'_>) -> io::Result<OwnedFd> {
        self.openat(name, libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW, 0)
    }

    /// Metadata of the directory itself.
    ///
    /// # Errors
    /// As `statx(2)`.
    pub fn stat(&self) -> io::Result<Stat> {
        stat_fd(self.as_fd())
    }

    /// Metadata of the entry `name`; symbolic links are not followed, automounts not triggered.
    ///
    /// # Errors
    /// As `statx(2)`; `EINVAL` for a kind that Linux does not have.
    pub fn stat_at(&self, name: Name<'_>) -> io::Result<Stat> {
        self.stat_mount_at(name).map(|(stat, _)| stat)
    }

    /// As [`Dir::stat_at`], and whether something is mounted at the entry, as far as the kernel tells (Linux 5.8).
    ///
    /// # Errors
    /// As [`Dir::stat_at`].
    pub fn stat_mount_at(&self, name: Name<'_>) -> io::Result<(Stat, bool)> {
        let name = CName::new(name);
        statx(self.as_raw_fd(), name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
    }

    /// What the symbolic link `name` points to.
    ///
    /// # Errors
    /// As `readlinkat(2)`; `ENAMETOOLONG` beyond [`LINK_TARGET_BYTES_MAX`].
    pub fn read_link(&self, name: Name<'_>) -> io::Result<Box<[u8]>> {
        let name = CName::new(name);
        let mut target = vec![0u8; LINK_TARGET_BYTES_MAX + 1];
        // SAFETY: `name` is NUL-ended and `target` is writable for the length given.
        let len = unsafe { libc::readlinkat(self.as_raw_fd(), name.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        if len > LINK_TARGET_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        target.truncate(len);
        Ok(target.into())
    }

    /// Calls `each` with every name in the directory but `.` and `..`, in the filesystem's order, from the start.
    ///
    /// # Errors
    /// As `getdents64(2)`. Names seen before the error have been reported.
    pub fn list(&self, mut each: impl FnMut(Name<'_>)) -> io::Result<()> {
        // A clone shares the file position: reopen, so that two listings of one held directory do not steal each other's entries.
        let dir = Dir(self.reopen()?);
        let mut buffer = vec![0u64; 4096];
        loop {
            // SAFETY: `buffer` is writable for the length given, and aligned for the records the kernel writes.
            let len = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), size_of_val(&buffer[..])) };
            let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
            if len == 0 {
                return Ok(());
            }
            // SAFETY: any initialised u64s are readable as bytes, and `len` is at most their length.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), len) };
            let mut rest = bytes;
            // d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name.
            while let Some(reclen) = rest.get(16..18) {
                let reclen = usize::from(u16::from_ne_bytes([reclen[0], reclen[1]]));
                let Some(record) = rest.get(..reclen).filter(|r| r.len() > 19) else { break };
                let name = record[19..].split(|b| *b == 0).next().unwrap_or_default();
                if let Ok(name) = Name::new(name) {
                    each(name);
                }
                rest = &rest[reclen..];
            }
        }
    }

    fn reopen(&self) -> io::Result<OwnedFd> {
        // SAFETY: the path is a NUL-ended literal.
        owned(unsafe { libc::openat(self.as_raw_fd(), c".".as_ptr(), DIR_FLAGS) })
    }

    /// Makes the directory `name`.
    ///
    /// # Errors
    /// As `mkdirat(2)`.
    pub fn mkdir(&self, name: Name<'_>, mode: u32) -> io::Result<()> {
        let name = CName::new(name);
        // SAFETY: `name` is NUL-ended and outlives the call.
        check(unsafe { libc::mkdirat(self.as_raw_fd(), name.as_ptr(), mode) })
    }

    /// Makes the symbolic link `name` that points to `target`.
    ///
    /// # Errors
    /// As `symlinkat(2)`.
    pub fn symlink(&self, target: &[u8], name: Name<'_>) -> io::Result<()> {
        let target = CString::new(target)?;
        let name = CName::new(name);
        // SAFETY: both strings are NUL-ended and outlive the call.
        check(unsafe { libc::symlinkat(target.as_ptr(), self.as_raw_fd(), name.as_ptr()) })
    }

    /// Makes the FIFO, socket or device `name`.
    ///
    /// # Errors
    /// As `mknodat(2)`.
    pub fn mknod(&self, name: Name<'_>, kind: Kind, mode: u32, rdev: u64) -> io::Result<()> {
        let name = CName::new(name);
        // SAFETY: `name` is NUL-ended and outlives the call.
        check(unsafe { libc::mknodat(self.as_raw_fd(), name.as_ptr(), kind.mode_bits() | mode, rdev) })
    }

    /// Renames `name` in this directory to `new_name` in `new_dir`, replacing what is there.
    ///
    /// # Errors
    /// As `renameat(2)`.
    pub fn rename(&self, name: Name<'_>, new_dir: &Dir, new_name: Name<'_>) -> io::Result<()> {
        let (name, new_name) = (CName::new(name), CName::new(new_name));
        // SAFETY: both names are NUL-ended and outlive the call.
        check(unsafe { libc::renameat(self.as_raw_fd(), name.as_ptr(), new_dir.as_raw_fd(), new_name.as_ptr()) })
    }

    /// Renames `name` in this directory to `new_name` in `new_dir`, where nothing may be yet. Atomic where the filesystem can; elsewhere what
    /// appears meanwhile is replaced.
    ///
    /// # Errors
    /// As `renameat2(2)` with `RENAME_NOREPLACE`: `EEXIST` if something is there.
    pub fn rename_new(&self, name: Name<'_>, new_dir: &Dir, new_name: Name<'_>) -> io::Result<()> {
        let (cname, new_cname) = (CName::new(name), CName::new(new_name));
        let flags = libc::RENAME_NOREPLACE;
        // SAFETY: both names are NUL-ended and outlive the call.
        match check(unsafe { libc::renameat2(self.as_raw_fd(), cname.as_ptr(), new_dir.as_raw_fd(), new_cname.as_ptr(), flags) }) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => match new_dir.stat_at(new_name) {
                Ok(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.rename(name, new_dir, new_name),
                Err(e) => Err(e),
            },
            other => other,
        }
    }

    /// Gives the object `name` in this directory the further name `new_name` in `new_dir`. A symbolic link itself is linked.
    ///
    /// # Errors
    /// As `linkat(2)`.
    pub fn link(&self, name: Name<'_>, new_dir: &Dir, new_name: Name<'_>) -> io::Result<()> {
        let (name, new_name) = (CName::new(name), CName::new(new_name));
        // SAFETY: both names are NUL-ended and outlive the call.
        check(unsafe { libc::linkat(self.as_raw_fd(), name.as_ptr(), new_dir.as_raw_fd(), new_name.as_ptr(), 0) })
    }

    /// Removes the entry `name`, which is not a directory.
    ///
    /// # Errors
    /// As `unlinkat(2)`.
    pub fn unlink(&self, name: Name<'_>) -> io::Result<()> {
        let name = CName::new(name);
        // SAFETY: `name` is NUL-ended and outlives the call.
        check(unsafe { libc::unlinkat(self.as_raw_fd(), name.as_ptr(), 0) })
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// As `unlinkat(2)` with `AT_REMOVEDIR`.
    pub fn rmdir(&self, name: Name<'_>) -> io::Result<()> {
        let name = CName::new(name);
        // SAFETY: `name` is NUL-ended and outlives the call.
        check(unsafe { libc::unlinkat(self.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) })
    }

    /// Sets owner and group of the entry `name`; a symbolic link's own.
    ///
    /// # Errors
    /// As `fchownat(2)`.
    pub fn set_owner_at(&self, name: Name<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let name = CName::new(name);
        let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
        // SAFETY: `name` is NUL-ended and outlives the call.
        check(unsafe { libc::fchownat(self.as_raw_fd(), name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW) })
    }

    /// Sets the modification time of the entry `name` (a symbolic link's own); the access time stays.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_mtime_at(&self, name: Name<'_>, mtime: Time) -> io::Result<()> {
        let name = CName::new(name);
        let times = mtime_only(mtime);
        // SAFETY: `name` is NUL-ended, `times` has the two elements that the call reads; both outlive it.
        check(unsafe { libc::utimensat(self.as_raw_fd(), name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
    }

    /// Sets the permission bits of the entry `name`, which must not be a symbolic link: one is never followed.
    ///
    /// # Errors
    /// As `fchmodat2(2)`; `EOPNOTSUPP` for a symbolic link.
    pub fn set_mode_at(&self, name: Name<'_>, mode: u32) -> io::Result<()> {
        if !NO_FCHMODAT2.load(Ordering::Relaxed) {
            const SYS_FCHMODAT2: libc::c_long = 452;
            let cname = CName::new(name);
            // SAFETY: `cname` is NUL-ended and outlives the call.
            let result = unsafe { libc::syscall(SYS_FCHMODAT2, self.as_raw_fd(), cname.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
            match check(result as i32) {
                // An old kernel, or a container's filter that does not know the call.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS)) => NO_FCHMODAT2.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        let place = self.open_path(name)?;
        if stat_fd(place.as_fd())?.meta.kind == Kind::Symlink {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let path = CString::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        // SAFETY: `path` is NUL-ended and outlives the call.
        check(unsafe { libc::chmod(path.as_ptr(), mode) })
    }
}

/// Where the longest piece of `path` that one call takes ends: at a slash, or at the end.
fn piece_end(path: &[u8]) -> usize {
    if path.len() <= WALK_BYTES_MAX {
        return path.len();
    }
    path[..=WALK_BYTES_MAX].iter().rposition(|b| *b == b'/').unwrap_or(path.len())
}

fn mtime_only(mtime: Time) -> [libc::timespec; 2] {
    [libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }, libc::timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) }]
}

/// Metadata of what an open descriptor names.
///
/// # Errors
/// As `statx(2)`; `EINVAL` for a kind that Linux does not have (an anonymous inode).
pub fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH).map(|(stat, _)| stat)
}

/// Sets owner and group through an open descriptor.
///
/// # Errors
/// As `fchown(2)`.
pub fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX)) })
}

/// Sets the permission bits through an open descriptor.
///
/// # Errors
/// As `fchmod(2)`.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

/// Sets the modification time through an open descriptor; the access time stays.
///
/// # Errors
/// As `futimens(3)`.
pub fn set_mtime(fd: BorrowedFd<'_>, mtime: Time) -> io::Result<()> {
    let times = mtime_only(mtime);
    // SAFETY: the descriptor is borrowed, so open; `times` has the two elements that the call reads.
    check(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) })
}

/// The metadata, and whether it is the root of a mount.
fn statx(fd: RawFd, path: *const libc::c_char, flags: i32) -> io::Result<(Stat, bool)> {
    const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: callers pass a NUL-ended path that outlives the call; `raw` is writable.
    check(unsafe { libc::statx(fd, path, flags, MASK, raw.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid `statx`, and the kernel has filled it.
    let raw = unsafe { raw.assume_init() };
    let mode = u32::from(raw.stx_mode);
    let kind = Kind::from_mode(mode).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let birth = if raw.stx_mask & libc::STATX_BTIME != 0 { time(raw.stx_btime).as_nanos() } else { 0 };
    let stat = Stat {
        meta: Meta {
            kind,
            mode: mode & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            mtime: time(raw.stx_mtime),
            size: if matches!(kind, Kind::File | Kind::Symlink) { raw.stx_size } else { 0 },
            rdev: if kind.is_device() { libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor) } else { 0 },
            attrs: 0,
        },
        ident: Ident { dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor), ino: raw.stx_ino, birth_ns: birth },
        nlink: raw.stx_nlink,
        ctime: time(raw.stx_ctime),
    };
    Ok((stat, raw.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0))
}

fn time(t: libc::statx_timestamp) -> Time {
    Time { sec: t.tv_sec, nsec: t.tv_nsec }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn name(bytes: &[u8]) -> Name<'_> {
        Name::new(bytes).unwrap()
    }

    #[test]
    fn walks_beneath_and_through_no_symlink() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("a/b")).unwrap();
        symlink("a", tmp.path().join("l")).unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        assert!(root.open_beneath(&RelPath::new(b"a/b").unwrap()).is_ok());
        assert!(root.open_beneath(&RelPath::new(b"l/b").unwrap()).is_err());
        assert!(root.open_beneath(&RelPath::new(b"l").unwrap()).is_err());
        assert!(root.open_dir(name(b"l")).is_err());
        assert!(root.open_read(name(b"l")).is_err());
    }

    #[test]
    fn paths_beyond_path_max_are_walked() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        let long = [b'd'; 200];
        let mut dir = root.try_clone().unwrap();
        let mut path = RelPath::root();
        for _ in 0..40 {
            dir.mkdir(name(&long), 0o700).unwrap();
            dir = dir.open_dir(name(&long)).unwrap();
            path = path.join(name(&long)).unwrap();
        }
        assert!(path.as_bytes().len() > 8000);
        let found = root.open_beneath(&path).unwrap();
        assert_eq!(found.stat().unwrap().ident, dir.stat().unwrap().ident);
        // `tempdir` removes by path and would fail on this depth.
        while let Some((parent, last)) = path.split() {
            root.open_beneath(&parent).unwrap().rmdir(last).unwrap();
            let parent_bytes = parent.as_bytes().to_vec();
            path = RelPath::new(&parent_bytes).unwrap();
        }
    }

    #[test]
    fn lists_every_name_twice_over() {
        let tmp = tempfile::tempdir().unwrap();
        for i in 0..3000 {
            std::fs::write(tmp.path().join(format!("file-{i:04}")), b"").unwrap();
        }
        let root = Dir::open_root(tmp.path()).unwrap();
        for _ in 0..2 {
            let mut names = Vec::new();
            root.list(|n| names.push(n.to_owned())).unwrap();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 3000);
        }
    }

    #[test]
    fn sets_metadata_without_following() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("f"), b"x").unwrap();
        symlink("f", tmp.path().join("l")).unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        let before = root.stat_at(name(b"f")).unwrap();
        let mtime = Time { sec: -5, nsec: 123_456_789 };
        root.set_mtime_at(name(b"l"), mtime).unwrap();
        assert!(root.set_mode_at(name(b"l"), 0o7777).is_err());
        assert_eq!(root.stat_at(name(b"l")).unwrap().meta.mtime, mtime);
        assert_eq!(root.stat_at(name(b"f")).unwrap().meta, before.meta);
        root.set_mode_at(name(b"f"), 0o4711).unwrap();
        assert_eq!(root.stat_at(name(b"f")).unwrap().meta.mode, 0o4711);
        assert_eq!(&*root.read_link(name(b"l")).unwrap(), b"f");
    }
}
