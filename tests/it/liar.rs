//! A receiver that lies, against the real sender: it ends with a clear code or comes back later and later; it never spins, never fills memory, and always ends when told to.
//!
//! `RINGSYNC_HOSTILE_S` says how long the random part goes on, `RINGSYNC_SEED` repeats a run.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringsync::error::{Error, Exit};
use ringsync::limits::{FRAME_PAYLOAD_BYTES_MAX, LINK_NAMES_MAX};
use ringsync::model::meta::{Kind, Meta};
use ringsync::model::op::{Abilities, Entry, OpError, Section};
use ringsync::model::options::{Compress, IoChoice, Options};
use ringsync::model::path::{Name, RelPath};
use ringsync::plan::Planner;
use ringsync::wire::frame::Framer;
use ringsync::wire::{Incoming, Link, Message, Messages, Payload, Role};
use ringsync::work::link::greet;

use crate::fuzz::document;
use crate::hostile::memory;
use crate::place::{Place, heavy, number, seed, until};
use crate::program::{As, Program};
use crate::rng::Rng;

/// What a lie is about. All else is answered as an honest receiver does that has an empty mirror and applies nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    /// None.
    Nothing,
    /// Something else than a Welcome.
    Noise,
    /// A Welcome to a version that nobody offered.
    Version,
    /// A Refused with this code.
    Refused(u8),
    /// A Fatal with this code, at the first cycle.
    Fatal(u8),
    /// An Ack of a cycle that was never sent, or not yet.
    EarlyAck,
    /// The second cycle is acknowledged as the first.
    WrongAck,
    /// A manifest goes on after its end.
    SecondManifest,
    /// An Entry before any Listing.
    LooseEntry,
    /// A failure without a cycle.
    LooseFailure,
    /// A failure of an operation that the cycle does not have.
    WrongFailure,
    /// One failure told twice.
    SameFailure,
    /// A Sealed that was not asked for, on a content connection.
    LooseSealed,
    /// A Pong that was not asked for: a sign of life, and no lie.
    LoosePong,
    /// A client's message.
    Client,
    /// Absurd entries: one name many times as everything, directories within files and within themselves, one object with all names, mounts everywhere.
    Absurd,
    /// Every operation fails.
    Failing,
    /// Entries with new names without end.
    Endless,
    /// The same entries without end, faster than they can be taken.
    Flood,
    /// Nothing after the Welcome.
    Silence,
    /// Random messages, from this seed.
    Random(u64),
}

/// A server that tells one lie to whoever connects.
struct Liar {
    port: u16,
    /// Control connections so far.
    sessions: Arc<AtomicUsize>,
}

impl Liar {
    /// Runs until the test's process ends: threads wait for whoever connects.
    fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sessions = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sessions);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&count);
                std::thread::spawn(move || {
                    let raw = stream.try_clone().unwrap();
                    let link = Link::tcp(stream, IoChoice::Epoll, Compress::None, None).unwrap();
                    // A sender that hangs up is what is waited for.
                    let _ = Connection { link, raw, lie, cycle: 0, cycles: 0 }.serve(&count);
                });
            }
        });
        Self { port, sessions }
    }

    fn url(&self) -> String {
        format!("ringsync://127.0.0.1:{}/m", self.port)
    }
}

struct Connection {
    link: Link,
    /// The same connection, for what no link sends.
    raw: TcpStream,
    lie: Lie,
    cycle: u64,
    cycles: u64,
}

fn entry_of(kind: Kind, name: &[u8], link_group: u64) -> Entry {
    let vectors = document::blocks("payload");
    let Some(Ok(Message::Entry(entry))) = Messages::new(&vectors["entry-file"].bytes).next() else { unreachable!("it is an entry") };
    let target = (kind == Kind::Symlink).then(|| [b't'; 4000].into());
    Entry { name: Name::new(name).unwrap().to_owned(), meta: Meta { kind, ..entry.meta }, target, link_group }
}

fn dir_meta() -> Meta {
    entry_of(Kind::Dir, b"d", 0).meta
}

impl Connection {
    fn say(&mut self, build: impl FnOnce(&mut Payload)) -> ringsync::error::Result<()> {
        let mut payload = Payload::new();
        build(&mut payload);
        if payload.is_empty() {
            return Ok(());
        }
        self.link.send(payload.take())?;
        self.link.flush()
    }

    fn serve(mut self, count: &AtomicUsize) -> ringsync::error::Result<()> {
        loop {
            let frame = match self.link.wait(None)? {
                Incoming::Frame(frame) => frame,
                Incoming::Closed => return self.link.close(Duration::from_secs(1)),
                Incoming::Woken | Incoming::TimedOut => continue,
            };
            for message in Messages::new(&frame) {
                self.answer(message?, count)?;
            }
        }
    }

