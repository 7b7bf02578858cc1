//! What is parked between cycles: a cycle that failed left it, of this session or an earlier one. Part of the planner.
//!
//! A manifest tells it like anything else that the source does not have, and it is deleted in the same way. But it may be the only copy of what the source misses: it stays while
//! the source is in doubt, and what an earlier session left stays until nobody misses it ([`Planner::forget_past`]). What the filter protects in it stays too, and is told: under the
//! parked name, which no look at the source finds. Rules are asked by the name that it had.

use std::collections::BTreeSet;

use crate::limits::{EMPTIED_ENTRIES_MIN, PARKS_MAX};
use crate::model::cycle::{Cycle, NodeRef};
use crate::model::op::Op;
use crate::model::path::{Name, NameBuf};
use crate::model::probe::Seen;
use crate::plan::guard::HoldCause;
use crate::plan::planner::Planner;
use crate::plan::reconcile::Want;
use crate::plan::round::{Asked, Round};
use crate::plan::tree::{NONE, NodeId, ROOT, flag};
use crate::plan::undeleted::DELETE_REPLACED;
use crate::plan::{NodeMap, NodeSet};

/// Numbers beyond are of no session that there was: they do not move this one's.
const NUMBERS_MAX: u64 = 1 << 62;

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// The topmost of what manifests told, with the entries at and below each.
    told: NodeMap<NodeRef, u64>,
    /// Numbers that this session parks under: others are of earlier ones. Those of a cycle that was done are forgotten, and the oldest beyond [`PARKS_MAX`]: what is parked
    /// there stays as long as what earlier sessions left.
    ours: BTreeSet<u64>,
    /// Nobody misses what earlier sessions left.
    unmissed: bool,
    /// It was approved that the source has nothing.
    emptied: bool,
    /// What stays for the time being.
    pub(super) kept: NodeSet<NodeRef>,
    /// What is listed again since its time has come.
    again: NodeSet<NodeRef>,
}

impl Parked {
    /// An operator says that a source without anything is what it shall be.
    pub(super) fn approve_emptied(&mut self) {
        self.emptied = true;
    }

    fn is_missed(&self, name: Name<'_>) -> bool {
        !self.unmissed && name.park_number().is_none_or(|number| !self.ours.contains(&number))
    }

    /// Takes out of `wanted` what the next manifest is to cover, and whether that is one of what stays, and comes from time to time: it is none of those that follow one another. Of
    /// these one comes after the other, since a manifest around two of them would be of all that is between, and forget when they are tried again.
    pub(super) fn take_wanted(&mut self, wanted: &mut NodeSet<NodeRef>) -> (Vec<NodeRef>, bool) {
        self.again.retain(|node| wanted.contains(node));
        let mut next: Vec<NodeRef> = wanted.iter().filter(|node| !self.again.contains(node)).copied().collect();
        let is_again = next.is_empty();
        if is_again {
            next.extend(wanted.iter().next());
        }
        for node in &next {
            wanted.remove(node);
            self.again.remove(node);
        }
        (next, is_again)
    }

    /// The cycle is done, and nothing of it is parked any more.
    pub(super) fn done(&mut self, cycle: &Cycle) {
        if !self.ours.is_empty() {
            for op in &cycle.pre {
                if let Op::Park { id, .. } = op {
                    self.ours.remove(id);
                }
            }
        }
    }
}

impl Planner {
    /// Something is to be parked under the number.
    pub(super) fn parks(&mut self, number: u64) {
        let ours = &mut self.guard.parked.ours;
        ours.insert(number);
        if ours.len() > PARKS_MAX {
            ours.pop_first();
        }
    }

    /// A manifest tells of something that is parked, which is not in something else that is. This session parks nothing under its number.
    pub(super) fn parked_told(&mut self, id: NodeId, name: &NameBuf) {
        let node = self.tree.reference(id);
        self.guard.parked.told.insert(node, 0);
        if self.guard.parked.is_missed(name.as_name()) {
            self.guard.parked.kept.insert(node);
        }
        if let Some(number) = name.as_name().park_number().filter(|number| *number < NUMBERS_MAX) {
            self.next_id = self.next_id.max(number);
        }
    }

