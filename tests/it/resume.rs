//! Large files over connections that break: only the rest is sent, whatever broke; what was kept is never trusted, and does not stay. And they delay
//! no small file, and take no memory.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ringsync::apply::{Found, Target};
use ringsync::delta::code::put_shape;
use ringsync::delta::{Digester, Shape};
use ringsync::limits::RESUME_BYTES_MIN;
use ringsync::model::meta::Meta;
use ringsync::model::op::Op;

use crate::compare::{Rules, wait_equal};
use crate::control::{socket, until_status};
use crate::fixture::{Mirror, file_meta, spot};
use crate::place::{Place, deadline, heavy, number, until};
use crate::program::{As, Program, Server};
use crate::proxy::Proxy;

const MIB: u64 = 1 << 20;
/// What may be on its way, and is sent again: queues and sockets' buffers of both ends and of the proxy.
const SLACK: u64 = 24 * MIB;

/// The length of large files: enough that a part of one is told from all of it.
fn large() -> u64 {
    number("RINGSYNC_LARGE_MB", 192) * MIB
}

/// A file of bytes that do not shrink.
fn fill(path: &Path, len: u64) {
    let file = File::create(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut piece = vec![0u8; MIB as usize];
    for at in (0..len).step_by(MIB as usize) {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all_at(&piece, at).unwrap();
    }
}

/// A server, a proxy before it, and a sender that goes through it.
struct Broken {
    place: Place,
    server: Server,
    proxy: Proxy,
    sender: Program,
}

impl Broken {
    /// With a large file of which half can be carried.
    fn half(threads: &str) -> Self {
        let place = Place::new();
        fill(&place.src.join("large"), large());
        let server = Server::start(As::Us, &place.dst);
        let proxy = Proxy::start(server.port(), large() / 2);
        let at = socket(&place);
        let at = at.to_str().unwrap();
        let sender = Program::start(As::Us, &["mirror", "-v", "--control", at, "-n", threads, place.src.to_str().unwrap(), &proxy.url()]);
        let mut broken = Self { place, server, proxy, sender };
        assert!(until(deadline(), || broken.proxy.is_held()), "half of it is never carried: {}", broken.sender.stderr());
        // The receiver may be far behind with what was carried: its socket takes tens of megabytes.
        broken.pause();
        broken
    }

    /// Gives both ends the time that they need to notice, ask and answer, on a machine however busy: until all their threads sleep for a while, at most some
    /// seconds. What is carried is compared to what was done, and not to how fast.
    fn pause(&mut self) {
        let mut asleep = 0;
        until(Duration::from_secs(5), || {
            let sleep = self.sender.sleeps() && self.server.program().sleeps();
            asleep = if sleep { asleep + 1 } else { 0 };
            asleep == 10
        });
    }

    fn settle(&mut self) {
        let sender = RefCell::new(&mut self.sender);
        let equal = wait_equal(&self.place.src, &self.place.dst, &Rules::full(), deadline(), || sender.borrow_mut().runs());
        equal.unwrap_or_else(|differences| panic!("not equal:\n{differences}\n{}", self.sender.stderr()));
        // What is not needed any more goes once all is equal.
        let clean = until(deadline(), || !self.place.dst.join(".ringsync-staging").exists());
        assert!(clean, "something was left in staging");
    }

    /// Demands that about half of the file was sent again, or all of it.
    fn carried(&self, before: u64, half: bool) {
        let again = self.proxy.carried() - before;
        let most = if half { large() / 2 + SLACK } else { large() + SLACK };
        assert!(again <= most && again >= large() / 2 - SLACK && (half || again >= large()), "{again} bytes were sent again");
        let told = self.sender.stderr().contains("is not sent again");
        assert_eq!(told, half, "{}", self.sender.stderr());
    }
}

#[test]
fn only_the_rest_is_sent_after_a_lost_connection() {
    let _one = heavy();
    let mut broken = Broken::half("2");
    let before = broken.proxy.carried();
    broken.proxy.cut();
    broken.proxy.allow(u64::MAX);
    broken.settle();
    broken.carried(before, true);
    broken.sender.terminate();
}

/// A file that waits for an answer does not wait for the large ones before it.
#[test]
fn answers_are_heard_between_the_pieces_of_a_large_file() {
    let _one = heavy();
    let mut broken = Broken::half("1");
    let other = RESUME_BYTES_MIN + MIB;
    // All of it at once: a part would be sent first.
    fill(&broken.place.beside("other"), other);
    fs::rename(broken.place.beside("other"), broken.place.src.join("other")).unwrap();
    until_status(&socket(&broken.place), "aware of it", |status| status["receivers"][0]["bytes_found"].as_u64() >= Some(large() + other));
    let before = broken.proxy.carried();
    let arrives = broken.place.dst.join("other");
    let there = || fs::metadata(&arrives).is_ok_and(|stat| stat.len() == other);
    while !there() {
        let carried = broken.proxy.carried() - before;
        assert!(carried <= large() / 2 - SLACK, "it waits: {}", broken.sender.stderr());
        broken.proxy.allow(MIB);
        assert!(until(deadline(), || broken.proxy.is_held() || there()));
        broken.pause();
    }
    assert!(!broken.place.dst.join("large").exists());
    broken.proxy.allow(u64::MAX);
    broken.settle();
    broken.sender.terminate();
}

#[test]
fn only_the_rest_is_sent_to_a_receiver_that_was_killed() {
    let _one = heavy();
    let mut broken = Broken::half("1");
    let before = broken.proxy.carried();
    broken.server.kill_and_restart();
    broken.proxy.cut();
    broken.proxy.allow(u64::MAX);
    broken.settle();
    broken.carried(before, true);
    broken.sender.terminate();
}

#[test]
fn only_the_rest_is_sent_by_a_sender_that_was_killed() {
    let _one = heavy();
    let mut broken = Broken::half("1");
    let before = broken.proxy.carried();
    broken.sender.signal(nix::sys::signal::Signal::SIGKILL);
    broken.proxy.cut();
    broken.proxy.allow(u64::MAX);
    broken.sender = Program::start(As::Us, &["mirror", "-v", broken.place.src.to_str().unwrap(), &broken.proxy.url()]);
    broken.settle();
    broken.carried(before, true);
    broken.sender.terminate();
}

/// The file is another one meanwhile, as its times say; or though they say that it is not.
#[test]
fn another_file_is_sent_whole() {
    let _one = heavy();
    for hidden in [false, true] {
        let mut broken = Broken::half("1");
        broken.sender.signal(nix::sys::signal::Signal::SIGKILL);
        let before = broken.proxy.carried();
        broken.proxy.cut();
        let path = broken.place.src.join("large");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let was = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"another", 1000).unwrap();
        if hidden {
            file.set_modified(was).unwrap();
        }
        broken.proxy.allow(u64::MAX);
        broken.sender = Program::start(As::Us, &["mirror", "-v", broken.place.src.to_str().unwrap(), &broken.proxy.url()]);
        broken.settle();
        broken.carried(before, false);
        broken.sender.terminate();
    }
}

