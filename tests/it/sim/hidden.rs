//! Changes that neither length nor time of modification show, where the event about them is heard late, together with other news, or not at all.

use super::large::{LEN, other};
use super::quiet::mirrored;
use super::*;
use ringsync::model::cycle::Racy;
use ringsync::model::event::Hint;
use ringsync::model::probe::{Ask, ProbeError};

/// How a file is changed so that neither its length nor its time of modification show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Hidden {
    /// By a store through a mapping; only the close is told.
    Mapped,
    /// The time is set back.
    SetBack,
    /// Within the clock's grain of its reading.
    Grain,
}

/// A large file that is at rest, but for its staging: it was read and the report is not there yet. With a second name if `linked`.
pub(super) struct OnItsWay {
    pub(super) sim: Sim,
    pub(super) dir: u64,
    pub(super) file: u64,
    /// The name that it was staged under.
    name: Vec<u8>,
    done: StageDone,
}

impl OnItsWay {
    pub(super) fn new(seed: u64, watcher: Watcher, linked: bool) -> Self {
        let mut sim = mirrored(seed, watcher);
        sim.source.in_order = true;
        let dir = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        for name in [b"x", b"y"] {
            sim.source.remove(dir, name);
        }
        assert!(sim.rest());
        let file = sim.source.create(dir, b"x", Body::File(Arc::new(vec![1; LEN])), Kind::File, 0o644).unwrap();
        if linked {
            sim.source.link(dir, b"y", file);
        }
        sim.hear();
        sim.source.now_ns += 3 * TICK_NS;
        sim.all_but_staging(3000, true);
        let name = sim.stages[0].name.as_bytes().to_vec();
        // All that is known by then is looked at.
        sim.all_but_staging(3000, false);
        assert_eq!(sim.stages.len(), 1, "seed {seed}, {watcher:?}");
        let done = sim.read_large();
        Self { sim, dir, file, name, done }
    }

    /// The file is another one, and an event tells of it under this name, if there is one.
    pub(super) fn change(&mut self, how: Hidden, told: Option<&[u8]>) {
        let later = self.sim.source.now_ns;
        let node = self.sim.source.nodes.get_mut(&self.file).unwrap();
        node.body = Body::File(Arc::new(vec![2; LEN]));
        if how == Hidden::SetBack {
            node.ctime = Time { sec: node.ctime.sec + 1, nsec: (later % 1000) as u32 };
        }
        if let (Hidden::Grain, Read::Sent { racy, .. }) = (how, &mut self.done.read) {
            *racy = Racy::Yes;
        }
        let hint = match how {
            Hidden::Mapped => Hint::CLOSED,
            Hidden::SetBack => Hint::WRITTEN | Hint::ATTRIB | Hint::CLOSED,
            Hidden::Grain => Hint::WRITTEN | Hint::CLOSED,
        };
        if let Some(name) = told {
            self.sim.source.tell(self.dir, name, hint);
            self.sim.hear();
        }
    }

    pub(super) fn report(&mut self) {
        let now = self.sim.source.now_ns;
        self.sim.planner.stage_done(&self.done, now);
    }

    /// Events may have been lost, so that the directory is listed.
    fn overflow(&mut self) {
        let now = self.sim.source.now_ns;
        self.sim.planner.event(Event::Overflow, now);
    }

    /// All is looked at before the report comes, or by the look that places the file: in the end the mirror is equal.
    fn end(mut self, looked: bool, what: &str) {
        if looked {
            self.sim.all_but_staging(3000, false);
        }
        self.report();
        assert!(self.sim.rest());
        assert_eq!(self.sim.differences(), [""; 0], "{what}, looked at before the report: {looked}");
    }
}

/// It is told under the name that it was read under, or another; its directory is listed meanwhile, or not; and the look that the event asks for is made before
/// the report comes, or is the one that places the file.
#[test]
fn a_hidden_change_of_a_large_file_that_was_read_is_not_lost() {
    let hidden = [Hidden::Mapped, Hidden::SetBack, Hidden::Grain];
    let ways = [(false, true), (true, true), (false, false)];
    for (how, (listed, looked), of_other) in
        hidden.into_iter().flat_map(|how| ways.map(|way| [(how, way, false), (how, way, true)])).flatten()
    {
        for (seed, watcher) in (0..10).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
            let mut read = OnItsWay::new(seed, watcher, of_other);
            let name = read.name.clone();
            read.change(how, Some(if of_other { other(&name) } else { &name }));
            if listed {
                read.overflow();
            }
            read.end(looked, &format!("seed {seed}, {watcher:?}: {how:?}, told under another name: {of_other}, listed: {listed}"));
        }
    }
}

/// The event is lost, and the look that comes of that shows nothing.
#[test]
fn a_change_within_the_grain_whose_event_is_lost_is_found_by_the_sweep() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        for looked in [false, true] {
            let mut read = OnItsWay::new(seed, watcher, false);
            read.change(Hidden::Grain, None);
            read.overflow();
            read.end(looked, &format!("seed {seed}, {watcher:?}"));
        }
    }
}

