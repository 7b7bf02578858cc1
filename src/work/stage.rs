//! Reading a large file piece by piece, so that small ones can go between the pieces. Memory is that of one piece.

use std::fs::File;
use std::os::fd::AsFd;

use crate::limits::STAGE_CHUNK_BYTES;
use crate::model::cycle::{Read, StageTask};
use crate::model::meta::Stat;
use crate::model::probe::{Ask, Probe, ProbeError};
use crate::sys::clock::{Grain, grain};
use crate::wire::Payload;
use crate::work::Source;
use crate::work::files::{open, read_into, settle};
use crate::work::probe::{errno, open_dir};

/// A large file that is being read.
pub struct Job {
    /// What is to be read.
    pub task: StageTask,
    file: File,
    before: Stat,
    grain: Grain,
    offset: u64,
}

impl Job {
    /// Opens the file.
    ///
    /// # Errors
    /// The report, if there is nothing to read.
    pub fn start(source: &Source, task: &StageTask) -> Result<Self, Read> {
        let probe = Probe { id: 0, dir: task.dir.clone(), expect: Some(task.expect), ask: Ask::List };
        let (dir, _) = open_dir(source, &probe).map_err(|why| match why {
            ProbeError::Stale => Read::Gone,
            ProbeError::Failed(errno) => Read::Failed(errno),
        })?;
        let (file, before) = open(&dir, task.name.as_name(), &task.ident)?;
        Ok(Self { task: task.clone(), file, before, grain: grain(dir.as_fd()), offset: 0 })
    }

    /// Puts the next piece into `payload`; the report when it was the last, or cannot be read.
    pub fn step(&mut self, payload: &mut Payload) -> Option<Read> {
        let left = self.before.meta.size - self.offset;
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(STAGE_CHUNK_BYTES);
        let mark = payload.mark();
        match read_into(&self.file, self.offset, payload.stage(self.task.stage, self.offset, len)) {
            Ok(true) => self.offset += len as u64,
            Ok(false) => {
                payload.rollback(mark);
                return Some(Read::Changed);
            }
            Err(e) => {
                payload.rollback(mark);
                return Some(Read::Failed(errno(&e)));
            }
        }
        (self.offset == self.before.meta.size).then(|| settle(&self.file, &self.before, self.grain, self.task.insist))
    }
}