/// While nothing of a large file gets through, small ones do; where they share its connection, little of it comes before them.
#[test]
fn a_large_file_delays_no_small_one() {
    let _one = heavy();
    let mut broken = Broken::half("1");
    let (src, dst) = (broken.place.src.clone(), broken.place.dst.clone());
    let came = |name: &str| fs::read(dst.join(name)).is_ok_and(|got| got == [7; 4096]);
    for number in 0..5 {
        let name = format!("small-{number}");
        fs::write(src.join(&name), [7; 4096]).unwrap();
        assert!(until(deadline(), || came(&name)), "{name} waits for the large file");
    }
    let before = broken.proxy.carried();
    (0..200).for_each(|number| fs::write(src.join(format!("many-{number}")), [7; 4096]).unwrap());
    let all = || (0..200).all(|number| came(&format!("many-{number}")));
    while !all() {
        broken.proxy.allow(MIB);
        assert!(until(deadline(), || broken.proxy.is_held() || all()));
        broken.pause();
        let carried = broken.proxy.carried() - before;
        assert!(carried <= SLACK, "{carried} bytes came before 200 small files");
    }
    assert!(!dst.join("large").exists());
    broken.proxy.allow(u64::MAX);
    broken.settle();
    for pid in [broken.sender.pid(), broken.server.program().pid()] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap();
        assert!(peak < 128 * 1024, "{peak} KiB of memory at the most");
    }
    broken.sender.terminate();
}

/// A large file that is written to all the time: it comes again and again, in ever longer intervals, and each reading that counts is placed.
#[test]
fn a_large_file_that_never_rests_comes_nevertheless() {
    let _one = heavy();
    let place = Place::new();
    let path = place.src.join("large");
    fill(&path, 24 * MIB);
    let server = Server::start(As::Us, &place.dst);
    let proxy = Proxy::start(server.port(), u64::MAX);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let sender = Program::start(As::Us, &["mirror", "-v", place.src.to_str().unwrap(), &proxy.url()]);
    let mut writes = 0u64;
    let arrived = until(deadline(), || {
        // Between any two looks there are writes, and so in any reading.
        for _ in 0..20 {
            writes += 1;
            file.write_all_at(&writes.to_le_bytes(), writes * 4096 % (24 * MIB)).unwrap();
        }
        place.dst.join("large").exists()
    });
    assert!(arrived, "it never comes: {}", sender.stderr());
    assert!(proxy.carried() < 24 * MIB * 10, "it was sent without end: {} bytes", proxy.carried());
    drop(file);
    let sender = RefCell::new(sender);
    let equal = wait_equal(&place.src, &place.dst, &Rules::full(), deadline(), || sender.borrow_mut().runs());
    equal.unwrap_or_else(|differences| panic!("at rest it is not equal:\n{differences}"));
    sender.into_inner().terminate();
}

