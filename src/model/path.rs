//! Validated names and relative paths, as bytes.
//!
//! A [`Name`] or [`RelPath`] that exists is safe to hand to a `*at` system call on a held directory: it is relative, has no
//! empty, `.` or `..` component and no NUL. Decoders and readers of directories make them; nothing else has to check again.

use std::fmt;
use std::sync::Arc;

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// Every name that ringsync makes for itself in a mirror starts with this; such names are never mirrored nor listed.
pub const STAGING_NAME: &[u8] = b".ringsync-staging";

/// Between [`STAGING_NAME`] and the number in the name of a parked entry.
const PARKED: &[u8] = b"-p";

/// Between that number and the name that the entry had before.
const OF: u8 = b'-';

/// Longer names are not part of a parked entry's name: filesystems that encrypt names have room for 143 bytes.
const PARKED_OF_BYTES_MAX: usize = 96;

/// Why bytes are no name or path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Empty name or component.
    #[error("empty name")]
    Empty,
    /// The name is `.` or `..`.
    #[error("name is \".\" or \"..\"")]
    Dots,
    /// A slash inside a name, or a leading one in a path.
    #[error("unexpected \"/\"")]
    Slash,
    /// A NUL byte.
    #[error("NUL byte in a name")]
    Nul,
    /// Longer than [`NAME_BYTES_MAX`] or [`PATH_BYTES_MAX`].
    #[error("name or path too long")]
    TooLong,
}

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: &'a [u8]) -> Result<Self, PathError> {
        if bytes.len() > NAME_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        match bytes {
            b"" => Err(PathError::Empty),
            b"." | b".." => Err(PathError::Dots),
            _ if bytes.contains(&0) => Err(PathError::Nul),
            _ if bytes.contains(&b'/') => Err(PathError::Slash),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether the name belongs to ringsync itself ([`STAGING_NAME`] and what starts with it).
    pub fn is_reserved(self) -> bool {
        self.0.starts_with(STAGING_NAME)
    }

    /// Whether the name is one of [`NameBuf::parked`].
    pub fn is_parked(self) -> bool {
        self.park().is_some()
    }

    /// The number that a parked entry's name was made of, if it is the name of one; `None` too if it is beyond 64 bits.
    pub fn park_number(self) -> Option<u64> {
        self.park().and_then(|(digits, _)| std::str::from_utf8(digits).ok()?.parse().ok())
    }

    /// The name that a parked entry had before, if it was short enough to be told.
    pub fn parked_of(self) -> Option<Self> {
        self.park().and_then(|(_, of)| of)
    }

    /// The digits of a parked entry's number, and the name that it had.
    fn park(self) -> Option<(&'a [u8], Option<Self>)> {
        let rest = self.0.strip_prefix(STAGING_NAME)?.strip_prefix(PARKED)?;
        let (digits, of) = rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
        match of {
            _ if digits.is_empty() => None,
            [] => Some((digits, None)),
            [OF, of @ ..] => Name::new(of).ok().map(|of| (digits, Some(of))),
            _ => None,
        }
    }

    /// An owned copy.
    pub fn to_owned(self) -> NameBuf {
        NameBuf(self.0.into())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(self.0))
    }
}

/// An owned [`Name`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameBuf(Box<[u8]>);

impl NameBuf {
    /// The reserved name that the entry `of` has, in its directory, while it is parked under the number `id`. It tells what it was, for people and for rules about what is in it.
    pub fn parked(id: u64, of: Name<'_>) -> Self {
        let id = id.to_string();
        let name = [STAGING_NAME, PARKED, id.as_bytes()].concat();
        let is_told = of.0.len() <= PARKED_OF_BYTES_MAX;
        Self(if is_told { [&name[..], &[OF], of.0].concat().into() } else { name.into() })
    }

    /// The name.
    pub fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.0))
    }
}

/// A path relative to a root: names joined by `/`, or empty for the root itself. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// The root itself.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Checks `bytes`.
    ///
    /// # Errors
    /// What is wrong with them, or with one of the components.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if !bytes.is_empty() {
            for part in bytes.split(|b| *b == b'/') {
                Name::new(part)?;
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path of `name` under this one.
    ///
    /// # Errors
    /// [`PathError::TooLong`].
    pub fn join(&self, name: Name<'_>) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.0);
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, from the root downwards.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = Name<'_>> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty()).map(Name)
    }

    /// The directory that holds the last component, and that component; `None` for the root.
    pub fn split(&self) -> Option<(RelPath, Name<'_>)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (RelPath(self.0[..at].into()), Name(&self.0[at + 1..])),
            None => (RelPath::root(), Name(&self.0)),
        })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.0))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { write!(f, "{}", Shown(&self.0)) }
    }
}

/// Shows bytes of a name for people and logs: control characters, backslashes and bytes that are not UTF-8 as `\ooo` (octal), as rsync does,
/// so that a name can break neither a line nor a terminal.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    let mut utf8 = [0; 4];
                    for b in c.encode_utf8(&mut utf8).bytes() {
                        write!(f, "\\{b:03o}")?;
                    }
                } else {
                    fmt::Write::write_char(f, c)?;
                }
            }
            for b in chunk.invalid() {
                write!(f, "\\{b:03o}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for (bytes, error) in [
            (&b""[..], PathError::Empty),
            (b".", PathError::Dots),
            (b"..", PathError::Dots),
            (b"a/b", PathError::Slash),
            (b"a\0b", PathError::Nul),
            (&[b'x'; 256], PathError::TooLong),
        ] {
            assert_eq!(Name::new(bytes), Err(error));
        }
        assert!(Name::new(&[b'x'; 255]).is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    #[test]
    fn paths_are_relative_and_plain() {
        for bytes in [&b"/a"[..], b"a/", b"a//b", b"a/../b", b"./a", b"a\0"] {
            assert!(RelPath::new(bytes).is_err(), "{}", Shown(bytes));
        }
        let path = RelPath::new(b"a/b/c").unwrap();
        let (dir, name) = path.split().unwrap();
        assert_eq!((dir.as_bytes(), name.as_bytes()), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(dir.join(name).unwrap(), path);
        assert_eq!(path.names().count(), 3);
        assert_eq!(RelPath::root().names().count(), 0);
        assert!(RelPath::root().split().is_none());
    }

    #[test]
    fn shown_names_cannot_break_a_line() {
        assert_eq!(Shown(b"a\nb\\\xff\xc3\xa9\x1b").to_string(), "a\\012b\\134\\377\u{e9}\\033");
    }
}
