//! The planner in simulation: a source in memory, a strict mirror in memory, and everything between them late, out of order or failing, all from one seed.
//!
//! `RINGSYNC_SEED` gives the first seed, `RINGSYNC_SIM_SEEDS` how many, `RINGSYNC_SIM_OPS` the operations of each. A failure prints its seed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use ringsync::apply::{Listed, Target};
use ringsync::limits::INLINE_FILE_BYTES_MAX;
use ringsync::model::attrs::Namespaces;
use ringsync::model::cycle::{Cycle, FileBatch, FileDone, Read, StageDone, StageTask};
use ringsync::model::event::Event;
use ringsync::model::filter::Filter;
use ringsync::model::meta::{Ident, Kind, Meta, Stat, Time};
use ringsync::model::op::{Abilities, Op, OpError, Section, Spot};
use ringsync::model::options::Options;
use ringsync::model::path::RelPath;
use ringsync::model::probe::{Probe, Probed};
use ringsync::model::times::Times;
use ringsync::plan::{Action, Planner};

use crate::memsource::{Body, MemSource, TICK_NS, Watcher};
use crate::memtarget::MemTarget;
use crate::{place, rng::Rng};

mod again;
mod anew;
mod backoff;
mod came;
mod distrust;
mod flush;
mod guard;
mod hidden;
mod large;
mod life;
mod mounts;
mod overflow;
mod overtaken;
mod parked;
mod quiet;
mod renamed;
mod resume;
mod scrub;
mod setting;
mod stay;
mod twins;
mod unlinked;

/// A cycle whose files are being read.
struct Under {
    cycle: Arc<Cycle>,
    batches: Vec<FileBatch>,
    puts: Vec<(u32, Spot, Meta, Arc<Vec<u8>>)>,
}

enum Sent {
    Cycle(Under),
    List(RelPath),
}

/// What a run plays, so that what no watcher and no quick check could tell is not played: content that differs with equal length and equal time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Play {
    /// Times that are set back, and writes within the clock's grain. No event is lost.
    Times,
    /// Events are lost. No time is set back, but there are writes within the clock's grain.
    Losses,
    /// Equal length and time mean equal content.
    Plain,
}

struct Sim {
    rng: Rng,
    play: Play,
    /// Manifests that were asked for in this session.
    lists: usize,
    /// Times that were set, all different unless they may be equal.
    times_set: i64,
    source: MemSource,
    target: MemTarget,
    planner: Planner,
    probes: Vec<Probe>,
    /// What was seen and not told yet.
    answers: Vec<Probed>,
    /// What was read and not told yet.
    reports: Vec<FileDone>,
    stages: Vec<StageTask>,
    /// What goes to the receiver, in order.
    sent: VecDeque<Sent>,
    acks: VecDeque<(u64, Vec<OpError>)>,
    calm: Arc<Mutex<bool>>,
    moves: usize,
    puts: usize,
    /// Operations that were left out.
    skipped: usize,
    cycles: usize,
    mounts: usize,
    blinded: bool,
    spoilt: HashSet<u64>,
    filter: Arc<Filter>,
    /// What the mirror held before and is excluded: it has to stay.
    stays: HashSet<Vec<u8>>,
    /// Whether hard links are carried: without, each name is a file of its own in the mirror.
    links: bool,
    /// Whether directories are made unreadable now and then.
    shuts: bool,
    /// Deletions that are held are approved once all rests.
    approves: bool,
    /// With every so many operations the connection is lost, and what is known of the mirror kept; 0: never.
    cut_every: usize,
    /// The canary: what was not acknowledged is taken for done when the connection is lost.
    trusts: bool,
    /// How often the mirror was gone on with.
    resumed: usize,
    /// Changes are made in this directory only.
    confined: Option<u64>,
    /// What a scrub asked and is not answered.
    scrub: scrub::Questions,
    /// `RINGSYNC_SIM_TRACE` shows what the mirror is told.
    trace: bool,
    /// All that the planner asked for, if that is kept.
    asked: Option<Vec<String>>,
}

fn is_file(stat: &Stat, ident: &Ident) -> bool {
    stat.ident == *ident && stat.meta.kind == Kind::File
}

const ABILITIES: Abilities = Abilities { chown: true, mknod: true, attrs: Namespaces::ALL, times: Times::ALL };
const STEP_NS: u64 = TICK_NS / 7;