fn key(byte: u8) -> [u8; 16] {
    [byte; 16]
}

fn name_of(byte: u8) -> String {
    format!(".ringsync-staging/k{}", format!("{byte:02x}").repeat(16))
}

/// What is there of `bytes`, as the target has to say it.
fn found(bytes: &[u8]) -> Found {
    let shape = Shape::of(bytes.len() as u64).unwrap();
    let mut digester = Digester::new(shape);
    digester.update(bytes).unwrap();
    let mut out = Vec::new();
    put_shape(&mut out, shape);
    Found { shape: out, digest: digester.finish().unwrap().0 }
}

/// Stages a part of a named file in one session, which then breaks or ends in good order.
fn leave(m: &mut Mirror, key: [u8; 16], data: &[u8], broken: bool) {
    let root = ringsync::apply::Root::open(&m.path, false).unwrap();
    let mut target = ringsync::apply::FsTarget::new(root.clone());
    assert!(!target.resume(1, &key, 1 << 40));
    target.stage(1, 0, data).unwrap();
    drop(target);
    root.end_session(broken);
}

#[test]
fn parts_are_kept_when_a_session_breaks_and_taken_up_once() {
    let mut m = Mirror::new();
    let data = vec![3; RESUME_BYTES_MIN as usize];
    leave(&mut m, key(1), &data, false);
    leave(&mut m, key(2), &data[1..], true);
    assert_eq!(m.names(), [""; 0], "it is in good order, or too little");
    leave(&mut m, key(3), &data, true);
    assert_eq!(m.names(), [".ringsync-staging", &name_of(3)]);

    m.reopen();
    assert!(m.list().is_empty(), "it is not listed");
    assert!(m.target.resume(5, &key(3), 1 << 40));
    assert!(!m.target.resume(5, &key(3), 1 << 40) && !m.target.resume(6, &key(3), 1 << 40), "one number, one key");
    let (id, what) = loop {
        assert!(m.target.has_work());
        if let Some(ended) = m.target.found() {
            break ended;
        }
    };
    assert_eq!((id, what), (5, found(&data)));
    m.target.stage(5, RESUME_BYTES_MIN, b"more").unwrap();
    let size = RESUME_BYTES_MIN + 4;
    m.ok(&Op::Place { at: spot("x"), meta: Meta { size, ..file_meta(b"") }, stage: 5 });
    m.target.end_cycle();
    assert_eq!((m.names(), m.stat("x").len()), (vec!["x".to_owned()], size));
}

#[test]
fn what_lies_in_the_way_is_not_taken_up() {
    let mut m = Mirror::new();
    let data = vec![3; RESUME_BYTES_MIN as usize];
    leave(&mut m, key(1), &data, true);
    // Longer than the file; a link to elsewhere; another name of a file of the mirror.
    fs::write(m.at("mirrored"), &data).unwrap();
    symlink(m.at("mirrored"), m.at(&name_of(2))).unwrap();
    fs::hard_link(m.at("mirrored"), m.at(&name_of(3))).unwrap();
    m.reopen();
    for (id, byte) in [(1, 1), (2, 2), (3, 3)] {
        assert!(!m.target.resume(id, &key(byte), 1000), "{byte}");
        m.target.stage(id, 0, b"new").unwrap();
    }
    assert!(fs::read(m.at("mirrored")).unwrap() == data, "it was written through");
    (1..4).for_each(|id| m.target.drop_stage(id));
    m.target.end_cycle();
    assert_eq!(m.names(), ["mirrored"]);
}

#[test]
fn parts_do_not_stay_for_good() {
    let mut m = Mirror::new();
    let data = vec![3; RESUME_BYTES_MIN as usize];
    for byte in [1, 2, 3] {
        leave(&mut m, key(byte), &data, true);
    }
    fs::write(m.at(".ringsync-staging/f7"), b"no part").unwrap();
    let old = File::options().write(true).open(m.at(&name_of(1))).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
    m.reopen();
    m.list();
    assert_eq!(m.names(), [".ringsync-staging", &name_of(2), &name_of(3)], "what is old, or no part, goes with the first listing");
    assert!(m.target.resume(1, &key(2), 1 << 40));
    m.target.drop_stage(0);
    assert_eq!(m.names(), [".ringsync-staging", &name_of(2)], "what is not wanted goes when it is said");
    m.target.drop_stage(1);
    assert_eq!(m.names(), [""; 0]);
    assert!(!m.target.has_work());
}
