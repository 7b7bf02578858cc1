//! PROTOCOL.md against the code: its test vectors both ways, what it says is refused, and its limits. The vectors are read out of the document itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringsync::limits;
use ringsync::model::attrs::{Attrs, Namespaces};
use ringsync::model::meta::{Extent, Kind, Meta, Time};
use ringsync::model::op::{Abilities, Entry, Op, OpError, Section, Spot};
use ringsync::model::options::{Durability, Writing};
use ringsync::model::path::{Name, RelPath};
use ringsync::model::scrub::{LookDone, Part, PartSum};
use ringsync::model::times::Times;
use ringsync::wire::frame::{Deframer, Framer};
use ringsync::wire::{Hello, Message, Messages, Payload, Role, Token, WireError};

use crate::fuzz::document::{Block, DOCUMENT, blocks};

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

fn dir(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn spot(path: &str, name: &str) -> Spot {
    Spot { dir: dir(path), name: Name::new(name.as_bytes()).unwrap().to_owned() }
}

fn meta(kind: Kind, mode: u32, size: u64) -> Meta {
    Meta { kind, mode, uid: 1000, gid: 100, mtime: Time { sec: 1_700_000_000, nsec: 123_456_789 }, size, rdev: 0, attrs: 0 }
}

fn part(name: &str, offset: u64, len: u64) -> Part {
    Part { name: Name::new(name.as_bytes()).unwrap().to_owned(), offset, len }
}

/// What each vector of the document says, as values.
fn values() -> Vec<(&'static str, Vec<Message<'static>>)> {
    let token = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    let file = meta(Kind::File, 0o644, 6);
    let old = Meta { uid: 0, gid: 0, mtime: Time { sec: -1, nsec: 0 }, ..meta(Kind::Fifo, 0o600, 0) };
    let name = |name: &str| Name::new(name.as_bytes()).unwrap().to_owned();
    let attrs: [(&[u8], &[u8]); 2] = [(b"user.b", b""), (b"user.a", b"hello")];
    let attrs = Attrs::new(attrs.map(|(name, value)| (name.into(), value.to_vec())).into()).unwrap().unwrap();
    let attrs = Arc::new(attrs);
    let times = Times::new(1_000_000_000, i64::from(i32::MIN), i64::from(i32::MAX)).unwrap();
    let one = |message| vec![message];
    vec![
        (
            "hello-control",
            one(Message::Hello(Hello {
                version_min: 1,
                version_max: 1,
                role: Role::Control {
                    module: "www".into(),
                    path: dir("a/b"),
                    threads: 10,
                    attrs: Namespaces::USER.or(Namespaces::ACL),
                    read_only: false,
                    writing: Writing { in_place: true, preallocate: false, durability: Durability::File },
                    continues: Token::default(),
                },
            })),
        ),
        (
            "hello-read-only",
            one(Message::Hello(Hello {
                version_min: 1,
                version_max: 1,
                role: Role::Control {
                    module: "www".into(),
                    path: dir("a/b"),
                    threads: 10,
                    attrs: Namespaces::USER.or(Namespaces::ACL),
                    read_only: true,
                    writing: Writing { in_place: false, preallocate: true, durability: Durability::Cycle },
                    continues: token,
                },
            })),
        ),
        ("hello-content", one(Message::Hello(Hello { version_min: 1, version_max: 2, role: Role::Content { token, index: 3 } }))),
        ("list", one(Message::List { dir: RelPath::root() })),
        ("begin", one(Message::Begin { cycle: 300 })),
        ("op-move", one(Message::Op(Op::Move { from: spot("a", "old"), to: spot("b", "new") }))),
        ("op-park", one(Message::Op(Op::Park { from: spot("", "x"), id: 9 }))),
        ("op-mkdir", one(Message::Op(Op::Mkdir { at: spot("", "d"), meta: meta(Kind::Dir, 0o755, 4096) }))),
        ("op-symlink", one(Message::Op(Op::Symlink { at: spot("", "l"), target: (*b"../t").into(), meta: meta(Kind::Symlink, 0o777, 4) }))),
        ("op-special-fifo", one(Message::Op(Op::Special { at: spot("", "f"), meta: old }))),
        (
            "op-special-device",
            one(Message::Op(Op::Special { at: spot("", "n"), meta: Meta { rdev: 0x103, ..meta(Kind::Char, 0o666, 0) } })),
        ),
        ("op-link", one(Message::Op(Op::Link { from: spot("a", "x"), to: spot("a", "y") }))),
        ("op-unlink", one(Message::Op(Op::Unlink { at: spot("a/b", "x") }))),
        ("op-rmdir", one(Message::Op(Op::Rmdir { at: spot("", "a") }))),
        ("op-dir-meta", one(Message::Op(Op::DirMeta { dir: RelPath::root(), meta: meta(Kind::Dir, 0o1777, 0) }))),
        ("open", one(Message::Open)),
        ("close", one(Message::Close { files: 2 })),
        ("skip", one(Message::Skip)),
        ("commit", one(Message::Commit)),
        ("files-of", one(Message::FilesOf { cycle: 1 })),
        ("file-set-meta", one(Message::File { index: 0, op: Op::SetMeta { at: spot("", "x"), meta: meta(Kind::File, 0o4755, 0) } })),
        (
            "file-place",
            one(Message::File { index: 200, op: Op::Place { at: spot("", "x"), meta: meta(Kind::File, 0o644, 1 << 33), stage: 7 } }),
        ),
        ("put", one(Message::Put { index: 1, at: spot("etc", "motd"), meta: file, data: b"hello\n", new: false })),
        ("put-new", one(Message::Put { index: 1, at: spot("etc", "motd"), meta: file, data: b"hello\n", new: true })),
        ("stage", one(Message::Stage { id: 7, offset: 1 << 20, data: b"\x00\x01\x02" })),
        ("hole", one(Message::Hole { id: 7, offset: 1 << 20, len: 1 << 40 })),
        (
            "put-sparse",
            one(Message::PutSparse {
                index: 1,
                at: spot("etc", "motd"),
                meta: Meta { size: 300_000, ..file },
                extents: vec![Extent { at: 0, len: 2 }, Extent { at: 65_536, len: 4 }],
                data: b"hello\n",
            }),
        ),
        (
            "put-patch",
            one(Message::PutPatch {
                index: 1,
                at: spot("etc", "motd"),
                meta: Meta { size: 6, ..file },
                digest: std::array::from_fn(|at| at as u8),
                delta: b"\x05\x0c\x06\x0c\x00\x0a\x00\x03!",
            }),
        ),
        ("resume", one(Message::Resume { id: 7, key: std::array::from_fn(|at| at as u8), size: 1 << 33 })),
        ("resumed", one(Message::Resumed { id: 7, shape: b"\x80\x80\x80\x05\x0c", digest: std::array::from_fn(|at| at as u8) })),
        ("resumed-nothing", one(Message::Resumed { id: 7, shape: b"\x00\x0c", digest: [0; 32] })),
        ("sign", one(Message::Sign { id: 7, base: spot("a", "x") })),
        (
            "signed",
            one(Message::Signed {
                id: 7,
                last: true,
                shape: b"\x05\x0c",
                blocks: b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15",
            }),
        ),
        ("signed-nothing", one(Message::Signed { id: 7, last: true, shape: b"\x00\x0c", blocks: b"" })),
        ("stage-drop", one(Message::StageDrop { id: 7 })),
        ("patch", one(Message::Patch { id: 7, base: spot("a", "x"), shapes: b"\x05\x0c\x81\x20\x0c" })),
        ("steps", one(Message::Steps { id: 7, data: b"\x00\x80\x40\x00\x03!" })),
        ("seal", one(Message::Seal { id: 7, digest: std::array::from_fn(|at| at as u8) })),
        ("sealed", one(Message::Sealed { id: 7, errno: 116 })),
        (
            "attrs",
            vec![
                Message::Attrs(attrs.clone()),
                Message::File {
                    index: 0,
                    op: Op::SetMeta { at: spot("", "x"), meta: Meta { attrs: attrs.digest(), ..meta(Kind::File, 0o644, 0) } },
                },
            ],
        ),
        ("sum", one(Message::Sum { id: 7, dir: dir("a"), parts: vec![part("x", 0, 5), part("y", 1 << 20, 200)] })),
        ("look", one(Message::Look { id: 8, dir: RelPath::root() })),
        (
            "summed",
            one(Message::Summed {
                id: 7,
                sums: vec![PartSum::Read { size: 5, digest: std::array::from_fn(|at| at as u8) }, PartSum::Failed(2)],
            }),
        ),
        (
            "looked",
            one(Message::Looked(LookDone {
                id: 8,
                last: true,
                dir: Ok(meta(Kind::Dir, 0o755, 4096)),
                entries: vec![Entry { name: name("x"), meta: file, target: None, link_group: 12 }],
            })),
        ),
        ("looked-error", one(Message::Looked(LookDone { id: 8, last: true, dir: Err(13), entries: vec![] }))),
        ("ping", one(Message::Ping)),
        ("bye", one(Message::Bye)),
        (
            "welcome",
            one(Message::Welcome {
                version: 1,
                token,
                abilities: Abilities { chown: true, mknod: false, attrs: Namespaces::ALL, times },
                continued: true,
            }),
        ),
        ("refused", one(Message::Refused { code: 5, text: "Unknown module 'www'" })),
        ("listing", one(Message::Listing { dir: dir("a"), meta: meta(Kind::Dir, 0o755, 4096) })),
        ("entry-file", one(Message::Entry(Entry { name: name("x"), meta: file, target: None, link_group: 12 }))),
        (
            "entry-symlink",
            one(Message::Entry(Entry {
                name: name("l"),
                meta: meta(Kind::Symlink, 0o777, 1),
                target: Some((*b"x").into()),
                link_group: 0,
            })),
        ),
        ("entry-border", one(Message::Entry(Entry { name: name("d"), meta: meta(Kind::Dir, 0o755, 0), target: None, link_group: 1 }))),
        (
            "entry-attrs",
            one(Message::Entry(Entry { name: name("x"), meta: Meta { attrs: attrs.digest(), ..file }, target: None, link_group: 0 })),
        ),
        ("list-error", one(Message::ListError { dir: dir("a"), errno: 13 })),
        ("list-end", one(Message::ListEnd)),
        ("failed", one(Message::Failed(OpError { section: Section::Files, index: 1, errno: 28 }))),
        ("ack", one(Message::Ack { cycle: 300 })),
        ("pong", one(Message::Pong)),
        ("fatal", one(Message::Fatal { code: 11, text: "the root is gone" })),
        (
            "whole-cycle",
            vec![
                Message::Begin { cycle: 1 },
                Message::Op(Op::Mkdir { at: spot("a", "d"), meta: meta(Kind::Dir, 0o755, 0) }),
                Message::Open,
                Message::Put { index: 0, at: spot("a/d", "x"), meta: meta(Kind::File, 0o644, 1), data: b"X", new: false },
                Message::Put { index: 1, at: spot("a/d", "y"), meta: meta(Kind::File, 0o644, 0), data: b"", new: false },
                Message::Close { files: 2 },
                Message::Op(Op::DirMeta { dir: dir("a/d"), meta: meta(Kind::Dir, 0o755, 0) }),
                Message::Commit,
            ],
        ),
    ]
}

/// The document must be what the code writes; prints what it should say where it is not.
fn compare(mut documented: BTreeMap<String, Block>, encoded: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let mut wrong = Vec::new();
    for (name, bytes) in encoded {
        if documented.remove(name).is_none_or(|block| block.bytes != bytes) {
            wrong.push(format!("{name}:\n{}", hex(&bytes)));
        }
    }
    assert!(wrong.is_empty(), "PROTOCOL.md does not say what is encoded:\n{}", wrong.join("\n"));
    assert!(documented.is_empty(), "no test knows {:?}", documented.keys());
}

#[test]
fn values_encode_to_the_documented_bytes() {
    let encoded = values().into_iter().map(|(name, messages)| {
        let mut payload = Payload::new();
        messages.iter().for_each(|message| payload.message(message));
        (name, payload.take())
    });
    compare(blocks("payload"), encoded);
}

#[test]
fn documented_bytes_decode_to_the_values() {
    let documented = blocks("payload");
    for (name, messages) in values() {
        let decoded: Vec<Message<'_>> =
            Messages::new(&documented[name].bytes).collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decoded, messages, "{name}");
    }
}

