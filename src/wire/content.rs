//! The messages of content connections that carry small files, holes and signatures. Part of the decoder and the builder.

use crate::limits::{INLINE_FILE_BYTES_MAX, PUT_EXTENTS_MAX, SHAPES_BYTES_MAX, STAGE_CHUNK_BYTES};
use crate::model::meta::{Extent, Kind, Meta};
use crate::model::op::Spot;
use crate::wire::codec::put_bytes;
use crate::wire::message::{Message, Messages};
use crate::wire::tag;
use crate::wire::{Payload, WireError};

impl<'a> Messages<'a> {
    pub(super) fn put(&mut self, new: bool) -> Result<Message<'a>, WireError> {
        let (index, at, meta) = (self.rest.varint_u32()?, self.spot()?, self.small_file()?);
        Ok(Message::Put { index, at, meta, data: self.rest.take(meta.size as usize)?, new })
    }

    fn small_file(&mut self) -> Result<Meta, WireError> {
        let meta = self.meta_of(|kind| kind == Kind::File)?;
        if meta.size > INLINE_FILE_BYTES_MAX as u64 { Err(WireError::Value("inline file beyond its limit")) } else { Ok(meta) }
    }

    pub(super) fn put_sparse(&mut self) -> Result<Message<'a>, WireError> {
        let (index, at, meta) = (self.rest.varint_u32()?, self.spot()?, self.small_file()?);
        let count = self.rest.varint()?;
        if count > PUT_EXTENTS_MAX as u64 {
            return Err(WireError::Value("too many pieces of a file with holes"));
        }
        let (mut extents, mut end, mut sum) = (Vec::with_capacity(count as usize), 0u64, 0);
        for _ in 0..count {
            let (gap, len) = (self.rest.varint()?, self.rest.varint()?);
            let at = end.checked_add(gap);
            let after = at.and_then(|at| at.checked_add(len)).filter(|after| *after <= meta.size && len > 0);
            let (Some(at), Some(after)) = (at, after) else { return Err(WireError::Value("piece beyond the file's end")) };
            extents.push(Extent { at, len });
            (end, sum) = (after, sum + len);
        }
        Ok(Message::PutSparse { index, at, meta, extents, data: self.rest.take(sum as usize)? })
    }

    pub(super) fn put_patch(&mut self) -> Result<Message<'a>, WireError> {
        let (index, at, meta) = (self.rest.varint_u32()?, self.spot()?, self.small_file()?);
        Ok(Message::PutPatch { index, at, meta, digest: self.rest.array()?, delta: self.rest.bytes(INLINE_FILE_BYTES_MAX)? })
    }

    pub(super) fn hole(&mut self) -> Result<Message<'a>, WireError> {
        let (id, offset, len) = (self.rest.varint()?, self.rest.varint()?, self.rest.varint()?);
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
            return Err(WireError::Value("hole beyond the largest file, or of nothing"));
        }
        Ok(Message::Hole { id, offset, len })
    }

    pub(super) fn signed(&mut self) -> Result<Message<'a>, WireError> {
        let id = self.rest.varint()?;
        let last = self.flag("neither a part nor the last")?;
        Ok(Message::Signed { id, last, shape: self.rest.bytes(SHAPES_BYTES_MAX)?, blocks: self.rest.bytes(STAGE_CHUNK_BYTES)? })
    }
}

impl Payload {
    /// [`Message::Sign`]
    pub fn sign(&mut self, id: u64, base: &Spot) {
        self.bytes.push(tag::SIGN);
        self.varint(id);
        self.spot(base);
    }

    /// [`Message::Signed`]; `blocks` are at most [`STAGE_CHUNK_BYTES`].
    pub fn signed(&mut self, id: u64, last: bool, shape: &[u8], blocks: &[u8]) {
        self.bytes.push(tag::SIGNED);
        self.varint(id);
        self.bytes.push(last.into());
        put_bytes(&mut self.bytes, shape);
        put_bytes(&mut self.bytes, blocks);
    }
}