/// Its directory is listed while it is waited for, when it was read and changed before: the second reading is waited for.
#[test]
fn a_flush_waits_for_the_second_reading_of_a_large_file_that_is_listed() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        for listed in [false, true] {
            let mut read = OnItsWay::new(seed, watcher, false);
            read.change(Hidden::Mapped, Some(b"x"));
            read.sim.all_but_staging(3000, false);
            if listed {
                read.overflow();
            }
            read.sim.planner.owe_all();
            read.sim.all_but_staging(3000, false);
            read.report();
            read.sim.pay();
            assert_eq!(read.sim.differences(), [""; 0], "seed {seed}, {watcher:?}, listed: {listed}");
        }
    }
}

/// A small file that was sent within the tick of its last change is written again in that tick, while its report is on its way or after it came, and the event
/// is lost.
#[test]
fn a_small_file_that_was_read_within_the_grain_is_sent_again_by_a_sweep() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        for reported in [false, true] {
            let mut sim = mirrored(seed, watcher);
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            let small = sim.source.create(d, b"small", Body::File(Arc::new(vec![1; 7])), Kind::File, 0o644).unwrap();
            let tick = sim.source.now_ns / TICK_NS * TICK_NS;
            let is_read = |sim: &Sim| sim.target.snapshot().contains_key(&b"d/small"[..]) && (!reported || sim.planner.is_idle());
            for _ in 0..10_000 {
                // All of it happens within one tick.
                sim.source.now_ns = tick;
                sim.step();
                if is_read(&sim) {
                    break;
                }
            }
            assert!(is_read(&sim), "seed {seed}, {watcher:?}");
            sim.source.nodes.get_mut(&small).unwrap().body = Body::File(Arc::new(vec![2; 7]));
            let now = sim.source.now_ns;
            sim.planner.event(Event::Overflow, now);
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}, reported: {reported}");
        }
    }
}

/// A file is written, and not closed, when its directory has been listed and the planner does not know yet what was found: the look at it is waited for.
#[test]
fn a_flush_waits_for_what_was_written_since_a_listing() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let (now, mut actions) = (sim.source.now_ns, Vec::new());
        sim.planner.event(Event::Overflow, now);
        sim.planner.next(now, &mut actions);
        sim.act(actions);
        let probes = std::mem::take(&mut sim.probes);
        let answers: Vec<_> = probes.iter().map(|probe| Probed { id: probe.id, outcome: sim.source.answer(probe) }).collect();
        assert!(!answers.is_empty());
        sim.source.now_ns += 2 * TICK_NS;
        sim.source.write(d, b"x", b"longer than before".to_vec(), true);
        sim.hear();
        sim.planner.owe_all();
        for answer in answers {
            let mut actions = Vec::new();
            sim.planner.probed(answer, sim.source.now_ns, &mut actions);
            sim.act(actions);
        }
        sim.pay();
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
}

/// A directory that cannot be listed, with a name that can be looked at, and that an event tells of when the listing is due.
#[test]
fn what_is_told_of_in_a_directory_that_cannot_be_listed_is_looked_at() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        sim.source.now_ns += 2 * TICK_NS;
        sim.source.write(d, b"x", b"longer than before".to_vec(), false);
        sim.hear();
        let now = sim.source.now_ns;
        sim.planner.event(Event::Overflow, now);
        let is_old = |sim: &Sim| sim.differences().iter().any(|line| line.starts_with("d/x"));
        for _ in 0..10_000 {
            let fails = |probe: &Probe| matches!(probe.ask, Ask::List) && probe.dir.as_bytes() == b"d";
            let (lists, others) = std::mem::take(&mut sim.probes).into_iter().partition(fails);
            sim.probes = others;
            sim.answers
                .extend(Vec::from_iter(lists).iter().map(|probe| Probed { id: probe.id, outcome: Err(ProbeError::Failed(libc::EACCES)) }));
            sim.step();
            if !is_old(&sim) {
                break;
            }
        }
        assert!(!is_old(&sim), "seed {seed}, {watcher:?}");
    }
}

/// Nothing is deleted, a name is gone for a while, and what is renamed to it then has the length and time of what was there.
#[test]
fn a_name_that_was_gone_and_kept_comes_back_as_another_file() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let root = sim.source.dirs()[0];
        let d = sim.source.entries(root)[&b"d"[..]];
        sim.planner = Planner::new(Options { delete: false, ..Options::mirror() }, sim.filter.clone(), seed);
        sim.connect();
        sim.source.now_ns += 1000 * TICK_NS;
        assert!(sim.rest());
        let time = sim.source.nodes[&sim.source.entries(d)[&b"x"[..]]].meta.mtime;
        sim.source.remove(d, b"x");
        sim.source.create(root, b"other", Body::File(Arc::new(b"X".to_vec())), Kind::File, 0o644).unwrap();
        sim.source.change_meta(root, b"other", |meta| meta.mtime = time);
        sim.source.now_ns += 1000 * TICK_NS;
        assert!(sim.rest());
        sim.source.now_ns += 1000 * TICK_NS;
        sim.source.rename(root, b"other", d, b"x");
        assert!(sim.rest());
        assert_eq!(sim.target.snapshot()[&b"d/x"[..]].content, b"X", "seed {seed}, {watcher:?}");
    }
}
