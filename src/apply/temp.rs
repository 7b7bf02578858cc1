//! Temporary names beside a destination, and the fall-back for names that are taken.
//!
//! Never allocates. All names are reserved ones, so that what a crash leaves behind is found and removed.

use std::hash::{BuildHasher, RandomState};
use std::io;

use crate::limits::TEMP_NAME_TRIES_MAX;
use crate::model::path::{Name, STAGING_NAME};

const DIGITS: usize = 16;
const LEN: usize = STAGING_NAME.len() + 1 + DIGITS;

/// A temporary name.
#[derive(Clone, Copy)]
pub(super) struct TempName([u8; LEN]);

impl TempName {
    pub(super) fn name(&self) -> Name<'_> {
        Name::new(&self.0).expect("a reserved name is valid: letters and hexadecimal digits only")
    }
}

/// Makes names that no other target makes: numbers from a random start.
pub(super) struct TempNames(u64);

impl TempNames {
    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(std::process::id()))
    }

    pub(super) fn next(&mut self) -> TempName {
        self.0 = self.0.wrapping_add(1);
        let mut bytes = [b'-'; LEN];
        bytes[..STAGING_NAME.len()].copy_from_slice(STAGING_NAME);
        for (i, digit) in bytes[LEN - DIGITS..].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (60 - 4 * i)) as usize & 15];
        }
        TempName(bytes)
    }

    /// Calls `make` with names until it says something else than that the name is taken.
    pub(super) fn with_free<R>(&mut self, mut make: impl FnMut(Name<'_>) -> io::Result<R>) -> io::Result<(TempName, R)> {
        let mut tries = 0;
        loop {
            let temp = self.next();
            match make(temp.name()) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TEMP_NAME_TRIES_MAX => tries += 1,
                other => return other.map(|made| (temp, made)),
            }
        }
    }
}

/// A small name on the stack: a letter and a number, as `f12`, or 32 digits.
pub(super) struct IdName {
    bytes: [u8; 33],
    start: usize,
}

impl IdName {
    pub(super) fn new(letter: u8, id: u64) -> Self {
        let mut bytes = [0; 33];
        let (mut start, mut rest) = (bytes.len(), id);
        loop {
            start -= 1;
            bytes[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        start -= 1;
        bytes[start] = letter;
        Self { bytes, start }
    }

    /// The letter and the key in hexadecimal digits.
    pub(super) fn keyed(letter: u8, key: &[u8; 16]) -> Self {
        let mut bytes = [letter; 33];
        for (digits, byte) in bytes[1..].chunks_exact_mut(2).zip(key) {
            digits.copy_from_slice(&[byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[digit as usize]));
        }
        Self { bytes, start: 0 }
    }

    pub(super) fn name(&self) -> Name<'_> {
        Name::new(&self.bytes[self.start..]).expect("a letter and digits are a valid name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reserved_and_differ() {
        let mut names = TempNames::new();
        let (a, b) = (names.next(), names.next());
        assert!(a.name().is_reserved());
        assert_ne!(a.name(), b.name());
        assert_eq!(IdName::new(b'f', 0).name().as_bytes(), b"f0");
        assert_eq!(IdName::new(b'f', u64::MAX).name().as_bytes(), b"f18446744073709551615");
        let keyed = IdName::keyed(b'k', &std::array::from_fn(|at| 17 * at as u8));
        assert_eq!(keyed.name().as_bytes(), b"k00112233445566778899aabbccddeeff");
    }
}
