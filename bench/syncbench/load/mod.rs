//! The loads: what is done to a source, always the same for a name, a scale and a seed. Nothing here knows of mirrors or peers.

mod big;
mod churn;
mod hot;
mod rng;
mod small;
mod tools;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;

pub use hot::Hot;
pub use rng::Rng;

use crate::interrupt;
use crate::problem::{Doing, Result};

/// So many places of the mirror are looked at before all of it is.
const MARKS: u64 = 16;
/// Files that are written one at a time.
const LATENCY_FILES: u64 = 200;

/// The name of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Name {
    /// 10,000 new files of 4 KiB in 100 directories
    Storm,
    /// 200 chains of new directories, 12 deep, with a file in each directory at once
    Deep,
    /// 20,000 random operations on 2,000 files: create, write, append, rename, replace, chmod, link, delete, whole directories too
    Churn,
    /// 20,000 lines, 10 MB, appended to 50 open logs
    Append,
    /// 1 % of a 256 MiB file rewritten in pieces of 4 KiB
    Rewrite,
    /// 100 bytes inserted at the front of a 256 MiB file, saved by rename
    Insert,
    /// 100 directories with 100 files each renamed
    Rename,
    /// 100 directories with 100 files each deleted
    Delete,
    /// 200 files of 4 KiB written one at a time, each awaited in the mirror
    Latency,
    /// 2,000 atomic saves (new file, rename over the old one) of 500 files of 8 KiB
    Replace,
    /// An archive unpacked (--archive FILE)
    Untar,
    /// A commit of a repository checked out (--repo DIR)
    Checkout,
    /// --rate writes a second over a hot set of 2,000 files for --seconds
    Steady,
    /// The initial copy of 30,000 small files
    First,
    /// A start on 30,000 small files that are equal already
    Noop,
    /// The initial copy of one file of 4 GiB
    Copy,
    /// Nothing for 10 s beside 1,000 files
    Idle,
    /// As latency, beside 1,000,000 files that were equal before
    Many,
    /// 16 new logs of 4 MiB, whose lines shrink to a third
    Logs,
    /// 16 new files of 4 MiB that do not shrink
    Noise,
}

