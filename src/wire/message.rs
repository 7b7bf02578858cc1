//! The messages, and their decoder: an iterator over a payload that yields values or one error.
//!
//! What comes out is checked: names and paths are validated, kinds fit their operation, numbers are within their limits. Whether a message
//! may stand where it stands is the session's business. Encoding is in `payload`; the layout of each is in PROTOCOL.md.

use std::sync::Arc;

use crate::limits::{
    ATTRS_BYTES_MAX, ERRNO_MAX, LINK_TARGET_BYTES_MAX, MODULE_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, SHAPES_BYTES_MAX,
    STAGE_CHUNK_BYTES, TEXT_BYTES_MAX,
};
use crate::model::attrs::{Attrs, Namespaces};
use crate::model::meta::{Extent, Kind, Meta, Time};
use crate::model::op::{Abilities, Entry, Op, OpError, Section, Spot};
use crate::model::options::{Durability, Writing};
use crate::model::path::{Name, RelPath};
use crate::model::scrub::{LookDone, Part, PartSum};
use crate::model::times::Times;
use crate::wire::codec::Reader;
use crate::wire::{Token, WireError, tag};

/// First bytes of a Hello.
pub const MAGIC: &[u8; 8] = b"RINGSYNC";

/// The first message of every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the client speaks.
    pub version_min: u16,
    /// Newest version that the client speaks.
    pub version_max: u16,
    /// What the connection is for.
    pub role: Role,
}

impl Hello {
    /// The same, with the mirror's files written so. Nothing for a content connection.
    #[must_use]
    pub fn with_writing(mut self, how: Writing) -> Self {
        if let Role::Control { writing, .. } = &mut self.role {
            *writing = how;
        }
        self
    }
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Opens a session.
    Control {
        /// The receiver's module, 1 to [`MODULE_BYTES_MAX`] bytes.
        module: String,
        /// The directory in it that is the mirror.
        path: RelPath,
        /// Content connections that will follow, at most.
        threads: u16,
        /// Attributes that the client carries.
        attrs: Namespaces,
        /// Nothing will be changed, and the server refuses what would.
        read_only: bool,
        /// How files are to be written.
        writing: Writing,
        /// The session that this one is to go on from; zeros: none.
        continues: Token,
    },
    /// Joins a session.
    Content {
        /// From the Welcome of the control connection.
        token: Token,
        /// Number of the content connection in its session, from 0.
        index: u16,
    },
}

