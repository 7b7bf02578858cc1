//! A hostile client against the real server: noise, lies, floods and names that would leave the module. Nothing panics, memory and descriptors stay bounded, nothing
//! outside of the module changes, and an honest client is served all the while.
//!
//! `RINGSYNC_HOSTILE_S` says how long the random part goes on, `RINGSYNC_SEED` repeats a run.

use std::cell::RefCell;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use ringsync::limits::{CYCLE_OPS_MAX, FRAME_PAYLOAD_BYTES_MAX, HANDSHAKES_MAX, PATCHES_MAX};
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::{Op, Spot};
use ringsync::model::path::{Name, RelPath};
use ringsync::wire::frame::{Deframer, Framer};
use ringsync::wire::{Hello, Message, Messages, Payload, Token};

use crate::compare::{Rules, untouched, wait_equal};
use crate::fuzz::document;
use crate::place::{Place, deadline, heavy, number, seed, until};
use crate::program::{As, Program};
use crate::rng::Rng;

/// What the server may have in memory at its highest: hundreds of connections with their rings and buffers, and nothing that grows with what they send.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Descriptors beyond those at rest that a server may have open when nobody is connected but the honest client.
const DESCRIPTORS_SLACK: usize = 4;
/// No attack waits longer for a server that does not take what it sends.
const WRITE_PATIENCE: Duration = Duration::from_millis(200);

/// A number of `/proc/PID/status`, in bytes.
pub fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A server with a module for whoever attacks and one for an honest client.
struct Target {
    program: Program,
    address: SocketAddr,
    place: Place,
    honest: Program,
    canary: std::path::PathBuf,
    before: Fingerprint,
    at_rest: usize,
    told: usize,
}

impl Target {
    fn start() -> Self {
        let place = Place::new();
        let (evil, canary) = (place.beside("evil"), place.beside("canary"));
        fs::create_dir(&evil).unwrap();
        fs::create_dir_all(canary.join("d")).unwrap();
        fs::write(canary.join("d/f"), "secret").unwrap();
        let modules = [format!("m={}", evil.display()), format!("good={}", place.dst.display())];
        let (program, address) = loop {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).unwrap();
            let mut program =
                Program::start(As::Us, &["serve", "--listen", &address.to_string(), "--module", &modules[0], "--module", &modules[1]]);
            if until(deadline(), || !program.runs() || TcpStream::connect(address).is_ok()) && program.runs() {
                break (program, address);
            }
        };
        fs::write(place.src.join("f"), "x").unwrap();
        let url = format!("ringsync://{address}/good");
        let honest = Program::start(As::Us, &["mirror", "-n", "2", place.src.to_str().unwrap(), &url]);
        wait_equal(&place.src, &place.dst, &Rules::full(), deadline(), || true).unwrap();
        let at_rest = descriptors(program.pid());
        let before = untouched(&canary);
        Self { program, address, place, honest, canary, before, at_rest, told: 0 }
    }

    fn evil(&self) -> std::path::PathBuf {
        self.place.beside("evil")
    }

    /// The server runs, the honest client is served, nothing outside of the module is another than before.
    fn holds(&mut self, after: &str) {
        assert!(self.program.runs(), "{after}: the server ended:\n{}", self.program.stderr());
        self.told += 1;
        fs::write(self.place.src.join("f"), format!("{after} {}", self.told)).unwrap();
        let honest = RefCell::new(&mut self.honest);
        let served = wait_equal(&self.place.src, &self.place.dst, &Rules::full(), deadline(), || honest.borrow_mut().runs());
        served.unwrap_or_else(|differences| panic!("{after}: the honest client is not served:\n{differences}"));
        assert!(self.before == untouched(&self.canary), "{after}: something outside of the module changed");
        let high = memory(self.program.pid(), "VmHWM");
        assert!(high < MEMORY_BYTES_MAX, "{after}: {} MiB of memory", high >> 20);
        let stderr = self.program.stderr();
        assert!(!stderr.contains("panicked"), "{after}:\n{stderr}");
    }

    /// All who attacked have gone: what they held is given back, and both programs end in order.
    fn ends(mut self) {
        let pid = self.program.pid();
        let few = self.at_rest + DESCRIPTORS_SLACK;
        assert!(until(deadline(), || descriptors(pid) <= few), "{} descriptors are open, {} were", descriptors(pid), self.at_rest);
        println!("{} MiB of memory at the highest", memory(pid, "VmHWM") >> 20);
        self.honest.terminate();
        self.program.terminate();
    }
}

