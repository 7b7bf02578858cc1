//! Runs the passes of a scrub in a session: when one begins, how many questions are out, what is said of it.
//!
//! Decides nothing about differences: that is the planner's. Questions go to workers, who take them when they have nothing else to do.

use std::time::Duration;

use crate::config;
use crate::limits::SCRUB_NAMED_MAX;
use crate::model::scrub::{Finding, Tally};
use crate::plan::scrub::{Next, PassOptions};
use crate::sender::session::Session;
use crate::work::worker::Task;

/// Questions out for each worker: one under way, one to follow; and in a run that does nothing else one more.
const WINDOW_LIVE: usize = 2;
const WINDOW_VERIFY: usize = 3;

/// Whoever wants to hear of each difference.
pub(super) type Hearer<'a> = Option<&'a dyn Fn(&Finding)>;

/// The state of scrubs in a session. Times are nanoseconds on the session's clock.
pub(super) struct Pump<'a> {
    config: config::Scrub,
    hearer: Hearer<'a>,
    window: usize,
    part_bytes: u64,
    /// Questions that are out.
    out: usize,
    /// When the next pass begins.
    next: Option<u64>,
    /// When the pass has something to do again.
    again: Option<u64>,
    began: u64,
    named: u64,
    /// The pass of a verifying run is over.
    done: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(config: &config::Scrub, hearer: Hearer<'a>, workers: usize, part_bytes: u64) -> Self {
        let window = workers * if config.verify { WINDOW_VERIFY } else { WINDOW_LIVE };
        Self { config: config.clone(), hearer, window, part_bytes, out: 0, next: None, again: None, began: 0, named: 0, done: false }
    }

    /// Whether the run only compares, and if so, whether it has.
    pub(super) fn verified(&self) -> Option<bool> {
        self.config.verify.then_some(self.done)
    }

    /// An answer has come to its end.
    pub(super) fn answered(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// When there is something to be done without any input.
    pub(super) fn at(&self) -> Option<u64> {
        self.next.into_iter().chain(self.again).min()
    }
}

/// When the pass after one that ended at `now` begins.
fn after(config: &config::Scrub, now: u64) -> Option<u64> {
    config.interval.map(|interval| now.saturating_add(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)))
}

impl Session<'_> {
    /// Begins a pass if its time has come, and hands out what is to be compared. `idle`: the ordinary comparison has come to rest.
    pub(super) fn scrub(&mut self, idle: bool) {
        let now = self.now();
        self.tell();
        if !self.planner.is_scrubbing() && !self.begin(idle, now) {
            return;
        }
        self.pump.again = None;
        while self.pump.out < self.pump.window {
            match self.planner.scrub_next(now) {
                Next::Look(task) => self.crew.check(Task::Look(task)),
                Next::Sum(task) => self.crew.check(Task::Sum(task)),
                Next::At(at) => {
                    self.pump.again = Some(at);
                    break;
                }
                Next::Wait => break,
                Next::Done(tally) => {
                    self.tell();
                    self.passed(tally, now);
                    break;
                }
            }
            self.pump.out += 1;
        }
        self.tell();
    }

    fn begin(&mut self, idle: bool, now: u64) -> bool {
        let Pump { config, part_bytes, next, done, .. } = &mut self.pump;
        let due = if config.verify {
            idle && !*done
        } else {
            if next.is_none() && self.synced {
                *next = after(config, now);
            }
            next.is_some_and(|at| at <= now)
        };
        if !due {
            return false;
        }
        *next = None;
        let options = PassOptions { looks: !config.verify, repairs: config.repair, part_bytes: *part_bytes };
        self.planner.scrub(options);
        let (files, bytes) = self.planner.scrub_extent();
        self.stats.compare_files.set(files);
        self.stats.compare_bytes.set(bytes);
        (self.pump.began, self.pump.named) = (now, 0);
        true
    }

    /// Says what was found.
    pub(super) fn tell(&mut self) {
        if let Some(tally) = self.planner.scrub_tally() {
            self.stats.compared_files.set(tally.files);
            self.stats.compared_bytes.set(tally.bytes);
        }
        if let Some(path) = self.planner.take_beyond() {
            let why = "its time, and perhaps that of others, is earlier or later than the receiver's filesystem can hold: the nearest is set there, and counts as equal";
            tracing::warn!("{path}: {why}");
        }
        for finding in self.planner.take_findings() {
            self.stats.differences.add(1);
            if let Some(hear) = self.pump.hearer {
                hear(&finding);
                continue;
            }
            self.pump.named += 1;
            match self.pump.named {
                ..=SCRUB_NAMED_MAX => tracing::warn!(
                    "{} {}: the mirror differs{}",
                    finding.item,
                    finding.path,
                    if self.pump.config.repair { "" } else { "; not repaired" }
                ),
                _ if self.pump.named == SCRUB_NAMED_MAX + 1 => tracing::warn!("more differences are only counted"),
                _ => {}
            }
        }
    }

    /// A pass is over.
    fn passed(&mut self, tally: Tally, now: u64) {
        let Tally { files, bytes, drift, repaired, unsure } = tally;
        self.stats.compared_files.set(files);
        self.stats.compared_bytes.set(bytes);
        self.stats.repaired.add(repaired);
        self.stats.unsure.add(unsure);
        self.pump.done = true;
        self.pump.next = after(&self.pump.config, now);
        if !self.pump.config.verify {
            let seconds = Duration::from_nanos(now.saturating_sub(self.pump.began)).as_secs();
            tracing::info!(files, bytes, drift, repaired, unsure, seconds, "the mirror was scrubbed");
        }
    }
}
