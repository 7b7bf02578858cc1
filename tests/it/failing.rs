//! Receivers that cannot take what comes: full, read-only, immutable. The rest goes on, `status` and the failure log tell, and it heals by itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::content::whole;
use crate::control::{flush, live, mirror, socket, until_status};
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, USER, deadline, is_root, skipped, until};
use crate::program::{As, Mirror, Way, once};

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn log_lines(path: &Path, event: &str, of: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    lines.filter(|line| line["event"] == event && line["path"].as_str().is_some_and(|path| path == of)).collect()
}

fn log(place: &Place) -> PathBuf {
    place.src.parent().unwrap().join("failures")
}

fn failures(status: &Value) -> &[Value] {
    status["receivers"][0]["failures"].as_array().map_or(&[], Vec::as_slice)
}

/// A live mirror of what `make` made, whose receiver has a filesystem of its own. `play` makes something fail and ends the cause: then all is equal, and nothing fails.
fn trouble(
    name: &'static str,
    (kind, way): (Fs, Way),
    make: impl Fn(&Path) + Send + Sync,
    play: impl Fn(&Place, &Mounted, &Mirror) + Send + Sync,
) {
    privately(name, || {
        let place = Place::new();
        let mounted = match Mounted::new(kind, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(name, e),
        };
        make(&place.src);
        let mirror = mirror(way, &place, &["--failure-log", log(&place).to_str().unwrap()]);
        let socket = socket(&place);
        live(&socket);
        mirror.settle("at first");
        play(&place, &mounted, &mirror);
        mirror.settle("after the cause has ended");
        until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        flush(&socket, &[], 0, "after the cause has ended");
        mirror.terminate();
    });
}

/// Plays one cause over a receiver on `fs`: `spoil`, then a change that cannot be made at `path`, then `mend`.
fn story(
    name: &'static str,
    fs: Fs,
    path: &str,
    errnos: &[i32],
    spoil: impl Fn(&Path, &Mounted) + Send + Sync,
    change: impl Fn(&Path) + Send + Sync,
    mend: impl Fn(&Path, &Mounted) + Send + Sync,
) {
    privately(name, || {
        for way in [Way::Local, Way::Tcp] {
            let place = Place::new();
            let mounted = match Mounted::new(fs, &place.dst) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(name, e),
            };
            // What mkfs leaves there is gone with the first look.
            fs::create_dir(place.src.join("d")).unwrap();
            fs::write(place.src.join("d/old"), "old").unwrap();
            let log = place.src.parent().unwrap().join("failures");
            let mirror = mirror(way, &place, &["--failure-log", log.to_str().unwrap()]);
            let socket = socket(&place);
            live(&socket);
            mirror.settle("at first");
            spoil(&place.dst, &mounted);
            change(&place.src);
            let failing = until_status(&socket, "failing", |status| {
                let failures = status["receivers"][0]["failures"].as_array().cloned().unwrap_or_default();
                failures
                    .iter()
                    .any(|failure| failure["path"] == path && failure["errno"].as_i64().is_some_and(|e| errnos.contains(&(e as i32))))
            });
            let failure = failing["receivers"][0]["failures"].as_array().unwrap().iter().find(|f| f["path"] == path).cloned().unwrap();
            assert!(failure["tries"].as_u64() > Some(0) && !failure["cause"].as_str().unwrap().is_empty(), "{failure:#}");
            flush(&socket, &["--timeout", "100"], 23, "beside what fails");
            let lines = log_lines(&log, "failed", path);
            assert!(!lines.is_empty() && lines[0]["tries"] == 1 && lines[0]["next_try_seconds"].is_number(), "{lines:#?}");
            assert!(log_lines(&log, "healed", path).is_empty());
            mend(&place.dst, &mounted);
            mirror.settle("after the cause has ended");
            until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
            assert_eq!(log_lines(&log, "healed", path).len(), 1, "{}", fs::read_to_string(&log).unwrap());
            flush(&socket, &[], 0, "after the cause has ended");
            end(mirror);
        }
    });
}