    /// A manifest is complete. What was parked in what it tells of, and is not told, is gone.
    pub(super) fn parked_all_told(&mut self) {
        let Self { troubles, tree, guard, .. } = self;
        guard.parked.kept.retain(|node| tree.resolve(*node).is_some());
        guard.parked.told.retain(|node, _| tree.resolve(*node).is_some());
        for (node, entries) in &mut guard.parked.told {
            *entries = tree.subtree_bottom_up(node.id).len() as u64;
        }
        let is_there = |dir: NodeRef, name: &[u8]| tree.resolve(dir).is_some_and(|dir| tree.child(dir, name).is_some());
        let is_parked = |name: &[u8]| Name::new(name).is_ok_and(Name::is_parked);
        let gone = troubles.keys().filter(|(dir, name)| is_parked(name) && !is_there(*dir, name)).cloned().collect();
        self.heal_all(gone);
    }

    /// Of what is at the node all was deleted that is not to stay. Else what remains would hide others from [`Planner::mirrored`].
    pub(super) fn parked_shrank(&mut self, id: NodeId) {
        if !self.guard.parked.told.is_empty()
            && self.tree.is_live(id)
            && let Some(entries) = self.guard.parked.told.get_mut(&self.tree.reference(id))
        {
            *entries = self.tree.subtree_bottom_up(id).len() as u64;
        }
    }

    /// Entries of the mirror, but for what is parked.
    pub(super) fn mirrored(&self) -> u64 {
        let told = self.guard.parked.told.iter().filter(|(node, _)| self.tree.resolve(**node).is_some());
        (self.tree.len() as u64 - 1).saturating_sub(told.map(|(_, entries)| entries).sum())
    }

    /// Whether what is parked may be the only copy of what the source misses, whoever parked it, or that is to be judged yet.
    fn keeps_parked(&self) -> bool {
        matches!(self.guard.cause(), Some(HoldCause::Emptied | HoldCause::Unmounted)) || self.awaits_burst() || self.misses_mounts()
    }

    /// Takes what is to stay out of `wants`. Where a limit holds deletions, it is judged like anything else.
    pub(super) fn keep_parked(&mut self, round: &Round, wants: &mut [Want]) {
        let holds = self.keeps_parked();
        let parked = &mut self.guard.parked;
        if !holds && (parked.told.is_empty() || parked.unmissed) {
            return;
        }
        for (slot, want) in round.slots.iter().zip(wants) {
            let name = slot.name.as_name();
            if *want == Want::Gone && name.is_parked() && (holds || parked.is_missed(name)) {
                *want = Want::Skip;
                parked.kept.insert(slot.node);
            }
        }
    }

    /// What earlier sessions left, and may be missed yet, with its entries.
    fn missed(&self) -> impl Iterator<Item = (NodeRef, u64)> {
        let parked = &self.guard.parked;
        // What is excluded itself stays anyway.
        let is_missed = |node: NodeRef| {
            !self.tree.has(node.id, flag::PROTECTED) && Name::new(self.tree.name(node.id)).is_ok_and(|name| parked.is_missed(name))
        };
        let told = parked.told.iter().filter(|_| !parked.unmissed).map(|(node, entries)| (*node, *entries));
        told.filter(move |(node, _)| self.tree.resolve(*node).is_some_and(|_| is_missed(*node)))
    }

    /// Entries of what earlier sessions left, and may be missed yet.
    pub(super) fn entries_missed(&self) -> u64 {
        self.missed().map(|(_, entries)| entries).sum()
    }

    /// Whether the mirror has all that it shall have, and nothing of the source is in doubt: then what earlier sessions left parked is missed by nobody. Where the source has nothing, its
    /// deletion is held like that of anything else.
    pub fn forget_past(&mut self, now: u64) -> bool {
        if self.misses_parked() {
            self.guard.doubt(HoldCause::Emptied, now);
            self.hold_missed();
            self.guard.tell_held();
            return false;
        }
        self.guard.parked.unmissed = true;
        self.let_parked_go();
        true
    }

    /// Whether what earlier sessions left parked is to be held, since the source has nothing.
    pub(super) fn misses_parked(&self) -> bool {
        let judges = !self.is_dry() && !self.options.allow_empty && !self.guard.parked.emptied;
        judges && self.entries_missed() >= EMPTIED_ENTRIES_MIN && self.has_nothing()
    }

