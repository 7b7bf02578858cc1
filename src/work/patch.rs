//! Sending a large file as a delta: one pass over it, between whose pieces the caller does other things.

use std::cell::RefCell;
use std::fs::File;

use crate::delta::code::{StepWriter, put_shape};
use crate::delta::{Differ, Outcome, Signature, Step};
use crate::limits::{DELTA_AHEAD_BYTES, DELTA_LITERAL_BYTES_MAX, HOLE_BYTES_MIN, STAGE_CHUNK_BYTES};
use crate::model::cycle::Read;
use crate::model::op::Spot;
use crate::sys::holes::Holes;
use crate::work::probe::errno;
use crate::work::stage::Job;

/// Longest step beside the bytes of its literal, and the head of a batch.
const STEP_BYTES_MAX: usize = 64;

/// What a delta needs of its caller.
pub(super) trait Way {
    /// Why it cannot go on.
    type Error;

    /// Sends the head: where the base is, and both shapes.
    fn head(&mut self, base: &Spot, shapes: &[u8]) -> Result<(), Self::Error>;

    /// Sends a batch of steps.
    fn steps(&mut self, batch: &[u8]) -> Result<(), Self::Error>;

    /// Called between pieces: whatever else is to be done.
    fn between(&mut self) -> Result<(), Self::Error>;
}

/// Why a delta came to no end.
pub(super) enum Halt<E> {
    /// The file could not be read as it was.
    Read(Read),
    /// The caller.
    Way(E),
}

/// The report on a file that was read, and its delta.
pub(super) type Made = (Read, Outcome);

impl Job {
    /// Sends the delta from `base`; the report and the new content's signature. `None` if no delta can be made.
    ///
    /// # Errors
    /// See [`Halt`]. What was sent is to be dropped then.
    pub(super) fn delta<W: Way>(&self, base: &Signature, way: &mut W) -> Result<Option<Made>, Halt<W::Error>> {
        let Some(differ) = Differ::new(base, self.len()) else { return Ok(None) };
        let told = self.sparse && !self.holes.is_dense();
        if told && !differ.passes_holes() {
            // They would have to be gone through, and may be far longer than all data.
            return Ok(None);
        }
        let holes = RefCell::new(self.holes.clone());
        let mut shapes = Vec::new();
        put_shape(&mut shapes, base.shape());
        put_shape(&mut shapes, differ.shape());
        way.head(&Spot { dir: self.task.dir.clone(), name: self.task.name.clone() }, &shapes).map_err(Halt::Way)?;
        let way = RefCell::new(way);
        let mut batch = Batch(None);
        let read = |at: u64, buffer: &mut [u8]| {
            way.borrow_mut().between().map_err(Halt::Way)?;
            match self.read(&mut holes.borrow_mut(), at, buffer) {
                Ok(true) if !self.is_spoilt() => Ok(()),
                Ok(_) => Err(Halt::Read(Read::Changed)),
                Err(e) => Err(Halt::Read(Read::Failed(errno(&e)))),
            }
        };
        let mut emit = |step: &Step<'_>| match batch.push(step) {
            Some(full) => way.borrow_mut().steps(&full).map_err(Halt::Way),
            None => Ok(()),
        };
        let hole = |at| if told { holes.borrow_mut().hole(&self.file, at) } else { 0 };
        let outcome = differ.run_sparse(read, hole, |step| match step {
            Step::Literal { at, bytes } if told => split(at, bytes, |at| extent(&holes, &self.file, at), &mut emit),
            step => emit(&step),
        })?;
        if let Some(last) = batch.take() {
            way.borrow_mut().steps(&last).map_err(Halt::Way)?;
        }
        Ok(Some((self.settle(), outcome)))
    }
}

/// How long the hole or the data is that an offset is in.
fn extent(holes: &RefCell<Holes>, file: &File, at: u64) -> (bool, u64) {
    let mut holes = holes.borrow_mut();
    match holes.hole(file, at) {
        0 => (false, holes.data(file, at)),
        len => (true, len),
    }
}

/// Gives a literal out in pieces, with the holes in it as such. `extent` says of an offset whether it is in a hole, and how far that goes on, or the data.
fn split<E>(
    mut at: u64,
    mut bytes: &[u8],
    mut extent: impl FnMut(u64) -> (bool, u64),
    mut emit: impl FnMut(&Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // What is literal up to now.
    let mut from = 0;
    while from < bytes.len() {
        let (is_hole, len) = extent(at + from as u64);
        let len = usize::try_from(len).unwrap_or(usize::MAX).clamp(1, bytes.len() - from);
        if is_hole && len as u64 >= HOLE_BYTES_MIN && bytes[from..from + len].iter().all(|byte| *byte == 0) {
            if from > 0 {
                emit(&Step::Literal { at, bytes: &bytes[..from] })?;
                at += from as u64;
            }
            emit(&Step::Hole { at, len: len as u64 })?;
            at += len as u64;
            bytes = &bytes[from + len..];
            from = 0;
        } else {
            from += len;
        }
    }
    if from > 0 { emit(&Step::Literal { at, bytes }) } else { Ok(()) }
}

/// Steps that gather until they fill a message, or are much to do.
struct Batch(Option<(StepWriter, u64)>);

impl Batch {
    /// Takes a step; the batch if it is full with it.
    fn push(&mut self, step: &Step<'_>) -> Option<Vec<u8>> {
        let (writer, from) = self.0.get_or_insert_with(|| (StepWriter::new(Vec::new(), step.at()), step.at()));
        writer.push(step);
        let full = writer.len() + DELTA_LITERAL_BYTES_MAX + STEP_BYTES_MAX > STAGE_CHUNK_BYTES
            || step.at() + step.len() - *from >= DELTA_AHEAD_BYTES;
        if full { self.take() } else { None }
    }

    /// What has gathered.
    fn take(&mut self) -> Option<Vec<u8>> {
        self.0.take().map(|(writer, _)| writer.finish())
    }
}