fn end(mirror: Mirror) {
    mirror.terminate();
}

#[test]
fn a_full_receiver_heals_when_it_has_room() {
    story(
        "a_full_receiver_heals_when_it_has_room",
        Fs::Tmpfs,
        "d/small",
        &[libc::ENOSPC],
        |_, mounted| mounted.resize("64k"),
        |src| fs::write(src.join("d/small"), whole(1, 1, 300_000)).unwrap(),
        |_, mounted| mounted.resize("50m"),
    );
}

/// A directory that cannot be made is tried as often as anything else, whatever of it was on its way already; what is told is why it could not be made.
#[test]
fn a_directory_that_cannot_be_made_waits_with_back_off() {
    trouble(
        "a_directory_that_cannot_be_made_waits_with_back_off",
        (Fs::Tmpfs, Way::Local),
        |_| {},
        |place, mounted, _| {
            mounted.remount("ro").unwrap();
            fs::create_dir_all(place.src.join("new/sub")).unwrap();
            fs::write(place.src.join("new/file"), "text").unwrap();
            let told = until_status(&socket(place), "a third try", |status| {
                failures(status).iter().any(|failure| failure["path"] == "new" && failure["tries"] == 3)
            });
            assert!(failures(&told).iter().all(|failure| failure["errno"] == libc::EROFS), "{told:#}");
            let lines = log_lines(&log(place), "failed", "new");
            let told: Vec<_> =
                lines.iter().map(|line| (line["tries"].as_u64(), line["next_try_seconds"].as_f64().map(f64::round))).collect();
            assert_eq!(told, [(Some(1), Some(1.0)), (Some(2), Some(2.0)), (Some(3), Some(4.0))], "{lines:#?}");
            assert!(lines.iter().all(|line| line["operation"] == "mkdir" && line["errno"] == libc::EROFS), "{lines:#?}");
            mounted.remount("rw").unwrap();
        },
    );
}

/// Somebody removes a directory of the mirror, which then is read-only for a while: in the end nothing is in trouble, neither what was made again nor what had nothing to be done.
#[test]
fn what_was_removed_from_a_read_only_mirror_heals() {
    let make = |src: &Path| {
        fs::create_dir_all(src.join("d/e/g")).unwrap();
        for file in ["d/f", "d/e/f", "d/e/g/f"] {
            fs::write(src.join(file), file).unwrap();
        }
    };
    trouble("what_was_removed_from_a_read_only_mirror_heals", (Fs::Tmpfs, Way::Local), make, |place, mounted, _| {
        fs::remove_dir_all(place.dst.join("d")).unwrap();
        mounted.remount("ro").unwrap();
        let mut n = 0;
        until_status(&socket(place), "a fourth try", |status| {
            n += 1;
            fs::write(place.src.join("d/e/new"), n.to_string()).unwrap();
            failures(status).iter().any(|failure| failure["tries"].as_u64() >= Some(4))
        });
        mounted.remount("rw").unwrap();
    });
}

/// Somebody removes a directory of the mirror: what cannot be written into it shows that, and it is made again with all that it held.
#[test]
fn a_directory_that_is_removed_from_the_mirror_is_made_again() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        fs::create_dir_all(place.src.join("d/e")).unwrap();
        for file in ["d/f", "d/e/f"] {
            fs::write(place.src.join(file), file).unwrap();
        }
        let mirror = mirror(way, &place, &[]);
        let socket = socket(&place);
        // Deeper than directories are looked for one by one.
        let deep = "a/b/c/d/e/f/g/h/i/j/k/l/m/n";
        fs::create_dir_all(place.src.join(deep)).unwrap();
        let in_deep = format!("{deep}/new");
        for (dir, change) in [("a", &in_deep[..]), ("d", "d/new"), ("d/e", "d/e/new"), ("d", "d/e/newer")] {
            live(&socket);
            fs::remove_dir_all(place.dst.join(dir)).unwrap();
            fs::write(place.src.join(change), "new").unwrap();
            mirror.settle(change);
            until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        }
        mirror.terminate();
    }
}

