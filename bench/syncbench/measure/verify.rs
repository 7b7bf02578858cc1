//! The full comparison of two trees: names, kinds, sizes, modes, owners, times, link targets, and the bytes of files. In parallel, by directories.
//!
//! It uses the standard library only, nothing of ringsync, and never writes. What cannot be read is a difference.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Differences that are described; more are counted.
const EXAMPLES: usize = 5;
/// Two reads of this size are compared at a time.
const CHUNK: usize = 256 << 10;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The bytes of files. Without them the look is cheap.
    pub bytes: bool,
    /// Ends with the first difference that is not a directory's time.
    pub first_only: bool,
    /// Threads.
    pub threads: usize,
}

/// What a comparison saw.
#[derive(Debug, Default)]
pub struct Look {
    /// Differences, without those of `dir_times`.
    pub differences: u64,
    /// Directories that differ in their modification time only.
    pub dir_times: u64,
    /// The first ones, in words.
    pub examples: Vec<String>,
    /// When the mirror was changed last: the newest time of change of all its entries. The kernel sets it at each change and nobody can set it back.
    pub newest: Option<SystemTime>,
    /// Entries of the source that were looked at.
    pub entries: u64,
}

impl Look {
    fn merge(&mut self, other: Self) {
        self.differences += other.differences;
        self.dir_times += other.dir_times;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        self.newest = self.newest.max(other.newest);
        self.entries += other.entries;
    }

    fn differ(&mut self, path: &Path, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{}: {}", path.display(), what()));
        }
    }
}

/// Directories that are to be compared, relative to the roots; and how many threads are busy with one that may yield more.
#[derive(Default)]
struct Todo {
    dirs: Vec<PathBuf>,
    busy: usize,
}

struct Walk<'a> {
    src: &'a Path,
    dst: &'a Path,
    rules: Rules,
    todo: Mutex<Todo>,
    more: Condvar,
    enough: AtomicBool,
}

/// Compares the trees at `src` and `dst`.
pub fn look(src: &Path, dst: &Path, rules: Rules) -> Look {
    let todo = Mutex::new(Todo { dirs: vec![PathBuf::new()], busy: 0 });
    let walk = Walk { src, dst, rules, todo, more: Condvar::new(), enough: AtomicBool::new(false) };
    let mut all = Look::default();
    match (src.symlink_metadata(), dst.symlink_metadata()) {
        (Ok(a), Ok(b)) => walk.entry(Path::new("."), &a, &b, &mut all),
        (a, b) => all.differ(Path::new("."), || format!("{:?}, {:?}", a.err(), b.err())),
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..rules.threads).map(|_| scope.spawn(|| walk.run())).collect();
        all.merge(walk.run());
        for thread in threads {
            match thread.join() {
                Ok(look) => all.merge(look),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes directories until none is left and no thread can add one.
    fn run(&self) -> Look {
        let mut look = Look::default();
        loop {
            let mut todo = self.lock();
            let dir = loop {
                if self.enough.load(Ordering::Relaxed) {
                    todo.dirs.clear();
                }
                if let Some(dir) = todo.dirs.pop() {
                    todo.busy += 1;
                    break dir;
                }
                if todo.busy == 0 {
                    self.more.notify_all();
                    return look;
                }
                todo = self.more.wait(todo).unwrap_or_else(PoisonError::into_inner);
            };
            drop(todo);
            let mut found = Vec::new();
            if let Err(e) = self.directory(&dir, &mut look, &mut found) {
                look.differ(&dir, || format!("cannot be compared: {e}"));
            }
            if self.rules.first_only && look.differences > 0 {
                self.enough.store(true, Ordering::Relaxed);
            }
            let mut todo = self.lock();
            todo.dirs.append(&mut found);
            todo.busy -= 1;
            drop(todo);
            self.more.notify_all();
        }
    }

    /// Compares the entries of one directory; those that are directories on both sides are put into `found`.
    fn directory(&self, dir: &Path, look: &mut Look, found: &mut Vec<PathBuf>) -> io::Result<()> {
        let mut theirs = list(&self.dst.join(dir))?;
        for (name, ours) in list(&self.src.join(dir))? {
            if self.enough.load(Ordering::Relaxed) {
                return Ok(());
            }
            look.entries += 1;
            let path = dir.join(&name);
            let Some(theirs) = theirs.remove(&name) else {
                look.differ(&path, || "missing in the mirror".into());
                continue;
            };
            self.entry(&path, &ours, &theirs, look);
            if ours.is_dir() && theirs.is_dir() {
                found.push(path);
            }
        }
        for name in theirs.keys() {
            look.differ(&dir.join(name), || "only in the mirror".into());
        }
        Ok(())
    }

    fn entry(&self, path: &Path, a: &Metadata, b: &Metadata, look: &mut Look) {
        look.newest = look.newest.max(time(b.ctime(), b.ctime_nsec()));
        let is_link = a.file_type().is_symlink();
        if a.file_type() != b.file_type() {
            return look.differ(path, || format!("kinds differ: {:?}, {:?}", a.file_type(), b.file_type()));
        }
        if a.mode() != b.mode() && !is_link {
            return look.differ(path, || format!("modes differ: {:o}, {:o}", a.mode(), b.mode()));
        }
        if (a.uid(), a.gid()) != (b.uid(), b.gid()) {
            return look.differ(path, || "owners differ".into());
        }
        if a.is_file() && a.len() != b.len() {
            return look.differ(path, || format!("sizes differ: {}, {}", a.len(), b.len()));
        }
        if a.rdev() != b.rdev() {
            return look.differ(path, || "device numbers differ".into());
        }
        if is_link {
            // Not every peer sets the times of symbolic links.
            let (a, b) = (fs::read_link(self.src.join(path)), fs::read_link(self.dst.join(path)));
            if !matches!((&a, &b), (Ok(a), Ok(b)) if a == b) {
                look.differ(path, || format!("targets differ: {a:?}, {b:?}"));
            }
            return;
        }
        if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
            if a.is_dir() {
                look.dir_times += 1;
            } else {
                look.differ(path, || format!("times differ: {}.{:09}, {}.{:09}", a.mtime(), a.mtime_nsec(), b.mtime(), b.mtime_nsec()));
            }
            return;
        }
        if self.rules.bytes && a.is_file() {
            match same_bytes(&self.src.join(path), &self.dst.join(path)) {
                Ok(true) => {}
                Ok(false) => look.differ(path, || "bytes differ".into()),
                Err(e) => look.differ(path, || format!("cannot be read: {e}")),
            }
        }
    }
}

fn time(sec: i64, nsec: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(sec).ok()?, u32::try_from(nsec).ok()?))
}

fn list(dir: &Path) -> io::Result<HashMap<OsString, Metadata>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) => drop(all.insert(entry.file_name(), meta)),
            // It went after it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut x, mut y) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        x.clear();
        y.clear();
        (&mut a).take(CHUNK as u64).read_to_end(&mut x)?;
        (&mut b).take(CHUNK as u64).read_to_end(&mut y)?;
        if x != y {
            return Ok(false);
        }
        if x.len() < CHUNK {
            return Ok(true);
        }
    }
}