impl Sim {
    fn new(seed: u64, watcher: Watcher) -> Self {
        let mut rng = Rng::new(seed);
        let play = rng.pick(&[Play::Times, Play::Losses, Play::Plain]);
        let queue_max = if play != Play::Times && rng.chance(60) { 20 } else { 100_000 };
        let fine = rng.chance(50);
        let mut target = MemTarget::new();
        let calm = Arc::new(Mutex::new(false));
        if rng.chance(40) {
            let (flag, mut own) = (calm.clone(), Rng::new(seed ^ 0xfa17));
            target.set_fault(Some(Box::new(move |_| {
                let errnos = [libc::EIO, libc::ENOSPC, libc::EACCES, libc::ENOENT];
                (!*flag.lock().unwrap() && own.below(100) < 3).then(|| own.pick(&errnos))
            })));
        }
        let filter = Arc::new(setting::filter(&mut rng));
        let stays = if rng.chance(30) { setting::prefill(&mut rng, &mut target, &filter) } else { HashSet::new() };
        let shuts = rng.chance(30);
        let planner = Planner::new(Options::mirror(), filter.clone(), seed);
        let mut source = MemSource::new(watcher, queue_max, fine);
        source.hides_names = shuts || !filter.is_empty();
        Self {
            rng,
            play,
            lists: 0,
            times_set: 10,
            source,
            target,
            planner,
            probes: Vec::new(),
            answers: Vec::new(),
            reports: Vec::new(),
            stages: Vec::new(),
            sent: VecDeque::new(),
            acks: VecDeque::new(),
            calm,
            moves: 0,
            puts: 0,
            skipped: 0,
            cycles: 0,
            mounts: 0,
            blinded: false,
            spoilt: HashSet::new(),
            filter,
            stays,
            links: true,
            shuts,
            approves: true,
            cut_every: 0,
            trusts: false,
            resumed: 0,
            confined: None,
            scrub: scrub::Questions::default(),
            trace: std::env::var_os("RINGSYNC_SIM_TRACE").is_some(),
            asked: None,
        }
    }

    fn connect(&mut self) {
        self.lose_session();
        self.planner.disconnected();
        let mut actions = Vec::new();
        self.planner.connected(ABILITIES, self.source.now_ns, &mut actions);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        if let Some(asked) = &mut self.asked {
            asked.extend(actions.iter().map(|action| format!("{action:?}")));
        }
        for action in actions {
            match action {
                Action::Probe(probe) => self.probes.push(probe),
                Action::Stage(task) => self.stages.push(task),
                Action::List(dir) => {
                    self.lists += 1;
                    self.sent.push_back(Sent::List(dir));
                }
                Action::Cycle(cycle) => {
                    self.cycles += 1;
                    self.moves += cycle.pre.iter().filter(|op| matches!(op, Op::Move { .. })).count();
                    let batches = cycle.batches.clone();
                    self.sent.push_back(Sent::Cycle(Under { cycle, batches, puts: Vec::new() }));
                }
                Action::DropStage { stage, .. } => {
                    if self.trace {
                        println!("drop stage {stage}");
                    }
                    self.target.drop_stage(stage);
                }
                Action::Forget(key) => self.source.unwatch(&key.0),
            }
        }
    }

    /// One of the things that can happen next, by chance.
    fn step(&mut self) {
        // Never twice the same: a fine clock gives what is changed after a look another time.
        self.source.now_ns += 1 + self.rng.below(STEP_NS as usize) as u64;
        let now = self.source.now_ns;
        let mut actions = Vec::new();
        match self.rng.below(7) {
            0 | 1 => {
                let trace = self.trace;
                let Self { source, planner, rng, blinded, .. } = self;
                let mut told = Rng::new(now);
                source.read_events(rng, |event| {
                    if trace {
                        println!("  told {event:?}");
                    }
                    if !(*blinded && told.chance(10) && matches!(event, Event::At { .. })) {
                        planner.event(event, now);
                    }
                });
                planner.next(now, &mut actions);
            }
            2 if !self.probes.is_empty() => {
                let at = self.rng.below(self.probes.len());
                let probe = self.probes.swap_remove(at);
                let outcome = self.source.answer(&probe);
                if self.trace {
                    println!("  {now} {probe:?} -> {outcome:?}");
                }
                self.answers.push(Probed { id: probe.id, outcome });
                if self.rng.chance(60) {
                    self.tell_seen(now, &mut actions);
                }
            }
            2 => self.tell_seen(now, &mut actions),
            3 => self.read_file(now),
            4 => self.stage_file(now),
            5 => self.receive(),
            6 => self.acknowledge(now),
            _ => {}
        }
        if self.scrub.is_on() {
            self.scrub_step(now);
        }
        self.planner.next(now, &mut actions);
        self.act(actions);
    }

