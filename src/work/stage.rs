//! Reading a large file for staging: whole, piece by piece, so that small ones can go between the pieces; or as a delta from what the mirror has.
//! Memory is that of one piece, and of the signatures.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::delta::{Shape, Signature, Signer};
use crate::limits::STAGE_CHUNK_BYTES;
use crate::model::cycle::{Read, StageTask};
use crate::model::meta::{Stat, Time};
use crate::model::probe::{Ask, Probe, ProbeError};
use crate::sys::clock::{Grain, coarse_now, grain};
use crate::sys::dir::stat_fd;
use crate::wire::Payload;
use crate::work::Source;
use crate::work::files::{open, read_into, settle};
use crate::work::probe::{errno, open_dir};

/// A large file that is being read.
pub struct Job {
    /// What is to be read.
    pub task: StageTask,
    pub(super) file: File,
    before: Stat,
    begun: Time,
    grain: Grain,
    offset: u64,
    signer: Option<Signer>,
    /// What the mirror has, if a delta is to be made.
    pub(super) base: Option<Arc<Signature>>,
}

impl Job {
    /// Opens the file. With `whole` no delta is made of it.
    ///
    /// # Errors
    /// The report, if there is nothing to read.
    pub fn start(source: &Source, task: &StageTask, whole: bool) -> Result<Self, Read> {
        let probe = Probe { id: 0, dir: task.dir.clone(), expect: Some(task.expect), ask: Ask::List };
        let (dir, _) = open_dir(source, &probe).map_err(|why| match why {
            ProbeError::Stale => Read::Gone,
            ProbeError::Failed(errno) => Read::Failed(errno),
        })?;
        let begun = coarse_now();
        let (file, before) = open(&dir, task.name.as_name(), &task.ident)?;
        let base = task.base.filter(|_| !whole).and_then(|base| source.signatures.get(&base));
        let signed = base.is_none() && source.signatures.are_kept();
        let signer = if signed { Shape::of(before.meta.size).map(Signer::new) } else { None };
        Ok(Self { task: task.clone(), file, before, begun, grain: grain(dir.as_fd()), offset: 0, signer, base })
    }

    /// Its length when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.before.meta.size
    }

    /// Whether it changed since it was opened, so that to read on is in vain.
    pub(super) fn is_spoilt(&self) -> bool {
        !self.task.insist && stat_fd(self.file.as_fd()).is_ok_and(|now| now.ctime != self.before.ctime)
    }

    /// What became of it, when all of it has been read.
    pub(super) fn settle(&self) -> Read {
        settle(&self.file, &self.before, self.begun, self.grain, self.task.insist)
    }

    /// Puts the next piece into `payload`; the report when it was the last, or cannot be read.
    pub fn step(&mut self, source: &Source, payload: &mut Payload) -> Option<Read> {
        if self.is_spoilt() {
            return Some(Read::Changed);
        }
        let len = usize::try_from(self.len() - self.offset).unwrap_or(usize::MAX).min(STAGE_CHUNK_BYTES);
        let mark = payload.mark();
        let piece = payload.stage(self.task.stage, self.offset, len);
        match read_into(&self.file, self.offset, piece) {
            Ok(true) => {
                self.offset += len as u64;
                // It cannot fail: the signer was made for this length.
                self.signer = self.signer.take().and_then(|mut signer| signer.update(piece).is_ok().then_some(signer));
            }
            Ok(false) => {
                payload.rollback(mark);
                return Some(Read::Changed);
            }
            Err(e) => {
                payload.rollback(mark);
                return Some(Read::Failed(errno(&e)));
            }
        }
        if self.offset < self.len() {
            return None;
        }
        let read = self.settle();
        if let (Read::Sent { .. }, Some(signature)) = (read, self.signer.take().and_then(|signer| signer.finish().ok())) {
            source.signatures.insert(self.task.ident, Arc::new(signature));
        }
        Some(read)
    }
}
