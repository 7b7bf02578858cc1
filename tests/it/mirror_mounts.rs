//! Live mirrors that hold a mount: what the mirror cannot do over a border is made up for by copies, and what it cannot do at all is said while the
//! rest goes on.
//!
//! Each test mounts in a namespace of its own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::content::whole;
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Mirror, Way, once};

/// A place whose mirror has a tmpfs at `a/m`, a directory of both.
fn with_mount(name: &'static str, test: impl FnOnce(&Place, Mounted) + Send) {
    privately(name, || {
        let place = Place::new();
        for root in [&place.src, &place.dst] {
            fs::create_dir_all(root.join("a/m")).unwrap();
        }
        match Mounted::new(Fs::Tmpfs, &place.dst.join("a/m")) {
            Ok(mounted) => test(&place, mounted),
            Err(e) => skipped(name, e),
        }
    });
}

fn wait(mirror: &Mirror, what: &str, done: impl Fn() -> bool) {
    let came = until(deadline(), || done() || !mirror.gone().is_empty()) && mirror.gone().is_empty();
    assert!(came, "{what}: does not come true{}; stderr:\n{}", mirror.gone(), mirror.stderr());
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).is_ok_and(|there| there == bytes)
}

/// The rest goes on: new files come to the mirror, one after another.
fn goes_on(place: &Place, mirror: &Mirror, when: &str) {
    for n in 0..10 {
        let name = format!("{when} {n}");
        fs::write(place.src.join(&name), &name).unwrap();
        wait(mirror, &name, || holds(&place.dst.join(&name), name.as_bytes()));
    }
}

fn warnings(mirror: &Mirror) -> Vec<String> {
    mirror.stderr().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
}

/// How often it is said that the path is in trouble.
fn said(mirror: &Mirror, path: &str) -> usize {
    warnings(mirror).iter().filter(|line| line.contains(&format!(" {path}: "))).count()
}

#[test]
fn renames_over_a_border_are_copies_and_nothing_is_said() {
    with_mount("renames_over_a_border_are_copies_and_nothing_is_said", |place, mounted| {
        let src = &place.src;
        fs::create_dir_all(src.join("d/e")).unwrap();
        fs::write(src.join("d/e/f"), "f").unwrap();
        fs::write(src.join("large"), whole(1, 1, 3 << 20)).unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, place, &[]);
        mirror.settle("at first");
        for (from, to) in [("d", "a/m/d"), ("large", "a/m/d/large"), ("a/m/d", "b"), ("b/e", "a/m/e"), ("a/m/e", "a/m/x"), ("a/m/x/f", "f")]
        {
            fs::rename(src.join(from), src.join(to)).unwrap();
            mirror.settle(to);
        }
        // Where something has to go out of the way on the mount.
        fs::write(src.join("a/m/x/g"), "g").unwrap();
        fs::create_dir(src.join("a/m/y")).unwrap();
        mirror.settle("two directories");
        fs::rename(src.join("a/m/x"), src.join("a/m/t")).unwrap();
        fs::rename(src.join("a/m/y"), src.join("a/m/x")).unwrap();
        fs::rename(src.join("a/m/t"), src.join("a/m/y")).unwrap();
        mirror.settle("exchanged");
        fs::remove_dir_all(src.join("a/m/y")).unwrap();
        fs::write(src.join("a/m/y"), "a file").unwrap();
        mirror.settle("a file in the place of a directory");
        // The directory that holds the mount point can be renamed as any other.
        fs::rename(src.join("a"), src.join("c")).unwrap();
        mirror.settle("the directory above");
        assert_eq!(warnings(&mirror), [""; 0]);
        mirror.terminate();
        drop(mounted);
    });
}

