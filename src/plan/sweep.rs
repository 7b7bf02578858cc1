//! When events are lost, or too many wait. After a loss every directory is listed again, a little in each round, beside what events go on telling. Part of the planner.
//!
//! Each round takes first what events told and then a portion of the sweep, so that neither holds up the other: changes are mirrored as promptly as ever, and a
//! writer that has the queue overflow again and again, or keeps rounds full, only makes the sweep begin again behind what is still to be swept.

use crate::limits::{NAMES_WAITING_MAX, SCAN_WEIGHT, SWEEP_NAMES_MAX};
use crate::model::path::Name;
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, ROOT, flag};

impl Planner {
    /// Events were lost: every directory is listed again. Each by itself, not from the root downwards: one that is renamed meanwhile could slip through.
    pub(super) fn rescan(&mut self, now: u64) {
        self.unknown_keys_lost = true;
        self.distrust_blind();
        if std::mem::replace(&mut self.all_queued, true) {
            return;
        }
        self.note_sweep(now);
        let mut dirs: Vec<NodeId> = self.tree.keyed().collect();
        // Nodes that were made together are next to each other in the source, too.
        dirs.sort_unstable();
        for dir in dirs {
            self.dirty.mark_later(&mut self.tree, dir, flag::SCAN);
        }
        self.dirty.mark_later(&mut self.tree, ROOT, flag::SCAN);
    }

    /// Too many names wait already: a new one, at which the mirror has nothing, is found by a listing of its directory as well, which costs no memory until then.
    pub(super) fn is_left_to_listing(&mut self, dir: NodeId, name: Name<'_>) -> bool {
        let left = self.dirty.len() >= NAMES_WAITING_MAX && self.tree.child(dir, name.as_bytes()).is_none();
        if left {
            self.dirty.mark(&mut self.tree, dir, flag::SCAN);
        }
        left
    }

    /// The next directory of the sweep, unless this round's portion, of which `swept` was taken, is used up.
    pub(super) fn sweep(&mut self, swept: &mut usize) -> Option<NodeId> {
        if *swept >= SWEEP_NAMES_MAX {
            return None;
        }
        let id = self.dirty.take_later(&mut self.tree)?;
        *swept += SCAN_WEIGHT + self.tree.children(id).take(SWEEP_NAMES_MAX).count();
        Some(id)
    }
}
