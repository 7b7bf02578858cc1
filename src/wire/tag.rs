//! Tag bytes of messages, roles and operations, as PROTOCOL.md has them; the server's have the highest bit set. Only what encodes and decodes uses them.

pub const HELLO: u8 = 0x01;
pub const LIST: u8 = 0x02;
pub const BEGIN: u8 = 0x03;
pub const OP: u8 = 0x04;
pub const OPEN: u8 = 0x05;
pub const CLOSE: u8 = 0x06;
pub const COMMIT: u8 = 0x07;
pub const FILES_OF: u8 = 0x08;
pub const FILE: u8 = 0x09;
pub const PUT: u8 = 0x0a;
pub const PUT_NEW: u8 = 0x18;
pub const PUT_PATCH: u8 = 0x19;
pub const SIGN: u8 = 0x1a;
pub const SKIP: u8 = 0x1b;
pub const STAGE: u8 = 0x0b;
pub const STAGE_DROP: u8 = 0x0c;
pub const PING: u8 = 0x0d;
pub const BYE: u8 = 0x0e;
pub const PATCH: u8 = 0x0f;
pub const STEPS: u8 = 0x10;
pub const SEAL: u8 = 0x11;
pub const ATTRS: u8 = 0x12;
pub const SUM: u8 = 0x13;
pub const LOOK: u8 = 0x14;
pub const HOLE: u8 = 0x15;
pub const PUT_SPARSE: u8 = 0x16;
pub const RESUME: u8 = 0x17;

pub const WELCOME: u8 = 0x81;
pub const REFUSED: u8 = 0x82;
pub const LISTING: u8 = 0x83;
pub const ENTRY: u8 = 0x84;
pub const LIST_ERROR: u8 = 0x85;
pub const LIST_END: u8 = 0x86;
pub const FAILED: u8 = 0x87;
pub const ACK: u8 = 0x88;
pub const PONG: u8 = 0x89;
pub const FATAL: u8 = 0x8a;
pub const SEALED: u8 = 0x8b;
pub const SUMMED: u8 = 0x8d;
pub const LOOKED: u8 = 0x8e;
pub const RESUMED: u8 = 0x8f;
pub const SIGNED: u8 = 0x90;

pub const ROLE_CONTROL: u8 = 1;
pub const ROLE_CONTENT: u8 = 2;

pub const OP_MOVE: u8 = 1;
pub const OP_PARK: u8 = 2;
pub const OP_MKDIR: u8 = 3;
pub const OP_SYMLINK: u8 = 4;
pub const OP_SPECIAL: u8 = 5;
pub const OP_SET_META: u8 = 6;
pub const OP_PLACE: u8 = 7;
pub const OP_LINK: u8 = 8;
pub const OP_UNLINK: u8 = 9;
pub const OP_RMDIR: u8 = 10;
pub const OP_DIR_META: u8 = 11;

/// A directory is the one named last in this payload.
pub const DIR_SAME: u8 = 0;
/// A directory's path follows.
pub const DIR_NEW: u8 = 1;

pub const WRITING_IN_PLACE: u8 = 1;
pub const WRITING_PREALLOCATE: u8 = 1 << 1;
pub const WRITING_DURABLE_CYCLE: u8 = 1 << 2;
pub const WRITING_DURABLE_FILE: u8 = 1 << 3;

pub const ABILITY_CHOWN: u8 = 1;
pub const ABILITY_MKNOD: u8 = 1 << 1;

/// Added to the nanoseconds of an entry that has attributes, whose digest follows.
pub const HAS_ATTRS: u32 = 1_000_000_000;
