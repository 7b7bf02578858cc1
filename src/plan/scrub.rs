//! A pass over all that the mirror holds, beside what events and times tell: which files and directories to compare next, and what follows from the answers.
//! Part of the planner.
//!
//! The cursor runs over the tree's arena, so that a pass costs no memory and whatever moves meanwhile is met once; what is made behind the cursor was written
//! lately. A difference counts only if it is found twice, and if no operation that was under way could explain it. Comparing entries is in `drift`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::limits::{SCRUB_RECENT_OPS_MAX, SCRUB_TRIES_MAX, SUM_FILES_MAX};
use crate::model::cycle::{Cycle, NodeRef};
use crate::model::meta::Kind;
use crate::model::op::{Entry, Op, Spot};
use crate::model::path::RelPath;
use crate::model::scrub::{Cause, Finding, Item, LookTask, SumDone, SumFile, SumTask, Summed, Tally};
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};
use crate::plan::{NodeMap, NodeSet};

/// What differs is looked at again after so long: beyond the grain of every clock of a local filesystem, and the way of an event.
const CONFIRM_NS: u64 = 500_000_000;
/// Files of one task hold no more than this together, unless it is one.
const TASK_BYTES_MAX: u64 = 4 << 20;

/// How a pass goes.
#[derive(Debug, Clone, Copy)]
pub struct PassOptions {
    /// Names and metadata are compared too; for a run that has just had the manifest they are known.
    pub looks: bool,
    /// What differs is repaired, not only told.
    pub repairs: bool,
    /// Most bytes of one question, unless it is one file.
    pub part_bytes: u64,
}

/// What is to be done next for a pass.
#[derive(Debug)]
pub enum Next {
    /// Ask the mirror what a directory holds.
    Look(LookTask),
    /// Have contents compared.
    Sum(SumTask),
    /// Nothing before this time.
    At(u64),
    /// Nothing before an answer or an acknowledgement.
    Wait,
    /// The pass is over.
    Done(Tally),
}

/// What a question was about.
#[derive(Debug)]
pub(super) enum What {
    /// A directory; what came of its entries so far.
    Look { dir: NodeRef, entries: Vec<Entry> },
    /// Files.
    Sum(Vec<SumFile>),
}

/// A question without answer.
#[derive(Debug)]
pub(super) struct Asked {
    /// The oldest cycle that was not known to be applied when it was asked.
    pub from: u64,
    /// The directory then.
    pub path: RelPath,
    pub what: What,
}

/// What is known against a node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspect {
    pub tries: u32,
    /// It has been found to differ, once.
    pub differs: bool,
    /// A directory that was compared, and whose files were taken.
    pub looked: bool,
}

/// A pass.
#[derive(Debug)]
pub(super) struct Pass {
    pub options: PassOptions,
    cursor: NodeId,
    ready: VecDeque<(NodeRef, SumTask)>,
    pub asked: NodeMap<u64, Asked>,
    again: BinaryHeap<Reverse<(u64, NodeRef)>>,
    pub suspects: NodeMap<NodeRef, Suspect>,
    /// Hard-link groups of which one name was taken.
    groups: NodeSet<u32>,
    /// What is being repaired; and once it is on its way, the cycle from which on it is known to have been applied.
    pub mending: Vec<(NodeRef, Option<u64>)>,
    pub tally: Tally,
}

/// The planner's memory of scrubs.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    pub pass: Option<Pass>,
    pub findings: Vec<Finding>,
    /// The ordinary comparison is told as findings too; whether it is also repaired.
    pub verify: Option<bool>,
    /// What a run that verifies has told of, and what is known of files whose content has to be compared first.
    pub told: NodeMap<NodeRef, Option<Item>>,
    /// Memory of the entries that answers to looks have told and that are not compared yet.
    pub heard: usize,
    recent: Recent,
}

/// Cycles that were sent while questions are out. Invariant: all of number `whole_from` and later, as long as a pass goes on.
#[derive(Debug, Default)]
struct Recent {
    cycles: VecDeque<Arc<Cycle>>,
    ops: usize,
    whole_from: u64,
}

fn ops(cycle: &Cycle) -> usize {
    cycle.pre.len()
        + cycle.metas.len()
        + cycle.places.len()
        + cycle.post.len()
        + cycle.batches.iter().map(|batch| batch.files.len()).sum::<usize>()
}

impl Recent {
    fn push(&mut self, cycle: &Arc<Cycle>) {
        self.ops += ops(cycle);
        self.cycles.push_back(Arc::clone(cycle));
        while self.ops > SCRUB_RECENT_OPS_MAX && self.drop_first() {}
    }

