//! Comparing the content of files with what the mirror holds: this side digests while the receiver does, part by part, when there is nothing else to do.
//!
//! Never decides what a difference means. Memory is that of one read.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::delta::PartDigest;
use crate::limits::{SUM_BYTES_MAX, SUM_FILES_MAX, SUM_READ_BYTES, SUM_SLICE_BYTES};
use crate::model::meta::{Kind, Stat};
use crate::model::path::RelPath;
use crate::model::probe::{Ask, Probe, ProbeError};
use crate::model::scrub::{Part, PartSum, SumDone, SumFile, SumTask, Summed};
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::quiet::Quiet;
use crate::work::Source;
use crate::work::probe::{errno, open_dir};
use crate::work::rate::Rate;

/// How a question is sent.
pub(super) trait Asking {
    /// Why it cannot be.
    type Error;

    /// Asks the receiver.
    fn ask(&mut self, id: u64, dir: &RelPath, parts: &[Part]) -> Result<(), Self::Error>;
}

/// One task under way. It goes in turns, each with one question to the receiver: of several files there is one turn, of one file a turn for each part.
struct Job {
    task: SumTask,
    /// What was found of each file; `None`: nothing against it so far.
    found: Vec<Option<Summed>>,
    turn: Option<Turn>,
    /// The directory in the source.
    dir: Option<Dir>,
    /// The file that is being read; one of several parts stays open between the turns.
    open: Option<(Quiet, Stat)>,
    /// Where the next part of the only file begins.
    offset: u64,
}

/// Invariant: part `i` is of file `i` of the task; `ours` holds the digests of the first parts, and once all are there `digest` is `None`.
struct Turn {
    parts: Vec<Part>,
    /// From when on it may be begun.
    granted: Instant,
    /// Number of the question, once it is asked.
    asked: Option<u64>,
    /// The part that is being read.
    digest: Option<PartDigest>,
    /// `None`: there is something against the file.
    ours: Vec<Option<[u8; 32]>>,
    theirs: Option<Vec<PartSum>>,
}

/// What happened in a step.
pub(super) enum Step {
    /// Something was done.
    Busy,
    /// Nothing can be done before this time, or before an answer or another task comes.
    Wait(Option<Instant>),
}

/// The tasks of one worker.
#[derive(Default)]
pub(super) struct Sums {
    jobs: Vec<Job>,
    buffer: Vec<u8>,
    next: u64,
    done: Vec<SumDone>,
}

impl Sums {
    /// Takes a task.
    pub(super) fn add(&mut self, task: SumTask) {
        let found = vec![None; task.files.len()];
        self.jobs.push(Job { task, found, turn: None, dir: None, open: None, offset: 0 });
    }

    /// Tasks that have come to their end.
    pub(super) fn take_done(&mut self) -> Vec<SumDone> {
        std::mem::take(&mut self.done)
    }

    /// The receiver's answer; false if nothing of the kind was asked.
    pub(super) fn answer(&mut self, id: u64, sums: Vec<PartSum>) -> bool {
        let turn = self.jobs.iter_mut().filter_map(|job| job.turn.as_mut()).find(|turn| turn.asked == Some(id));
        let Some(turn) = turn.filter(|turn| turn.theirs.is_none() && turn.parts.len() == sums.len()) else { return false };
        turn.theirs = Some(sums);
        self.settle();
        true
    }

    /// Compares what both sides have said, and takes out what is done.
    fn settle(&mut self) {
        let done = &mut self.done;
        self.jobs.retain_mut(|job| {
            let is_done = job.compare();
            if is_done {
                let files = job.found.iter().map(|found| found.unwrap_or(Summed::Equal)).collect();
                done.push(SumDone { id: job.task.id, files });
            }
            !is_done
        });
    }

    /// Does a slice of what is to be done.
    ///
    /// # Errors
    /// Of `asking`.
    pub(super) fn step<A: Asking>(&mut self, source: &Source, asking: &mut A) -> Result<Step, A::Error> {
        if self.jobs.is_empty() {
            return Ok(Step::Wait(None));
        }
        let now = Instant::now();
        let mut wait: Option<Instant> = None;
        for job in &mut self.jobs {
            job.plan(&source.rate, now);
            let Job { turn: Some(turn), task, .. } = job else { continue };
            if turn.asked.is_some() {
                if turn.ours.len() < turn.parts.len() {
                    self.buffer.resize(SUM_READ_BYTES, 0);
                    job.read(source, &mut self.buffer);
                    self.settle();
                    return Ok(Step::Busy);
                }
            } else if turn.granted <= now {
                self.next += 1;
                turn.asked = Some(self.next);
                asking.ask(self.next, &task.dir, &turn.parts)?;
                return Ok(Step::Busy);
            } else {
                wait = Some(wait.map_or(turn.granted, |wait| wait.min(turn.granted)));
            }
        }
        Ok(Step::Wait(wait))
    }
}

