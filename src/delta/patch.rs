//! Checks the steps of a delta that came from a peer, and takes the digest of their result while the bytes go by.
//!
//! Reads and writes nothing: whoever applies the delta asks what is valid, moves the bytes and shows those that have to be seen. Used by `apply`.

use std::sync::Arc;

use crate::delta::code::{Steps, take_shape};
use crate::delta::{Digest, Digester, Flaw, Shape, Signature, Step};
use crate::limits::{DELTA_LITERAL_BYTES_MAX, HOLE_BYTES_MIN};

/// Whether a step may follow the content before `at`, from a base of shape `base` to content of shape `shape`.
///
/// # Errors
/// It breaks a rule.
pub fn check(step: &Step<'_>, base: Shape, shape: Shape, at: u64) -> Result<(), Flaw> {
    let len = step.len();
    if step.at() != at {
        return Err(Flaw::Order);
    }
    if len == 0 || len > shape.len() - at {
        return Err(Flaw::Length);
    }
    match *step {
        Step::Literal { bytes, .. } if bytes.len() > DELTA_LITERAL_BYTES_MAX => Err(Flaw::Length),
        Step::Literal { .. } | Step::Hole { .. } => Ok(()),
        Step::Copy { from, len, .. } => {
            let end = from.checked_add(len).filter(|end| *end <= base.len()).ok_or(Flaw::Base)?;
            if base.starts(from) && (len % base.block() == 0 || end == base.len()) { Ok(()) } else { Err(Flaw::Base) }
        }
    }
}

/// Content of `size` bytes, made at once of `base` by a delta: its shape, the shape of what it makes, and steps, as in [`code`](crate::delta::code). `None` if that has not the digest,
/// or `base` not the length. Takes memory for `size`, which the caller bounds.
///
/// # Errors
/// The delta breaks a rule, or makes content of another length.
pub fn patched(base: &[u8], mut delta: &[u8], size: u64, digest: &[u8; 32]) -> Result<Option<Vec<u8>>, Flaw> {
    let (base_shape, shape) = (take_shape(&mut delta)?, take_shape(&mut delta)?);
    if shape.len() != size {
        return Err(Flaw::Length);
    }
    if base_shape.len() != base.len() as u64 {
        return Ok(None);
    }
    let mut made = Vec::with_capacity(size as usize);
    for step in Steps::new(delta)? {
        let step = step?;
        check(&step, base_shape, shape, made.len() as u64)?;
        match step {
            Step::Copy { from, len, .. } => made.extend_from_slice(&base[from as usize..(from + len) as usize]),
            Step::Literal { bytes, .. } => made.extend_from_slice(bytes),
            Step::Hole { len, .. } => made.resize(made.len() + len as usize, 0),
        }
    }
    let mut digester = Digester::new(shape);
    if made.len() as u64 != size || digester.update(&made).is_err() {
        return Err(Flaw::Short);
    }
    Ok((digester.finish()?.0 == *digest).then_some(made))
}

/// The new content in the making.
///
/// Invariant: all steps so far are valid and make the content before `at`, of which the last `owed` bytes have not been seen yet.
pub struct Patcher {
    base: Shape,
    known: Option<Arc<Signature>>,
    shape: Shape,
    digester: Digester,
    at: u64,
    owed: u64,
    copies: u64,
    literals: u64,
    holes: u64,
}

/// A part of the base whose bytes have to be shown, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the base.
    pub from: u64,
    /// How many bytes; not 0.
    pub len: u64,
}

impl Patcher {
    /// From a base of shape `base` to content of shape `shape`. With the base's signature, if what is there now is known to have it, blocks that stay
    /// blocks need not be shown.
    ///
    /// # Errors
    /// The signature is of another shape.
    pub fn new(base: Shape, known: Option<Arc<Signature>>, shape: Shape) -> Result<Self, Flaw> {
        if known.as_ref().is_some_and(|known| known.shape() != base) {
            return Err(Flaw::Shape);
        }
        Ok(Self { base, known, shape, digester: Digester::new(shape), at: 0, owed: 0, copies: 0, literals: 0, holes: 0 })
    }