#[test]
fn hard_links_over_a_border_are_copies_and_stay_equal() {
    with_mount("hard_links_over_a_border_are_copies_and_stay_equal", |place, mounted| {
        let (src, dst) = (&place.src, &place.dst);
        fs::write(src.join("f"), "one").unwrap();
        for name in ["a/m/g", "a/m/h", "a/i"] {
            fs::hard_link(src.join("f"), src.join(name)).unwrap();
        }
        let mirror = Mirror::start(As::Us, Way::Local, place, &[]);
        let all_are = |names: &[&str], bytes: &[u8]| names.iter().all(|name| holds(&dst.join(name), bytes));
        let one = |a: &str, b: &str| {
            let ino = |name: &str| dst.join(name).symlink_metadata().map(|stat| (stat.dev(), stat.ino())).ok();
            ino(a).is_some() && ino(a) == ino(b)
        };
        wait(&mirror, "a copy on each side", || {
            all_are(&["f", "a/m/g", "a/m/h", "a/i"], b"one") && one("f", "a/i") && one("a/m/g", "a/m/h")
        });
        let write = |name: &str, bytes: &[u8]| OpenOptions::new().append(true).open(src.join(name)).unwrap().write_all(bytes).unwrap();
        write("f", b", two");
        wait(&mirror, "written on one side", || all_are(&["f", "a/m/g", "a/m/h", "a/i"], b"one, two"));
        write("a/m/h", b", three");
        wait(&mirror, "written on the other side", || all_are(&["f", "a/m/g", "a/m/h", "a/i"], b"one, two, three"));
        fs::hard_link(src.join("f"), src.join("a/m/j")).unwrap();
        wait(&mirror, "a new name", || one("a/m/g", "a/m/j"));
        fs::rename(src.join("a/m/g"), src.join("g")).unwrap();
        wait(&mirror, "a name that changes sides", || one("f", "g") && !dst.join("a/m/g").exists());
        let set = |to: i64| {
            use nix::sys::{stat::UtimensatFlags, stat::utimensat, time::TimeSpec};
            utimensat(nix::fcntl::AT_FDCWD, &src.join("f"), &TimeSpec::new(to, 0), &TimeSpec::new(to, 0), UtimensatFlags::NoFollowSymlink)
                .unwrap();
        };
        set(1_000_000_000);
        wait(&mirror, "metadata", || {
            ["f", "a/m/h", "a/m/j", "a/i", "g"].iter().all(|n| dst.join(n).metadata().unwrap().mtime() == 1_000_000_000)
        });
        fs::remove_file(src.join("f")).unwrap();
        write("a/m/j", b".");
        wait(&mirror, "after one is gone", || {
            all_are(&["g", "a/m/h", "a/m/j", "a/i"], b"one, two, three.") && one("g", "a/i") && one("a/m/h", "a/m/j")
        });
        wait(&mirror, "one is gone", || !dst.join("f").exists());
        goes_on(place, &mirror, "afterwards");
        assert_eq!(warnings(&mirror), [""; 0]);
        // Nothing is sent over and over: a run over the equal mirror writes nothing.
        mirror.program.lock().unwrap().terminate();
        let before = crate::compare::untouched(dst);
        once(As::Us, Way::Local, place, &[], 0);
        assert!(before == crate::compare::untouched(dst), "a second run wrote into an equal mirror");
        drop(mounted);
    });
}

#[test]
fn a_mount_point_that_should_go_is_emptied_and_goes_when_it_is_unmounted() {
    with_mount("a_mount_point_that_should_go_is_emptied_and_goes_when_it_is_unmounted", |place, mounted| {
        let (src, dst) = (&place.src, &place.dst);
        fs::create_dir(src.join("a/m/d")).unwrap();
        fs::write(src.join("a/m/d/f"), "f").unwrap();
        fs::write(src.join("a/g"), "g").unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, place, &["--allow-empty"]);
        mirror.settle("at first");
        fs::remove_dir_all(src.join("a")).unwrap();
        wait(&mirror, "emptied", || !dst.join("a/g").exists() && !dst.join("a/m/d").exists() && said(&mirror, "a") > 0);
        assert!(dst.join("a/m").exists());
        goes_on(place, &mirror, "with a mount point that should go");
        assert_eq!(warnings(&mirror).len(), 1, "{:#?}", warnings(&mirror));
        drop(mounted);
        mirror.settle("unmounted");
        mirror.terminate();
    });
}

#[test]
fn a_mount_point_makes_a_one_shot_partial() {
    with_mount("a_mount_point_makes_a_one_shot_partial", |place, mounted| {
        fs::remove_dir_all(place.src.join("a")).unwrap();
        fs::write(place.src.join("a"), "a file").unwrap();
        fs::write(place.src.join("b"), "b").unwrap();
        once(As::Us, Way::Local, place, &[], 23);
        assert!(holds(&place.dst.join("b"), b"b"));
        fs::remove_file(place.src.join("a")).unwrap();
        once(As::Us, Way::Local, place, &[], 23);
        drop(mounted);
        once(As::Us, Way::Local, place, &[], 0);
        assert!(!place.dst.join("a").exists());
    });
}

#[test]
fn a_mount_point_stays_where_something_else_should_be() {
    with_mount("a_mount_point_stays_where_something_else_should_be", |place, mounted| {
        let (src, dst) = (&place.src, &place.dst);
        fs::write(src.join("a/m/f"), "f").unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, place, &[]);
        mirror.settle("at first");
        fs::rename(src.join("a/m"), src.join("n")).unwrap();
        fs::write(src.join("a/m"), "a file").unwrap();
        wait(&mirror, "renamed in the source", || holds(&dst.join("n/f"), b"f") && said(&mirror, "a/m") > 0);
        goes_on(place, &mirror, "with a mount point in the way");
        assert_eq!(warnings(&mirror).len(), 1, "{:#?}", warnings(&mirror));
        drop(mounted);
        mirror.settle("unmounted");
        mirror.terminate();
    });
}

