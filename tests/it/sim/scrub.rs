//! Scrubs in simulation: a mirror that changes by itself is found out and mended, and one that does not is never accused, whatever goes on meanwhile.

use ringsync::model::scrub::{Finding, LookDone, LookTask, SumDone, SumTask, Summed};
use ringsync::plan::scrub::{Next, PassOptions};

use super::*;

/// One side's reading of a file: what it held, or what else there is to say.
type Side = Vec<Result<Vec<u8>, Summed>>;

enum Question {
    Look(LookTask, Option<LookDone>),
    Sum(SumTask, Option<Side>, Option<Side>),
}

/// What is out, and what came of it.
#[derive(Default)]
pub(super) struct Questions {
    on: bool,
    out: Vec<Question>,
    pub findings: Vec<Finding>,
    pub passes: usize,
}

impl Questions {
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// The session is over.
    pub(super) fn forget(&mut self) {
        self.out.clear();
        self.on = false;
    }
}

const ASK_MAX: usize = 4;

impl Sim {
    pub(super) fn start_scrub(&mut self, looks: bool) {
        self.scrub.out.clear();
        self.scrub.on = true;
        self.planner.scrub(PassOptions { looks, repairs: true, part_bytes: 1 << 20 });
    }

    /// A question is asked, or one of the sides of one is looked at, or an answer comes.
    pub(super) fn scrub_step(&mut self, now: u64) {
        let findings = self.planner.take_findings();
        if self.trace {
            findings.iter().for_each(|finding| println!("  found {} {}", finding.item, finding.path));
        }
        self.scrub.findings.extend(findings);
        if !self.planner.is_scrubbing() {
            return;
        }
        if self.scrub.out.len() < ASK_MAX && self.rng.chance(50) {
            match self.planner.scrub_next(now) {
                Next::Look(task) => self.scrub.out.push(Question::Look(task, None)),
                Next::Sum(task) => self.scrub.out.push(Question::Sum(task, None, None)),
                Next::Done(tally) => {
                    self.scrub.passes += 1;
                    assert!(self.scrub.out.is_empty() && tally.repaired <= tally.drift);
                    self.scrub.findings.extend(self.planner.take_findings());
                }
                // Nothing else wakes it in here: its time comes.
                Next::At(at) if self.scrub.out.is_empty() && *self.calm.lock().unwrap() => self.source.now_ns = self.source.now_ns.max(at),
                Next::At(_) | Next::Wait => {}
            }
            return;
        }
        if self.scrub.out.is_empty() {
            return;
        }
        let at = self.rng.below(self.scrub.out.len());
        let mut question = self.scrub.out.swap_remove(at);
        let ready = match &mut question {
            Question::Look(task, answer @ None) => {
                let (dir, entries) =
                    self.target.look(&task.dir).map_or_else(|errno| (Err(errno), vec![]), |(meta, entries)| (Ok(meta), entries));
                *answer = Some(LookDone { id: task.id, last: true, dir, entries });
                false
            }
            Question::Sum(task, ours @ None, theirs) if theirs.is_some() || self.rng.chance(50) => {
                *ours = Some(read_source(&self.source, task));
                false
            }
            Question::Sum(task, _, theirs @ None) => {
                let read = |file: &ringsync::model::scrub::SumFile| {
                    let path = task.dir.join(file.name.as_name()).unwrap();
                    self.target.content(&path).map(<[u8]>::to_vec).ok_or(Summed::Missing)
                };
                *theirs = Some(task.files.iter().map(read).collect());
                false
            }
            _ => true,
        };
        match question {
            Question::Look(_, Some(done)) if ready => self.planner.looked(done, now),
            Question::Sum(task, Some(ours), Some(theirs)) if ready => {
                let files = ours.into_iter().zip(theirs).map(|pair| match pair {
                    (Err(found), _) | (Ok(_), Err(found)) => found,
                    (Ok(ours), Ok(theirs)) if ours == theirs => Summed::Equal,
                    _ => Summed::Differs,
                });
                self.planner.summed(&SumDone { id: task.id, files: files.collect() }, now);
            }
            other => self.scrub.out.push(other),
        }
    }

    /// A whole pass, to rest; what it found.
    fn pass(&mut self, looks: bool) -> Result<Vec<Finding>, String> {
        self.start_scrub(looks);
        let rested = self.rest();
        self.scrub.on = false;
        if rested { Ok(std::mem::take(&mut self.scrub.findings)) } else { Err("a scrub does not come to rest".into()) }
    }
}

fn read_source(source: &MemSource, task: &SumTask) -> Side {
    let read = |file: &ringsync::model::scrub::SumFile| {
        let id = task.expect.and_then(|expect| source.open(&task.dir, &expect, file.name.as_bytes())).ok_or(Summed::Changed)?;
        let stat = source.stat(id);
        match &source.nodes[&id].body {
            Body::File(bytes)
                if file.ident.is_none_or(|ident| ident == stat.ident) && (stat.meta.size, stat.meta.mtime) == (file.size, file.mtime) =>
            {
                Ok(bytes.to_vec())
            }
            _ => Err(Summed::Changed),
        }
    };
    task.files.iter().map(read).collect()
}