    /// Takes the next step if it is valid. A literal is done with then. Of a copy, the part that is returned has to be shown to [`Patcher::show`]
    /// before the next step.
    ///
    /// # Errors
    /// The step breaks a rule, or bytes are owed; the patcher is of no more use then.
    pub fn step(&mut self, step: &Step<'_>) -> Result<Option<Part>, Flaw> {
        if self.owed != 0 {
            return Err(Flaw::Order);
        }
        check(step, self.base, self.shape, self.at)?;
        match *step {
            Step::Literal { bytes, .. } => {
                self.at += step.len();
                self.literals += 1;
                // Only before a copy or a hole and at the end is a literal shorter than it may be.
                if self.literals > self.copies + self.holes + 1 + self.at / DELTA_LITERAL_BYTES_MAX as u64 {
                    return Err(Flaw::Count);
                }
                self.digester.update(bytes)?;
                Ok(None)
            }
            Step::Hole { len, .. } => {
                self.at += len;
                self.holes += 1;
                if self.holes > self.shape.len() / HOLE_BYTES_MIN + 1 {
                    return Err(Flaw::Count);
                }
                self.digester.zeros(len)?;
                Ok(None)
            }
            Step::Copy { at, from, len } => {
                self.copies += 1;
                // A copy has a whole block, or it is the base's tail, behind the shift that a whole block had or behind one of the two others that are guessed.
                if self.copies > 2 * (self.shape.len() / self.base.block()) + 2 {
                    return Err(Flaw::Count);
                }
                self.at += len;
                let seen = self.take_known(at, from, len)?;
                self.owed = len - seen;
                Ok((self.owed > 0).then_some(Part { from: from + seen, len: self.owed }))
            }
        }
    }

    /// Takes the hashes of blocks of the base that become blocks of the new content; says how many bytes these are.
    fn take_known(&mut self, at: u64, from: u64, len: u64) -> Result<u64, Flaw> {
        let Some(known) = self.known.as_ref().filter(|_| self.base.block() == self.shape.block() && self.shape.starts(at)) else {
            return Ok(0);
        };
        let mut seen = 0;
        while seen < len && self.base.len_at(from + seen) == self.shape.len_at(at + seen) {
            self.digester.update_known(&known.blocks()[self.base.number(from + seen)])?;
            seen += self.base.len_at(from + seen);
        }
        Ok(seen)
    }

    /// The next bytes of the part that is owed, any number of them.
    ///
    /// # Errors
    /// There are more than are owed.
    pub fn show(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        self.owed = self.owed.checked_sub(bytes.len() as u64).ok_or(Flaw::Long)?;
        self.digester.update(bytes)
    }

