//! The oracle of every test of the whole: are two trees equal?
//!
//! It walks both by held directories, without recursion, so that paths beyond `PATH_MAX` are compared as well. It never writes, follows a
//! symbolic link or stops at an error: what cannot be read is a difference.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ringsync::model::meta::{Ident, Kind, Stat, Time};
use ringsync::model::path::{NameBuf, RelPath};
use ringsync::sys::dir::Dir;

use crate::place::until;

pub mod attrs;
mod canary;

/// What is compared.
#[derive(Clone)]
pub struct Rules {
    /// Owners and groups. Left out where the mirror is made by an ordinary user.
    pub owners: bool,
    /// Extended attributes and access control lists: all that root's mirror carries, or, without `owners`, an ordinary user's.
    pub attrs: bool,
    /// The bytes of files. Without them a comparison is cheap, and misses nothing else.
    pub contents: bool,
    /// These entries, and what is beneath them, are not looked at.
    pub skip: Vec<RelPath>,
    /// Differences that are described; more are counted. At 1 the comparison ends with the first.
    pub most: usize,
}

impl Rules {
    /// Everything.
    pub fn full() -> Self {
        Self { owners: true, attrs: true, contents: true, skip: Vec::new(), most: 40 }
    }

    /// Everything but owners, and attributes that only root can set.
    pub fn without_owners() -> Self {
        Self { owners: false, ..Self::full() }
    }

    /// The same without these entries.
    pub fn skipping<'a>(mut self, paths: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.skip.extend(paths.into_iter().map(|p| RelPath::new(p).expect("a relative path")));
        self
    }

    fn skips(&self, path: &RelPath) -> bool {
        let path = path.as_bytes();
        self.skip.iter().map(RelPath::as_bytes).any(|s| path.starts_with(s) && matches!(path.get(s.len()), None | Some(b'/')))
    }
}

/// One difference.
#[derive(Debug)]
pub struct Difference {
    /// Where.
    pub path: RelPath,
    /// What: source first.
    pub what: String,
}

/// Differences, bounded by [`Rules::most`].
#[derive(Debug, Default)]
pub struct Differences {
    /// The first ones, in the order of the walk.
    pub found: Vec<Difference>,
    /// How many more there were.
    pub more: u64,
}

impl Differences {
    /// Whether the trees are equal.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.found {
            writeln!(f, "  {}: {}", difference.path, difference.what)?;
        }
        if self.more > 0 { writeln!(f, "  and {} more", self.more) } else { Ok(()) }
    }
}

/// Compares the trees at `src` and `dst`.
pub fn compare(src: &Path, dst: &Path, rules: &Rules) -> Differences {
    let mut walk = Walk { rules, out: Differences::default(), pairs: HashMap::new(), back: HashMap::new(), todo: vec![RelPath::root()] };
    match (Dir::open_root(src), Dir::open_root(dst)) {
        (Ok(src), Ok(dst)) => walk.run(&src, &dst),
        (a, b) => walk.report(RelPath::root(), format!("cannot be opened: {:?}, {:?}", a.err(), b.err())),
    }
    walk.out
}

/// Waits until the trees are equal: cheaply until metadata is, then in full. Returns how long it took.
///
/// # Errors
/// The differences that are left when `deadline` passes or `go_on` says no.
pub fn wait_equal(src: &Path, dst: &Path, rules: &Rules, deadline: Duration, go_on: impl Fn() -> bool) -> Result<Duration, Differences> {
    let start = Instant::now();
    let cheap = Rules { contents: false, most: 1, ..rules.clone() };
    let mut equal = false;
    until(deadline, || {
        equal = compare(src, dst, &cheap).is_empty() && compare(src, dst, rules).is_empty();
        equal || !go_on()
    });
    if equal { Ok(start.elapsed()) } else { Err(compare(src, dst, rules)) }
}

