//! Asking the mirror for the signature of what it has, where none is known here: after a start, or where somebody else made the mirror. Then a large file that changed is
//! sent as a delta all the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::delta::code::{SignatureReader, take_shape};
use crate::delta::{Flaw, Shape};
use crate::limits::{SIGN_BASE_BYTES_MIN, SIGNS_ASKED_MAX};
use crate::model::op::Spot;
use crate::wire::Payload;
use crate::wire::session::ContentClient;
use crate::work::stage::Job;

/// Large files for which the mirror is asked. Few at a time: what comes is held in memory.
#[derive(Default)]
pub(super) struct Bases {
    waiting: VecDeque<Job>,
    asked: HashMap<u64, (Job, Option<SignatureReader>)>,
}

/// Whether it is of use to ask for what a file could be made from.
pub(super) fn is_worth(job: &Job) -> bool {
    job.base.is_none() && job.may_ask_base && job.task.there >= SIGN_BASE_BYTES_MIN
}

impl Bases {
    /// Whether no answer is to come.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Takes a file, and asks as soon as not too many are asked for.
    pub(super) fn add(&mut self, job: Job, payload: &mut Payload, checker: &mut ContentClient) {
        self.waiting.push_back(job);
        self.ask(payload, checker);
    }

    fn ask(&mut self, payload: &mut Payload, checker: &mut ContentClient) {
        while self.asked.len() < SIGNS_ASKED_MAX
            && let Some(mut job) = self.waiting.pop_front()
        {
            job.may_ask_base = false;
            tracing::debug!(stage = job.task.stage, "the mirror is asked for a signature");
            payload.sign(job.task.stage, &Spot { dir: job.task.dir.clone(), name: job.task.name.clone() });
            checker.sent_sign();
            self.asked.insert(job.task.stage, (job, None));
        }
    }

    /// Takes an answer, or a part of one; the file when it was the last, with its base if the mirror has one.
    ///
    /// # Errors
    /// It is no answer to what was asked.
    pub(super) fn answer(
        &mut self,
        (id, last, mut shape, blocks): (u64, bool, &[u8], &[u8]),
        payload: &mut Payload,
        checker: &mut ContentClient,
    ) -> Result<Option<Job>, Flaw> {
        let shape: Shape = take_shape(&mut shape)?;
        let (_, reader) = self.asked.get_mut(&id).ok_or(Flaw::Order)?;
        let reader = reader.get_or_insert_with(|| SignatureReader::new(shape));
        if reader.shape() != shape {
            return Err(Flaw::Shape);
        }
        reader.take(blocks)?;
        if !last {
            return Ok(None);
        }
        let Some((mut job, Some(reader))) = self.asked.remove(&id) else { return Ok(None) };
        let signature = reader.finish()?;
        job.base = (!shape.is_empty()).then(|| Arc::new(signature));
        self.ask(payload, checker);
        Ok(Some(job))
    }
}
