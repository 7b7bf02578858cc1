//! The real target where the mirror holds mounts: what cannot be renamed over their borders, and what cannot be removed at all.
//!
//! Each test mounts in a namespace of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringsync::apply::{FsTarget, Root, Target};
use ringsync::model::op::{Entry, Op};
use ringsync::model::path::{NameBuf, RelPath};

use crate::fixture::{Mirror, file_meta, mkdir, rel, rename, spot, unlink};
use crate::mounts::{Fs, Mounted, privately};
use crate::place::skipped;

/// A mirror with a tmpfs at `m`, which holds the directory `d` with the file `f`, and the file `g`; beside it `out`.
fn with_mount(name: &'static str, test: impl FnOnce(&mut Mirror) + Send) {
    privately(name, || {
        let mut m = Mirror::new();
        m.ok(&mkdir("m"));
        let mounted = match Mounted::new(Fs::Tmpfs, &m.at("m")) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(name, e),
        };
        m.ok(&mkdir("m/d"));
        m.put("m/d/f", b"f");
        m.put("m/g", b"g");
        m.ok(&mkdir("out"));
        m.target.end_frame();
        test(&mut m);
        drop(mounted);
    });
}

fn park(path: &str, id: u64) -> Op {
    Op::Park { from: spot(path), id }
}

fn rmdir(path: &str) -> Op {
    Op::Rmdir { at: spot(path) }
}

fn borders(listed: &[(RelPath, Entry)]) -> Vec<String> {
    let border = listed.iter().filter(|(_, entry)| entry.is_border());
    border.map(|(dir, entry)| dir.join(entry.name.as_name()).unwrap().to_string()).collect()
}

#[test]
fn what_is_on_a_mount_is_parked_there() {
    with_mount("what_is_on_a_mount_is_parked_there", |m| {
        m.ok(&park("m/d", 7));
        m.ok(&mkdir("m/d"));
        m.fails(&park("m/d", 7), libc::EEXIST);
        m.ok(&rmdir("m/d"));
        assert_eq!(m.names(), ["m", "m/.ringsync-staging-p7-d", "m/.ringsync-staging-p7-d/f", "m/g", "out"]);
        m.put("m/d", b"a file now");
        m.ok(&rename("m/.ringsync-staging-p7-d/f", "m/f"));
        m.fails(&rename("m/.ringsync-staging-p7-d", "out/new"), libc::EXDEV);
        m.ok(&rmdir("m/.ringsync-staging-p7-d"));
        m.ok(&park("m/g", 7));
        m.ok(&rename("m/.ringsync-staging-p7-g", "m/back"));
        m.target.end_cycle();
        assert_eq!(m.names(), ["m", "m/back", "m/d", "m/f", "out"]);
    });
}

#[test]
fn what_is_left_parked_on_a_mount_is_told_by_a_listing() {
    with_mount("what_is_left_parked_on_a_mount_is_told_by_a_listing", |m| {
        m.list();
        m.ok(&mkdir("m/d/e"));
        m.ok(&mkdir("m/d/e/deep"));
        m.put("m/d/e/deep/x", b"x");
        let before = m.stat("m").mtime();
        m.ok(&park("m/d", 1));
        m.target.end_cycle();
        let told = m.list().iter().filter(|(_, entry)| entry.name == NameBuf::parked(1, spot("d").name.as_name())).count();
        assert_eq!((told, m.names().len()), (1, 8), "a cycle that failed");
        for op in [
            unlink("m/.ringsync-staging-p1-d/f"),
            unlink("m/.ringsync-staging-p1-d/e/deep/x"),
            rmdir("m/.ringsync-staging-p1-d/e/deep"),
            rmdir("m/.ringsync-staging-p1-d/e"),
        ] {
            m.ok(&op);
        }
        m.ok(&rmdir("m/.ringsync-staging-p1-d"));
        m.ok(&mkdir("m/d"));
        m.ok(&mkdir("m/d/e"));
        m.put("m/d/e/x", b"x");
        m.ok(&park("m/d", 2));
        m.reopen();
        assert_eq!((m.list().len(), m.names().len()), (6, 6), "a crash");
        assert!(before <= m.stat("m").mtime());
    });
}

