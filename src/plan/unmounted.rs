//! Directories of the source at which something was mounted and is not any more: what the mirror has of that stays until it is back, or the directory itself is gone. Part of the
//! planner.
//!
//! Such a directory is in trouble like one that cannot be read, and nothing below it is looked at. Who loses sight of one, with the session or by a manifest, holds all
//! deletions instead ([`HoldCause::Unmounted`]).

use crate::model::meta::{Kind, Stat};
use crate::plan::NodeSet;
use crate::plan::guard::HoldCause;
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};
use crate::plan::troubles::FIND_MOUNTED;

impl Planner {
    /// Whether the directory that is seen is the one at which the node's was mounted.
    fn is_bare(&self, id: NodeId, stat: &Stat) -> bool {
        if stat.meta.kind != Kind::Dir || self.tree.kind(id) != Some(Kind::Dir) {
            return false;
        }
        let (was, above) = (self.tree.ident(id), self.tree.ident(self.tree.parent(id)));
        was.zip(above).is_some_and(|(was, above)| was.dev != above.dev && stat.ident.dev == above.dev)
    }

    /// What is at the node's name, if anything, has been seen. True: it is not what is to be mirrored.
    pub(super) fn misses_mount(&mut self, id: NodeId, stat: Option<&Stat>, now: u64) -> bool {
        if stat.is_some_and(|stat| self.is_bare(id, stat)) {
            self.guard.unmounted.insert(self.tree.reference(id));
            self.trouble(id, FIND_MOUNTED, libc::ENODEV, now);
            let at = self.retry_at(id, now);
            self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
            return true;
        }
        if self.guard.unmounted.remove(&self.tree.reference(id)) && stat.is_some() {
            // What happened below was not looked at.
            self.dirty.mark(&mut self.tree, id, flag::SCAN | flag::DEEP);
            self.heal(id);
        }
        false
    }

    /// Whether something is missing with a mount, as far as is known.
    pub(super) fn misses_mounts(&self) -> bool {
        self.guard.unmounted.iter().any(|node| self.tree.resolve(*node).is_some())
    }

    /// Something was unmounted. Where it is not known yet what was a mount, deletions are held.
    pub fn unmounted(&mut self, now: u64) {
        if self.guard.unsure || !self.guard.settled {
            self.guard.doubt(HoldCause::Unmounted, now);
        }
    }

    /// A manifest is about to take the place of what is known below the directory: what is not mounted there is forgotten.
    pub(super) fn forget_unmounted(&mut self, top: NodeId, now: u64) {
        let Self { guard, tree, .. } = self;
        let mut forgets = false;
        guard.unmounted.retain(|node| {
            let within = tree.resolve(*node).map(|id| id != top && tree.is_within(id, top));
            forgets |= within == Some(true);
            within == Some(false)
        });
        guard.unsure = true;
        if forgets {
            guard.doubt(HoldCause::Unmounted, now);
        }
    }

    /// The directories are taken for what they are now; returns how many entries of the mirror go by that.
    pub(super) fn approve_unmounted(&mut self) -> u64 {
        let mut count = 0;
        for node in std::mem::take(&mut self.guard.unmounted) {
            let Some(id) = self.tree.resolve(node) else { continue };
            count += self.entries(id, &NodeSet::default()).saturating_sub(1);
            self.tree.clear_ident(id);
            let children: Vec<NodeId> = self.tree.children(id).collect();
            self.guard.allowed.extend(children.into_iter().map(|child| self.tree.reference(child)));
            self.dirty.mark(&mut self.tree, id, flag::LOOK | flag::SCAN | flag::DEEP);
        }
        count
    }
}
