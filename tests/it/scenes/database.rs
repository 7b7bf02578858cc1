//! A database: one file that is written to in place all the time, with a log of what is to be written beside it. And SQLite, where it is installed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{length, numbers, pause, watched};
use crate::place::{Place, deadline};
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;
use crate::tools::{has, tool, tool_with};

const PAGE: usize = 4096;
const PAGES_MAX: usize = 2500;
/// Pages that a look may find half old and half new: such as were written while the sender read them. It reads a file that never rests as any reader would.
const TORN_MAX: usize = 8;

/// Word `at` of a page: its version, and a check of all. A processor's copy does not tear it, as it may tear anything longer.
fn word(seed: u64, page: u64, version: u64, at: usize) -> [u8; 8] {
    if version == 0 {
        return [0; 8];
    }
    let check = Rng::new(seed ^ page.rotate_left(44) ^ version.rotate_left(20) ^ at as u64).next();
    (check << 32 | version & 0xffff_ffff).to_le_bytes()
}

fn page(seed: u64, page: u64, version: u64) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    bytes.chunks_exact_mut(8).enumerate().for_each(|(at, to)| to.copy_from_slice(&word(seed, page, version, at)));
    bytes
}

/// The oldest and the newest version of a page's words; 0 for those that were never written.
fn versions(seed: u64, number: u64, bytes: &[u8]) -> Result<(u64, u64), String> {
    let (mut oldest, mut newest) = (u64::MAX, 0);
    for (at, found) in bytes.chunks(8).enumerate() {
        let version = found[..4].try_into().map_or(0, |version| u64::from(u32::from_le_bytes(version)));
        if found != word(seed, number, version, at) {
            return Err(format!("page {number}, word {at}: {found:02x?}"));
        }
        (oldest, newest) = (oldest.min(version), newest.max(version));
    }
    Ok((oldest, newest))
}

#[test]
fn pages_that_never_were_are_recognised() {
    let (old, new) = (page(1, 7, 3), page(1, 7, 4));
    assert_eq!(versions(1, 7, &old), Ok((3, 3)));
    assert_eq!(versions(1, 7, &[&new[..1024], &old[1024..]].concat()), Ok((3, 4)));
    assert_eq!(versions(1, 7, &[&[0; 1024], &old[1024..]].concat()), Ok((0, 3)));
    assert!(versions(1, 7, &[&new[..1001], &old[1001..]].concat()).is_err(), "torn where it cannot be");
    assert!(versions(1, 8, &old).is_err() && versions(2, 7, &old).is_err(), "another page, another file");
    assert!(versions(1, 7, &[&old[64..], &old[..64]].concat()).is_err(), "moved");
}

/// The database and its log.
struct Database {
    seed: u64,
    rng: Rng,
    file: File,
    log: File,
    pages: usize,
    logged: u64,
}

impl Database {
    fn new(dir: &Path, seed: u64, rng: Rng) -> Self {
        let open = |name| OpenOptions::new().create_new(true).read(true).write(true).open(dir.join(name)).unwrap();
        Self { seed, rng, file: open("db"), log: open("db-wal"), pages: 0, logged: 0 }
    }

    /// Page `number` in a new version, into the log and the file.
    fn write(&mut self, number: usize, version: u64) {
        let bytes = page(self.seed, number as u64, version);
        let frame = [&(number as u64).to_le_bytes()[..], &[0; 16], &bytes].concat();
        self.log.write_all_at(&frame, self.logged).unwrap();
        self.logged += frame.len() as u64;
        self.file.write_all_at(&bytes, (number * PAGE) as u64).unwrap();
        self.pages = self.pages.max(number + 1);
    }

    fn step(&mut self, last: &AtomicU64) {
        match self.rng.below(1000) {
            0..2 => {
                self.pages -= self.rng.below(self.pages / 4 + 1);
                self.file.set_len((self.pages * PAGE) as u64).unwrap();
            }
            2..4 => {
                self.pages = (self.pages + self.rng.below(200)).min(PAGES_MAX);
                self.file.set_len((self.pages * PAGE) as u64).unwrap();
            }
            // A checkpoint: the log is cut, or written anew from its start.
            4..10 => {
                self.file.sync_data().unwrap();
                if self.rng.chance(50) {
                    self.log.set_len(0).unwrap();
                }
                self.logged = 0;
            }
            10..40 => self.log.sync_data().unwrap(),
            40..50 => self.file.sync_all().unwrap(),
            50..70 if self.pages < PAGES_MAX => self.write(self.pages, last.fetch_add(1, Ordering::SeqCst) + 1),
            _ if self.pages > 0 => {
                // Some pages are written to much more often than others.
                let bound = if self.rng.chance(50) { self.pages.min(20) } else { self.pages };
                let number = self.rng.below(bound);
                self.write(number, last.fetch_add(1, Ordering::SeqCst) + 1);
            }
            _ => {}
        }
        pause(&mut self.rng, 20, 300);
    }
}