#[test]
fn nothing_is_renamed_or_linked_over_a_border() {
    with_mount("nothing_is_renamed_or_linked_over_a_border", |m| {
        m.put("x", b"x");
        m.put("m/y", b"y");
        let before = m.names();
        let link = |from: &str, to: &str| Op::Link { from: spot(from), to: spot(to) };
        for (from, to) in [("x", "m/x"), ("x", "m/y"), ("m/y", "y"), ("m/y", "x"), ("m/d", "out/d"), ("out", "m/out")] {
            m.fails(&rename(from, to), libc::EXDEV);
        }
        for (from, to) in [("x", "m/x"), ("x", "m/y"), ("m/y", "y"), ("m/y", "x")] {
            m.fails(&link(from, to), libc::EXDEV);
        }
        for op in [rename("m", "n"), park("m", 1), rmdir("m")] {
            m.fails(&op, libc::EBUSY);
        }
        m.target.end_cycle();
        assert_eq!(m.names(), before);
        // What is staged is at the root, and is copied to where it belongs.
        for (id, to) in [(1, "m/y"), (2, "m/d/new")] {
            m.target.stage(id, 3, b"ged").unwrap();
            m.target.stage(id, 0, b"sta").unwrap();
            m.ok(&Op::Place { at: spot(to), meta: file_meta(b"staged"), stage: id });
            assert_eq!(fs::read(m.at(to)).unwrap(), b"staged");
        }
        m.target.stage(3, 0, b"x").unwrap();
        m.fails(&Op::Place { at: spot("m/d"), meta: file_meta(b"x"), stage: 3 }, libc::EISDIR);
        m.target.drop_stage(3);
        m.target.end_cycle();
        assert!(!m.names().iter().any(|name| name.contains(".ringsync")), "{:?}", m.names());
    });
}

#[test]
fn a_listing_shows_what_is_mounted_and_its_border() {
    with_mount("a_listing_shows_what_is_mounted_and_its_border", |m| {
        let listed = m.list();
        assert!(listed.iter().any(|(dir, entry)| *dir == rel("m/d") && entry.name.as_bytes() == b"f"));
        assert_eq!(borders(&listed), ["m"]);
        // Of the same filesystem, but nothing can be renamed over its border either.
        let bind = Mounted::bind(&m.at("m/d"), &m.at("out")).unwrap();
        let mut all = borders(&m.list());
        all.sort();
        assert_eq!(all, ["m", "out"]);
        drop(bind);
        assert_eq!(borders(&m.list()), ["m"]);
    });
}

/// A test on a disk of its own, which is `path`'s parent.
fn on_a_disk(name: &str, test: impl FnOnce(&Mounted, &Path) + Send) {
    privately(name, || {
        let at = tempfile::tempdir_in(crate::place::base()).unwrap();
        match Mounted::new(Fs::Tmpfs, at.path()) {
            Ok(mounted) => test(&mounted, &at.path().join("root")),
            Err(e) => skipped(name, e),
        }
    });
}

/// A disk that is read-only when a session begins keeps what an earlier one left; it goes once the disk can be written to, without a new session.
#[test]
fn what_a_read_only_disk_kept_goes_when_it_can() {
    on_a_disk("what_a_read_only_disk_kept_goes_when_it_can", |mounted, path| {
        fs::create_dir_all(path.join(".ringsync-staging")).unwrap();
        fs::create_dir(path.join("d")).unwrap();
        for name in [".ringsync-staging/f3", "d/.ringsync-staging-0123456789abcdef", "d/kept"] {
            fs::write(path.join(name), "x").unwrap();
        }
        let mut target = FsTarget::new(Root::open(path, false).unwrap());
        let ours = || [".ringsync-staging", "d/.ringsync-staging-0123456789abcdef"].map(|name| path.join(name).exists());

        mounted.remount("ro").unwrap();
        target.list(&RelPath::root(), &mut |_| {}).unwrap();
        target.end_cycle();
        assert_eq!(ours(), [true, true]);
        mounted.remount("rw").unwrap();
        target.end_cycle();
        assert_eq!(ours(), [false, false]);
        assert!(path.join("d/kept").exists());
    });
}

/// The sender says once that it needs no parts of large files, and it may say so while the disk is read-only.
#[test]
fn a_part_that_nobody_needs_does_not_stay_because_the_disk_was_read_only() {
    on_a_disk("a_part_that_nobody_needs_does_not_stay_because_the_disk_was_read_only", |mounted, path| {
        let staging = path.join(".ringsync-staging");
        fs::create_dir_all(&staging).unwrap();
        fs::write(staging.join(format!("k{}", "0".repeat(32))), "x").unwrap();
        let mut target = FsTarget::new(Root::open(path, false).unwrap());
        mounted.remount("ro").unwrap();
        target.list(&RelPath::root(), &mut |_| {}).unwrap();
        target.drop_stage(0);
        mounted.remount("rw").unwrap();
        target.end_cycle();
        assert!(!staging.exists());
    });
}

/// What stood in the place of staging, and could not be removed, is not what stands there later.
#[test]
fn staging_in_use_is_not_taken_for_what_a_read_only_disk_kept() {
    on_a_disk("staging_in_use_is_not_taken_for_what_a_read_only_disk_kept", |mounted, path| {
        let staging = path.join(".ringsync-staging");
        fs::create_dir(path).unwrap();
        fs::write(&staging, "somebody's file").unwrap();
        let mut target = FsTarget::new(Root::open(path, false).unwrap());
        mounted.remount("ro").unwrap();
        target.list(&RelPath::root(), &mut |_| {}).unwrap();
        mounted.remount("rw").unwrap();
        target.stage(1, 0, b"content").unwrap();
        target.end_cycle();
        assert_eq!(fs::read(staging.join("f1")).unwrap(), b"content");
        target.drop_stage(1);
        assert!(!staging.exists());
    });
}
