//! Objects that were told to have changed: each is looked at under all its names. Part of the planner.

use crate::limits::TOLD_OBJECTS_MAX;
use crate::model::cycle::NodeRef;
use crate::model::event::Hint;
use crate::model::meta::{Kind, Stat};
use crate::model::path::NameBuf;
use crate::plan::dirty::SETTLE_NS;
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};

impl Planner {
    /// An object changed: it has to be looked at under all its names, for the one that the event tells may be gone when it is looked at.
    pub(super) fn object_told(&mut self, object: (u64, u64), hint: Hint, now: u64) {
        if self.round.is_some() {
            // A name that was looked at before the change may turn out to be one of the object's.
            if self.told.len() < TOLD_OBJECTS_MAX {
                *self.told.entry(object).or_default() |= hint;
            } else {
                self.told_lost = true;
            }
        }
        self.look_at_object(object, hint, false, now);
    }

    fn look_at_object(&mut self, (dev, ino): (u64, u64), hint: Hint, owed: bool, now: u64) {
        let mut names = std::mem::take(&mut self.names_told);
        names.extend(self.tree.of_inode(dev, ino).filter(|id| self.tree.kind(*id) != Some(Kind::Dir)));
        let wrote = if hint.has(Hint::WRITTEN | Hint::CLOSED) { flag::WROTE } else { 0 };
        for id in names.drain(..) {
            if hint.has(Hint::CLOSED) {
                self.tree.forget_ctime(id);
            }
            if wrote != 0 {
                self.staged.written(self.tree.reference(id));
            }
            if hint.has(Hint::CLOSED | Hint::ATTRIB) {
                self.dirty.mark(&mut self.tree, id, flag::LOOK | wrote);
            } else {
                self.dirty.mark_at(&mut self.tree, id, flag::LOOK | wrote, now + SETTLE_NS);
            }
            if owed {
                self.owe(id);
            }
        }
        self.names_told = names;
    }

    /// What events said of the node's content is taken care of, unless one came since it was looked at.
    pub(super) fn heard(&mut self, node: NodeId, stat: &Stat) {
        if !self.tree.has(node, flag::LOOK) {
            self.tree.clear(node, flag::WROTE | flag::CAME);
            self.tree.set_ctime(node, stat.ctime);
            self.name_heard(node);
        }
    }

    /// Whether objects were told to have changed while the round that is under way was.
    pub(super) fn has_told(&self) -> bool {
        self.told_lost || !self.told.is_empty()
    }

    /// After a round: what was told while it was under way. `seen` are its names, if some of that was forgotten.
    pub(super) fn look_at_told(&mut self, seen: Option<Vec<(NodeRef, NameBuf)>>, now: u64) {
        let owed = self.debt_of_told();
        let mut told = std::mem::take(&mut self.told);
        for (object, hint) in told.drain() {
            self.look_at_object(object, hint, owed, now);
        }
        self.told = told;
        self.told_lost = false;
        for (dir, name) in seen.into_iter().flatten() {
            if let Some(dir) = self.tree.resolve(dir)
                && let Some(id) = self.tree.child(dir, name.as_name().as_bytes())
                && self.tree.kind(id).is_some_and(|kind| kind != Kind::Dir)
            {
                self.staged.written(self.tree.reference(id));
                self.dirty.mark(&mut self.tree, id, flag::LOOK | flag::WROTE);
                if owed {
                    self.owe(id);
                }
            }
        }
    }
}
