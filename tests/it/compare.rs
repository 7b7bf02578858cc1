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

/// What is compared.
#[derive(Clone)]
pub struct Rules {
    /// Owners and groups. Left out where the mirror is made by an ordinary user.
    pub owners: bool,
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
        Self { owners: true, contents: true, skip: Vec::new(), most: 40 }
    }

    /// Everything but owners.
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
            (Ok(a), Ok(b)) => self.metadata(&RelPath::root(), &a, &b),
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

mod canary {
    //! Each single kind of difference is made in one of two equal trees, and has to be found: an oracle that is blind to one fails here.

    use std::fs::{self, Permissions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    use std::path::Path;
    use std::time::Duration;

    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use ringsync::model::meta::Time;
    use ringsync::model::path::{Name, RelPath};
    use ringsync::sys::dir::{Dir, set_mtime};

    use super::{Rules, compare, untouched, wait_equal};
    use crate::place::{Place, is_root};

    const FIXED: Time = Time { sec: 1_600_000_000, nsec: 5 };

    fn name(name: &str) -> Name<'_> {
        Name::new(name.as_bytes()).unwrap()
    }

    /// A directory whose path is beyond `PATH_MAX`.
    fn deep() -> RelPath {
        (0..25).fold(RelPath::root(), |path, _| path.join(Name::new(&[b'd'; 200]).unwrap()).unwrap())
    }

