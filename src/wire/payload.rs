//! The builder of a payload: one method a message, over one buffer.
//!
//! It checks nothing that its types do not say and never fails: what it is given comes from this program. A payload that is sent whenever it
//! [is full](Payload::is_full) after a message never grows beyond what a frame takes. Used by the sender, the workers and the receiver.

use crate::limits::{
    ATTRS_BYTES_MAX, ERRNO_MAX, FRAME_FILL_BYTES, INLINE_FILE_BYTES_MAX, MODULE_BYTES_MAX, SHAPES_BYTES_MAX, STAGE_CHUNK_BYTES,
    TEXT_BYTES_MAX,
};
use crate::model::attrs::Attrs;
use crate::model::cycle::AttrsTable;
use crate::model::meta::{Extent, Kind, Meta};
use crate::model::op::{Abilities, Entry, Op, OpError, Spot};
use crate::model::options::Durability;
use crate::model::path::RelPath;
use crate::wire::Token;
use crate::wire::codec::{put_bytes, put_signed, put_text, put_varint};
use crate::wire::message::{Hello, MAGIC, Message, Role};
use crate::wire::tag;

/// Said of an error number that the wire does not carry.
const ERRNO_OTHER: i32 = 5;

/// A point in a payload to go back to: see [`Payload::mark`].
#[derive(Debug, Clone)]
pub struct Mark {
    len: usize,
    dir: RelPath,
    attrs: u64,
}

