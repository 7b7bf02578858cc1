//! What `flush` waits for: everything that was dirty at one moment has been looked at since, sent and acknowledged. Part of the planner.
//!
//! The mirror need not come to rest for it, and what changes later is not waited for, however much there is of it. While nobody waits, nothing is noted.
//!
//! Invariant: an entry whose state in the source at that moment may differ from what the mirror holds after all cycles sent so far is owed itself, or is to be
//! found by the listing of a directory above it that is owed or that a wanted manifest covers; or it is in trouble or held. So is what of it is left behind
//! by a round: `taken` are its nodes that were owed when it began.

use crate::model::cycle::NodeRef;
use crate::model::meta::Kind;
use crate::plan::emit::Emit;
use crate::plan::fill::FILLS_AT_ONCE;
use crate::plan::planner::Planner;
use crate::plan::round::Asked;
use crate::plan::staged::Staged;
use crate::plan::tree::{NodeId, flag};
use crate::plan::{NodeMap, NodeSet};

/// So many owed nodes are looked through whenever it is asked whether all is paid.
const SWEEP_NODES_MAX: usize = 1024;
/// More of them every so often.
const SWEEP_EVERY: u64 = 256;

/// What is owed for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A look at it, and what follows. If its content is with a worker now, another look after that one has reported.
    Look,
    /// The report on its content, which was asked for since.
    Report,
    /// A look at its metadata alone: whatever that look leads to is not owed.
    Own,
}

#[derive(Debug, Default)]
struct Wave {
    owed: NodeMap<NodeRef, Due>,
    /// Owed nodes of the round under way; true: its content was being staged already when the debt was taken.
    taken: NodeMap<NodeRef, bool>,
    /// Nodes that are in trouble, or wait for one above to end.
    excused: NodeSet<NodeRef>,
    /// The objects that were told to have changed, and are looked at when the round is over, are owed.
    told: bool,
    /// How often it was asked whether all is paid.
    looks: u64,
    /// The last cycle that has to be acknowledged, once nothing is owed.
    last_cycle: Option<u64>,
}

/// Nothing, or what is owed to those who wait.
#[derive(Debug, Default)]
pub(super) struct Debt(Option<Wave>);

impl Planner {
    /// From now on everything that is dirty is owed. What was owed before still is.
    pub fn owe_all(&mut self) {
        let mut all: Vec<NodeRef> = self.dirty.queued_nodes().collect();
        let mut excused = Vec::new();
        for id in self.dirty.delayed(&self.tree) {
            let to = if self.is_excused(id) { &mut excused } else { &mut all };
            to.push(self.tree.reference(id));
        }
        all.extend(self.staged.values().flat_map(Staged::waiting));
        all.extend(self.flights.iter().flat_map(|f| &f.files).map(|(node, _)| *node).filter(|node| self.is_busy(*node)));
        // What was looked at already is dirty as well if it changed since; what follows from the round is owed in any case.
        let mut taken: Vec<NodeRef> = Vec::new();
        if let Some(round) = &self.round {
            taken.extend(round.open.values().flat_map(|asked| asked.names.iter().chain([&asked.dir])));
            taken.extend(round.slots.iter().map(|slot| slot.node).chain(round.dirs.keys().copied()));
        }
        // What makes no events has to be looked at now.
        let is_polled = |id: &NodeId| self.tree.is_live(*id) && self.tree.has(*id, flag::UNWATCHED);
        let polled: Vec<NodeId> = (0..self.tree.slots() as NodeId).filter(is_polled).collect();
        for id in polled {
            self.dirty.mark(&mut self.tree, id, flag::SCAN);
            all.push(self.tree.reference(id));
        }
        self.staged.owe_all();
        let told = self.has_told();
        let wave = self.debt.0.get_or_insert_default();
        wave.owed.extend(all.into_iter().map(|node| (node, Due::Look)));
        wave.taken.extend(taken.into_iter().map(|node| (node, true)));
        wave.excused.extend(excused);
        wave.told |= told;
        wave.last_cycle = None;
    }