    fn drop_first(&mut self) -> bool {
        let first = self.cycles.pop_front();
        if let Some(cycle) = &first {
            self.ops -= ops(cycle);
            self.whole_from = cycle.number + 1;
        }
        first.is_some()
    }

    fn forget_before(&mut self, number: u64) {
        while self.cycles.front().is_some_and(|cycle| cycle.number < number) && self.drop_first() {}
    }

    /// Whether a cycle of number `from` or later may have changed what is at `path`; of a directory also what is beneath, whose making shows in it.
    fn touches(&self, from: u64, path: &[u8], is_dir: bool) -> bool {
        from < self.whole_from || self.cycles.iter().filter(|cycle| cycle.number >= from).any(|cycle| touches(cycle, path, is_dir))
    }
}

fn within(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn touches(cycle: &Cycle, path: &[u8], is_dir: bool) -> bool {
    let at = |dir: &RelPath, name: &[u8]| {
        let dir = dir.as_bytes();
        if is_dir && within(dir, path) {
            return true;
        }
        let rest = if dir.is_empty() { Some(path) } else { path.strip_prefix(dir).and_then(|rest| rest.strip_prefix(b"/")) };
        rest.is_some_and(|rest| within(rest, name))
    };
    let spot = |spot: &Spot| at(&spot.dir, spot.name.as_bytes());
    let op = |op: &Op| match op {
        Op::Move { from, to } | Op::Link { from, to } => spot(from) || spot(to),
        Op::DirMeta { dir, .. } => dir.as_bytes() == path,
        Op::Park { from: at, .. }
        | Op::Mkdir { at, .. }
        | Op::Symlink { at, .. }
        | Op::Special { at, .. }
        | Op::SetMeta { at, .. }
        | Op::Place { at, .. }
        | Op::Unlink { at }
        | Op::Rmdir { at } => spot(at),
    };
    cycle.pre.iter().chain(cycle.metas.iter().map(|(_, op)| op)).chain(&cycle.post).any(op)
        || cycle.places.iter().any(|place| spot(&place.at))
        || cycle.batches.iter().any(|batch| batch.files.iter().any(|file| at(&batch.dir, file.name.as_bytes())))
}

impl Scrub {
    /// A cycle is sent.
    pub(super) fn sent(&mut self, cycle: &Arc<Cycle>) {
        if self.pass.is_some() {
            self.recent.push(cycle);
        }
    }
}

impl Planner {
    /// Begins a pass; one that is under way is given up.
    pub fn scrub(&mut self, options: PassOptions) {
        self.scrub.recent = Recent { whole_from: self.oldest_cycle(), ..Recent::default() };
        for flight in &self.flights {
            self.scrub.recent.push(&flight.cycle);
        }
        self.scrub.pass = Some(Pass {
            options,
            cursor: 0,
            ready: VecDeque::new(),
            asked: NodeMap::default(),
            again: BinaryHeap::new(),
            suspects: NodeMap::default(),
            groups: NodeSet::default(),
            mending: Vec::new(),
            tally: Tally::default(),
        });
    }

    /// Whether a pass is under way.
    pub fn is_scrubbing(&self) -> bool {
        self.scrub.pass.is_some()
    }

    /// Differences that were found since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.scrub.findings)
    }

    /// What the pass has done so far.
    pub fn scrub_tally(&self) -> Option<Tally> {
        self.scrub.pass.as_ref().map(|pass| pass.tally)
    }

    /// Files that the mirror should hold, and their bytes. Visits every node.
    pub fn scrub_extent(&self) -> (u64, u64) {
        let files = (0..self.tree.slots() as NodeId).filter(|id| self.tree.is_live(*id)).filter_map(|id| self.tree.meta(id));
        files.filter(|meta| meta.kind == Kind::File).fold((0, 0), |(files, bytes), meta| (files + 1, bytes + meta.size))
    }

    fn oldest_cycle(&self) -> u64 {
        self.flights.front().map_or(self.next_cycle, |flight| flight.cycle.number)
    }

    /// What is to be done next for the pass. The caller bounds how many questions are out.
    pub fn scrub_next(&mut self, now: u64) -> Next {
        let Some(mut pass) = self.scrub.pass.take() else { return Next::Done(Tally::default()) };
        let next = self.next_of(&mut pass, now);
        if !matches!(next, Next::Done(_)) {
            self.scrub.pass = Some(pass);
        }
        next
    }

    fn next_of(&mut self, pass: &mut Pass, now: u64) -> Next {
        if self.fill.is_some() {
            // Most of the tree is not known.
            return Next::Wait;
        }
        while let Some((dir, mut task)) = pass.ready.pop_front() {
            // What it was made for may have changed since.
            task.files.retain(|file| self.tree.resolve(file.node).is_some_and(|id| self.rests(id)));
            if !task.files.is_empty() && self.tree.resolve(dir).is_some_and(|dir| self.tree.path(dir).as_ref() == Ok(&task.dir)) {
                return self.ask_sum(pass, task);
            }
        }
        while let Some(Reverse((_, node))) = pass.again.pop_if_due(now) {
            if let Some(next) = self.look_again(pass, node, now) {
                return next;
            }
        }
        while (pass.cursor as usize) < self.tree.slots() {
            let id = pass.cursor;
            pass.cursor += 1;
            let known = self.tree.is_live(id)
                && self.tree.kind(id) == Some(Kind::Dir)
                && !self.tree.has(id, flag::UNKNOWN | flag::PROTECTED)
                && self.parked_above(id).is_none();
            if !known {
                continue;
            }
            if pass.options.looks {
                if let Some(next) = self.ask_look(pass, id) {
                    return next;
                }
            } else {
                let files: Vec<NodeId> = self.tree.children(id).collect();
                self.take_files(pass, id, &files);
                if let Some((_, task)) = pass.ready.pop_front() {
                    return self.ask_sum(pass, task);
                }
            }
        }
        self.mended(pass);
        match pass.again.peek() {
            Some(Reverse((at, _))) => Next::At(*at),
            None if pass.asked.is_empty() && pass.mending.is_empty() => {
                pass.tally.drift += self.tell_pending();
                self.scrub.recent = Recent::default();
                Next::Done(pass.tally)
            }
            None => Next::Wait,
        }
    }

    fn look_again(&mut self, pass: &mut Pass, node: NodeRef, now: u64) -> Option<Next> {
        let id = self.tree.resolve(node)?;
        match self.tree.kind(id)? {
            Kind::Dir => self.ask_look(pass, id),
            Kind::File if self.rests(id) => {
                let file = self.sum_file(id)?;
                let dir = self.tree.parent(id);
                let task = SumTask { id: 0, dir: self.tree.path(dir).ok()?, expect: self.tree.ident(dir), files: vec![file] };
                Some(self.ask_sum(pass, task))
            }
            Kind::File => {
                self.again(pass, id, now);
                None
            }
            _ => None,
        }
    }

    fn ask_look(&mut self, pass: &mut Pass, id: NodeId) -> Option<Next> {
        let dir = self.tree.path(id).ok()?;
        self.next_id += 1;
        let what = What::Look { dir: self.tree.reference(id), entries: Vec::new() };
        pass.asked.insert(self.next_id, Asked { from: self.oldest_cycle(), path: dir.clone(), what });
        Some(Next::Look(LookTask { id: self.next_id, dir }))
    }

    fn ask_sum(&mut self, pass: &mut Pass, mut task: SumTask) -> Next {
        self.next_id += 1;
        task.id = self.next_id;
        pass.asked.insert(task.id, Asked { from: self.oldest_cycle(), path: task.dir.clone(), what: What::Sum(task.files.clone()) });
        Next::Sum(task)
    }

    /// Whether the file is what the mirror should hold, as far as is known, and nothing is under way with it.
    fn rests(&self, id: NodeId) -> bool {
        let busy = flag::DIRTY | flag::QUEUED | flag::DELAYED | flag::BUSY | flag::UNKNOWN | flag::PROTECTED;
        self.tree.kind(id) == Some(Kind::File) && !self.tree.has(id, busy)
    }

    fn sum_file(&self, id: NodeId) -> Option<SumFile> {
        let meta = self.tree.meta(id)?;
        let (node, name) = (self.tree.reference(id), self.tree.name_buf(id)?);
        Some(SumFile { node, name, ident: self.tree.ident(id), size: meta.size, mtime: meta.mtime })
    }

    /// Makes tasks of the files among `nodes`, which are in `dir`. An object with several names is taken once.
    pub(super) fn take_files(&mut self, pass: &mut Pass, dir: NodeId, nodes: &[NodeId]) {
        let Ok(path) = self.tree.path(dir) else { return };
        let most = TASK_BYTES_MAX.min(pass.options.part_bytes);
        let dir_ref = self.tree.reference(dir);
        let new = || SumTask { id: 0, dir: path.clone(), expect: self.tree.ident(dir), files: Vec::new() };
        let (mut task, mut bytes) = (new(), 0);
        for id in nodes.iter().copied().filter(|id| self.tree.kind(*id) == Some(Kind::File)) {
            if !self.rests(id) || self.scrub.told.get(&self.tree.reference(id)).is_some_and(Option::is_none) {
                // Told of already, or about to be looked at.
                continue;
            }
            let group = self.tree.group(id);
            let Some(file) = self.sum_file(id).filter(|_| group == 0 || pass.groups.insert(group)) else { continue };
            if !task.files.is_empty() && (task.files.len() >= SUM_FILES_MAX || bytes + file.size > most) {
                pass.ready.push_back((dir_ref, std::mem::replace(&mut task, new())));
                bytes = 0;
            }
            bytes += file.size;
            task.files.push(file);
        }
        if !task.files.is_empty() {
            pass.ready.push_back((dir_ref, task));
        }
    }

    /// Looks at the node again later, if it has not been looked at too often.
    pub(super) fn again(&mut self, pass: &mut Pass, id: NodeId, now: u64) {
        let node = self.tree.reference(id);
        let suspect = pass.suspects.entry(node).or_default();
        suspect.tries += 1;
        if suspect.tries <= SCRUB_TRIES_MAX {
            pass.again.push(Reverse((now + CONFIRM_NS, node)));
        } else {
            pass.tally.unsure += 1;
        }
    }

    /// Whether something that was under way since the question was asked may have changed what the mirror has at the node, under any of its names.
    pub(super) fn was_touched(&self, from: u64, id: NodeId) -> bool {
        let is_dir = self.tree.kind(id) == Some(Kind::Dir);
        let group = self.tree.group(id);
        let touched = |id: NodeId| self.tree.path(id).is_ok_and(|path| self.scrub.recent.touches(from, path.as_bytes(), is_dir));
        touched(id) || (group != 0 && self.tree.of_group(group).any(touched))
    }

    /// Whether something under way may have changed what is at a path that has no node.
    pub(super) fn was_path_touched(&self, from: u64, path: &RelPath) -> bool {
        self.scrub.recent.touches(from, path.as_bytes(), true)
    }

    /// Cycles older than any question are of no interest.
    pub(super) fn forget_cycles(&mut self, pass: &Pass) {
        let oldest = pass.asked.values().map(|asked| asked.from).min().unwrap_or_else(|| self.oldest_cycle());
        self.scrub.recent.forget_before(oldest);
    }

    /// The report on a [`SumTask`].
    pub fn summed(&mut self, done: &SumDone, now: u64) {
        let Some(mut pass) = self.scrub.pass.take() else { return };
        if let Some(Asked { from, path, what: What::Sum(files) }) = pass.asked.remove(&done.id) {
            for (file, found) in files.iter().zip(&done.files) {
                if let Some(id) = self.tree.resolve(file.node) {
                    self.file_summed(&mut pass, (from, &path), (id, file), *found, now);
                }
            }
        }
        self.forget_cycles(&pass);
        self.scrub.pass = Some(pass);
    }

    fn file_summed(&mut self, pass: &mut Pass, (from, path): (u64, &RelPath), (id, file): (NodeId, &SumFile), found: Summed, now: u64) {
        match found {
            Summed::Equal => {
                pass.tally.files += 1;
                pass.tally.bytes += file.size;
                pass.suspects.remove(&file.node);
                for (name, item) in self.take_pending_of(id) {
                    self.tell(pass, name, Item { cause: Cause::Meta, ..item });
                    if pass.options.repairs {
                        pass.mending.push((self.tree.reference(name), None));
                    }
                }
            }
            Summed::Changed => {
                // The ordinary way looks at it, unless it is under way already.
                if self.rests(id) && !self.staged.has(file.node) {
                    self.dirty.mark(&mut self.tree, id, flag::LOOK);
                }
                self.again(pass, id, now);
            }
            Summed::Failed(errno) => {
                pass.tally.unsure += 1;
                if let Ok(path) = self.tree.path(id) {
                    self.tell_trouble(path, "compare", errno);
                }
            }
            Summed::Differs | Summed::Missing => {
                let same_place = self.tree.path(self.tree.parent(id)).as_ref() == Ok(path) && self.tree.name(id) == file.name.as_bytes();
                let certain = same_place && self.rests(id) && !self.was_touched(from, id);
                let twice = pass.suspects.get(&file.node).is_some_and(|suspect| suspect.differs);
                if !certain || !twice {
                    pass.suspects.entry(file.node).or_default().differs |= certain;
                    self.again(pass, id, now);
                    return;
                }
                pass.suspects.remove(&file.node);
                pass.tally.files += 1;
                pass.tally.bytes += file.size;
                let mut names = self.take_pending_of(id);
                if names.iter().all(|(name, _)| *name != id) {
                    names.push((id, Item::of(Cause::Content, Kind::File)));
                }
                for (name, item) in &names {
                    let item = Item { cause: Cause::Content, content: true, missing: found == Summed::Missing, ..*item };
                    self.tell(pass, *name, item);
                }
                if self.scrub.verify.is_some() {
                    // The object's other names are repaired with it.
                    let names = self.tree.of_group(self.tree.group(id)).chain([id]);
                    self.scrub.told.extend(names.map(|name| (self.tree.reference(name), None)));
                }
                if pass.options.repairs {
                    // A delta has nothing to build on: it is sent whole.
                    self.not_sent(id, now);
                    self.dirty.mark(&mut self.tree, id, flag::LOOK);
                    pass.mending.extend(names.iter().map(|(name, _)| (self.tree.reference(*name), None)));
                }
            }
        }
    }

    /// Notes a difference at a node.
    pub(super) fn tell(&mut self, pass: &mut Pass, id: NodeId, item: Item) {
        pass.tally.drift += 1;
        if let Ok(path) = self.tree.path(id) {
            self.scrub.findings.push(Finding { path, item });
        }
    }

    /// Counts what has been repaired, and what waits for a cause to end.
    fn mended(&mut self, pass: &mut Pass) {
        let oldest = self.oldest_cycle();
        let mut mending = std::mem::take(&mut pass.mending);
        mending.retain_mut(|(node, sent)| {
            let resolved = self.tree.resolve(*node);
            // A directory may wait to be listed for ever.
            let busy = |id| match self.tree.kind(id) {
                Some(Kind::Dir) => flag::LOOK | flag::OWN | flag::RELIST | flag::BUSY | flag::UNKNOWN,
                _ => flag::DIRTY | flag::QUEUED | flag::DELAYED | flag::BUSY | flag::UNKNOWN,
            };
            let troubled = resolved.is_some_and(|id| self.is_troubled(id));
            if troubled {
                return false;
            }
            if resolved.is_some_and(|id| self.tree.has(id, busy(id))) {
                *sent = None;
                return true;
            }
            let from = *sent.get_or_insert(self.next_cycle);
            let applied = oldest >= from;
            pass.tally.repaired += u64::from(applied);
            !applied
        });
        pass.mending = mending;
    }
}

