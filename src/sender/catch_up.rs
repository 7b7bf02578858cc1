//! The first time that the mirror is equal: when nothing is left to do, or - where the source never rests - when everything that was known to be left at one moment has been
//! done. And what is done then, and from time to time. Part of the session.

use crate::error::Result;
use crate::sender::session::Session;
use crate::sys::memory::give_back;
use crate::work::link::flush;

/// So long a session waits for rest before it notes what is left.
const PATIENCE_NS: u64 = 5_000_000_000;
/// How often it looks whether that is done.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// How often memory that is not used is given back, at most.
const GIVE_BACK_EVERY_NS: u64 = 60_000_000_000;

/// Where it is with that.
#[derive(Default)]
pub(super) struct CatchUp {
    /// The first time that it was not at rest.
    began: Option<u64>,
    /// What was left then is noted.
    noted: bool,
    looked: u64,
    /// The receiver was told that nothing of what earlier sessions left is needed.
    forgot: bool,
    /// When memory was given back.
    gave_back: Option<u64>,
}

impl Session<'_> {
    /// Nothing is left to do, but for what is in trouble.
    pub(super) fn at_rest(&mut self) -> Result<()> {
        self.stats.dirty.set(0);
        // What was found and never sent had changed or gone, failed, or was lost with a connection.
        self.stats.files_found.set(self.stats.files_sent.get());
        self.stats.bytes_found.set(self.stats.bytes_sent.get());
        self.stats.failing.set(self.planner.failing() as u64);
        self.is_equal("")?;
        self.forget_past()?;
        self.tidy_up();
        Ok(())
    }

    /// Gives back memory, once the mirror is equal and from then on every so often.
    fn tidy_up(&mut self) {
        let now = self.now();
        let is_due = self.catch_up.gave_back.is_none_or(|last| now - last >= GIVE_BACK_EVERY_NS);
        if self.synced && is_due && !self.config.once {
            self.catch_up.gave_back = Some(now);
            give_back();
        }
    }

    /// Something is left to do: in a source that never rests, the mirror is equal once it has everything that was left at one moment.
    pub(super) fn keep_up(&mut self) -> Result<()> {
        self.tidy_up();
        if self.synced || self.config.once || self.pump.verified().is_some() {
            return Ok(());
        }
        let now = self.now();
        let began = *self.catch_up.began.get_or_insert(now);
        if now - began < PATIENCE_NS || now - self.catch_up.looked < LOOK_EVERY_NS {
            return Ok(());
        }
        self.catch_up.looked = now;
        if !self.catch_up.noted {
            self.catch_up.noted = true;
            self.planner.owe_all();
        } else if self.planner.is_paid() {
            return self.is_equal(", which never rests: it has what was there some seconds ago");
        }
        Ok(())
    }

    /// What earlier sessions left of large files was of use, or will not be; and what they left parked is missed by nobody, unless something of the source is in doubt. Says so, once a session.
    fn forget_past(&mut self) -> Result<()> {
        if self.catch_up.forgot || !self.synced || self.planner.hold().is_some() || self.planner.failing() > 0 {
            return Ok(());
        }
        let now = self.now();
        if !self.planner.forget_past(now) {
            self.tell_guard();
            return Ok(());
        }
        self.catch_up.forgot = true;
        self.payload.stage_drop(0);
        // A run that ends waits for the answer: what comes before is done by then.
        self.payload.ping();
        self.checker.sent_ping();
        flush(&mut self.link, &mut self.payload)
    }

    /// Says so, once a session.
    fn is_equal(&mut self, how: &str) -> Result<()> {
        if self.synced || self.pump.verified().is_some() {
            return Ok(());
        }
        self.synced = true;
        self.forget_past()?;
        self.stats.synced.set(1);
        self.desk.set_behind(None);
        let stats = self.stats;
        let held = if self.planner.deletions_held(0).is_some() { ", but for deletions that are held" } else { "" };
        tracing::info!(
            files = stats.files_sent.get(),
            bytes = stats.bytes_sent.get(),
            operations = stats.ops_sent.get(),
            "the mirror is equal to the source{how}{held}{}",
            if self.planner.failing() > 0 { ", but for the entries named above" } else { "" }
        );
        Ok(())
    }
}
