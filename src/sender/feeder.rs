//! What the planner's thread adds to a cycle while it goes out: the content of few small files, and which operations cannot be done after all.

use std::time::Instant;

use crate::error::Result;
use crate::model::cycle::{Cycle, FileDone, Read};
use crate::plan::Planner;
use crate::sender::outbox::Feed;
use crate::stats::Stats;
use crate::wire::{Link, Payload};
use crate::work::link::send;
use crate::work::{Source, files};

/// A cycle of so few files is read by the planner's thread itself: handing it over costs more.
const INLINE_FILES_MAX: usize = 4;
/// And of so few bytes.
const INLINE_BYTES_MAX: u64 = 64 * 1024;

/// What the outbox needs of a session.
pub(super) struct Feeder<'a> {
    pub(super) source: &'a Source,
    pub(super) planner: &'a mut Planner,
    pub(super) stats: &'a Stats,
    pub(super) epoch: Instant,
}

impl Feed for Feeder<'_> {
    fn pack(&mut self, link: &mut Link, payload: &mut Payload, cycle: &Cycle) -> Result<u32> {
        if !is_small(cycle) {
            return Ok(0);
        }
        let mut sent = 0;
        for batch in &cycle.batches {
            let done = files::pack(self.source, batch, payload, |payload| send(link, payload))?;
            sent += files_done(self.planner, self.stats, &done, self.epoch.elapsed().as_nanos() as u64);
        }
        Ok(sent)
    }

    fn unfit(&mut self, cycle: &Cycle) -> Vec<u32> {
        self.planner.unfit(cycle)
    }
}

/// Tells the planner what became of files, and says how many were sent.
pub(super) fn files_done(planner: &mut Planner, stats: &Stats, done: &[FileDone], now: u64) -> u32 {
    let mut sent = 0;
    let mut bytes = 0;
    for file in done {
        if let Read::Sent { meta, .. } = file.read {
            sent += 1;
            bytes += meta.size;
        }
        planner.file_done(file, now);
    }
    stats.files_sent.add(u64::from(sent));
    stats.bytes_sent.add(bytes);
    sent
}

/// Whether the files of a cycle are read by the planner's thread.
pub(super) fn is_small(cycle: &Cycle) -> bool {
    let mut files = 0;
    let mut bytes = 0;
    for batch in &cycle.batches {
        files += batch.files.len();
        bytes += batch.files.iter().map(|f| f.stat.meta.size).sum::<u64>();
        if files > INLINE_FILES_MAX || bytes > INLINE_BYTES_MAX {
            return false;
        }
    }
    true
}