type Fingerprint = std::collections::BTreeMap<RelPath, (ringsync::model::meta::Ident, u32, Time)>;

/// A connection that may say anything.
struct Raw {
    stream: TcpStream,
    framer: Framer,
    deframer: Deframer,
}

impl Raw {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, framer: Framer::new(true), deframer: Deframer::new() })
    }

    /// Sends a payload as a frame.
    fn say(&mut self, payload: Vec<u8>) -> io::Result<()> {
        let packet = self.framer.frame(payload);
        self.stream.write_all(&[&packet.head[..], &packet.body].concat())
    }

    fn build(&mut self, build: impl FnOnce(&mut Payload)) -> io::Result<()> {
        let mut payload = Payload::new();
        build(&mut payload);
        self.say(payload.take())
    }

    /// Waits for an answer.
    fn answer(&mut self, is_it: impl Fn(&Message<'_>) -> bool) -> io::Result<()> {
        self.read(|message| is_it(message).then_some(()))
    }

    /// The token of the Welcome, when it comes.
    fn welcome(&mut self) -> io::Result<Token> {
        self.read(|message| match message {
            Message::Welcome { token, .. } => Some(*token),
            _ => None,
        })
    }

    /// What `take` takes of the answers that come; an error at the end of them.
    fn read<R>(&mut self, take: impl Fn(&Message<'_>) -> Option<R>) -> io::Result<R> {
        let mut buffer = [0; 4096];
        loop {
            let len = self.stream.read(&mut buffer)?;
            if len == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = &buffer[..len];
            while let Ok(Some(payload)) = self.deframer.feed(&mut bytes) {
                if let Some(taken) = Messages::new(&payload).map_while(Result::ok).find_map(|message| take(&message)) {
                    return Ok(taken);
                }
            }
        }
    }

    fn control(address: SocketAddr, path: &str, threads: u16) -> io::Result<(Self, Token)> {
        let mut raw = Self::connect(address)?;
        raw.build(|p| p.hello(&Hello::control("m", RelPath::new(path.as_bytes()).unwrap(), threads).unwrap()))?;
        let token = raw.welcome()?;
        Ok((raw, token))
    }

    fn content(address: SocketAddr, token: Token, index: u16) -> io::Result<Self> {
        let mut raw = Self::connect(address)?;
        raw.build(|p| p.hello(&Hello::content(token, index)))?;
        raw.welcome()?;
        Ok(raw)
    }

    /// Whatever the server says, as far as it comes now.
    fn drain(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(1)));
        let mut buffer = [0; 65_536];
        while matches!(self.stream.read(&mut buffer), Ok(1..)) {}
    }
}

/// Names that an attack uses: few, so that they meet, with reserved ones and what a local user has planted.
fn name(rng: &mut Rng) -> Vec<u8> {
    let long = [b'x'; 255];
    rng.pick(&[
        b"a" as &[u8],
        b"b",
        b"c",
        b"a",
        b"b",
        b"link",
        b"abs",
        b"f",
        b".ringsync-staging",
        b".ringsync-staging-p1",
        b".ringsync-staging-00000000000000000",
        b"\xff\n\x1b[2J",
        &long,
    ])
    .to_vec()
}

fn dir(rng: &mut Rng) -> RelPath {
    let depth = if rng.chance(2) { 200 } else { rng.below(3) };
    let path = (0..depth).map(|_| name(rng)).collect::<Vec<_>>().join(&b'/');
    RelPath::new(&path).unwrap_or(RelPath::root())
}

