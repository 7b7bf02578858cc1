//! The messages of a scrub, both ways: questions for digests and for what a directory holds, and their answers. Part of the decoder and the builder.

use crate::limits::{LOOK_ENTRIES_MAX, NAME_BYTES_MAX, SUM_BYTES_MAX, SUM_FILES_MAX};
use crate::model::meta::{Kind, Meta};
use crate::model::op::Entry;
use crate::model::path::{Name, RelPath};
use crate::model::scrub::{LookDone, Part, PartSum};
use crate::wire::codec::put_bytes;
use crate::wire::message::{Message, Messages};
use crate::wire::tag;
use crate::wire::{Payload, WireError};

impl<'a> Messages<'a> {
    pub(super) fn flag(&mut self, wrong: &'static str) -> Result<bool, WireError> {
        match self.rest.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value(wrong)),
        }
    }

    /// Whether a session is read-only.
    pub(super) fn access(&mut self) -> Result<bool, WireError> {
        self.flag("unknown access")
    }

    /// A count from 1 to `max`, of things that have at least a byte each.
    fn count(&mut self, max: usize) -> Result<usize, WireError> {
        match usize::try_from(self.rest.varint()?) {
            Ok(count) if (1..=max).contains(&count) => Ok(count),
            _ => Err(WireError::Value("number of files beyond its limit")),
        }
    }

    pub(super) fn sum(&mut self) -> Result<Message<'a>, WireError> {
        let id = self.rest.varint()?;
        let dir = self.dir()?;
        let count = self.count(SUM_FILES_MAX)?;
        let mut parts = Vec::new();
        for _ in 0..count {
            let name = Name::new(self.rest.bytes(NAME_BYTES_MAX)?)?.to_owned();
            let offset = self.rest.varint()?;
            let len = self.rest.varint()?;
            if len > SUM_BYTES_MAX || offset.checked_add(len).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
                return Err(WireError::Value("part of a file beyond its limit"));
            }
            parts.push(Part { name, offset, len });
        }
        Ok(Message::Sum { id, dir, parts })
    }

    pub(super) fn summed(&mut self) -> Result<Message<'a>, WireError> {
        let id = self.rest.varint()?;
        let count = self.count(SUM_FILES_MAX)?;
        let mut sums = Vec::new();
        for _ in 0..count {
            sums.push(match self.errno_or_zero()? {
                0 => PartSum::Read { size: self.rest.varint()?, digest: self.rest.array()? },
                errno => PartSum::Failed(errno),
            });
        }
        Ok(Message::Summed { id, sums })
    }

    pub(super) fn looked(&mut self) -> Result<LookDone, WireError> {
        let id = self.rest.varint()?;
        let last = self.flag("neither the last part nor another")?;
        let dir = match self.errno_or_zero()? {
            0 => Ok(self.meta_told(|kind| kind == Kind::Dir)?),
            errno => Err(errno),
        };
        let count = usize::try_from(self.rest.varint()?).ok().filter(|count| *count <= LOOK_ENTRIES_MAX);
        let count = count.ok_or(WireError::Value("number of entries beyond its limit"))?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(self.entry()?);
        }
        Ok(LookDone { id, last, dir, entries })
    }
}

impl Payload {
    /// [`Message::Sum`]: 1 to [`SUM_FILES_MAX`] parts, each of at most [`SUM_BYTES_MAX`].
    pub fn sum(&mut self, id: u64, dir: &RelPath, parts: &[Part]) {
        debug_assert!((1..=SUM_FILES_MAX).contains(&parts.len()));
        self.bytes.push(tag::SUM);
        self.varint(id);
        self.dir(dir);
        self.varint(parts.len() as u64);
        for part in parts {
            put_bytes(&mut self.bytes, part.name.as_bytes());
            self.varint(part.offset);
            self.varint(part.len);
        }
    }

    /// [`Message::Look`]
    pub fn look(&mut self, id: u64, dir: &RelPath) {
        self.bytes.push(tag::LOOK);
        self.varint(id);
        self.dir(dir);
    }

    /// [`Message::Summed`]: as many as the question has parts.
    pub fn summed(&mut self, id: u64, sums: &[PartSum]) {
        self.bytes.push(tag::SUMMED);
        self.varint(id);
        self.varint(sums.len() as u64);
        for sum in sums {
            match sum {
                PartSum::Read { size, digest } => {
                    self.u16(0);
                    self.varint(*size);
                    self.bytes.extend_from_slice(digest);
                }
                PartSum::Failed(errno) => self.errno(*errno),
            }
        }
    }

    /// [`Message::Looked`]: at most [`LOOK_ENTRIES_MAX`] entries.
    pub fn looked(&mut self, id: u64, last: bool, dir: &Result<Meta, i32>, entries: &[Entry]) {
        debug_assert!(entries.len() <= LOOK_ENTRIES_MAX);
        self.bytes.push(tag::LOOKED);
        self.varint(id);
        self.bytes.push(last.into());
        match dir {
            Ok(meta) => {
                self.u16(0);
                self.meta(meta, meta.size);
            }
            Err(errno) => self.errno(*errno),
        }
        self.varint(entries.len() as u64);
        for entry in entries {
            self.entry_body(entry);
        }
    }
}
