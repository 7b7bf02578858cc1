//! Sources of which a part is mounted, unmounted and mounted again while they are mirrored: what is there is mirrored, and what is missing with a mount is not deleted.
//!
//! Each test mounts in a namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::control::{ask, flush, live, mirror, socket, until_status};
use crate::mirror::watches;
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, skipped};
use crate::program::{As, Mirror, Way, once};

/// A disk that can be mounted at several places, with three entries, and the place of a mirror.
struct Disk {
    place: Place,
    at: PathBuf,
    _mounted: Mounted,
}

impl Disk {
    fn new(name: &str) -> Option<Self> {
        let place = Place::new();
        let at = place.beside("disk");
        fs::create_dir(&at).unwrap();
        match Mounted::new(Fs::Tmpfs, &at) {
            Ok(mounted) => {
                fs::create_dir(at.join("d")).unwrap();
                for file in ["f", "d/f"] {
                    fs::write(at.join(file), file).unwrap();
                }
                Some(Self { place, at, _mounted: mounted })
            }
            Err(e) => {
                skipped(name, e);
                None
            }
        }
    }

    fn mount(&self, at: &Path) -> Mounted {
        Mounted::bind(&self.at, at).unwrap()
    }
}

fn cause(status: &Value) -> Option<&str> {
    status["receivers"][0]["held"]["cause"].as_str()
}

fn each_watcher(name: &str, test: impl Fn(Disk, &str) + Send + Sync) {
    privately(name, || {
        for watch in watches() {
            let Some(disk) = Disk::new(name) else { return };
            test(disk, watch);
        }
    });
}

fn live_mirror(place: &Place, watch: &str) -> (Mirror, PathBuf) {
    let (mirror, socket) = (mirror(Way::Local, place, &["--watch", watch]), socket(place));
    live(&socket);
    (mirror, socket)
}

#[test]
fn what_was_mounted_in_the_source_stays_until_it_is_back() {
    each_watcher("what_was_mounted_in_the_source_stays_until_it_is_back", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir(src.join("data")).unwrap();
        let (mirror, socket) = live_mirror(&disk.place, watch);
        let mounted = disk.mount(&src.join("data"));
        flush_until_equal(&mirror, &socket, "mounted while it is mirrored");
        assert!(dst.join("data/d/f").exists());

        drop(mounted);
        let fails = |status: &Value| status["receivers"][0]["failures"][0]["path"] == "data";
        let told = until_status(&socket, "in trouble", fails);
        assert_eq!(told["receivers"][0]["failures"][0]["errno"], libc::ENODEV, "{told:#}");
        // The rest goes on, and whoever looks at everything again finds nothing to delete.
        fs::write(src.join("new"), "new").unwrap();
        fs::write(disk.at.join("d/g"), "written elsewhere").unwrap();
        fs::remove_file(disk.at.join("f")).unwrap();
        flush(&socket, &[], 23, "without the mount");
        assert!(dst.join("new").exists() && dst.join("data/d/f").exists());

        let mounted = disk.mount(&src.join("data"));
        flush_until_equal(&mirror, &socket, "mounted again");
        fs::write(src.join("data/d/h"), "watched").unwrap();
        mirror.settle("changed where it is mounted again");

        drop(mounted);
        until_status(&socket, "in trouble again", fails);
        let (code, said) = ask(&socket, "approve", &[]);
        assert!(code == 0 && said.contains("4 entries"), "{code} {said}");
        flush(&socket, &[], 0, "approved");
        mirror.settle("approved");
        assert!(!dst.join("data/d").exists());
        mirror.terminate();
    });
}

/// The watcher hears of a mount in its own time: a flush may come first.
fn flush_until_equal(mirror: &Mirror, socket: &Path, when: &str) {
    mirror.settle(when);
    flush(socket, &[], 0, when);
    mirror.settle(when);
}

/// New rules begin a session that knows of no mount.
#[test]
fn a_session_that_begins_without_the_mount_deletes_nothing() {
    each_watcher("a_session_that_begins_without_the_mount_deletes_nothing", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir(src.join("data")).unwrap();
        let mounted = disk.mount(&src.join("data"));
        let rules = disk.place.beside("rules");
        fs::write(&rules, "*.tmp\n").unwrap();
        let mirror = mirror(Way::Local, &disk.place, &["--watch", watch, "--exclude-from", rules.to_str().unwrap()]);
        let socket = socket(&disk.place);
        live(&socket);
        drop(mounted);
        until_status(&socket, "in trouble", |status| status["receivers"][0]["failures"][0]["path"] == "data");
        fs::write(&rules, "*.temp\n").unwrap();
        mirror.program.lock().unwrap().signal(Signal::SIGHUP);
        until_status(&socket, "held", |status| status["state"] == "held" && cause(status) == Some("unmounted"));
        assert!(dst.join("data/d/f").exists());
        let mounted = disk.mount(&src.join("data"));
        until_status(&socket, "live", |status| status["state"] == "live");
        mirror.settle("mounted again");
        mirror.terminate();
        drop(mounted);
    });
}

