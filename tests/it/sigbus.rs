//! Files that are cut, extended and replaced while they are mapped, hashed and sent, or compared, on either side: no program dies of SIGBUS, and all ends equal.
//!
//! `RINGSYNC_SCENE_S` is how long each test goes on, in seconds.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::place::{Place, deadline, heavy, number, seed, until};
use crate::program::{As, Mirror, Program, Server, Way, once};
use crate::rng::Rng;

/// Mapped inside a frame, mapped piece by piece, and with parts that are kept for a lost connection.
const SIZES: [u64; 8] = [130_000, 200_000, 400_000, 524_288, 700_000, 3_000_000, 9_000_000, 25_000_000];

fn length() -> Duration {
    Duration::from_secs(number("RINGSYNC_SCENE_S", 4))
}

fn random(rng: &mut Rng, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    bytes.chunks_mut(8).for_each(|word| word.copy_from_slice(&rng.next().to_le_bytes()[..word.len()]));
    bytes
}

/// A file that may just have been removed.
fn open(path: &Path) -> Option<File> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// Does one thing to one of the files in `dir`; true if it is shorter by it.
fn hurt(rng: &mut Rng, dir: &Path) -> bool {
    let which = rng.below(SIZES.len());
    let (path, size) = (dir.join(which.to_string()), SIZES[which]);
    match rng.below(100) {
        // Cut, and at once as long as before.
        0..50 => {
            let Some(file) = open(&path) else { return false };
            let at = rng.next() % size;
            file.set_len(at).unwrap();
            if rng.chance(80) {
                file.set_len(size).unwrap();
            }
            true
        }
        50..60 => open(&path).is_some_and(|file| {
            file.set_len(0).unwrap();
            let some = 1 + rng.next() % 200_000;
            file.write_all_at(&random(rng, some), 0).unwrap();
            true
        }),
        60..75 => {
            let Some(file) = open(&path) else { return false };
            let at = rng.next() % size;
            file.write_all_at(&random(rng, 5000), at).unwrap();
            false
        }
        75..80 => {
            if let Some(file) = open(&path) {
                file.set_len(size + rng.next() % 1_000_000).unwrap();
            }
            false
        }
        80..92 => {
            let temporary = dir.join(format!("{which}.new"));
            fs::write(&temporary, random(rng, size)).unwrap();
            // Its predecessor may be mapped: it is cut without a name.
            let before = open(&path);
            fs::rename(temporary, &path).unwrap();
            before.is_some_and(|file| file.set_len(1).is_ok())
        }
        92..95 => {
            let before = open(&path);
            let _ = fs::remove_file(&path);
            before.is_some_and(|file| file.set_len(1).is_ok())
        }
        _ => {
            fs::write(&path, random(rng, size)).unwrap();
            true
        }
    }
}

fn fill(rng: &mut Rng, dir: &Path) {
    for (n, size) in SIZES.iter().enumerate() {
        fs::write(dir.join(n.to_string()), random(rng, *size)).unwrap();
    }
}

/// Cuts what lies in `dir` without a rest, in a thread of its own, while `act` goes on. Returns how often something was cut.
fn cutting(first: u64, dir: &Path, strike: fn(&mut Rng, &Path) -> bool, act: impl FnOnce()) -> u64 {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (over, cuts) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(first);
            while !over.load(Ordering::Relaxed) {
                cuts.fetch_add(u64::from(strike(&mut rng, dir)), Ordering::Relaxed);
                // Most of the time is the program's, which shall be caught while it reads.
                std::thread::park_timeout(Duration::from_micros(rng.below(3000) as u64));
            }
        });
        let _stop = Stop(&over);
        act();
    });
    cuts.into_inner()
}

/// Somebody cuts and spoils what the mirror has; that he makes nothing, the mirror does.
fn spoil(rng: &mut Rng, dir: &Path) -> bool {
    let which = rng.below(SIZES.len());
    let Some(file) = open(&dir.join(which.to_string())) else { return false };
    let at = rng.next() % SIZES[which];
    if rng.chance(60) {
        file.set_len(at).unwrap();
        if rng.chance(70) {
            file.set_len(SIZES[which]).unwrap();
        }
        return true;
    }
    file.write_all_at(b"spoilt", at).unwrap();
    false
}

