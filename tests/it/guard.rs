//! Deletions that are held, on real mirrors: a source that is emptied, replaced, unmounted, and `--max-delete`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags};
use ringsync::limits::{BURST_OF_ROOT_MAX_NS, BURST_OF_ROOT_OVER_NS};

use crate::control::{ask, flush, live, mirror, socket, status, until_status};
use crate::mirror::watches;
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Way, once};

fn fill(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name)).unwrap();
        for n in 0..5 {
            fs::write(root.join(name).join(n.to_string()), n.to_string()).unwrap();
        }
    }
    // A file that is read within the clock's grain of its last change is not moved but copied, which makes a deletion of a rename.
    let clock = root.with_file_name("clock");
    let ticks = || {
        fs::write(&clock, "").unwrap();
        fs::metadata(&clock).unwrap().modified().unwrap()
    };
    let filled = ticks();
    assert!(until(deadline(), || ticks() > filled));
}

fn entries(root: &Path) -> usize {
    let mut count = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            count += 1;
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    count
}

/// However the renames are told, by one event or many, in one round or many.
#[test]
fn a_source_emptied_name_by_name_is_held_as_a_whole() {
    for watch in watches() {
        let place = Place::new();
        let names: Vec<String> = (0..60).map(|n| format!("d{n}")).collect();
        fill(&place.src, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let aside = place.src.with_file_name("aside");
        fs::create_dir(&aside).unwrap();
        let mirror = mirror(Way::Local, &place, &["--watch", watch]);
        let socket = socket(&place);
        live(&socket);
        for turn in 0..5 {
            names.iter().for_each(|name| fs::rename(place.src.join(name), aside.join(name)).unwrap());
            flush(&socket, &[], 25, "of a source emptied name by name");
            let held = status(&socket);
            assert_eq!(held["receivers"][0]["held"]["cause"].as_str(), Some("emptied"), "{watch} {turn}: {held:#}");
            assert_eq!((held["receivers"][0]["held"]["count"].as_u64(), entries(&place.dst)), (Some(360), 360), "{watch} {turn}");
            names.iter().for_each(|name| fs::rename(aside.join(name), place.src.join(name)).unwrap());
            flush(&socket, &[], 0, "after all is back");
            assert_eq!(entries(&place.dst), 360);
        }
        mirror.terminate();
    }
}

/// A spool: something goes from the source all the time, and each of it is deleted soon, not when that has an end.
#[test]
fn what_goes_from_a_source_without_end_goes_from_its_mirror() {
    const MANY: usize = 3000;
    let place = Place::new();
    (0..MANY).for_each(|n| fs::write(place.src.join(n.to_string()), "").unwrap());
    let mirror = mirror(Way::Local, &place, &[]);
    live(&socket(&place));
    let taken = (0..MANY).find(|n| {
        fs::remove_file(place.src.join(n.to_string())).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        !place.dst.join("0").exists()
    });
    assert!(taken.is_some(), "{MANY} went, and the first is still there");
    assert!(!mirror.stderr().contains("held"), "{}", mirror.stderr());
    mirror.settle("when no more go");
    mirror.terminate();
}

#[test]
fn a_source_emptied_at_once_is_held() {
    for watch in watches() {
        let place = Place::new();
        fill(&place.src, &["all"]);
        let mirror = mirror(Way::Local, &place, &["--watch", watch]);
        let socket = socket(&place);
        live(&socket);
        let aside = place.src.parent().unwrap().join("aside");
        fs::rename(place.src.join("all"), &aside).unwrap();
        flush(&socket, &[], 25, "of an emptied source");
        let held = status(&socket);
        assert_eq!((held["state"].as_str(), held["receivers"][0]["held"]["cause"].as_str()), (Some("held"), Some("emptied")), "{held:#}");
        assert_eq!(held["receivers"][0]["held"]["count"].as_u64(), Some(6), "{held:#}");
        assert_eq!(held["receivers"][0]["held"]["paths"][0].as_str(), Some("all"), "{held:#}");
        assert_eq!(entries(&place.dst), 6);
        assert!(until(deadline(), || mirror.stderr().matches("deletions are held").count() == 1), "{}", mirror.stderr());
        // Back again: nothing was lost, and what changed there meanwhile is found.
        fs::write(aside.join("new"), "x").unwrap();
        fs::remove_file(aside.join("0")).unwrap();
        fs::rename(&aside, place.src.join("all")).unwrap();
        mirror.settle("after all is back");
        flush(&socket, &[], 0, "after all is back");
        // Gone for good, and approved.
        fs::remove_dir_all(place.src.join("all/1")).unwrap_err();
        fs::rename(place.src.join("all"), &aside).unwrap();
        flush(&socket, &[], 25, "of a source emptied again");
        let (code, said) = ask(&socket, "approve", &[]);
        assert!(code == 0 && said.contains("6 entries"), "{code} {said}");
        flush(&socket, &[], 0, "after the approval");
        assert_eq!(entries(&place.dst), 0);
        mirror.terminate();
    }
}

/// Names that the mirror never had say nothing of how its root is used.
#[test]
fn a_lock_file_that_comes_and_goes_does_not_keep_a_source_from_being_held_as_a_whole() {
    let place = Place::new();
    fill(&place.src, &["y", "z"]);
    let aside = place.src.with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    let mirror = mirror(Way::Local, &place, &[]);
    let socket = socket(&place);
    live(&socket);
    let lock = place.src.join("lock");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_nanos(BURST_OF_ROOT_MAX_NS + BURST_OF_ROOT_OVER_NS / 2) {
        fs::write(&lock, "").unwrap();
        fs::remove_file(&lock).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    for name in ["y", "z"] {
        fs::rename(place.src.join(name), aside.join(name)).unwrap();
        // As long as a mirror takes that waits for nothing.
        std::thread::sleep(Duration::from_millis(15));
    }
    flush(&socket, &[], 25, "of an emptied source");
    assert_eq!(entries(&place.dst), 12);
    ask(&socket, "approve", &[]);
    mirror.settle("after the approval");
    mirror.terminate();
}

fn set_immutable(path: &Path, on: bool) {
    let status = Command::new("chattr").arg(if on { "+i" } else { "-i" }).arg(path).status().unwrap();
    assert!(status.success(), "chattr {}", path.display());
}

/// Plays with a live mirror, of what was made of these directories, on a filesystem that knows of immutable files.
fn on_ext4(name: &'static str, dirs: &[&str], options: &[&str], play: impl Fn(&Place, &Path) + Send + Sync) {
    privately(name, || {
        let place = Place::new();
        let _mounted = match Mounted::new(Fs::Ext4, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(name, e),
        };
        fill(&place.src, dirs);
        let mirror = mirror(Way::Local, &place, options);
        let socket = socket(&place);
        live(&socket);
        play(&place, &socket);
        ask(&socket, "approve", &[]);
        mirror.settle("after the approval");
        mirror.terminate();
    });
}

/// A directory that holds what cannot be deleted is left in the mirror's root, at its own name or another: the rest is held.
#[test]
fn what_cannot_be_deleted_does_not_keep_a_source_from_being_held() {
    for replaced in [false, true] {
        let name = "what_cannot_be_deleted_does_not_keep_a_source_from_being_held";
        // More is left than goes first, or it would count as somebody deleting one thing after the other.
        on_ext4(name, &["d", "e/a", "e/b", "e/c", "f/a", "f/b", "f/c"], &[], |place, socket| {
            let aside = place.src.with_file_name("aside");
            fs::create_dir(&aside).unwrap();
            set_immutable(&place.dst.join("d/1"), true);
            fs::remove_dir_all(place.src.join("d")).unwrap();
            if replaced {
                fs::write(place.src.join("d"), "").unwrap();
            }
            until_status(socket, "failing", |status| status["receivers"][0]["failing"].as_u64() >= Some(1));
            flush(socket, &["--timeout", "100"], 23, "with what cannot be deleted");
            for name in fs::read_dir(&place.src).unwrap() {
                let name = name.unwrap().file_name();
                fs::rename(place.src.join(&name), aside.join(&name)).unwrap();
            }
            until_status(socket, "held", |status| status["receivers"][0]["held"]["cause"] == "emptied");
            assert_eq!((entries(&place.dst.join("e")), entries(&place.dst.join("f"))), (18, 18), "{replaced}");
            let left: Vec<_> = fs::read_dir(&place.dst).unwrap().map(|entry| entry.unwrap().path().join("1")).collect();
            left.iter().filter(|path| path.exists()).for_each(|path| set_immutable(path, false));
        });
    }
}

/// Directories take each other's names, and in the middle that fails: what was held in one of them is held still.
#[test]
fn what_is_held_outlives_an_exchange_that_fails() {
    for stuck in ["a", "b"] {
        on_ext4("what_is_held_outlives_an_exchange_that_fails", &["a", "b"], &["--max-delete", "2"], |place, socket| {
            (0..9).for_each(|n| fs::write(place.src.join("a").join(format!("held{n}")), "").unwrap());
            flush(socket, &[], 0, "before");
            (0..9).for_each(|n| fs::remove_file(place.src.join("a").join(format!("held{n}"))).unwrap());
            until_status(socket, "held", |status| status["state"] == "held");
            flush(socket, &[], 25, "of what is held");
            let there = || {
                let names = ["a", "b"].into_iter().flat_map(|dir| fs::read_dir(place.dst.join(dir)).into_iter().flatten().flatten());
                names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"held")).count()
            };
            let before = there();
            assert!(before >= 7, "{before}");
            set_immutable(&place.dst.join(stuck), true);
            let [a, b] = ["a", "b"].map(|name| place.src.join(name));
            nix::fcntl::renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
            until_status(socket, "failing", |status| status["receivers"][0]["failing"].as_u64() >= Some(1));
            flush(socket, &["--timeout", "100"], 23, "with what cannot be exchanged");
            assert_eq!(there(), before, "{stuck}");
            set_immutable(&place.dst.join(stuck), false);
            until_status(socket, "healed", |status| status["receivers"][0]["failing"] == 0);
            assert_eq!(there(), before, "{stuck}");
        });
    }
}