fn spot(rng: &mut Rng) -> Spot {
    Spot { dir: dir(rng), name: Name::new(&name(rng)).unwrap().to_owned() }
}

/// Metadata of this kind, from a message of the document.
fn meta(rng: &mut Rng, kind: Kind) -> Meta {
    let vectors = document::blocks("payload");
    let Some(Ok(Message::Entry(entry))) = Messages::new(&vectors["entry-file"].bytes).next() else { unreachable!("it is an entry") };
    let mtime = Time { sec: rng.next().cast_signed() >> rng.below(64), nsec: rng.below(1_000_000_000) as u32 };
    let rdev = if kind.is_device() { rng.next() & 0xfff } else { 0 };
    Meta { kind, mode: rng.next() as u32 & 0o7777, size: rng.below(20) as u64, mtime, rdev, ..entry.meta }
}

fn pre(rng: &mut Rng) -> Op {
    match rng.below(6) {
        0 => Op::Move { from: spot(rng), to: spot(rng) },
        1 => Op::Park { from: spot(rng), id: rng.below(3) as u64 },
        2 => {
            let target = rng.pick(&[b"../canary" as &[u8], b"/etc", b"..", b"a", b"../../canary/d"]);
            Op::Symlink { at: spot(rng), target: target.into(), meta: meta(rng, Kind::Symlink) }
        }
        3 => {
            let kind = rng.pick(&[Kind::Fifo, Kind::Socket, Kind::Char]);
            Op::Special { at: spot(rng), meta: meta(rng, kind) }
        }
        _ => Op::Mkdir { at: spot(rng), meta: meta(rng, Kind::Dir) },
    }
}

fn post(rng: &mut Rng) -> Op {
    match rng.below(4) {
        0 => Op::Link { from: spot(rng), to: spot(rng) },
        1 => Op::Unlink { at: spot(rng) },
        2 => Op::Rmdir { at: spot(rng) },
        _ => Op::DirMeta { dir: dir(rng), meta: meta(rng, Kind::Dir) },
    }
}

fn file(rng: &mut Rng, payload: &mut Payload, index: u32) {
    let data: Vec<u8> = (0..rng.below(40)).map(|_| rng.next() as u8).collect();
    let at = spot(rng);
    match rng.below(3) {
        0 => payload.file(index, &Op::SetMeta { at, meta: meta(rng, Kind::File) }),
        1 => payload.file(index, &Op::Place { at, meta: meta(rng, Kind::File), stage: rng.below(4) as u64 }),
        _ => payload.put(index, &at, &meta(rng, Kind::File), data.len(), rng.chance(50)).copy_from_slice(&data),
    }
}

/// What stands anywhere: pieces, patches, pings.
fn loose(rng: &mut Rng, payload: &mut Payload, content: bool) {
    let id = rng.below(4) as u64;
    match rng.below(if content { 7 } else { 3 }) {
        0 => payload.ping(),
        1 => {
            let offset = rng.next() >> (1 + rng.below(63));
            let at = if rng.chance(80) { 0 } else { offset.min(1 << 62) };
            payload.message(&Message::Stage { id, offset: at, data: b"hello world" });
        }
        2 => payload.stage_drop(id),
        3 => payload.seal(id, &[rng.next() as u8; 32]),
        4 => payload.steps(id, &[0, 0x80, 0x40, 0, 3, rng.next() as u8]),
        _ => {
            let shapes = [rng.below(20) as u8, 12, 0x81, 0x20, 12 + rng.below(2) as u8 * 40];
            payload.patch(id, &spot(rng), &shapes);
        }
    }
}

