//! Mount points in the mirror that should go. Nothing is renamed or linked over their borders (`reconcile`), and a cycle empties them and tries to remove
//! them (`deletions`); the tree keeps them until that has been seen to succeed. Part of the planner.

use crate::model::cycle::NodeRef;
use crate::model::meta::Time;
use crate::model::op::{Op, Section, Spot};
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};

impl Planner {
    /// Whether a mount point is known to be there.
    pub(super) fn is_border(&self, parent: NodeId, at: &Spot) -> bool {
        self.tree.child(parent, at.name.as_bytes()).is_some_and(|id| self.tree.is_border(id))
    }

    /// The object's content was read in a state of which its names on other filesystems of the mirror, which are copies, know nothing.
    pub(super) fn look_at_copies(&mut self, id: NodeId, ctime: Time) {
        let Some(ident) = self.tree.ident(id) else { return };
        let copies: Vec<NodeId> = self.tree.of_ident(&ident).filter(|other| *other != id && !self.tree.has_ctime(*other, ctime)).collect();
        for copy in copies {
            self.dirty.mark(&mut self.tree, copy, flag::LOOK | flag::WROTE);
            self.staged.read_again(self.tree.reference(copy));
            self.owe(copy);
        }
    }

    /// What the oldest cycle could remove of mount points was none any more: what is there is asked for again.
    pub(super) fn find_unmounted(&mut self) {
        let Some(flight) = self.flights.front().filter(|_| self.tree.has_borders()) else { return };
        let removed = flight.cycle.post.iter().enumerate().filter_map(|(index, op)| match op {
            Op::Rmdir { at } if !flight.failures.ops.contains(&(Section::Post, index as u32)) => at.dir.join(at.name.as_name()).ok(),
            _ => None,
        });
        let gone: Vec<NodeRef> = removed
            .filter_map(|path| self.find(path.as_bytes()))
            .filter(|id| self.tree.is_border(*id))
            .map(|id| self.tree.reference(self.tree.parent(id)))
            .collect();
        for parent in gone {
            if let Some(parent) = self.tree.resolve(parent) {
                self.relist(parent);
            }
        }
    }

    /// The directory holds or is what is mounted in the mirror: its removal is tried again with back-off.
    pub(super) fn wait_for_unmount(&mut self, id: NodeId, now: u64) {
        let what = if self.tree.is_border(id) { "remove the mount point" } else { "remove the directory, which holds a mount point" };
        self.trouble(id, what, libc::EBUSY, now);
        let at = self.retry_at(id, now);
        self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
    }
}
