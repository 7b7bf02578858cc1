//! How old the oldest change is that the mirror does not have yet. Part of the planner.
//!
//! No node bears a time: the queue of dirty nodes is in order, so it is enough to note when which part of it came. What waits for another try after a
//! failure, and deletions that are held, do not count: they would hide how far all else lags.

use std::collections::VecDeque;

use crate::plan::planner::Planner;

/// Notes kept; with more, those that come take the time of the one before, which makes them older than they are.
const NOTES_MAX: usize = 1024;

/// When which part of the dirty queue came: from which number on, and when. Numbers rise, times do not fall.
#[derive(Debug, Default)]
pub(super) struct Lag {
    notes: VecDeque<(u64, u64)>,
    /// Nodes queued until the last note.
    noted: u64,
}

impl Lag {
    /// `queued` nodes have been queued so far, `taken` of them have been taken.
    fn note(&mut self, queued: u64, taken: u64, now: u64) {
        while self.notes.get(1).is_some_and(|(from, _)| *from <= taken) {
            self.notes.pop_front();
        }
        if queued > self.noted && self.notes.len() < NOTES_MAX {
            self.notes.push_back((self.noted, now));
            self.noted = queued;
        }
    }

    /// When the oldest node came that is still queued.
    fn oldest(&self, queued: u64, taken: u64) -> Option<u64> {
        if queued == taken {
            return None;
        }
        self.notes.iter().take_while(|(from, _)| *from <= taken).last().map(|(_, at)| *at)
    }
}

impl Planner {
    /// Notes the age of what was queued since the last call.
    pub(super) fn note_age(&mut self, now: u64) {
        self.lag.note(self.dirty.queued(), self.dirty.taken(), now);
    }

    /// When the oldest node was queued that waits for a round.
    pub(super) fn oldest_dirty(&self) -> Option<u64> {
        self.lag.oldest(self.dirty.queued(), self.dirty.taken())
    }

    /// When the oldest change was noticed that is not acknowledged, on the caller's clock; `None`: all are.
    pub fn oldest_change(&self) -> Option<u64> {
        let round = self.round.as_ref().and_then(|round| round.oldest);
        let flights = self.flights.iter().filter_map(|flight| flight.oldest).min();
        let staged = self.staged.values().map(|staged| staged.since).min();
        [self.oldest_dirty(), round, flights, staged].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_waits_is_told() {
        let mut lag = Lag::default();
        assert_eq!(lag.oldest(0, 0), None);
        lag.note(3, 0, 10);
        lag.note(3, 0, 11);
        lag.note(5, 0, 20);
        assert_eq!([lag.oldest(5, 0), lag.oldest(5, 2), lag.oldest(5, 3), lag.oldest(5, 5)], [Some(10), Some(10), Some(20), None]);
        lag.note(9, 5, 30);
        assert_eq!(lag.notes.len(), 2);
        assert_eq!(lag.oldest(9, 5), Some(30));
    }

    #[test]
    fn notes_are_bounded_and_err_on_the_old_side() {
        let mut lag = Lag::default();
        for n in 1..=3 * NOTES_MAX as u64 {
            lag.note(n, 0, n);
        }
        assert_eq!(lag.notes.len(), NOTES_MAX);
        assert_eq!(lag.oldest(3 * NOTES_MAX as u64, 2 * NOTES_MAX as u64), Some(NOTES_MAX as u64));
    }
}
