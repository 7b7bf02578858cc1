//! Bytes of a hostile peer: random ones, and valid ones with a few changes. Nothing may panic, and nothing may take more memory than the limits say.
//!
//! `RINGSYNC_SEED=<number>` repeats a run; the seed is printed.

use std::sync::Arc;

use ringsync::apply::target::fits;
use ringsync::limits::{FRAME_PAYLOAD_BYTES_MAX, PATH_BYTES_MAX, PUT_EXTENTS_MAX, TEXT_BYTES_MAX};
use ringsync::model::attrs::{Attrs, Namespaces};
use ringsync::model::meta::{Extent, Kind, Meta, Time};
use ringsync::model::op::{Abilities, Entry, Op, OpError, Section, Spot};
use ringsync::model::options::{Durability, Writing};
use ringsync::model::path::{Name, RelPath};
use ringsync::model::scrub::{LookDone, Part, PartSum};
use ringsync::model::times::Times;
use ringsync::wire::frame::{Deframer, Framer};
use ringsync::wire::session::{ContentClient, ContentServer, ControlClient, ControlServer, greet, welcomed};
use ringsync::wire::{Hello, Message, Messages, Payload, Role};

/// A small generator, for values that can be made again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("RINGSYNC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        println!("RINGSYNC_SEED={seed}");
        Self(seed)
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Numbers of all sizes.
    fn number(&mut self) -> u64 {
        self.next() >> self.below(64)
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn name(&mut self) -> Vec<u8> {
        let max = if self.below(20) == 0 { 255 } else { 8 };
        let len = 1 + self.below(max);
        let mut name: Vec<u8> = (0..len).map(|_| self.next() as u8).map(|b| if b == 0 || b == b'/' { b'x' } else { b }).collect();
        if name == b"." || name == b".." {
            name = b"dot".to_vec();
        }
        name
    }

    fn dir(&mut self) -> RelPath {
        let depth = self.below(4);
        let path = (0..depth).map(|_| self.name()).collect::<Vec<_>>().join(&b'/');
        RelPath::new(&path).unwrap()
    }

    fn spot(&mut self) -> Spot {
        Spot { dir: self.dir(), name: Name::new(&self.name()).unwrap().to_owned() }
    }

    /// Of what is there already: its attributes do not come along.
    fn meta_told(&mut self, kind: Kind) -> Meta {
        Meta { attrs: [0, self.next()][self.below(2)], ..self.meta(kind) }
    }

    fn meta(&mut self, kind: Kind) -> Meta {
        let mtime = Time { sec: self.number().cast_signed(), nsec: self.below(1_000_000_000) as u32 };
        let rdev = if kind.is_device() { self.number() } else { 0 };
        Meta {
            kind,
            mode: self.next() as u32 & 0o7777,
            uid: self.number() as u32,
            gid: self.number() as u32,
            mtime,
            size: self.number(),
            rdev,
            attrs: 0,
        }
    }

    fn op(&mut self) -> Op {
        let special = [Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block][self.below(4)];
        match self.below(11) {
            0 => Op::Move { from: self.spot(), to: self.spot() },
            1 => Op::Park { from: self.spot(), id: self.number() },
            2 => Op::Mkdir { at: self.spot(), meta: self.meta(Kind::Dir) },
            3 => Op::Symlink { at: self.spot(), target: self.name().into(), meta: self.meta(Kind::Symlink) },
            4 => Op::Special { at: self.spot(), meta: self.meta(special) },
            5 => Op::SetMeta { at: self.spot(), meta: self.meta(special) },
            6 => Op::Place { at: self.spot(), meta: self.meta(Kind::File), stage: self.number() },
            7 => Op::Link { from: self.spot(), to: self.spot() },
            8 => Op::Unlink { at: self.spot() },
            9 => Op::Rmdir { at: self.spot() },
            _ => Op::DirMeta { dir: self.dir(), meta: self.meta(Kind::Dir) },
        }
    }

    /// Any message, over `data`.
    fn message<'a>(&mut self, data: &'a [u8]) -> Message<'a> {
        let token = self.next().to_le_bytes().repeat(2).try_into().unwrap();
        let text = ["", "Unknown module 'x'", "caf\u{e9}"][self.below(3)];
        let errno = 1 + self.below(4095) as i32;
        match self.below(43) {
            0 => {
                let role = Role::Control {
                    module: "m".repeat(1 + self.below(255)),
                    path: self.dir(),
                    threads: self.next() as u16,
                    attrs: self.namespaces(),
                    read_only: self.below(2) == 0,
                    writing: Writing {
                        in_place: self.below(2) == 0,
                        preallocate: self.below(2) == 0,
                        durability: [Durability::None, Durability::Cycle, Durability::File][self.below(3)],
                    },
                    continues: token,
                };
                Message::Hello(Hello { version_min: 1, version_max: 1 + self.below(9) as u16, role })
            }
            1 => Message::Hello(Hello::content(token, self.next() as u16)),
            2 => Message::List { dir: self.dir() },
            3 => Message::Begin { cycle: self.number() },
            4 => Message::Open,
            5 => Message::Close { files: self.number() as u32 },
            6 => Message::Commit,
            7 => Message::FilesOf { cycle: self.number() },
            8 => {
                let op = Op::SetMeta { at: self.spot(), meta: self.meta(Kind::File) };
                Message::File { index: self.number() as u32, op }
            }
            9 | 10 => {
                let meta = Meta { size: data.len() as u64, ..self.meta(Kind::File) };
                Message::Put { index: self.number() as u32, at: self.spot(), meta, data, new: self.below(2) == 0 }
            }
            11 => Message::Stage { id: self.number(), offset: self.number() >> 2, data },
            12 => Message::StageDrop { id: self.number() },
            13 => Message::Ping,
            14 => Message::Bye,
            15 => Message::Welcome {
                version: self.next() as u16,
                token,
                abilities: Abilities { chown: true, mknod: self.below(2) == 0, attrs: self.namespaces(), times: self.times() },
                continued: self.below(2) == 0,
            },
            16 => Message::Refused { code: self.next() as u8, text },
            17 => Message::Listing { dir: self.dir(), meta: self.meta_told(Kind::Dir) },
            18 | 19 => {
                let kind = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Block][self.below(4)];
                let target = (kind == Kind::Symlink && self.below(9) > 0).then(|| self.name().into());
                let name = Name::new(&self.name()).unwrap().to_owned();
                let link_group = if kind == Kind::Dir { self.below(2) as u64 } else { self.number() };
                let attrs = [0, self.number()][self.below(2)];
                Message::Entry(Entry { name, meta: Meta { attrs, ..self.meta(kind) }, target, link_group })
            }
            20 => Message::ListError { dir: self.dir(), errno },
            21 => Message::ListEnd,
            22 => {
                let section = [Section::Pre, Section::Files, Section::Post][self.below(3)];
                Message::Failed(OpError { section, index: self.number() as u32, errno })
            }
            23 => Message::Ack { cycle: self.number() },
            24 => Message::Pong,
            25 => Message::Fatal { code: self.next() as u8, text },
            26 => Message::Patch { id: self.number(), base: self.spot(), shapes: &data[..data.len().min(22)] },
            27 => Message::Steps { id: self.number(), data },
            28 => Message::Seal { id: self.number(), digest: [self.next() as u8; 32] },
            29 => Message::Sealed { id: self.number(), errno: [0, errno][self.below(2)] },
            30 => {
                let part = |random: &mut Self| {
                    let name = Name::new(&random.name()).unwrap().to_owned();
                    Part { name, offset: random.number() >> 2, len: random.number() >> 40 }
                };
                Message::Sum { id: self.number(), dir: self.dir(), parts: (0..1 + self.below(5)).map(|_| part(self)).collect() }
            }
            31 => Message::Look { id: self.number(), dir: self.dir() },
            32 => {
                let read = PartSum::Read { size: self.number(), digest: [self.next() as u8; 32] };
                let sums = (0..1 + self.below(5)).map(|_| [read, PartSum::Failed(errno)][self.below(2)]).collect();
                Message::Summed { id: self.number(), sums }
            }
            33 => {
                let entry = |random: &mut Self| Entry {
                    name: Name::new(&random.name()).unwrap().to_owned(),
                    meta: random.meta_told(Kind::File),
                    target: None,
                    link_group: random.number(),
                };
                let entries = (0..self.below(5)).map(|_| entry(self)).collect();
                let dir = if self.below(3) == 0 { Err(errno) } else { Ok(self.meta_told(Kind::Dir)) };
                Message::Looked(LookDone { id: self.number(), last: self.below(2) == 0, dir, entries })
            }
            34 => Message::Attrs(self.attrs()),
            35 => Message::Hole { id: self.number(), offset: self.number() >> 2, len: 1 + (self.number() >> 2) },
            36 => {
                let half = data.len() as u64 / 2;
                let (first, gap) = (Extent { at: self.number() % 1000, len: half }, self.number() % 1000);
                let second = Extent { at: first.at + half + gap, len: data.len() as u64 - half };
                let extents: Vec<_> = [first, second].into_iter().filter(|extent| extent.len > 0).collect();
                let meta = Meta { size: second.at + second.len + gap, ..self.meta(Kind::File) };
                Message::PutSparse { index: self.number() as u32, at: self.spot(), meta, extents, data }
            }
            39 => {
                let meta = Meta { size: self.number() % 1000, ..self.meta(Kind::File) };
                Message::PutPatch { index: self.number() as u32, at: self.spot(), meta, digest: [self.next() as u8; 32], delta: data }
            }
            40 => Message::Sign { id: self.number(), base: self.spot() },
            41 => Message::Signed { id: self.number(), last: self.below(2) == 0, shape: &data[..data.len().min(22)], blocks: data },
            37 => Message::Resume { id: self.number(), key: token, size: self.number() },
            38 => Message::Resumed { id: self.number(), shape: &data[..data.len().min(22)], digest: [self.next() as u8; 32] },
            _ => Message::Op(self.op()),
        }
    }

    fn times(&mut self) -> Times {
        let grain = [1, 100, 1_000_000_000, 2_000_000_000][self.below(4)];
        Times::new(grain, i64::MIN + self.below(9) as i64, self.below(1 << 30) as i64).unwrap()
    }

    fn namespaces(&mut self) -> Namespaces {
        Namespaces::from_bits(self.next() as u8 & Namespaces::ALL.bits()).unwrap()
    }

    fn attrs(&mut self) -> Arc<Attrs> {
        let prefixes = [&b"user."[..], b"trusted.", b"security.x"];
        // A name with its place in it comes once.
        let all = (0..=self.below(4)).map(|at| {
            let name = [prefixes[self.below(3)], at.to_string().as_bytes()].concat();
            (name.into(), self.bytes(40))
        });
        Arc::new(Attrs::new(all.collect()).unwrap().unwrap())
    }

    /// Changes a few bytes, or cuts, doubles or inserts some.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.next() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => {
                    let more = self.bytes(9);
                    bytes.splice(at..at, more);
                }
                _ => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
    }
}

