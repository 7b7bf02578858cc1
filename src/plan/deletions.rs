//! The part of a cycle's emission that deletes: what was in the way, what the source lacks. Part of the planner.

use crate::model::meta::Kind;
use crate::model::op::Op;
use crate::plan::emit::Emit;
use crate::plan::planner::Action;
use crate::plan::reconcile::Want;
use crate::plan::tree::{NodeId, flag};

impl Emit<'_> {
    /// What is in the way is deleted in the end.
    pub(super) fn discard(&mut self, id: NodeId) {
        self.trash.push(self.planner.tree.reference(id));
    }

    pub(super) fn delete_all(&mut self, actions: &mut Vec<Action>) {
        for parked in std::mem::take(&mut self.trash) {
            if let Some(id) = self.planner.tree.resolve(parked) {
                self.delete(id, actions);
            }
        }
        for at in 0..self.wants.len() {
            if self.wants[at] != Want::Gone {
                continue;
            }
            let Some(parent) = self.parent(&self.round.slots[at]) else { continue };
            // Something else may have moved here, or the object may have moved away: then the node is another one.
            let node = self.planner.tree.resolve(self.round.slots[at].node);
            if let Some(id) = self.at_name(parent, at).filter(|id| Some(*id) == node) {
                if self.planner.options.delete || self.planner.tree.kind(id).is_none() || self.planner.is_parked(id) {
                    self.delete(id, actions);
                } else {
                    self.leave(id, actions);
                }
            }
        }
    }

    /// Nothing is deleted: what the mirror has at the node and below is of no object in the source any more, and nothing below is looked at.
    fn leave(&mut self, top: NodeId, actions: &mut Vec<Action>) {
        for id in self.planner.tree.subtree_bottom_up(top) {
            if let Some(key) = self.tree().take_key(id) {
                actions.push(Action::Forget(key));
            }
            let tree = self.tree();
            tree.clear_ident(id);
            if tree.kind(id) == Some(Kind::File) {
                // What comes to the name is another file, whatever its length and time.
                tree.set(id, flag::REUSE);
            }
            if id != top {
                self.rest(id);
            }
        }
    }

    /// Nothing waits for the node any more.
    fn rest(&mut self, id: NodeId) {
        let tree = self.tree();
        // Not what says in which queue it is.
        let delayed = if tree.has(id, flag::RELIST | flag::QUEUED) { 0 } else { flag::DELAYED };
        tree.clear(id, flag::DEEP | delayed | (flag::DIRTY & !flag::RELIST));
    }

    /// Deletes what the mirror has at the node and below, but for what the filter protects and the directories above that. A mount point is tried, and
    /// stays in the tree with the directories above it.
    pub(super) fn delete(&mut self, top: NodeId, actions: &mut Vec<Action>) {
        for id in self.planner.tree.subtree_bottom_up(top) {
            let tree = &self.planner.tree;
            let border = tree.is_border(id);
            let stays = border || self.above_borders.contains(&id);
            let kept = tree.has(id, flag::PROTECTED) || tree.has_children(id);
            let known = tree.kind(id).is_some() || tree.has(id, flag::UNKNOWN);
            if stays {
                self.above_borders.insert(tree.parent(id));
            }
            if let Some(key) = self.tree().take_key(id) {
                actions.push(Action::Forget(key));
            }
            if known && !kept && (border || !stays) {
                let parent = self.planner.tree.parent(id);
                let Some(spot) = self.spot(id) else { continue };
                let op = if self.planner.tree.kind(id) == Some(Kind::Dir) { Op::Rmdir { at: spot } } else { Op::Unlink { at: spot } };
                self.push_post(op, parent);
            }
            if stays {
                self.empty(id);
            } else if kept {
                self.tree().clear_ident(id);
            } else {
                if id == top {
                    self.leaves(id);
                }
                self.touched.remove(&id);
                self.tree().remove(id);
            }
        }
        self.planner.parked_shrank(top);
        if self.above_borders.contains(&top) || self.planner.tree.is_border(top) {
            self.planner.wait_for_unmount(top, self.now);
        } else if self.planner.tree.is_live(top) && self.planner.is_parked(top) {
            self.planner.parked_stays(top, self.now);
        }
    }

    /// The directory is what is left of it, of no object in the source, with metadata that is nobody's. Nothing is looked at for its sake: what is above it
    /// waits.
    fn empty(&mut self, id: NodeId) {
        self.touched.remove(&id);
        let tree = self.tree();
        tree.clear_ident(id);
        tree.doubt_meta(id);
        tree.clear(id, flag::UNKNOWN);
        self.rest(id);
    }
}