impl Job {
    /// Plans the next turn if none is under way.
    fn plan(&mut self, rate: &Rate, now: Instant) {
        if self.turn.is_some() {
            return;
        }
        let Self { task, offset, .. } = self;
        let most = if task.files.len() == 1 { rate.part_bytes() } else { SUM_BYTES_MAX };
        let part = |file: &SumFile| Part { name: file.name.clone(), offset: *offset, len: file.size.saturating_sub(*offset).min(most) };
        let parts: Vec<Part> = task.files.iter().map(part).collect();
        let granted = rate.grant(parts.iter().map(|part| part.len).sum(), now);
        self.turn = Some(Turn { parts, granted, asked: None, digest: None, ours: Vec::new(), theirs: None });
    }

    /// Reads a slice of the turn's parts.
    fn read(&mut self, source: &Source, buffer: &mut [u8]) {
        let Some(turn) = &mut self.turn else { return };
        let mut budget = SUM_SLICE_BYTES;
        while budget > 0
            && let Some(part) = turn.parts.get(turn.ours.len())
        {
            let at = turn.ours.len();
            let file = &self.task.files[at];
            if self.open.is_none() && self.found[at].is_none() {
                match begin(source, &self.task, &mut self.dir, file) {
                    Ok(opened) => self.open = Some(opened),
                    Err(found) => self.found[at] = Some(found),
                }
            }
            let Some((reader, before)) = &mut self.open else {
                turn.ours.push(None);
                continue;
            };
            let digest = turn.digest.get_or_insert_with(|| PartDigest::new(part.offset, part.len));
            match digest.go_on(buffer, &mut budget, |buffer, at| reader.read_at(buffer, at)) {
                Ok(false) => return,
                Ok(true) => turn.ours.push(Some(digest.finish())),
                Err(e) => {
                    self.found[at] = Some(Summed::Failed(errno(&e)));
                    turn.ours.push(None);
                }
            }
            turn.digest = None;
            // To open a file is work too.
            budget = budget.saturating_sub(SUM_SLICE_BYTES / SUM_FILES_MAX as u64);
            if part.offset + part.len >= file.size || self.found[at].is_some() {
                if !is_as_before(reader.file(), before) {
                    self.found[at] = Some(Summed::Changed);
                }
                self.open = None;
            }
        }
    }

    /// If both sides of the turn are known, compares them. True when no turn is left to be done.
    fn compare(&mut self) -> bool {
        let Some(Turn { parts, ours, theirs: Some(theirs), .. }) = &self.turn else { return false };
        if ours.len() < parts.len() {
            return false;
        }
        for (at, ((file, ours), theirs)) in self.task.files.iter().zip(ours).zip(theirs).enumerate() {
            let (Some(ours), None) = (ours, self.found[at]) else { continue };
            let found = match theirs {
                PartSum::Read { size, digest } if *size == file.size && digest == ours => continue,
                PartSum::Read { .. } => Summed::Differs,
                PartSum::Failed(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ELOOP) => Summed::Missing,
                PartSum::Failed(errno) => Summed::Failed(*errno),
            };
            // One that is not read to its end has to have rested until now.
            let rested = self.open.as_ref().is_none_or(|(reader, before)| is_as_before(reader.file(), before));
            self.found[at] = Some(if rested { found } else { Summed::Changed });
        }
        self.offset = parts.first().map_or(u64::MAX, |part| part.offset + part.len);
        self.turn = None;
        match &self.task.files[..] {
            [only] => self.found[0].is_some() || self.offset >= only.size,
            _ => true,
        }
    }
}

/// Whether the source's file is what it was, as far as its times tell.
fn is_as_before(file: &File, before: &Stat) -> bool {
    let times = |stat: &Stat| (stat.ctime, stat.meta.size, stat.meta.mtime);
    stat_fd(file.as_fd()).is_ok_and(|now| times(&now) == times(before))
}

/// Opens a file of the source if it is what it should be.
fn begin(source: &Source, task: &SumTask, dir: &mut Option<Dir>, file: &SumFile) -> Result<(Quiet, Stat), Summed> {
    let held = match dir {
        Some(held) => held,
        None => {
            let probe = Probe { id: 0, dir: task.dir.clone(), expect: task.expect, ask: Ask::List };
            let (opened, _) = open_dir(source, &probe).map_err(|why| match why {
                ProbeError::Stale => Summed::Changed,
                ProbeError::Failed(errno) => Summed::Failed(errno),
            })?;
            dir.insert(opened)
        }
    };
    let opened = held.open_read(file.name.as_name()).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EISDIR | libc::ESTALE) => Summed::Changed,
        _ => Summed::Failed(errno(&e)),
    })?;
    let before = stat_fd(opened.as_fd()).map_err(|e| Summed::Failed(errno(&e)))?;
    let same = before.meta.kind == Kind::File
        && file.ident.is_none_or(|ident| ident == before.ident)
        && (before.meta.size, before.meta.mtime) == (file.size, file.mtime);
    if !same {
        return Err(Summed::Changed);
    }
    Ok((Quiet::new(opened), before))
}
