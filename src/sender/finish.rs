//! The end of a session in good order: what was sent is acknowledged, and the receiver hears a farewell.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sender::Outcome;
use crate::sender::memory::Memory;
use crate::sender::session::Session;
use crate::work::link::flush;

/// How long the end of a session waits for acknowledgements, unless a timeout is shorter.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);
/// It is said what is waited for from here on.
const QUIET: Duration = Duration::from_secs(1);
/// How long the end of a session waits for the receiver to close.
const LINGER: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Waits until what was sent is acknowledged, and closes. What the next session may go on with is kept, also if the connection breaks meanwhile.
    pub(super) fn finish(mut self, interrupted: bool) -> (Result<Outcome>, Option<Memory>) {
        let settled = match self.settle() {
            Ok(settled) => settled,
            Err(e) => {
                let kept = self.keep(&e);
                return (Err(e), kept);
            }
        };
        self.report_troubles();
        // A pass that is not to come to its end has repaired what it waits to tell of.
        self.planner.tell_pending();
        self.tell();
        let held = self.planner.deletions_held(0).map_or(0, |held| held.count);
        let outcome =
            Outcome { failing: self.planner.failing() as u64, left: self.planner.left() as u64, held, interrupted, is_away: false };
        let Self { planner, eyes, epoch, token, crew, mut link, mut payload, .. } = self;
        if !settled {
            // It does not answer: to wait for its farewell would be in vain as well.
            crew.abandon();
            return (Ok(outcome), eyes.map(|eyes| Memory { planner, eyes, epoch, token }));
        }
        drop(crew);
        payload.bye();
        // What counts is acknowledged: a receiver that hears no farewell, since it ended when the workers left, changes nothing.
        if let Err(e) = flush(&mut link, &mut payload).and_then(|()| link.close(LINGER)) {
            tracing::debug!("the receiver left first: {e}");
        }
        (Ok(outcome), eyes.map(|eyes| Memory { planner, eyes, epoch, token }))
    }

    /// Waits until what was sent is acknowledged; false if that takes too long.
    fn settle(&mut self) -> Result<bool> {
        let patience = self.config.timeout.unwrap_or(FINISH_PATIENCE).min(FINISH_PATIENCE);
        let begun = Instant::now();
        let mut said = false;
        while !self.is_settled() {
            let waited = begun.elapsed();
            if waited >= patience {
                tracing::warn!(
                    "the receiver did not acknowledge what was sent within {} s: it is not waited for any longer",
                    patience.as_secs()
                );
                return Ok(false);
            }
            if !said && waited >= QUIET {
                said = true;
                let cycles = self.planner.in_flight() + self.outbox.len();
                tracing::info!("{cycles} cycles are to be acknowledged: they are waited for, {} s at the most", patience.as_secs());
            }
            // What was reported before the end was asked for is sent before anything is waited for.
            self.take_reports()?;
            self.send()?;
            if !self.is_settled() {
                let until = if said { patience } else { QUIET };
                self.wait(Some(until.saturating_sub(begun.elapsed())))?;
            }
        }
        Ok(true)
    }

    /// All that was sent is acknowledged, and in a one-shot run all else is heard as well.
    fn is_settled(&self) -> bool {
        self.outbox.is_empty() && self.planner.in_flight() == 0 && !(self.config.once && self.checker.awaits_pong())
    }
}
