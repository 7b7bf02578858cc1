//! Reading a large file for staging: whole, piece by piece, so that small ones can go between the pieces; or as a delta from what the mirror has.
//! Memory is that of one piece, and of the signatures.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::delta::{Flaw, Shape, Signature, Signer};
use crate::limits::STAGE_CHUNK_BYTES;
use crate::model::cycle::{Read, StageTask};
use crate::model::meta::{Stat, Time};
use crate::model::probe::ProbeError;
use crate::sys::append::append_at;
use crate::sys::clock::{Grain, coarse_now, grain};
use crate::sys::dir::stat_fd;
use crate::sys::holes::Holes;
use crate::wire::Payload;
use crate::work::Source;
use crate::work::files::{open, read_into, settle};
use crate::work::probe::{errno, open_dir};
use crate::work::resume::Check;

/// The next of `most` bytes from `offset` on that are all in a hole or all not: whether they are, and how many.
fn next_piece(file: &File, holes: &mut Holes, offset: u64, most: usize) -> (bool, usize) {
    let (hole, data) = (holes.hole(file, offset), holes.data(file, offset));
    (hole > 0, usize::try_from(hole.max(data)).unwrap_or(usize::MAX).clamp(1, most))
}

/// Fills `buffer` from `offset` on, with zeros where holes are; false if the file ends before.
fn fill(file: &File, holes: &mut Holes, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<bool> {
    while !buffer.is_empty() {
        let (is_hole, len) = next_piece(file, holes, offset, buffer.len());
        let (piece, rest) = buffer.split_at_mut(len);
        if is_hole {
            piece.fill(0);
        } else if !read_into(file, offset, piece)? {
            return Ok(false);
        }
        offset += len as u64;
        buffer = rest;
    }
    Ok(true)
}

/// Puts `len` bytes from `offset` on behind what `buffer` holds; fewer if the file ends before.
fn append(file: &File, holes: &mut Holes, mut offset: u64, mut len: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
    while len > 0 {
        let (is_hole, piece) = next_piece(file, holes, offset, len);
        if is_hole {
            buffer.resize(buffer.len() + piece, 0);
        } else if !append_at(file, offset, piece, buffer)? {
            break;
        }
        offset += piece as u64;
        len -= piece;
    }
    Ok(())
}

/// A large file that is being read.
pub struct Job {
    /// What is to be read.
    pub task: StageTask,
    pub(super) file: File,
    pub(super) before: Stat,
    begun: Time,
    grain: Grain,
    offset: u64,
    /// Where they are: what is not there is not read, since on tmpfs a look through a mapping puts pages there.
    pub(super) holes: Holes,
    /// They are told.
    pub(super) sparse: bool,
    signer: Option<Signer>,
    /// What is sent is not signed: it is read once more for that.
    pub(super) sign_later: bool,
    /// What the mirror has of this very content, until it has been compared.
    pub(super) check: Option<Check>,
    /// How often it was asked for what it has.
    pub(super) asked: u8,
    /// The mirror has not been asked for a signature yet, and may be.
    pub(super) may_ask_base: bool,
    /// What the mirror has, if a delta is to be made.
    pub(super) base: Option<Arc<Signature>>,
}

impl Job {
    /// Opens the file. With `whole` no delta is made of it.
    ///
    /// # Errors
    /// The report, if there is nothing to read.
    pub fn start(source: &Source, task: &StageTask, whole: bool) -> Result<Self, Read> {
        let (dir, _) = open_dir(source, &task.dir, Some(task.expect)).map_err(|why| match why {
            ProbeError::Stale => Read::Gone,
            ProbeError::Failed(errno) => Read::Failed(errno),
        })?;
        let begun = coarse_now();
        let (file, before) = open(&dir, task.name.as_name(), &task.ident)?;
        let base = task.base.filter(|_| !whole).and_then(|base| source.signatures.get(&base));
        let signed = base.is_none() && source.signatures.are_kept();
        let signer = if signed { Shape::of(before.meta.size).map(Signer::new) } else { None };
        let len = before.meta.size;
        let (holes, sparse) = (Holes::of(&file, len), source.sparse);
        Ok(Self {
            task: task.clone(),
            file,
            before,
            begun,
            grain: grain(dir.as_fd()),
            offset: 0,
            holes,
            sparse,
            signer,
            sign_later: false,
            check: None,
            asked: 0,
            may_ask_base: !whole,
            base,
        })
    }

    /// Fills `buffer` from `offset` on; false if the file ends before.
    pub(super) fn read(&self, holes: &mut Holes, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        fill(&self.file, holes, offset, buffer)
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
        let hole = self.holes.hole(&self.file, self.offset);
        if hole > 0 && self.sparse {
            payload.hole(self.task.stage, self.offset, hole);
            self.offset += hole;
            self.sign(|signer| signer.zeros(hole));
            return self.end(source);
        }
        let len = usize::try_from(self.len() - self.offset).unwrap_or(usize::MAX).min(STAGE_CHUNK_BYTES);
        // With holes that are told, up to the next.
        let len = if self.sparse { self.holes.data(&self.file, self.offset).min(len as u64) as usize } else { len };
        let mark = payload.mark();
        let mut read = Ok(());
        let piece = payload.stage(self.task.stage, self.offset, len, |buffer| {
            read = append(&self.file, &mut self.holes, self.offset, len, buffer);
        });
        match (read, piece) {
            (Ok(()), Some(piece)) => {
                self.offset += len as u64;
                self.sign(|signer| signer.update(piece));
                self.end(source)
            }
            (Ok(()), None) => {
                payload.rollback(mark);
                Some(Read::Changed)
            }
            (Err(e), _) => {
                payload.rollback(mark);
                Some(Read::Failed(errno(&e)))
            }
        }
    }

    /// From here on it is sent: what lies before was given to the signer. From 0 on it begins anew.
    pub(super) fn begin_at(&mut self, offset: u64) {
        self.offset = offset;
        if offset == 0 && self.signer.is_some() {
            self.signer = Shape::of(self.len()).map(Signer::new);
        }
    }

    /// Fills `buffer` from `offset` on; false if the file ends before.
    pub(super) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        fill(&self.file, &mut self.holes, offset, buffer)
    }

    /// Whether it is to be signed.
    pub(super) fn is_signed(&self) -> bool {
        self.signer.is_some()
    }

    /// Has the signer take something, if that is done now. It cannot fail: it was made for this length.
    pub(super) fn sign(&mut self, take: impl FnOnce(&mut Signer) -> Result<(), Flaw>) {
        if self.sign_later {
            return;
        }
        self.signer = self.signer.take().and_then(|mut signer| take(&mut signer).is_ok().then_some(signer));
    }

    /// The report, if all has been read.
    fn end(&mut self, source: &Source) -> Option<Read> {
        if self.offset < self.len() {
            return None;
        }
        let read = self.settle();
        if matches!(read, Read::Sent { .. }) && !self.sign_later {
            self.keep_signature(source);
        }
        Some(read)
    }

    /// The mirror has what was signed.
    pub(super) fn keep_signature(&mut self, source: &Source) {
        if let Some(signature) = self.signer.take().and_then(|signer| signer.finish().ok()) {
            source.signatures.insert(self.task.ident, Arc::new(signature));
        }
    }
}