/// For a time; then all rests, and is equal; and again.
fn live(way: Way) {
    let _one = heavy();
    let first = seed();
    println!("RINGSYNC_SEED={first}");
    let mut rng = Rng::new(first);
    let place = Place::new();
    fill(&mut rng, &place.src);
    let mut mirror = Mirror::start(As::Us, way, &place, &[]);
    mirror.settle("the first sync");
    let (begun, mut cuts) = (Instant::now(), 0);
    while begun.elapsed() < length() {
        let round = Instant::now();
        cuts += cutting(rng.next(), &place.src, hurt, || {
            until(Duration::from_secs(2), || round.elapsed() > Duration::from_millis(1900) || !mirror.gone().is_empty());
        });
        mirror.settle(&format!("RINGSYNC_SEED={first}, {way:?}, after {cuts} cuts"));
    }
    println!("{way:?}: {cuts} cuts");
    assert!(mirror.server.as_mut().is_none_or(|server| server.program().runs()), "the server has ended");
    mirror.terminate();
}

#[test]
fn files_are_cut_while_they_are_sent_local() {
    live(Way::Local);
}

#[test]
fn files_are_cut_while_they_are_sent_tcp() {
    live(Way::Tcp);
}

/// Both sides are cut, while each file is compared again and again: bases of deltas, sums and signatures are read from what somebody cuts.
fn scrubbed(way: Way) {
    let _one = heavy();
    let first = seed();
    println!("RINGSYNC_SEED={first}");
    let mut rng = Rng::new(first);
    let place = Place::new();
    fill(&mut rng, &place.src);
    let mut mirror = Mirror::start(As::Us, way, &place, &["--scrub-interval", "1s"]);
    mirror.settle("the first sync");
    let begun = Instant::now();
    let (mut cuts, mut spoils) = (0, 0);
    while begun.elapsed() < length() {
        let round = Instant::now();
        spoils += cutting(rng.next(), &place.dst, spoil, || {
            // With rests, or the scrub would never come to look.
            until(Duration::from_secs(2), || {
                cuts += u64::from(rng.chance(20) && hurt(&mut rng, &place.src));
                round.elapsed() > Duration::from_millis(1900) || !mirror.gone().is_empty()
            });
        });
        mirror.settle(&format!("RINGSYNC_SEED={first}, {way:?}, after {cuts} cuts and {spoils} of the mirror"));
    }
    println!("{way:?}: {cuts} cuts, {spoils} of the mirror, {} scrubs", mirror.stderr().matches("the mirror was scrubbed").count());
    assert!(mirror.server.as_mut().is_none_or(|server| server.program().runs()), "the server has ended");
    mirror.terminate();
}

#[test]
fn files_are_cut_while_they_are_scrubbed_local() {
    scrubbed(Way::Local);
}

#[test]
fn files_are_cut_while_they_are_scrubbed_tcp() {
    scrubbed(Way::Tcp);
}

#[test]
fn files_are_cut_while_they_are_verified() {
    let _one = heavy();
    for way in [Way::Local, Way::Tcp] {
        let first = seed();
        println!("RINGSYNC_SEED={first}");
        let mut rng = Rng::new(first);
        let place = Place::new();
        fill(&mut rng, &place.src);
        once(As::Us, Way::Local, &place, &[], 0);
        let mut server = (way == Way::Tcp).then(|| Server::start(As::Us, &place.dst));
        let dest = server.as_ref().map_or_else(|| place.dst.to_str().unwrap().to_owned(), Server::url);
        let verify = |args: &[&str]| {
            let mut program = Program::start(As::Us, &[&["verify"], args, &[place.src.to_str().unwrap(), &dest]].concat());
            let code = program.end().code();
            assert!(code == Some(0) || code == Some(23), "RINGSYNC_SEED={first}, {way:?}: {code:?}:\n{}", program.stderr());
            code
        };
        let (begun, mut runs) = (Instant::now(), 0);
        let cuts = cutting(rng.next(), &place.src, hurt, || {
            cutting(rng.next(), &place.dst, spoil, || {
                while begun.elapsed() < length() / 2 {
                    verify(if runs % 3 == 2 { &["--repair"] } else { &[] });
                    runs += 1;
                }
            });
        });
        println!("{way:?}: {runs} verifications, {cuts} cuts");
        // It tells the truth of what rests.
        let rests = until(deadline(), || verify(&["--repair"]) == Some(0));
        assert!(rests && verify(&[]) == Some(0), "RINGSYNC_SEED={first}, {way:?}");
        let differences = crate::compare::compare(&place.src, &place.dst, &crate::compare::Rules::full());
        assert!(differences.is_empty(), "RINGSYNC_SEED={first}, {way:?}: {differences}");
        assert!(server.as_mut().is_none_or(|server| server.program().runs()), "the server has ended");
    }
}