#[test]
fn an_empty_source_does_not_empty_a_mirror_by_a_start() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        fill(&place.dst, &["backup"]);
        let said = once(As::Us, way, &place, &[], 25);
        assert!(said.contains("deletions are held"), "{said}");
        assert_eq!(entries(&place.dst), 6);
        once(As::Us, way, &place, &["--allow-empty"], 0);
        assert_eq!(entries(&place.dst), 0);
    }
}

/// What a receiver that was killed had parked goes when it is known that nobody misses it, and not before.
#[test]
fn what_was_left_parked_is_kept_while_deletions_are_held() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        fill(&place.dst, &["backup", ".ringsync-staging-p1", "backup/.ringsync-staging-p2"]);
        for _ in 0..2 {
            once(As::Us, way, &place, &[], 25);
            assert_eq!(entries(&place.dst), 18);
        }
        once(As::Us, way, &place, &["--allow-empty"], 0);
        assert_eq!(entries(&place.dst), 0);
        fill(&place.src, &["all"]);
        fill(&place.dst, &["all/.ringsync-staging-p1"]);
        once(As::Us, way, &place, &[], 0);
        assert_eq!(entries(&place.dst), 6);
        // It is approved while the mirror is live.
        fs::remove_dir_all(place.src.join("all")).unwrap();
        fill(&place.dst, &[".ringsync-staging-p1"]);
        let mirror = mirror(way, &place, &[]);
        let socket = socket(&place);
        until_status(&socket, "held", |status| status["state"] == "held");
        flush(&socket, &[], 25, "of an empty source");
        assert_eq!(entries(&place.dst), 12);
        ask(&socket, "approve", &[]);
        flush(&socket, &[], 0, "after the approval");
        assert!(until(deadline(), || entries(&place.dst) == 0));
        mirror.terminate();
    }
}