/// A file that never rests: at every look each page of its mirror is one that the file had, and none is older than it was at the look before.
fn a_database(way: Way) {
    let (seed, rng) = numbers();
    let place = Place::new();
    let last = AtomicU64::new(0);
    let mut database = Database::new(&place.src, seed, rng);
    (0..2000).for_each(|n| database.write(n, last.fetch_add(1, Ordering::SeqCst) + 1));
    let mirror = Mirror::start(As::Us, way, &place, &["-v"]);
    mirror.settle("the first sync");
    let copies = AtomicU64::new(0);
    let (mut seen, mut newest_before, mut most_torn) = (vec![0; PAGES_MAX], 0, 0);
    let look = || {
        let bytes = fs::read(place.dst.join("db")).map_err(|e| e.to_string())?;
        let written = last.load(Ordering::SeqCst);
        if bytes.len() % PAGE != 0 {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        let (mut torn, mut newest_now) = (0, 0);
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            let (oldest, newest) = versions(seed, number as u64, page)?;
            if newest > written {
                return Err(format!("page {number} is of version {newest}, the last is {written}"));
            }
            if oldest > 0 && oldest < seen[number] {
                return Err(format!("page {number} was of version {} and is of {oldest}", seen[number]));
            }
            torn += usize::from(oldest != newest);
            seen[number] = oldest.max(seen[number]);
            newest_now = newest_now.max(newest);
        }
        copies.fetch_add(u64::from(newest_now > newest_before), Ordering::Relaxed);
        (newest_before, most_torn) = (newest_now, torn.max(most_torn));
        if torn > TORN_MAX { Err(format!("{torn} of its pages are torn")) } else { Ok(()) }
    };
    let looks = watched(&format!("RINGSYNC_SEED={seed}, {way:?}"), look, || {
        let begun = Instant::now();
        // It is not starved: new copies come though it never rests.
        while begun.elapsed() < length() || copies.load(Ordering::Relaxed) < 3 {
            assert!(begun.elapsed() < length() + deadline(), "{} copies only: {}", copies.load(Ordering::Relaxed), mirror.stderr());
            database.step(&last);
        }
        mirror.settle("at rest after a long run");
    });
    println!(
        "{way:?}: {} versions, {} copies, {looks} looks, at most {most_torn} torn pages",
        last.load(Ordering::SeqCst),
        copies.into_inner()
    );
    for round in 0..8 {
        (0..database.rng.below(300)).for_each(|_| database.step(&last));
        mirror.settle(&format!("RINGSYNC_SEED={seed}, at rest, round {round}"));
    }
    mirror.terminate();
}

#[test]
fn a_database_local() {
    a_database(Way::Local);
}

#[test]
fn a_database_tcp() {
    a_database(Way::Tcp);
}

/// What one process does to the database.
fn transactions(rng: &mut Rng) -> String {
    let sync = rng.pick(&["full", "normal", "off"]);
    let mut script = format!(".timeout 20000\npragma synchronous={sync};\npragma wal_autocheckpoint=50;\n");
    for _ in 0..60 {
        script += "begin immediate;\n";
        for _ in 0..1 + rng.below(20) {
            script += &match rng.below(10) {
                0..5 => format!("insert into t(at, content) values({}, randomblob({}));\n", rng.below(1_000_000), rng.below(3000)),
                5..8 => format!("update t set content=randomblob(500) where at between {0} and {0}+5000;\n", rng.below(1_000_000)),
                _ => format!("delete from t where at between {0} and {0}+10000;\n", rng.below(1_000_000)),
            };
        }
        script += if rng.chance(85) { "commit;\n" } else { "rollback;\n" };
        match rng.below(40) {
            0 => script += "vacuum;\n",
            1 | 2 => script += "pragma wal_checkpoint(truncate);\n",
            _ => {}
        }
    }
    script
}

/// The real thing: its mirror is equal whenever it rests, and is a sound database.
#[test]
fn sqlite() {
    if !has("sqlite", "sqlite3") {
        return;
    }
    for way in [Way::Local, Way::Tcp] {
        let (seed, mut rng) = numbers();
        let place = Place::new();
        let mirror = Mirror::start(As::Us, way, &place, &[]);
        let begun = Instant::now();
        while begun.elapsed() < length() / 2 {
            let journal = rng.pick(&["wal", "wal", "wal", "delete", "truncate", "persist"]);
            let table =
                "create table if not exists t(id integer primary key, at integer, content blob); create index if not exists i on t(at);";
            tool(&place.src, "sqlite3", &["db", &format!("pragma journal_mode={journal}; {table}")]);
            // One or two at once: what they share goes with the last.
            let scripts = [transactions(&mut rng), transactions(&mut rng)];
            std::thread::scope(|scope| {
                scripts[..1 + rng.below(2)].iter().for_each(|script| {
                    scope.spawn(|| tool_with(&place.src, "sqlite3", &["db"], script));
                });
            });
            mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: SQLite at rest"));
            // To open it would change it.
            let copy = place.beside("copy");
            let _ = fs::remove_dir_all(&copy);
            fs::create_dir(&copy).unwrap();
            // The database and its journals; the receiver's own directory is there too when something was staged.
            for entry in fs::read_dir(&place.dst).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
                }
            }
            assert!(copy.join("db").exists());
            let said = tool(&copy, "sqlite3", &["db", "pragma integrity_check"]);
            assert_eq!(String::from_utf8_lossy(&said), "ok\n", "RINGSYNC_SEED={seed}, {way:?}");
        }
        mirror.terminate();
    }
}

/// Many small files that are appended to and synced at once, as queues and journals are.
#[test]
fn journals() {
    for way in [Way::Local, Way::Tcp] {
        let (seed, mut rng) = numbers();
        let place = Place::new();
        let mirror = Mirror::start(As::Us, way, &place, &[]);
        let mut files: Vec<File> =
            (0..20).map(|n| OpenOptions::new().create(true).append(true).open(place.src.join(n.to_string())).unwrap()).collect();
        let begun = Instant::now();
        while begun.elapsed() < length() / 2 {
            let file = rng.below(files.len());
            files[file].write_all(&page(seed, file as u64, 1)[..1 + rng.below(PAGE)]).unwrap();
            if rng.chance(30) {
                files[file].sync_data().unwrap();
            }
            if rng.chance(1) {
                files[file].set_len(0).unwrap();
            }
            pause(&mut rng, 50, 500);
        }
        mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}"));
        mirror.terminate();
    }
}
