//! Taking up a large file where an earlier session stopped: what it is called, and holding what the mirror has of it against the file.

use crate::buffer::PageBuffer;
use crate::delta::code::take_shape;
use crate::delta::{Digester, Flaw, Shape};
use crate::limits::{DELTA_READ_BYTES, RESUME_BYTES_MIN};
use crate::model::cycle::Read;
use crate::model::meta::Stat;
use crate::work::probe::errno;
use crate::work::stage::Job;

/// Sets these names apart from every other use of BLAKE3.
const CONTEXT: &str = "ringsync 2026 name of a staged file";

/// What the content of a file is called as long as neither the object nor its length nor its time of modification is another.
fn key(stat: &Stat) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let numbers = [stat.ident.dev, stat.ident.ino, stat.ident.birth_ns.cast_unsigned(), stat.meta.size];
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&stat.meta.mtime.sec.to_le_bytes()).update(&stat.meta.mtime.nsec.to_le_bytes());
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes have a first 16")
}

/// What the mirror has of a file, and how far it has been compared.
pub(super) struct Check {
    digester: Digester,
    until: u64,
    at: u64,
    expected: [u8; 32],
    buffer: PageBuffer,
}

/// Where a comparison is.
pub(super) enum Checked {
    /// There is more to compare.
    Going,
    /// The mirror has what the file begins with.
    Equal,
    /// It has something else.
    Other,
    /// The file cannot be read as it was.
    Read(Read),
}

impl Job {
    /// What to ask the mirror for; `None` for a file that is sent sooner than asked about.
    pub(super) fn key(&self) -> Option<[u8; 16]> {
        (self.len() >= RESUME_BYTES_MIN).then(|| key(&self.before))
    }

    /// Takes the mirror's answer: from now on [`Job::compare`] is to be called until it is at an end, if it has something.
    ///
    /// # Errors
    /// It is no answer to what was asked.
    pub(super) fn check(&mut self, mut shape: &[u8], expected: [u8; 32]) -> Result<(), Flaw> {
        let shape: Shape = take_shape(&mut shape)?;
        if shape.len() > self.len() {
            return Err(Flaw::Long);
        }
        let check = Check { digester: Digester::new(shape), until: shape.len(), at: 0, expected, buffer: PageBuffer::default() };
        self.check = (!shape.is_empty()).then_some(check);
        Ok(())
    }

    /// Reads on. At the end the file is sent from where the mirror's part stops, or from its start.
    pub(super) fn compare(&mut self) -> Checked {
        let Some(mut check) = self.check.take() else { return Checked::Equal };
        if self.is_spoilt() {
            return Checked::Read(Read::Changed);
        }
        let hole = self.holes.hole(&self.file, check.at).min(check.until - check.at);
        let taken = if hole > 0 {
            check.at += hole;
            self.sign(|signer| signer.zeros(hole));
            check.digester.zeros(hole)
        } else {
            let len = (check.until - check.at).min(DELTA_READ_BYTES as u64) as usize;
            match self.read_at(check.at, check.buffer.piece(len)) {
                Ok(true) => {}
                Ok(false) => return Checked::Read(Read::Changed),
                Err(e) => return Checked::Read(Read::Failed(errno(&e))),
            }
            check.at += len as u64;
            let bytes = check.buffer.held(len);
            self.sign(|signer| signer.update(bytes));
            check.digester.update(bytes)
        };
        if taken.is_ok() && check.at < check.until {
            self.check = Some(check);
            return Checked::Going;
        }
        let (until, expected) = (check.until, check.expected);
        if check.digester.finish().is_ok_and(|digest| digest.0 == expected) {
            tracing::debug!(bytes = until, "what the mirror has of a file is not sent again");
            self.begin_at(until);
            Checked::Equal
        } else {
            self.begin_at(0);
            Checked::Other
        }
    }
}