#[test]
fn ordinary_deletions_are_not_held() {
    for watch in watches() {
        let place = Place::new();
        fill(&place.src, &["a", "b/c", "b/d", "only"]);
        let mirror = mirror(Way::Local, &place, &["--watch", watch]);
        let socket = socket(&place);
        live(&socket);
        for gone in ["b", "a"] {
            fs::remove_dir_all(place.src.join(gone)).unwrap();
            flush(&socket, &[], 0, "of a deleted subtree");
            assert!(!place.dst.join(gone).exists());
        }
        // One file that comes and goes empties the source each time.
        for n in 0..5 {
            fs::remove_file(place.src.join("only").join(n.to_string())).unwrap();
        }
        flush(&socket, &[], 0, "of an emptied directory");
        fs::remove_dir(place.src.join("only")).unwrap();
        flush(&socket, &[], 0, "of the last entry");
        assert_eq!(entries(&place.dst), 0);
        mirror.terminate();
    }
}

#[test]
fn too_many_deletions_are_held_until_they_are_approved() {
    for (watch, most) in watches().iter().flat_map(|watch| ["8", "45%"].map(|most| (*watch, most))) {
        let place = Place::new();
        fill(&place.src, &["a", "b", "c"]);
        let mirror = mirror(Way::Local, &place, &["--watch", watch, "--max-delete", most]);
        let socket = socket(&place);
        live(&socket);
        fs::remove_dir_all(place.src.join("a")).unwrap();
        flush(&socket, &[], 0, "of 6 deletions");
        // First, and seen before what follows: if the two halves of it are told apart, it is a deletion and a new file, and there is room for one yet.
        fs::rename(place.src.join("c/2"), place.src.join("c/two")).unwrap();
        flush(&socket, &[], 0, "of a rename");
        fs::remove_dir_all(place.src.join("b")).unwrap();
        fs::write(place.src.join("c/new"), "x").unwrap();
        fs::write(place.src.join("c/1"), "changed").unwrap();
        flush(&socket, &[], 25, "of 6 more");
        let left = entries(&place.dst.join("b")) as u64 + 1;
        assert!(left >= 4, "{watch} {most}: {left}");
        assert_eq!(fs::read(place.dst.join("c/1")).unwrap(), b"changed");
        let there = ["new", "two", "2"].map(|name| place.dst.join("c").join(name).exists());
        assert_eq!(there, [true, true, false], "{watch} {most}: {:#}", status(&socket));
        let held = status(&socket);
        let held = &held["receivers"][0]["held"];
        assert_eq!((held["cause"].as_str(), held["count"].as_u64()), (Some("max_delete"), Some(left)), "{held:#}");
        assert_eq!(ask(&socket, "approve", &[]).0, 0);
        flush(&socket, &[], 0, "after the approval");
        mirror.settle("after the approval");
        mirror.terminate();
    }
}