    fn answer(&mut self, message: Message<'_>, count: &AtomicUsize) -> ringsync::error::Result<()> {
        let lie = self.lie;
        match message {
            Message::Hello(hello) => {
                let is_control = matches!(hello.role, Role::Control { .. });
                if is_control {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                self.hello(is_control)
            }
            _ if lie == Lie::Silence => Ok(()),
            Message::List { .. } => self.list(),
            Message::Begin { cycle } => {
                (self.cycle, self.cycles) = (cycle, self.cycles + 1);
                match lie {
                    Lie::Fatal(code) => self.say(|p| p.fatal(code, "a reason")),
                    Lie::WrongFailure => self.say(|p| p.failed(&OpError { section: Section::Files, index: 4_000_000, errno: 5 })),
                    Lie::WrongAck => self.say(|p| p.ack(cycle + 1)),
                    _ => Ok(()),
                }
            }
            Message::Commit => {
                let cycle = self.cycle;
                self.say(|p| {
                    if lie == Lie::Failing {
                        p.failed(&OpError { section: Section::Files, index: 0, errno: 28 });
                    }
                    if lie == Lie::SameFailure {
                        (0..2).for_each(|_| p.failed(&OpError { section: Section::Files, index: 0, errno: 5 }));
                    }
                    p.ack(cycle);
                })
            }
            Message::Ping => self.say(Payload::pong),
            Message::Seal { id, .. } => self.say(|p| p.sealed(id, 0)),
            _ => Ok(()),
        }
    }

    fn hello(&mut self, is_control: bool) -> ringsync::error::Result<()> {
        let abilities = Abilities { chown: true, mknod: true, ..Abilities::default() };
        match self.lie {
            Lie::Noise => self.say(|p| p.ack(1)),
            Lie::Version => self.say(|p| p.welcome(9, &[7; 16], abilities, false)),
            Lie::Refused(code) => self.say(|p| p.refused(code, "a reason")),
            Lie::LooseSealed if !is_control => {
                self.say(|p| p.welcome(1, &[7; 16], abilities, false))?;
                self.say(|p| p.sealed(3, 0))
            }
            _ => self.say(|p| p.welcome(1, &[7; 16], abilities, false)),
        }
    }

    fn list(&mut self) -> ringsync::error::Result<()> {
        let root = RelPath::root();
        match self.lie {
            Lie::EarlyAck => return self.say(|p| p.ack(77)),
            Lie::LooseEntry => return self.say(|p| p.entry(&entry_of(Kind::File, b"f", 0))),
            Lie::LooseFailure => return self.say(|p| p.failed(&OpError { section: Section::Pre, index: 0, errno: 5 })),
            Lie::LoosePong => self.say(Payload::pong)?,
            Lie::Client => return self.say(Payload::commit),
            // The content connections end it.
            Lie::LooseSealed => return Ok(()),
            Lie::Absurd => self.absurd()?,
            Lie::Endless => {
                self.say(|p| p.listing(&root, &dir_meta()))?;
                let mut entry = entry_of(Kind::Symlink, b"n", 0);
                for number in 0u64.. {
                    self.say(|p| {
                        for at in 0..25 {
                            entry.name = Name::new(format!("{number}-{at}").as_bytes()).unwrap().to_owned();
                            p.entry(&entry);
                        }
                    })?;
                }
            }
            Lie::Flood => {
                let mut payload = Payload::new();
                payload.listing(&root, &dir_meta());
                while payload.len() < FRAME_PAYLOAD_BYTES_MAX - 5000 {
                    payload.entry(&entry_of(Kind::Symlink, b"n", 0));
                }
                let packet = Framer::new(true).frame(payload.take());
                let frames = [&packet.head[..], &packet.body].concat().repeat(50);
                self.raw.set_nonblocking(false).map_err(|e| Error::socket("flood", e))?;
                while self.raw.write_all(&frames).is_ok() {}
                return Err(Error::socket("flood", std::io::ErrorKind::BrokenPipe.into()));
            }
            Lie::Random(seed) => {
                let mut rng = Rng::new(seed);
                let all: Vec<Vec<u8>> = document::blocks("payload").into_values().map(|block| block.bytes).collect();
                for _ in 0..rng.below(30) {
                    let mut bytes = all[rng.below(all.len())].clone();
                    if rng.chance(20) {
                        let at = rng.below(bytes.len());
                        bytes[at] = rng.next() as u8;
                    }
                    // Those of a server, for the most part.
                    if bytes[0] >= 0x83 || rng.chance(2) {
                        self.link.send(bytes)?;
                    }
                }
            }
            _ => {}
        }
        let second = self.lie == Lie::SecondManifest;
        self.say(|p| {
            p.listing(&root, &dir_meta());
            p.list_end();
            if second {
                p.listing(&root, &dir_meta());
            }
        })
    }

    fn absurd(&mut self) -> ringsync::error::Result<()> {
        let deep = RelPath::new(&b"d/".repeat(30_000)[..59_999]).unwrap();
        let path = |path: &[u8]| RelPath::new(path).unwrap();
        for round in 0..40u64 {
            self.say(|p| {
                p.listing(&RelPath::root(), &dir_meta());
                for kind in [Kind::Dir, Kind::File, Kind::Symlink, Kind::Dir, Kind::Char] {
                    p.entry(&entry_of(kind, b"same", u64::from(kind != Kind::Dir)));
                    p.entry(&entry_of(Kind::Dir, b"same", 1));
                    p.listing(&path(b"same"), &dir_meta());
                    p.entry(&entry_of(kind, b"f", u64::from(kind != Kind::Dir)));
                    p.entry(&entry_of(Kind::Dir, b"same", 0));
                    p.listing(&path(b"same/same"), &dir_meta());
                    p.listing(&RelPath::root(), &dir_meta());
                }
                p.entry(&entry_of(Kind::File, b".ringsync-staging", 0));
                for name in 0..200u16 {
                    let name = [b"n", &name.to_le_bytes().map(|b| b | 0x80)[..]].concat();
                    p.entry(&entry_of(Kind::File, &name, 1));
                    p.entry(&entry_of(Kind::Dir, &[&name[..], &round.to_le_bytes().map(|b| b | 0x80)].concat(), 1));
                }
            })?;
        }
        self.say(|p| {
            p.listing(&deep, &dir_meta());
            p.entry(&entry_of(Kind::File, b"f", 1));
            p.list_error(&path(b"same"), 5);
        })
    }
}

/// A source with a few files.
fn source() -> Place {
    let place = Place::new();
    fs::create_dir(place.src.join("same")).unwrap();
    for name in ["f", "g", "same/f"] {
        fs::write(place.src.join(name), name.repeat(100)).unwrap();
    }
    place
}

fn start(place: &Place, liar: &Liar, args: &[&str]) -> Program {
    Program::start(As::Us, &[&["mirror", "-n", "2"], args, &[place.src.to_str().unwrap(), &liar.url()]].concat())
}

/// Processor time of a process.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or("").split(' ').skip(12).take(2).filter_map(|f| f.parse().ok()).collect();
    Duration::from_millis(10 * fields.iter().sum::<u64>())
}