#[test]
fn frames_are_the_documented_bytes_both_ways() {
    let documented = blocks("frame");
    let payloads: [(&str, Vec<u8>); 2] = [("frame-plain", vec![0x0d]), ("frame-lz4", vec![0x0d; 300])];
    let mut framer = Framer::new(true);
    let framed = payloads.clone().map(|(name, payload)| {
        let packet = framer.frame(payload);
        (name, [&packet.head[..], &packet.body].concat())
    });
    for (name, payload) in payloads {
        let mut bytes = documented.get(name).map_or(&[][..], |block| &block.bytes);
        let got = Deframer::new().feed(&mut bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(got.is_none_or(|got| got == payload), "{name}");
    }
    compare(documented, framed);
}

#[test]
fn what_the_document_calls_wrong_is_refused_for_the_reason_it_says() {
    let mut wrong = Vec::new();
    let mut check = |name: String, block: Block, error: Option<WireError>| {
        let error = error.map_or("accepted".to_owned(), |e| e.to_string());
        if error != block.error {
            wrong.push(format!("{name}: # {error}"));
        }
    };
    for (name, block) in blocks("bad-payload") {
        let error = Messages::new(&block.bytes).find_map(|message| message.err());
        check(name, block, error);
    }
    for (name, block) in blocks("bad-frame") {
        let error = Deframer::new().feed(&mut &block.bytes[..]).err();
        check(name, block, error);
    }
    assert!(wrong.is_empty(), "PROTOCOL.md says otherwise:\n{}", wrong.join("\n"));
}

#[test]
fn the_documented_limits_are_the_programs() {
    let program = [
        ("FRAME_PAYLOAD_BYTES_MAX", limits::FRAME_PAYLOAD_BYTES_MAX),
        ("INLINE_FILE_BYTES_MAX", limits::INLINE_FILE_BYTES_MAX),
        ("STAGE_CHUNK_BYTES", limits::STAGE_CHUNK_BYTES),
        ("PUT_EXTENTS_MAX", limits::PUT_EXTENTS_MAX),
        ("NAME_BYTES_MAX", limits::NAME_BYTES_MAX),
        ("PATH_BYTES_MAX", limits::PATH_BYTES_MAX),
        ("LINK_TARGET_BYTES_MAX", limits::LINK_TARGET_BYTES_MAX),
        ("MODULE_BYTES_MAX", limits::MODULE_BYTES_MAX),
        ("TEXT_BYTES_MAX", limits::TEXT_BYTES_MAX),
        ("ATTR_NAME_BYTES_MAX", limits::ATTR_NAME_BYTES_MAX),
        ("ATTR_VALUE_BYTES_MAX", limits::ATTR_VALUE_BYTES_MAX),
        ("ATTRS_BYTES_MAX", limits::ATTRS_BYTES_MAX),
        ("ERRNO_MAX", limits::ERRNO_MAX as usize),
        ("CYCLE_OPS_MAX", limits::CYCLE_OPS_MAX),
        ("CYCLES_IN_FLIGHT_MAX", limits::CYCLES_IN_FLIGHT_MAX),
        ("SUM_FILES_MAX", limits::SUM_FILES_MAX),
        ("SUM_BYTES_MAX", limits::SUM_BYTES_MAX as usize),
        ("SUMS_WAITING_MAX", limits::SUMS_WAITING_MAX),
        ("LOOK_ENTRIES_MAX", limits::LOOK_ENTRIES_MAX),
        ("THREADS_MAX", limits::THREADS_MAX),
        ("PLACES_MAX", limits::PLACES_MAX),
    ];
    let mut documented: BTreeMap<&str, usize> = DOCUMENT
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((name, rest.split(" |").next()?.replace(',', "").parse().ok()?))
        })
        .filter(|(name, _)| name.contains("_MAX") || name.contains("_BYTES"))
        .collect();
    for (name, value) in program {
        assert_eq!(documented.remove(name), Some(value), "{name}");
    }
    assert!(documented.is_empty(), "{documented:?}");
}
