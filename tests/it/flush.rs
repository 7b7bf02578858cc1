//! `ringsync flush` on real mirrors: what was written before is there when it returns, whatever is written meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ringsync::model::path::RelPath;

use crate::compare::{Rules, compare};
use crate::control::{flush, live, mirror, socket};
use crate::mirror::watches;
use crate::mounts::{Fs, Mounted, privately};
use crate::ops::{Choice, Ops};
use crate::place::{Place, seed, skipped};
use crate::program::{As, Mirror, Way};

const WAYS: [Way; 2] = [Way::Local, Way::Tcp];

fn same(src: &Path, dst: &Path, when: &str) {
    // A staged file that was not needed in the end is dropped beside all else: what is at rest has none, and is held to it when it is.
    let rules = Rules { skip: vec![RelPath::new(b".ringsync-staging").unwrap()], ..Rules::full() };
    let differences = compare(src, dst, &rules);
    assert!(differences.is_empty(), "{when}:\n{differences}");
}

#[test]
fn after_a_flush_the_mirror_is_equal() {
    for (way, watch) in WAYS.into_iter().flat_map(|way| watches().iter().map(move |watch| (way, *watch))) {
        let seed = seed();
        println!("RINGSYNC_SEED={seed}");
        let place = Place::new();
        let mirror = mirror(way, &place, &["--watch", watch, "--allow-empty"]);
        let socket = socket(&place);
        live(&socket);
        let mut ops = Ops::new(&place.src, seed, Choice { hidden_links: watch == "fanotify", ..Choice::usual() });
        for round in 0..25 {
            ops.run(1 + round * 12);
            flush(&socket, &["--timeout", "100"], 0, "of a mirror that follows");
            // No waiting: it is equal now.
            same(&place.src, &place.dst, &format!("{watch}, {way:?}, flush {round}"));
            ops.equal();
        }
        // A flush with nothing to wait for leaves no trace in the source.
        let before = fs::metadata(&place.src).unwrap();
        flush(&socket, &[], 0, "at rest");
        let after = fs::metadata(&place.src).unwrap();
        assert_eq!((before.mtime_nsec(), before.ctime_nsec()), (after.mtime_nsec(), after.ctime_nsec()));
        mirror.settle("after the flushes");
        mirror.terminate();
    }
}

/// A writer that never rests does not keep a flush from its end, and what was written elsewhere is there.
#[test]
fn a_flush_does_not_wait_for_what_comes_later() {
    for (way, watch) in WAYS.into_iter().flat_map(|way| watches().iter().map(move |watch| (way, *watch))) {
        let place = Place::new();
        for dir in ["busy", "calm"] {
            fs::create_dir(place.src.join(dir)).unwrap();
        }
        let mirror = mirror(way, &place, &["--watch", watch]);
        let socket = socket(&place);
        live(&socket);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (ended, busy) = (&ended, place.src.join("busy"));
            scope.spawn(move || {
                for n in 0_u64.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    let dir = busy.join(format!("d{}", n % 50));
                    let _ = fs::remove_dir_all(&dir);
                    fs::create_dir(&dir).unwrap();
                    fs::write(dir.join("f"), n.to_string()).unwrap();
                    fs::write(busy.join("hot"), n.to_string()).unwrap();
                }
            });
            let all = std::panic::catch_unwind(|| {
                for round in 0..15 {
                    for n in 0..20 {
                        let dir = place.src.join(format!("calm/{round}/{n}"));
                        fs::create_dir_all(&dir).unwrap();
                        fs::write(dir.join("f"), format!("{round} {n}")).unwrap();
                    }
                    fs::write(place.src.join("calm/large"), vec![round as u8; 700_000]).unwrap();
                    flush(&socket, &["--timeout", "100"], 0, &format!("{watch}, {way:?}, beside a busy writer"));
                    same(&place.src.join("calm"), &place.dst.join("calm"), &format!("{watch}, {way:?}, flush {round}"));
                }
            });
            ended.store(true, Ordering::Relaxed);
            if let Err(panic) = all {
                std::panic::resume_unwind(panic);
            }
        });
        mirror.settle("after the writer has ended");
        mirror.terminate();
    }
}

/// One queue of each kind is in use: each has to be marked.
#[test]
fn a_flush_waits_for_both_watchers() {
    const NAME: &str = "a_flush_waits_for_both_watchers";
    privately(NAME, || {
        let place = Place::new();
        fs::create_dir(place.src.join("over")).unwrap();
        let _mounted = match Mounted::new(Fs::Overlay, &place.src.join("over")) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(NAME, e),
        };
        let mirror = mirror(Way::Local, &place, &[]);
        let socket = socket(&place);
        live(&socket);
        for round in 0..20 {
            for dir in ["", "over/"] {
                fs::create_dir_all(place.src.join(format!("{dir}{round}/deep"))).unwrap();
                fs::write(place.src.join(format!("{dir}{round}/deep/f")), "x").unwrap();
            }
            flush(&socket, &["--timeout", "100"], 0, "over two watchers");
            same(&place.src, &place.dst, &format!("flush {round}"));
        }
        mirror.terminate();
    });
}

/// Where no queue can be marked everything is looked at, and that is said.
#[test]
fn a_flush_without_a_place_for_its_mark_looks_at_everything() {
    const NAME: &str = "a_flush_without_a_place_for_its_mark_looks_at_everything";
    privately(NAME, || {
        let place = Place::within(Path::new("/var/tmp"));
        let mut kept = Vec::new();
        for dir in ["/run", "/tmp", "/dev/shm"] {
            match Mounted::new(Fs::Tmpfs, Path::new(dir)) {
                Ok(mounted) => kept.push(mounted),
                Err(e) => return skipped(NAME, e),
            }
            let done = std::process::Command::new("mount").args(["-o", "remount,ro", dir]).status().unwrap();
            assert!(done.success());
        }
        let socket = socket(&place);
        let args = ["--control", socket.to_str().unwrap()];
        let mirror = Mirror::start(As::Us, Way::Local, &place, &args);
        live(&socket);
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("d/f"), "x").unwrap();
        let said = flush(&socket, &["--timeout", "100"], 0, "without a mark");
        assert!(said.contains("everything was looked at"), "{said}");
        same(&place.src, &place.dst, "after it");
        mirror.terminate();
    });
}
