//! Trees that mean no good: nothing in them stops the mirror, what cannot be mirrored is said once, and the rest is equal.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringsync::model::meta::Time;
use ringsync::model::path::{Name, RelPath};
use ringsync::sys::dir::{Dir, set_mtime};

use crate::compare::{Rules, compare};
use crate::content::whole;
use crate::mirror::watches;
use crate::place::{Place, as_user, deadline, is_root, until};
use crate::program::{As, Mirror, Way, once};

const WAYS: [Way; 2] = [Way::Local, Way::Tcp];

fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = (1..=255u8).filter(|b| !b"/.".contains(b)).map(|b| vec![b]).collect();
    names.extend((1..=255u8).filter(|b| *b != b'/').map(|b| [&b"in "[..], &[b], b" the middle"].concat()));
    names.extend([vec![b'n'; 255], vec![0xff; 255], "é".repeat(127).into_bytes(), "e\u{301}".into(), "\u{e9}".into(), b"\xc3".to_vec()]);
    let plain: [&[u8]; 16] = [
        b"...",
        b". ",
        b" ",
        b"  ",
        b"-rf",
        b"--delete",
        b"~",
        b"a\n",
        b"\n",
        b"\r\n",
        b"$(reboot)",
        b"`x`",
        b"a;b",
        b"\x1b[2J",
        b"%s%n",
        b".ringsync-stagin",
    ];
    names.extend(plain.map(<[u8]>::to_vec));
    names.sort();
    names.dedup();
    names
}

fn make_odd(root: &Path) {
    for (n, name) in odd_names().into_iter().enumerate() {
        let path = root.join(OsString::from_vec(name.clone()));
        match n % 3 {
            0 => fs::write(path, &name).unwrap(),
            1 => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join(OsString::from_vec(name)), "inside").unwrap();
            }
            _ => std::os::unix::fs::symlink(OsString::from_vec(name), path).unwrap(),
        }
    }
}

/// A chain of directories with a file on each level, down to a path of about `bytes`.
fn make_deep(root: &Path, name_bytes: usize, bytes: usize) {
    let name = vec![b'd'; name_bytes];
    let name = Name::new(&name).unwrap();
    let mut held = Dir::open_root(root).unwrap();
    for level in 0..bytes / (name_bytes + 1) {
        let mut file = held.create_new(Name::new(b"f").unwrap(), 0o644).unwrap();
        file.write_all(format!("level {level}").as_bytes()).unwrap();
        held.mkdir(name, 0o755).unwrap();
        held = held.open_dir(name).unwrap();
    }
}

#[test]
fn odd_names_and_deep_paths_once() {
    for way in WAYS {
        let place = Place::new();
        make_odd(&place.src);
        for (name, name_bytes, bytes) in [("long", 200, 12_000), ("short", 1, 6000)] {
            fs::create_dir(place.src.join(name)).unwrap();
            make_deep(&place.src.join(name), name_bytes, bytes);
        }
        once(As::Us, way, &place, &[], 0);
        let differences = compare(&place.src, &place.dst, &Rules::full());
        assert!(differences.is_empty(), "{way:?}:\n{differences}");
    }
}

#[test]
fn odd_names_and_deep_paths_live() {
    for way in WAYS {
        for watch in watches() {
            let place = Place::new();
            let mirror = Mirror::start(As::Us, way, &place, &["--watch", watch]);
            let when = |what: &str| format!("{watch}, {way:?}: {what}");
            make_odd(&place.src);
            mirror.settle(&when("odd names"));
            fs::create_dir(place.src.join("deep")).unwrap();
            make_deep(&place.src.join("deep"), 250, 9000);
            mirror.settle(&when("deep paths"));
            let deepest = (0..35).fold(RelPath::new(b"deep").unwrap(), |path, _| path.join(Name::new(&[b'd'; 250]).unwrap()).unwrap());
            let dir = Dir::open_root(&place.src).unwrap().open_beneath(&deepest).unwrap();
            dir.create_new(Name::new(b"new at the bottom").unwrap(), 0o600).unwrap();
            set_mtime(dir.as_fd(), Time { sec: 1, nsec: 1 }).unwrap();
            mirror.settle(&when("a change at the bottom"));
            fs::rename(place.src.join("deep"), place.src.join("deeper")).unwrap();
            mirror.settle(&when("the top renamed"));
            remove_deep(&place.src, "deeper");
            mirror.settle(&when("all of it gone"));
            mirror.terminate();
        }
    }
}

/// `rm -rf`, which does what the standard library's own may not: any depth.
fn remove_deep(root: &Path, name: &str) {
    let done = std::process::Command::new("rm").arg("-rf").arg(root.join(name)).status().unwrap();
    assert!(done.success());
}

