//! Small files that changed, as deltas in one message: what was appended to a log or written into a small database, instead of all of it. It saves what is sent, and costs
//! two passes of hashing; so it is done where there is a network, for files that were sent before or are being written.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::delta::code::{StepWriter, put_shape};
use crate::delta::{Differ, Shape, Signature, Signer};
use crate::limits::{INLINE_FILE_BYTES_MAX, SMALL_DELTA_BYTES_MIN};
use crate::model::cycle::FileTask;
use crate::model::meta::{Meta, Time};
use crate::model::op::Spot;
use crate::wire::Payload;
use crate::work::Source;
use crate::work::files::read_into;

/// A delta is sent if it is shorter than this share of the content.
const WORTH: (usize, usize) = (3, 4);

/// A file that was written so shortly before it is read will most likely be read again soon.
const FRESH_NS: i64 = 1_000_000_000;

/// Whether a file that is read at `now` goes this way.
pub(super) fn is_apt(source: &Source, task: &FileTask, meta: &Meta, now: Time) -> bool {
    source.small_deltas
        && meta.size >= SMALL_DELTA_BYTES_MIN
        && (!task.new || now.as_nanos().saturating_sub(meta.mtime.as_nanos()) < FRESH_NS)
}

/// Reads the file and puts it into `payload`; its signature, for the next time. `None` if it ends early.
pub(super) fn put(
    source: &Source,
    task: &FileTask,
    (at, meta): (&Spot, &Meta),
    file: &File,
    payload: &mut Payload,
) -> io::Result<Option<Option<Signature>>> {
    let mut content = vec![0; meta.size as usize];
    if !read_into(file, 0, &mut content)? {
        return Ok(None);
    }
    let base = task.base.and_then(|base| source.signatures.get(&base));
    let base = base.filter(|base| base.shape().len() <= INLINE_FILE_BYTES_MAX as u64);
    let signature = match base.and_then(|base| delta(&base, &content)) {
        Some((delta, signature)) if delta.len() * WORTH.1 < content.len() * WORTH.0 => {
            payload.put_patch(task.index, at, meta, &signature.digest().0, &delta);
            return Ok(Some(Some(signature)));
        }
        Some((_, signature)) => Some(signature),
        None => sign(&content),
    };
    payload.put(task.index, at, meta, content.len(), task.new).copy_from_slice(&content);
    Ok(Some(signature))
}

/// Notes what the mirror will have: another content than it had, even where no signature was made of it.
pub(super) fn sent(source: &Source, task: &FileTask, signature: Option<Signature>) {
    match signature {
        Some(signature) => source.signatures.insert(task.stat.ident, Arc::new(signature)),
        None if !task.new => source.signatures.remove(&task.stat.ident),
        None => {}
    }
}

fn sign(content: &[u8]) -> Option<Signature> {
    let mut signer = Signer::new(Shape::of(content.len() as u64)?);
    signer.update(content).ok()?;
    signer.finish().ok()
}

/// The shapes and steps, as [`patched`](crate::delta::patch::patched) takes them, and the content's signature.
fn delta(base: &Signature, content: &[u8]) -> Option<(Vec<u8>, Signature)> {
    let differ = Differ::new(base, content.len() as u64)?;
    let mut shapes = Vec::new();
    put_shape(&mut shapes, base.shape());
    put_shape(&mut shapes, differ.shape());
    let mut steps = StepWriter::new(shapes, 0);
    let outcome = differ.run(
        |at, buffer| {
            buffer.copy_from_slice(&content[at as usize..][..buffer.len()]);
            Ok::<_, Infallible>(())
        },
        |step| {
            steps.push(&step);
            Ok(())
        },
    );
    let Ok(outcome) = outcome;
    tracing::debug!(matched = outcome.work.copied, literal = outcome.work.literal, "a small delta");
    Some((steps.finish(), outcome.signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::patch::patched;

    #[test]
    fn an_append_costs_what_was_appended() {
        let old: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let base = sign(&old).unwrap();
        let mut written = old.clone();
        written[50_000..50_010].fill(7);
        for (new, most) in [
            ([&old[..], b"one more line\n"].concat(), 50),
            (old[..60_000].to_vec(), 4200),
            (written, 4200),
            ([b"x", &old[..]].concat(), 4300),
        ] {
            let (delta, signature) = delta(&base, &new).unwrap();
            assert!(delta.len() < most, "{} of {}", delta.len(), new.len());
            assert_eq!(patched(&old, &delta, new.len() as u64, &signature.digest().0), Ok(Some(new.clone())));
            assert_eq!(sign(&new).unwrap().digest(), signature.digest());
            // Another base of the same length, another base, another length, and a delta that is cut.
            let mut other = old.clone();
            other[0] ^= 1;
            assert_eq!(patched(&other, &delta, new.len() as u64, &signature.digest().0), Ok(None));
            assert_eq!(patched(&old[1..], &delta, new.len() as u64, &signature.digest().0), Ok(None));
            assert!(patched(&old, &delta, new.len() as u64 + 1, &signature.digest().0).is_err());
            assert!(patched(&old, &delta[..delta.len() - 1], new.len() as u64, &signature.digest().0).is_err());
        }
    }
}
