//! A tree with all that one can hold: attributes, access control lists, capabilities, holes, hard links, symbolic links, devices, odd names and times, a real `/etc` beside it.
//! The judge is rsync: after the first sync and after each change it has nothing to do.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use ringsync::sys::holes::punch;
use rustix::fs::{XattrFlags, lremovexattr, lsetxattr};

use crate::attrs::{by_rsync, can_have, grow, grow_as_root};
use crate::content::whole;
use crate::place::{Place, is_root, skipped};
use crate::program::{As, Mirror, Way};
use crate::tools::{has, tool};

const MIB: u64 = 1 << 20;

/// Names that trip up whoever takes them for text, for options, or for patterns.
const NAMES: [&[u8]; 12] = [
    b"a\nb",
    b"\xff\xfe",
    b" ",
    b"-rf",
    b"*",
    b"a\\b",
    b"'\"$(x)`",
    b"\x01\x1b[31m",
    "\u{e9}\u{65}\u{301}".as_bytes(),
    b"...",
    b"#x#",
    b"a: b;c|d",
];

fn odd(root: &Path, name: &[u8]) -> std::path::PathBuf {
    root.join("odd").join(OsStr::from_bytes(name))
}

fn time(path: &Path, sec: i64, nsec: i64) {
    let time = TimeSpec::new(sec, nsec);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// Whether device nodes can be made here.
fn devices(root: &Path) -> bool {
    let node = |name: &str, kind, numbers: (u64, u64)| {
        mknod(&root.join(name), kind, Mode::from_bits_truncate(0o640), makedev(numbers.0, numbers.1))
    };
    let made = [
        node("devices/zero", SFlag::S_IFCHR, (1, 5)),
        node("devices/large numbers", SFlag::S_IFCHR, (4000, 1_000_000)),
        node("devices/loop", SFlag::S_IFBLK, (7, 200)),
    ];
    made.iter().all(Result::is_ok)
}

fn grow_the_rest(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["odd", "devices", "sparse", "links", "times"] {
        fs::create_dir(at(dir)).unwrap();
    }
    for (n, name) in NAMES.iter().enumerate() {
        match n % 3 {
            0 => fs::create_dir(odd(root, name)).unwrap(),
            1 => symlink(OsStr::from_bytes(name), odd(root, name)).unwrap(),
            _ => fs::write(odd(root, name), name).unwrap(),
        }
    }
    fs::write(odd(root, &[b'n'; 255]), "the longest name").unwrap();
    if !devices(root) {
        skipped("a_tree_of_everything", "devices cannot be made here: the rest without them");
    }
    for (name, len) in [("small", 100_000), ("medium", 5 * MIB), ("large", 40 * MIB), ("only a hole", 20 * MIB)] {
        let file = File::create(at("sparse").join(name)).unwrap();
        file.set_len(len).unwrap();
        if name != "only a hole" {
            file.write_all_at(&whole(1, len, 10_000), len / 2).unwrap();
            file.write_all_at(b"end", len - 3).unwrap();
        }
    }
    fs::write(at("links/a"), whole(2, 2, 200_000)).unwrap();
    for (from, to) in [("links/a", "links/b"), ("links/a", "odd/c"), ("links/a", "d"), ("small", "links/of another directory")] {
        // `d` is a directory that holds the fourth name.
        let to = if to == "d" { at("d/fourth") } else { at(to) };
        fs::hard_link(at(from), to).unwrap();
    }
    symlink("a", at("links/soft")).unwrap();
    fs::hard_link(at("links/soft"), at("links/second name of a link")).unwrap();
    symlink("x".repeat(4000), at("links/to far away")).unwrap();
    tool(root, "mkfifo", &["links/pipe"]);
    fs::hard_link(at("links/pipe"), at("links/pipe again")).unwrap();
    for (name, sec, nsec) in [
        ("before 1970", -86_400, 1),
        ("1970", 0, 0),
        ("to the nanosecond", 1_600_000_000, 123_456_789),
        ("in 2100", 4_102_444_800, 999_999_999),
    ] {
        let path = at("times").join(name);
        fs::write(&path, name).unwrap();
        time(&path, sec, nsec);
    }
    symlink("nowhere", at("times/link")).unwrap();
    time(&at("times/link"), 1_000_000_000, 5);
    fs::set_permissions(at("times/1970"), Permissions::from_mode(0o7400)).unwrap();
    time(&at("times"), 1_234_567_890, 987_654_321);
}

type Change = (&'static str, fn(&Path));

const CHANGES: [Change; 9] = [
    ("attributes, lists", |r| {
        lsetxattr(r.join("d/inner"), "user.name", b"another", XattrFlags::empty()).unwrap();
        lremovexattr(r.join("small"), "user.large").unwrap();
        lsetxattr(r.join("etc"), "user.of etc", b"1", XattrFlags::empty()).unwrap();
        tool(r, "setfacl", &["-m", "u:11:r,d:g:12:rx", "d", "etc"]);
        tool(r, "setfacl", &["-b", "mapped"]);
    }),
    ("capabilities, owners", |r| {
        if is_root() {
            tool(r, "setcap", &["cap_chown,cap_kill=eip", "small"]);
            tool(r, "setcap", &["-r", "staged"]);
            tool(r, "chown", &["-h", "21:22", "link", "odd/a\\b", "links/soft"]);
        }
    }),
    ("links parted and made", |r| {
        fs::remove_file(r.join("links/b")).unwrap();
        fs::copy(r.join("links/a"), r.join("links/b")).unwrap();
        fs::hard_link(r.join("links/b"), r.join("links/b again")).unwrap();
        fs::rename(r.join("d/fourth"), r.join("times/fourth")).unwrap();
        OpenOptions::new().write(true).open(r.join("links/a")).unwrap().write_all_at(b"all names see it", 100_000).unwrap();
    }),
    ("holes", |r| {
        let open = |name: &str| OpenOptions::new().write(true).open(r.join("sparse").join(name)).unwrap();
        open("large").write_all_at(&whole(3, 3, 70_000), 10 * MIB).unwrap();
        punch(&open("large"), 19 * MIB, 2 * MIB).unwrap();
        open("only a hole").set_len(60 * MIB).unwrap();
        open("medium").set_len(3 * MIB).unwrap();
    }),
    ("odd names go and come", |r| {
        for (n, name) in NAMES.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
            fs::rename(odd(r, name), odd(r, &[name, &b"\n"[..]].concat())).unwrap();
            if n % 3 == 0 {
                fs::write(odd(r, &[name, &b"\n/inner\xff"[..]].concat()), "x").unwrap();
            }
        }
    }),
    ("kinds", |r| {
        fs::remove_file(r.join("fifo")).unwrap();
        fs::create_dir(r.join("fifo")).unwrap();
        fs::remove_file(r.join("link")).unwrap();
        fs::write(r.join("link"), "a file by now").unwrap();
        if r.join("devices/zero").exists() {
            fs::rename(r.join("devices/zero"), r.join("devices/moved")).unwrap();
            fs::remove_file(r.join("devices/loop")).unwrap();
            devices(r);
        }
    }),
    ("times and modes", |r| {
        time(&r.join("times/in 2100"), -1, 500_000_000);
        time(&r.join("times/link"), 77, 7);
        fs::set_permissions(r.join("times/to the nanosecond"), Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(r.join("odd"), Permissions::from_mode(0o1777)).unwrap();
        time(&r.join("odd"), 0, 1);
        time(r, 1, 1);
    }),
    ("directories moved", |r| {
        fs::rename(r.join("etc"), r.join("odd/etc")).unwrap();
        fs::rename(r.join("d"), r.join("sparse/d")).unwrap();
        fs::rename(r.join("links"), r.join("d")).unwrap();
    }),
    ("most of it removed", |r| {
        for dir in ["odd", "sparse", "devices"] {
            fs::remove_dir_all(r.join(dir)).unwrap();
        }
    }),
];

#[test]
fn a_tree_of_everything_is_equal_by_rsync() {
    const NAME: &str = "a_tree_of_everything_is_equal_by_rsync";
    if !has(NAME, "rsync") {
        return;
    }
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        if !can_have(NAME, &place.src) {
            return;
        }
        grow(&place.src);
        if is_root() {
            grow_as_root(&place.src);
        } else {
            skipped(NAME, "needs root: the rest without capabilities and owners");
        }
        grow_the_rest(&place.src);
        fs::create_dir(place.src.join("etc")).unwrap();
        // What an ordinary user may not read of it is left out.
        tool(&place.src, "sh", &["-c", "cp -a /etc/. etc 2>/dev/null; true"]);
        let mirror = Mirror::start(As::Us, way, &place, &[]);
        mirror.settle("the first sync");
        assert_eq!(by_rsync(&place), "", "{way:?}: the first sync");
        for (what, change) in CHANGES {
            change(&place.src);
            mirror.settle(&format!("{way:?}: {what}"));
            assert_eq!(by_rsync(&place), "", "{way:?}: {what}");
        }
        mirror.terminate();
    }
}