    /// How much of the new content the steps so far make.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The digest of the result, to be compared with the one that the delta promised.
    ///
    /// # Errors
    /// Steps or bytes are missing.
    pub fn finish(self) -> Result<Digest, Flaw> {
        if self.owed == 0 && self.at == self.shape.len() { self.digester.finish() } else { Err(Flaw::Short) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Signer;

    const BLOCK: u64 = 4096;

    fn signature(bytes: &[u8]) -> Signature {
        let mut signer = Signer::new(Shape::of(bytes.len() as u64).expect("small"));
        signer.update(bytes).expect("as long as it is");
        signer.finish().expect("complete")
    }

    fn patcher(base: u64, len: u64) -> Patcher {
        Patcher::new(Shape::of(base).expect("small"), None, Shape::of(len).expect("small")).expect("no signature")
    }

    #[test]
    fn bad_steps_are_refused() {
        let copy = |at, from, len| Step::Copy { at, from, len };
        let base = 10 * BLOCK + 5;
        for (step, flaw) in [
            (copy(1, 0, BLOCK), Flaw::Order),
            (copy(0, 0, 0), Flaw::Length),
            (copy(0, 0, u64::MAX), Flaw::Length),
            (copy(0, 0, 12 * BLOCK), Flaw::Base),
            (copy(0, 1, BLOCK), Flaw::Base),
            (copy(0, 0, BLOCK + 1), Flaw::Base),
            (copy(0, 10 * BLOCK, BLOCK), Flaw::Base),
            (copy(0, 10 * BLOCK, 4), Flaw::Base),
            (copy(0, u64::MAX - 4095, BLOCK), Flaw::Base),
            (Step::Literal { at: 0, bytes: &[] }, Flaw::Length),
            (Step::Literal { at: 4, bytes: b"x" }, Flaw::Order),
            (Step::Literal { at: 0, bytes: &vec![0; DELTA_LITERAL_BYTES_MAX + 1] }, Flaw::Length),
        ] {
            assert_eq!(patcher(base, 100 * BLOCK).step(&step), Err(flaw), "{step:?}");
        }
        let beyond = Step::Literal { at: 0, bytes: &[0; 11] };
        assert_eq!(patcher(base, 10).step(&beyond), Err(Flaw::Length));

        let mut crumbs = patcher(base, 10_000);
        assert_eq!(crumbs.step(&Step::Literal { at: 0, bytes: b"x" }), Ok(None));
        assert_eq!(crumbs.step(&Step::Literal { at: 1, bytes: b"x" }), Err(Flaw::Count));

        let mut tails = patcher(1, 10_000);
        let refused = (0..10_000).map(|at| {
            tails.step(&copy(at, 0, 1))?;
            tails.show(b"x")
        });
        assert_eq!(refused.take_while(Result::is_ok).count(), 6);

        let mut owing = patcher(base, 100 * BLOCK);
        assert_eq!(owing.step(&copy(0, 0, BLOCK)), Ok(Some(Part { from: 0, len: BLOCK })));
        assert_eq!(owing.step(&copy(BLOCK, BLOCK, BLOCK)), Err(Flaw::Order));
        assert_eq!(owing.show(&[0; BLOCK as usize + 1]), Err(Flaw::Long));

        let other = Arc::new(signature(b"other"));
        assert!(Patcher::new(Shape::of(3).expect("small"), Some(other), Shape::of(3).expect("small")).is_err());
    }

    #[test]
    fn known_blocks_need_not_be_shown() {
        let base: Vec<u8> = (0..BLOCK * 3 + 7).map(|i| (i / 5) as u8).collect();
        let known = Arc::new(signature(&base));
        let new: Vec<u8> = [&base[4096..8192], &base[..4096], &[9; 4096], &base[8192..], b"more"].concat();
        let shape = Shape::of(new.len() as u64).expect("small");
        let mut patcher = Patcher::new(known.shape(), Some(Arc::clone(&known)), shape).expect("its signature");
        let copy = |at, from, len| Step::Copy { at, from, len };
        assert_eq!(patcher.step(&copy(0, BLOCK, BLOCK)), Ok(None));
        assert_eq!(patcher.step(&copy(BLOCK, 0, BLOCK)), Ok(None));
        assert_eq!(patcher.step(&Step::Literal { at: 2 * BLOCK, bytes: &[9; 4096] }), Ok(None));
        assert_eq!(patcher.step(&copy(3 * BLOCK, 2 * BLOCK, BLOCK + 7)), Ok(Some(Part { from: 3 * BLOCK, len: 7 })));
        patcher.show(&base[3 * 4096..]).expect("these are owed");
        assert_eq!(patcher.step(&Step::Literal { at: 4 * BLOCK + 7, bytes: b"more" }), Ok(None));
        assert_eq!(patcher.finish(), Ok(signature(&new).digest()));
    }
}
