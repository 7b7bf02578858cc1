//! Sending a large file as a delta: one pass over it, between whose pieces the caller does other things.

use crate::delta::code::{StepWriter, put_shape};
use crate::delta::{Differ, Outcome, Signature, Step};
use crate::limits::{DELTA_LITERAL_BYTES_MAX, STAGE_CHUNK_BYTES};
use crate::model::cycle::Read;
use crate::model::op::Spot;
use crate::work::files::read_into;
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
        let mut shapes = Vec::new();
        put_shape(&mut shapes, base.shape());
        put_shape(&mut shapes, differ.shape());
        way.head(&Spot { dir: self.task.dir.clone(), name: self.task.name.clone() }, &shapes).map_err(Halt::Way)?;
        let way = std::cell::RefCell::new(way);
        let mut batch = Batch(None);
        let read = |at: u64, buffer: &mut [u8]| {
            way.borrow_mut().between().map_err(Halt::Way)?;
            match read_into(&self.file, at, buffer) {
                Ok(true) if !self.is_spoilt() => Ok(()),
                Ok(_) => Err(Halt::Read(Read::Changed)),
                Err(e) => Err(Halt::Read(Read::Failed(errno(&e)))),
            }
        };
        let outcome = differ.run(read, |step| match batch.push(&step) {
            Some(full) => way.borrow_mut().steps(&full).map_err(Halt::Way),
            None => Ok(()),
        })?;
        if let Some(last) = batch.0.take() {
            way.borrow_mut().steps(&last.finish()).map_err(Halt::Way)?;
        }
        Ok(Some((self.settle(), outcome)))
    }
}

/// Steps that gather until they fill a message.
struct Batch(Option<StepWriter>);

impl Batch {
    /// Takes a step; the batch if it is full with it.
    fn push(&mut self, step: &Step<'_>) -> Option<Vec<u8>> {
        let writer = self.0.get_or_insert_with(|| StepWriter::new(Vec::new(), step.at()));
        writer.push(step);
        let full = writer.len() + DELTA_LITERAL_BYTES_MAX + STEP_BYTES_MAX > STAGE_CHUNK_BYTES;
        if full { self.0.take().map(StepWriter::finish) } else { None }
    }
}
