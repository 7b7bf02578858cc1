//! What is parked between cycles: a cycle that failed left it, of this session or an earlier one. Part of the planner.
//!
//! A manifest tells it like anything else that the source does not have, and it is deleted in the same way. But it may be the only copy of what the source misses: it stays while
//! the source is in doubt, and what an earlier session left stays until nobody misses it ([`Planner::forget_past`]). What the filter protects in it stays too, and is told: under the
//! parked name, which no look at the source finds and no rule is about.

use crate::model::cycle::NodeRef;
use crate::model::path::{Name, NameBuf};
use crate::model::probe::Seen;
use crate::plan::NodeSet;
use crate::plan::guard::HoldCause;
use crate::plan::planner::Planner;
use crate::plan::reconcile::Want;
use crate::plan::round::{Asked, Round};
use crate::plan::tree::{NONE, NodeId, flag};
use crate::plan::undeleted::DELETE_REPLACED;

/// Numbers beyond are of no session that there was: they do not move this one's.
const NUMBERS_MAX: u64 = 1 << 62;

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// A manifest told of some.
    any: bool,
    /// This session parks from this number on; 0: its first manifest is not complete.
    first: u64,
    /// Nobody misses what earlier sessions left.
    unmissed: bool,
    /// What stays for the time being.
    kept: NodeSet<NodeRef>,
}

impl Parked {
    fn is_missed(&self, name: Name<'_>) -> bool {
        !self.unmissed && name.park_number().is_none_or(|number| number < self.first || number >= NUMBERS_MAX)
    }
}

impl Planner {
    /// A manifest tells of something that is parked. This session parks nothing under its number.
    pub(super) fn parked_told(&mut self, name: &NameBuf) {
        self.guard.parked.any = true;
        if let Some(number) = name.as_name().park_number().filter(|number| *number < NUMBERS_MAX) {
            self.next_id = self.next_id.max(number);
        }
    }

    /// A manifest is complete. What was parked in what it tells of, and is not told, is gone.
    pub(super) fn parked_all_told(&mut self) {
        if self.guard.parked.first == 0 {
            self.guard.parked.first = self.next_id + 1;
        }
        let Self { troubles, tree, guard, .. } = self;
        guard.parked.kept.retain(|node| tree.resolve(*node).is_some());
        let is_there = |dir: NodeRef, name: &[u8]| tree.resolve(dir).is_some_and(|dir| tree.child(dir, name).is_some());
        let is_parked = |name: &[u8]| Name::new(name).is_ok_and(Name::is_parked);
        let gone = troubles.keys().filter(|(dir, name)| is_parked(name) && !is_there(*dir, name)).cloned().collect();
        self.heal_all(gone);
    }

    /// Takes what is to stay out of `wants`. Where a limit holds deletions, it is judged like anything else.
    pub(super) fn keep_parked(&mut self, round: &Round, wants: &mut [Want]) {
        let holds = matches!(self.guard.cause(), Some(HoldCause::Emptied | HoldCause::Unmounted));
        let parked = &mut self.guard.parked;
        if !holds && (!parked.any || parked.unmissed) {
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

    /// The mirror has all that it shall have, and nothing of the source is in doubt: what earlier sessions left parked is missed by nobody.
    pub fn forget_past(&mut self) {
        self.guard.parked.unmissed = true;
        self.let_parked_go();
    }

    /// What is kept is looked at again.
    pub(super) fn let_parked_go(&mut self) {
        for node in std::mem::take(&mut self.guard.parked.kept) {
            if let Some(id) = self.tree.resolve(node) {
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
        }
    }

    /// It was to be deleted, and stays for what the filter protects in it, until a manifest of it tells that this is gone.
    pub(super) fn parked_stays(&mut self, id: NodeId, now: u64) {
        self.trouble(id, DELETE_REPLACED, libc::ENOTEMPTY, now);
        let at = self.retry_at(id, now);
        self.dirty.mark_at(&mut self.tree, id, flag::RELIST, at);
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

    /// The topmost node that is parked, of this one and those above it, as far as that is between cycles.
    pub(super) fn parked_above(&self, id: NodeId) -> Option<NodeId> {
        if !self.guard.parked.any && self.troubles.is_empty() {
            return None;
        }
        let up = |id: &NodeId| Some(self.tree.parent(*id)).filter(|id| *id != NONE);
        std::iter::successors(Some(id), up).filter(|id| self.is_parked(*id)).last()
    }
}