/// What all who read a payload do with it.
fn swallow(payload: &[u8]) -> usize {
    let mut control = ControlServer::new();
    let mut content = ContentServer::new();
    let mut client = ControlClient::new();
    let mut reader = ContentClient::new();
    client.sent_list();
    client.sent_begin(0);
    reader.sent_ping();
    reader.sent_sum();
    reader.sent_look();
    reader.sent_sign();
    let mut good = 0;
    for message in Messages::new(payload) {
        let Ok(message) = message else { break };
        good += 1;
        // Whatever passed the decoder is within its limits.
        match &message {
            Message::Put { meta, data, .. } => assert_eq!(meta.size, data.len() as u64),
            Message::PutSparse { meta, extents, data, .. } => assert!(fits(meta, extents, data) && extents.len() <= PUT_EXTENTS_MAX),
            Message::Hole { offset, len, .. } => assert!(*len > 0 && offset + len <= i64::MAX as u64),
            Message::List { dir } | Message::Listing { dir, .. } => assert!(dir.as_bytes().len() <= PATH_BYTES_MAX),
            Message::Refused { text, .. } | Message::Fatal { text, .. } => assert!(text.len() <= TEXT_BYTES_MAX),
            _ => {}
        }
        let _ = control.check(&message);
        let _ = content.check(&message);
        let _ = client.check(&message);
        let _ = reader.check(&message);
        let _ = welcomed(&message);
        let _ = greet(message);
    }
    good
}