/// A frame is sent as it is, or spoilt, or something else altogether.
fn send(rng: &mut Rng, raw: &mut Raw, payload: Vec<u8>) -> io::Result<()> {
    if payload.is_empty() {
        return Ok(());
    }
    if rng.chance(96) {
        return raw.say(payload);
    }
    let packet = raw.framer.frame(payload);
    let mut bytes = [&packet.head[..], &packet.body].concat();
    let at = rng.below(bytes.len());
    match rng.below(4) {
        // A wrong length, flag, magic number or checksum, or a spoilt body.
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes.truncate(at),
        2 => bytes = (0..rng.below(300)).map(|_| rng.next() as u8).collect(),
        _ => {
            // What the document says is refused, in a right frame.
            let bad: Vec<_> = document::blocks("bad-payload").into_values().collect();
            let packet = raw.framer.frame(bad[rng.below(bad.len())].bytes.clone());
            bytes = [&packet.head[..], &packet.body].concat();
        }
    }
    raw.stream.write_all(&bytes)
}

/// One session that keeps to the order for the most part, with operations of all kinds at all names.
fn session(rng: &mut Rng, address: SocketAddr, evil: &Path) -> io::Result<()> {
    let (mut control, token) = Raw::control(address, rng.pick(&["", "", "a", "sub"]), 3)?;
    let mut contents = Vec::new();
    for index in 0..rng.below(3) as u16 {
        contents.push(Raw::content(address, token, index)?);
    }
    let mut cycle = rng.below(9) as u64;
    for _ in 0..1 + rng.below(6) {
        // A local user.
        if rng.chance(30) {
            plant(rng, evil);
        }
        let mut payload = Payload::new();
        if rng.chance(30) {
            payload.list(&dir(rng));
        }
        cycle += u64::from(rng.chance(99));
        payload.begin(cycle);
        (0..rng.below(12)).for_each(|_| payload.op(&pre(rng)));
        loose(rng, &mut payload, false);
        payload.open();
        let own = rng.below(4);
        (0..own).for_each(|index| file(rng, &mut payload, index as u32));
        let mut files = own;
        for (at, content) in contents.iter_mut().enumerate() {
            let mut theirs = Payload::new();
            theirs.files_of(cycle);
            for index in 0..rng.below(4) {
                file(rng, &mut theirs, (10 * at + index) as u32);
                files += 1;
            }
            (0..rng.below(6)).for_each(|_| loose(rng, &mut theirs, true));
            send(rng, content, theirs.take())?;
            content.drain();
        }
        payload.close(if rng.chance(95) { files as u32 } else { rng.next() as u32 });
        (0..rng.below(8)).for_each(|_| payload.op(&post(rng)));
        if rng.chance(3) {
            // Of the wrong list.
            payload.op(&pre(rng));
        }
        payload.commit();
        send(rng, &mut control, payload.take())?;
        control.drain();
    }
    if rng.chance(30) {
        control.build(Payload::bye)?;
    }
    Ok(())
}

/// What a local user, or an earlier session, may have put into the module.
fn plant(rng: &mut Rng, evil: &Path) {
    let (at, to) =
        rng.pick(&[("link", "../canary"), ("abs", "/"), ("a", "../canary"), (".ringsync-staging", "../canary"), ("b", "../../")]);
    let at = evil.join(at);
    let _ = fs::remove_file(&at);
    if rng.chance(20) {
        let _ = fs::remove_dir_all(&at);
    }
    let _ = symlink(to, &at);
}

/// A connection that breaks the rules at once.
fn stranger(rng: &mut Rng, address: SocketAddr) -> io::Result<()> {
    let mut raw = Raw::connect(address)?;
    match rng.below(6) {
        0 => raw.stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?,
        1 => raw.stream.write_all(b"@RSYNCD: 31.0\n")?,
        2 => {
            // A frame of the largest length that never comes.
            raw.stream.write_all(b"\xf5RS\x00\x00\x00\x10\x00\x00\x00\x10\x00\x00\x00\x00\x00abc")?;
        }
        3 => {
            let all: Vec<_> = document::blocks("payload").into_values().collect();
            let any = rng.below(all.len());
            send(rng, &mut raw, all[any].bytes.clone())?;
        }
        4 => {
            let mut bytes = document::blocks("payload")["hello-control"].bytes.clone();
            let at = rng.below(bytes.len());
            bytes[at] = rng.next() as u8;
            raw.say(bytes)?;
        }
        _ => {
            let bytes: Vec<u8> = (0..rng.below(500)).map(|_| rng.next() as u8).collect();
            raw.stream.write_all(&[&b"\xf5RS"[..], &bytes].concat())?;
        }
    }
    raw.drain();
    Ok(())
}

