//! The end of a session in good order: what was sent is acknowledged, and the receiver hears a farewell.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sender::Outcome;
use crate::sender::memory::Memory;
use crate::sender::session::Session;
use crate::work::link::flush;

/// How long the end of a session waits for acknowledgements.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);
/// How long the end of a session waits for the receiver to close.
const LINGER: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Waits until what was sent is acknowledged, and closes. What the next session may go on with is kept, also if the connection breaks meanwhile.
    pub(super) fn finish(mut self, interrupted: bool) -> (Result<Outcome>, Option<Memory>) {
        if let Err(e) = self.settle() {
            let kept = self.keep(&e);
            return (Err(e), kept);
        }
        self.report_troubles();
        self.tell();
        let held = self.planner.deletions_held(0).map_or(0, |held| held.count);
        let outcome =
            Outcome { failing: self.planner.failing() as u64, dirty: self.planner.dirty() as u64, held, interrupted, is_away: false };
        let Self { planner, eyes, epoch, token, crew, mut link, mut payload, .. } = self;
        drop(crew);
        payload.bye();
        // What counts is acknowledged: a receiver that hears no farewell, since it ended when the workers left, changes nothing.
        if let Err(e) = flush(&mut link, &mut payload).and_then(|()| link.close(LINGER)) {
            tracing::debug!("the receiver left first: {e}");
        }
        (Ok(outcome), eyes.map(|eyes| Memory { planner, eyes, epoch, token }))
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + FINISH_PATIENCE;
        while !(self.outbox.is_empty() && self.planner.in_flight() == 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // What was reported before the end was asked for is sent before anything is waited for.
            self.take_reports()?;
            self.send()?;
            if !(self.outbox.is_empty() && self.planner.in_flight() == 0) {
                self.wait(Some(left))?;
            }
        }
        Ok(())
    }
}
