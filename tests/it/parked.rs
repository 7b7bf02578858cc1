//! What a cycle that failed, or a receiver that was killed, left parked: it goes when nobody misses it, what is excluded in it stays, and what keeps it is told.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::control::{ask, live, mirror, socket, until_status};
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Way, once};

/// The name in the mirror of what was parked as number `number`.
fn parked(number: u32, of: &str) -> String {
    format!(".ringsync-staging-p{number}{of}")
}

fn attribute(change: &str, path: &Path) {
    let status = Command::new("chattr").arg(change).arg(path).status().unwrap();
    assert!(status.success(), "chattr {change} {}: {status}", path.display());
}

/// Rules are about what it was; where that is not known all of it stays.
#[test]
fn what_is_excluded_in_what_was_left_parked_stays() {
    for way in [Way::Local, Way::Tcp] {
        for (number, of, rule) in [(3, "-b", "/d/b/keep.log"), (4, "-b", "*.log"), (5, "", "/d/b/keep.log")] {
            let place = Place::new();
            fs::create_dir_all(place.src.join("d/b")).unwrap();
            fs::write(place.src.join("d/b/f"), "f").unwrap();
            let left = place.dst.join("d").join(parked(number, of));
            fs::create_dir_all(left.join("e")).unwrap();
            for name in ["keep.log", "f", "e/f"] {
                fs::write(left.join(name), "precious").unwrap();
            }
            for _ in 0..2 {
                let said = once(As::Us, way, &place, &["--exclude", rule], 23);
                assert!(said.contains("delete what was replaced: Directory not empty"), "{said}");
                assert_eq!(fs::read(left.join("keep.log")).unwrap(), b"precious", "{rule}");
                assert_eq!((left.join("e").exists(), left.join("f").exists()), (of.is_empty(), of.is_empty()), "{rule}");
                assert_eq!(fs::read(place.dst.join("d/b/f")).unwrap(), b"f");
            }
            // No rule is about the rest.
            once(As::Us, way, &place, &[], 0);
            assert!(!left.exists(), "{rule}");
        }
    }
}

/// So does what is excluded itself, or may be.
#[test]
fn what_was_left_parked_and_is_excluded_itself_stays() {
    let place = Place::new();
    fs::create_dir_all(place.src.join("cache")).unwrap();
    fs::write(place.src.join("f"), "f").unwrap();
    let left = [(2, "-cache"), (5, "-b.log"), (9, "")].map(|(number, of)| place.dst.join(parked(number, of)));
    fs::create_dir_all(&left[0]).unwrap();
    for file in [&left[0].join("only"), &left[1], &left[2]] {
        fs::write(file, "precious").unwrap();
    }
    let rules = ["--exclude", "cache/", "--exclude", "*.log"];
    for _ in 0..2 {
        once(As::Us, Way::Local, &place, &rules, 23);
        assert!(left[0].join("only").exists() && left[1].exists() && left[2].exists());
    }
    once(As::Us, Way::Local, &place, &[&rules[..], &["--delete-excluded"]].concat(), 0);
    assert!(left.iter().all(|path| !path.exists()));
}

/// Where nothing is deleted it goes nevertheless, wherever it is; and it is none of the entries that a limit is about.
#[test]
fn what_was_left_parked_is_no_entry_of_the_mirror() {
    let place = Place::new();
    let many = |dir: &Path, most: u32| {
        fs::create_dir_all(dir).unwrap();
        (0..most).for_each(|n| fs::write(dir.join(n.to_string()), "x").unwrap());
    };
    many(&place.src, 3);
    many(&place.dst, 10);
    many(&place.dst.join("old").join(parked(1, "-x")), 3);
    many(&place.dst.join(parked(5, "-x")), 90);
    once(As::Us, Way::Local, &place, &["--no-delete"], 0);
    assert_eq!(fs::read_dir(&place.dst).unwrap().count(), 11);
    assert_eq!(fs::read_dir(place.dst.join("old")).unwrap().count(), 0);
    many(&place.dst.join(parked(5, "-x")), 90);
    let said = once(As::Us, Way::Local, &place, &["--max-delete", "50%"], 25);
    assert!(said.contains("deletions are held"), "{said}");
    assert!((0..10).all(|n| place.dst.join(n.to_string()).exists()), "8 of 11 are more than half");
}