    /// One of the answers reaches the planner: time may have passed, and events may have come, since its look.
    fn tell_seen(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.below(self.answers.len());
        let answer = self.answers.swap_remove(at);
        if self.trace {
            println!("  {now} answer {}", answer.id);
        }
        self.planner.probed(answer, now, actions);
    }

    /// One of the files that were read is reported.
    fn tell_read(&mut self, now: u64) {
        if !self.reports.is_empty() {
            let at = self.rng.below(self.reports.len());
            let done = self.reports.swap_remove(at);
            self.planner.file_done(&done, now);
        }
    }

    fn read_file(&mut self, now: u64) {
        if self.rng.chance(40) {
            self.tell_read(now);
            return;
        }
        let Self { sent, rng, .. } = self;
        let mut open: Vec<&mut Under> =
            sent.iter_mut().filter_map(|s| if let Sent::Cycle(u) = s { Some(u) } else { None }).filter(|u| !u.batches.is_empty()).collect();
        if open.is_empty() {
            return;
        }
        let at = rng.below(open.len());
        let under = &mut *open[at];
        let at = rng.below(under.batches.len());
        let batch = &mut under.batches[at];
        let task = batch.files.pop().unwrap();
        let (dir, expect, cycle) = (batch.dir.clone(), batch.expect, batch.cycle);
        if batch.files.is_empty() {
            under.batches.swap_remove(at);
        }
        let id = self.source.open(&dir, &expect, task.name.as_bytes()).filter(|id| is_file(&self.source.stat(*id), &task.stat.ident));
        let read = match id {
            None => Read::Gone,
            Some(_) if rng.chance(3) && !*self.calm.lock().unwrap() => Read::Changed,
            Some(_) if rng.chance(2) && !*self.calm.lock().unwrap() => Read::Failed(libc::EACCES),
            Some(id) => {
                let stat = self.source.stat(id);
                let Body::File(bytes) = &self.source.nodes[&id].body else { panic!("a file was asked for") };
                if bytes.len() > INLINE_FILE_BYTES_MAX {
                    Read::Changed
                } else {
                    let meta = Meta { attrs: self.source.attrs_read(&stat, &task), ..stat.meta };
                    under.puts.push((task.index, Spot { dir, name: task.name.clone() }, meta, bytes.clone()));
                    self.puts += 1;
                    Read::Sent { meta, ctime: stat.ctime, racy: self.source.racy(&stat), changed: false }
                }
            }
        };
        self.reports.push(FileDone { cycle, node: task.node, read });
        if self.rng.chance(60) {
            self.tell_read(now);
        }
    }

    fn stage_file(&mut self, now: u64) {
        if self.stages.is_empty() {
            return;
        }
        let at = self.rng.below(self.stages.len());
        let task = self.stages.swap_remove(at);
        let id = self.source.open(&task.dir, &task.expect, task.name.as_bytes()).filter(|id| is_file(&self.source.stat(*id), &task.ident));
        let read = match id {
            None => Read::Gone,
            Some(_) if self.rng.chance(10) && !*self.calm.lock().unwrap() => Read::Changed,
            Some(id) => {
                let stat = self.source.stat(id);
                let Body::File(bytes) = &self.source.nodes[&id].body else { panic!("a file was asked for") };
                if self.target.stage(task.stage, 0, bytes).is_err() {
                    self.spoilt.insert(task.stage);
                }
                Read::Sent { meta: stat.meta, ctime: stat.ctime, racy: self.source.racy(&stat), changed: false }
            }
        };
        if self.trace {
            println!("staged {task:?} {read:?}");
        }
        self.planner.stage_done(&StageDone { stage: task.stage, node: task.node, worker: 0, read }, now);
    }