/// Identity, link count and change time of everything beneath `root`, and of itself: what stays the same when nothing was written.
pub fn untouched(root: &Path) -> BTreeMap<RelPath, (Ident, u32, Time)> {
    let root = Dir::open_root(root).expect("the root opens");
    let mut all = BTreeMap::new();
    let mut todo = vec![RelPath::root()];
    while let Some(path) = todo.pop() {
        let dir = root.open_beneath(&path).expect("a directory at rest opens");
        let mut note = |path: &RelPath, stat: Stat| all.insert(path.clone(), (stat.ident, stat.nlink, stat.ctime));
        note(&path, dir.stat().expect("stat"));
        for name in names(&dir).expect("a directory at rest can be listed") {
            let stat = dir.stat_at(name.as_name()).expect("an entry at rest has metadata");
            let path = path.join(name.as_name()).expect("a path");
            if stat.meta.kind == Kind::Dir {
                todo.push(path);
            } else {
                note(&path, stat);
            }
        }
    }
    all
}

/// One comparison. `pairs` and `back` are inverse to each other: a hard-link group of the source is one group of the mirror.
struct Walk<'a> {
    rules: &'a Rules,
    out: Differences,
    /// Source object → mirror object.
    pairs: HashMap<(u64, u64), (u64, u64)>,
    /// Mirror object → source object.
    back: HashMap<(u64, u64), (u64, u64)>,
    todo: Vec<RelPath>,
}

