//! A root that loses everything at once, whether that is found at one moment or told name by name. Part of the planner's guard.
//!
//! What goes from the root waits until nothing has gone from it for a moment, so that it is judged together: who moves all of it elsewhere is quick, but events of it
//! come one by one. What goes on going is a root that is used so: it waits at the beginning only.

use crate::limits::{BURST_OF_ROOT_MAX_NS, BURST_OF_ROOT_OVER_NS, BURST_OF_ROOT_QUIET_NS};
use crate::model::cycle::NodeRef;
use crate::model::probe::Seen;
use crate::plan::NodeSet;
use crate::plan::guard::moved;
use crate::plan::planner::Planner;
use crate::plan::reconcile::Want;
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NodeId, ROOT, flag};

/// Names that went from the root one shortly after the other.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// When the first and the last of them was seen to be gone.
    span: Option<(u64, u64)>,
    /// Those that wait to be judged together.
    waiting: NodeSet<NodeRef>,
}

impl Burst {
    /// Until when these names wait, which may have waited before.
    fn due(&mut self, gone: &[(usize, NodeRef)], now: u64) -> u64 {
        let is_news = gone.iter().any(|(_, node)| !self.waiting.contains(node));
        // One that took too long has no end before a longer rest.
        let is_over = |began: u64, last: u64| {
            let rest = now.saturating_sub(last);
            let is_short = last - began < BURST_OF_ROOT_MAX_NS;
            rest >= BURST_OF_ROOT_OVER_NS || (is_short && self.waiting.is_empty() && rest >= BURST_OF_ROOT_QUIET_NS)
        };
        let (began, last) = match self.span {
            Some((began, last)) if !is_over(began, last) => (began, if is_news { now } else { last }),
            _ => {
                self.waiting.clear();
                (now, now)
            }
        };
        self.span = Some((began, last));
        (last + BURST_OF_ROOT_QUIET_NS).min(began + BURST_OF_ROOT_MAX_NS)
    }
}

impl Planner {
    /// Whether something that is gone from the root waits to be judged.
    pub(super) fn awaits_burst(&self) -> bool {
        let waits = |id: NodeId| self.tree.has(id, flag::QUEUED | flag::DELAYED);
        self.guard.burst.waiting.iter().any(|node| self.tree.resolve(*node).is_some_and(waits))
    }

    /// What is gone from the root is left for when the burst is over that it belongs to. Not what is approved, nor what the first look of a session finds.
    pub(super) fn await_burst(&mut self, round: &Round, wants: &mut [Want], now: u64) {
        if !self.guard.settled || self.guard.cause().is_some() || self.options.allow_empty {
            self.guard.burst = Burst::default();
            return;
        }
        let of_root = || round.slots.iter().enumerate().filter(|(_, slot)| slot.parent.id == ROOT && !slot.name.as_name().is_parked());
        if !self.guard.burst.waiting.is_empty() {
            for (_, slot) in of_root().filter(|(_, slot)| slot.seen != Seen::Absent) {
                self.guard.burst.waiting.remove(&slot.node);
            }
        }
        let is_gone = |(at, slot): &(usize, &Slot)| wants[*at] == Want::Gone && !self.guard.allowed.contains(&slot.node);
        let mut gone: Vec<(usize, NodeRef)> = of_root().filter(is_gone).map(|(at, slot)| (at, slot.node)).collect();
        if !gone.is_empty() {
            let moved = moved(wants);
            // What the mirror never had does not go: a lock file that comes and goes is no burst.
            let had = |id: NodeId| self.tree.kind(id).is_some() && !moved.contains(&id);
            gone.retain(|(_, node)| self.tree.resolve(*node).is_some_and(had));
        }
        if gone.is_empty() {
            return;
        }
        let due = self.guard.burst.due(&gone, now);
        if due <= now {
            // Those that others of the round had no room for wait still.
            let waits = |id: NodeId| self.tree.has(id, flag::QUEUED | flag::DELAYED);
            self.guard.burst.waiting.retain(|node| self.tree.resolve(*node).is_some_and(waits));
            return;
        }
        for (at, node) in gone {
            self.guard.burst.waiting.insert(node);
            wants[at] = Want::Skip;
            self.dirty.mark_at(&mut self.tree, node.id, flag::LOOK, due);
            self.owe_after(node.id);
        }
    }

    /// Whether the round leaves nothing in the root that the source has there, or may have.
    pub(super) fn is_emptied(&self, round: &Round) -> bool {
        let absent = |id: NodeId| {
            let node = self.tree.reference(id);
            let at = round.slot_of.get(&node);
            at.map_or_else(|| self.guard.burst.waiting.contains(&node), |at| round.slots[*at].seen == Seen::Absent)
        };
        // What is of no object in the source and could not be deleted is not there.
        let is_left = |id: NodeId| {
            self.is_parked(id) || (self.tree.ident(id).is_none() && self.is_troubled(id) && !self.tree.has(id, flag::PROTECTED))
        };
        let counts = |id: &NodeId| self.tree.kind(*id).is_some() && !is_left(*id);
        self.tree.children(ROOT).filter(counts).all(|id| absent(id) && !self.tree.has(id, flag::PROTECTED))
            && !round.slots.iter().any(|slot| slot.parent.id == ROOT && slot.seen != Seen::Absent)
    }
}
