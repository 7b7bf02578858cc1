//! The mirror end to end: one-shot copies, live changes one by one, ends and restarts, readers during churn.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::compare::{Rules, compare, untouched};
use crate::content::{judge, whole};
use crate::ops::{Choice, Ops};
use crate::place::{Place, is_root, ops_count, seed};
use crate::program::{As, Mirror, Program, Server, Way, once};

const WAYS: [Way; 2] = [Way::Local, Way::Tcp];
const WATCHES: [&str; 2] = ["inotify", "fanotify"];

/// The watchers that can be tried: without root there is only one.
pub fn watches() -> &'static [&'static str] {
    if is_root() { &WATCHES } else { &WATCHES[..1] }
}

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn same(place: &Place, when: &str) {
    let differences = compare(&place.src, &place.dst, &Rules::full());
    assert!(differences.is_empty(), "{when}:\n{differences}");
}

fn empty(_: &Path) {}

fn small(root: &Path) {
    put(root, "empty", b"");
    put(root, "hello", b"hello\n");
    put(root, "bin/tool", b"#!/bin/sh\n");
    fs::set_permissions(root.join("bin/tool"), Permissions::from_mode(0o4755)).unwrap();
    symlink("hello", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::hard_link(root.join("hello"), root.join("bin/other name of hello")).unwrap();
    fs::create_dir(root.join("empty dir")).unwrap();
}

/// Sizes around every border that content has in reading, framing and staging.
fn sizes(root: &Path) {
    for border in [4096, 65_536, 128 * 1024, 512 * 1024, 1024 * 1024, 3 * 512 * 1024] {
        for size in [border - 1, border, border + 1] {
            put(root, &format!("{size}"), &whole(1, size as u64, size));
        }
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(5_000_000).unwrap();
    sparse.write_all_at(b"an island", 2_500_000).unwrap();
}

fn nested(root: &Path) {
    let deep: String = (0..40).map(|n| format!("level{n}/")).collect();
    put(root, &format!("{deep}file"), b"deep");
    for n in 0..1200 {
        put(root, &format!("wide/{}/{n}", n % 30), n.to_string().as_bytes());
    }
}

fn random(root: &Path) {
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    Ops::new(root, seed, Choice::usual()).run(4000);
}

#[test]
fn once_copies_then_sends_nothing() {
    for (name, fill) in [("empty", empty as fn(&Path)), ("small", small), ("sizes", sizes), ("nested", nested), ("random", random)] {
        for way in WAYS {
            let place = Place::new();
            fill(&place.src);
            once(As::Us, way, &place, &[], 0);
            same(&place, &format!("{name}, {way:?}"));
            let before = untouched(&place.dst);
            let said = once(As::Us, way, &place, &[], 0);
            assert!(before == untouched(&place.dst), "{name}, {way:?}: a second run wrote into an equal mirror");
            assert!(said.contains(" files=0 bytes=0 operations=0 "), "{name}, {way:?}: a second run sent something:\n{said}");
            // The root's own metadata is known as well, and alone.
            fs::set_permissions(&place.src, Permissions::from_mode(0o711)).unwrap();
            let said = once(As::Us, way, &place, &[], 0);
            assert!(said.contains(" files=0 bytes=0 operations=1 "), "{name}, {way:?}: another mode of the root:\n{said}");
            same(&place, &format!("{name}, {way:?}: another mode of the root"));
        }
    }
}

#[test]
fn once_makes_a_missing_local_destination() {
    let place = Place::new();
    small(&place.src);
    fs::remove_dir(&place.dst).unwrap();
    once(As::Us, Way::Local, &place, &[], 0);
    same(&place, "a destination that was not there");
}

/// As a copy's destination is; but no more than its last component.
#[test]
fn once_makes_a_missing_directory_of_a_module() {
    let place = Place::new();
    fs::write(place.src.join("f"), "x").unwrap();
    let server = Server::start(As::Us, &place.dst);
    let mut program = Program::start(As::Us, &["mirror", "--once", place.src.to_str().unwrap(), &format!("{}/new", server.url())]);
    program.ends_with(0);
    assert_eq!(fs::read(place.dst.join("new/f")).unwrap(), b"x");
}

#[test]
fn once_removes_what_the_source_lacks_and_mends_what_differs() {
    for way in WAYS {
        let place = Place::new();
        let seed = seed();
        println!("RINGSYNC_SEED={seed}");
        // The two trees have many names in common, often of another kind.
        Ops::new(&place.src, seed, Choice::usual()).run(2500);
        Ops::new(&place.dst, seed + 1, Choice::usual()).run(2500);
        once(As::Us, way, &place, &[], 0);
        same(&place, &format!("{way:?}, over another tree"));
    }
}

#[test]
fn once_removes_the_leftovers_of_a_crash() {
    for way in WAYS {
        let place = Place::new();
        small(&place.src);
        put(&place.dst, ".ringsync-staging/f7", b"half a file");
        put(&place.dst, "bin/.ringsync-staging-00ff", b"half a file");
        once(As::Us, way, &place, &[], 0);
        same(&place, &format!("{way:?}"));
    }
}

type Step = (&'static str, fn(&Path));

/// Each is one thing that people do; the mirror is equal after each.
const STEPS: &[Step] = &[
    ("create", |r| put(r, "a", b"one")),
    ("rewrite", |r| put(r, "a", b"another content")),
    ("append", |r| OpenOptions::new().append(true).open(r.join("a")).unwrap().write_all(b" and more").unwrap()),
    ("truncate", |r| OpenOptions::new().write(true).open(r.join("a")).unwrap().set_len(3).unwrap()),
    ("same size, modification time put back", |r| {
        let path = r.join("a");
        let before = fs::metadata(&path).unwrap();
        fs::write(&path, "ONE").unwrap();
        let time = TimeSpec::new(before.mtime(), before.mtime_nsec());
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }),
    ("chmod", |r| fs::set_permissions(r.join("a"), Permissions::from_mode(0o640)).unwrap()),
    ("utimes", |r| utimensat(AT_FDCWD, &r.join("a"), &TimeSpec::new(1, 2), &TimeSpec::new(3, 4), UtimensatFlags::NoFollowSymlink).unwrap()),
    ("rename", |r| fs::rename(r.join("a"), r.join("b")).unwrap()),
    ("chain of directories", |r| put(r, "d/e/f/g/file", b"deep")),
    ("rename into", |r| fs::rename(r.join("b"), r.join("d/e/b")).unwrap()),
    ("hard link", |r| fs::hard_link(r.join("d/e/b"), r.join("d/b2")).unwrap()),
    ("write through a link", |r| {
        let mut file = OpenOptions::new().write(true).open(r.join("d/b2")).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"through the link").unwrap();
    }),
    ("chmod of a link", |r| fs::set_permissions(r.join("d/b2"), Permissions::from_mode(0o600)).unwrap()),
    ("unlink of a link", |r| fs::remove_file(r.join("d/e/b")).unwrap()),
    ("rename of a directory", |r| fs::rename(r.join("d"), r.join("moved")).unwrap()),
    ("write in a renamed directory", |r| put(r, "moved/e/f/new", b"after the move")),
    ("rename of a directory and of its new contents", |r| {
        put(r, "moved/e/late", b"x");
        fs::rename(r.join("moved"), r.join("again")).unwrap();
        fs::rename(r.join("again/e/late"), r.join("again/late")).unwrap();
    }),
    ("rename over", |r| {
        put(r, "new", b"new");
        put(r, "old", b"old");
        fs::rename(r.join("new"), r.join("old")).unwrap();
    }),
    ("exchange of a file and a directory", |r| {
        renameat2(AT_FDCWD, &r.join("old"), AT_FDCWD, &r.join("again"), RenameFlags::RENAME_EXCHANGE).unwrap();
    }),
    ("exchange of two directories, one in the other's old place", |r| {
        put(r, "x/in x", b"x");
        put(r, "y/in y", b"y");
        renameat2(AT_FDCWD, &r.join("x"), AT_FDCWD, &r.join("y"), RenameFlags::RENAME_EXCHANGE).unwrap();
    }),
    ("a directory moved into its own former child", |r| {
        fs::create_dir_all(r.join("p/c")).unwrap();
        fs::rename(r.join("p/c"), r.join("c")).unwrap();
        fs::rename(r.join("p"), r.join("c/p")).unwrap();
    }),
    ("symbolic link", |r| symlink("again", r.join("l")).unwrap()),
    ("symbolic link for a file", |r| {
        fs::remove_file(r.join("again")).unwrap();
        symlink("/etc/passwd", r.join("again")).unwrap();
    }),
    ("directory for a symbolic link", |r| {
        fs::remove_file(r.join("again")).unwrap();
        put(r, "again/inside", b"x");
    }),
    ("file for a directory", |r| {
        fs::remove_dir_all(r.join("again")).unwrap();
        put(r, "again", b"a file now");
    }),
    ("times of a link and of a directory", |r| {
        for name in ["l", "x"] {
            utimensat(AT_FDCWD, &r.join(name), &TimeSpec::new(5, 6), &TimeSpec::new(7, 8), UtimensatFlags::NoFollowSymlink).unwrap();
        }
    }),
    ("mode of a directory", |r| fs::set_permissions(r.join("x"), Permissions::from_mode(0o1711)).unwrap()),
    ("mode and time of the root", |r| {
        fs::set_permissions(r, Permissions::from_mode(0o750)).unwrap();
        utimensat(AT_FDCWD, r, &TimeSpec::new(5, 6), &TimeSpec::new(9, 10), UtimensatFlags::NoFollowSymlink).unwrap();
    }),
    ("FIFO and socket", |r| {
        mknod(&r.join("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).unwrap();
        mknod(&r.join("socket"), SFlag::S_IFSOCK, Mode::from_bits_truncate(0o600), 0).unwrap();
    }),
    ("large file", |r| put(r, "large", &whole(1, 1, 5 << 20))),
    ("large file changed in place", |r| {
        OpenOptions::new().write(true).open(r.join("large")).unwrap().write_all_at(b"changed", 3 << 20).unwrap();
    }),
    ("large file renamed and changed", |r| {
        fs::rename(r.join("large"), r.join("x/larger")).unwrap();
        OpenOptions::new().append(true).open(r.join("x/larger")).unwrap().write_all(&whole(1, 2, 100_000)).unwrap();
    }),
    ("created, and gone at once", |r| {
        (0..50).for_each(|n| {
            let path = r.join(format!("short {n}"));
            fs::write(&path, "x").unwrap();
            fs::remove_file(path).unwrap();
        })
    }),
    ("owner", |r| {
        if is_root() {
            lchown(r.join("x"), Some(3), Some(4)).unwrap()
        }
    }),
    ("owner of a link", |r| {
        if is_root() {
            lchown(r.join("l"), Some(3), Some(4)).unwrap()
        }
    }),
    ("setuid, then an owner", |r| {
        if is_root() {
            fs::set_permissions(r.join("old/b2"), Permissions::from_mode(0o4711)).unwrap();
            lchown(r.join("old/b2"), Some(3), Some(4)).unwrap();
            fs::set_permissions(r.join("old/b2"), Permissions::from_mode(0o6711)).unwrap();
        }
    }),
    ("rm -rf", |r| fs::remove_dir_all(r.join("old")).unwrap()),
    ("rm -rf of everything", |r| {
        for entry in fs::read_dir(r).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }),
];

fn steps(way: Way) {
    for watch in watches() {
        let place = Place::new();
        let mirror = Mirror::start(As::Us, way, &place, &["--watch", watch, "--allow-empty"]);
        mirror.settle(&format!("{watch}, {way:?}: nothing"));
        for (name, step) in STEPS {
            step(&place.src);
            mirror.settle(&format!("{watch}, {way:?}: {name}"));
        }
        mirror.terminate();
    }
}

#[test]
fn each_live_change_local() {
    steps(Way::Local);
}

#[test]
fn each_live_change_tcp() {
    steps(Way::Tcp);
}

#[test]
fn every_io_and_number_of_threads() {
    for io in ["uring", "epoll"] {
        for threads in ["1", "5"] {
            let (place, seed) = (Place::new(), seed());
            println!("RINGSYNC_SEED={seed}");
            let mut ops = Ops::new(&place.src, seed, Choice::usual());
            ops.run(500);
            let mirror = Mirror::start(As::Us, Way::Tcp, &place, &["--io", io, "-n", threads]);
            ops.run(ops_count() / 2);
            mirror.settle(&format!("--io {io} -n {threads}"));
            mirror.terminate();
        }
    }
}

#[test]
fn sigterm_in_the_first_sync_leaves_nothing_of_ours_and_the_rest_comes_later() {
    for way in WAYS {
        let place = Place::new();
        nested(&place.src);
        put(&place.src, "big", &whole(1, 1, 40 << 20));
        let mirror = Mirror::start(As::Us, way, &place, &[]);
        // In the middle, if it is caught there: the first entry has come.
        crate::place::until(crate::place::deadline(), || fs::read_dir(&place.dst).unwrap().next().is_some());
        mirror.program.lock().unwrap().terminate();
        // A receiver of its own sees the end a moment later.
        let rules = Rules { contents: false, most: 100_000, ..Rules::full() };
        let clean = crate::place::until(crate::place::deadline(), || {
            !compare(&place.src, &place.dst, &rules).found.iter().any(|difference| difference.what.contains("staging"))
        });
        assert!(clean, "{way:?}: staging is left behind");
        drop(mirror);
        once(As::Us, way, &place, &[], 0);
        same(&place, &format!("{way:?}: the rest"));
    }
}

#[test]
fn killed_senders_and_receivers_are_made_up_for() {
    for way in WAYS {
        let (place, seed) = (Place::new(), seed());
        println!("RINGSYNC_SEED={seed}");
        let mut ops = Ops::new(&place.src, seed, Choice::usual());
        for _ in 0..4 {
            ops.run(ops_count() / 4);
            let mirror = Mirror::start(As::Us, way, &place, &[]);
            ops.run(ops_count() / 8);
            // Dropped: SIGKILL, wherever it is.
            drop(mirror);
        }
        let mirror = Mirror::start(As::Us, way, &place, &[]);
        mirror.settle(&format!("{way:?}: after kills"));
        mirror.terminate();
    }
}

#[test]
fn a_receiver_that_comes_back_is_found_again() {
    let (place, seed) = (Place::new(), seed());
    println!("RINGSYNC_SEED={seed}");
    let mut ops = Ops::new(&place.src, seed, Choice::usual());
    let mut mirror = Mirror::start(As::Us, Way::Tcp, &place, &[]);
    // A receiver that is not there at the start ends the run; one that goes later does not. Two empty trees are equal without any connection.
    std::fs::write(place.src.join("first"), "first").unwrap();
    mirror.settle("the first connection");
    for round in 0..3 {
        ops.run(ops_count() / 8);
        mirror.server.as_mut().unwrap().kill_and_restart();
        ops.run(ops_count() / 8);
        mirror.settle(&format!("restart {round} of the receiver"));
    }
    mirror.terminate();
}

#[test]
fn a_stopped_receiver_holds_nothing_up_for_good() {
    let (place, seed) = (Place::new(), seed());
    println!("RINGSYNC_SEED={seed}");
    let mut ops = Ops::new(&place.src, seed, Choice::usual());
    let mut mirror = Mirror::start(As::Us, Way::Tcp, &place, &[]);
    mirror.settle("nothing");
    let server = mirror.server.as_mut().unwrap().program();
    server.signal(Signal::SIGSTOP);
    ops.run(ops_count());
    server.signal(Signal::SIGCONT);
    mirror.settle("after the pause");
    mirror.terminate();
}

/// Of files that are read during churn: below and above each way of carrying content.
const SIZES: [usize; 11] = [4096, 0, 100, 9000, 300, 4096, 150_000, 32, 20_000, 600_000, 5000];

/// Readers open mirrored files all the time while `write` replaces them; each content that they see has to be one whole file.
fn readers_see_whole_files(way: Way, write: fn(&Place, &str, &[u8])) {
    let place = Place::new();
    let names: Vec<String> = (0..12).map(|n| format!("dir{}/file{n}", n % 3)).collect();
    (0..3).for_each(|n| fs::create_dir(place.src.join(format!("dir{n}"))).unwrap());
    let mirror = Mirror::start(As::Us, way, &place, &[]);
    mirror.settle("directories");
    let (stop, seen, torn) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in &names {
                    let Ok(bytes) = fs::read(place.dst.join(name)) else { continue };
                    seen.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = judge(&bytes) {
                        torn.lock().unwrap().push(format!("{name}: {e}"));
                    }
                }
            }
        });
        let churn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut number = 0;
            for round in 0..8 {
                for _ in 0..40 {
                    for name in &names {
                        number += 1;
                        let size = SIZES[number as usize % SIZES.len()];
                        write(&place, name, &whole(9, number, size));
                    }
                }
                mirror.settle(&format!("{way:?}, round {round}"));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = churn {
            std::panic::resume_unwind(panic);
        }
    });
    let torn = torn.into_inner().unwrap();
    assert!(
        torn.is_empty(),
        "{way:?}: {} of {} readings saw a part, such as {:?}",
        torn.len(),
        seen.into_inner(),
        &torn[..torn.len().min(5)]
    );
    assert!(seen.into_inner() > 100, "the readers hardly read");
    mirror.terminate();
}

/// Written where the mirror does not see it, then moved in.
fn from_outside(place: &Place, name: &str, bytes: &[u8]) {
    let temp = place.beside("outside");
    fs::write(&temp, bytes).unwrap();
    fs::rename(temp, place.src.join(name)).unwrap();
}

/// Written beside its place, as editors, rsync and package managers do: the mirror may have a part of the temporary file when the rename comes.
fn from_beside(place: &Place, name: &str, bytes: &[u8]) {
    let path = place.src.join(name);
    let temp = path.with_extension("tmp");
    let mut file = fs::File::create(&temp).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all(first).unwrap();
    file.write_all(second).unwrap();
    fs::rename(temp, path).unwrap();
}

#[test]
fn readers_see_whole_files_local() {
    readers_see_whole_files(Way::Local, from_outside);
}

#[test]
fn readers_see_whole_files_tcp() {
    readers_see_whole_files(Way::Tcp, from_outside);
}

#[test]
fn readers_see_whole_files_of_writers_beside_local() {
    readers_see_whole_files(Way::Local, from_beside);
}

#[test]
fn readers_see_whole_files_of_writers_beside_tcp() {
    readers_see_whole_files(Way::Tcp, from_beside);
}
