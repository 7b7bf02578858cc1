//! A move that was to replace a hard link, and that may not have been made: what the mirror has at the name may still be one object with a name elsewhere. Length and time of the
//! two files are equal, so that a manifest of the directory tells nothing.

use super::distrust::{hold_until, is_on_its_way};
use super::quiet::mirrored;
use super::*;
use crate::memtarget::Act;

/// `z` and `d/b` are one object; `d/a` is another of the same length and time. Returns the root and `d` as well.
fn twins(seed: u64, watcher: Watcher) -> (Sim, u64, u64) {
    let mut sim = mirrored(seed, watcher);
    sim.source.hides_names = true;
    let root = sim.source.dirs()[0];
    let d = sim.source.entries(root)[&b"d"[..]];
    let z = sim.source.create(root, b"z", Body::File(Arc::new(b"same".to_vec())), Kind::File, 0o644).unwrap();
    sim.source.link(d, b"b", z);
    sim.source.create(d, b"a", Body::File(Arc::new(b"same".to_vec())), Kind::File, 0o644).unwrap();
    for (dir, name) in [(root, b"z"), (d, b"a")] {
        sim.source.change_meta(dir, name, |meta| meta.mtime = Time { sec: 4321, nsec: 5 });
    }
    sim.source.now_ns += 1000 * TICK_NS;
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    sim.source.now_ns += 1000 * TICK_NS;
    (sim, root, d)
}

fn goes_to(op: &Op, name: &[u8]) -> bool {
    matches!(op, Op::Move { to, .. } if to.name.as_name().as_bytes() == name)
}

/// Goes on, without anything being received, until a move to the name is on its way; false if that does not come.
fn is_moved(sim: &mut Sim, name: &[u8]) -> bool {
    hold_until(sim, |sim| is_on_its_way(sim, |cycle| cycle.pre.iter().any(|op| goes_to(op, name))))
}

/// The names are no links of each other: a change of one is none of the other.
fn check(sim: &mut Sim, root: u64, told: &str) {
    assert!(sim.rest(), "{told}");
    assert_eq!(sim.differences(), [""; 0], "{told}");
    sim.source.change_meta(root, b"z", |meta| meta.mode = 0o600);
    assert!(sim.rest(), "{told}");
    assert_eq!(sim.differences(), [""; 0], "{told}");
}

/// With a directory made beside it, what is on its way cannot be traced.
#[test]
fn a_move_that_was_cut_off_leaves_no_false_link() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let (mut sim, root, d) = twins(seed, watcher);
        sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        sim.source.rename(d, b"a", d, b"b");
        assert!(is_moved(&mut sim, b"b") && sim.planner.can_suspend());
        sim.lose_session();
        assert!(sim.planner.suspend(sim.source.now_ns) && sim.planner.resume(ABILITIES));
        check(&mut sim, root, &format!("seed {seed}, {watcher:?}"));
    }
}

#[test]
fn a_failed_move_in_a_directory_that_moves_leaves_no_false_link() {
    let mut both = 0;
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let (mut sim, root, d) = twins(seed, watcher);
        sim.source.rename(d, b"a", d, b"b");
        let mut left = 1;
        sim.target.set_fault(Some(Box::new(move |act| {
            let fails = left > 0 && matches!(act, Act::Op(op) if goes_to(op, b"b"));
            left -= i32::from(fails);
            fails.then_some(libc::EIO)
        })));
        assert!(is_moved(&mut sim, b"b"));
        sim.source.rename(root, b"d", root, b"g");
        both += usize::from(is_moved(&mut sim, b"g"));
        check(&mut sim, root, &format!("seed {seed}, {watcher:?}"));
    }
    assert!(both > 0, "the two never were on their way together");
}

/// What moves there gets another mode at once. The mirror cannot rename, and sets the mode of what is there, which has another name elsewhere.
#[test]
fn a_failed_move_lends_its_metadata_to_no_other_name() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        for cut in [false, true] {
            let (mut sim, _, d) = twins(seed, watcher);
            sim.source.rename(d, b"a", d, b"b");
            sim.source.change_meta(d, b"b", |meta| meta.mode = 0o600);
            let mut left = 1;
            sim.target.set_fault(Some(Box::new(move |act| {
                let fails = left > 0 && matches!(act, Act::Op(op) if goes_to(op, b"b"));
                left -= i32::from(fails);
                fails.then_some(libc::EIO)
            })));
            if cut {
                while sim.acks.is_empty() {
                    sim.step();
                }
                assert!(sim.planner.can_suspend());
                sim.lose_session();
                assert!(sim.planner.suspend(sim.source.now_ns) && sim.planner.resume(ABILITIES));
            }
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}, cut off: {cut}");
        }
    }
}