/// It may be the only copy: where the source has nothing, it is held as anything else would be, and goes when that is over or approved.
#[test]
fn what_was_left_parked_is_held_for_an_empty_source() {
    for (way, extra) in [(Way::Local, &[][..]), (Way::Tcp, &[]), (Way::Local, &["--no-delete"])] {
        for approves in [false, true] {
            let place = Place::new();
            let left = place.dst.join(parked(7, "-a"));
            fs::create_dir(&left).unwrap();
            (0..90).for_each(|n| fs::write(left.join(n.to_string()), "precious").unwrap());
            for _ in 0..2 {
                let said = once(As::Us, way, &place, extra, 25);
                assert!(said.contains("deletions are held") && said.contains("held=91"), "{said}");
            }
            let mirror = mirror(way, &place, extra);
            let socket = socket(&place);
            until_status(&socket, "held", |status| status["receivers"][0]["held"]["count"] == 91);
            assert_eq!(fs::read_dir(&left).unwrap().count(), 90);
            if approves {
                let (code, said) = ask(&socket, "approve", &[]);
                assert_eq!(code, 0, "{said}");
            } else {
                fs::write(place.src.join("f"), "f").unwrap();
            }
            assert!(until(deadline(), || !left.exists()), "{way:?} {extra:?}: it stays");
            live(&socket);
            mirror.terminate();
        }
    }
}

/// With another entry, which alone is none that a root emptied at once is held for.
#[test]
fn what_was_left_parked_is_part_of_what_a_source_lost() {
    let place = Place::new();
    let left = place.dst.join(parked(7, "-a"));
    fs::create_dir(&left).unwrap();
    for file in [left.join("f"), place.dst.join("b")] {
        fs::write(file, "precious").unwrap();
    }
    let said = once(As::Us, Way::Local, &place, &[], 25);
    assert!(said.contains("held=3"), "{said}");
    assert!(left.join("f").exists() && place.dst.join("b").exists());
    once(As::Us, Way::Local, &place, &["--allow-empty"], 0);
    assert_eq!(fs::read_dir(&place.dst).unwrap().count(), 0);
}

/// What somebody put into a directory of the mirror since its last manifest, and which is excluded, outlives a swap of that directory that fails.
#[test]
fn what_is_excluded_in_a_swap_that_failed_stays() {
    const NAME: &str = "what_is_excluded_in_a_swap_that_failed_stays";
    privately(NAME, || {
        for rule in ["*.log", "/b/keep.log"] {
            let place = Place::new();
            let _mounted = match Mounted::new(Fs::Ext4, &place.dst) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            for name in ["a", "b"] {
                fs::create_dir(place.src.join(name)).unwrap();
                fs::write(place.src.join(name).join("f"), name).unwrap();
            }
            let mirror = mirror(Way::Local, &place, &["--exclude", rule]);
            let socket = socket(&place);
            live(&socket);
            fs::write(place.dst.join("b/keep.log"), "precious").unwrap();
            attribute("+i", &place.dst.join("a"));
            // At once, for the sender.
            mirror.program.lock().unwrap().signal(Signal::SIGSTOP);
            for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
                fs::rename(place.src.join(from), place.src.join(to)).unwrap();
            }
            mirror.program.lock().unwrap().signal(Signal::SIGCONT);
            let is_kept = |failure: &Value| {
                let path = failure["path"].as_str().unwrap();
                path.starts_with(".ringsync-staging-p")
                    && path.ends_with("-b")
                    && failure["errno"] == libc::ENOTEMPTY
                    && failure["tries"].as_u64() > Some(1)
            };
            let status = until_status(&socket, "telling of what is kept", |status| failures(status).iter().any(is_kept));
            let left = place.dst.join(failures(&status).into_iter().find(is_kept).unwrap()["path"].as_str().unwrap());
            attribute("-i", &place.dst.join("a"));
            let is_swapped = || {
                [("a", "b"), ("b", "a")].iter().all(|(at, text)| fs::read(place.dst.join(at).join("f")).is_ok_and(|f| f == text.as_bytes()))
            };
            assert!(until(deadline(), is_swapped));
            assert_eq!(fs::read(left.join("keep.log")).unwrap(), b"precious");
            assert_eq!(fs::read_dir(&left).unwrap().count(), 1, "the rest goes");
            fs::remove_file(left.join("keep.log")).unwrap();
            until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
            assert!(!left.exists());
            mirror.terminate();
        }
    });
}