/// A payload that is being built.
///
/// Invariant: `dir` is what a decoder at the end of `bytes` would hold as the last directory, `attrs` the digest of the last attributes.
#[derive(Debug)]
pub struct Payload {
    pub(super) bytes: Vec<u8>,
    dir: RelPath,
    attrs: u64,
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl Payload {
    /// An empty one.
    pub fn new() -> Self {
        Self::over(Vec::new())
    }

    /// An empty one that uses `buffer`'s memory (from `Link::buffer`).
    pub fn over(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { bytes: buffer, dir: RelPath::root(), attrs: 0 }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it should be sent now. One message more, with the attributes that it names, always fits into a payload that is not full.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FRAME_FILL_BYTES
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.dir = RelPath::root();
        self.attrs = 0;
    }

    /// Takes the payload out for `Link::send`, and goes on empty in `buffer` (from `Link::buffer`).
    #[must_use]
    pub fn replace(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        self.dir = RelPath::root();
        self.attrs = 0;
        std::mem::replace(&mut self.bytes, buffer)
    }

    /// Takes the payload out and goes on empty, without memory.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.replace(Vec::new())
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The present end, to be able to [roll back](Payload::rollback) what is added after it.
    pub fn mark(&self) -> Mark {
        Mark { len: self.bytes.len(), dir: self.dir.clone(), attrs: self.attrs }
    }

    /// Removes what was added since `mark` was taken: a file that changed while it was read.
    pub fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.len <= self.bytes.len(), "a mark of another payload");
        self.bytes.truncate(mark.len);
        self.dir = mark.dir;
        self.attrs = mark.attrs;
    }

    pub(super) fn dir(&mut self, dir: &RelPath) {
        if *dir == self.dir {
            self.bytes.push(tag::DIR_SAME);
        } else {
            self.bytes.push(tag::DIR_NEW);
            put_bytes(&mut self.bytes, dir.as_bytes());
            self.dir = dir.clone();
        }
    }

    pub(super) fn spot(&mut self, spot: &Spot) {
        self.dir(&spot.dir);
        put_bytes(&mut self.bytes, spot.name.as_bytes());
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn varint(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
    }

    pub(super) fn meta(&mut self, meta: &Meta, size: u64) {
        debug_assert!(meta.mtime.nsec < 1_000_000_000);
        self.u16((meta.kind.mode_bits() | meta.mode & 0o7777) as u16);
        self.varint(meta.uid.into());
        self.varint(meta.gid.into());
        put_signed(&mut self.bytes, meta.mtime.sec);
        let has_attrs = if meta.attrs == 0 { 0 } else { tag::HAS_ATTRS };
        self.varint((meta.mtime.nsec + has_attrs).into());
        self.varint(size);
        if meta.kind.is_device() {
            self.varint(meta.rdev);
        }
        if meta.attrs != 0 {
            self.bytes.extend_from_slice(&meta.attrs.to_le_bytes());
        }
    }

    pub(super) fn errno(&mut self, errno: i32) {
        let errno = if (1..=ERRNO_MAX).contains(&errno) { errno } else { ERRNO_OTHER };
        self.u16(errno as u16);
    }

    /// Adds zeros and lends them to be written over.
    fn space(&mut self, len: usize) -> &mut [u8] {
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        &mut self.bytes[at..]
    }

    /// [`Message::Hello`]
    pub fn hello(&mut self, hello: &Hello) {
        self.bytes.push(tag::HELLO);
        self.bytes.extend_from_slice(MAGIC);
        self.u16(hello.version_min);
        self.u16(hello.version_max);
        match &hello.role {
            Role::Control { module, path, threads, attrs, read_only, writing, continues } => {
                self.bytes.push(tag::ROLE_CONTROL);
                put_text(&mut self.bytes, module, MODULE_BYTES_MAX);
                self.dir(path);
                self.u16(*threads);
                self.bytes.push(attrs.bits());
                self.bytes.push((*read_only).into());
                let in_place = if writing.in_place { tag::WRITING_IN_PLACE } else { 0 };
                let preallocate = if writing.preallocate { tag::WRITING_PREALLOCATE } else { 0 };
                let durability = match writing.durability {
                    Durability::None => 0,
                    Durability::Cycle => tag::WRITING_DURABLE_CYCLE,
                    Durability::File => tag::WRITING_DURABLE_FILE,
                };
                self.bytes.push(in_place | preallocate | durability);
                self.bytes.extend_from_slice(continues);
            }
            Role::Content { token, index } => {
                self.bytes.push(tag::ROLE_CONTENT);
                self.bytes.extend_from_slice(token);
                self.u16(*index);
            }
        }
    }

    /// [`Message::List`]
    pub fn list(&mut self, dir: &RelPath) {
        self.bytes.push(tag::LIST);
        self.dir(dir);
    }

    /// [`Message::Begin`]
    pub fn begin(&mut self, cycle: u64) {
        self.bytes.push(tag::BEGIN);
        self.varint(cycle);
    }

    /// [`Message::Op`]
    pub fn op(&mut self, op: &Op) {
        self.bytes.push(tag::OP);
        self.op_body(op);
    }

    fn op_body(&mut self, op: &Op) {
        match op {
            Op::Move { from, to } => {
                self.bytes.push(tag::OP_MOVE);
                self.spot(from);
                self.spot(to);
            }
            Op::Park { from, id } => {
                self.bytes.push(tag::OP_PARK);
                self.spot(from);
                self.varint(*id);
            }
            Op::Mkdir { at, meta } => {
                self.bytes.push(tag::OP_MKDIR);
                self.spot(at);
                self.meta(meta, meta.size);
            }
            Op::Symlink { at, target, meta } => {
                self.bytes.push(tag::OP_SYMLINK);
                self.spot(at);
                put_bytes(&mut self.bytes, target);
                self.meta(meta, meta.size);
            }
            Op::Special { at, meta } => {
                self.bytes.push(tag::OP_SPECIAL);
                self.spot(at);
                self.meta(meta, meta.size);
            }
            Op::SetMeta { at, meta } => {
                self.bytes.push(tag::OP_SET_META);
                self.spot(at);
                self.meta(meta, meta.size);
            }
            Op::Place { at, meta, stage } => {
                self.bytes.push(tag::OP_PLACE);
                self.spot(at);
                self.meta(meta, meta.size);
                self.varint(*stage);
            }
            Op::Link { from, to } => {
                self.bytes.push(tag::OP_LINK);
                self.spot(from);
                self.spot(to);
            }
            Op::Unlink { at } => {
                self.bytes.push(tag::OP_UNLINK);
                self.spot(at);
            }
            Op::Rmdir { at } => {
                self.bytes.push(tag::OP_RMDIR);
                self.spot(at);
            }
            Op::DirMeta { dir, meta } => {
                self.bytes.push(tag::OP_DIR_META);
                self.dir(dir);
                self.meta(meta, meta.size);
            }
        }
    }

    /// [`Message::Open`]
    pub fn open(&mut self) {
        self.bytes.push(tag::OPEN);
    }

    /// [`Message::Close`]
    pub fn close(&mut self, files: u32) {
        self.bytes.push(tag::CLOSE);
        self.varint(files.into());
    }

    /// [`Message::Skip`]
    pub fn skip(&mut self) {
        self.bytes.push(tag::SKIP);
    }

    /// [`Message::Commit`]
    pub fn commit(&mut self) {
        self.bytes.push(tag::COMMIT);
    }

    /// [`Message::FilesOf`]
    pub fn files_of(&mut self, cycle: u64) {
        self.bytes.push(tag::FILES_OF);
        self.varint(cycle);
    }

    /// [`Message::File`]: `op` is SetMeta or Place.
    pub fn file(&mut self, index: u32, op: &Op) {
        debug_assert!(matches!(op, Op::SetMeta { .. } | Op::Place { .. }));
        self.bytes.push(tag::FILE);
        self.varint(index.into());
        self.op_body(op);
    }

    /// [`Message::Put`]: returns the `len` bytes to read the content into, at most [`INLINE_FILE_BYTES_MAX`]. The metadata is sent with `len` as its size.
    pub fn put(&mut self, index: u32, at: &Spot, meta: &Meta, len: usize, new: bool) -> &mut [u8] {
        debug_assert!(meta.kind == Kind::File && len <= INLINE_FILE_BYTES_MAX);
        self.bytes.push(if new { tag::PUT_NEW } else { tag::PUT });
        self.varint(index.into());
        self.spot(at);
        self.meta(meta, len as u64);
        self.space(len)
    }

    /// [`Message::Stage`] with a piece of `len` bytes, at most [`STAGE_CHUNK_BYTES`], which `append` puts behind what it gets. Returns the piece; `None` if `append` did not
    /// put all of it there, and then the payload has to be rolled back.
    pub fn stage(&mut self, id: u64, offset: u64, len: usize, append: impl FnOnce(&mut Vec<u8>)) -> Option<&[u8]> {
        debug_assert!(len <= STAGE_CHUNK_BYTES);
        self.bytes.push(tag::STAGE);
        self.varint(id);
        self.varint(offset);
        self.varint(len as u64);
        let at = self.bytes.len();
        append(&mut self.bytes);
        self.bytes.get(at..).filter(|piece| piece.len() == len)
    }

    /// [`Message::PutSparse`]: returns the room for the content of `extents`, which are in order, lie within the size of `meta` and are
    /// [`PUT_EXTENTS_MAX`](crate::limits::PUT_EXTENTS_MAX) at most.
    pub fn put_sparse(&mut self, index: u32, at: &Spot, meta: &Meta, extents: &[Extent]) -> &mut [u8] {
        self.bytes.push(tag::PUT_SPARSE);
        self.varint(index.into());
        self.spot(at);
        self.meta(meta, meta.size);
        self.varint(extents.len() as u64);
        let (mut end, mut sum) = (0, 0);
        for extent in extents {
            self.varint(extent.at - end);
            self.varint(extent.len);
            (end, sum) = (extent.at + extent.len, sum + extent.len);
        }
        self.space(sum as usize)
    }

    /// [`Message::PutPatch`]
    pub fn put_patch(&mut self, index: u32, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) {
        self.bytes.push(tag::PUT_PATCH);
        self.varint(index.into());
        self.spot(at);
        self.meta(meta, meta.size);
        self.bytes.extend_from_slice(digest);
        self.varint(delta.len() as u64);
        self.bytes.extend_from_slice(delta);
    }

    /// [`Message::Hole`]
    pub fn hole(&mut self, id: u64, offset: u64, len: u64) {
        self.bytes.push(tag::HOLE);
        self.varint(id);
        self.varint(offset);
        self.varint(len);
    }

    /// [`Message::StageDrop`]
    pub fn stage_drop(&mut self, id: u64) {
        self.bytes.push(tag::STAGE_DROP);
        self.varint(id);
    }

    /// [`Message::Patch`]
    pub fn patch(&mut self, id: u64, base: &Spot, shapes: &[u8]) {
        debug_assert!(shapes.len() <= SHAPES_BYTES_MAX);
        self.bytes.push(tag::PATCH);
        self.varint(id);
        self.spot(base);
        self.varint(shapes.len() as u64);
        self.bytes.extend_from_slice(shapes);
    }

    /// [`Message::Steps`]: at most [`STAGE_CHUNK_BYTES`].
    pub fn steps(&mut self, id: u64, data: &[u8]) {
        debug_assert!(data.len() <= STAGE_CHUNK_BYTES);
        self.bytes.push(tag::STEPS);
        self.varint(id);
        self.varint(data.len() as u64);
        self.bytes.extend_from_slice(data);
    }

    /// [`Message::Seal`]
    pub fn seal(&mut self, id: u64, digest: &[u8; 32]) {
        self.bytes.push(tag::SEAL);
        self.varint(id);
        self.bytes.extend_from_slice(digest);
    }

    /// [`Message::Sealed`]. An `errno` that is neither 0 nor an error number is sent as `EIO`.
    pub fn sealed(&mut self, id: u64, errno: i32) {
        self.bytes.push(tag::SEALED);
        self.varint(id);
        if errno == 0 { self.u16(0) } else { self.errno(errno) }
    }

    /// [`Message::Attrs`], unless they were the last ones in this payload.
    pub fn attrs(&mut self, attrs: &Attrs) {
        if self.attrs != attrs.digest() {
            self.bytes.push(tag::ATTRS);
            debug_assert!(attrs.as_bytes().len() <= ATTRS_BYTES_MAX);
            put_bytes(&mut self.bytes, attrs.as_bytes());
            self.attrs = attrs.digest();
        }
    }

    /// The attributes that the operation names, which are in `table`.
    pub fn attrs_of(&mut self, op: &Op, table: &AttrsTable) {
        if let Some(meta) = op.meta().filter(|meta| meta.attrs != 0) {
            let attrs = table.get(&meta.attrs);
            debug_assert!(attrs.is_some(), "an operation whose attributes nobody has: {op:?}");
            if let Some(attrs) = attrs {
                self.attrs(attrs);
            }
        }
    }

    /// [`Message::Resume`]
    pub fn resume(&mut self, id: u64, key: &[u8; 16], size: u64) {
        self.bytes.push(tag::RESUME);
        self.varint(id);
        self.bytes.extend_from_slice(key);
        self.varint(size);
    }

    /// [`Message::Resumed`]
    pub fn resumed(&mut self, id: u64, shape: &[u8], digest: &[u8; 32]) {
        debug_assert!(shape.len() <= SHAPES_BYTES_MAX);
        self.bytes.push(tag::RESUMED);
        self.varint(id);
        put_bytes(&mut self.bytes, shape);
        self.bytes.extend_from_slice(digest);
    }

    /// [`Message::Ping`]
    pub fn ping(&mut self) {
        self.bytes.push(tag::PING);
    }

    /// [`Message::Bye`]
    pub fn bye(&mut self) {
        self.bytes.push(tag::BYE);
    }

    /// [`Message::Welcome`]
    pub fn welcome(&mut self, version: u16, token: &Token, abilities: Abilities, continued: bool) {
        self.bytes.push(tag::WELCOME);
        self.u16(version);
        self.bytes.extend_from_slice(token);
        let chown = if abilities.chown { tag::ABILITY_CHOWN } else { 0 };
        let mknod = if abilities.mknod { tag::ABILITY_MKNOD } else { 0 };
        self.bytes.extend_from_slice(&[chown | mknod, abilities.attrs.bits(), continued.into()]);
        let (first, last) = abilities.times.range();
        self.varint(abilities.times.grain().into());
        put_signed(&mut self.bytes, first);
        put_signed(&mut self.bytes, last);
    }

    /// [`Message::Refused`]. Control characters in `text` become `?`; what is beyond [`TEXT_BYTES_MAX`] is cut.
    pub fn refused(&mut self, code: u8, text: &str) {
        self.bytes.extend_from_slice(&[tag::REFUSED, code]);
        put_text(&mut self.bytes, text, TEXT_BYTES_MAX);
    }

    /// [`Message::Listing`]
    pub fn listing(&mut self, dir: &RelPath, meta: &Meta) {
        self.bytes.push(tag::LISTING);
        self.dir(dir);
        self.meta(meta, meta.size);
    }

    /// [`Message::Entry`]
    pub fn entry(&mut self, entry: &Entry) {
        self.bytes.push(tag::ENTRY);
        self.entry_body(entry);
    }

    pub(super) fn entry_body(&mut self, entry: &Entry) {
        put_bytes(&mut self.bytes, entry.name.as_bytes());
        self.meta(&entry.meta, entry.meta.size);
        if entry.meta.kind == Kind::Symlink {
            put_bytes(&mut self.bytes, entry.target.as_deref().unwrap_or_default());
        }
        self.varint(entry.link_group);
    }

    /// [`Message::ListError`]
    pub fn list_error(&mut self, dir: &RelPath, errno: i32) {
        self.bytes.push(tag::LIST_ERROR);
        self.dir(dir);
        self.errno(errno);
    }

    /// [`Message::ListEnd`]
    pub fn list_end(&mut self) {
        self.bytes.push(tag::LIST_END);
    }

    /// [`Message::Failed`]. An `errno` that is none is sent as `EIO`.
    pub fn failed(&mut self, error: &OpError) {
        self.bytes.extend_from_slice(&[tag::FAILED, error.section as u8]);
        self.varint(error.index.into());
        self.errno(error.errno);
    }

    /// [`Message::Ack`]
    pub fn ack(&mut self, cycle: u64) {
        self.bytes.push(tag::ACK);
        self.varint(cycle);
    }

    /// [`Message::Pong`]
    pub fn pong(&mut self) {
        self.bytes.push(tag::PONG);
    }

    /// [`Message::Fatal`]. `text` as in [`Payload::refused`].
    pub fn fatal(&mut self, code: u8, text: &str) {
        self.bytes.extend_from_slice(&[tag::FATAL, code]);
        put_text(&mut self.bytes, text, TEXT_BYTES_MAX);
    }

    /// Any message, data and all.
    pub fn message(&mut self, message: &Message<'_>) {
        match message {
            Message::Hello(hello) => self.hello(hello),
            Message::List { dir } => self.list(dir),
            Message::Begin { cycle } => self.begin(*cycle),
            Message::Op(op) => self.op(op),
            Message::Open => self.open(),
            Message::Close { files } => self.close(*files),
            Message::Skip => self.skip(),
            Message::Commit => self.commit(),
            Message::FilesOf { cycle } => self.files_of(*cycle),
            Message::File { index, op } => self.file(*index, op),
            Message::Put { index, at, meta, data, new } => self.put(*index, at, meta, data.len(), *new).copy_from_slice(data),
            Message::PutSparse { index, at, meta, extents, data } => self.put_sparse(*index, at, meta, extents).copy_from_slice(data),
            Message::PutPatch { index, at, meta, digest, delta } => self.put_patch(*index, at, meta, digest, delta),
            Message::Hole { id, offset, len } => self.hole(*id, *offset, *len),
            Message::Stage { id, offset, data } => {
                self.stage(*id, *offset, data.len(), |bytes| bytes.extend_from_slice(data));
            }
            Message::StageDrop { id } => self.stage_drop(*id),
            Message::Patch { id, base, shapes } => self.patch(*id, base, shapes),
            Message::Steps { id, data } => self.steps(*id, data),
            Message::Seal { id, digest } => self.seal(*id, digest),
            Message::Resume { id, key, size } => self.resume(*id, key, *size),
            Message::Resumed { id, shape, digest } => self.resumed(*id, shape, digest),
            Message::Sealed { id, errno } => self.sealed(*id, *errno),
            Message::Attrs(attrs) => self.attrs(attrs),
            Message::Sum { id, dir, parts } => self.sum(*id, dir, parts),
            Message::Look { id, dir } => self.look(*id, dir),
            Message::Sign { id, base } => self.sign(*id, base),
            Message::Signed { id, last, shape, blocks } => self.signed(*id, *last, shape, blocks),
            Message::Summed { id, sums } => self.summed(*id, sums),
            Message::Looked(part) => self.looked(part.id, part.last, &part.dir, &part.entries),
            Message::Ping => self.ping(),
            Message::Bye => self.bye(),
            Message::Welcome { version, token, abilities, continued } => self.welcome(*version, token, *abilities, *continued),
            Message::Refused { code, text } => self.refused(*code, text),
            Message::Listing { dir, meta } => self.listing(dir, meta),
            Message::Entry(entry) => self.entry(entry),
            Message::ListError { dir, errno } => self.list_error(dir, *errno),
            Message::ListEnd => self.list_end(),
            Message::Failed(error) => self.failed(error),
            Message::Ack { cycle } => self.ack(*cycle),
            Message::Pong => self.pong(),
            Message::Fatal { code, text } => self.fatal(*code, text),
        }
    }
}