#[test]
fn any_message_comes_back_as_it_went() {
    let mut random = Random::new();
    for _ in 0..2000 {
        let data: Vec<Vec<u8>> = (0..1 + random.below(20)).map(|_| random.bytes(300)).collect();
        let messages: Vec<Message<'_>> = data.iter().map(|data| random.message(data)).collect();
        let mut payload = Payload::new();
        for message in &messages {
            payload.message(message);
            // Something that is taken back leaves no trace, not even in what the last directory is.
            let mark = payload.mark();
            payload.put(7, &random.spot(), &random.meta(Kind::File), 100, false).fill(1);
            payload.rollback(mark);
        }
        let bytes = payload.take();
        let decoded: Vec<Message<'_>> = Messages::new(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(decoded, messages);
        assert_eq!(swallow(&bytes), messages.len());
    }
}

#[test]
fn hostile_payloads_are_values_or_errors() {
    let mut random = Random::new();
    let mut good = 0;
    for _ in 0..20_000 {
        good += swallow(&random.bytes(200));
        let data = random.bytes(50);
        let mut payload = Payload::new();
        (0..1 + random.below(6)).for_each(|_| payload.message(&random.message(&data)));
        let mut bytes = payload.take();
        random.mutate(&mut bytes);
        good += swallow(&bytes);
    }
    assert!(good > 20_000, "the mutants hardly get past the first message: {good}");
}

