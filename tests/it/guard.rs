//! Deletions that are held, on real mirrors: a source that is emptied, replaced, unmounted, and `--max-delete`.

use std::fs;
use std::path::Path;
use std::time::Duration;

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