#[test]
fn reserved_names_of_the_source_are_left_alone() {
    for way in WAYS {
        let place = Place::new();
        fs::create_dir(place.src.join(".ringsync-staging")).unwrap();
        fs::write(place.src.join(".ringsync-staging/inside"), "not ours to carry").unwrap();
        fs::write(place.src.join("plain"), "x").unwrap();
        fs::write(place.src.join(".ringsync-staging-1"), "x").unwrap();
        let mirror =
            Mirror::start(As::Us, way, &place, &[]).skipping([&b".ringsync-staging"[..], b".ringsync-staging-1", b".ringsync-staging-2"]);
        mirror.settle("at the start");
        fs::write(place.src.join(".ringsync-staging-2"), "x").unwrap();
        fs::write(place.src.join("plain too"), "x").unwrap();
        mirror.settle("live");
        for name in [".ringsync-staging", ".ringsync-staging-1", ".ringsync-staging-2"] {
            assert!(!place.dst.join(name).exists(), "{way:?}: {name} was mirrored");
            assert!(place.src.join(name).exists(), "{way:?}: {name} was removed from the source");
        }
        mirror.terminate();
    }
}

fn user_place() -> Place {
    if is_root() { Place::new().for_user() } else { Place::new() }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// How many lines of `text` hold `name`.
fn lines_with(text: &str, name: &str) -> usize {
    text.lines().filter(|line| line.contains(name)).count()
}

#[test]
fn what_cannot_be_read_is_said_once_and_nothing_is_deleted_for_it() {
    for way in WAYS {
        let place = user_place();
        as_user(|| {
            fs::create_dir_all(place.src.join("locked-dir/sub")).unwrap();
            fs::write(place.src.join("locked-dir/sub/inside"), "x").unwrap();
            fs::write(place.src.join("open"), "x").unwrap();
        });
        let mirror = Mirror::start(As::User, way, &place, &[]);
        mirror.settle("before");
        let mirror = mirror.skipping([&b"locked-file"[..]]);
        as_user(|| {
            mode(&place.src.join("locked-dir"), 0);
            let locked = OpenOptions::new().write(true).create_new(true).open(place.src.join("locked-file")).unwrap();
            locked.set_permissions(Permissions::from_mode(0o0)).unwrap();
            (&locked).write_all(b"nobody may read this").unwrap();
            fs::write(place.src.join("also open"), "x").unwrap();
        });
        // The locked directory's mode is mirrored, and what lies in it stays: root sees that it is equal.
        mirror.settle(&format!("{way:?}: locked"));
        let said = until(deadline(), || lines_with(&mirror.stderr(), "locked-file") > 0);
        assert!(said, "{way:?}: the file that cannot be read is not reported");
        // More work, so that a complaint in every cycle would show.
        for n in 0..20 {
            as_user(|| fs::write(place.src.join(format!("later {n}")), "x").unwrap());
            mirror.settle(&format!("{way:?}: later {n}"));
        }
        assert_eq!(lines_with(&mirror.stderr(), "locked-file"), 1, "{way:?}: reported once");
        assert!(lines_with(&mirror.stderr(), "locked-dir") <= 1, "{way:?}: reported once at most");
        as_user(|| {
            mode(&place.src.join("locked-file"), 0o644);
            mode(&place.src.join("locked-dir"), 0o755);
        });
        mirror.settle(&format!("{way:?}: unlocked, all but the file"));
        let equal = until(deadline(), || compare(&place.src, &place.dst, &Rules::without_owners()).is_empty());
        assert!(equal, "{way:?}: what can be read again is mirrored");
        mirror.terminate();
    }
}

#[test]
fn what_cannot_be_read_makes_a_one_shot_partial() {
    for way in WAYS {
        let place = user_place();
        as_user(|| {
            for name in ["locked-dir", "locked-file"] {
                let in_dir = name == "locked-dir";
                for root in [&place.src, &place.dst] {
                    let path = root.join(name);
                    if in_dir {
                        fs::create_dir(&path).unwrap()
                    } else {
                        fs::write(&path, if root == &place.src { "new" } else { "older" }).unwrap()
                    }
                    if in_dir {
                        fs::write(path.join("inside"), "x").unwrap();
                    }
                }
                mode(&place.src.join(name), 0);
            }
            fs::write(place.src.join("open"), "x").unwrap();
            fs::write(place.dst.join("extra"), "x").unwrap();
        });
        let stderr = once(As::User, way, &place, &[], 23);
        for name in ["locked-dir", "locked-file"] {
            assert_eq!(lines_with(&stderr, name), 1, "{way:?}: {name} is reported once:\n{stderr}");
        }
        let rules = Rules::without_owners().skipping([&b"locked-dir"[..], b"locked-file"]);
        let differences = compare(&place.src, &place.dst, &rules);
        assert!(differences.is_empty(), "{way:?}: the rest is equal:\n{differences}");
        assert!(place.dst.join("locked-file").exists(), "{way:?}: a file was deleted on doubt");
        mode(&place.dst.join("locked-dir"), 0o755);
        assert!(place.dst.join("locked-dir/inside").exists(), "{way:?}: the content of an unreadable directory was deleted on doubt");
    }
}

#[test]
fn a_mirror_that_its_owner_may_not_write_is_written() {
    for way in WAYS {
        let place = user_place();
        as_user(|| {
            fs::create_dir_all(place.src.join("read-only/sub")).unwrap();
            fs::write(place.src.join("read-only/sub/f"), "1").unwrap();
            mode(&place.src.join("read-only/sub"), 0o555);
            mode(&place.src.join("read-only"), 0o500);
        });
        let mirror = Mirror::start(As::User, way, &place, &[]);
        mirror.settle("read-only directories");
        as_user(|| {
            fs::write(place.src.join("read-only/sub/f"), "changed in a directory without w").unwrap();
            mode(&place.src.join("read-only"), 0o700);
            fs::write(place.src.join("read-only/new"), "x").unwrap();
            mode(&place.src.join("read-only"), 0o500);
        });
        mirror.settle(&format!("{way:?}: changes in them"));
        mirror.terminate();
    }
}

/// Churns in `write` on another thread until `look` is done.
fn meanwhile(write: impl Fn(u64) + Sync, look: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(&write));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until the mirror has taken `count` more files, one after another, while something else goes on.
fn marks(place: &Place, mirror: &Mirror, count: usize, when: &str) {
    for n in 0..count {
        let name = format!("mark {n}");
        fs::write(place.src.join(&name), when).unwrap();
        let mut came = false;
        until(deadline(), || {
            came = fs::read(place.dst.join(&name)).is_ok_and(|bytes| bytes == when.as_bytes());
            came || !mirror.gone().is_empty()
        });
        assert!(came, "{when}: mark {n} does not come to the mirror{}", mirror.gone());
    }
}

#[test]
fn a_file_cut_while_it_is_mapped() {
    for way in WAYS {
        for watch in watches() {
            let place = Place::new();
            let mirror = Mirror::start(As::Us, way, &place, &["--watch", watch]);
            let file = File::create(place.src.join("cut")).unwrap();
            let content = whole(3, 3, 4 << 20);
            let when = format!("{watch}, {way:?}: cut in a loop");
            meanwhile(
                |n| {
                    file.write_all_at(&content, 0).unwrap();
                    file.set_len([0, 1, 4097, 2 << 20, 3 << 20][n as usize % 5]).unwrap();
                },
                || marks(&place, &mirror, 60, &when),
            );
            mirror.settle(&when);
            mirror.terminate();
        }
    }
}

#[test]
fn entries_that_vanish_while_they_are_read() {
    for way in WAYS {
        for watch in watches() {
            let place = Place::new();
            let mirror = Mirror::start(As::Us, way, &place, &["--watch", watch]);
            let when = format!("{watch}, {way:?}: vanishing");
            meanwhile(
                |n| {
                    let dir = place.src.join(format!("dir{}", n % 3));
                    fs::create_dir(&dir).unwrap();
                    fs::create_dir(dir.join("sub")).unwrap();
                    for n in 0..20 {
                        fs::write(dir.join(format!("sub/{n}")), whole(4, n, 300_000 * (n as usize % 2))).unwrap();
                    }
                    fs::rename(dir.join("sub"), dir.join("renamed")).unwrap();
                    fs::remove_dir_all(dir).unwrap();
                },
                || marks(&place, &mirror, 60, &when),
            );
            mirror.settle(&when);
            mirror.terminate();
        }
    }
}

#[test]
fn a_full_destination_is_said_and_made_up_for() {
    use crate::mounts::{Fs, Mounted, privately};
    const NAME: &str = "a_full_destination_is_said_and_made_up_for";
    privately(NAME, || {
        let place = Place::new();
        let mounted = match Mounted::new(Fs::Tmpfs, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return crate::place::skipped(NAME, e),
        };
        mounted.resize("8m");
        let mirror = Mirror::start(As::Us, Way::Local, &place, &[]);
        mirror.settle("nothing");
        fs::write(place.src.join("too-large"), whole(5, 5, 20 << 20)).unwrap();
        let said = until(deadline(), || lines_with(&mirror.stderr(), "too-large") > 0);
        assert!(said, "a full destination is not reported");
        marks(&place, &mirror, 10, "beside what does not fit");
        mounted.resize("200m");
        mirror.settle("after room was made");
        mirror.terminate();
    });
}