    /// The receiver does the oldest thing that is complete.
    fn receive(&mut self) {
        match self.sent.front() {
            // The sender ends a cycle when its workers have reported all files.
            Some(Sent::Cycle(under)) if !under.batches.is_empty() || self.reports.iter().any(|r| r.cycle == under.cycle.number) => return,
            None => return,
            _ => {}
        }
        match self.sent.pop_front() {
            Some(Sent::Cycle(under)) => {
                let errors = self.execute(&under);
                self.acks.push_back((under.cycle.number, errors));
            }
            Some(Sent::List(dir)) => {
                if self.trace {
                    println!("list {dir}");
                }
                let mut found = Vec::new();
                if let Err(errno) = self.target.list(&dir, &mut |l| found.push(l)) {
                    found.push(Listed::Failed { dir, errno });
                }
                // Acknowledgements of earlier cycles are on the link before the manifest.
                while !self.acks.is_empty() {
                    let now = self.source.now_ns;
                    self.acknowledge(now);
                }
                for listed in found {
                    if self.trace && matches!(listed, Listed::Failed { .. }) {
                        println!("  {listed:?}");
                    }
                    match listed {
                        Listed::Dir { dir, meta } => self.planner.listing(&dir, &meta),
                        Listed::Entry(entry) => self.planner.entry(&entry),
                        Listed::Failed { dir, errno } => self.planner.list_error(&dir, errno, self.source.now_ns),
                    }
                }
                self.planner.list_end();
                self.planner.tree().check();
            }
            None => {}
        }
    }

    fn execute(&mut self, under: &Under) -> Vec<OpError> {
        let mut errors = Vec::new();
        let cycle = &under.cycle;
        for op in cycle.pre.iter().chain(cycle.metas.iter().map(|(_, op)| op)).chain(&cycle.post) {
            let digest = op.meta().map_or(0, |meta| meta.attrs);
            assert!(digest == 0 || (cycle.attrs.contains_key(&digest) && !matches!(op, Op::Mkdir { .. })), "attributes of {op:?}");
        }
        assert!(cycle.places.iter().all(|p| p.meta.attrs == 0 || cycle.attrs.contains_key(&p.meta.attrs)));
        let trace = self.trace;
        let mut note = |section, index: usize, result: Result<(), i32>, what: &dyn std::fmt::Debug| {
            if trace {
                println!("{} {section:?} {index} {what:?} {result:?}", cycle.number);
            }
            if let Err(errno) = result {
                errors.push(OpError { section, index: index as u32, errno });
            }
        };
        for (at, op) in cycle.pre.iter().enumerate() {
            note(Section::Pre, at, self.target.op(op), op);
        }
        for (index, at, meta, bytes) in &under.puts {
            note(Section::Files, *index as usize, self.target.put(at, meta, bytes), at);
        }
        for (index, op) in &cycle.metas {
            note(Section::Files, *index as usize, self.target.op(op), op);
        }
        for place in &cycle.places {
            let op = Op::Place { at: place.at.clone(), meta: place.meta, stage: place.stage };
            note(Section::Files, place.index as usize, self.target.op(&op), &op);
        }
        let unfit = self.planner.unfit(cycle);
        self.skipped += unfit.len();
        for (at, op) in cycle.post.iter().enumerate().filter(|(at, _)| !unfit.contains(&(*at as u32))) {
            note(Section::Post, at, self.target.op(op), op);
        }
        self.target.end_cycle();
        errors
    }

    /// Lets everything come to rest; false if it does not.
    fn rest(&mut self) -> bool {
        *self.calm.lock().unwrap() = true;
        self.source.open_all();
        for _ in 0..400_000 {
            self.step();
            let quiet = self.probes.is_empty()
                && self.answers.is_empty()
                && self.reports.is_empty()
                && self.stages.is_empty()
                && self.sent.is_empty()
                && self.acks.is_empty()
                && !(self.scrub.is_on() && self.planner.is_scrubbing());
            if quiet && !self.source.has_events() && self.planner.is_idle() {
                if self.approves && self.planner.approve() > 0 {
                    continue;
                }
                if self.forgets_past() {
                    continue;
                }
                match self.planner.next_at() {
                    // What is to go and is mounted is tried again for good.
                    Some(_) if self.only_mounts_are_left() => return true,
                    // Troubles wait for their time: it comes.
                    Some(at) => self.source.now_ns = self.source.now_ns.max(at),
                    None => return self.waits_for_nothing(),
                }
            }
        }
        false
    }

