//! Times that the mirror's filesystem has not: said once, of the first that is seen. Part of the planner.

use crate::model::path::RelPath;
use crate::model::probe::Seen;
use crate::plan::planner::Planner;
use crate::plan::round::Round;

/// What is to be said, if it was not.
#[derive(Debug, Default)]
pub(super) enum Beyond {
    /// None was seen.
    #[default]
    None,
    /// Of this entry.
    Seen(RelPath),
    /// It was said.
    Told,
}

impl Planner {
    /// Looks for one among what a round has seen.
    pub(super) fn note_beyond(&mut self, round: &Round) {
        let (first, last) = self.options.held.range();
        if !self.options.times || !matches!(self.beyond, Beyond::None) {
            return;
        }
        let is_beyond = |seen: &Seen| matches!(seen, Seen::Present { stat, .. } if !(first..=last).contains(&stat.meta.mtime.sec));
        let found = round.slots.iter().find(|slot| is_beyond(&slot.seen)).and_then(|slot| self.tree.resolve(slot.node));
        if let Some(path) = found.and_then(|id| self.tree.path(id).ok()) {
            self.beyond = Beyond::Seen(path);
        }
    }

    /// An entry whose time the mirror cannot hold, once.
    pub fn take_beyond(&mut self) -> Option<RelPath> {
        match std::mem::take(&mut self.beyond) {
            Beyond::None => None,
            Beyond::Seen(path) => {
                self.beyond = Beyond::Told;
                Some(path)
            }
            Beyond::Told => {
                self.beyond = Beyond::Told;
                None
            }
        }
    }
}
