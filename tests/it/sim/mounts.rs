//! Filesystems mounted in the mirror of a simulation.

use super::distrust::is_on_its_way;
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::memtarget::{Act, Seen};
use ringsync::model::path::{Name, RelPath};

/// What a snapshot of the source says, by path.
type Source = BTreeMap<Vec<u8>, (Meta, Vec<u8>, u64)>;

/// How many names each object of the source that has several should have in each filesystem of the mirror.
pub(super) fn names(source: &Source, mirror: &BTreeMap<Vec<u8>, Seen>) -> HashMap<(u64, u64), usize> {
    let mut names = HashMap::new();
    for (path, (meta, _, group)) in source.iter().filter(|(_, (_, _, group))| *group != 0) {
        if let Some(there) = mirror.get(path).filter(|there| there.meta.kind == meta.kind) {
            *names.entry((*group, there.volume)).or_default() += 1;
        }
    }
    names
}

impl Sim {
    /// In every third run that has an empty mirror and no filter, mounts filesystems in the mirror, most of them where the source has a directory.
    pub(super) fn mount_some(&mut self) {
        if self.rng.chance(67) || !self.filter.is_empty() || self.target.snapshot().len() > 1 {
            return;
        }
        *self.calm.lock().unwrap() = true;
        for path in ["1", "2/3", "1/4", "5/5/5"] {
            if self.rng.chance(50) {
                continue;
            }
            let path = RelPath::new(path.as_bytes()).unwrap();
            let mut at = RelPath::root();
            let mut id = Some(self.source.dirs()[0]);
            let make = self.rng.chance(80);
            for name in path.names() {
                let spot = Spot { dir: at.clone(), name: name.to_owned() };
                let meta =
                    Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Time { sec: 1, nsec: 0 }, size: 0, rdev: 0, attrs: 0 };
                self.target.op(&Op::Mkdir { at: spot, meta }).unwrap();
                at = at.join(name).unwrap();
                let made = id.filter(|_| make).and_then(|dir| {
                    self.source.create(dir, name.as_bytes(), Body::Dir(BTreeMap::new()), Kind::Dir, 0o755);
                    self.source.entries(dir).get(name.as_bytes()).copied()
                });
                id = made.filter(|id| matches!(self.source.nodes[id].body, Body::Dir(_)));
            }
            self.target.mount(&at);
            self.mounts += 1;
        }
        *self.calm.lock().unwrap() = false;
    }

    /// Whether everything is equal but for directories that cannot go.
    pub(super) fn only_mounts_are_left(&self) -> bool {
        self.mounts > 0 && self.differences().is_empty()
    }

    /// Once nothing is mounted any more and a new session has seen it, the mirror is equal with all its links; what differs. What had to be copied before
    /// is no reason to send anything.
    pub(super) fn unmounted(&mut self) -> Vec<String> {
        let kinds = |(path, kind): (&Vec<u8>, Kind)| (path.clone(), kind);
        // Every session tries to delete what is parked and cannot go for a mount.
        let is_parked = |path: Vec<u8>| RelPath::new(&path).unwrap().names().any(Name::is_parked);
        let tries = self.target.above_mounts().into_iter().any(is_parked);
        let there: Vec<_> = self.target.snapshot().iter().map(|(path, seen)| kinds((path, seen.meta.kind))).collect();
        if !tries
            && self.source.snapshot().iter().map(|(path, (meta, ..))| kinds((path, meta.kind))).eq(there)
            && let Some(difference) = self.reconnect()
        {
            return vec![format!("while filesystems are mounted: {difference}")];
        }
        self.target.merge();
        self.mounts = 0;
        self.connect();
        let mut differences = if self.rest() { Vec::new() } else { vec!["does not come to rest after all is unmounted".to_owned()] };
        differences.extend(self.differences().into_iter().map(|difference| format!("after all is unmounted: {difference}")));
        differences
    }
}