/// Not by the first run alone, and not in the receiver's log alone.
#[test]
fn what_was_left_parked_and_cannot_be_deleted_fails_each_time() {
    const NAME: &str = "what_was_left_parked_and_cannot_be_deleted_fails_each_time";
    privately(NAME, || {
        for way in [Way::Local, Way::Tcp] {
            let place = Place::new();
            let _mounted = match Mounted::new(Fs::Ext4, &place.dst) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            fs::write(place.src.join("f"), "f").unwrap();
            let left = place.dst.join(parked(7, "-d"));
            fs::create_dir_all(left.join("e")).unwrap();
            fs::write(left.join("e/old"), "old").unwrap();
            attribute("+i", &left.join("e/old"));
            for _ in 0..2 {
                let said = once(As::Us, way, &place, &[], 23);
                assert!(said.contains("delete what was replaced: Operation not permitted"), "{said}");
                assert!(left.join("e/old").exists());
            }
            attribute("-i", &left.join("e/old"));
            once(As::Us, way, &place, &[], 0);
            assert!(!left.exists());
        }
    });
}

/// It goes with its directory, which waits longer and longer meanwhile.
#[test]
fn a_directory_with_a_leftover_that_cannot_be_removed_waits_with_back_off() {
    const NAME: &str = "a_directory_with_a_leftover_that_cannot_be_removed_waits_with_back_off";
    privately(NAME, || {
        let place = Place::new();
        let _mounted = match Mounted::new(Fs::Ext4, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(NAME, e),
        };
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("keep"), "keep").unwrap();
        let log = place.src.with_file_name("failures");
        let mirror = mirror(Way::Local, &place, &["--failure-log", log.to_str().unwrap()]);
        let socket = socket(&place);
        live(&socket);
        let leftover = place.dst.join("d/.ringsync-staging-00");
        fs::write(&leftover, "left").unwrap();
        attribute("+i", &leftover);
        fs::remove_dir(place.src.join("d")).unwrap();
        let is_it = |failure: &Value| failure["path"] == "d" && failure["errno"] == libc::EPERM && failure["tries"].as_u64() > Some(2);
        until_status(&socket, "trying again", |status| {
            status["receivers"][0]["failures"].as_array().is_some_and(|all| all.iter().any(is_it))
        });
        attribute("-i", &leftover);
        until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        mirror.terminate();
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let tries: Vec<u64> = lines.iter().filter(|line| line["event"] == "failed").map(|line| line["tries"].as_u64().unwrap()).collect();
        assert_eq!(tries, (1..=tries.len() as u64).collect::<Vec<_>>(), "{text}");
        assert_eq!(lines.iter().filter(|line| line["event"] == "healed").count(), 1, "{text}");
    });
}

fn failures(status: &Value) -> Vec<Value> {
    status["receivers"][0]["failures"].as_array().cloned().unwrap_or_default()
}

/// One manifest around both would be of the whole mirror, and forget when they are tried again.
#[test]
fn two_that_stay_wait_with_back_off_each() {
    let place = Place::new();
    for dir in ["a", "b"] {
        fs::create_dir(place.src.join(dir)).unwrap();
        fs::write(place.src.join(dir).join("f"), "f").unwrap();
        let left = place.dst.join(dir).join(parked(7, "-x"));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("keep.log"), "precious").unwrap();
    }
    let mirror = mirror(Way::Local, &place, &["--exclude", "*.log"]);
    let socket = socket(&place);
    until_status(&socket, "trying both again and again", |status| {
        failures(status).iter().filter(|failure| failure["tries"].as_u64() > Some(2)).count() == 2
    });
    for dir in ["a", "b"] {
        fs::remove_file(place.dst.join(dir).join(parked(7, "-x")).join("keep.log")).unwrap();
    }
    until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
    for dir in ["a", "b"] {
        assert_eq!(fs::read_dir(place.dst.join(dir)).unwrap().count(), 1);
    }
    mirror.terminate();
}

