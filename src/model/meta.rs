//! What is known of one entry of a directory: kind, metadata, identity.

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File = 1,
    /// Directory.
    Dir = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    Char = 6,
    /// Block device.
    Block = 7,
}

impl Kind {
    /// From the `S_IFMT` bits of a mode; `None` for bits that name no kind.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Dir,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::Char,
            0o060_000 => Self::Block,
            _ => return None,
        })
    }

    /// From its number on the wire.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::Char,
            7 => Self::Block,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
        }
    }

    /// Whether the entry is a device node, whose number is part of what it is.
    pub fn is_device(self) -> bool {
        matches!(self, Self::Char | Self::Block)
    }
}

/// A point in time as the filesystem keeps it. `nsec` is below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

impl Time {
    /// Nanoseconds since 1970, saturating: only for differences.
    pub fn as_nanos(self) -> i64 {
        self.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nsec))
    }
}

/// What a mirror carries of an entry beside its name and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Kind.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`07777`).
    pub mode: u32,
    /// Owner, by number.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Length in bytes; meaningful for regular files and symbolic links only.
    pub size: u64,
    /// Device number, for devices only; otherwise 0.
    pub rdev: u64,
    /// Digest of the [`Attrs`](crate::model::attrs::Attrs), as far as both ends carry them; 0 where there are none.
    pub attrs: u64,
}

/// Where a file with holes has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub at: u64,
    /// How long it is; not 0.
    pub len: u64,
}

/// Which object an entry names: two names with one identity are one object. Stable across renames.
///
/// The birth time tells an inode number that was used again from its former holder, down to the clock's grain; what was born or
/// written within that grain of being read is marked and compared more strictly by its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident {
    /// Device of the filesystem.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Birth time in nanoseconds since 1970; 0 where the filesystem has none.
    pub birth_ns: i64,
}

/// The result of looking at an entry of the source, or of the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What a mirror carries.
    pub meta: Meta,
    /// Which object it is.
    pub ident: Ident,
    /// Number of names of the object.
    pub nlink: u32,
    /// Time of the last change of content or metadata.
    pub ctime: Time,
}