#[test]
fn what_was_mounted_in_a_source_that_was_away_is_not_deleted() {
    each_watcher("what_was_mounted_in_a_source_that_was_away_is_not_deleted", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        let whole = disk.place.beside("whole");
        fs::create_dir_all(whole.join("data")).unwrap();
        fs::write(whole.join("f"), "f").unwrap();
        let outer = Mounted::bind(&whole, src).unwrap();
        let inner = disk.mount(&src.join("data"));
        let (mirror, socket) = live_mirror(&disk.place, watch);
        assert!(dst.join("data/d/f").exists());

        drop((inner, outer));
        until_status(&socket, "lost", |status| cause(status) == Some("source_lost"));
        let outer = Mounted::bind(&whole, src).unwrap();
        let held =
            until_status(&socket, "held", |status| cause(status) == Some("unmounted") && status["receivers"][0]["held"]["count"] != 0);
        assert_eq!(held["receivers"][0]["held"]["count"], 3, "{held:#}");
        fs::write(src.join("new"), "new").unwrap();
        flush(&socket, &[], 25, "the rest goes on");
        assert!(dst.join("new").exists() && dst.join("data/d/f").exists());

        let inner = disk.mount(&src.join("data"));
        until_status(&socket, "live", |status| status["state"] == "live");
        fs::write(src.join("data/d/g"), "g").unwrap();
        mirror.settle("all is mounted again");
        mirror.terminate();
        drop((inner, outer));
    });
}

/// A host that starts: the mirror comes before the disk.
#[test]
fn a_disk_that_is_mounted_late_is_mirrored() {
    each_watcher("a_disk_that_is_mounted_late_is_mirrored", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        let mounted = disk.mount(src);
        once(As::Us, Way::Local, &disk.place, &[], 0);
        drop(mounted);
        let mirror = mirror(Way::Local, &disk.place, &["--watch", watch]);
        let socket = socket(&disk.place);
        until_status(&socket, "held", |status| cause(status) == Some("emptied"));
        assert!(dst.join("d/f").exists());
        let mounted = disk.mount(src);
        until_status(&socket, "live", |status| status["state"] == "live");
        fs::write(src.join("d/g"), "g").unwrap();
        mirror.settle("mounted");
        mirror.terminate();
        drop(mounted);
    });
}

fn in_trouble(status: &Value) -> bool {
    status["receivers"][0]["failures"].as_array().is_some_and(|all| all.iter().any(|failure| failure["errno"] == libc::ENODEV))
}

fn connected_again(status: &Value) -> bool {
    ["live", "held"].iter().any(|state| status["state"] == *state) && status["receivers"][0]["reconnects"] != 0
}

#[test]
fn a_mount_that_is_back_as_it_was_is_no_trouble_any_more() {
    each_watcher("a_mount_that_is_back_as_it_was_is_no_trouble_any_more", |disk, watch| {
        let src = &disk.place.src;
        fs::create_dir(src.join("data")).unwrap();
        let mounted = disk.mount(&src.join("data"));
        let (mirror, socket) = live_mirror(&disk.place, watch);
        drop(mounted);
        until_status(&socket, "in trouble", in_trouble);
        let mounted = disk.mount(&src.join("data"));
        until_status(&socket, "healed", |status| status["receivers"][0]["failing"] == 0);
        flush(&socket, &[], 0, "mounted again");
        mirror.settle("mounted again");
        mirror.terminate();
        drop(mounted);
    });
}

/// The receiver is away, and does not know the mirror when it is back: neither does the sender any more.
#[test]
fn what_is_unmounted_without_a_receiver_is_held() {
    each_watcher("what_is_unmounted_without_a_receiver_is_held", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir(src.join("data")).unwrap();
        let mounted = disk.mount(&src.join("data"));
        let mut mirror = mirror(Way::Tcp, &disk.place, &["--watch", watch]);
        let socket = socket(&disk.place);
        live(&socket);
        mirror.server.as_mut().unwrap().program().signal(Signal::SIGKILL);
        until_status(&socket, "reconnecting", |status| status["state"] == "reconnecting");
        drop(mounted);
        mirror.server.as_mut().unwrap().kill_and_restart();
        until_status(&socket, "held", |status| cause(status) == Some("unmounted") && status["receivers"][0]["held"]["count"] != 0);
        assert!(dst.join("data/d/f").exists());
        let mounted = disk.mount(&src.join("data"));
        until_status(&socket, "live", |status| status["state"] == "live");
        mirror.settle("mounted again");
        mirror.terminate();
        drop(mounted);
    });
}