#[test]
fn a_source_that_is_another_directory_is_held() {
    for watch in watches() {
        let place = Place::new();
        fill(&place.src, &["all"]);
        let mirror = mirror(Way::Local, &place, &["--watch", watch]);
        let socket = socket(&place);
        live(&socket);
        let aside = place.src.parent().unwrap().join("aside");
        fs::rename(&place.src, &aside).unwrap();
        fs::create_dir(&place.src).unwrap();
        // A status looks; so does whatever happens, once a second.
        let lost = status(&socket);
        assert_eq!((&lost["state"], &lost["receivers"][0]["held"]["cause"]), (&"held".into(), &"source_lost".into()), "{lost:#}");
        flush(&socket, &["--timeout", "0.1"], 30, "without a source");
        fs::remove_dir(&place.src).unwrap();
        let (code, said) = ask(&socket, "approve", &[]);
        assert!(code == 10 && said.contains("nothing to approve"), "{code} {said}");
        // Back: it goes on by itself.
        fs::write(aside.join("new"), "x").unwrap();
        fs::rename(&aside, &place.src).unwrap();
        flush(&socket, &[], 0, "once the source is back");
        mirror.settle("once the source is back");
        // Another one for good.
        fs::rename(&place.src, &aside).unwrap();
        fs::create_dir(&place.src).unwrap();
        fs::write(place.src.join("another"), "x").unwrap();
        until_status(&socket, "lost", |status| status["receivers"][0]["held"]["cause"] == "source_lost");
        assert_eq!(entries(&place.dst), 7);
        assert_eq!(ask(&socket, "approve", &[]).0, 0);
        flush(&socket, &[], 0, "of the other source");
        mirror.settle("with the other source");
        mirror.terminate();
    }
}

#[test]
fn an_unmounted_source_deletes_nothing() {
    const NAME: &str = "an_unmounted_source_deletes_nothing";
    privately(NAME, || {
        for watch in watches() {
            let place = Place::new();
            let mounted = match Mounted::new(Fs::Tmpfs, &place.src) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            fill(&place.src, &["all"]);
            let mirror = mirror(Way::Local, &place, &["--watch", watch]);
            let socket = socket(&place);
            live(&socket);
            drop(mounted);
            let held = until_status(&socket, "held", |status| status["state"] == "held");
            assert_eq!(held["receivers"][0]["held"]["cause"], "source_lost", "{held:#}");
            assert_eq!(entries(&place.dst), 6);
            let mut program = mirror.program.lock().unwrap();
            program.terminate();
            drop(program);
            // A start finds an empty directory.
            once(As::Us, Way::Local, &place, &[], 25);
            assert_eq!(entries(&place.dst), 6);
        }
    });
}

/// So much is back that the limit is kept: the rest goes without a word, and without anything else that happens.
#[test]
fn what_is_back_within_the_limit_ends_it() {
    for watch in watches() {
        let place = Place::new();
        fill(&place.src, &["a", "b"]);
        let mirror = mirror(Way::Local, &place, &["--watch", watch, "--max-delete", "3"]);
        let socket = socket(&place);
        live(&socket);
        fs::rename(place.src.join("a"), place.src.with_file_name("aside")).unwrap();
        flush(&socket, &[], 25, "of 6 deletions");
        fs::create_dir(place.src.join("a")).unwrap();
        for n in 0..4 {
            fs::write(place.src.join(format!("a/{n}")), "again").unwrap();
        }
        mirror.settle("with 4 of 5 files back");
        flush(&socket, &[], 0, "within the limit");
        mirror.terminate();
    }
}