/// What fits goes on while what does not waits, and a large file that does not fit holds up nothing.
#[test]
fn what_fits_goes_on_beside_what_does_not() {
    const NAME: &str = "what_fits_goes_on_beside_what_does_not";
    privately(NAME, || {
        let place = Place::new();
        let mounted = match Mounted::new(Fs::Tmpfs, &place.dst) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(NAME, e),
        };
        mounted.resize("4m");
        let mirror = mirror(Way::Tcp, &place, &[]);
        let socket = socket(&place);
        live(&socket);
        fs::write(place.src.join("large"), whole(1, 1, 9 << 20)).unwrap();
        until_status(&socket, "failing", |status| status["receivers"][0]["failures"][0]["path"] == "large");
        for n in 0..20 {
            fs::write(place.src.join(format!("small{n}")), n.to_string()).unwrap();
            // While the large one is tried again, there is no room for a moment.
            let came = || fs::read(place.dst.join(format!("small{n}"))).is_ok_and(|bytes| bytes == n.to_string().as_bytes());
            assert!(until(deadline(), came), "small{n} does not come: {}", mirror.stderr());
        }
        flush(&socket, &["--timeout", "100"], 23, "beside a large file that does not fit");
        mounted.resize("50m");
        mirror.settle("after room was made");
        mirror.terminate();
    });
}

/// The mirror's directory is somebody else's, who lets us write to it: its times cannot be set, and what is in it is mirrored.
#[test]
fn a_large_file_comes_into_a_directory_of_somebody_else() {
    const NAME: &str = "a_large_file_comes_into_a_directory_of_somebody_else";
    if !is_root() {
        return skipped(NAME, "needs root");
    }
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new().for_user();
        fs::write(place.src.join("large"), whole(1, 1, 9 << 20)).unwrap();
        chown(&place.dst, Some(0), Some(USER)).unwrap();
        fs::set_permissions(&place.dst, fs::Permissions::from_mode(0o775)).unwrap();
        let told = once(As::User, way, &place, &[], 23);
        assert!(told.contains("set metadata") && !told.contains("large"), "{told}");
        assert_eq!(fs::read_dir(&place.dst).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["large"]);
        assert!(fs::read(place.dst.join("large")).unwrap() == whole(1, 1, 9 << 20));
    }
}

/// What is left of ours in a directory that is to go, and cannot be removed, is told of.
#[test]
fn a_leftover_that_keeps_a_directory_from_going_is_told() {
    const NAME: &str = "a_leftover_that_keeps_a_directory_from_going_is_told";
    if !is_root() {
        return skipped(NAME, "needs root");
    }
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new().for_user();
        fs::write(place.src.join("kept"), "kept").unwrap();
        let temp = place.dst.join("gone/.ringsync-staging-0123456789abcdef");
        fs::create_dir_all(temp.join("of root")).unwrap();
        // Other tests of this process may have changed what is left out of new ones' permissions.
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o755)).unwrap();
        chown(place.dst.join("gone"), Some(USER), Some(USER)).unwrap();
        let told = once(As::User, way, &place, &[], 23);
        assert!(told.contains("gone: rmdir: Permission denied"), "{told}");
        fs::remove_dir_all(temp).unwrap();
        once(As::User, way, &place, &[], 0);
        assert!(!place.dst.join("gone").exists());
    }
}