/// Deletions beyond the limit are approved: what is missing with the mount is not meant. Nor is it let go when as much is back as the limit allows.
#[test]
fn a_limit_on_deletions_does_not_hide_what_is_unmounted() {
    each_watcher("a_limit_on_deletions_does_not_hide_what_is_unmounted", |disk, watch| {
        let (src, dst, aside) = (&disk.place.src, &disk.place.dst, disk.place.beside("aside"));
        for dir in [&src.join("data"), &aside] {
            fs::create_dir(dir).unwrap();
        }
        let names = ["a", "b", "c", "e", "g"];
        for name in names.iter().chain(&["h", "i"]) {
            fs::write(src.join(name), name).unwrap();
        }
        let away = |there: bool| {
            for name in names {
                let (from, to) = if there { (&aside, src) } else { (src, &aside) };
                fs::rename(from.join(name), to.join(name)).unwrap();
            }
        };
        let mounted = disk.mount(&src.join("data"));
        let mut mirror = mirror(Way::Tcp, &disk.place, &["--watch", watch, "--max-delete", "3"]);
        let socket = socket(&disk.place);
        live(&socket);
        drop(mounted);
        until_status(&socket, "in trouble", in_trouble);
        away(false);
        until_status(&socket, "held", |status| cause(status) == Some("max_delete"));
        flush(&socket, &[], 23, "held, and in trouble");
        assert_eq!(ask(&socket, "approve", &[]).0, 0);
        flush(&socket, &[], 23, "approved");
        assert!(!dst.join("a").exists() && dst.join("data/d/f").exists());

        away(true);
        mirror.server.as_mut().unwrap().program().signal(Signal::SIGKILL);
        until_status(&socket, "reconnecting", |status| status["state"] == "reconnecting");
        away(false);
        mirror.server.as_mut().unwrap().kill_and_restart();
        until_status(&socket, "connected again", connected_again);
        away(true);
        until_status(&socket, "held", |status| cause(status) == Some("unmounted") && status["receivers"][0]["held"]["count"] == 3);
        flush(&socket, &[], 25, "all is back but what was mounted");
        assert!(dst.join("data/d/f").exists());
        let mounted = disk.mount(&src.join("data"));
        until_status(&socket, "live", |status| status["state"] == "live");
        mirror.settle("mounted again");
        mirror.terminate();
        drop(mounted);
    });
}

/// Something else in the mirror has to be listed again, and a directory that had a mount goes for good: nothing is held for that.
#[test]
fn what_has_nothing_to_do_with_the_mount_is_not_held() {
    each_watcher("what_has_nothing_to_do_with_the_mount_is_not_held", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir_all(src.join("p/data")).unwrap();
        for name in ["r/q", "z"] {
            fs::create_dir_all(src.join(name)).unwrap();
            fs::write(src.join(name).join("f"), "f").unwrap();
        }
        let mounted = disk.mount(&src.join("p/data"));
        let rules = disk.place.beside("rules");
        fs::write(&rules, "*.none\n").unwrap();
        let rules_at = rules.to_str().unwrap();
        let mirror = mirror(Way::Local, &disk.place, &["--watch", watch, "--delete-excluded", "--exclude-from", rules_at]);
        let socket = socket(&disk.place);
        live(&socket);
        drop(mounted);
        until_status(&socket, "in trouble", in_trouble);
        fs::remove_dir_all(dst.join("r/q")).unwrap();
        fs::write(src.join("r/q/new"), "new").unwrap();
        until_status(&socket, "mended", |_| dst.join("r/q/new").exists() && dst.join("r/q/f").exists());
        fs::remove_file(src.join("z/f")).unwrap();
        until_status(&socket, "deleted", |status| !dst.join("z/f").exists() && status["state"] == "live");
        assert!(dst.join("p/data/d/f").exists());

        fs::remove_dir_all(src.join("p")).unwrap();
        mirror.settle("without the mount point");
        fs::write(src.join("y.tmp"), "y").unwrap();
        mirror.settle("with a file that is to be excluded");
        fs::write(&rules, "*.tmp\n").unwrap();
        mirror.program.lock().unwrap().signal(Signal::SIGHUP);
        until_status(&socket, "excluded", |status| !dst.join("y.tmp").exists() && status["state"] == "live");
        // It lacks what is excluded.
        let mut program = mirror.program.lock().unwrap();
        program.terminate();
        drop(program);
    });
}