    /// Whether everything that was owed has been acknowledged, or is in trouble or held. Then the debt is over.
    pub fn is_paid(&mut self) -> bool {
        let lists = self.fill.is_some() || (!self.wanted_lists.is_empty() && self.fills_in_row <= FILLS_AT_ONCE + 5);
        let Some(wave) = &mut self.debt.0 else { return true };
        wave.looks += 1;
        if wave.owed.len() <= SWEEP_NODES_MAX || wave.looks % SWEEP_EVERY == 0 {
            let Self { tree, staged, .. } = self;
            // What waits for nothing any more has been dealt with.
            wave.owed.retain(|node, _| {
                tree.resolve(*node).is_some_and(|id| tree.has(id, flag::QUEUED | flag::DELAYED | flag::BUSY) || staged.has(*node))
            });
        }
        if !wave.owed.is_empty() || !wave.taken.is_empty() || wave.told || lists {
            wave.last_cycle = None;
            return false;
        }
        let is_news = wave.last_cycle.is_none();
        let last = *wave.last_cycle.get_or_insert(self.next_cycle - 1);
        let is_acked = self.flights.front().is_none_or(|flight| flight.cycle.number > last);
        if (is_news || is_acked) && self.is_excuse_over() {
            return false;
        }
        if is_acked {
            self.debt.0 = None;
        }
        is_acked
    }

    /// Whether something that was excused for a trouble waits, and the trouble is over; then it is owed again.
    fn is_excuse_over(&mut self) -> bool {
        let excused = self.debt.0.as_mut().map(|wave| std::mem::take(&mut wave.excused)).unwrap_or_default();
        let (mut still, mut due) = (NodeSet::default(), Vec::new());
        for node in excused {
            match self.tree.resolve(node) {
                Some(id) if self.is_excused(id) => drop(still.insert(node)),
                Some(id) => due.push(id),
                None => {}
            }
        }
        for id in &due {
            if self.tree.has(*id, flag::DELAYED | flag::QUEUED) {
                self.dirty.mark(&mut self.tree, *id, 0);
            }
            self.owe(*id);
        }
        let is_under_way = self.round.is_some();
        if let Some(wave) = &mut self.debt.0 {
            wave.excused = still;
            if !due.is_empty() {
                // It may be in the round or in a cycle that was sent since.
                wave.last_cycle = None;
                wave.taken.extend(due.iter().filter(|_| is_under_way).map(|id| (self.tree.reference(*id), false)));
            }
        }
        !due.is_empty()
    }

    /// Entries and cycles that are owed.
    pub fn owed(&self) -> usize {
        self.debt.0.as_ref().map_or(0, |wave| (wave.owed.len() + wave.taken.len() + self.flights.len()).max(1))
    }

    fn is_busy(&self, node: NodeRef) -> bool {
        self.tree.resolve(node).is_some_and(|id| self.tree.has(id, flag::BUSY))
    }

    /// The node is owed, if anything is.
    pub(super) fn owe(&mut self, id: NodeId) {
        if let Some(wave) = &mut self.debt.0 {
            wave.owed.insert(self.tree.reference(id), Due::Look);
        }
    }

    /// The same, if it follows from a round in which something was owed.
    pub(super) fn owe_after(&mut self, id: NodeId) {
        if self.debt.is_due() {
            self.owe(id);
        }
    }

    /// The directory's metadata are owed, if they follow from a round in which something was.
    pub(super) fn owe_own(&mut self, id: NodeId) {
        if let Some(wave) = self.debt.0.as_mut().filter(|wave| !wave.taken.is_empty()) {
            wave.owed.entry(self.tree.reference(id)).or_insert(Due::Own);
        }
    }

    /// The node is in trouble: it is not waited for.
    pub(super) fn forgive(&mut self, id: NodeId) {
        if let Some(wave) = &mut self.debt.0 {
            let node = self.tree.reference(id);
            wave.owed.remove(&node);
            wave.taken.remove(&node);
            wave.excused.insert(node);
        }
    }

    /// A directory's own metadata are in trouble: they are not waited for, but what a listing of it leads to is.
    pub(super) fn forgive_own(&mut self, id: NodeId) {
        let Some(wave) = &mut self.debt.0 else { return };
        let node = self.tree.reference(id);
        if !self.tree.has(id, flag::SCAN) {
            wave.owed.remove(&node);
            wave.excused.insert(node);
        }
    }

    /// The node's trouble is over: what had been left out of account beneath a directory for it is looked for.
    pub(super) fn debt_healed(&mut self, id: NodeId, tries: u32) {
        if self.debt.is_on() && tries > 1 && self.tree.kind(id) == Some(Kind::Dir) {
            self.dirty.mark(&mut self.tree, id, flag::SCAN | flag::DEEP);
            self.owe(id);
        }
    }

    /// The node is part of the round that begins.
    pub(super) fn debt_taken(&mut self, id: NodeId) {
        let node = self.tree.reference(id);
        let was_staged = self.staged.has(node);
        let Some(wave) = &mut self.debt.0 else { return };
        match wave.owed.remove(&node) {
            None | Some(Due::Own) => {}
            Some(due) => drop(wave.taken.insert(node, was_staged && due == Due::Look)),
        }
    }

