//! What fails waits longer and longer until it is healed, whatever goes on beside it.

use ringsync::plan::Turn;

use super::quiet::mirrored;
use super::*;
use crate::memtarget::Act;

impl Sim {
    /// Whether something is to be done since nobody misses what earlier sessions left parked.
    pub(super) fn forgets_past(&mut self) -> bool {
        // What waits for an unmount would keep it for good.
        if self.planner.hold().is_none() && (self.planner.failing() == 0 || self.mounts > 0) {
            let now = self.source.now_ns;
            self.planner.forget_past(now);
        }
        !self.planner.is_idle()
    }

    /// True: whatever failed and is to be tried again at some time has been.
    pub(super) fn waits_for_nothing(&self) -> bool {
        let failures = self.planner.failures(9);
        assert!(failures.iter().all(|failure| failure.next_at.is_none()), "not tried again: {failures:?}");
        true
    }
}

/// `d/new` cannot be made.
fn failing(seed: u64, watcher: Watcher) -> (Sim, u64) {
    let mut sim = mirrored(seed, watcher);
    let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
    sim.target.set_fault(Some(Box::new(|act| {
        let fails = matches!(act, Act::Op(Op::Mkdir { at, .. }) if at.name.as_bytes() == b"new");
        fails.then_some(libc::EROFS)
    })));
    sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    (sim, d)
}

fn each(seeds: u64) -> impl Iterator<Item = (u64, Watcher)> {
    (0..seeds).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)])
}

/// The receiver says that a cycle that is made after `before`, and was done without failure, met a directory where it deleted a file: a manifest is asked for.
fn is_mistold(sim: &mut Sim, before: u64) -> bool {
    let is_new = |(cycle, errors): &&mut (u64, Vec<OpError>)| *cycle > before && errors.is_empty();
    let Some((_, errors)) = sim.acks.front_mut().filter(is_new) else { return false };
    errors.push(OpError { section: Section::Post, index: 0, errno: libc::EISDIR });
    true
}

/// Cycles about its directory are on their way when the manifest of that is asked for.
#[test]
fn a_manifest_begins_no_back_off_anew() {
    for (seed, watcher) in each(40) {
        let (mut sim, d) = failing(seed, watcher);
        let mut tries = 0;
        let mut go_on = |sim: &mut Sim| {
            sim.step();
            for trouble in sim.planner.take_reports().into_iter().filter(|trouble| trouble.path.as_bytes() == b"d/new") {
                assert!(trouble.turn != Turn::Healed && trouble.tries > tries, "seed {seed}, {watcher:?}: after {tries} tries {trouble:?}");
                tries = trouble.tries;
            }
        };
        while sim.planner.failing() == 0 {
            go_on(&mut sim);
        }
        for round in 0..6 {
            let name = format!("n{round}");
            sim.source.create(d, name.as_bytes(), Body::File(Arc::new(vec![round; 9])), Kind::File, 0o644).unwrap();
            (0..200).for_each(|_| go_on(&mut sim));
            let before = sim.planner.cycles().0;
            sim.source.remove(d, name.as_bytes());
            while !is_mistold(&mut sim, before) {
                go_on(&mut sim);
            }
            sim.source.create(d, b"y", Body::File(Arc::new(vec![round; 8])), Kind::File, 0o644);
            sim.source.write(d, b"y", vec![round; 7], false);
            (0..400).for_each(|_| go_on(&mut sim));
        }
        sim.target.set_fault(None);
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.failing()), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}

/// It is gone when the manifest has come, and nobody looks at its name any more.
#[test]
fn what_failed_and_goes_while_a_manifest_comes_is_healed() {
    for (seed, watcher) in each(40) {
        let (mut sim, d) = failing(seed, watcher);
        while sim.planner.failing() == 0 {
            sim.step();
        }
        (0..200).for_each(|_| sim.step());
        while sim.planner.in_flight() > 0 {
            sim.step();
        }
        let before = sim.planner.cycles().0;
        sim.source.remove(d, b"y");
        while !is_mistold(&mut sim, before) {
            sim.step();
        }
        sim.source.remove(d, b"new");
        sim.hear();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.failing()), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}
