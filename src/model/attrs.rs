//! What an entry has beyond the classic metadata: extended attributes and access control lists, as one canonical value with a digest.
//!
//! It does no I/O. Workers and receivers read and set such values through `sys::xattr`; the planner compares digests and passes values on.

use crate::limits::{ATTR_NAME_BYTES_MAX, ATTR_VALUE_BYTES_MAX, ATTRS_BYTES_MAX};

/// The list that says who may do what with an entry.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The list that new entries of a directory get.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Names that XFS lists for its access control lists, besides their own, to whoever may see `trusted.*`.
const XFS_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// Digest of attributes that could not be read in the mirror, or were not looked at in the source yet: it differs from all others.
pub const UNKNOWN: u64 = u64::MAX;

/// Bytes of an attribute beside its name and its value: one length of 1 byte, one of 4.
const HEAD_BYTES: usize = 5;

/// A set of kinds of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces(u8);

impl Namespaces {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// `user.*`
    pub const USER: Self = Self(1);
    /// Access control lists: `system.posix_acl_access` and `system.posix_acl_default`.
    pub const ACL: Self = Self(1 << 1);
    /// `security.capability`
    pub const CAPABILITY: Self = Self(1 << 2);
    /// `trusted.*` but for the second names of access control lists on XFS, which are never carried.
    pub const TRUSTED: Self = Self(1 << 3);
    /// `security.*` but for what has a bit of its own, and for `security.evm`, which is about one inode and never carried.
    pub const SECURITY: Self = Self(1 << 4);
    /// `security.selinux` and `security.SMACK64*`: labels, which are a host's own where its kernel enforces them.
    pub const LABEL: Self = Self(1 << 5);
    /// `user.overlay.*` and `trusted.overlay.*`, beside the bit of `user.*` or `trusted.*`: overlayfs keeps those to itself.
    pub const OVERLAY: Self = Self(1 << 6);
    /// All of them.
    pub const ALL: Self = Self((1 << 7) - 1);

    /// From its bits on the wire; `None` if one has no meaning.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }

    /// Its bits on the wire.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this and not in the other.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What an attribute belongs to; `None` for what is never carried.
    pub fn of(name: &[u8]) -> Option<Self> {
        let overlay = |rest: &[u8]| if rest.starts_with(b"overlay.") { Self::OVERLAY } else { Self::NONE };
        if name.is_empty() || name.len() > ATTR_NAME_BYTES_MAX || name.contains(&0) || XFS_ACLS.contains(&name) {
            None
        } else if let Some(rest) = name.strip_prefix(b"user.") {
            Some(Self::USER.or(overlay(rest)))
        } else if let Some(rest) = name.strip_prefix(b"trusted.") {
            Some(Self::TRUSTED.or(overlay(rest)))
        } else if let Some(rest) = name.strip_prefix(b"security.") {
            match rest {
                b"capability" => Some(Self::CAPABILITY),
                b"evm" => None,
                b"selinux" => Some(Self::LABEL),
                _ if rest.starts_with(b"SMACK64") => Some(Self::LABEL),
                _ => Some(Self::SECURITY),
            }
        } else {
            matches!(name, ACL_ACCESS | ACL_DEFAULT).then_some(Self::ACL)
        }
    }

    /// Whether an attribute of this name belongs to it.
    pub fn carries(self, name: &[u8]) -> bool {
        Self::of(name).is_some_and(|of| self.has(of))
    }

    /// What of it a symbolic link can have: Linux gives links neither `user.*` nor access control lists.
    pub fn of_links(self) -> Self {
        self.without(Self::USER.or(Self::ACL))
    }
}

/// Why bytes are no attributes, or attributes cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttrsError {
    /// Together longer than [`ATTRS_BYTES_MAX`], or one beyond its limit.
    #[error("attributes beyond their limit")]
    TooLong,
    /// The end comes too early.
    #[error("attributes cut short")]
    Short,
    /// No names, not in order, or one twice.
    #[error("attributes without order")]
    Order,
    /// A name that is never carried.
    #[error("an attribute that is never carried")]
    Name,
}

/// The attributes of one entry, at least one.
///
/// Invariant: `bytes` holds them in the order of their names, each once: 1 byte length of the name, 4 bytes length of the value (little-endian), name, value;
/// `digest` is theirs, neither 0 nor [`UNKNOWN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    digest: u64,
    bytes: Box<[u8]>,
}

impl Attrs {
    /// From names and values in any order; `None` if there is none.
    ///
    /// # Errors
    /// [`AttrsError::TooLong`], [`AttrsError::Name`], or [`AttrsError::Order`] for a name that comes twice.
    pub fn new(mut all: Vec<(Box<[u8]>, Vec<u8>)>) -> Result<Option<Self>, AttrsError> {
        if all.is_empty() {
            return Ok(None);
        }
        all.sort_unstable();
        let mut bytes = Vec::new();
        for (name, value) in &all {
            // A length beyond its field is beyond its limit as well, and refused below.
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
            if name.len() > ATTR_NAME_BYTES_MAX || value.len() > ATTR_VALUE_BYTES_MAX || bytes.len() > ATTRS_BYTES_MAX {
                return Err(AttrsError::TooLong);
            }
        }
        Self::decode(&bytes).map(Some)
    }

