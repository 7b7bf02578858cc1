//! Extended attributes, of an open descriptor or of a name in a held directory: listed, read, set and removed. Access control lists are attributes too.
//!
//! Never follows a symbolic link and opens nothing only for a look: names go to `listxattrat(2)` and its kin (Linux 6.13), and to `/proc/self/fd/N/NAME` where
//! those are missing. Workers and receivers call it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use crate::limits::{ATTR_LIST_BYTES_MAX, ATTR_VALUE_BYTES_MAX, ATTRS_BYTES_MAX, ATTRS_TRIES_MAX};
use crate::model::attrs::{ACL_ACCESS, Attrs, AttrsError, Namespaces, is_plain_acl};
use crate::model::path::Name;
use crate::sys::dir::{CName, Dir};
use crate::sys::privilege::{CAP_SETFCAP, CAP_SYS_ADMIN, Privilege};

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// What most lists and values fit into: no memory is asked for then.
const SMALL_BYTES: usize = 512;
/// `/proc/self/fd/`, a number, a slash, the longest name and a NUL.
const PROC_PATH_BYTES: usize = 14 + 10 + 1 + 255 + 1;

/// The kernel's `struct xattr_args`.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whose attributes.
#[derive(Clone, Copy)]
pub enum At<'a> {
    /// Of what is open.
    Fd(BorrowedFd<'a>),
    /// Of the entry with this name in a directory; a symbolic link's own.
    Name(&'a Dir, Name<'a>),
}

/// How names are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    /// The calls that take a directory and a name.
    Calls,
    /// By `/proc/self/fd`.
    Proc,
    /// Not at all: an old kernel without `/proc`.
    None,
}

fn road() -> Road {
    static ROAD: OnceLock<Road> = OnceLock::new();
    *ROAD.get_or_init(|| {
        // SAFETY: the path is a NUL-ended literal; with length 0 the kernel writes nothing through the null pointer.
        let listed = unsafe { libc::syscall(SYS_LISTXATTRAT, libc::AT_FDCWD, c"/".as_ptr(), 0, std::ptr::null_mut::<u8>(), 0usize) };
        // Filters of containers that do not know a call say EPERM.
        let missing = listed < 0 && matches!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
        match missing {
            false => Road::Calls,
            true if Path::new("/proc/self/fd").is_dir() => Road::Proc,
            true => Road::None,
        }
    })
}

fn size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn done(result: isize) -> io::Result<()> {
    size(result).map(drop)
}

/// The path of a name by way of `/proc`, NUL-ended.
fn proc_path(dir: &Dir, name: Name<'_>) -> io::Result<[u8; PROC_PATH_BYTES]> {
    let mut path = [0; PROC_PATH_BYTES];
    let mut rest = &mut path[..PROC_PATH_BYTES - 1];
    write!(rest, "/proc/self/fd/{}/", dir.as_raw_fd())?;
    rest.write_all(name.as_bytes())?;
    Ok(path)
}

