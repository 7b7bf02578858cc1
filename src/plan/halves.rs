//! Renames of which a watcher tells both names but not the object. Part of the planner.
//!
//! What was written through a name that is renamed before anyone looks at it was written to an object that may be known under other names, and that
//! nothing ties to the old name any more: the new one is what it was written to.

use crate::limits::{HALVES_APART_MAX, WRITTEN_NAMES_GONE_MAX};
use crate::model::event::Hint;
use crate::model::meta::Kind;
use crate::model::probe::Seen;
use crate::plan::planner::Planner;
use crate::plan::round::Round;
use crate::plan::tree::{NodeId, flag};

/// What is known of halves. A name that is forgotten for another, or taken for another, costs a file's content, or what the module's comment says.
pub(super) struct Halves {
    /// Events among which the new name of something written may be.
    left: u8,
    /// Digests of names that were written and held nothing or something else when they were looked at, each at a place of its own; 0: none.
    gone: Vec<u64>,
}

impl Default for Halves {
    fn default() -> Self {
        Self { left: 0, gone: vec![0; WRITTEN_NAMES_GONE_MAX] }
    }
}

impl Halves {
    fn place(&mut self, digest: u64) -> &mut u64 {
        &mut self.gone[digest as usize % WRITTEN_NAMES_GONE_MAX]
    }
}

impl Planner {
    /// After an event was taken: whether it is a half of a rename. What was written to the old name counts as written to the new one, which is told right behind
    /// it but for what others did at the very same time.
    pub(super) fn half_told(&mut self, key: &[u8], name: &[u8], hint: Hint) {
        self.halves.left = self.halves.left.saturating_sub(1);
        if !hint.has(Hint::HALF) || hint.has(Hint::DIR) {
            return;
        }
        let Some(dir) = self.tree.of_key(key) else { return };
        let node = self.tree.child(dir, name);
        if hint.has(Hint::APPEARED) {
            if let Some(node) = node.filter(|_| self.halves.left > 0) {
                self.tree.set(node, flag::WROTE);
            }
            return;
        }
        let digest = self.tree.digest_of_name(dir, name);
        let place = self.halves.place(digest);
        let gone = *place == digest;
        if gone {
            *place = 0;
        }
        // Of a name that is left to a listing nothing is noted.
        if gone || node.is_none_or(|node| self.tree.has(node, flag::WROTE)) {
            self.halves.left = HALVES_APART_MAX;
        }
    }

    /// Remembers the names of a round that were written and do not hold what they held: that they were renamed may be told later.
    pub(super) fn note_gone(&mut self, round: &Round) {
        for slot in &round.slots {
            let Some(node) = self.tree.resolve(slot.node).filter(|node| self.tree.has(*node, flag::WROTE)) else { continue };
            if let Some(dir) = self.tree.resolve(slot.parent).filter(|_| self.is_gone(node, &slot.seen)) {
                let digest = self.tree.digest_of_name(dir, slot.name.as_name().as_bytes());
                *self.halves.place(digest) = digest;
            }
        }
    }

    fn is_gone(&self, node: NodeId, seen: &Seen) -> bool {
        match seen {
            Seen::Absent => true,
            Seen::Present { stat, .. } => stat.meta.kind != Kind::File || self.tree.ident(node) != Some(stat.ident),
            Seen::Failed(_) => false,
        }
    }
}