impl Name {
    /// As it is typed.
    pub fn text(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// A load with all that decides what it does.
#[derive(Debug, Clone)]
pub struct Load {
    /// Which.
    pub name: Name,
    /// Factor of the counts and of large files' sizes.
    pub scale: f64,
    /// Of the random numbers.
    pub seed: u64,
    /// For untar.
    pub archive: Option<PathBuf>,
    /// For checkout.
    pub repo: Option<PathBuf>,
    /// For steady: writes a second.
    pub rate: u64,
    /// For steady: for how long.
    pub seconds: u64,
}

/// What a load did.
#[derive(Debug)]
pub struct Done {
    /// Operations.
    pub ops: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// When the last operation had returned.
    pub ended: SystemTime,
    /// Some of the paths that were changed, relative to the source, the last one among them. They may be gone again.
    pub marks: Vec<PathBuf>,
}

impl Load {
    /// `base` at the scale, at least 1.
    fn count(&self, base: u64) -> u64 {
        ((base as f64 * self.scale).round() as u64).max(1)
    }

    /// Random numbers, other ones for each purpose.
    fn rng(&self, purpose: u64) -> Rng {
        Rng::new(self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (self.name as u64) << 32 ^ purpose)
    }

    /// Files of latency, or of the hot set.
    pub fn files(&self) -> u64 {
        match self.name {
            Name::Latency => self.count(LATENCY_FILES),
            Name::Many => LATENCY_FILES,
            Name::Steady => self.count(2_000),
            _ => 0,
        }
    }

    /// Makes what is there before the load starts, in an empty `root`.
    ///
    /// # Errors
    /// A problem of the filesystem, or a tool that is missing.
    pub fn prepare(&self, root: &Path) -> Result<()> {
        match self.name {
            Name::Storm => small::directories(self, root),
            Name::Deep | Name::Untar | Name::Checkout | Name::Logs | Name::Noise => Ok(()),
            Name::Churn => churn::prepare(self, root),
            Name::Append => big::prepare_logs(self, root),
            Name::Rewrite | Name::Insert => big::prepare_large(self, root),
            Name::Copy => big::prepare_copy(self, root),
            Name::Rename | Name::Delete => small::tree(self, root, self.count(100), 100, Size::Fixed(4096)),
            Name::Latency => latency_directory(root),
            Name::Many => {
                small::tree(self, root, self.count(10_000), 100, Size::Below(4096))?;
                latency_directory(root)
            }
            Name::Replace => small::tree(self, root, self.count(10), 50, Size::Fixed(8192)),
            Name::Steady => hot::prepare(self, root),
            Name::First | Name::Noop => {
                small::tree(self, root, self.count(300), 100, Size::Below(4096))?;
                small::whole_seconds(root)
            }
            Name::Idle => small::tree(self, root, self.count(10), 100, Size::Below(4096)),
        }
    }

    /// Does it, in one thread. For steady this writes at full speed as many files as the rate says for one second; [`Hot`] keeps the pace.
    ///
    /// # Errors
    /// A problem of the filesystem, or the wish to end.
    pub fn run(&self, root: &Path) -> Result<Done> {
        let mut trace = Trace::new(root);
        match self.name {
            Name::Storm => small::storm(self, &mut trace),
            Name::Deep => small::deep(self, &mut trace),
            Name::Churn => churn::run(self, &mut trace),
            Name::Append => big::append(self, &mut trace),
            Name::Logs => big::logs(self, &mut trace),
            Name::Noise => big::noise(self, &mut trace),
            Name::Rewrite => big::rewrite(self, &mut trace),
            Name::Insert => big::insert(self, &mut trace),
            Name::Rename => small::rename(self, &mut trace),
            Name::Delete => small::delete(self, &mut trace),
            Name::Latency | Name::Many => (0..self.files()).try_for_each(|n| self.latency_file(n, &mut trace).map(drop)),
            Name::Replace => small::replace(self, &mut trace),
            Name::Untar => tools::untar(self, &mut trace),
            Name::Checkout => tools::checkout(self, &mut trace),
            Name::Steady => hot::burst(self, &mut trace),
            Name::First | Name::Noop | Name::Copy | Name::Idle => Ok(()),
        }?;
        Ok(trace.done())
    }

    /// Writes the `n`-th file of latency; every second one replaces the one before. Returns its path relative to the source, and its content.
    ///
    /// # Errors
    /// A problem of the filesystem.
    pub fn latency_file(&self, n: u64, trace: &mut Trace<'_>) -> Result<(PathBuf, Vec<u8>)> {
        let path = PathBuf::from(format!("in/f{:05}", n / 2));
        let mut content = vec![0; 4096];
        self.rng(1000 + n).fill(&mut content);
        trace.write(&path, &content)?;
        Ok((path, content))
    }
}

fn latency_directory(root: &Path) -> Result<()> {
    fs::create_dir(root.join("in")).doing(|| "make a directory".into())
}

/// How large files are.
#[derive(Clone, Copy)]
enum Size {
    Fixed(usize),
    Below(usize),
}

/// The hand that does the operations, counts them and remembers some of their places.
pub struct Trace<'a> {
    root: &'a Path,
    ops: u64,
    bytes: u64,
    stride: u64,
    marks: Vec<PathBuf>,
    last: PathBuf,
    start: Instant,
    /// Set when the last operation had returned, where counting comes after it.
    over: Option<(Duration, SystemTime)>,
}

impl<'a> Trace<'a> {
    /// On the source at `root`; time counts from here.
    pub fn new(root: &'a Path) -> Self {
        Self { root, ops: 0, bytes: 0, stride: 1, marks: Vec::new(), last: PathBuf::new(), start: Instant::now(), over: None }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// One operation was done at `path`.
    fn note(&mut self, path: &Path, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if self.ops.is_multiple_of(self.stride) {
            if self.marks.len() as u64 == 2 * MARKS {
                // Twice as far apart from here on.
                let mut keep = false;
                self.marks.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.stride *= 2;
            }
            self.marks.push(path.to_owned());
        }
        self.ops += 1;
        self.last.clear();
        self.last.push(path);
        if self.ops.is_multiple_of(256) { interrupt::check() } else { Ok(()) }
    }

    /// Writes a whole file, made or cut to nothing first.
    fn write(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        fs::write(self.at(path), content).doing(|| format!("write {}", path.display()))?;
        self.note(path, content.len() as u64)
    }

    /// Appends to a file.
    fn append(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        let file = OpenOptions::new().append(true).open(self.at(path));
        file.and_then(|mut f| f.write_all(content)).doing(|| format!("append to {}", path.display()))?;
        self.note(path, content.len() as u64)
    }

    fn mkdir(&mut self, path: &Path) -> Result<()> {
        fs::create_dir(self.at(path)).doing(|| format!("make {}", path.display()))?;
        self.note(path, 0)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(self.at(from), self.at(to)).doing(|| format!("rename {} to {}", from.display(), to.display()))?;
        self.note(to, 0)
    }

    fn unlink(&mut self, path: &Path) -> Result<()> {
        fs::remove_file(self.at(path)).doing(|| format!("delete {}", path.display()))?;
        self.note(path, 0)
    }

    fn rmdir(&mut self, path: &Path) -> Result<()> {
        fs::remove_dir(self.at(path)).doing(|| format!("delete {}", path.display()))?;
        self.note(path, 0)
    }

    /// The last operation has returned; what comes now only counts.
    fn pause_clock(&mut self) {
        self.over = Some((self.start.elapsed(), SystemTime::now()));
    }

    /// The load is over: its last operation has returned.
    pub fn done(mut self) -> Done {
        let (took, ended) = self.over.unwrap_or_else(|| (self.start.elapsed(), SystemTime::now()));
        if self.ops > 0 {
            self.marks.push(self.last);
        }
        Done { ops: self.ops, bytes: self.bytes, took, ended, marks: self.marks }
    }
}