    fn node(path: &Path, kind: SFlag, device: u64) {
        mknod(path, kind, Mode::from_bits_truncate(0o600), device).unwrap();
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn sample(root: &Path) {
        for file in ["f", "g", "h", "k"] {
            fs::write(root.join(file), format!("content of {file}")).unwrap();
            mode(&root.join(file), 0o644);
        }
        fs::write(root.join("big"), vec![7; 200_000]).unwrap();
        fs::hard_link(root.join("h"), root.join("h2")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        mode(&root.join("d"), 0o755);
        fs::write(root.join("d/inner"), "x").unwrap();
        symlink("target", root.join("l")).unwrap();
        node(&root.join("p"), SFlag::S_IFIFO, 0);
        node(&root.join("s"), SFlag::S_IFSOCK, 0);
        if is_root() {
            node(&root.join("c"), SFlag::S_IFCHR, makedev(1, 3));
        }
        let mut held = Dir::open_root(root).unwrap();
        for name in deep().names() {
            held.mkdir(name, 0o755).unwrap();
            held = held.open_dir(name).unwrap();
        }
        held.create_new(name("bottom"), 0o644).unwrap();
        settle(root);
    }

    /// Gives what changes make or touch one modification time, from the bottom up.
    fn settle(root: &Path) {
        let root = Dir::open_root(root).unwrap();
        let mut path = deep().join(name("x")).unwrap();
        let mut all = vec![RelPath::new(b"d").unwrap()];
        while let Some((up, _)) = path.split() {
            all.push(up.clone());
            path = up;
        }
        for path in all {
            let Ok(dir) = root.open_beneath(&path) else { continue };
            dir.list(|name| dir.set_mtime_at(name, FIXED).unwrap()).unwrap();
            set_mtime(dir.as_fd(), FIXED).unwrap();
        }
    }

    type Change = (&'static str, &'static str, fn(&Path));

    const CHANGES: &[Change] = &[
        ("f", "missing", |r| fs::remove_file(r.join("f")).unwrap()),
        ("d/inner", "missing", |r| fs::remove_file(r.join("d/inner")).unwrap()),
        ("new", "extra", |r| fs::write(r.join("new"), "x").unwrap()),
        ("d/new", "extra", |r| fs::create_dir(r.join("d/new")).unwrap()),
        (".ringsync-staging", "staging left in the mirror", |r| fs::create_dir(r.join(".ringsync-staging")).unwrap()),
        ("d/.ringsync-staging-9", "staging left in the mirror", |r| fs::write(r.join("d/.ringsync-staging-9"), "").unwrap()),
        ("f", "type File against Dir", |r| {
            fs::remove_file(r.join("f")).unwrap();
            fs::create_dir(r.join("f")).unwrap();
        }),
        ("p", "type Fifo against Socket", |r| {
            fs::remove_file(r.join("p")).unwrap();
            node(&r.join("p"), SFlag::S_IFSOCK, 0);
        }),
        ("f", "bytes differ from offset 0,", |r| fs::write(r.join("f"), "CONTENT of f").unwrap()),
        ("big", "bytes differ from offset 150000,", |r| {
            let mut bytes = vec![7; 200_000];
            bytes[150_000] = 8;
            fs::write(r.join("big"), bytes).unwrap();
        }),
        ("g", "size 12 against 13", |r| fs::write(r.join("g"), "content of g!").unwrap()),
        ("f", "mode 0644 against 0645", |r| mode(&r.join("f"), 0o645)),
        ("f", "mode 0644 against 4644", |r| mode(&r.join("f"), 0o4644)),
        ("d", "mode 0755 against 1755", |r| mode(&r.join("d"), 0o1755)),
        (".", "mode 0755 against 0700", |r| mode(r, 0o700)),
        ("l", "link target", |r| {
            fs::remove_file(r.join("l")).unwrap();
            symlink("tarGet", r.join("l")).unwrap();
        }),
        ("h2", "hard link group of the source is split", |r| {
            fs::remove_file(r.join("h2")).unwrap();
            fs::copy(r.join("h"), r.join("h2")).unwrap();
        }),
        ("k", "hard link group of the mirror is split", |r| {
            fs::remove_file(r.join("k")).unwrap();
            fs::hard_link(r.join("g"), r.join("k")).unwrap();
        }),
        ("bottom", "mode 0644 against 0600", |r| {
            Dir::open_root(r).unwrap().open_beneath(&deep()).unwrap().set_mode_at(name("bottom"), 0o600).unwrap();
        }),
    ];

    const TIMES: &[Change] = &[
        ("f", "mtime 1600000000.000000005 against 1600000000.000000006 of a File", |r| mtime(r, "f", Time { nsec: 6, ..FIXED })),
        ("l", "mtime 1600000000.000000005 against -1.000000005 of a Symlink", |r| mtime(r, "l", Time { sec: -1, ..FIXED })),
        ("d", "mtime 1600000000.000000005 against 1600000000.000000004 of a Dir", |r| mtime(r, "d", Time { nsec: 4, ..FIXED })),
        ("p", "mtime 1600000000.000000005 against 1600000001.000000005 of a Fifo", |r| mtime(r, "p", Time { sec: FIXED.sec + 1, ..FIXED })),
        (".", "mtime 1600000000.000000005 against 1600000000.000000006 of a Dir", |r| {
            set_mtime(Dir::open_root(r).unwrap().as_fd(), Time { nsec: 6, ..FIXED }).unwrap();
        }),
    ];

    const AS_ROOT: &[Change] = &[
        ("f", "owner 0:0 against 1:0", |r| lchown(r.join("f"), Some(1), None).unwrap()),
        ("l", "owner 0:0 against 0:1", |r| lchown(r.join("l"), None, Some(1)).unwrap()),
        ("d", "owner 0:0 against 1:1", |r| lchown(r.join("d"), Some(1), Some(1)).unwrap()),
        ("c", "device 0x103 against 0x105", |r| {
            fs::remove_file(r.join("c")).unwrap();
            node(&r.join("c"), SFlag::S_IFCHR, makedev(1, 5));
        }),
    ];

    fn mtime(root: &Path, at: &str, time: Time) {
        Dir::open_root(root).unwrap().set_mtime_at(name(at), time).unwrap();
    }

    fn finds(&(at, what, change): &Change, settle_after: bool) {
        let place = Place::new();
        sample(&place.src);
        sample(&place.dst);
        // The content of the two is the same where the change is about links alone.
        if what.contains("of the mirror is split") {
            for root in [&place.src, &place.dst] {
                fs::write(root.join("g"), "content of k").unwrap();
                settle(root);
            }
        }
        let before = compare(&place.src, &place.dst, &Rules::full());
        assert!(before.is_empty(), "two equal trees differ:\n{before}");
        change(&place.dst);
        if settle_after {
            settle(&place.dst);
        }
        let found = compare(&place.src, &place.dst, &Rules::full());
        assert_eq!(found.found.len(), 1, "{at} ({what}) makes one difference, not:\n{found}");
        let difference = &found.found[0];
        assert!(difference.what.contains(what), "{at}: expected {what:?}, not {:?}", difference.what);
        assert!(difference.path.to_string().ends_with(at), "{at} against {}", difference.path);
        assert!(compare(&place.src, &place.dst, &Rules::full().skipping([difference.path.as_bytes()])).is_empty() || at == ".");
        if what.starts_with("owner") {
            assert!(compare(&place.src, &place.dst, &Rules::without_owners()).is_empty());
        }
        assert!(wait_equal(&place.src, &place.dst, &Rules::full(), Duration::ZERO, || true).is_err(), "{at} ({what}) is not waited for");
    }

    #[test]
    fn every_single_difference_is_found() {
        CHANGES.iter().for_each(|change| finds(change, true));
        TIMES.iter().for_each(|change| finds(change, false));
        if is_root() {
            AS_ROOT.iter().for_each(|change| finds(change, true));
        }
    }

    #[test]
    fn differences_are_bounded_and_counted() {
        let place = Place::new();
        (0..50).for_each(|n| fs::write(place.src.join(n.to_string()), "").unwrap());
        settle(&place.src);
        settle(&place.dst);
        let found = compare(&place.src, &place.dst, &Rules { most: 7, ..Rules::full() });
        assert_eq!((found.found.len(), found.more), (7, 43));
    }

    #[test]
    fn what_was_written_is_not_untouched() {
        let place = Place::new();
        sample(&place.src);
        let before = untouched(&place.src);
        assert_eq!(before, untouched(&place.src));
        for path in ["f", "d", "big"] {
            let before = untouched(&place.src);
            mode(&place.src.join(path), 0o700);
            assert_ne!(before, untouched(&place.src), "{path}");
        }
    }
}
