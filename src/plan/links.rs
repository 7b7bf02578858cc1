//! Names of one object: which others an event is about, and the part of a cycle's emission that makes names of one object in the source names of one object in
//! the mirror. Part of the planner.

use crate::model::event::Hint;
use crate::model::meta::Stat;
use crate::model::op::Op;
use crate::plan::emit::{Emit, State};
use crate::plan::planner::Planner;
use crate::plan::reconcile::{Base, Difference, Want};
use crate::plan::tree::{NodeId, flag};

impl Planner {
    /// The object that has other names (or may, where links are not carried) beside the told one, which may soon be gone; for watchers that do not tell it.
    pub(super) fn object_at(&self, key: &[u8], name: &[u8], hint: Hint) -> Option<(u64, u64)> {
        let told = hint.has(Hint::WRITTEN | Hint::CLOSED | Hint::ATTRIB) && !name.is_empty();
        let linked = |id: &NodeId| !self.options.hard_links || self.tree.group(*id) != 0;
        let id = self.tree.child(self.tree.of_key(key).filter(|_| told)?, name).filter(linked)?;
        self.tree.ident(id).map(|ident| (ident.dev, ident.ino))
    }
}

impl Emit<'_> {
    pub(super) fn link_all(&mut self) {
        for at in 0..self.wants.len() {
            let Want::Link(base) = self.wants[at] else { continue };
            let Some((parent, stat)) = self.present(at) else { continue };
            let base = match base {
                Base::Node(node) => self.planner.tree.is_live(node).then_some(node),
                // What the base was to get may have had to wait: then it still is what it was.
                Base::Slot(first) if !self.is_in_order(first) => None,
                Base::Slot(first) => self.present(first).and_then(|(dir, _)| self.at_name(dir, first)),
            };
            let Some(base) = base.filter(|b| self.planner.tree.ident(*b) == Some(stat.ident) && !self.planner.tree.has(*b, flag::UNKNOWN))
            else {
                self.await_base(parent, at, &stat);
                continue;
            };
            self.link(base, parent, at, &stat);
        }
    }

    /// Whether the slot's name has the seen content once the cycle is applied.
    fn is_in_order(&self, at: usize) -> bool {
        let kept = matches!(self.wants[at], Want::Stay(difference) | Want::Move(_, difference) if difference < Difference::Content);
        kept || self.state[at] == State::Made
    }

    /// The base of a link is not in the mirror yet: it may be a large file on its way.
    fn await_base(&mut self, parent: NodeId, at: usize, stat: &Stat) {
        if self.planner.staged.get(&stat.ident).is_some_and(|staged| staged.ready.is_none()) {
            let node = self.planner.tree.child_or_insert(parent, self.round.slots[at].name.as_name());
            self.await_staged(parent, node, at, stat);
        } else {
            self.defer(at);
        }
    }

    pub(super) fn link(&mut self, base: NodeId, parent: NodeId, at: usize, stat: &Stat) {
        let differs = self.planner.tree.meta(base).is_some_and(|m| m.kind == stat.meta.kind && self.meta_differs(&stat.meta, &m));
        if differs {
            // The base was not looked at itself: what was seen at the new name is its metadata too.
            self.push_meta(base, &stat.meta);
        }
        let Some(to) = self.slot_spot(parent, at) else { return };
        let Some(from) = self.spot(base) else {
            self.defer(at);
            return;
        };
        let node = self.tree().child_or_insert(parent, to.name.as_name());
        self.push_post(Op::Link { from, to }, parent);
        self.made(node, stat);
        let (group, meta) = (self.group_of(base), self.planner.tree.meta(base));
        if let Some(meta) = meta {
            self.record(node, at, &meta);
        }
        self.tree().set_group(node, group);
        self.tree().copy_doubts(node, base);
    }

    /// The hard-link group of a node that gets, or may soon have, a second name.
    pub(super) fn group_of(&mut self, node: NodeId) -> u32 {
        if self.planner.tree.group(node) == 0 {
            self.planner.next_group += 1;
            let group = self.planner.next_group;
            self.tree().set_group(node, group);
        }
        self.planner.tree.group(node)
    }
}