#[test]
fn one_lie_ends_a_one_shot_run_with_a_clear_code() {
    let place = source();
    let protocol = Exit::Protocol as i32;
    for (lie, code) in [
        (Lie::Nothing, 0),
        (Lie::Noise, protocol),
        (Lie::Version, protocol),
        (Lie::Refused(5), Exit::Handshake as i32),
        (Lie::Refused(10), Exit::Socket as i32),
        (Lie::Fatal(11), Exit::File as i32),
        (Lie::Fatal(12), protocol),
        (Lie::Fatal(255), Exit::Socket as i32),
        (Lie::EarlyAck, protocol),
        (Lie::WrongAck, protocol),
        (Lie::SecondManifest, protocol),
        (Lie::LooseEntry, protocol),
        (Lie::LooseFailure, protocol),
        (Lie::WrongFailure, protocol),
        (Lie::SameFailure, protocol),
        (Lie::LooseSealed, protocol),
        (Lie::LoosePong, 0),
        (Lie::Client, protocol),
        (Lie::Failing, Exit::Partial as i32),
    ] {
        let liar = Liar::start(lie);
        let mut program = start(&place, &liar, &["--once"]);
        let status = program.end();
        assert_eq!(status.code(), Some(code), "{lie:?} ended with {status}:\n{}", program.stderr());
        assert!(code == 0 || !program.stderr().is_empty(), "{lie:?}: no reason");
        assert!(program.pid() > 0 && liar.sessions.load(Ordering::Relaxed) == 1, "{lie:?}: one session");
    }
}

#[test]
fn random_lies_end_a_run_with_a_code_of_the_table() {
    let _alone = heavy();
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    let place = source();
    let end = Instant::now() + Duration::from_secs(number("RINGSYNC_HOSTILE_S", 4));
    let mut rng = Rng::new(seed);
    let mut codes = std::collections::BTreeMap::new();
    while Instant::now() < end {
        let liar = Liar::start(Lie::Random(rng.next()));
        let status = start(&place, &liar, &["--once"]).end();
        assert!(status.code().is_some_and(|code| [0, 5, 10, 11, 12, 23, 30].contains(&code)), "ended with {status}");
        *codes.entry(status.code()).or_insert(0) += 1;
    }
    println!("{codes:?}");
}