#[test]
fn what_is_mounted_under_a_running_mirror_is_noticed() {
    privately("what_is_mounted_under_a_running_mirror_is_noticed", || {
        let place = Place::new();
        let (src, dst) = (&place.src, &place.dst);
        fs::create_dir(src.join("m")).unwrap();
        fs::create_dir(src.join("d")).unwrap();
        fs::write(src.join("d/f"), "f").unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &[]);
        mirror.settle("at first");
        let mounted = match Mounted::new(Fs::Tmpfs, &dst.join("m")) {
            Ok(mounted) => mounted,
            Err(e) => return skipped("what_is_mounted_under_a_running_mirror_is_noticed", e),
        };
        fs::rename(src.join("d"), src.join("m/d")).unwrap();
        mirror.settle("a rename to what is mounted");
        wait(&mirror, "a word on it", || !warnings(&mirror).is_empty());
        fs::rename(src.join("m/d/f"), src.join("f")).unwrap();
        fs::hard_link(src.join("f"), src.join("m/link")).unwrap();
        wait(&mirror, "a link to what is mounted", || holds(&dst.join("m/link"), b"f") && holds(&dst.join("f"), b"f"));
        goes_on(&place, &mirror, "mounted meanwhile");
        assert!(warnings(&mirror).len() <= 4, "{:#?}", warnings(&mirror));
        fs::remove_file(src.join("m/link")).unwrap();
        mirror.settle("in the end");
        mirror.terminate();
        drop(mounted);
    });
}

#[test]
fn a_link_to_what_was_mounted_meanwhile_becomes_a_copy() {
    const NAME: &str = "a_link_to_what_was_mounted_meanwhile_becomes_a_copy";
    privately(NAME, || {
        let place = Place::new();
        let (src, dst) = (&place.src, &place.dst);
        fs::create_dir(src.join("m")).unwrap();
        fs::write(src.join("f"), "f").unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &[]);
        mirror.settle("at first");
        let mounted = match Mounted::new(Fs::Tmpfs, &dst.join("m")) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(NAME, e),
        };
        fs::hard_link(src.join("f"), src.join("m/link")).unwrap();
        wait(&mirror, "a copy", || holds(&dst.join("m/link"), b"f"));
        goes_on(&place, &mirror, "linked");
        assert!(said(&mirror, "m/link") == 1 && warnings(&mirror).len() <= 2, "{:#?}", warnings(&mirror));
        fs::remove_file(src.join("m/link")).unwrap();
        mirror.settle("in the end");
        mirror.terminate();
        drop(mounted);
    });
}

#[test]
fn a_read_only_mount_is_said_and_made_up_for() {
    with_mount("a_read_only_mount_is_said_and_made_up_for", |place, mounted| {
        let src = &place.src;
        for name in ["d/e/f", "gone", "moved", "dir/x"] {
            let path = src.join("a/m").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let mirror = Mirror::start(As::Us, Way::Local, place, &[]);
        mirror.settle("at first");
        let remount = |how: &str| {
            let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(place.dst.join("a/m")).status();
            assert!(done.is_ok_and(|status| status.success()), "remount {how}");
        };
        remount("ro");
        let m = src.join("a/m");
        fs::write(m.join("new"), "new").unwrap();
        fs::create_dir(m.join("new dir")).unwrap();
        fs::write(m.join("new dir/x"), "x").unwrap();
        fs::remove_file(m.join("gone")).unwrap();
        fs::rename(m.join("moved"), m.join("d/moved")).unwrap();
        fs::rename(m.join("d"), src.join("d")).unwrap();
        fs::remove_dir_all(m.join("dir")).unwrap();
        fs::write(m.join("dir"), "a file in its place").unwrap();
        wait(&mirror, "an error", || !warnings(&mirror).is_empty());
        goes_on(place, &mirror, "while it is read-only");
        let count = warnings(&mirror).len();
        assert!(count < 60, "{count} warnings: {:#?}", warnings(&mirror));
        remount("rw");
        mirror.settle("writable again");
        mirror.terminate();
        drop(mounted);
    });
}

#[test]
fn a_full_mount_is_said_and_made_up_for() {
    with_mount("a_full_mount_is_said_and_made_up_for", |place, mounted| {
        let src = &place.src;
        mounted.resize("2m");
        let mirror = Mirror::start(As::Us, Way::Local, place, &[]);
        mirror.settle("at first");
        fs::write(src.join("a/m/large"), whole(5, 5, 8 << 20)).unwrap();
        fs::write(src.join("moved"), whole(6, 6, 6 << 20)).unwrap();
        fs::create_dir(src.join("a/m/d")).unwrap();
        for n in 0..100 {
            fs::write(src.join(format!("a/m/d/{n}")), whole(7, n, 50_000)).unwrap();
        }
        wait(&mirror, "an error", || said(&mirror, "a/m/large") > 0);
        fs::rename(src.join("moved"), src.join("a/m/moved")).unwrap();
        goes_on(place, &mirror, "while it is full");
        mounted.resize("200m");
        mirror.settle("after room was made");
        mirror.terminate();
        drop(mounted);
    });
}
