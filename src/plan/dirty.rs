//! Which nodes wait to be looked at: now, or at a time. Only the planner uses it.
//!
//! Invariant: a node is in `ready` exactly if it is marked `QUEUED` and not `DELAYED`. One that is marked `DELAYED` only has an entry in `delayed`, one that is
//! marked as both an entry in `later`; entries of nodes that are not marked so any more, or no longer there, are dropped when their turn comes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::model::cycle::NodeRef;
use crate::model::event::Hint;
use crate::plan::tree::{NodeId, Tree, flag};

/// A file that is being written and not closed is left alone so long: most are closed by then, and are sent once.
pub(super) const SETTLE_NS: u64 = 1_000_000;
/// What was moved away is looked for at its new name first, and so long: that may be in a directory which is still to be listed.
const MOVE_NS: u64 = 20_000_000;

/// The dirty set. Times are nanoseconds on the caller's monotonic clock.
#[derive(Debug, Default)]
pub struct Dirty {
    ready: VecDeque<NodeRef>,
    /// What goes on beside the rest, a little in each cycle.
    later: VecDeque<NodeRef>,
    delayed: BinaryHeap<Reverse<(u64, NodeRef)>>,
    /// Nodes that were ever queued in `ready`.
    queued: u64,
}

impl Dirty {
    /// Marks the node with `why` (some of `flag::DIRTY` and `flag::DEEP`) and queues it for the next cycle.
    pub fn mark(&mut self, tree: &mut Tree, id: NodeId, why: u16) {
        tree.set(id, why);
        if !tree.has(id, flag::QUEUED) || tree.has(id, flag::DELAYED) {
            tree.clear(id, flag::DELAYED);
            tree.set(id, flag::QUEUED);
            self.queued += 1;
            self.ready.push_back(tree.reference(id));
        }
    }

    /// Marks the node with `why` and queues it for [`Dirty::take_later`], unless it is queued already.
    pub fn mark_later(&mut self, tree: &mut Tree, id: NodeId, why: u16) {
        tree.set(id, why);
        if !tree.has(id, flag::QUEUED) {
            tree.set(id, flag::QUEUED | flag::DELAYED);
            self.later.push_back(tree.reference(id));
        }
    }

    /// Marks the node with `why` and queues it at `at`, unless it is queued already, or delayed already (then it stays where it is).
    pub fn mark_at(&mut self, tree: &mut Tree, id: NodeId, why: u16, at: u64) {
        tree.set(id, why);
        if !tree.has(id, flag::QUEUED | flag::DELAYED) {
            tree.set(id, flag::DELAYED);
            self.delayed.push(Reverse((at, tree.reference(id))));
        }
    }

    /// Marks the node of a name that an event tells of, to be looked at now or a little later.
    pub fn mark_told(&mut self, tree: &mut Tree, id: NodeId, hint: Hint, now: u64) {
        let settled = Hint::CLOSED | Hint::WENT | Hint::ATTRIB | Hint::DIR | Hint::MOVED;
        if hint.has(Hint::MOVED) && !hint.has(Hint::APPEARED) {
            self.mark_at(tree, id, flag::LOOK, now + MOVE_NS);
        } else if hint.has(Hint::WRITTEN | Hint::APPEARED) && !hint.has(settled) {
            self.mark_at(tree, id, flag::LOOK, now + SETTLE_NS);
        } else {
            self.mark(tree, id, flag::LOOK);
        }
    }

    /// Queues what was delayed until `now` or earlier.
    pub fn advance(&mut self, tree: &mut Tree, now: u64) {
        while let Some(Reverse((at, node))) = self.delayed.peek().copied() {
            if at > now {
                return;
            }
            self.delayed.pop();
            if let Some(id) = tree.resolve(node)
                && tree.has(id, flag::DELAYED)
            {
                self.mark(tree, id, 0);
            }
        }
    }

    /// Takes the next queued node.
    pub fn take(&mut self, tree: &mut Tree) -> Option<NodeId> {
        while let Some(node) = self.ready.pop_front() {
            if let Some(id) = tree.resolve(node) {
                tree.clear(id, flag::QUEUED);
                return Some(id);
            }
        }
        None
    }

    /// Takes the next node that was queued for later and not for the next cycle since.
    pub fn take_later(&mut self, tree: &mut Tree) -> Option<NodeId> {
        while let Some(node) = self.later.pop_front() {
            if let Some(id) = tree.resolve(node).filter(|id| tree.has(*id, flag::QUEUED) && tree.has(*id, flag::DELAYED)) {
                tree.clear(id, flag::QUEUED | flag::DELAYED);
                return Some(id);
            }
        }
        None
    }

    /// Whether nothing is queued for the next cycle, or for later ones.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.later.is_empty()
    }

    /// Number of queued nodes; nodes freed meanwhile count until they are taken.
    pub fn len(&self) -> usize {
        self.ready.len() + self.later.len()
    }

    /// How many nodes have been queued so far.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// How many of them have been taken, or were freed before.
    pub fn taken(&self) -> u64 {
        self.queued - self.ready.len() as u64
    }

    /// The nodes that are queued; some may have been freed.
    pub fn queued_nodes(&self) -> impl Iterator<Item = NodeRef> + '_ {
        self.ready.iter().chain(&self.later).copied()
    }

    /// When the first delayed node's time comes.
    pub fn next_at(&self) -> Option<u64> {
        self.delayed.peek().map(|Reverse((at, _))| *at)
    }

    /// The nodes that wait for a time.
    pub fn delayed<'a>(&'a self, tree: &'a Tree) -> impl Iterator<Item = NodeId> + 'a {
        self.delayed.iter().filter_map(|Reverse((_, node))| tree.resolve(*node)).filter(|id| tree.has(*id, flag::DELAYED))
    }
}