/// A planner that waits for its manifest.
fn filling() -> Planner {
    let mut planner = Planner::new(Options::mirror(), Arc::default(), 1);
    planner.connected(Abilities { chown: true, mknod: true, ..Abilities::default() }, 0, &mut Vec::new());
    planner.listing(&RelPath::root(), &dir_meta());
    planner
}

#[test]
fn a_manifest_keeps_to_its_share_of_memory() {
    let mut planner = filling();
    let mut entry = entry_of(Kind::Symlink, b"l", 0);
    for number in 0u32.. {
        if !planner.manifest_fits(16 << 20) {
            assert!((1000..10_000).contains(&number), "{number} entries with targets of 4000 bytes");
            break;
        }
        entry.name = Name::new(number.to_string().as_bytes()).unwrap().to_owned();
        planner.entry(&entry);
        // Told again it makes no node.
        let before = planner.tree().len();
        planner.entry(&entry);
        assert_eq!(planner.tree().len(), before);
    }
    // Nor does a link whose target changes again and again.
    let before = planner.tree().memory();
    (0..20_000).for_each(|_| planner.entry(&entry));
    assert!(planner.tree().memory() <= 3 * before, "{} bytes became {}", before, planner.tree().memory());
    planner.list_end();
    assert!(planner.manifest_fits(0), "what is no manifest is not asked");
}

#[test]
fn one_object_has_no_more_names_than_can_be_searched() {
    let mut planner = filling();
    let mut entry = entry_of(Kind::File, b"f", 7);
    for number in 0..LINK_NAMES_MAX + 10 {
        entry.name = Name::new(number.to_string().as_bytes()).unwrap().to_owned();
        planner.entry(&entry);
    }
    assert_eq!(planner.tree().len() as u32, LINK_NAMES_MAX + 11);
    assert_eq!(planner.tree().of_group(1).count() as u32, LINK_NAMES_MAX);
}

#[test]
fn an_absurd_manifest_is_taken_for_what_it_says() {
    let place = source();
    let liar = Liar::start(Lie::Absurd);
    let mut program = start(&place, &liar, &["--once"]);
    let status = program.end();
    assert!(status.code().is_some_and(|code| [0, 23].contains(&code)), "ended with {status}:\n{}", program.stderr());
}

#[test]
fn a_live_mirror_comes_back_later_and_later_and_never_spins() {
    let _alone = heavy();
    let place = source();
    let liar = Liar::start(Lie::WrongAck);
    let mut program = start(&place, &liar, &[]);
    let sessions = || liar.sessions.load(Ordering::Relaxed);
    assert!(until(Duration::from_secs(60), || sessions() >= 5), "it does not come back:\n{}", program.stderr());
    // Waits of 100, 200, 400 and 800 ms lie behind it: what it used was for five sessions.
    let used = cpu(program.pid());
    assert!(used < Duration::from_secs(3), "{used:?} of processor time for {} sessions", sessions());
    assert!(program.stderr().contains("connecting again"), "{}", program.stderr());
    program.terminate();
}

#[test]
fn a_silent_receiver_costs_nothing_and_a_run_that_waits_for_it_can_be_ended() {
    let place = source();
    let liar = Liar::start(Lie::Silence);
    let mut program = start(&place, &liar, &[]);
    assert!(until(Duration::from_secs(60), || liar.sessions.load(Ordering::Relaxed) == 1));
    let before = cpu(program.pid());
    let waited = Instant::now();
    until(Duration::from_secs(1), || false);
    let used = cpu(program.pid()).saturating_sub(before);
    assert!(used <= waited.elapsed() / 2, "{used:?} of processor time in {:?}", waited.elapsed());
    program.terminate();

    // One that does not even say Welcome.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut link = Link::tcp(stream, IoChoice::Auto, Compress::None, None).unwrap();
    let error = greet(&mut link, Duration::from_millis(50), || false).expect_err("nobody answers");
    assert_eq!(error.exit(), Exit::Timeout);
}

#[test]
fn an_endless_manifest_does_not_keep_a_run_from_ending() {
    let _alone = heavy();
    let place = source();
    for lie in [Lie::Endless, Lie::Flood] {
        let liar = Liar::start(lie);
        let mut program = start(&place, &liar, &[]);
        let pid = program.pid();
        let taken = || cpu(pid) > Duration::from_secs(1) && (lie == Lie::Flood || memory(pid, "VmRSS") > 64 << 20);
        assert!(until(Duration::from_secs(60), || taken() || !program.runs()), "the manifest is taken");
        assert!(program.runs(), "{}", program.stderr());
        // What is told again and again takes no memory.
        assert!(lie == Lie::Endless || memory(pid, "VmHWM") < 256 << 20);
        program.terminate();
    }
}