/// A mirror with a filesystem mounted at `v`, where a large file at `x` has its other name.
fn copied(seed: u64, watcher: Watcher) -> Sim {
    let mut sim = Sim::new(seed, watcher);
    sim.cut_every = 0;
    *sim.calm.lock().unwrap() = true;
    sim.filter = Arc::new(Filter::default());
    sim.planner = Planner::new(Options::mirror(), sim.filter.clone(), seed);
    sim.source.hides_names = false;
    sim.target = MemTarget::new();
    sim.stays.clear();
    let (root, v) = (sim.source.dirs()[0], RelPath::new(b"v").unwrap());
    let dir = sim.source.create(root, b"v", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    let at = Spot { dir: RelPath::root(), name: v.names().next().unwrap().to_owned() };
    sim.target.op(&Op::Mkdir { at, meta: sim.source.nodes[&dir].meta }).unwrap();
    sim.target.mount(&v);
    sim.mounts = 1;
    let x = sim.source.create(root, b"x", Body::File(Arc::new(vec![1; INLINE_FILE_BYTES_MAX + 1])), Kind::File, 0o644).unwrap();
    sim.source.link(dir, b"x", x);
    sim.source.now_ns += 3 * TICK_NS;
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    sim
}

/// They are two files in the mirror, each sent on its own. That one is looked at while the other is on its way is nothing new, or they would be sent in turn for ever.
#[test]
fn two_copies_of_a_large_file_come_to_an_end_however_long_they_take() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = copied(seed, watcher);
        let root = sim.source.dirs()[0];
        sim.source.now_ns += 1000 * TICK_NS;
        sim.source.write(root, b"x", vec![2; INLINE_FILE_BYTES_MAX + 1], false);
        for turn in 0.. {
            assert!(turn < 40, "seed {seed}, {watcher:?}: it is sent again and again");
            // All but staging.
            for _ in 0..2000 {
                let held = std::mem::take(&mut sim.stages);
                sim.step();
                let new = std::mem::replace(&mut sim.stages, held);
                sim.stages.extend(new);
            }
            if sim.stages.is_empty() {
                break;
            }
            while !sim.stages.is_empty() {
                sim.stage_file(sim.source.now_ns);
            }
        }
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
}

/// `v/p` was in the mirror before, as it is in the end; `p`, another name of it, is new there, and was looked at in between. The change is told of `v/p` only, whose directory is still to be listed.
#[test]
fn a_copy_that_was_looked_at_too_early_is_looked_at_again() {
    let mut early = 0;
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = copied(seed, watcher);
        let root = sim.source.dirs()[0];
        let v = sim.source.entries(root)[&b"v"[..]];
        let p = sim.source.create(v, b"p", Body::Special, Kind::Fifo, 0o600).unwrap();
        assert!(sim.rest());
        sim.source.change_meta(v, b"p", |meta| meta.mode = 0o644);
        sim.source.link(root, b"p", p);
        sim.connect();
        let makes = |op: &Op| matches!(op, Op::Special { at, .. } if at.dir.is_root());
        while !is_on_its_way(&sim, |cycle| cycle.pre.iter().any(makes)) {
            sim.step();
        }
        early += usize::from(sim.planner.tree().of_ident(&sim.source.stat(p).ident).count() == 1);
        sim.source.change_meta(v, b"p", |meta| meta.mode = 0o600);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
    assert!(early > 0, "both names were always looked at together");
}

/// Two copies of one object that cannot be written are each tried when their time has come, not for each other.
#[test]
fn two_copies_that_fail_wait_with_back_off() {
    for (seed, watcher, links) in
        (0..10).flat_map(|seed| [(seed, Watcher::Fanotify, true), (seed, Watcher::Inotify, true), (seed, Watcher::Inotify, false)])
    {
        let mut sim = copied(seed, watcher);
        sim.links = links;
        sim.planner = Planner::new(Options { hard_links: links, ..Options::mirror() }, sim.filter.clone(), seed);
        let root = sim.source.dirs()[0];
        let v = sim.source.entries(root)[&b"v"[..]];
        let s = sim.source.create(root, b"s", Body::File(Arc::new(vec![1; 9])), Kind::File, 0o644).unwrap();
        sim.source.link(v, b"s", s);
        sim.connect();
        assert!(sim.rest());
        let puts = Arc::new(AtomicUsize::new(0));
        let count = puts.clone();
        sim.target.set_fault(Some(Box::new(move |act| match act {
            Act::Put(_) => {
                count.fetch_add(1, Ordering::Relaxed);
                Some(libc::ENOSPC)
            }
            _ => None,
        })));
        let began = sim.source.now_ns;
        sim.source.write(root, b"s", vec![2; 10], false);
        while sim.source.now_ns < began + 60_000_000_000 && puts.load(Ordering::Relaxed) < 100 {
            sim.step();
            if sim.planner.is_idle() {
                sim.source.now_ns = sim.source.now_ns.max(sim.planner.next_at().unwrap_or(0));
            }
        }
        let puts = puts.load(Ordering::Relaxed);
        assert!((2..=20).contains(&puts), "seed {seed}, {watcher:?}, {links}: {puts} in a minute");
        sim.target.set_fault(None);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}, {links}");
    }
}