impl Walk<'_> {
    fn run(&mut self, src: &Dir, dst: &Dir) {
        match (src.stat(), dst.stat()) {
            (Ok(a), Ok(b)) => {
                self.metadata(&RelPath::root(), &a, &b);
                self.attributes(&RelPath::root(), &attrs::path(src, None), &attrs::path(dst, None));
            }
            (a, b) => self.report(RelPath::root(), format!("no metadata: {:?}, {:?}", a.err(), b.err())),
        }
        while let Some(path) = self.todo.pop() {
            if self.rules.most == 1 && !self.out.is_empty() {
                return;
            }
            match (src.open_beneath(&path), dst.open_beneath(&path)) {
                (Ok(a), Ok(b)) => self.directory(&path, &a, &b),
                (a, b) => self.report(path, format!("cannot be opened: {:?}, {:?}", a.err(), b.err())),
            }
        }
    }

    fn report(&mut self, path: RelPath, what: String) {
        if self.out.found.len() < self.rules.most {
            self.out.found.push(Difference { path, what });
        } else {
            self.out.more += 1;
        }
    }

    fn directory(&mut self, path: &RelPath, src: &Dir, dst: &Dir) {
        let (a, b) = match (names(src), names(dst)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => return self.report(path.clone(), format!("cannot be listed: {:?}, {:?}", a.err(), b.err())),
        };
        let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return,
            };
            let name = if order.is_le() { a.next() } else { b.next() };
            let Some(name) = name else { return };
            if order.is_eq() {
                b.next();
            }
            let Ok(at) = path.join(name.as_name()) else {
                self.report(path.clone(), format!("{name:?} makes the path too long to be one"));
                continue;
            };
            if self.rules.skips(&at) {
                continue;
            }
            if name.as_name().is_reserved() {
                self.report(at, format!("staging left in the {}", if order.is_gt() { "mirror" } else { "source" }));
            } else if order.is_lt() {
                self.report(at, "missing".to_owned());
            } else if order.is_gt() {
                self.report(at, "extra".to_owned());
            } else {
                self.entry(at, &name, src, dst);
            }
        }
    }

    fn entry(&mut self, at: RelPath, name: &NameBuf, src: &Dir, dst: &Dir) {
        let name = name.as_name();
        let (a, b) = match (src.stat_at(name), dst.stat_at(name)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => return self.report(at, format!("no metadata: {:?}, {:?}", a.err(), b.err())),
        };
        if a.meta.kind != b.meta.kind {
            return self.report(at, format!("type {:?} against {:?}", a.meta.kind, b.meta.kind));
        }
        self.metadata(&at, &a, &b);
        self.attributes(&at, &attrs::path(src, Some(name)), &attrs::path(dst, Some(name)));
        match a.meta.kind {
            Kind::Dir => return self.todo.push(at),
            Kind::Symlink => match (src.read_link(name), dst.read_link(name)) {
                (Ok(a), Ok(b)) if a == b => {}
                (a, b) => self.report(at.clone(), format!("link target {a:?} against {b:?}")),
            },
            Kind::File if self.rules.contents && a.meta.size == b.meta.size => match first_difference(name, src, dst) {
                Ok(None) => {}
                Ok(Some(offset)) => self.report(at.clone(), format!("bytes differ from offset {offset}, size {}", a.meta.size)),
                Err(e) => self.report(at.clone(), format!("cannot be read: {e}")),
            },
            _ => {}
        }
        if a.nlink > 1 || b.nlink > 1 {
            let (a, b) = ((a.ident.dev, a.ident.ino), (b.ident.dev, b.ident.ino));
            if *self.pairs.entry(a).or_insert(b) != b {
                self.report(at, "hard link group of the source is split in the mirror".to_owned());
            } else if *self.back.entry(b).or_insert(a) != a {
                self.report(at, "hard link group of the mirror is split in the source".to_owned());
            }
        }
    }

    fn attributes(&mut self, at: &RelPath, src: &Path, dst: &Path) {
        if !self.rules.attrs {
            return;
        }
        let read = |path| attrs::read(path, self.rules.owners);
        match (read(src), read(dst)) {
            (Ok(a), Ok(b)) => {
                let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
                for name in names.filter(|name| a.get(*name) != b.get(*name)).collect::<Vec<_>>() {
                    self.report(at.clone(), format!("attribute {name}: {:02x?} against {:02x?}", a.get(name), b.get(name)));
                }
            }
            (a, b) => self.report(at.clone(), format!("attributes cannot be read: {:?}, {:?}", a.err(), b.err())),
        }
    }

    fn metadata(&mut self, at: &RelPath, a: &Stat, b: &Stat) {
        let (a, b) = (&a.meta, &b.meta);
        if a.mode != b.mode {
            self.report(at.clone(), format!("mode {:04o} against {:04o}", a.mode, b.mode));
        }
        if self.rules.owners && (a.uid, a.gid) != (b.uid, b.gid) {
            self.report(at.clone(), format!("owner {}:{} against {}:{}", a.uid, a.gid, b.uid, b.gid));
        }
        if a.mtime != b.mtime {
            let shown = |t: Time| format!("{}.{:09}", t.sec, t.nsec);
            self.report(at.clone(), format!("mtime {} against {} of a {:?}", shown(a.mtime), shown(b.mtime), a.kind));
        }
        if a.kind == Kind::File && a.size != b.size {
            self.report(at.clone(), format!("size {} against {}", a.size, b.size));
        }
        if a.rdev != b.rdev {
            self.report(at.clone(), format!("device {:#x} against {:#x}", a.rdev, b.rdev));
        }
    }
}

fn names(dir: &Dir) -> io::Result<Vec<NameBuf>> {
    let mut names = Vec::new();
    dir.list(|name| names.push(name.to_owned()))?;
    names.sort();
    Ok(names)
}

/// The offset of the first byte in which the files `name` of both directories differ.
fn first_difference(name: ringsync::model::path::Name<'_>, src: &Dir, dst: &Dir) -> io::Result<Option<u64>> {
    let (mut a, mut b) = (src.open_read(name)?, dst.open_read(name)?);
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut offset = 0;
    loop {
        let (x, y) = (fill(&mut a, &mut left)?, fill(&mut b, &mut right)?);
        if let Some(at) = x.iter().zip(y).position(|(x, y)| x != y) {
            return Ok(Some(offset + at as u64));
        }
        if x.len() != y.len() {
            return Ok(Some(offset + x.len().min(y.len()) as u64));
        }
        if x.is_empty() {
            return Ok(None);
        }
        offset += x.len() as u64;
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill<'a>(file: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buffer[..len])
}
