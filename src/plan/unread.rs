//! What could not be looked at is looked at again. Part of the planner.

use crate::plan::planner::Planner;
use crate::plan::round::Asked;
use crate::plan::tree::{NodeId, ROOT, flag};
use crate::plan::troubles::READ_DIRECTORY;

/// A name whose directory was not where it should be is looked at again after so long.
pub(super) const STALE_NS: u64 = 2_000_000;

impl Planner {
    /// The directory is not where the tree has it: look at it from above, and at what was asked a little later.
    pub(super) fn stale(&mut self, asked: &Asked, dir: NodeId, now: u64) {
        if dir != ROOT {
            self.dirty.mark(&mut self.tree, dir, flag::LOOK);
        }
        self.debt_asked_later(asked);
        self.ask_later(asked, dir, now + STALE_NS);
    }

    pub(super) fn unreadable(&mut self, asked: &Asked, dir: NodeId, errno: i32, now: u64) {
        if self.trouble(dir, READ_DIRECTORY, errno, now) == 1 {
            self.debt_asked_later(asked);
        }
        let at = self.retry_at(dir, now);
        if asked.list {
            self.ask_by_name(asked);
        }
        self.ask_later(asked, dir, at);
    }

    /// The directory could not be listed: what events told of may be looked at nevertheless.
    pub(super) fn ask_by_name(&mut self, asked: &Asked) {
        for node in &asked.names {
            if let Some(id) = self.tree.resolve(*node) {
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
                self.owe_after(id);
            }
        }
    }

    fn ask_later(&mut self, asked: &Asked, dir: NodeId, at: u64) {
        if asked.list {
            let deep = if asked.deep { flag::DEEP } else { 0 };
            // Not over a look that is queued: flags are kept, the time is that of the queue.
            self.dirty.mark_at(&mut self.tree, dir, flag::SCAN | deep, at);
        } else {
            self.dirty.mark_at(&mut self.tree, dir, flag::OWN, at);
        }
        for node in &asked.names {
            if let Some(id) = self.tree.resolve(*node) {
                self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
            }
        }
    }
}