/// Nobody waits for the other names of what cannot be read: each is told of, and the run ends.
#[test]
fn a_file_of_three_names_that_cannot_be_read_holds_up_nothing() {
    for (way, len) in [(Way::Local, 1), (Way::Tcp, 9 << 20)] {
        let place = if is_root() { Place::new().for_user() } else { Place::new() };
        let file = place.src.join("a");
        fs::write(&file, whole(1, 1, len)).unwrap();
        ["b", "c"].into_iter().for_each(|name| fs::hard_link(&file, place.src.join(name)).unwrap());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        fs::write(place.src.join("other"), "other").unwrap();
        let told = once(As::User, way, &place, &[], 23);
        for name in ["a", "b", "c"] {
            assert!(told.contains(&format!("{name}: read: Permission denied")), "{name}: {told}");
            assert!(!place.dst.join(name).exists(), "{name}");
        }
        assert_eq!(fs::read(place.dst.join("other")).unwrap(), b"other");
    }
}

/// Files that can be written and not read are written all the time: each change is a try, and none of them is waited for.
#[test]
fn files_that_fail_again_with_each_change_delay_no_flush() {
    let place = if is_root() { Place::new().for_user() } else { Place::new() };
    let logs: Vec<_> = (0..40).map(|n| place.src.join(format!("log{n}"))).collect();
    for log in &logs {
        fs::write(log, "x").unwrap();
        fs::set_permissions(log, fs::Permissions::from_mode(0o222)).unwrap();
    }
    let socket = socket(&place);
    let mirror = Mirror::start(As::User, Way::Tcp, &place, &["--control", socket.to_str().unwrap()]);
    live(&socket);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for log in logs.iter().cycle().take_while(|_| !ended.load(Ordering::Relaxed)) {
                fs::OpenOptions::new().append(true).open(log).unwrap().write_all(b"x").unwrap();
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        until_status(&socket, "failing again", |status| status["receivers"][0]["failures"][0]["tries"].as_u64() > Some(2));
        for n in 0..20 {
            fs::write(place.src.join(format!("other{n}")), "other").unwrap();
            flush(&socket, &["--timeout", "100"], 23, "beside what fails again and again");
            assert!(place.dst.join(format!("other{n}")).exists(), "{n}");
        }
        ended.store(true, Ordering::Relaxed);
    });
    logs.iter().for_each(|log| fs::set_permissions(log, fs::Permissions::from_mode(0o644)).unwrap());
    mirror.settle("when they can be read");
    mirror.terminate();
}

/// The same where they cannot be written.
#[test]
fn a_file_of_three_names_that_does_not_fit_holds_up_nothing() {
    const NAME: &str = "a_file_of_three_names_that_does_not_fit_holds_up_nothing";
    privately(NAME, || {
        for len in [300_000, 9 << 20] {
            let place = Place::new();
            let mounted = match Mounted::new(Fs::Tmpfs, &place.dst) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            mounted.resize("64k");
            fs::write(place.src.join("a"), whole(1, 1, len)).unwrap();
            ["b", "c"].into_iter().for_each(|name| fs::hard_link(place.src.join("a"), place.src.join(name)).unwrap());
            let mirror = mirror(Way::Tcp, &place, &[]);
            let socket = socket(&place);
            live(&socket);
            until_status(&socket, "failing", |status| status["receivers"][0]["failing"] == 3);
            flush(&socket, &["--timeout", "100"], 23, "beside names that do not fit");
            mounted.resize("50m");
            mirror.settle("after room was made");
            mirror.terminate();
        }
    });
}

#[test]
fn a_receiver_that_is_read_only_for_a_while_heals() {
    story(
        "a_receiver_that_is_read_only_for_a_while_heals",
        Fs::Tmpfs,
        "d/new",
        &[libc::EROFS],
        |dst, _| run("mount", &["-o", "remount,ro", dst.to_str().unwrap()]),
        |src| fs::write(src.join("d/new"), "new").unwrap(),
        |dst, _| run("mount", &["-o", "remount,rw", dst.to_str().unwrap()]),
    );
}