/// One message. Data is borrowed from the payload; see PROTOCOL.md for which one may stand where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Opens a connection.
    Hello(Hello),
    /// Asks for the manifest of a directory, recursively.
    List {
        /// The directory.
        dir: RelPath,
    },
    /// Opens cycle `cycle`; operations of PRE follow.
    Begin {
        /// Number of the cycle; they rise by one.
        cycle: u64,
    },
    /// An operation of PRE (after Begin) or POST (after Close). Their indexes count from 0 in each.
    Op(Op),
    /// PRE is complete: FILES may be applied.
    Open,
    /// FILES is complete, this many on all connections together; POST follows.
    Close {
        /// Number of File and Put messages of this cycle.
        files: u32,
    },
    /// An operation of POST that is left out, since what it needs was not sent; its index counts.
    Skip,
    /// POST is complete: an Ack is due.
    Commit,
    /// On a content connection: the File and Put that follow belong to this cycle.
    FilesOf {
        /// The cycle.
        cycle: u64,
    },
    /// An operation of FILES: SetMeta or Place.
    File {
        /// Its number in the cycle's FILES.
        index: u32,
        /// What to do.
        op: Op,
    },
    /// A whole small file.
    Put {
        /// Its number in the cycle's FILES.
        index: u32,
        /// Its place.
        at: Spot,
        /// Its metadata; `size` is the length of `data`.
        meta: Meta,
        /// Its content.
        data: &'a [u8],
        /// Nothing has the name, as far as the client knows: a hint, not a condition.
        new: bool,
    },
    /// A whole small file with holes.
    PutSparse {
        /// Its number in the cycle's FILES.
        index: u32,
        /// Its place.
        at: Spot,
        /// Its metadata.
        meta: Meta,
        /// Where it has data, in order: 0 to [`PUT_EXTENTS_MAX`](crate::limits::PUT_EXTENTS_MAX), within its size.
        extents: Vec<Extent>,
        /// What stands there, one behind the other.
        data: &'a [u8],
    },
    /// A small file, made of the one that has its name in the mirror.
    PutPatch {
        /// Its number in the cycle's FILES.
        index: u32,
        /// Its place.
        at: Spot,
        /// Its metadata.
        meta: Meta,
        /// Of its content.
        digest: [u8; 32],
        /// The delta, as [`patched`](crate::delta::patch::patched) takes it: at most
        /// [`INLINE_FILE_BYTES_MAX`](crate::limits::INLINE_FILE_BYTES_MAX).
        delta: &'a [u8],
    },
    /// A question for the signature of what the mirror has in a file.
    Sign {
        /// Number that the answer repeats.
        id: u64,
        /// The file.
        base: Spot,
    },
    /// The answer to a Sign, or a part of it.
    Signed {
        /// The question's number.
        id: u64,
        /// Nothing more comes.
        last: bool,
        /// Its shape, the same in every part; that of nothing if there is no such file, or it cannot be read.
        shape: &'a [u8],
        /// The next blocks, as in `delta::code`.
        blocks: &'a [u8],
    },
    /// A hole of a large file in staging, in place of a piece.
    Hole {
        /// Number of the staged file, unique in a session.
        id: u64,
        /// Where it begins.
        offset: u64,
        /// How long it is; not 0.
        len: u64,
    },
    /// A piece of a large file, into staging.
    Stage {
        /// Number of the staged file, unique in a session.
        id: u64,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        data: &'a [u8],
    },
    /// Names the content of a staged file before its first piece: a [`Message::Resumed`] is due.
    Resume {
        /// Number of the staged file.
        id: u64,
        /// What the content is called: the same as long as it is.
        key: [u8; 16],
        /// How long it is.
        size: u64,
    },
    /// A staged file will not be used. The file 0, which is none, stands for all that earlier sessions left.
    StageDrop {
        /// Its number.
        id: u64,
    },
    /// Begins a staged file that is made of steps, some of which copy from what is at `base` in the mirror.
    Patch {
        /// Number of the staged file, unique in a session.
        id: u64,
        /// Where the base is, if it is still there.
        base: Spot,
        /// The shapes of the base and of the new content (`delta::code::take_shape`), one behind the other.
        shapes: &'a [u8],
    },
    /// Steps of a [`Message::Patch`]: they follow those before them without a gap.
    Steps {
        /// Number of the staged file.
        id: u64,
        /// One batch (`delta::code::Steps`).
        data: &'a [u8],
    },
    /// All steps of a [`Message::Patch`] have been sent: a [`Message::Sealed`] is due.
    Seal {
        /// Number of the staged file.
        id: u64,
        /// What the content's digest has to be (`delta::Digest`).
        digest: [u8; 32],
    },
    /// The attributes that the metadata of what follows in this payload may name by their digest, until the next ones.
    Attrs(Arc<Attrs>),
    /// Asks for digests of parts of files.
    Sum {
        /// Number that the answer repeats.
        id: u64,
        /// The files' directory.
        dir: RelPath,
        /// 1 to [`SUM_FILES_MAX`](crate::limits::SUM_FILES_MAX) parts.
        parts: Vec<Part>,
    },
    /// Asks what is in a directory, and not below.
    Look {
        /// Number that the answer repeats.
        id: u64,
        /// The directory.
        dir: RelPath,
    },
    /// Asks for a Pong.
    Ping,
    /// The client ends the session in good order.
    Bye,

    /// Accepts the connection.
    Welcome {
        /// The version both speak from here on.
        version: u16,
        /// For content connections of this session.
        token: Token,
        /// What the receiver can set.
        abilities: Abilities,
        /// The mirror is as the session left it that the Hello named.
        continued: bool,
    },
    /// The answer to a [`Message::Seal`].
    Sealed {
        /// Number of the staged file.
        id: u64,
        /// 0: it has the digest. Otherwise it is dropped: `ESTALE` if the base was not what it should be, or why it could not be made.
        errno: i32,
    },
    /// The answer to a [`Message::Sum`].
    Summed {
        /// The question's number.
        id: u64,
        /// One for each part, in their order.
        sums: Vec<PartSum>,
    },
    /// A part of the answer to a [`Message::Look`].
    Looked(LookDone),
    /// The answer to a [`Message::Resume`].
    Resumed {
        /// Number of the staged file.
        id: u64,
        /// The shape of what is there of it, from its start on (`delta::code::take_shape`).
        shape: &'a [u8],
        /// The digest of that (`delta::Digest`); zeros if it is nothing.
        digest: [u8; 32],
    },
    /// Refuses the connection; the last message on it.
    Refused {
        /// An exit code (`error::Exit`).
        code: u8,
        /// Why, for a person.
        text: &'a str,
    },
    /// The entries of this directory follow.
    Listing {
        /// The directory.
        dir: RelPath,
        /// Its own metadata.
        meta: Meta,
    },
    /// One entry of the last Listing.
    Entry(Entry),
    /// A directory could not be read, or not completely.
    ListError {
        /// The directory.
        dir: RelPath,
        /// The system's error number.
        errno: i32,
    },
    /// The manifest asked for is complete.
    ListEnd,
    /// An operation of the oldest cycle that is not acknowledged failed.
    Failed(OpError),
    /// The cycle has been executed, but for what was said to have failed.
    Ack {
        /// The cycle.
        cycle: u64,
    },
    /// The answer to a Ping.
    Pong,
    /// The server ends the session; the last message on the connection.
    Fatal {
        /// An exit code (`error::Exit`).
        code: u8,
        /// Why, for a person.
        text: &'a str,
    },
}

