//! The name that a filesystem has for a file whatever its path: file handle and filesystem number.
//!
//! Nothing is opened by handle here (that takes a capability): handles only tell directories apart, and files by the inode number that most
//! filesystems keep in them. The fanotify watcher uses it.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::spare::array;
use crate::model::path::Name;

/// Longest handle that the kernel gives (`MAX_HANDLE_SZ`).
pub const HANDLE_BYTES_MAX: usize = 128;

/// A file handle: opaque bytes, which mean something to the filesystem that gave them.
#[derive(Clone, Copy)]
pub struct Handle {
    kind: i32,
    len: usize,
    bytes: [u8; HANDLE_BYTES_MAX],
}

impl Handle {
    /// The handle's type, a number of the filesystem's own.
    pub fn kind(&self) -> i32 {
        self.kind
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Where handles of one type hold the inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeAt {
    kind: i32,
    len: usize,
    offset: usize,
    bytes: usize,
}

impl InodeAt {
    /// The types that are known: handle type, length of the handle, where the number stands in it and how many bytes it has.
    const KNOWN: [Self; 4] = [
        // What most filesystems use, ext4 among them, and xfs with 32-bit numbers.
        Self { kind: 1, len: 8, offset: 0, bytes: 4 },
        // tmpfs: a generation comes first.
        Self { kind: 1, len: 12, offset: 4, bytes: 8 },
        // xfs, and filesystems that have handles for fanotify only.
        Self { kind: 0x81, len: 12, offset: 0, bytes: 8 },
        // btrfs.
        Self { kind: 0x4d, len: 20, offset: 0, bytes: 8 },
    ];

    /// Of a filesystem, by handles of some of its files with their inode numbers; `None` unless all agree with one known type.
    pub fn learn(samples: &[(Handle, u64)]) -> Option<Self> {
        let (first, _) = samples.first()?;
        let known = Self::KNOWN.into_iter().find(|at| (at.kind, at.len) == (first.kind, first.len))?;
        samples.iter().all(|(handle, ino)| known.inode(handle.kind, handle.as_bytes()) == Some(*ino)).then_some(known)
    }

    /// The inode number in a handle; `None` for a handle of another type.
    pub fn inode(&self, kind: i32, handle: &[u8]) -> Option<u64> {
        if (kind, handle.len()) != (self.kind, self.len) {
            return None;
        }
        if self.bytes == 4 {
            array(handle, self.offset).map(|b| u32::from_ne_bytes(b).into())
        } else {
            array(handle, self.offset).map(u64::from_ne_bytes)
        }
    }
}

/// What `struct file_handle` looks like with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

/// The handle of what `fd` refers to.
///
/// # Errors
/// As `name_to_handle_at(2)`; `EOPNOTSUPP` from a filesystem without handles.
pub fn of_fd(fd: BorrowedFd<'_>) -> io::Result<Handle> {
    name_to_handle(fd, c"".as_ptr(), libc::AT_EMPTY_PATH)
}

/// The handle of the entry `name` in `dir`; a symbolic link's own.
///
/// # Errors
/// As `name_to_handle_at(2)`.
pub fn of_name(dir: BorrowedFd<'_>, name: Name<'_>) -> io::Result<Handle> {
    let mut path = [0u8; 256];
    path[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
    name_to_handle(dir, path.as_ptr().cast(), 0)
}

/// `path` is NUL-ended and outlives the call.
fn name_to_handle(dir: BorrowedFd<'_>, path: *const libc::c_char, flags: i32) -> io::Result<Handle> {
    const { assert!(offset_of!(RawHandle, f_handle) == size_of::<libc::file_handle>()) };
    let mut raw = RawHandle { handle_bytes: HANDLE_BYTES_MAX as u32, handle_type: 0, f_handle: [0; HANDLE_BYTES_MAX] };
    let mut mount_id = 0;
    // SAFETY: both callers give a NUL-ended path; `raw` starts as a `file_handle` and has the room that its `handle_bytes` says.
    let result = unsafe { libc::name_to_handle_at(dir.as_raw_fd(), path, (&raw mut raw).cast(), &raw mut mount_id, flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let len = usize::try_from(raw.handle_bytes).unwrap_or(usize::MAX).min(HANDLE_BYTES_MAX);
    Ok(Handle { kind: raw.handle_type, len, bytes: raw.f_handle })
}

/// What `statfs(2)` says of a filesystem, as far as watchers need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// The filesystem's number, as fanotify events carry it; all zero where it has none.
    pub fsid: [u8; 8],
    /// The magic number of its type.
    pub magic: i64,
}

impl Filesystem {
    /// The filesystem that `fd` is on.
    ///
    /// # Errors
    /// As `fstatfs(2)`.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut buffer = MaybeUninit::<libc::statfs64>::uninit();
        // SAFETY: the kernel fills the whole of `buffer`, which is a `statfs64`.
        if unsafe { libc::fstatfs64(fd.as_raw_fd(), buffer.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the kernel has filled it.
        let buffer = unsafe { buffer.assume_init() };
        const { assert!(size_of::<libc::fsid_t>() == 8) };
        // SAFETY: `fsid_t` is two ints: eight readable bytes without padding.
        let fsid = unsafe { ptr::from_ref(&buffer.f_fsid).cast::<[u8; 8]>().read_unaligned() };
        Ok(Self { fsid, magic: buffer.f_type })
    }

    /// The name of its type, for people; `None` for one that is not known here.
    pub fn type_name(&self) -> Option<&'static str> {
        Some(match self.magic {
            0xef53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683e => "btrfs",
            0x0102_1994 => "tmpfs",
            0x794c_7630 => "overlay",
            0x6969 => "nfs",
            0x6573_5546 => "fuse",
            0xff53_4d42 => "cifs",
            0xf2f5_2010 => "f2fs",
            0x2fc1_2fc1 => "zfs",
            0xca45_1a4e => "bcachefs",
            _ => return None,
        })
    }

    /// Whether it is an overlay: its handles may change when a directory is copied up.
    pub fn is_overlay(&self) -> bool {
        self.magic == 0x794c_7630
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(kind: i32, bytes: &[u8]) -> Handle {
        let mut all = [0; HANDLE_BYTES_MAX];
        all[..bytes.len()].copy_from_slice(bytes);
        Handle { kind, len: bytes.len(), bytes: all }
    }

    #[test]
    fn the_inode_number_is_found_where_all_samples_have_it() {
        let ext4 = |ino: u32| (handle(1, &[ino.to_ne_bytes(), [9; 4]].concat()), u64::from(ino));
        let at = InodeAt::learn(&[ext4(2), ext4(70_000)]).unwrap();
        assert_eq!(at.inode(1, ext4(0xffff_fffe).0.as_bytes()), Some(0xffff_fffe));
        assert_eq!(at.inode(2, ext4(5).0.as_bytes()), None);
        assert_eq!(at.inode(1, &[0; 12]), None);

        let tmpfs = |ino: u64| (handle(1, &[&[7; 4][..], &ino.to_ne_bytes()].concat()), ino);
        let at = InodeAt::learn(&[tmpfs(1 << 40), tmpfs(3)]).unwrap();
        assert_eq!(at.inode(1, tmpfs(1 << 50).0.as_bytes()), Some(1 << 50));

        assert_eq!(InodeAt::learn(&[]), None);
        assert_eq!(InodeAt::learn(&[ext4(2), tmpfs(3)]), None, "two types");
        assert_eq!(InodeAt::learn(&[ext4(2), (ext4(3).0, 4)]), None, "a number that is another");
        assert_eq!(InodeAt::learn(&[(handle(77, &2_u64.to_ne_bytes()), 2)]), None, "a type that nobody knows");
    }
}
