//! The first part of a cycle's emission: moves, each after those that make its place ready, and what has to get out of the way. Part of the planner.

use crate::model::meta::Kind;
use crate::model::op::Op;
use crate::model::path::NameBuf;
use crate::model::probe::Seen;
use crate::plan::emit::{Emit, State};
use crate::plan::reconcile::Want;
use crate::plan::tree::{NONE, NodeId, ROOT, flag};

impl Emit<'_> {
    /// Emits the move of a slot, after the moves that make its place ready.
    pub(super) fn place(&mut self, at: usize) {
        let Want::Move(source, _) = self.wants[at] else { return };
        if self.state[at] != State::Open {
            return;
        }
        self.state[at] = State::Visiting;
        self.settle_parents(at);
        let Some((parent, _)) = self.present(at).filter(|(p, _)| !self.planner.tree.is_within(*p, source)) else {
            self.demote(at);
            return;
        };
        let directory = self.planner.tree.kind(source) == Some(Kind::Dir);
        // Rules that look at paths may say something else of what is below at its new place.
        let filtered = directory && self.planner.filter.needs_path();
        if (filtered && self.holds_protected(source)) || !self.vacate(parent, at, directory) {
            self.demote(at);
            return;
        }
        let unlisted = directory && self.is_below_deep(source);
        let old_parent = self.planner.tree.parent(source);
        let (Some(from), Some(to)) = (self.spot(source), self.slot_spot(parent, at)) else {
            self.demote(at);
            return;
        };
        self.clear_name(parent, at);
        self.inherit_debt(at, source);
        let (old_name, name) = (from.name.clone(), to.name.clone());
        let succeeded = self.is_succeeded(source);
        let op = if succeeded { Op::Link { from, to } } else { Op::Move { from, to } };
        self.push_pre_from(op, parent, old_parent);
        self.leaves(source);
        // Its trouble was at its old name: whether it is still in any is seen at the new one.
        self.planner.heal(source);
        self.tree().reparent(source, parent, name.as_name());
        if succeeded {
            self.leave_behind(source, old_parent, &old_name);
        }
        if filtered || unlisted {
            self.planner.dirty.mark(&mut self.planner.tree, source, flag::SCAN | flag::DEEP);
        }
        self.claims.remove(&source);
        self.state[at] = State::Done;
    }

    /// Whether everything below the node is to be listed, or below a directory above it: then it is wherever the node goes.
    fn is_below_deep(&self, node: NodeId) -> bool {
        let tree = &self.planner.tree;
        let slot_of = |id: NodeId| self.round.slot_of.get(&tree.reference(id));
        std::iter::successors(Some(node), |id| Some(tree.parent(*id)).filter(|id| *id != NONE))
            .any(|id| tree.has(id, flag::DEEP) || slot_of(id).is_some_and(|at| self.round.slots[*at].deep))
    }

    /// Whether the source has another entry at the old name of a file that moves, and had one all the time for all we know, as when an editor links a file to
    /// its backup's name and renames the new one over it. Then readers of the mirror find the old one there until the new one takes its place.
    fn is_succeeded(&self, file: NodeId) -> bool {
        let tree = &self.planner.tree;
        let Some(at) = self.round.slot_of.get(&tree.reference(file)) else { return false };
        let slot = &self.round.slots[*at];
        let still = tree.resolve(slot.parent) == Some(tree.parent(file)) && tree.name(file) == slot.name.as_bytes();
        still && tree.kind(file) == Some(Kind::File) && matches!(&slot.seen, Seen::Present { stat, .. } if stat.meta.kind != Kind::Dir)
    }

    /// Notes that the mirror has the object of `node` at another name too, where nothing of it is of use.
    fn leave_behind(&mut self, node: NodeId, parent: NodeId, name: &NameBuf) {
        let Some(meta) = self.planner.tree.meta(node) else { return };
        let group = self.group_of(node);
        let tree = self.tree();
        let left = tree.child_or_insert(parent, name.as_name());
        tree.set_meta(left, &meta);
        tree.set_group(left, group);
        tree.doubt(left);
    }

    /// A move that cannot be made becomes a copy.
    pub(super) fn demote(&mut self, at: usize) {
        if let Want::Move(source, _) = self.wants[at] {
            self.claims.remove(&source);
            if self.planner.tree.group(source) != 0 {
                // The copy is no name of the object that it is of: the next look makes it one.
                self.defer(at);
            }
            // The object's identity is the new name's from here on; what is at the old name is not compared, but replaced or deleted.
            self.tree().clear_ident(source);
            if self.planner.tree.kind(source) == Some(Kind::Dir) {
                // What is in it is known: no manifest is going to tell that. It may have to stay, and is another directory then.
                self.tree().set(source, flag::CAME);
            } else {
                self.tree().doubt(source);
            }
            if self.planner.tree.name_buf(source).is_some_and(|name| name.as_name().is_parked()) {
                self.discard(source);
            }
        }
        self.wants[at] = Want::New;
        self.state[at] = State::Open;
    }

    /// Makes the moves of the slot's ancestors first, so that it goes to where its directory will be.
    pub(super) fn settle_parents(&mut self, at: usize) {
        let Some(parent) = self.planner.tree.resolve(self.round.slots[at].parent) else { return };
        loop {
            let mut id = parent;
            let mut pending = None;
            while id != ROOT && self.planner.tree.is_live(id) {
                if let Some(other) = self.claims.get(&id)
                    && self.state[*other] == State::Open
                {
                    pending = Some(*other);
                }
                id = self.planner.tree.parent(id);
                if id == NONE {
                    break;
                }
            }
            match pending {
                Some(other) => self.place(other),
                None => return,
            }
        }
    }

    /// Takes what the mirror has at the slot's name out of the way. `for_directory`: what comes cannot replace a file by renaming over it.
    /// False if it has to stay.
    pub(super) fn vacate(&mut self, parent: NodeId, at: usize, for_directory: bool) -> bool {
        let Some(occupant) = self.at_name(parent, at) else { return true };
        let Some(kind) = self.planner.tree.kind(occupant) else { return true };
        if let Some(other) = self.claims.get(&occupant).copied() {
            if self.state[other] == State::Open {
                self.place(other);
            }
            return match self.at_name(parent, at).filter(|o| self.planner.tree.kind(*o).is_some()) {
                // Two that wait for each other's place: one gets out of the way meanwhile.
                Some(still) if self.claims.contains_key(&still) => !self.holds_kept(still) && self.park(still),
                Some(_) => self.vacate(parent, at, for_directory),
                None => true,
            };
        }
        if kind == Kind::Dir {
            if !self.planner.options.delete || self.holds_kept(occupant) {
                if for_directory && !self.planner.tree.has(occupant, flag::UNKNOWN) {
                    // It need not go: the next look, which finds nothing to be moved here any more, makes it the directory that the source has.
                    self.defer(at);
                    return false;
                }
                self.planner.trouble(occupant, "replace the directory, which holds what is not to be deleted", libc::ENOTEMPTY, self.now);
                return false;
            }
            if self.planner.tree.holds_border(occupant) {
                // It cannot be moved away, or not for good.
                self.discard(occupant);
                return false;
            }
            if !self.park(occupant) {
                return false;
            }
            self.discard(occupant);
        } else if for_directory {
            let Some(spot) = self.slot_spot(parent, at) else { return false };
            self.push_pre(Op::Unlink { at: spot }, parent);
            self.tree().set_absent(occupant);
            // Nothing is there now, whatever that was, or the unlinking fails.
            self.tree().clear(occupant, flag::UNKNOWN);
        }
        true
    }

    /// Whether there is something in it that is not to be deleted, nor to be where it may be if the cycle fails.
    fn holds_kept(&self, id: NodeId) -> bool {
        self.holds_protected(id) || self.planner.guard.is_in(&self.planner.tree, id)
    }

    pub(super) fn holds_protected(&self, id: NodeId) -> bool {
        let tree = &self.planner.tree;
        !self.planner.filter.is_empty() && tree.subtree_bottom_up(id).into_iter().any(|n| tree.has(n, flag::PROTECTED))
    }

    /// Gives an object a reserved name beside its own. False if it has to stay.
    pub(super) fn park(&mut self, id: NodeId) -> bool {
        let parent = self.planner.tree.parent(id);
        let Some(from) = self.spot(id) else { return false };
        let number = self.next_id();
        self.planner.parks(number);
        let name = NameBuf::parked(number, from.name.as_name());
        self.push_pre(Op::Park { from, id: number }, parent);
        self.leaves(id);
        self.tree().reparent(id, parent, name.as_name());
        true
    }

    /// Frees the node at the slot's name, which holds nothing, or a file that will be replaced by a rename.
    pub(super) fn clear_name(&mut self, parent: NodeId, at: usize) {
        if let Some(id) = self.at_name(parent, at) {
            let group = self.planner.tree.group(id);
            if group != 0 {
                self.replaced.push(group);
            }
            self.leaves(id);
            self.planner.drop_below(id);
            self.tree().remove(id);
        }
    }
}
