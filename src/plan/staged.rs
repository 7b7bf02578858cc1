//! Large files on their way to the mirror. Part of the planner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::STAGES_MAX;
use crate::model::cycle::{NodeRef, Placing, Racy, Read, StageDone, StageTask};
use crate::model::meta::{Ident, Meta, Stat, Time};
use crate::model::op::Spot;
use crate::plan::emit::{Emit, State};
use crate::plan::planner::{Action, Planner};
use crate::plan::round::Slot;
use crate::plan::tree::{NodeId, flag};
use crate::plan::{NodeMap, NodeSet};

/// A file in staging, or on its way there.
#[derive(Debug)]
pub(super) struct Staged {
    /// Number.
    pub stage: u64,
    /// Who waits for it.
    waiting: Vec<NodeRef>,
    /// Once it is complete: the worker and its report.
    pub ready: Option<(usize, Read)>,
    /// Its time of change when that began.
    ctime: Time,
    /// It was written, or looked at again for something new, while it was on its way.
    disturbed: bool,
    /// A directory with it was listed while it was on its way: an event may have been lost, and what happened within the clock's grain does not show.
    listed: bool,
    /// It began before something was owed.
    early: bool,
    /// When the change was noticed that it carries.
    pub since: u64,
}

impl Staged {
    /// Whether it is complete and is what was seen.
    pub(super) fn fits(&self, stat: &Stat) -> bool {
        matches!(self.ready, Some((_, Read::Sent { meta, changed, .. })) if changed || (meta.size == stat.meta.size && meta.mtime == stat.meta.mtime))
    }

    /// Who waits for it.
    pub(super) fn waiting(&self) -> &[NodeRef] {
        &self.waiting
    }
}

/// All of them, by object. Invariant: `waits` has how many of them each node waits for, and no node that waits for none; `idents` has each by its number, `complete`
/// those that are, and `held` those that no worker was given.
#[derive(Debug, Default)]
pub(super) struct Staging {
    files: BTreeMap<Ident, Staged>,
    idents: NodeMap<u64, Ident>,
    complete: BTreeSet<Ident>,
    held: VecDeque<StageTask>,
    waits: NodeMap<NodeRef, u32>,
    /// Written to, as is to be thought, while another name's file was on its way, and by no event since: whoever reads the object after that has what was written.
    again: NodeSet<NodeRef>,
}

impl Staging {
    /// The file that is made of this object.
    pub(super) fn get(&self, ident: &Ident) -> Option<&Staged> {
        self.files.get(ident)
    }

    /// All files, in the order of their objects.
    pub(super) fn values(&self) -> impl Iterator<Item = &Staged> {
        self.files.values()
    }

    /// What is on its way now may be older than what is owed.
    pub(super) fn owe_all(&mut self) {
        self.files.values_mut().for_each(|staged| staged.early = true);
    }

    /// Whether the node waits for one.
    pub(super) fn has(&self, node: NodeRef) -> bool {
        !self.waits.is_empty() && self.waits.contains_key(&node)
    }

    /// The node waits for the file that is made of this object, which there has to be.
    pub(super) fn wait(&mut self, ident: &Ident, node: NodeRef) {
        if let Some(staged) = self.files.get_mut(ident).filter(|staged| !staged.waiting.contains(&node)) {
            staged.waiting.push(node);
            *self.waits.entry(node).or_default() += 1;
        }
    }

    /// A file's staging begins.
    fn insert(&mut self, ident: Ident, staged: Staged) {
        self.remove(&ident);
        for node in &staged.waiting {
            *self.waits.entry(*node).or_default() += 1;
        }
        self.idents.insert(staged.stage, ident);
        self.files.insert(ident, staged);
    }

