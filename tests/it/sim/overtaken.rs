//! News that is overtaken by a report, a failure or an answer: it is not lost, and a flush waits for it.

use super::hidden::{Hidden, OnItsWay};
use super::large::LEN;
use super::quiet::mirrored;
use super::*;
use crate::memtarget::Act;
use ringsync::model::event::Hint;
use ringsync::model::path::Name;
use ringsync::model::probe::ProbeError;
use ringsync::plan::tree::ROOT;

/// No seed leaves a difference.
fn each(seeds: u64, play: impl Fn(u64, Watcher) -> Vec<String>) {
    for (seed, watcher) in (0..seeds).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        assert_eq!(play(seed, watcher), [""; 0], "seed {seed}, {watcher:?}");
    }
}

fn of(sim: &Sim, path: &str) -> Vec<String> {
    sim.differences().into_iter().filter(|line| line.starts_with(path)).collect()
}

/// The metadata of `d` cannot be set, again and again.
fn failing(seed: u64, watcher: Watcher) -> (Sim, u64) {
    let mut sim = mirrored(seed, watcher);
    let root = sim.source.dirs()[0];
    let d = sim.source.entries(root)[&b"d"[..]];
    sim.target.set_fault(Some(Box::new(|act| {
        let fails = matches!(act, Act::Op(Op::DirMeta { dir, .. }) if dir.as_bytes() == b"d");
        fails.then_some(libc::EPERM)
    })));
    sim.source.change_meta(root, b"d", |meta| meta.mode = 0o700);
    for _ in 0..60_000 {
        sim.step();
    }
    assert!(sim.planner.failures(9).iter().any(|failing| failing.tries > 1));
    sim.source.now_ns += 2 * TICK_NS;
    (sim, d)
}

/// It has been read, gets a new name and is changed through that, and the report comes before anybody looks at the new name.
#[test]
fn a_large_file_that_was_read_and_changed_under_a_new_name_is_read_again() {
    for (linked, how) in [(false, Hidden::Mapped), (false, Hidden::SetBack), (true, Hidden::Mapped), (true, Hidden::SetBack)] {
        each(20, |seed, watcher| {
            let mut read = OnItsWay::new(seed, watcher, false);
            if linked {
                read.sim.source.link(read.dir, b"z", read.file);
            } else {
                read.sim.source.rename(read.dir, b"x", read.dir, b"z");
            }
            read.change(how, Some(b"z"));
            read.report();
            assert!(read.sim.rest());
            read.sim.differences()
        });
    }
}

/// It was read, and changed through a name in another directory under which it may be placed.
#[test]
fn a_flush_waits_for_the_second_reading_under_another_name() {
    each(40, |seed, watcher| {
        let mut read = OnItsWay::new(seed, watcher, false);
        let e = read.sim.source.entries(read.dir)[&b"e"[..]];
        read.sim.source.link(e, b"z", read.file);
        read.change(Hidden::Mapped, None);
        read.sim.source.tell(e, b"z", Hint::CLOSED);
        read.sim.hear();
        read.sim.planner.owe_all();
        read.sim.all_but_staging(3000, false);
        read.report();
        read.sim.pay();
        read.sim.differences()
    });
}

/// Once the directory of a large file that changed cannot be looked into.
#[test]
fn a_flush_waits_for_the_names_of_a_question_that_failed_once() {
    each(20, |seed, watcher| {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        sim.source.now_ns += 2 * TICK_NS;
        sim.source.write(d, b"x", vec![7; LEN], false);
        sim.hear();
        sim.planner.owe_all();
        let asked = (0..10_000).find_map(|_| {
            sim.step();
            sim.probes.iter().position(|probe| probe.dir.as_bytes() == b"d")
        });
        let probe = sim.probes.swap_remove(asked.expect("it is looked into"));
        sim.answers.push(Probed { id: probe.id, outcome: Err(ProbeError::Failed(libc::EIO)) });
        sim.pay();
        sim.differences()
    });
}

/// A file is written, and not closed, in a directory that can be entered, and whose metadata fail.
#[test]
fn a_flush_waits_for_a_file_in_a_directory_whose_metadata_fail() {
    each(20, |seed, watcher| {
        let (mut sim, d) = failing(seed, watcher);
        sim.source.write(d, b"x", b"longer than before".to_vec(), true);
        sim.hear();
        sim.planner.owe_all();
        sim.pay();
        of(&sim, "d/x")
    });
}

/// The directory is to be listed, since an event was lost, when its metadata fail once more.
#[test]
fn a_flush_waits_for_what_a_listing_finds_in_a_directory_whose_metadata_fail() {
    each(20, |seed, watcher| {
        let (mut sim, d) = failing(seed, watcher);
        sim.source.write(d, b"y", b"other text".to_vec(), false);
        while sim.acks.is_empty() {
            sim.step();
        }
        let (x, now) = (sim.source.entries(d)[&b"x"[..]], sim.source.now_ns);
        let node = sim.source.nodes.get_mut(&x).unwrap();
        node.body = Body::File(Arc::new(vec![3; LEN]));
        node.meta.mtime.sec += 1;
        sim.planner.event(Event::Overflow, now);
        sim.planner.owe_all();
        sim.acknowledge(now);
        sim.pay();
        of(&sim, "d/x")
    });
}

/// The mirror's `d/e` is removed, and a scrub begins. Returns `e` and its `f` in the source.
fn drifting(seed: u64, watcher: Watcher) -> (Sim, u64, u64) {
    let mut sim = mirrored(seed, watcher);
    let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
    let e = sim.source.entries(d)[&b"e"[..]];
    let f = sim.source.entries(e)[&b"f"[..]];
    sim.source.now_ns += 1000 * TICK_NS;
    assert!(sim.rest());
    let at = |dir: &[u8], name: &[u8]| Spot { dir: RelPath::new(dir).unwrap(), name: Name::new(name).unwrap().to_owned() };
    sim.target.op(&Op::Unlink { at: at(b"d/e", b"f") }).unwrap();
    sim.target.op(&Op::Rmdir { at: at(b"d", b"e") }).unwrap();
    sim.start_scrub(true);
    (sim, e, f)
}

/// What is waited for is in a directory that a scrub finds to be missing in the mirror meanwhile.
#[test]
fn a_flush_waits_for_what_is_in_a_directory_that_a_scrub_finds_to_be_missing() {
    let knows_f = |sim: &Sim| {
        let tree = sim.planner.tree();
        tree.child(ROOT, b"d").and_then(|d| tree.child(d, b"e")).is_some_and(|e| tree.child(e, b"f").is_some())
    };
    for seed in 0..20 {
        let (mut sim, ..) = drifting(seed, Watcher::Fanotify);
        let found = (0..50_000).find(|_| {
            sim.step();
            !knows_f(&sim)
        });
        let (mut sim, e, f) = drifting(seed, Watcher::Fanotify);
        (0..found.expect("the drift is found")).for_each(|_| sim.step());
        let now = sim.source.now_ns;
        sim.source.nodes.get_mut(&f).unwrap().body = Body::File(Arc::new(b"longer than before".to_vec()));
        let hint = Hint::WRITTEN | Hint::CLOSED;
        sim.planner.event(Event::At { key: &e.to_le_bytes(), name: b"f", hint, object: None, rename: None }, now);
        sim.planner.owe_all();
        sim.pay();
        assert_eq!(of(&sim, "d/e"), [""; 0], "seed {seed}");
    }
}