#[test]
fn a_file_that_is_immutable_in_the_mirror_heals_when_it_is_not() {
    story(
        "a_file_that_is_immutable_in_the_mirror_heals_when_it_is_not",
        Fs::Ext4,
        "d/old",
        &[libc::EPERM],
        |dst, _| run("chattr", &["+i", dst.join("d/old").to_str().unwrap()]),
        |src| {
            fs::write(src.join("d/old"), "another content").unwrap();
            fs::write(src.join("d/beside"), "x").unwrap();
        },
        |dst, _| run("chattr", &["-i", dst.join("d/old").to_str().unwrap()]),
    );
}

/// Deleted with the directory that it is in, and immutable: the directory is what fails.
#[test]
fn a_deletion_below_a_deleted_directory_is_told_and_heals() {
    story(
        "a_deletion_below_a_deleted_directory_is_told_and_heals",
        Fs::Ext4,
        "d",
        &[libc::EPERM],
        |dst, _| run("chattr", &["+i", dst.join("d/old").to_str().unwrap()]),
        |src| {
            // Else the source would be empty, and its deletions held.
            fs::write(src.join("keep"), "x").unwrap();
            fs::remove_dir_all(src.join("d")).unwrap();
        },
        |dst, _| run("chattr", &["-i", dst.join("d/old").to_str().unwrap()]),
    );
}

/// A file takes the place of a directory that holds what is immutable: it is told where that is, and that goes as soon as it can.
#[test]
fn what_was_replaced_and_cannot_be_deleted_is_told_and_goes() {
    let make = |src: &Path| {
        // Else the source would be empty for a moment, and its deletions held.
        fs::write(src.join("keep"), "x").unwrap();
        fs::create_dir_all(src.join("d/e")).unwrap();
        fs::write(src.join("d/e/old"), "old").unwrap();
    };
    trouble("what_was_replaced_and_cannot_be_deleted_is_told_and_goes", (Fs::Ext4, Way::Tcp), make, |place, _, _| {
        let socket = socket(place);
        run("chattr", &["+i", place.dst.join("d/e/old").to_str().unwrap()]);
        fs::remove_dir_all(place.src.join("d")).unwrap();
        fs::write(place.src.join("d"), "file").unwrap();
        let replaced = |failure: &Value| failure["operation"] == "delete what was replaced" && failure["errno"] == libc::EPERM;
        let told = until_status(&socket, "failing", |status| failures(status).iter().any(replaced));
        let parked = failures(&told).iter().find(|failure| replaced(failure)).unwrap()["path"].as_str().unwrap().to_owned();
        flush(&socket, &["--timeout", "100"], 23, "beside what fails");
        assert_eq!(fs::read(place.dst.join("d")).unwrap(), b"file");
        run("chattr", &["-i", place.dst.join(&parked).join("e/old").to_str().unwrap()]);
        until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        assert!(!place.dst.join(&parked).exists(), "{parked}");
    });
}

/// More than go with one cycle: none of them is told healed because another cycle, about its neighbours, is acknowledged.
#[test]
fn many_that_fail_are_named_once_and_not_healed_by_their_neighbours() {
    const MANY: usize = 3000;
    trouble(
        "many_that_fail_are_named_once_and_not_healed_by_their_neighbours",
        (Fs::Tmpfs, Way::Local),
        |_| {},
        |place, mounted, mirror| {
            mounted.remount("ro").unwrap();
            (0..MANY).for_each(|n| fs::write(place.src.join(format!("f{n}")), n.to_string()).unwrap());
            until_status(&socket(place), "a fourth try of all", |status| {
                let tried = failures(status).iter().all(|failure| failure["tries"].as_u64() >= Some(4));
                status["receivers"][0]["failing"].as_u64() >= Some(MANY as u64) && tried
            });
            assert!(!fs::read_to_string(log(place)).unwrap().contains("\"healed\""));
            let said = mirror.stderr().lines().filter(|line| line.contains("it is tried again")).count();
            assert!((MANY..=MANY + 1).contains(&said), "{said}");
            mounted.remount("rw").unwrap();
        },
    );
}