    fn differences(&self) -> Vec<String> {
        let (src, dst) = (setting::expected(self.source.snapshot(), &self.filter, self.links), self.target.snapshot());
        let mut all = Vec::new();
        let stuck = self.target.above_mounts();
        let names = mounts::names(&src, &dst);
        let mut groups: HashMap<(u64, u64), u64> = HashMap::new();
        for (path, (meta, content, group)) in &src {
            let shown = String::from_utf8_lossy(path);
            let Some(there) = dst.get(path) else {
                all.push(format!("{shown}: missing"));
                continue;
            };
            let size = |m: &Meta| if m.kind == Kind::File { m.size } else { 0 };
            let alike = (there.meta.kind, size(&there.meta)) == (meta.kind, size(meta));
            if there.meta.kind != meta.kind && stuck.contains(path) {
                continue;
            }
            if !alike || there.content != *content {
                all.push(format!("{shown}: content {meta:?} {:?}", there.meta));
            } else if (there.meta.mode, there.meta.uid, there.meta.mtime, there.meta.attrs) != (meta.mode, meta.uid, meta.mtime, meta.attrs)
            {
                all.push(format!("{shown}: metadata {meta:?} {:?}", there.meta));
            }
            let object = (*group, there.volume);
            let linked = names.get(&object).is_some_and(|count| *count > 1);
            if linked != (there.link_group != 0) || (linked && *groups.entry(object).or_insert(there.link_group) != there.link_group) {
                all.push(format!("{shown}: link group {group} {}", there.link_group));
            }
        }
        let extra = dst.keys().filter(|path| !src.contains_key(*path) && !self.stays.contains(*path) && !stuck.contains(*path));
        all.extend(extra.map(|path| format!("{}: extra", String::from_utf8_lossy(path))));
        let lost = self.stays.iter().filter(|path| !dst.contains_key(*path));
        all.extend(lost.map(|path| format!("{}: excluded, but deleted", String::from_utf8_lossy(path))));
        if self.target.has_leftovers() {
            all.push("something reserved is left".into());
        }
        all
    }
}

/// Runs one seed and returns what differs in the end.
fn run(seed: u64, ops: usize, watcher: Watcher, blinded: bool) -> (Vec<String>, usize, usize) {
    let mut sim = Sim::new(seed, watcher);
    sim.blinded = blinded;
    let differences = live(&mut sim, ops);
    (differences, sim.moves, sim.puts)
}

/// Plays so many operations and what they lead to, and returns what differs in the end.
fn live(sim: &mut Sim, ops: usize) -> Vec<String> {
    for _ in 0..sim.rng.below(60) {
        sim.change();
    }
    sim.mount_some();
    sim.connect();
    let busy = sim.rng.pick(&[1, 5, 30, 100]);
    for _ in 0..ops {
        sim.change();
        for _ in 0..sim.rng.below(busy) {
            sim.step();
        }
        if sim.rng.below(400) == 0 {
            sim.connect();
        }
        if sim.cut_every > 0 && sim.rng.below(sim.cut_every) == 0 {
            sim.cut();
        }
    }
    let rested = sim.rest();
    sim.planner.tree().check();
    sim.target.check();
    let mut differences = sim.differences();
    if !rested {
        differences.push("does not come to rest".into());
    }
    if differences.is_empty() && sim.mounts > 0 {
        differences = sim.unmounted();
    }
    if differences.is_empty() {
        differences.extend(sim.reconnect());
    }
    differences
}

fn many(watcher: Watcher) {
    let first = place::seed();
    let seeds = place::number("RINGSYNC_SIM_SEEDS", 150u64);
    let ops = place::number("RINGSYNC_SIM_OPS", 300usize);
    println!("simulation, {watcher:?}: RINGSYNC_SEED={first}, {seeds} seeds of {ops} operations");
    let (mut moves, mut puts) = (0, 0);
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let (differences, m, p) = run(seed, ops, watcher, false);
        if !differences.is_empty() {
            println!("RINGSYNC_SEED={seed} RINGSYNC_SIM_SEEDS=1 RINGSYNC_SIM_OPS={ops}: {differences:#?}");
            failed.push(seed);
        }
        moves += m;
        puts += p;
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
    println!("{moves} renames found, {puts} files sent");
    assert!(moves > 0, "no rename was ever found by identity");
}

#[test]
fn the_planner_converges_with_fanotify() {
    many(Watcher::Fanotify);
}

#[test]
fn the_planner_converges_with_inotify() {
    many(Watcher::Inotify);
}

#[test]
fn the_planner_converges_with_both_watchers_under_one_source() {
    many(Watcher::Mixed);
}