    /// Holds what earlier sessions left parked.
    pub(super) fn hold_missed(&mut self) {
        let missed: Vec<(NodeRef, u64)> = self.missed().filter(|(node, _)| !self.guard.keeps_above(&self.tree, node.id)).collect();
        self.guard.hold(&missed);
    }

    /// Whether the source is known to have nothing.
    pub(super) fn has_nothing(&self) -> bool {
        !self.tree.children(ROOT).any(|id| self.tree.ident(id).is_some())
    }

    /// What is kept for no reason any more is looked at again.
    pub(super) fn let_parked_go(&mut self) {
        if self.keeps_parked() {
            return;
        }
        let Self { guard, tree, dirty, .. } = self;
        let Parked { kept, ours, unmissed, .. } = &mut guard.parked;
        kept.retain(|node| {
            let Some(id) = tree.resolve(*node) else { return false };
            let number = Name::new(tree.name(id)).ok().and_then(Name::park_number);
            let goes = *unmissed || number.is_some_and(|number| ours.contains(&number));
            if goes {
                dirty.mark(tree, id, flag::LOOK);
            }
            !goes
        });
    }

    /// It was to be deleted, and stays for what the filter protects in it, until a manifest of it tells that this is gone.
    pub(super) fn parked_stays(&mut self, id: NodeId, now: u64) {
        self.trouble(id, DELETE_REPLACED, libc::ENOTEMPTY, now);
        let at = self.retry_at(id, now);
        // What is in something that is excluded itself is of no interest.
        let again = if self.tree.has(id, flag::PROTECTED) { flag::LOOK } else { flag::RELIST };
        self.dirty.mark_at(&mut self.tree, id, again, at);
    }

    /// The time may have come for the manifest of a directory that waits for it.
    pub(super) fn relist_again(&mut self, id: NodeId, now: u64) {
        if self.is_parked(id) {
            if let Some(at) = self.next_try(id).filter(|at| *at > now) {
                // It was queued to be looked at.
                self.tree.clear(id, flag::RELIST);
                self.dirty.mark_at(&mut self.tree, id, flag::RELIST, at);
                return;
            }
            self.guard.parked.again.insert(self.tree.reference(id));
        }
        self.relist(id);
    }

    /// It is to be looked at: the source has nothing at such a name.
    pub(super) fn parked_slot(&mut self, id: NodeId) {
        let parent = self.tree.parent(id);
        let Some(name) = self.tree.name_buf(id).filter(|_| !self.tree.has(parent, flag::UNKNOWN)) else { return };
        let node = self.tree.reference(id);
        let asked = Asked { dir: self.tree.reference(parent), names: vec![node], list: false, deep: false };
        if let Some(round) = &mut self.round {
            round.asked.insert(node);
        }
        self.slot(parent, id, name, Seen::Absent, &asked);
    }

    /// Of what is parked only its own name is looked at, and what is in it only in the mirror.
    pub(super) fn is_parked_left_alone(&mut self, id: NodeId, top: NodeId) -> bool {
        let stays = if id == top { flag::LOOK | flag::RELIST } else { flag::RELIST };
        self.tree.clear(id, flag::DEEP | (flag::DIRTY & !stays));
        !self.tree.has(id, stays)
    }

    /// Whether the node is what is parked.
    pub(super) fn is_parked(&self, id: NodeId) -> bool {
        Name::new(self.tree.name(id)).is_ok_and(Name::is_parked)
    }

    /// Whether the node is parked, as a manifest told.
    pub(super) fn is_told_parked(&self, id: NodeId) -> bool {
        !self.guard.parked.told.is_empty() && self.guard.parked.told.contains_key(&self.tree.reference(id))
    }

    /// The topmost node that is parked, of this one and those above it, as far as that is between cycles.
    pub(super) fn parked_above(&self, id: NodeId) -> Option<NodeId> {
        if self.guard.parked.told.is_empty() && self.troubles.is_empty() {
            return None;
        }
        let up = |id: &NodeId| Some(self.tree.parent(*id)).filter(|id| *id != NONE);
        std::iter::successors(Some(id), up).filter(|id| self.is_parked(*id)).last()
    }
}