    /// A listing of `dir`, or a look at it for the sake of others, told of the node.
    pub(super) fn debt_listed(&mut self, dir: NodeId, id: NodeId) {
        let (dir, node) = (self.tree.reference(dir), self.tree.reference(id));
        // It is looked at once more, for what it was told since the round began, and perhaps sent again: whoever waits shall not see that happen.
        let is_told = self.tree.has(id, flag::LOOK) && !self.tree.has(id, flag::UNWATCHED) && !self.is_excused(id);
        let was_staged = self.staged.has(node);
        let Some(wave) = self.debt.0.as_mut().filter(|wave| wave.taken.contains_key(&dir)) else { return };
        if is_told || self.tree.has(id, flag::BUSY) {
            wave.owed.insert(node, Due::Look);
        } else {
            let due = wave.owed.remove(&node);
            *wave.taken.entry(node).or_insert(false) |= was_staged && due == Some(Due::Look);
        }
    }

    /// A node of the round has another place now, and `id` has its name.
    pub(super) fn debt_inherited(&mut self, node: NodeRef, id: NodeId) {
        if let Some(wave) = self.debt.0.as_mut().filter(|wave| wave.taken.contains_key(&node)) {
            wave.taken.entry(self.tree.reference(id)).or_insert(false);
        }
    }

    /// The round was widened by these nodes for the sake of what is in it.
    pub(super) fn debt_widened(&mut self, nodes: &[NodeId]) {
        if let Some(wave) = self.debt.0.as_mut().filter(|wave| !wave.taken.is_empty()) {
            for id in nodes {
                wave.taken.entry(self.tree.reference(*id)).or_insert(false);
            }
        }
    }

    /// What was asked is asked again later.
    pub(super) fn debt_asked_later(&mut self, asked: &Asked) {
        let Some(wave) = &mut self.debt.0 else { return };
        let mut any = false;
        for node in asked.names.iter().chain([&asked.dir]) {
            if wave.taken.remove(node).is_some() {
                wave.owed.insert(*node, Due::Look);
                any = true;
            }
        }
        if any {
            wave.owed.insert(asked.dir, Due::Look);
        }
    }

    /// The round is over and its cycle emitted: what of it is still to come.
    pub(super) fn debt_round_over(&mut self) {
        let Some(wave) = &mut self.debt.0 else { return };
        let taken = std::mem::take(&mut wave.taken);
        for (node, was_staged) in taken {
            let Some(id) = self.tree.resolve(node) else { continue };
            let tree = &self.tree;
            // A directory that is polled has been listed; one that could not be is tried again.
            let later = !tree.has(id, flag::QUEUED) && (tree.has(id, flag::UNWATCHED) || self.is_excused(id));
            let due = if self.staged.has(node) {
                if was_staged { Due::Look } else { Due::Report }
            } else if tree.has(id, flag::BUSY) {
                Due::Report
            } else if (tree.has(id, flag::SCAN | flag::RELIST) && !later) || (was_staged && tree.has(id, flag::LOOK)) {
                Due::Look
            } else {
                continue;
            };
            if let Some(wave) = &mut self.debt.0 {
                wave.owed.entry(node).or_insert(due);
            }
        }
    }

    /// Whether objects that are looked at now, after the round, are owed; only once.
    pub(super) fn debt_of_told(&mut self) -> bool {
        self.debt.0.as_mut().is_some_and(|wave| std::mem::take(&mut wave.told))
    }

    /// The node's content is on its way to the mirror, in a cycle.
    pub(super) fn debt_sent(&mut self, id: NodeId) {
        let node = self.tree.reference(id);
        let Some(wave) = &mut self.debt.0 else { return };
        // What was read before the debt was taken counts if no event says that it changed.
        let dirty = self.tree.has(id, flag::DIRTY);
        if wave.owed.get(&node).is_some_and(|due| *due != Due::Look || !dirty) {
            wave.owed.remove(&node);
        }
    }
}

impl Emit<'_> {
    /// What is owed for the slot's name is owed for the node that comes there.
    pub(super) fn inherit_debt(&mut self, at: usize, node: NodeId) {
        if self.planner.debt.is_on() {
            self.planner.debt_inherited(self.round.slots[at].node, node);
        }
    }
}

impl Debt {
    /// Whether something of the round under way is owed.
    fn is_due(&self) -> bool {
        self.0.as_ref().is_some_and(|wave| !wave.taken.is_empty())
    }

    /// Whether anything is.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}
