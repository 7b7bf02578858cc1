//! Large files that change when a worker has read them and the mirror does not have them yet, so that the change shows in nothing but an event.

use super::quiet::mirrored;
use super::*;
use ringsync::model::event::Hint;

pub(super) const LEN: usize = INLINE_FILE_BYTES_MAX + 1;

impl Sim {
    /// Goes on, but for reading what is to be staged; ends as soon as there is some, if asked to.
    pub(super) fn all_but_staging(&mut self, steps: usize, until_staged: bool) {
        for _ in 0..steps {
            let held = std::mem::take(&mut self.stages);
            self.step();
            let new = std::mem::replace(&mut self.stages, held);
            self.stages.extend(new);
            if until_staged && !self.stages.is_empty() {
                return;
            }
        }
    }

    /// Reads what is to be staged, and keeps the report.
    pub(super) fn read_large(&mut self) -> StageDone {
        let task = self.stages.pop().expect("something to be staged");
        let id = self.source.open(&task.dir, &task.expect, task.name.as_bytes()).unwrap();
        let stat = self.source.stat(id);
        let Body::File(bytes) = &self.source.nodes[&id].body else { panic!("a file is staged") };
        self.target.stage(task.stage, 0, bytes).unwrap();
        let read = Read::Sent { meta: stat.meta, ctime: stat.ctime, racy: self.source.racy(&stat), changed: false };
        StageDone { stage: task.stage, node: task.node, worker: 0, read }
    }
}

/// A new large file `x` with another name `y` is read, and `change` is made, which leaves all its times as they are; the name that it was read under is told.
fn check(what: &str, change: impl Fn(&mut Sim, u64, &[u8])) {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        sim.source.in_order = watcher == Watcher::Inotify;
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        for name in [b"x", b"y"] {
            sim.source.remove(d, name);
        }
        assert!(sim.rest());
        let x = sim.source.create(d, b"x", Body::File(Arc::new(vec![1; LEN])), Kind::File, 0o644).unwrap();
        sim.source.link(d, b"y", x);
        sim.all_but_staging(3000, true);
        let name = sim.stages[0].name.as_bytes().to_vec();
        let (done, before) = (sim.read_large(), sim.source.nodes[&x].clone());
        change(&mut sim, d, &name);
        let after = sim.source.nodes.get_mut(&x).unwrap();
        let body = std::mem::replace(after, before).body;
        after.body = body;
        sim.all_but_staging(3000, false);
        let now = sim.source.now_ns;
        sim.planner.stage_done(&done, now);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}: {what}");
    }
}

pub(super) fn other(name: &[u8]) -> &'static [u8] {
    if name == b"x" { b"y" } else { b"x" }
}

#[test]
fn a_change_through_another_name_of_a_large_file_on_its_way_is_not_lost() {
    check("written within the clock's grain", |sim, d, name| sim.source.write(d, other(name), vec![2; LEN], false));
}

#[test]
fn a_store_through_a_mapping_of_a_large_file_on_its_way_is_not_lost() {
    check("a close only", |sim, d, name| {
        let x = sim.source.entries(d)[name];
        sim.source.nodes.get_mut(&x).unwrap().body = Body::File(Arc::new(vec![2; LEN]));
        sim.source.tell(d, other(name), Hint::CLOSED);
    });
}

/// Where names are not linked each is a copy of its own, which is no reason to read the other again.
#[test]
fn two_names_that_are_not_linked_come_to_rest() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        sim.planner = Planner::new(Options { hard_links: false, ..Options::mirror() }, sim.filter.clone(), seed);
        sim.connect();
        assert!(sim.rest(), "seed {seed}, {watcher:?}");
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let large = sim.source.create(d, b"large", Body::File(Arc::new(vec![b'l'; LEN])), Kind::File, 0o644).unwrap();
        sim.source.link(d, b"other", large);
        assert!(sim.rest(), "seed {seed}, {watcher:?}: it never rests");
        let mirror = sim.target.snapshot();
        for name in [&b"d/large"[..], b"d/other"] {
            assert!(mirror[name].content.len() == LEN && mirror[name].link_group == 0, "seed {seed}, {watcher:?}");
        }
    }
}

/// Both change, and are found in different rounds: they are not looked at for each other while they are on their way.
#[test]
fn two_names_that_are_not_linked_and_change_are_sent_a_few_times() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        sim.links = false;
        sim.planner = Planner::new(Options { hard_links: false, ..Options::mirror() }, sim.filter.clone(), seed);
        let root = sim.source.dirs()[0];
        let dirs: Vec<u64> = (0..150)
            .map(|n| {
                let name = format!("many{n}").into_bytes();
                sim.source.create(root, &name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap()
            })
            .collect();
        let large = sim.source.create(dirs[0], b"x", Body::File(Arc::new(vec![b'l'; LEN])), Kind::File, 0o644).unwrap();
        sim.source.link(dirs[149], b"y", large);
        sim.source.now_ns += 3 * TICK_NS;
        sim.connect();
        assert!(sim.rest(), "seed {seed}, {watcher:?}");
        sim.source.write(dirs[0], b"x", vec![b'm'; LEN + 1], false);
        sim.source.now_ns += 3 * TICK_NS;
        sim.source.read_events(&mut sim.rng, |_| ());
        sim.asked = Some(Vec::new());
        let now = sim.source.now_ns;
        sim.planner.event(Event::Overflow, now);
        sim.all_but_staging(3000, false);
        assert!(sim.rest(), "seed {seed}, {watcher:?}: it never rests");
        let asked = sim.asked.take().unwrap_or_default();
        let count = |what: &str| asked.iter().filter(|action| action.starts_with(what)).count();
        let (stages, probes) = (count("Stage("), count("Probe("));
        assert!(stages <= 8 && probes <= 200, "seed {seed}, {watcher:?}: {stages} stages, {probes} probes");
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
}

/// A listing finds it again while it is on its way, and no event says that it changed: that is no reason to read it twice.
#[test]
fn a_large_file_on_its_way_that_is_listed_again_is_sent_once() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        sim.asked = Some(Vec::new());
        sim.source.create(d, b"large", Body::File(Arc::new(vec![b'l'; LEN])), Kind::File, 0o644).unwrap();
        sim.source.now_ns += 3 * TICK_NS;
        sim.all_but_staging(3000, true);
        sim.all_but_staging(3000, false);
        let now = sim.source.now_ns;
        sim.planner.event(Event::Overflow, now);
        sim.all_but_staging(3000, false);
        assert!(sim.rest());
        let asked = sim.asked.take().unwrap_or_default();
        let stages = asked.iter().filter(|action| action.starts_with("Stage(")).count();
        assert_eq!((sim.differences(), stages), (vec![], 1), "seed {seed}, {watcher:?}");
    }
}
