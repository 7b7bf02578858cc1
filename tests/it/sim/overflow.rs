//! After an overflow: what events tell is not held up by the sweep over all directories, and no load holds up the sweep.

use ringsync::limits::{NAMES_WAITING_MAX, SWEEP_NAMES_MAX, TOLD_OBJECTS_MAX};
use ringsync::model::event::Hint;
use ringsync::model::probe::Ask;

use super::*;

const DIRS: usize = 60;
const FILES: usize = 300;

/// So many directories of so many files each, not mirrored; nothing fails.
fn unmirrored(watcher: Watcher, dirs: usize, files: usize) -> Sim {
    let mut sim = Sim::new(1, watcher);
    *sim.calm.lock().unwrap() = true;
    sim.filter = Arc::new(Filter::default());
    sim.planner = Planner::new(Options::mirror(), sim.filter.clone(), 1);
    sim.source = MemSource::new(watcher, 1_000_000, true);
    sim.target = MemTarget::new();
    sim.stays.clear();
    let root = sim.source.dirs()[0];
    for d in 0..dirs {
        let dir = sim.source.create(root, format!("d{d}").as_bytes(), Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        for f in 0..files {
            sim.source.create(dir, format!("f{f}").as_bytes(), Body::File(Arc::new(vec![1])), Kind::File, 0o644).unwrap();
        }
    }
    sim
}

/// [`DIRS`] directories of [`FILES`] files each, mirrored; nothing fails.
fn wide(watcher: Watcher) -> Sim {
    let mut sim = unmirrored(watcher, DIRS, FILES);
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    sim
}

impl Sim {
    fn tell(&mut self, overflow: bool) {
        let now = self.source.now_ns;
        let Self { source, planner, rng, .. } = self;
        while source.has_events() {
            source.read_events(rng, |event| planner.event(event, now));
        }
        if overflow {
            planner.event(Event::Overflow, now);
        }
    }

    /// All events that wait are lost.
    fn lose(&mut self) {
        let Self { source, planner, rng, .. } = self;
        while source.has_events() {
            source.read_events(rng, |_| {});
        }
        planner.event(Event::Overflow, source.now_ns);
    }

    /// Begins a round if there is something to do; the directories that it lists, and whether it looks at `name`.
    fn begin(&mut self, name: &[u8]) -> (Vec<RelPath>, bool) {
        let mut actions = Vec::new();
        self.planner.next(self.source.now_ns, &mut actions);
        self.act(actions);
        let asks = |p: &&Probe| matches!(&p.ask, Ask::Names(names) if names.iter().any(|n| n.as_bytes() == name));
        let looks = self.probes.iter().any(|p| asks(&p));
        (self.probes.iter().filter(|p| matches!(p.ask, Ask::List)).map(|p| p.dir.clone()).collect(), looks)
    }

    /// Answers all questions and has all cycles applied, without beginning a round.
    fn end(&mut self) {
        self.answer();
        self.apply();
    }

    fn answer(&mut self) {
        let now = self.source.now_ns;
        while let Some(probe) = self.probes.pop() {
            let outcome = self.source.answer(&probe);
            let mut actions = Vec::new();
            self.planner.probed(Probed { id: probe.id, outcome }, now, &mut actions);
            self.act(actions);
        }
    }

    fn apply(&mut self) {
        let now = self.source.now_ns;
        while !(self.sent.is_empty() && self.reports.is_empty() && self.acks.is_empty()) {
            self.read_file(now);
            self.tell_read(now);
            self.receive();
            self.acknowledge(now);
        }
    }
}

#[test]
fn events_go_before_the_sweep_and_the_sweep_goes_on_under_any_load() {
    for watcher in [Watcher::Fanotify, Watcher::Inotify] {
        let mut sim = wide(watcher);
        let dirs: Vec<u64> = sim.source.dirs();
        // They are told in the order of their names.
        let last = (0..DIRS).map(|d| format!("d{d}")).max().unwrap();
        let mut unlisted: HashSet<Vec<u8>> = (0..DIRS).map(|d| format!("d{d}").into_bytes()).chain([Vec::new()]).collect();
        let mut rounds = 0;
        while !unlisted.is_empty() {
            rounds += 1;
            assert!(rounds <= 2 * DIRS, "{watcher:?}: never listed: {unlisted:?}");
            // The queue overflows in each round, and something changes in a directory that comes last.
            sim.source.now_ns += TICK_NS;
            let name = format!("f{rounds}");
            sim.source.write(dirs[DIRS], name.as_bytes(), vec![rounds as u8; 9], false);
            sim.tell(true);
            let (lists, looks) = sim.begin(name.as_bytes());
            assert!(looks || lists.iter().any(|dir| dir.as_bytes() == last.as_bytes()), "{watcher:?}: round {rounds}");
            assert!(!lists.is_empty() && lists.len() * FILES <= SWEEP_NAMES_MAX + FILES, "{watcher:?}: {} lists", lists.len());
            for dir in lists {
                unlisted.remove(dir.as_bytes());
            }
            sim.end();
        }
        assert!(rounds >= DIRS * FILES / (SWEEP_NAMES_MAX + FILES), "{watcher:?}: {rounds} rounds");
        assert!(sim.rest(), "{watcher:?}");
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");
    }
}

/// However many overflows are told before anything is looked at, all directories are queued once.
#[test]
fn overflows_cost_nothing_until_something_was_looked_at() {
    let mut sim = wide(Watcher::Fanotify);
    for _ in 0..1000 {
        sim.tell(true);
    }
    assert_eq!(sim.planner.dirty(), DIRS + 1);
    let (lists, _) = sim.begin(b"");
    assert!(!lists.is_empty());
    // Those that are being listed may have lost events since.
    sim.tell(true);
    assert_eq!(sim.planner.dirty(), DIRS + 1);
    sim.end();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
}

/// While nothing can be looked at, names come and go: they are remembered up to a limit, and not beyond.
#[test]
fn names_that_come_and_go_while_the_mirror_is_stuck_take_bounded_memory() {
    let mut sim = wide(Watcher::Fanotify);
    let (root, now) = (sim.source.dirs()[0], sim.source.now_ns);
    let dir = sim.source.entries(root)[&b"d3"[..]];
    let before = sim.planner.tree().len();
    let key = dir.to_le_bytes();
    for n in 0..NAMES_WAITING_MAX + 200_000 {
        let name = format!("temporary {n}");
        let event = |hint| Event::At { key: &key, name: name.as_bytes(), hint, object: None, rename: None };
        sim.planner.event(event(Hint::APPEARED | Hint::CLOSED), now);
        sim.planner.event(event(Hint::WENT), now);
    }
    assert!(sim.planner.tree().len() <= before + NAMES_WAITING_MAX, "{} nodes", sim.planner.tree().len());
    // One that stays is beyond the limit, and found.
    sim.source.create(dir, b"stays", Body::File(Arc::new(vec![1])), Kind::File, 0o644).unwrap();
    sim.tell(false);
    let mut rounds = 0;
    while sim.planner.dirty() > 0 {
        rounds += 1;
        assert!(rounds < 2000);
        sim.begin(b"");
        sim.end();
    }
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    assert_eq!(sim.planner.tree().len(), before + 1);
}

/// More objects are told to have changed while names are looked at than are remembered: all the names are looked at again. What is written meanwhile is sent, and
/// nothing else.
#[test]
fn names_that_are_looked_at_again_after_a_storm_are_not_sent_again() {
    for (watcher, again) in [Watcher::Fanotify, Watcher::Inotify].into_iter().flat_map(|watcher| [(watcher, false), (watcher, true)]) {
        let mut sim = unmirrored(watcher, 1, FILES);
        sim.connect();
        assert!(sim.rest());
        sim.source.now_ns += 1000 * TICK_NS;
        if again {
            sim.connect();
            assert!(sim.rest());
        }
        let (d, puts) = (sim.source.dirs()[1], sim.puts);
        for turn in 1..=3 {
            sim.source.now_ns += 1000 * TICK_NS;
            for f in 0..FILES {
                sim.source.change_meta(d, format!("f{f}").as_bytes(), |meta| meta.mode = 0o600 + turn);
            }
            sim.tell(false);
            assert!(sim.begin(b"f7").1);
            let storm = |sim: &mut Sim| {
                for inode in 0..=TOLD_OBJECTS_MAX as u64 {
                    let event = Event::At { key: &[], name: &[], hint: Hint::ATTRIB, object: Some((u64::MAX, inode)), rename: None };
                    sim.planner.event(event, sim.source.now_ns);
                }
            };
            storm(&mut sim);
            sim.source.write(d, b"f7", vec![turn as u8; 9], false);
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "{watcher:?}, after a reconnect: {again}");
            // It was read in the round that went on and in the next one.
            let sent = sim.puts - puts;
            assert!(
                (turn as usize..=2 * turn as usize).contains(&sent),
                "{sent} sent in {turn} storms, {watcher:?}, after a reconnect: {again}"
            );
        }
    }
}

