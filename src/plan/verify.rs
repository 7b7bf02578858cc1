//! A verifying run: what the ordinary comparison finds is told as differences, and where nothing is to be repaired, taken for done without anything being
//! sent. Part of the planner.

use crate::model::cycle::{Cycle, NodeRef};
use crate::model::meta::{Kind, Stat};
use crate::model::op::Op;
use crate::model::probe::Seen;
use crate::model::scrub::{Cause, Finding, Item};
use crate::plan::planner::Planner;
use crate::plan::reconcile::{Difference, Want};
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NodeId, ROOT, flag};

impl Planner {
    /// From now on differences are told; with `repairs` they are repaired too, without it nothing is sent. To be called after [`Planner::connected`].
    pub fn verify(&mut self, repairs: bool) {
        self.scrub.verify = Some(repairs);
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_dry(&self) -> bool {
        self.scrub.verify == Some(false)
    }

    /// Tells what a round has found.
    pub(super) fn tell_differences(&mut self, round: &Round, wants: &[Want]) {
        if self.scrub.verify.is_none() {
            return;
        }
        if let Some(stat) = round.dirs.get(&self.tree.reference(ROOT))
            && let Some(mirrored) = self.tree.meta(ROOT)
        {
            let item = self.itemize(&stat.meta, &mirrored);
            if !item.is_empty() {
                self.tell_once(ROOT, item);
            }
        }
        for (slot, want) in round.slots.iter().zip(wants) {
            let Some(id) = self.tree.resolve(slot.node).filter(|id| self.is_listed(*id)) else { continue };
            match (want, &slot.seen) {
                (Want::Gone, _) if self.options.delete => {
                    // From the top down, as they would be listed.
                    for below in self.tree.subtree_bottom_up(id).into_iter().rev() {
                        if let Some(kind) = self.tree.kind(below).filter(|_| !self.tree.has(below, flag::PROTECTED)) {
                            self.tell_once(below, Item::of(Cause::Extra, kind));
                        }
                    }
                }
                (Want::Skip | Want::Defer | Want::Gone, _) => {}
                (_, Seen::Present { stat, .. }) => self.tell_slot(id, slot, stat, *want),
                _ => {}
            }
        }
    }

    /// Whether the mirror's directory could be listed, and all above it.
    fn is_listed(&self, id: NodeId) -> bool {
        let mut at = id;
        while at != ROOT {
            at = self.tree.parent(at);
            if self.tree.has(at, flag::RELIST) {
                return false;
            }
        }
        true
    }

    fn tell_slot(&mut self, id: NodeId, slot: &Slot, stat: &Stat, want: Want) {
        let kind = stat.meta.kind;
        let made = if kind == Kind::File { Cause::Content } else { Cause::Local };
        let linked = matches!(want, Want::Link(_));
        let cause = if linked { Cause::Link } else { made };
        let mirrored = self.tree.meta(id).filter(|meta| meta.kind == kind && !self.tree.has(id, flag::UNKNOWN));
        let Some(mirrored) = mirrored else {
            return self.tell_once(id, Item { missing: true, ..Item::of(cause, kind) });
        };
        let Seen::Present { target, .. } = &slot.seen else { return };
        let mut item = self.itemize(&stat.meta, &mirrored);
        item.content = match kind {
            Kind::File => item.size,
            Kind::Symlink => target.as_deref() != self.tree.target(id),
            Kind::Char | Kind::Block => stat.meta.rdev != mirrored.rdev,
            _ => false,
        };
        let parted = kind == Kind::File && want == Want::Stay(Difference::Content) && item.is_empty();
        item.cause = match want {
            _ if linked || parted => Cause::Link,
            _ if item.content || (kind == Kind::File && item.time) => made,
            _ => Cause::Meta,
        };
        if item.is_empty() && item.cause == Cause::Meta {
            return;
        }
        // A time that differs has the content sent, if anything is. Otherwise whether the content is the same is told by its digest: metadata says nothing of it.
        let unread = item.cause == Cause::Meta || (item.time && !linked && self.is_dry());
        if unread && kind == Kind::File && !item.content {
            let node = self.tree.reference(id);
            self.scrub.told.entry(node).or_insert(Some(item));
        } else {
            self.tell_once(id, item);
        }
    }

    fn tell_once(&mut self, id: NodeId, item: Item) {
        let node = self.tree.reference(id);
        if self.scrub.told.contains_key(&node) {
            return;
        }
        self.scrub.told.insert(node, None);
        if let Ok(path) = self.tree.path(id) {
            self.scrub.findings.push(Finding { path, item });
        }
    }

    /// Files that never rested long enough to be compared are told of by what is known. How many there are.
    pub fn tell_pending(&mut self) -> u64 {
        let nodes: Vec<NodeRef> = self.scrub.told.iter().filter(|(_, item)| item.is_some()).map(|(node, _)| *node).collect();
        let mut told = 0;
        for node in nodes {
            if let (Some(item), Some(id)) = (self.take_pending(node), self.tree.resolve(node))
                && let Ok(path) = self.tree.path(id)
            {
                self.scrub.findings.push(Finding { path, item });
                told += 1;
            }
        }
        told
    }

    /// What is to be told of a file once its content is compared. A run that verifies remembers that it was told; the next pass of a live mirror does not.
    fn take_pending(&mut self, node: NodeRef) -> Option<Item> {
        match self.scrub.verify {
            Some(_) => self.scrub.told.get_mut(&node)?.take(),
            None => self.scrub.told.remove(&node)?,
        }
    }

    /// The same of all names of the file's object, whose content is compared once.
    pub(super) fn take_pending_of(&mut self, id: NodeId) -> Vec<(NodeId, Item)> {
        let names: Vec<NodeId> = [id].into_iter().chain(self.tree.of_group(self.tree.group(id))).collect();
        names.into_iter().filter_map(|name| self.take_pending(self.tree.reference(name)).map(|item| (name, item))).collect()
    }

    /// The cycle is not sent: what it should do is taken for done.
    pub(super) fn pretend(&mut self, cycle: &Cycle) {
        for task in cycle.batches.iter().flat_map(|batch| &batch.files) {
            // It was told of, perhaps under a node that had to go.
            self.scrub.told.entry(task.node).or_insert(None);
            if let Some(id) = self.tree.resolve(task.node) {
                self.tree.clear(id, flag::BUSY);
                if self.tree.has(id, flag::DIRTY) && !self.tree.has(id, flag::DELAYED) {
                    self.dirty.mark(&mut self.tree, id, 0);
                }
            }
        }
        for op in &cycle.post {
            if let Op::Link { to, .. } = op
                && let Some(id) = to.dir.join(to.name.as_name()).ok().and_then(|path| self.find(path.as_bytes()))
            {
                let node = self.tree.reference(id);
                self.scrub.told.entry(node).or_insert(None);
            }
        }
    }
}