/// Decodes the messages of one payload, in order. After an error it yields nothing more.
pub struct Messages<'a> {
    pub(super) rest: Reader<'a>,
    dir: RelPath,
    /// Digest of the last Attrs; 0: none yet.
    attrs: u64,
    failed: bool,
}

impl<'a> Messages<'a> {
    /// A decoder at the start of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: Reader::new(payload), dir: RelPath::root(), attrs: 0, failed: false }
    }

    pub(super) fn dir(&mut self) -> Result<RelPath, WireError> {
        match self.rest.u8()? {
            tag::DIR_SAME => {}
            tag::DIR_NEW => self.dir = RelPath::new(self.rest.bytes(PATH_BYTES_MAX)?)?,
            _ => return Err(WireError::Value("neither the same nor a new directory")),
        }
        Ok(self.dir.clone())
    }

    pub(super) fn spot(&mut self) -> Result<Spot, WireError> {
        let dir = self.dir()?;
        let name = Name::new(self.rest.bytes(NAME_BYTES_MAX)?)?.to_owned();
        Ok(Spot { dir, name })
    }

    pub(super) fn meta(&mut self) -> Result<Meta, WireError> {
        let mode = self.rest.u16()?;
        let kind = Kind::from_mode(u32::from(mode)).ok_or(WireError::Value("mode of no kind"))?;
        let uid = self.rest.varint_u32()?;
        let gid = self.rest.varint_u32()?;
        let sec = self.rest.signed()?;
        let coded = self.rest.varint_u32()?;
        let has_attrs = coded >= tag::HAS_ATTRS;
        let nsec = if has_attrs { coded - tag::HAS_ATTRS } else { coded };
        if nsec > 999_999_999 {
            return Err(WireError::Value("nanoseconds beyond a second"));
        }
        let size = self.rest.varint()?;
        let rdev = if kind.is_device() { self.rest.varint()? } else { 0 };
        let attrs = if has_attrs { u64::from_le_bytes(self.rest.array()?) } else { 0 };
        if has_attrs && attrs == 0 {
            return Err(WireError::Value("digest of no attributes"));
        }
        Ok(Meta { kind, mode: u32::from(mode) & 0o7777, uid, gid, mtime: Time { sec, nsec }, size, rdev, attrs })
    }

    /// Metadata that is to be set: of a kind that fits, with attributes that have come.
    pub(super) fn meta_of(&mut self, fits: impl FnOnce(Kind) -> bool) -> Result<Meta, WireError> {
        let meta = self.meta_told(fits)?;
        if meta.attrs != 0 && meta.attrs != self.attrs {
            return Err(WireError::Value("digest of other attributes than the last ones"));
        }
        Ok(meta)
    }

    /// Metadata that something has: of a kind that fits.
    pub(super) fn meta_told(&mut self, fits: impl FnOnce(Kind) -> bool) -> Result<Meta, WireError> {
        let meta = self.meta()?;
        if fits(meta.kind) { Ok(meta) } else { Err(WireError::Value("kind does not fit the operation")) }
    }

    fn writing(&mut self) -> Result<Writing, WireError> {
        let bits = self.rest.u8()?;
        let durability = match bits & !(tag::WRITING_IN_PLACE | tag::WRITING_PREALLOCATE) {
            0 => Durability::None,
            tag::WRITING_DURABLE_CYCLE => Durability::Cycle,
            tag::WRITING_DURABLE_FILE => Durability::File,
            _ => return Err(WireError::Value("unknown way of writing")),
        };
        let (in_place, preallocate) = (bits & tag::WRITING_IN_PLACE != 0, bits & tag::WRITING_PREALLOCATE != 0);
        Ok(Writing { in_place, preallocate, durability })
    }

    fn namespaces(&mut self) -> Result<Namespaces, WireError> {
        Namespaces::from_bits(self.rest.u8()?).ok_or(WireError::Value("unknown namespace of attributes"))
    }

    fn attrs(&mut self) -> Result<Arc<Attrs>, WireError> {
        let attrs = Attrs::decode(self.rest.bytes(ATTRS_BYTES_MAX)?)?;
        self.attrs = attrs.digest();
        Ok(Arc::new(attrs))
    }

    fn target(&mut self) -> Result<Option<Box<[u8]>>, WireError> {
        let target = self.rest.bytes(LINK_TARGET_BYTES_MAX)?;
        if target.contains(&0) {
            return Err(WireError::Value("NUL byte in the target of a link"));
        }
        Ok((!target.is_empty()).then(|| target.into()))
    }

    fn op(&mut self) -> Result<Op, WireError> {
        Ok(match self.rest.u8()? {
            tag::OP_MOVE => Op::Move { from: self.spot()?, to: self.spot()? },
            tag::OP_PARK => Op::Park { from: self.spot()?, id: self.rest.varint()? },
            tag::OP_MKDIR => Op::Mkdir { at: self.spot()?, meta: self.meta_of(|kind| kind == Kind::Dir)? },
            tag::OP_SYMLINK => Op::Symlink {
                at: self.spot()?,
                target: self.target()?.ok_or(WireError::Value("link without a target"))?,
                meta: self.meta_of(|kind| kind == Kind::Symlink)?,
            },
            tag::OP_SPECIAL => Op::Special {
                at: self.spot()?,
                meta: self.meta_of(|kind| matches!(kind, Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block))?,
            },
            tag::OP_SET_META => Op::SetMeta { at: self.spot()?, meta: self.meta_of(|kind| kind != Kind::Dir)? },
            tag::OP_PLACE => Op::Place { at: self.spot()?, meta: self.meta_of(|kind| kind == Kind::File)?, stage: self.rest.varint()? },
            tag::OP_LINK => Op::Link { from: self.spot()?, to: self.spot()? },
            tag::OP_UNLINK => Op::Unlink { at: self.spot()? },
            tag::OP_RMDIR => Op::Rmdir { at: self.spot()? },
            tag::OP_DIR_META => Op::DirMeta { dir: self.dir()?, meta: self.meta_of(|kind| kind == Kind::Dir)? },
            _ => return Err(WireError::Value("unknown operation")),
        })
    }

    fn hello(&mut self) -> Result<Hello, WireError> {
        if self.rest.array::<8>()? != *MAGIC {
            return Err(WireError::Foreign);
        }
        let version_min = self.rest.u16()?;
        let version_max = self.rest.u16()?;
        if version_min == 0 || version_min > version_max {
            return Err(WireError::Value("no version"));
        }
        let role = match self.rest.u8()? {
            tag::ROLE_CONTROL => {
                let module = self.rest.text(MODULE_BYTES_MAX)?;
                if module.is_empty() {
                    return Err(WireError::Value("module without a name"));
                }
                let (path, threads) = (self.dir()?, self.rest.u16()?);
                let (attrs, read_only, writing) = (self.namespaces()?, self.access()?, self.writing()?);
                Role::Control { module: module.into(), path, threads, attrs, read_only, writing, continues: self.rest.array()? }
            }
            tag::ROLE_CONTENT => Role::Content { token: self.rest.array()?, index: self.rest.u16()? },
            _ => return Err(WireError::Value("unknown role")),
        };
        Ok(Hello { version_min, version_max, role })
    }

    fn errno(&mut self) -> Result<i32, WireError> {
        match i32::from(self.rest.u16()?) {
            errno @ 1..=ERRNO_MAX => Ok(errno),
            _ => Err(WireError::Value("no error number")),
        }
    }

    pub(super) fn errno_or_zero(&mut self) -> Result<i32, WireError> {
        match i32::from(self.rest.u16()?) {
            errno @ 0..=ERRNO_MAX => Ok(errno),
            _ => Err(WireError::Value("no error number")),
        }
    }

    pub(super) fn entry(&mut self) -> Result<Entry, WireError> {
        let name = Name::new(self.rest.bytes(NAME_BYTES_MAX)?)?.to_owned();
        let meta = self.meta()?;
        let target = if meta.kind == Kind::Symlink { self.target()? } else { None };
        let link_group = self.rest.varint()?;
        if meta.kind == Kind::Dir && link_group > 1 {
            return Err(WireError::Value("link group of a directory"));
        }
        Ok(Entry { name, meta, target, link_group })
    }

    fn message(&mut self) -> Result<Message<'a>, WireError> {
        Ok(match self.rest.u8()? {
            tag::HELLO => Message::Hello(self.hello()?),
            tag::LIST => Message::List { dir: self.dir()? },
            tag::BEGIN => Message::Begin { cycle: self.rest.varint()? },
            tag::OP => Message::Op(self.op()?),
            tag::OPEN => Message::Open,
            tag::CLOSE => Message::Close { files: self.rest.varint_u32()? },
            tag::SKIP => Message::Skip,
            tag::COMMIT => Message::Commit,
            tag::FILES_OF => Message::FilesOf { cycle: self.rest.varint()? },
            tag::FILE => Message::File { index: self.rest.varint_u32()?, op: self.op()? },
            tag::PUT => self.put(false)?,
            tag::PUT_NEW => self.put(true)?,
            tag::PUT_SPARSE => self.put_sparse()?,
            tag::PUT_PATCH => self.put_patch()?,
            tag::HOLE => self.hole()?,
            tag::STAGE => {
                let id = self.rest.varint()?;
                let offset = self.rest.varint()?;
                let data = self.rest.bytes(STAGE_CHUNK_BYTES)?;
                if offset.checked_add(data.len() as u64).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
                    return Err(WireError::Value("piece beyond the largest file"));
                }
                Message::Stage { id, offset, data }
            }
            tag::STAGE_DROP => Message::StageDrop { id: self.rest.varint()? },
            tag::PATCH => Message::Patch { id: self.rest.varint()?, base: self.spot()?, shapes: self.rest.bytes(SHAPES_BYTES_MAX)? },
            tag::STEPS => Message::Steps { id: self.rest.varint()?, data: self.rest.bytes(STAGE_CHUNK_BYTES)? },
            tag::SEAL => Message::Seal { id: self.rest.varint()?, digest: self.rest.array()? },
            tag::RESUME => Message::Resume { id: self.rest.varint()?, key: self.rest.array()?, size: self.rest.varint()? },
            tag::RESUMED => {
                let (id, shape) = (self.rest.varint()?, self.rest.bytes(SHAPES_BYTES_MAX)?);
                Message::Resumed { id, shape, digest: self.rest.array()? }
            }
            tag::SEALED => Message::Sealed { id: self.rest.varint()?, errno: self.errno_or_zero()? },
            tag::ATTRS => Message::Attrs(self.attrs()?),
            tag::SIGN => Message::Sign { id: self.rest.varint()?, base: self.spot()? },
            tag::SIGNED => self.signed()?,
            tag::SUM => self.sum()?,
            tag::LOOK => Message::Look { id: self.rest.varint()?, dir: self.dir()? },
            tag::SUMMED => self.summed()?,
            tag::LOOKED => Message::Looked(self.looked()?),
            tag::PING => Message::Ping,
            tag::BYE => Message::Bye,
            tag::WELCOME => {
                let version = self.rest.u16()?;
                let token = self.rest.array()?;
                let bits = self.rest.u8()?;
                if bits & !(tag::ABILITY_CHOWN | tag::ABILITY_MKNOD) != 0 {
                    return Err(WireError::Value("unknown ability"));
                }
                let (chown, mknod) = (bits & tag::ABILITY_CHOWN != 0, bits & tag::ABILITY_MKNOD != 0);
                let attrs = self.namespaces()?;
                let continued = match self.rest.u8()? {
                    continued @ 0..=1 => continued == 1,
                    _ => return Err(WireError::Value("unknown continuation")),
                };
                let (grain, first, last) = (self.rest.varint_u32()?, self.rest.signed()?, self.rest.signed()?);
                let times = Times::new(grain, first, last).ok_or(WireError::Value("times that no filesystem holds"))?;
                Message::Welcome { version, token, abilities: Abilities { chown, mknod, attrs, times }, continued }
            }
            tag::REFUSED => Message::Refused { code: self.rest.u8()?, text: self.rest.text(TEXT_BYTES_MAX)? },
            tag::LISTING => Message::Listing { dir: self.dir()?, meta: self.meta_told(|kind| kind == Kind::Dir)? },
            tag::ENTRY => Message::Entry(self.entry()?),
            tag::LIST_ERROR => Message::ListError { dir: self.dir()?, errno: self.errno()? },
            tag::LIST_END => Message::ListEnd,
            tag::FAILED => {
                let section = match self.rest.u8()? {
                    1 => Section::Pre,
                    2 => Section::Files,
                    3 => Section::Post,
                    _ => return Err(WireError::Value("unknown list of a cycle")),
                };
                Message::Failed(OpError { section, index: self.rest.varint_u32()?, errno: self.errno()? })
            }
            tag::ACK => Message::Ack { cycle: self.rest.varint()? },
            tag::PONG => Message::Pong,
            tag::FATAL => Message::Fatal { code: self.rest.u8()?, text: self.rest.text(TEXT_BYTES_MAX)? },
            other => return Err(WireError::Tag(other)),
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let message = self.message();
        self.failed = message.is_err();
        Some(message)
    }
}