/// Connections that are silent, or say one byte at a time; more than the server lets wait.
fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let mut held: Vec<TcpStream> = (0..HANDSHAKES_MAX + 80).filter_map(|_| TcpStream::connect(address).ok()).collect();
    trickle(&mut held, 0);
    held
}

fn trickle(held: &mut [TcpStream], at: usize) {
    let hello = b"\xf5RS\x00\x20\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00";
    for stream in held.iter_mut().step_by(2) {
        // Those that were closed do not matter.
        let _ = stream.write_all(&hello[at % hello.len()..][..1]);
    }
}

/// Little that becomes much: payloads that decompress to 250 times their length, before and after a Welcome, whose answers nobody reads.
fn bombs(address: SocketAddr) -> Vec<Raw> {
    let pings = vec![0x0d; FRAME_PAYLOAD_BYTES_MAX];
    let mut packet = Framer::new(true).frame(pings);
    let frame = [&packet.head[..], &std::mem::take(&mut packet.body)].concat();
    let many = frame.repeat(24);
    let mut held = Vec::new();
    for at in 0..24 {
        let Ok(mut raw) = Raw::connect(address) else { continue };
        if at >= 18 {
            let Ok((control, token)) = Raw::control(address, &format!("bomb{at}"), 1) else { continue };
            held.push(control);
            let Ok(content) = Raw::content(address, token, 0) else { continue };
            raw = content;
        }
        for _ in 0..40 {
            if raw.stream.write_all(&many).is_err() {
                break;
            }
        }
        held.push(raw);
    }
    // A manifest without end, asked for in one frame.
    if let Ok((mut control, _)) = Raw::control(address, "bomb-list", 0) {
        let _ = control.say(b"\x02\x00".repeat(FRAME_PAYLOAD_BYTES_MAX / 2));
        held.push(control);
    }
    held
}

/// Patches that are begun and not ended, with copies without end; and numbers beyond their limits.
fn counts(address: SocketAddr) -> io::Result<Vec<Raw>> {
    let (mut control, token) = Raw::control(address, "counts", 2)?;
    let base = Spot { dir: RelPath::root(), name: Name::new(b"base").unwrap().to_owned() };
    let meta = Meta { kind: Kind::File, ..meta(&mut Rng::new(1), Kind::File) };
    control.build(|p| {
        p.begin(1);
        p.open();
        p.put(0, &base, &meta, 4096, true).fill(7);
        p.close(1);
        p.commit();
    })?;
    control.answer(|message| matches!(message, Message::Ack { .. }))?;
    let mut content = Raw::content(address, token, 0)?;
    // 4096 bytes in blocks of 4096, to 2^32 bytes of them; each step copies the one block.
    let shapes = [0x80, 0x20, 12, 0x80, 0x80, 0x80, 0x80, 0x10, 13];
    let copies: Vec<u8> = [&[0][..], &[0x80, 0x40, 0]].concat().into_iter().chain([0x80, 0x40, 0x80, 0x40].repeat(100_000)).collect();
    for first in (0..3000).step_by(500) {
        content.build(|p| (first..first + 500).for_each(|id| p.patch(id, &base, &shapes)))?;
    }
    for id in 0..20 {
        // The server may end the session, or be behind.
        if content.build(|p| p.steps(id, &copies)).is_err() {
            break;
        }
    }
    for count in [CYCLE_OPS_MAX as u32 + 1, u32::MAX] {
        let (mut other, _) = Raw::control(address, "more", 0)?;
        other.build(|p| {
            p.begin(u64::MAX);
            p.open();
            p.close(count);
        })?;
        other.drain();
    }
    for threads in [257, u16::MAX] {
        assert!(Raw::control(address, "more", threads).is_err(), "{threads} content connections are too many");
    }
    Ok(vec![control, content])
}