/// It was mounted while the mirror was live, and the receiver stood still when it went: nobody has looked.
#[test]
fn what_is_unmounted_while_the_receiver_stands_still_is_held() {
    each_watcher("what_is_unmounted_while_the_receiver_stands_still_is_held", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir(src.join("data")).unwrap();
        let mut mirror = mirror(Way::Tcp, &disk.place, &["--watch", watch]);
        let socket = socket(&disk.place);
        live(&socket);
        let mounted = disk.mount(&src.join("data"));
        flush_until_equal(&mirror, &socket, "mounted");
        mirror.server.as_mut().unwrap().program().signal(Signal::SIGSTOP);
        let sent = |status: &Value| status["receivers"][0]["cycle_sent"].as_u64().unwrap();
        let mut before = u64::MAX;
        // Until no more is sent.
        until_status(&socket, "standing still", |status| {
            let now = sent(status);
            fs::write(src.join(format!("w{now}")), before.to_string()).unwrap();
            let stands = now == before && status["dirty"] != 0;
            before = now;
            stands
        });
        drop(mounted);
        mirror.server.as_mut().unwrap().kill_and_restart();
        until_status(&socket, "held", |status| cause(status) == Some("unmounted") && status["receivers"][0]["held"]["count"] != 0);
        assert!(dst.join("data/d/f").exists());
        let mounted = disk.mount(&src.join("data"));
        until_status(&socket, "live", |status| status["state"] == "live");
        mirror.settle("mounted again");
        mirror.terminate();
        drop(mounted);
    });
}

/// What was approved, or is excluded, is missed no more.
#[test]
fn a_mount_of_no_interest_holds_nothing_later() {
    each_watcher("a_mount_of_no_interest_holds_nothing_later", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        for dir in ["data", "skip/data"] {
            fs::create_dir_all(src.join(dir)).unwrap();
        }
        let mounted = (disk.mount(&src.join("data")), disk.mount(&src.join("skip/data")));
        fs::write(src.join("y.tmp"), "y").unwrap();
        let rules = disk.place.beside("rules");
        fs::write(&rules, "/skip\n").unwrap();
        let rules_at = rules.to_str().unwrap();
        let mirror = mirror(Way::Local, &disk.place, &["--watch", watch, "--delete-excluded", "--exclude-from", rules_at]);
        let socket = socket(&disk.place);
        live(&socket);
        drop(mounted);
        until_status(&socket, "in trouble", in_trouble);
        assert_eq!(ask(&socket, "approve", &[]).0, 0);
        flush(&socket, &[], 0, "approved");
        assert!(!dst.join("data/d").exists());
        fs::write(&rules, "/skip\n*.tmp\n").unwrap();
        mirror.program.lock().unwrap().signal(Signal::SIGHUP);
        until_status(&socket, "excluded", |status| !dst.join("y.tmp").exists() && status["state"] == "live");
        let mut program = mirror.program.lock().unwrap();
        program.terminate();
        drop(program);
    });
}

/// The receiver was away, and so was the mount, for a moment: all is there again when the session begins anew, and nothing is held.
#[test]
fn a_mount_that_was_away_with_the_receiver_holds_nothing() {
    each_watcher("a_mount_that_was_away_with_the_receiver_holds_nothing", |disk, watch| {
        let (src, dst) = (&disk.place.src, &disk.place.dst);
        fs::create_dir(src.join("data")).unwrap();
        fs::write(src.join("gone"), "gone").unwrap();
        let mounted = disk.mount(&src.join("data"));
        let mut mirror = mirror(Way::Tcp, &disk.place, &["--watch", watch]);
        let socket = socket(&disk.place);
        live(&socket);
        mirror.server.as_mut().unwrap().program().signal(Signal::SIGKILL);
        until_status(&socket, "reconnecting", |status| status["state"] == "reconnecting");
        drop(mounted);
        let mounted = disk.mount(&src.join("data"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        fs::remove_file(src.join("gone")).unwrap();
        mirror.server.as_mut().unwrap().kill_and_restart();
        let told = until_status(&socket, "back", |status| matches!(status["state"].as_str(), Some("live" | "held")));
        assert_eq!(told["state"], "live", "{watch}: {:?}", cause(&told));
        assert!(!dst.join("gone").exists());
        mirror.terminate();
        drop(mounted);
    });
}