impl At<'_> {
    /// Writes the names, each with its NUL, into `buffer`; their length.
    ///
    /// # Errors
    /// As `listxattr(2)`: `ERANGE` where they do not fit.
    fn list(self, buffer: &mut [u8], road: Road) -> io::Result<usize> {
        let (to, len) = (buffer.as_mut_ptr(), buffer.len());
        let result = match self {
            // SAFETY: the descriptor is borrowed, so open; `to` is writable for `len` bytes.
            At::Fd(fd) => unsafe { libc::flistxattr(fd.as_raw_fd(), to.cast(), len) },
            At::Name(dir, name) if road == Road::Calls => {
                let name = CName::new(name);
                // SAFETY: `name` is NUL-ended and outlives the call; `to` is writable for `len` bytes.
                let listed = unsafe { libc::syscall(SYS_LISTXATTRAT, dir.as_raw_fd(), name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, to, len) };
                listed as isize
            }
            At::Name(dir, name) => {
                let path = proc_path(dir, name)?;
                // SAFETY: `path` is NUL-ended and outlives the call; `to` is writable for `len` bytes.
                unsafe { libc::llistxattr(path.as_ptr().cast(), to.cast(), len) }
            }
        };
        size(result)
    }

    /// Writes the value of one into `buffer`; its length.
    ///
    /// # Errors
    /// As `getxattr(2)`: `ERANGE` where it does not fit.
    fn get(self, attr: &CStr, buffer: &mut [u8], road: Road) -> io::Result<usize> {
        let (to, len) = (buffer.as_mut_ptr(), buffer.len());
        let result = match self {
            // SAFETY: the descriptor is borrowed, so open; `attr` is NUL-ended; `to` is writable for `len` bytes.
            At::Fd(fd) => unsafe { libc::fgetxattr(fd.as_raw_fd(), attr.as_ptr(), to.cast(), len) },
            At::Name(dir, name) if road == Road::Calls => {
                let args = XattrArgs { value: to as u64, size: len as u32, flags: 0 };
                name_call(SYS_GETXATTRAT, dir, name, attr, &args)
            }
            At::Name(dir, name) => {
                let path = proc_path(dir, name)?;
                // SAFETY: `path` and `attr` are NUL-ended and outlive the call; `to` is writable for `len` bytes.
                unsafe { libc::lgetxattr(path.as_ptr().cast(), attr.as_ptr(), to.cast(), len) }
            }
        };
        size(result)
    }

    fn set_by(self, attr: &CStr, value: &[u8], road: Road) -> io::Result<()> {
        let (from, len) = (value.as_ptr(), value.len());
        let result = match self {
            // SAFETY: the descriptor is borrowed, so open; `attr` is NUL-ended; `from` is readable for `len` bytes.
            At::Fd(fd) => unsafe { libc::fsetxattr(fd.as_raw_fd(), attr.as_ptr(), from.cast(), len, 0) as isize },
            At::Name(dir, name) if road == Road::Calls => {
                let args = XattrArgs { value: from as u64, size: len as u32, flags: 0 };
                name_call(SYS_SETXATTRAT, dir, name, attr, &args)
            }
            At::Name(dir, name) => {
                let path = proc_path(dir, name)?;
                // SAFETY: `path` and `attr` are NUL-ended and outlive the call; `from` is readable for `len` bytes.
                unsafe { libc::lsetxattr(path.as_ptr().cast(), attr.as_ptr(), from.cast(), len, 0) as isize }
            }
        };
        done(result)
    }

    fn remove_by(self, attr: &CStr, road: Road) -> io::Result<()> {
        let result = match self {
            // SAFETY: the descriptor is borrowed, so open; `attr` is NUL-ended and outlives the call.
            At::Fd(fd) => unsafe { libc::fremovexattr(fd.as_raw_fd(), attr.as_ptr()) as isize },
            At::Name(dir, name) if road == Road::Calls => {
                let name = CName::new(name);
                // SAFETY: both names are NUL-ended and outlive the call.
                let removed =
                    unsafe { libc::syscall(SYS_REMOVEXATTRAT, dir.as_raw_fd(), name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, attr.as_ptr()) };
                removed as isize
            }
            At::Name(dir, name) => {
                let path = proc_path(dir, name)?;
                // SAFETY: both strings are NUL-ended and outlive the call.
                unsafe { libc::lremovexattr(path.as_ptr().cast(), attr.as_ptr()) as isize }
            }
        };
        done(result)
    }

    /// Sets one, new or not.
    ///
    /// # Errors
    /// As `setxattr(2)`; `EINVAL` for a name with a NUL.
    pub fn set(self, attr: &[u8], value: &[u8]) -> io::Result<()> {
        self.set_by(&CString::new(attr)?, value, road())
    }

    /// Removes one.
    ///
    /// # Errors
    /// As `removexattr(2)`: `ENODATA` if it is not there.
    pub fn remove(self, attr: &[u8]) -> io::Result<()> {
        self.remove_by(&CString::new(attr)?, road())
    }

    /// All of `wanted`. One call where there are none at all. An access control list that says no more than the permission bits counts as none.
    ///
    /// # Errors
    /// As `listxattr(2)` and `getxattr(2)`; `E2BIG` beyond [`ATTRS_BYTES_MAX`]; `EAGAIN` if they change all the time.
    pub fn read(self, wanted: Namespaces) -> io::Result<Option<Attrs>> {
        self.read_by(wanted, road())
    }

    fn read_by(self, wanted: Namespaces, road: Road) -> io::Result<Option<Attrs>> {
        for _ in 0..ATTRS_TRIES_MAX {
            match self.read_once(wanted, road) {
                // Removed, or grown, since it was listed.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::ERANGE)) => {}
                other => return other,
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    fn read_once(self, wanted: Namespaces, road: Road) -> io::Result<Option<Attrs>> {
        let mut small = [0; SMALL_BYTES];
        let mut large = Vec::new();
        let names = match self.list(&mut small, road) {
            Ok(0) => return Ok(None),
            Ok(len) => &small[..len],
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {
                large.resize(ATTR_LIST_BYTES_MAX, 0);
                let len = self.list(&mut large, road)?;
                &large[..len]
            }
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut all = Vec::new();
        let mut bytes = 0;
        for name in names.split(|b| *b == 0).filter(|name| wanted.carries(name)) {
            let Some(value) = self.value(&CString::new(name)?, road)? else { continue };
            if name == ACL_ACCESS && is_plain_acl(&value) {
                continue;
            }
            bytes += name.len() + value.len();
            if bytes > ATTRS_BYTES_MAX {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            all.push((name.into(), value));
        }
        Attrs::new(all).map_err(|e| {
            // A filesystem that lists a name twice was changed meanwhile.
            io::Error::from_raw_os_error(if e == AttrsError::TooLong { libc::E2BIG } else { libc::ENODATA })
        })
    }

    /// The value of one; `None` where it is listed, but of a kind that cannot be read here.
    fn value(self, attr: &CStr, road: Road) -> io::Result<Option<Vec<u8>>> {
        let mut small = [0; SMALL_BYTES];
        match self.get(attr, &mut small, road) {
            Ok(len) => return Ok(Some(small[..len].to_vec())),
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {}
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        }
        let mut large = vec![0; ATTR_VALUE_BYTES_MAX];
        let len = self.get(attr, &mut large, road)?;
        large.truncate(len);
        Ok(Some(large))
    }

    /// The names that are there of `wanted`.
    ///
    /// # Errors
    /// As `listxattr(2)`.
    pub fn names(self, wanted: Namespaces) -> io::Result<Vec<Box<[u8]>>> {
        let mut buffer = vec![0; SMALL_BYTES];
        let len = loop {
            match self.list(&mut buffer, road()) {
                Ok(len) => break len,
                Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buffer.len() < ATTR_LIST_BYTES_MAX => {
                    buffer.resize(ATTR_LIST_BYTES_MAX, 0);
                }
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
                Err(e) => return Err(e),
            }
        };
        Ok(buffer[..len].split(|b| *b == 0).filter(|name| wanted.carries(name)).map(Into::into).collect())
    }

    /// Whether one is there and has this value.
    ///
    /// # Errors
    /// As `getxattr(2)`, but for one that is not there.
    pub fn has(self, attr: &[u8], value: &[u8]) -> io::Result<bool> {
        // One byte more, to see a longer one.
        let mut buffer = vec![0; value.len() + 1];
        match self.get(&CString::new(attr)?, &mut buffer, road()) {
            Ok(len) => Ok(buffer[..len] == *value),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ERANGE | libc::ENODATA)) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The call with `args`, on a name.
fn name_call(number: libc::c_long, dir: &Dir, name: Name<'_>, attr: &CStr, args: &XattrArgs) -> isize {
    let name = CName::new(name);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: both names are NUL-ended; `args` is initialised, its true size is given, and it points to a buffer of its size: all outlive the call.
    let result = unsafe {
        libc::syscall(number, dir.as_raw_fd(), name.as_ptr(), flags, attr.as_ptr(), std::ptr::from_ref(args), size_of::<XattrArgs>())
    };
    result as isize
}

/// What this process can read of the attributes of others' files.
pub fn readable() -> Namespaces {
    if road() == Road::None {
        return Namespaces::NONE;
    }
    // Without the capability the kernel does not even list them.
    let hidden = if Privilege::of_process().can(CAP_SYS_ADMIN) { Namespaces::NONE } else { Namespaces::TRUSTED };
    Namespaces::ALL.without(hidden)
}

/// What this process can set on the filesystem of `dir`: by its rights, by what the filesystem has, and by who else claims it.
pub fn settable(dir: &Dir) -> Namespaces {
    if road() == Road::None {
        return Namespaces::NONE;
    }
    let who = Privilege::of_process();
    let mut all = Namespaces::NONE;
    let mut add = |namespace, allowed: bool, sample| {
        if allowed && knows(dir.as_fd(), sample) {
            all = all.or(namespace);
        }
    };
    add(Namespaces::USER, true, c"user.ringsync");
    add(Namespaces::ACL, true, c"system.posix_acl_access");
    add(Namespaces::CAPABILITY, who.can(CAP_SETFCAP), c"security.capability");
    let administers = who.can(CAP_SYS_ADMIN);
    add(Namespaces::TRUSTED, administers, c"trusted.ringsync");
    add(Namespaces::SECURITY, administers, c"security.ringsync");
    add(Namespaces::LABEL, administers && !has_labels(), c"security.ringsync");
    // It is about names of the other two.
    let has_names = all.has(Namespaces::USER) || all.has(Namespaces::TRUSTED);
    if has_names && !is_overlay(dir) { all.or(Namespaces::OVERLAY) } else { all }
}

/// Whether the filesystem of an open file has any attributes at all.
pub fn has_any(fd: BorrowedFd<'_>) -> bool {
    [c"user.ringsync", c"system.posix_acl_access", c"security.capability", c"trusted.ringsync"].iter().any(|sample| knows(fd, sample))
}

/// Whether the filesystem has attributes of the kind of `sample`. In doubt it has.
fn knows(fd: BorrowedFd<'_>, sample: &CStr) -> bool {
    // SAFETY: the descriptor is borrowed, so open; the name is NUL-ended; with length 0 the kernel writes nothing through the null pointer.
    let len = unsafe { libc::fgetxattr(fd.as_raw_fd(), sample.as_ptr(), std::ptr::null_mut(), 0) };
    len >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP)
}

/// Whether this host's kernel gives files labels by a policy of its own.
fn has_labels() -> bool {
    ["/sys/fs/selinux/enforce", "/sys/fs/smackfs/load2"].iter().any(|path| Path::new(path).exists())
}

fn is_overlay(dir: &Dir) -> bool {
    nix::sys::statfs::fstatfs(dir.as_fd()).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> Name<'_> {
        Name::new(bytes).unwrap()
    }

    /// A directory on a filesystem that has them; `None` says so.
    fn place() -> Option<tempfile::TempDir> {
        let tmp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let known = settable(&Dir::open_root(tmp.path()).unwrap()).has(Namespaces::USER);
        if !known {
            eprintln!("SKIPPED: no user.* here");
        }
        known.then_some(tmp)
    }

    #[test]
    fn every_road_leads_to_the_same_attributes() {
        let Some(tmp) = place() else { return };
        std::fs::write(tmp.path().join("f"), b"x").unwrap();
        std::os::unix::fs::symlink("f", tmp.path().join("l")).unwrap();
        let dir = Dir::open_root(tmp.path()).unwrap();
        let at = At::Name(&dir, name(b"f"));
        let value = vec![7; 30_000];
        let roads = if road() == Road::Calls { vec![Road::Calls, Road::Proc] } else { vec![road()] };
        for (n, by) in roads.iter().enumerate() {
            at.set_by(&CString::new(format!("user.{n}")).unwrap(), format!("{n}").as_bytes(), *by).unwrap();
            at.set_by(c"user.long", &value, *by).unwrap();
            assert!(at.remove_by(c"user.none", *by).is_err());
            assert_eq!(At::Name(&dir, name(b"l")).read_by(Namespaces::ALL, *by).unwrap(), None, "a link's own");
            assert!(At::Name(&dir, name(b"l")).set_by(c"user.x", b"", *by).is_err());
            assert_eq!(At::Name(&dir, name(b"gone")).read_by(Namespaces::ALL, *by).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let file = dir.open_read(name(b"f")).unwrap();
        let found = At::Fd(file.as_fd()).read(Namespaces::USER).unwrap().unwrap();
        assert_eq!(found.iter().count(), roads.len() + 1);
        assert_eq!(found.get(b"user.long"), Some(&value[..]));
        for by in &roads {
            assert_eq!(at.read_by(Namespaces::USER, *by).unwrap().as_ref(), Some(&found));
            assert_eq!(at.read_by(Namespaces::TRUSTED, *by).unwrap(), None);
            at.remove_by(c"user.0", *by).unwrap();
            at.set_by(c"user.0", b"0", *by).unwrap();
        }
        assert!(at.has(b"user.0", b"0").unwrap() && !at.has(b"user.0", b"").unwrap() && !at.has(b"user.0", b"00").unwrap());
        assert!(!at.has(b"user.none", b"").unwrap());
        assert_eq!(at.names(Namespaces::USER).unwrap().len(), found.iter().count());
    }

    #[test]
    fn more_than_can_be_carried_is_an_error() {
        let Some(tmp) = place() else { return };
        std::fs::write(tmp.path().join("f"), b"x").unwrap();
        let dir = Dir::open_root(tmp.path()).unwrap();
        let at = At::Name(&dir, name(b"f"));
        for n in 0..4 {
            if let Err(e) = at.set(format!("user.{n}").as_bytes(), &[0; ATTR_VALUE_BYTES_MAX]) {
                return eprintln!("SKIPPED: so much does not fit here: {e}");
            }
        }
        assert_eq!(at.read(Namespaces::USER).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }
}