#[test]
fn hostile_streams_never_pass_the_checksum_nor_the_memory_limits() {
    let mut random = Random::new();
    let mut framer = Framer::new(true);
    for _ in 0..5000 {
        let mut stream = Vec::new();
        let mut payloads = Vec::new();
        for _ in 0..1 + random.below(4) {
            let mut payload = random.bytes(600);
            payload.push(1);
            if random.below(2) == 0 {
                payload = payload.repeat(1 + random.below(20));
            }
            let packet = framer.frame(payload.clone());
            stream.extend_from_slice(&packet.head);
            stream.extend_from_slice(&packet.body);
            payloads.push(payload);
        }
        let unharmed = stream.clone();
        random.mutate(&mut stream);
        let mut deframer = Deframer::new();
        let mut bytes = &stream[..];
        let mut got = Vec::new();
        while !bytes.is_empty() {
            let (mut piece, rest) = bytes.split_at(1 + random.below(bytes.len()));
            bytes = rest;
            loop {
                match deframer.feed(&mut piece) {
                    Ok(Some(payload)) => {
                        assert!(!payload.is_empty() && payload.len() <= FRAME_PAYLOAD_BYTES_MAX);
                        assert!(payload.capacity() <= 2 * FRAME_PAYLOAD_BYTES_MAX);
                        got.push(payload);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        bytes = &[];
                        break;
                    }
                }
            }
        }
        // A mutation may double or cut off whole frames, but each that passes is one that was sent.
        assert!(got.iter().all(|payload| payloads.contains(payload)) || stream == unharmed);
    }
    // Nothing but noise.
    for _ in 0..5000 {
        let mut noise = random.bytes(100);
        if random.below(2) == 0 {
            noise.splice(0..noise.len().min(3), [0xf5, b'R', b'S']);
        }
        assert!(!matches!(Deframer::new().feed(&mut &noise[..]), Ok(Some(_))));
    }
}

/// The canary: were the checksum not looked at, a changed body would pass. It must not.
#[test]
fn a_changed_byte_in_a_body_is_found_by_the_checksum_alone() {
    let mut random = Random::new();
    for _ in 0..200 {
        let mut payload = random.bytes(500);
        payload.push(0);
        let packet = Framer::new(false).frame(payload);
        let mut body = packet.body;
        let at = random.below(body.len());
        body[at] ^= 1 << random.below(8);
        let stream = [&packet.head[..], &body].concat();
        assert!(Deframer::new().feed(&mut &stream[..]).is_err());
    }
}
