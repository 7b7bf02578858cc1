//! Logs that rotate: renamed while their writer has them open, copied and cut, compressed. No line is lost, and none is seen that was not written so.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{numbers, pause, rounds, watched};
use crate::place::Place;
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;
use crate::tools::{has, tool};

/// Old logs that are kept.
const KEPT: usize = 12;

/// Line `n`: its length and content follow from its number.
fn line(n: u64) -> String {
    let mut rng = Rng::new(n);
    let filler = (0..rng.below(25)).map(|_| format!("{:016x}", rng.next())).collect::<Vec<_>>();
    format!("{n:012} {}\n", filler.join(" "))
}

/// The numbers of the first line and of the one after the last; `None` without lines.
fn lines(text: &[u8]) -> Result<Option<(u64, u64)>, String> {
    let (mut first, mut next) = (None, 0);
    for found in text.split_inclusive(|byte| *byte == b'\n') {
        let found = String::from_utf8_lossy(found);
        let number = found.get(..12).and_then(|digits| digits.parse().ok()).ok_or_else(|| format!("no line: {found:?}"))?;
        if found != line(number) {
            return Err(format!("line {number} is {found:?}"));
        }
        if first.is_some() && number != next {
            return Err(format!("line {number} stands where {next} should"));
        }
        first = first.or(Some(number));
        next = number + 1;
    }
    Ok(first.map(|first| (first, next)))
}

/// A log and its writer.
struct Log {
    dir: PathBuf,
    file: File,
    next: u64,
}

impl Log {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        Self { file: Self::open(&dir), dir, next: 0 }
    }

    fn open(dir: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap()
    }

    fn append(&mut self, count: usize) {
        for _ in 0..count {
            self.file.write_all(line(self.next).as_bytes()).unwrap();
            self.next += 1;
        }
    }

    /// Makes room for a new `log.1`: all old ones get the next number, the oldest goes.
    fn shift(&self) {
        let at = |n: usize, end: &str| self.dir.join(format!("log.{n}{end}"));
        for end in ["", ".gz"] {
            let _ = fs::remove_file(at(KEPT, end));
            for n in (1..KEPT).rev() {
                let _ = fs::rename(at(n, end), at(n + 1, end));
            }
        }
    }

    /// The one before the last is compressed.
    fn compress(&self) {
        if self.dir.join("log.2").exists() {
            tool(&self.dir, "gzip", &["log.2"]);
        }
    }

    /// The writer goes on in the renamed file until it is told of the new one.
    fn rotate(&mut self, late: usize) {
        self.shift();
        fs::rename(self.dir.join("log"), self.dir.join("log.1")).unwrap();
        self.append(late);
        self.file = Self::open(&self.dir);
        self.compress();
    }

    /// The file stays the same one: it is copied, then cut.
    fn copy_and_cut(&mut self) {
        self.shift();
        fs::copy(self.dir.join("log"), self.dir.join("log.1")).unwrap();
        self.file.set_len(0).unwrap();
        self.compress();
    }

    /// Everything that `root` has of it, oldest first.
    fn all(&self, root: &Path) -> Vec<u8> {
        let dir = root.join(self.dir.file_name().unwrap());
        let mut text = Vec::new();
        for n in (1..=KEPT).rev() {
            if dir.join(format!("log.{n}.gz")).exists() {
                text.extend(tool(&dir, "gzip", &["-dc", &format!("log.{n}.gz")]));
            }
            text.extend(fs::read(dir.join(format!("log.{n}"))).unwrap_or_default());
        }
        text.extend(fs::read(dir.join("log")).unwrap());
        text
    }
}

fn logs(way: Way) {
    if !has("logs", "gzip") {
        return;
    }
    let (seed, mut rng) = numbers();
    let place = Place::new();
    let (mut renamed, mut copied) = (Log::new(place.src.join("renamed")), Log::new(place.src.join("copied")));
    let mirror = Mirror::start(As::Us, way, &place, &[]);
    // What is only appended to and renamed is whole lines at every look; one that is cut in place may be caught between.
    let look = || {
        for name in ["log", "log.1"] {
            let path = place.dst.join("renamed").join(name);
            if let Ok(text) = fs::read(&path) {
                // A write that goes over the end of a page is two for readers.
                let cut = if text.len() % 4096 == 0 { text.iter().rposition(|byte| *byte == b'\n') } else { None };
                let whole = cut.map_or(text.len(), |end| end + 1);
                lines(&text[..whole]).map_err(|e| format!("{name}, {} bytes: {e}", text.len()))?;
            }
        }
        Ok(())
    };
    let looks = watched(&format!("RINGSYNC_SEED={seed}, {way:?}"), look, || {
        let mut settled = 0;
        rounds(
            || {
                for log in [&mut renamed, &mut copied] {
                    let burst = if rng.chance(3) { 2000 } else { 10 };
                    log.append(rng.below(burst));
                    pause(&mut rng, 30, 2000);
                }
                if rng.chance(2) {
                    renamed.rotate(rng.below(20));
                }
                if rng.chance(2) {
                    copied.copy_and_cut();
                }
            },
            |round| {
                settled += 1;
                mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: {round}"));
            },
        );
        assert!(settled > 0);
    });
    for log in [&renamed, &copied] {
        let range = lines(&log.all(&place.dst)).unwrap_or_else(|e| panic!("RINGSYNC_SEED={seed}, {way:?}: {e}"));
        assert_eq!(range.map_or(0, |(_, next)| next), log.next, "RINGSYNC_SEED={seed}, {way:?}: the last lines are missing");
        assert_eq!(range, lines(&log.all(&place.src)).unwrap(), "RINGSYNC_SEED={seed}, {way:?}");
    }
    println!("{way:?}: {} and {} lines, {looks} looks", renamed.next, copied.next);
    mirror.terminate();
}

#[test]
fn logs_rotate_local() {
    logs(Way::Local);
}

#[test]
fn logs_rotate_tcp() {
    logs(Way::Tcp);
}

#[test]
fn lines_that_never_were_are_recognised() {
    let text = [line(5), line(6), line(7)].concat();
    assert_eq!(lines(text.as_bytes()), Ok(Some((5, 8))));
    assert_eq!(lines(b""), Ok(None));
    assert!(lines(&text.as_bytes()[..text.len() - 1]).is_err());
    assert!(lines([line(5), line(7)].concat().as_bytes()).is_err());
    assert!(lines([line(5), line(5)].concat().as_bytes()).is_err());
}