/// A directory that waits for the sweep, and is deleted before but for what is mounted there, is looked at when it comes back.
#[test]
fn a_directory_that_goes_before_it_is_swept_and_stays_as_a_mount_point_is_not_lost() {
    let mut sim = wide(Watcher::Fanotify);
    let root = sim.source.dirs()[0];
    let make = |sim: &mut Sim| sim.source.create(root, b"z", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    make(&mut sim);
    assert!(sim.rest());
    sim.target.mount(&RelPath::new(b"z").unwrap());
    sim.mounts = 1;
    sim.connect();
    assert!(sim.rest());

    // Nobody tells that it is gone: the listing of the root does, which comes first.
    sim.source.remove(root, b"z");
    sim.lose();
    let (lists, _) = sim.begin(b"");
    assert!(lists.contains(&RelPath::root()) && !lists.contains(&RelPath::new(b"z").unwrap()), "{lists:?}");
    sim.end();
    let z = make(&mut sim);
    sim.source.create(z, b"f", Body::File(Arc::new(vec![1])), Kind::File, 0o644).unwrap();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
}

/// Nobody knows what the sweep will find: a flush waits for all of it, and the mirror lags until it is over.
#[test]
fn a_flush_waits_for_the_sweep_and_the_lag_counts_it() {
    let mut sim = wide(Watcher::Fanotify);
    let dirs = sim.source.dirs();
    sim.source.now_ns += TICK_NS;
    sim.source.write(dirs[DIRS], b"f7", vec![7; 9], false);
    let since = sim.source.now_ns;
    sim.lose();
    sim.planner.owe_all();
    let mut rounds = 0;
    while !sim.planner.is_paid() {
        if sim.planner.dirty() > 0 {
            assert_eq!(sim.planner.oldest_change(), Some(since), "round {rounds}");
        }
        rounds += 1;
        assert!(rounds < 1000);
        sim.source.now_ns += TICK_NS;
        sim.begin(b"");
        sim.end();
    }
    assert!(rounds > DIRS * FILES / (SWEEP_NAMES_MAX + FILES));
    assert_eq!(sim.differences(), [""; 0]);
    assert_eq!(sim.planner.oldest_change(), None);
}

/// As long as the first look at a source goes on, the next round does not wait for the receiver. Later it does: what changes meanwhile gathers.
#[test]
fn the_first_look_runs_ahead_of_the_receiver() {
    for watcher in [Watcher::Fanotify, Watcher::Inotify] {
        let mut sim = unmirrored(watcher, 200, 20);
        sim.connect();
        while sim.planner.is_filling() {
            sim.apply();
        }
        let mut listed = 0;
        loop {
            let (lists, _) = sim.begin(b"");
            if lists.is_empty() {
                break;
            }
            listed += lists.len();
            sim.answer();
        }
        assert_eq!(listed, 201, "{watcher:?}");
        sim.apply();
        assert!(sim.rest(), "{watcher:?}");
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");

        let dirs = sim.source.dirs();
        let change = |sim: &mut Sim, dir: u64, byte| {
            sim.source.now_ns += TICK_NS;
            sim.source.write(dir, b"f7", vec![byte; 9], false);
            sim.tell(false);
        };
        for dir in &dirs[1..] {
            for f in 0..20 {
                sim.source.write(*dir, format!("f{f}").as_bytes(), vec![2; 9], false);
            }
        }
        change(&mut sim, dirs[1], 3);
        sim.source.now_ns += 3 * TICK_NS;
        sim.begin(b"");
        sim.answer();
        change(&mut sim, dirs[1], 4);
        sim.source.now_ns += 3 * TICK_NS;
        assert_eq!(sim.begin(b"f7"), (Vec::new(), false), "{watcher:?}");
        sim.apply();
        assert!(sim.begin(b"f7").1, "{watcher:?}");
        sim.end();
        assert!(sim.rest(), "{watcher:?}");
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");
    }
}