    /// From their canonical bytes.
    ///
    /// # Errors
    /// Anything but one form of one value is refused: see [`AttrsError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AttrsError> {
        if bytes.len() > ATTRS_BYTES_MAX {
            return Err(AttrsError::TooLong);
        }
        let (mut rest, mut last): (&[u8], &[u8]) = (bytes, b"");
        while !rest.is_empty() {
            let (name, value, behind) = split(rest).ok_or(AttrsError::Short)?;
            if value.len() > ATTR_VALUE_BYTES_MAX {
                return Err(AttrsError::TooLong);
            }
            if Namespaces::of(name).is_none() {
                return Err(AttrsError::Name);
            }
            if name <= last {
                return Err(AttrsError::Order);
            }
            (rest, last) = (behind, name);
        }
        if last.is_empty() {
            return Err(AttrsError::Order);
        }
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
        let digest = u64::from_le_bytes([a, b, c, d, e, f, g, h]).clamp(1, UNKNOWN - 1);
        Ok(Self { digest, bytes: bytes.into() })
    }

    /// What stands for them in [`Meta::attrs`](crate::model::meta::Meta::attrs): the first 8 bytes of their BLAKE3, little-endian, 1 for 0, and 2^64 − 2 for 2^64 − 1.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Their canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || {
            let (name, value, behind) = split(rest)?;
            rest = behind;
            Some((name, value))
        })
    }

    /// The value of one.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All that they belong to.
    pub fn namespaces(&self) -> Namespaces {
        self.iter().filter_map(|(name, _)| Namespaces::of(name)).fold(Namespaces::NONE, Namespaces::or)
    }
}

/// The first attribute: name, value, and what is behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (name, rest) = rest.split_at_checked(usize::from(head[0]))?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((name, value, rest))
}

/// Whether an access control list says no more than permission bits do: it names nobody, and has no mask.
pub fn is_plain_acl(value: &[u8]) -> bool {
    const HEAD: usize = 4;
    const ENTRY: usize = 8;
    value.len() <= HEAD + 3 * ENTRY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(all: &[(&[u8], &[u8])]) -> Result<Option<Attrs>, AttrsError> {
        Attrs::new(all.iter().map(|(name, value)| ((*name).into(), value.to_vec())).collect())
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let one = attrs(&[(b"user.a", b"1"), (b"user.b", b"")]).unwrap().unwrap();
        let two = attrs(&[(b"user.b", b""), (b"user.a", b"1")]).unwrap().unwrap();
        assert_eq!(one, two);
        assert_eq!(one.iter().collect::<Vec<_>>(), [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"")]);
        assert_eq!((one.get(b"user.b"), one.get(b"user.c")), (Some(&b""[..]), None));
        for other in [&[(&b"user.a"[..], &b"1"[..])][..], &[(b"user.a", b"1"), (b"user.b", b"x")], &[(b"user.a1", b""), (b"user.b", b"")]] {
            assert_ne!(attrs(other).unwrap().unwrap().digest(), one.digest());
        }
        assert_eq!(attrs(&[]), Ok(None));
        assert_eq!(Attrs::decode(one.as_bytes()), Ok(one));
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let long = vec![0; ATTR_VALUE_BYTES_MAX + 1];
        assert_eq!(attrs(&[(b"user.a", &long)]), Err(AttrsError::TooLong));
        assert_eq!(attrs(&[(&[b"user.".as_slice(), &[b'n'; 251]].concat(), b"")]), Err(AttrsError::TooLong));
        let most: Vec<(Box<[u8]>, Vec<u8>)> = (0..4).map(|n| (format!("user.{n}").into_bytes().into(), long[1..].to_vec())).collect();
        assert_eq!(Attrs::new(most), Err(AttrsError::TooLong));
        for name in [&b""[..], b"system.nfs4_acl", b"security.evm", b"other.x", b"user.a\0b"] {
            assert_eq!(attrs(&[(name, b"")]), Err(AttrsError::Name), "{name:?}");
        }
        assert_eq!(attrs(&[(b"user.a", b"1"), (b"user.a", b"2")]), Err(AttrsError::Order));
        let good = attrs(&[(b"user.a", b"1"), (b"user.b", b"2")]).unwrap().unwrap();
        for end in 1..good.as_bytes().len() {
            // Where the first one ends there is a whole value.
            assert_eq!(Attrs::decode(&good.as_bytes()[..end]).is_err(), end != 12, "{end}");
        }
        assert_eq!(Attrs::decode(b""), Err(AttrsError::Order));
        assert_eq!(Attrs::decode(&[&good.as_bytes()[12..], &good.as_bytes()[..12]].concat()), Err(AttrsError::Order));
        assert_eq!(Attrs::decode(b"\x06\xff\xff\xff\xffuser.a"), Err(AttrsError::Short));
    }

    #[test]
    fn every_name_has_its_place() {
        let of = |name: &str| Namespaces::of(name.as_bytes());
        assert_eq!(of("user.x"), Some(Namespaces::USER));
        assert_eq!(of("user.overlay.x"), Some(Namespaces::USER.or(Namespaces::OVERLAY)));
        assert_eq!(of("trusted.overlay.opaque"), Some(Namespaces::TRUSTED.or(Namespaces::OVERLAY)));
        assert_eq!(of("security.capability"), Some(Namespaces::CAPABILITY));
        assert_eq!(of("security.selinux"), Some(Namespaces::LABEL));
        assert_eq!(of("security.SMACK64EXEC"), Some(Namespaces::LABEL));
        assert_eq!(of("security.ima"), Some(Namespaces::SECURITY));
        assert_eq!(of("system.posix_acl_default"), Some(Namespaces::ACL));
        assert_eq!([of("security.evm"), of("trusted.SGI_ACL_FILE"), of("trusted.SGI_ACL_DEFAULT")], [None; 3]);
        assert_eq!(of("trusted.SGI_ACL_FILES"), Some(Namespaces::TRUSTED));
        assert!(!Namespaces::TRUSTED.carries(b"trusted.overlay.opaque"));
        assert!(!Namespaces::ALL.of_links().carries(b"user.x") && Namespaces::ALL.of_links().carries(b"trusted.x"));
        assert_eq!(Namespaces::from_bits(0x80), None);
    }
}
