//! Mail: a maildir, whose messages are moved from directory to directory and change their names, and a mailbox that is appended to and rewritten under its lock.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{numbers, pause, rounds, watched};
use crate::content::{judge, whole};
use crate::place::Place;
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;

const FOLDERS: [&str; 3] = ["maildir", "maildir/.Trash", "maildir/.A folder"];

/// Around each way of carrying content.
const SIZES: [usize; 7] = [700, 3000, 9000, 40_000, 150_000, 600_000, 3000];

struct Spool {
    src: PathBuf,
    seed: u64,
    rng: Rng,
    delivered: u64,
    /// Messages that were delivered: where each is.
    messages: HashMap<u64, PathBuf>,
    /// Of the mailbox.
    mailbox: Vec<u64>,
}

impl Spool {
    fn new(src: &Path, seed: u64, rng: Rng) -> Self {
        for folder in FOLDERS {
            ["tmp", "new", "cur"].iter().for_each(|dir| fs::create_dir_all(src.join(folder).join(dir)).unwrap());
        }
        Self { src: src.to_owned(), seed, rng, delivered: 0, messages: HashMap::new(), mailbox: Vec::new() }
    }

    fn message(&mut self) -> (u64, Vec<u8>) {
        self.delivered += 1;
        let size = self.rng.pick(&SIZES);
        (self.delivered, whole(self.seed, self.delivered, size - self.rng.below(600)))
    }

    /// Written in pieces where nobody looks, then moved, or linked, to where readers do.
    fn deliver(&mut self) {
        let (number, bytes) = self.message();
        let folder = self.src.join(if self.rng.chance(80) { FOLDERS[0] } else { FOLDERS[2] });
        let name = format!("{}.M{number}P1.host", 1_700_000_000 + number);
        let temporary = folder.join("tmp").join(&name);
        let mut file = File::create(&temporary).unwrap();
        for piece in bytes.chunks(bytes.len() / (1 + self.rng.below(3)) + 1) {
            file.write_all(piece).unwrap();
            pause(&mut self.rng, 10, 1000);
        }
        file.sync_all().unwrap();
        let there = folder.join("new").join(name);
        if self.rng.chance(50) {
            fs::rename(temporary, &there).unwrap();
        } else {
            fs::hard_link(&temporary, &there).unwrap();
            fs::remove_file(temporary).unwrap();
        }
        self.messages.insert(number, there);
    }

    fn any(&mut self) -> Option<(u64, PathBuf)> {
        let mut numbers: Vec<u64> = self.messages.keys().copied().collect();
        numbers.sort_unstable();
        let number = *numbers.get(self.rng.below(numbers.len().max(1)))?;
        Some((number, self.messages[&number].clone()))
    }

    /// Seen, answered, flagged: it is in `cur`, and its name says so; or it goes to another folder.
    fn mark(&mut self) {
        let Some((number, path)) = self.any() else { return };
        let name = path.file_name().unwrap().to_str().unwrap();
        let plain = name.split(":2,").next().unwrap().to_owned();
        let flags = self.rng.pick(&["", "S", "RS", "FS", "FRS", "DS", "ST"]);
        let folder =
            if self.rng.chance(20) { self.src.join(self.rng.pick(&FOLDERS)) } else { path.parent().unwrap().parent().unwrap().to_owned() };
        let there = folder.join("cur").join(format!("{plain}:2,{flags}"));
        fs::rename(path, &there).unwrap();
        self.messages.insert(number, there);
    }

    fn expunge(&mut self) {
        if let Some((number, path)) = self.any() {
            fs::remove_file(path).unwrap();
            self.messages.remove(&number);
        }
    }

    /// Has `act` work on the mailbox under both locks that are in use.
    fn locked(&mut self, act: impl FnOnce(&mut Self, &mut File)) {
        let lock = self.src.join("mbox.lock");
        OpenOptions::new().create_new(true).write(true).open(&lock).unwrap().write_all(b"1\n").unwrap();
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.src.join("mbox")).unwrap();
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
        act(self, &mut file);
        drop(file);
        fs::remove_file(lock).unwrap();
    }

    fn append(&mut self) {
        self.locked(|spool, file| {
            let (number, bytes) = spool.message();
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            writeln!(file, "From it {number} {}", bytes.len()).unwrap();
            file.write_all(&bytes).unwrap();
            spool.mailbox.push(number);
        });
    }

    /// Some messages go: the others are written anew, in place or beside it.
    fn compact(&mut self) {
        self.locked(|spool, file| {
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            let (mut rest, mut kept) = (&all[..], Vec::new());
            spool.mailbox.clear();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let header = std::str::from_utf8(&rest[..end]).unwrap();
                let fields: Vec<u64> = header["From it ".len()..].split(' ').map(|field| field.parse().unwrap()).collect();
                let message = &rest[..end + 1 + fields[1] as usize];
                judge(&message[end + 1..]).unwrap();
                if spool.rng.chance(60) {
                    kept.extend_from_slice(message);
                    spool.mailbox.push(fields[0]);
                }
                rest = &rest[message.len()..];
            }
            if spool.rng.chance(50) {
                use std::os::unix::fs::FileExt;
                file.write_all_at(&kept, 0).unwrap();
                file.set_len(kept.len() as u64).unwrap();
            } else {
                let temporary = spool.src.join("mbox.new");
                fs::write(&temporary, kept).unwrap();
                fs::rename(temporary, spool.src.join("mbox")).unwrap();
            }
        });
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..45 => self.deliver(),
            45..75 => self.mark(),
            75..90 if self.messages.len() > 40 => self.expunge(),
            90..97 => self.append(),
            97..100 => self.compact(),
            _ => {}
        }
        pause(&mut self.rng, 30, 3000);
    }
}

fn mail(way: Way) {
    let (seed, rng) = numbers();
    let place = Place::new();
    let mut spool = Spool::new(&place.src, seed, rng);
    let mirror = Mirror::start(As::Us, way, &place, &[]);
    let mut seen = 0;
    let look = || {
        for dir in FOLDERS.iter().flat_map(|folder| ["new", "cur"].map(|dir| place.dst.join(folder).join(dir))) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                // Nobody takes a name with a dot for a message: those are the mirror's own, for a moment.
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                // It may have gone to another name.
                if let Ok(bytes) = fs::read(entry.path()) {
                    judge(&bytes).map_err(|e| format!("{}: {e}", entry.path().display()))?;
                    if bytes.is_empty() {
                        return Err(format!("{} is empty", entry.path().display()));
                    }
                    seen += 1;
                }
            }
        }
        Ok(())
    };
    watched(&format!("RINGSYNC_SEED={seed}, {way:?}"), look, || {
        rounds(|| spool.step(), |round| mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: {round}")));
    });
    assert!(seen > 0, "nobody has read a message");
    println!("{way:?}: {} messages, {seen} read", spool.delivered);
    mirror.terminate();
}

#[test]
fn a_mail_spool_local() {
    mail(Way::Local);
}

#[test]
fn a_mail_spool_tcp() {
    mail(Way::Tcp);
}