/// A path as deep as the protocol lets it be, made and listed and taken away again.
fn deep(address: SocketAddr) -> io::Result<()> {
    let (mut control, _) = Raw::control(address, "deep", 0)?;
    let dir_meta = Meta { mode: 0o755, kind: Kind::Dir, ..meta(&mut Rng::new(2), Kind::Dir) };
    let mut path = RelPath::root();
    for cycle in 0..20 {
        let mut payload = Payload::new();
        payload.begin(cycle);
        for _ in 0..100 {
            let name = Name::new(b"d").unwrap();
            payload.op(&Op::Mkdir { at: Spot { dir: path.clone(), name: name.to_owned() }, meta: dir_meta });
            let side = Name::new(b"e").unwrap().to_owned();
            payload.op(&Op::Mkdir { at: Spot { dir: path.clone(), name: side }, meta: dir_meta });
            path = path.join(name).unwrap();
        }
        payload.open();
        payload.close(0);
        payload.commit();
        // It may take longer than the others.
        control.stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        control.say(payload.take())?;
        control.drain();
    }
    control.build(|p| p.list(&RelPath::root()))?;
    control.drain();
    Ok(())
}

/// An honest client.
fn newcomer(target: &Target, path: &str) {
    let other = target.place.beside("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("g"), "x").unwrap();
    let url = format!("ringsync://{}/m/{path}", target.address);
    Program::start(As::Us, &["mirror", "--once", "-n", "2", other.to_str().unwrap(), &url]).ends_with(0);
}

#[test]
fn silent_connections_keep_nobody_out() {
    let _alone = heavy();
    let mut target = Target::start();
    let address = target.address;
    let mut held = silent(address);
    target.holds("silent connections");
    // An honest client that comes while they wait is let in.
    trickle(&mut held, 1);
    newcomer(&target, "newcomer");
    drop(held);
    target.ends();
}

#[test]
fn payloads_that_decompress_to_much_take_no_memory() {
    let _alone = heavy();
    let mut target = Target::start();
    let held = bombs(target.address);
    target.holds("payloads that decompress");
    // Nor does who takes no answer keep its directory: the server is blocked in sending to it.
    newcomer(&target, "bomb-list");
    drop(held);
    target.ends();
}

#[test]
fn counts_beyond_their_limits_take_neither_memory_nor_descriptors() {
    let _alone = heavy();
    let mut target = Target::start();
    let held = counts(target.address).expect("a client that is let in");
    target.holds("counts beyond their limits");
    let open = descriptors(target.program.pid());
    println!("{open} descriptors, {} at rest", target.at_rest);
    assert!(open < target.at_rest + 2 * PATCHES_MAX + 50, "patches hold {open} descriptors");
    drop(held);
    deep(target.address).expect("a client that is let in");
    target.holds("a deep path");
    target.ends();
}

#[test]
fn a_server_outlives_hostile_clients() {
    let _alone = heavy();
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut target = Target::start();
    let (address, evil) = (target.address, target.evil());
    let end = Instant::now() + Duration::from_secs(number("RINGSYNC_HOSTILE_S", 6));
    let (mut rounds, mut checked) = (0, Instant::now());
    while Instant::now() < end {
        // What a server refuses or closes is its right.
        let _ = if rng.chance(30) { stranger(&mut rng, address) } else { session(&mut rng, address, &evil) };
        rounds += 1;
        if checked.elapsed() > Duration::from_secs(2) {
            target.holds(&format!("round {rounds}"));
            checked = Instant::now();
        }
    }
    target.holds("all rounds");
    println!("{rounds} rounds");
    target.ends();
}
