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
    attr(&root.join("f"), "user.a", Some(b"1"));
    fs::hard_link(root.join("h"), root.join("h2")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    mode(&root.join("d"), 0o755);
    fs::write(root.join("d/inner"), "x").unwrap();
    ["big", "d/inner"].iter().for_each(|file| mode(&root.join(file), 0o644));
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

/// `rw-------` with `rw-` for user 7, which the mask takes away.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\x07\0\0\0\x04\0\0\0\xff\xff\xff\xff\x10\0\0\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// cap_net_raw=p
const CAPABILITY: &[u8] = b"\0\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Sets an attribute, or removes it.
fn attr(path: &Path, name: &str, value: Option<&[u8]>) {
    match value {
        Some(value) => rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap(),
        None => rustix::fs::lremovexattr(path, name).unwrap(),
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
    ("f", "attribute user.a: Some([31]) against None", |r| attr(&r.join("f"), "user.a", None)),
    ("f", "attribute user.a: Some([31]) against Some([32])", |r| attr(&r.join("f"), "user.a", Some(b"2"))),
    ("d", "attribute user.b: None against Some([])", |r| attr(&r.join("d"), "user.b", Some(b""))),
    (".", "attribute user.b: None against Some([78])", |r| attr(r, "user.b", Some(b"x"))),
    ("d", "attribute system.posix_acl_default: None against Some([", |r| attr(&r.join("d"), "system.posix_acl_default", Some(ACL))),
    ("p", "attribute system.posix_acl_access: None against Some([", |r| attr(&r.join("p"), "system.posix_acl_access", Some(ACL))),
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
    ("l", "attribute trusted.a: None against Some([31])", |r| attr(&r.join("l"), "trusted.a", Some(b"1"))),
    ("g", "attribute security.capability: None against Some([", |r| attr(&r.join("g"), "security.capability", Some(CAPABILITY))),
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
