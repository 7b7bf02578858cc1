//! Nothing is sent where nothing differs: after a reconnect, and after a manifest of a part that was asked for in vain.

use ringsync::model::op::Section;

use super::*;

impl Sim {
    /// A new session over an equal mirror, as far as length and time tell; what it sends that it should not.
    pub(super) fn reconnect(&mut self) -> Option<String> {
        let before = self.cycles;
        self.connect();
        if !self.rest() {
            return Some("does not come to rest after a reconnect".into());
        }
        (self.cycles != before).then(|| format!("{} cycles after a reconnect over an equal mirror", self.cycles - before))
    }
}

/// A directory `d` with the entries `x`, `y` and `e/f`, mirrored; nothing fails.
fn mirrored(seed: u64, watcher: Watcher) -> Sim {
    let mut sim = Sim::new(seed, watcher);
    *sim.calm.lock().unwrap() = true;
    let root = sim.source.dirs()[0];
    let directory = |sim: &mut Sim, at, name: &[u8]| sim.source.create(at, name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    let d = directory(&mut sim, root, b"d");
    let e = directory(&mut sim, d, b"e");
    for (at, name) in [(d, b"x"), (d, b"y"), (e, b"f")] {
        sim.source.create(at, name, Body::File(Arc::new(name.to_vec())), Kind::File, 0o644).unwrap();
    }
    // The clock moves on, so that nothing is in doubt.
    sim.source.now_ns += 3 * TICK_NS;
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    sim
}

/// The receiver says that it could not do what it did, and the planner asks for the manifest of the directory: it tells that all is well.
#[test]
fn a_manifest_of_a_part_that_is_equal_is_followed_by_nothing() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let root = sim.source.dirs()[0];
        let d = sim.source.entries(root)[&b"d"[..]];
        sim.source.remove(d, b"x");
        // The receiver's report on the cycle that removes the file: of its operation, which is the first one.
        let mut under = None;
        while sim.acks.is_empty() {
            if let Some(Sent::Cycle(u)) = sim.sent.front() {
                under = Some(u.cycle.clone());
            }
            sim.step();
        }
        assert!(matches!(under.unwrap().post[..], [Op::Unlink { .. }, Op::DirMeta { .. }]), "seed {seed}");
        sim.acks[0].1.push(OpError { section: Section::Post, index: 0, errno: libc::EISDIR });
        let listed = |sent: &Sent| if let Sent::List(dir) = sent { Some(dir.to_string()) } else { None };
        let asked = loop {
            sim.step();
            if let Some(dir) = sim.sent.iter().find_map(listed) {
                break dir;
            }
        };
        assert_eq!(asked, "d", "seed {seed}");
        let before = sim.cycles;
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.cycles - before), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}

/// What was moved, to a directory that was there or to one that was just made, is moved in the mirror, and not sent again.
#[test]
fn what_is_moved_is_not_sent_again() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let root = sim.source.dirs()[0];
        let d = sim.source.entries(root)[&b"d"[..]];
        let e = sim.source.entries(d)[&b"e"[..]];
        let before = sim.puts;
        sim.source.rename(d, b"x", e, b"z");
        let new = sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        sim.source.rename(d, b"y", new, b"y");
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.puts - before), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}