/// Lives on while one scrub follows the other.
fn live(sim: &mut Sim, ops: usize) {
    let busy = sim.rng.pick(&[1, 5, 30, 100]);
    for _ in 0..ops {
        sim.change();
        for _ in 0..sim.rng.below(busy) {
            sim.step();
            if !sim.planner.is_scrubbing() {
                sim.start_scrub(true);
            }
        }
        // Time for what is looked at twice.
        if sim.rng.chance(5) {
            sim.source.now_ns += 500_000_000;
        }
    }
}

/// A run in which only the source changes. Equal length and time mean equal content, so that whatever is found is an accusation.
fn innocent(seed: u64, ops: usize, watcher: Watcher) -> (Vec<String>, usize) {
    let mut sim = Sim::new(seed, watcher);
    if sim.play != Play::Plain {
        return (Vec::new(), 0);
    }
    for _ in 0..sim.rng.below(60) {
        sim.change();
    }
    sim.connect();
    sim.start_scrub(true);
    live(&mut sim, ops);
    let mut wrong = Vec::new();
    if !sim.rest() {
        wrong.push("does not come to rest".to_owned());
    }
    wrong.extend(sim.differences());
    wrong.extend(sim.scrub.findings.drain(..).map(|finding| format!("false alarm: {} {}", finding.item, finding.path)));
    let cycles = sim.cycles;
    match sim.pass(true) {
        Ok(findings) => wrong.extend(findings.iter().map(|finding| format!("false alarm at rest: {} {}", finding.item, finding.path))),
        Err(why) => wrong.push(why),
    }
    if sim.cycles != cycles {
        wrong.push("a scrub of an equal mirror sent something".into());
    }
    (wrong, sim.scrub.passes)
}

/// A run at whose end the mirror is spoilt, now and then also while it goes on.
fn spoilt(seed: u64, ops: usize, watcher: Watcher, blinded: bool) -> (Vec<String>, usize) {
    let mut sim = Sim::new(seed, watcher);
    for _ in 0..20 + sim.rng.below(60) {
        sim.change();
    }
    sim.connect();
    sim.start_scrub(true);
    live(&mut sim, ops);
    let mut wrong = Vec::new();
    if !sim.rest() {
        wrong.push("does not come to rest".to_owned());
    }
    let stays = sim.stays.clone();
    let keep = |path: &[u8]| {
        stays.contains(path) || setting::is_excluded(&sim.filter, path, true) || setting::is_excluded(&sim.filter, path, false)
    };
    let mut spoils = 0;
    for _ in 0..1 + sim.rng.below(12) {
        spoils += usize::from(sim.target.spoil(&mut sim.rng, &keep));
    }
    sim.target.check();
    for _ in 0..if blinded { 0 } else { 2 } {
        match sim.pass(true) {
            Ok(findings) => {
                let mut paths = HashSet::new();
                let again = findings.iter().filter(|finding| !paths.insert(&finding.path));
                wrong.extend(again.map(|finding| format!("told twice in a pass: {} {}", finding.item, finding.path)));
            }
            Err(why) => wrong.push(why),
        }
    }
    // Contents too that no clock could tell.
    sim.lists = 0;
    wrong.extend(sim.differences());
    sim.planner.tree().check();
    sim.target.check();
    if blinded {
        return (wrong, spoils);
    }
    if let Ok(findings) = sim.pass(true) {
        wrong.extend(findings.iter().map(|finding| format!("found once more: {} {}", finding.item, finding.path)));
    }
    (wrong, spoils)
}

fn many(name: &str, run: impl Fn(u64, usize, Watcher) -> (Vec<String>, usize)) {
    let first = place::seed();
    let seeds = place::number("RINGSYNC_SIM_SEEDS", 100u64);
    let ops = place::number("RINGSYNC_SIM_OPS", 150usize);
    println!("simulation of scrubs, {name}: RINGSYNC_SEED={first}, {seeds} seeds of {ops} operations");
    let (mut failed, mut total) = (Vec::new(), 0);
    for seed in first..first + seeds {
        let watcher = [Watcher::Fanotify, Watcher::Inotify, Watcher::Mixed][(seed % 3) as usize];
        let (wrong, count) = run(seed, ops, watcher);
        if !wrong.is_empty() {
            println!("RINGSYNC_SEED={seed} RINGSYNC_SIM_SEEDS=1 RINGSYNC_SIM_OPS={ops}: {wrong:#?}");
            failed.push(seed);
        }
        total += count;
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
    assert!(total > 0, "nothing happened");
    println!("{total} in all");
}

#[test]
fn a_scrub_accuses_no_mirror_that_nobody_touched() {
    many("passes", innocent);
}

#[test]
fn a_scrub_mends_what_happened_to_a_mirror() {
    many("changes of the mirror", |seed, ops, watcher| spoilt(seed, ops, watcher, false));
}

/// The canary: what is spoilt and not scrubbed has to be noticed.
#[test]
fn a_spoilt_mirror_that_is_not_scrubbed_is_noticed() {
    let first = place::seed();
    assert!((first..first + 10).any(|seed| !spoilt(seed, 50, Watcher::Fanotify, true).0.is_empty()));
}
