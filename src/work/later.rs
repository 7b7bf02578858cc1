//! Signing a large file when it has been sent, while there is nothing else to do: the mirror has it sooner, and what is read again is in the page cache.
//!
//! If it changes before that is done there is no signature, and the mirror is asked for its own; so one that is never asked is none to wait with it for.

use crate::buffer::PageBuffer;
use crate::limits::{DELTA_READ_BYTES, SIGN_LATER_BYTES_MIN, SIGN_LATER_MEMORY_SHARE};
use crate::sys::memory::memory_bytes;
use crate::work::Source;
use crate::work::stage::Job;

/// Whether a file that is about to be sent may be signed later. What is sent although it changes would be another content then.
pub(super) fn is_apt(job: &Job) -> bool {
    job.is_signed() && !job.task.insist && (SIGN_LATER_BYTES_MIN..=memory_bytes() / SIGN_LATER_MEMORY_SHARE).contains(&job.len())
}

/// A file that was sent.
pub(super) struct Unsigned {
    job: Job,
    at: u64,
    buffer: PageBuffer,
}

impl Unsigned {
    /// Begins with a file. The signature of what the mirror had of it before is of no use any more.
    pub(super) fn new(mut job: Job, source: &Source) -> Self {
        source.signatures.remove(&job.task.ident);
        job.sign_later = false;
        Self { job, at: 0, buffer: PageBuffer::default() }
    }

    /// Reads on. True when there is nothing left to do: the signature is kept, or there is none.
    pub(super) fn step(&mut self, source: &Source) -> bool {
        if self.job.is_spoilt() || !self.sign() {
            return true;
        }
        if self.at < self.job.len() {
            return false;
        }
        if !self.job.is_spoilt() {
            tracing::debug!(bytes = self.at, "a file that was sent is signed");
            self.job.keep_signature(source);
        }
        true
    }

    /// Signs the next piece; false if it cannot be read.
    fn sign(&mut self) -> bool {
        let Self { job, at, buffer } = self;
        let left = job.len() - *at;
        let hole = job.holes.hole(&job.file, *at).min(left);
        if hole > 0 {
            job.sign(|signer| signer.zeros(hole));
            *at += hole;
            return true;
        }
        let len = left.min(DELTA_READ_BYTES as u64) as usize;
        if !job.read_at(*at, buffer.piece(len)).is_ok_and(|whole| whole) {
            return false;
        }
        job.sign(|signer| signer.update(buffer.held(len)));
        *at += len as u64;
        true
    }
}