/// The next thing whose time has come.
trait Due {
    fn pop_if_due(&mut self, now: u64) -> Option<Reverse<(u64, NodeRef)>>;
}

impl Due for BinaryHeap<Reverse<(u64, NodeRef)>> {
    fn pop_if_due(&mut self, now: u64) -> Option<Reverse<(u64, NodeRef)>> {
        if self.peek().is_some_and(|Reverse((at, _))| *at <= now) { self.pop() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::Name;

    #[test]
    fn what_is_under_way_explains_what_is_at_and_beneath_its_paths() {
        let spot = |path: &str| {
            let path = RelPath::new(path.as_bytes()).unwrap();
            path.split().map(|(dir, name)| Spot { dir, name: Name::new(name.as_bytes()).unwrap().to_owned() }).unwrap()
        };
        let cycle = Cycle {
            pre: vec![Op::Move { from: spot("a/b"), to: spot("c") }],
            post: vec![Op::Unlink { at: spot("d/e/f") }, Op::DirMeta { dir: RelPath::root(), meta: crate::plan::scrub::tests::dir() }],
            ..Cycle::default()
        };
        for (path, is_dir, expected) in [
            ("a/b", false, true),
            ("a/b/x", false, true),
            ("a/bx", false, false),
            ("c/x/y", false, true),
            ("cx", false, false),
            ("d/e", false, false),
            ("d/e", true, true),
            ("d", true, true),
            ("dx", true, false),
            ("", true, true),
            ("x", false, false),
        ] {
            assert_eq!(touches(&cycle, path.as_bytes(), is_dir), expected, "{path} {is_dir}");
        }
    }

    fn dir() -> crate::model::meta::Meta {
        let mtime = crate::model::meta::Time::default();
        crate::model::meta::Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, mtime, size: 0, rdev: 0, attrs: 0 }
    }
}