    /// A file is complete.
    pub(super) fn completed(&mut self, done: &StageDone) {
        let Some(ident) = self.idents.get(&done.stage) else { return };
        if let Some(staged) = self.files.get_mut(ident) {
            staged.ready = Some((done.worker, done.read));
            self.complete.insert(*ident);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether all are complete.
    pub(super) fn are_complete(&self) -> bool {
        self.complete.len() == self.files.len()
    }

    /// The next file that a worker may be given, while `placing` others are on their way into their places.
    fn hand_out(&mut self, placing: usize) -> Option<StageTask> {
        let out = placing + self.files.len() - self.held.len();
        if out < STAGES_MAX { self.held.pop_front() } else { None }
    }

    /// A file is placed, or nobody wants it any more.
    pub(super) fn remove(&mut self, ident: &Ident) {
        let Some(staged) = self.files.remove(ident) else { return };
        self.idents.remove(&staged.stage);
        self.complete.remove(ident);
        for node in staged.waiting {
            let waits = self.waits.entry(node).or_default();
            *waits = waits.saturating_sub(1);
            if *waits == 0 {
                self.waits.remove(&node);
            }
        }
    }

    /// The object of the file with this number.
    pub(super) fn of_stage(&self, stage: u64) -> Option<Ident> {
        self.idents.get(&stage).copied()
    }

    /// Who waited for any, in the order of the objects: there are none any more.
    pub(super) fn give_up(&mut self) -> Vec<NodeRef> {
        std::mem::take(self).files.into_values().flat_map(|staged| staged.waiting).collect()
    }

    /// The node's file was written, as an event says: what is on its way may be older, and the look that places it need not show it.
    pub(super) fn written(&mut self, node: NodeRef) {
        self.again.remove(&node);
        if self.has(node) {
            self.files.values_mut().filter(|staged| staged.waiting.contains(&node)).for_each(|staged| staged.disturbed = true);
        }
    }

    /// The node is to be read again for what happened before now. Bounded: what is forgotten is read once more.
    pub(super) fn read_again(&mut self, node: NodeRef) {
        if self.again.len() >= STAGES_MAX {
            self.again.clear();
        }
        self.again.insert(node);
    }
}

impl Planner {
    /// Staged files that nobody waits for any more are dropped.
    pub(super) fn drop_unwanted_stages(&mut self, actions: &mut Vec<Action>) {
        let is_wanted = |id: NodeId| self.tree.has(id, flag::LOOK) && !self.tree.holds_border(id);
        let mut unwanted = Vec::new();
        for ident in &self.staged.complete {
            if let Some(staged) = self.staged.files.get(ident)
                && let Some((worker, _)) = staged.ready
                && !staged.waiting.iter().filter_map(|node| self.tree.resolve(*node)).any(is_wanted)
            {
                actions.push(Action::DropStage { worker, stage: staged.stage });
                unwanted.push(*ident);
            }
        }
        for ident in unwanted {
            self.staged.remove(&ident);
        }
    }

    /// Gives workers as many large files as may be on their way.
    pub(super) fn hand_out_stages(&mut self, actions: &mut Vec<Action>) {
        if self.staged.held.is_empty() {
            return;
        }
        let placing = self.flights.iter().map(|flight| flight.cycle.places.len()).sum();
        actions.extend(std::iter::from_fn(|| self.staged.hand_out(placing)).map(Action::Stage));
    }
}

impl Emit<'_> {
    /// Puts a large file in place if it is staged as it is now; otherwise has it staged, and what is at the name stays till then.
    pub(super) fn place_staged(&mut self, parent: NodeId, at: usize, stat: &Stat, actions: &mut Vec<Action>) {
        let Some(spot) = self.slot_spot(parent, at) else { return };
        let node = self.tree().child_or_insert(parent, spot.name.as_name());
        self.inherit_debt(at, node);
        match self.planner.staged.get(&stat.ident) {
            Some(staged) if staged.ready.is_none() => self.await_staged(parent, node, at, stat),
            Some(staged) if staged.fits(stat) => self.place_ready(parent, node, (at, spot), stat),
            Some(staged) => {
                if let Some((worker, _)) = staged.ready {
                    actions.push(Action::DropStage { worker, stage: staged.stage });
                }
                self.planner.staged.remove(&stat.ident);
                self.stage(parent, node, (at, spot), stat);
            }
            None => match self.planner.rests_until(node, self.now) {
                Some(until) => self.look_again.push((self.planner.tree.reference(parent), spot.name, until)),
                None => self.stage(parent, node, (at, spot), stat),
            },
        }
    }

    /// The name was looked at, and waits for a file that is on its way.
    pub(super) fn await_staged(&mut self, parent: NodeId, node: NodeId, at: usize, stat: &Stat) {
        let reference = self.planner.tree.reference(node);
        let (tree, options, slot) = (&self.planner.tree, &self.planner.options, &self.round.slots[at]);
        let Some(staged) = self.planner.staged.files.get_mut(&stat.ident) else { return };
        // A copy on another filesystem of the mirror, or where names are not linked, is looked at for its own sake.
        let first = staged.waiting.first().and_then(|node| tree.resolve(*node)).filter(|first| *first != node);
        let is_copy = first.is_some_and(|first| !options.hard_links || tree.volume(tree.parent(first)) != tree.volume(parent));
        // What was told, or found, in the round in which it begins was there before it is read.
        let is_later = !self.new_stages.contains(&staged.stage);
        let is_news = is_later && self.round.asked.contains(&slot.node) && !is_copy;
        staged.disturbed |= is_news || staged.ctime != stat.ctime;
        staged.listed |= is_later && slot.listed;
        self.planner.staged.wait(&stat.ident, reference);
    }

    fn place_ready(&mut self, parent: NodeId, node: NodeId, (at, spot): (usize, Spot), stat: &Stat) {
        let Some(staged) = self.planner.staged.get(&stat.ident) else { return };
        let Some((worker, Read::Sent { meta, ctime, racy, changed })) = staged.ready else { return };
        let is_listed = staged.listed || self.round.slots[at].listed;
        let (stage, early) = (staged.stage, staged.early);
        let disturbed = staged.disturbed || (is_listed && racy == Racy::Yes) || self.is_told_elsewhere(staged, at, stat);
        self.planner.staged.remove(&stat.ident);
        self.touched.insert(parent);
        self.made(node, stat);
        let meta = Meta { size: meta.size, mtime: meta.mtime, ..stat.meta };
        self.record(node, at, &meta);
        self.state[at] = State::Made;
        let index = self.file_index(node);
        self.take_attrs(&meta);
        self.cycle.places.push(Placing { index, node: self.planner.tree.reference(node), worker, at: spot, meta, stage });
        let now = self.now;
        self.planner.sent(node, ctime, racy, changed, now);
        if disturbed {
            // Something happened to it while it was on its way: its times may show whether it was before it was read.
            self.tree().forget_ctime(node);
            let reference = self.planner.tree.reference(node);
            self.planner.staged.read_again(reference);
            self.planner.dirty.mark(&mut self.planner.tree, node, flag::LOOK | flag::WROTE);
            if early {
                self.planner.owe(node);
            }
        }
    }

    /// Whether events tell that it was written through a name of the round that did not wait for it: one that it was renamed or linked to when it had been read.
    fn is_told_elsewhere(&self, staged: &Staged, at: usize, stat: &Stat) -> bool {
        let tree = &self.planner.tree;
        let told = |slot: &Slot| {
            let wrote = tree.resolve(slot.node).is_some_and(|node| tree.has(node, flag::WROTE));
            // Two copies would else be read for each other for ever.
            let is_news = wrote && !self.planner.staged.again.contains(&slot.node);
            is_news && !staged.waiting.contains(&slot.node) && slot.stat().is_some_and(|seen| seen.ident == stat.ident)
        };
        if stat.nlink > 1 { self.round.slots.iter().any(told) } else { told(&self.round.slots[at]) }
    }

    fn stage(&mut self, parent: NodeId, node: NodeId, (at, spot): (usize, Spot), stat: &Stat) {
        let Some(expect) = self.planner.tree.ident(parent) else {
            self.defer(at);
            return;
        };
        let reference = self.planner.tree.reference(node);
        let stage = self.next_id();
        let insist = self.planner.insist(node);
        let (base, there) = self.planner.large_base(node);
        let since = self.round.oldest.unwrap_or(self.now);
        let staged = Staged {
            stage,
            waiting: vec![reference],
            ready: None,
            ctime: stat.ctime,
            disturbed: false,
            listed: false,
            early: false,
            since,
        };
        self.planner.staged.insert(stat.ident, staged);
        self.new_stages.insert(stage);
        self.planner.busy += 1;
        self.planner.staged.held.push_back(StageTask {
            stage,
            node: reference,
            dir: spot.dir,
            expect,
            name: spot.name,
            ident: stat.ident,
            base,
            there,
            size: stat.meta.size,
            insist,
        });
    }
}