/// It is in no way of the end once the source has again what was to go: it is in nobody's.
#[test]
fn what_stays_is_not_held_for_a_limit() {
    let place = Place::new();
    fs::create_dir(place.src.join("d")).unwrap();
    let write = |n: u32| fs::write(place.src.join("d").join(n.to_string()), "x").unwrap();
    (0..5).for_each(write);
    let left = place.dst.join(parked(7, "-b"));
    fs::create_dir_all(left.join("x/y/z")).unwrap();
    fs::write(left.join("x/y/z/keep.log"), "precious").unwrap();
    let mirror = mirror(Way::Local, &place, &["--exclude", "*.log", "--max-delete", "2"]);
    let socket = socket(&place);
    until_status(&socket, "telling of it", |status| failures(status).len() == 1);
    (0..3).for_each(|n| fs::remove_file(place.src.join("d").join(n.to_string())).unwrap());
    let is_held_too = |path: &Value| path.as_str().is_some_and(|path| path.starts_with(".ringsync-staging-p7"));
    until_status(&socket, "holding", |status| {
        status["receivers"][0]["held"]["paths"].as_array().is_some_and(|paths| paths.iter().any(is_held_too))
    });
    (0..3).for_each(write);
    until_status(&socket, "live", |status| status["state"] == "live");
    fs::remove_file(left.join("x/y/z/keep.log")).unwrap();
    until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
    mirror.terminate();
}

/// What was in it and is deleted is no part of the mirror that others are a percentage of.
#[test]
fn what_is_left_of_it_hides_no_entry_of_the_mirror() {
    let place = Place::new();
    fs::create_dir(place.src.join("d")).unwrap();
    (0..100).for_each(|n| fs::write(place.src.join("d").join(n.to_string()), "x").unwrap());
    let left = place.dst.join(parked(7, "-b"));
    fs::create_dir_all(&left).unwrap();
    (0..1000).for_each(|n| fs::write(left.join(n.to_string()), "x").unwrap());
    fs::write(left.join("keep.log"), "precious").unwrap();
    let mirror = mirror(Way::Local, &place, &["--exclude", "*.log", "--max-delete", "50%"]);
    let gone = place.dst.join("d/0");
    assert!(until(deadline(), || fs::read_dir(&left).is_ok_and(|names| names.count() == 1)));
    fs::remove_file(place.src.join("d/0")).unwrap();
    assert!(until(deadline(), || !gone.exists()));
    let said = mirror.stderr();
    fs::remove_file(left.join("keep.log")).unwrap();
    assert!(until(deadline(), || !left.exists()));
    mirror.terminate();
    assert!(!said.contains("deletions are held"), "{said}");
}

/// Seven entries of seven, with lost+found, but one of them fails: it is tried again, and that is no eighth.
#[test]
fn another_try_is_not_beyond_the_limit() {
    const NAME: &str = "another_try_is_not_beyond_the_limit";
    privately(NAME, || {
        let place = Place::new();
        let _mounted = match Mounted::new(Fs::Ext4, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(NAME, e),
        };
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("keep"), "keep").unwrap();
        (0..5).for_each(|n| fs::write(place.src.join("d").join(n.to_string()), "x").unwrap());
        let mirror = mirror(Way::Local, &place, &["--max-delete", "7"]);
        let socket = socket(&place);
        live(&socket);
        attribute("+i", &place.dst.join("d/0"));
        // At once.
        fs::rename(place.src.join("d"), place.src.with_file_name("elsewhere")).unwrap();
        let is_it = |failure: &Value| failure["path"] == "d" && failure["tries"].as_u64() > Some(1);
        until_status(&socket, "trying again", |status| failures(status).iter().any(is_it));
        assert!(crate::control::status(&socket)["receivers"][0]["held"].is_null());
        attribute("-i", &place.dst.join("d/0"));
        until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        assert!(!place.dst.join("d").exists());
        mirror.terminate();
    });
}
