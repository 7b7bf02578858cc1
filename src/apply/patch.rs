//! Files made from a delta: pieces of what the mirror holds, and literals, in staging.
//!
//! Literals are written when they come. Copies, and the digest over all of it, wait until their thread has nothing else to do and are done in slices, in the
//! order of the content and while its later steps are still to come, so that a file of any size holds up no other and each byte of the base is read once. What is
//! placed has the digest that the sender took of its source; what the base was is not asked beforehand, for a base that was another one shows in the digest too.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::apply::inplace::{self, Overlay};
use crate::apply::root::Root;
use crate::apply::target::Errno;
use crate::buffer::PageBuffer;
use crate::delta::code::{Steps, take_shape};
use crate::delta::patch::check;
use crate::delta::{Digester, Flaw, Shape, Step};
use crate::limits::{HOLE_BYTES_MIN, PATCH_BUFFER_BYTES, PATCH_PIECES_MAX, PATCH_SLICE_BYTES, PATCHES_MAX};
use crate::model::meta::Kind;
use crate::model::path::Name;
use crate::sys::copy;
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::holes::{self, Holes};
use crate::sys::regular::open_regular;

/// Slices that are done to make room for another patch; if that does not help, it is refused, and its file sent whole.
const SLICES_FOR_ROOM: usize = 64;

/// How much faster a hole is taken into a digest than data.
const HOLE_PASS_SPEEDUP: u64 = 64;

/// A staged file in the making.
///
/// Invariant: the steps so far make the content before `at`; that before `done` is in the digest, and written. What of the rest is not in `pieces` are literals,
/// which are written.
struct Patch {
    base: File,
    base_shape: Shape,
    file: File,
    shape: Shape,
    at: u64,
    done: u64,
    pieces: VecDeque<Piece>,
    digester: Digester,
    /// The base's bytes are at the same places already: they share its blocks.
    cloned: bool,
    /// What nothing is written to is no hole of itself: it is cloned, or room was taken for it.
    filled: bool,
    /// Once all steps have come: what the digest has to be.
    sealed: Option<[u8; 32]>,
    base_holes: Holes,
    /// If it goes over its base in place: what of it is another content than the base's. Only that is in `file`.
    overlay: Option<Overlay>,
    /// Counts it among those of the session.
    _open: Arc<()>,
}

/// A part of the content that is no literal, from `at` on.
struct Piece {
    at: u64,
    len: u64,
    what: What,
}

impl Piece {
    fn pass(&mut self, len: u64) {
        self.at += len;
        self.len -= len;
        if let What::Copy(from) = &mut self.what {
            *from += len;
        }
    }
}

#[derive(Clone, Copy)]
enum What {
    /// Written already.
    Literal,
    Hole,
    /// The base from there on, which has to be written.
    Copy(u64),
    /// The base at the same place, which need not be.
    Stays,
}

/// The patches of one thread, and those that came to their end.
#[derive(Default)]
pub(super) struct Patches {
    open: HashMap<u64, Patch>,
    /// Those that cannot be made, until they are sealed.
    failed: HashMap<u64, Errno>,
    /// Those that came to their end while room was made for another, to be told.
    ended: VecDeque<(u64, Result<(), Errno>)>,
    /// Of those that came to their end and are not placed.
    overlays: HashMap<u64, Overlay>,
    buffer: PageBuffer,
}

fn flawed(_: Flaw) -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

impl Patches {
    /// Begins the staged file `id`, from the file `name` in `dir`.
    pub(super) fn begin(&mut self, root: &Root, id: u64, dir: &Dir, name: Name<'_>, mut shapes: &[u8]) -> io::Result<()> {
        let base_shape = take_shape(&mut shapes).map_err(flawed)?;
        let shape = take_shape(&mut shapes).map_err(flawed)?;
        if !shapes.is_empty() {
            return Err(flawed(Flaw::Long));
        }
        let is_full = || Arc::strong_count(&root.patches) > PATCHES_MAX;
        for _ in 0..SLICES_FOR_ROOM {
            // One that is sealed ends by work alone.
            if !is_full() || !self.open.values().any(|patch| patch.sealed.is_some()) {
                break;
            }
            let ended = self.slice(root);
            self.ended.extend(ended);
        }
        if is_full() {
            return Err(io::Error::from_raw_os_error(libc::EDQUOT));
        }
        let base = open_regular(dir, name)?;
        let stat = stat_fd(base.as_fd())?;
        let meta = stat.meta;
        if meta.kind != Kind::File || meta.size != base_shape.len() {
            return Err(stale());
        }
        let file = root.staging.create(root, id)?;
        let overlay = (root.writing.in_place && inplace::may_be_written(&stat)).then(|| Overlay::new(stat));
        let cloned = overlay.is_none() && copy::clone_all(&base, &file)?;
        let filled = cloned || (overlay.is_none() && root.writing.preallocate && holes::allocate(&file, shape.len())?);
        file.set_len(shape.len())?;
        let base_holes = Holes::of(&base, base_shape.len());
        let patch = Patch {
            base,
            base_shape,
            file,
            shape,
            at: 0,
            done: 0,
            pieces: VecDeque::new(),
            digester: Digester::new(shape),
            cloned,
            filled,
            sealed: None,
            base_holes,
            overlay,
            _open: Arc::clone(&root.patches),
        };
        self.open.insert(id, patch);
        Ok(())
    }

    /// Notes that `id` cannot be made: said when it is sealed.
    pub(super) fn give_up(&mut self, root: &Root, id: u64, errno: Errno) {
        self.open.remove(&id);
        self.overlays.remove(&id);
        root.staging.drop_file(root, id);
        if self.failed.len() < PATCH_PIECES_MAX {
            self.failed.insert(id, errno);
        }
    }

    /// The next steps of `id`.
    pub(super) fn steps(&mut self, id: u64, data: &[u8]) -> io::Result<()> {
        let Some(patch) = self.open.get_mut(&id).filter(|patch| patch.sealed.is_none()) else { return Ok(()) };
        for step in Steps::new(data).map_err(flawed)? {
            patch.step(&step.map_err(flawed)?, &mut self.buffer)?;
        }
        Ok(())
    }

    /// All steps of `id` have come. The answer, if it is known already.
    pub(super) fn seal(&mut self, id: u64, digest: [u8; 32]) -> Option<Errno> {
        if let Some(errno) = self.failed.remove(&id) {
            return Some(errno);
        }
        match self.open.get_mut(&id) {
            Some(patch) if patch.at == patch.shape.len() && patch.sealed.is_none() => {
                patch.sealed = Some(digest);
                None
            }
            _ => {
                // What is missing does not come any more.
                self.open.remove(&id);
                Some(libc::EPROTO)
            }
        }
    }

    /// Forgets `id`.
    pub(super) fn drop_patch(&mut self, id: u64) {
        self.open.remove(&id);
        self.failed.remove(&id);
        self.overlays.remove(&id);
    }

    /// What the staged file `id` changes, if it goes over its base in place.
    pub(super) fn overlay(&self, id: u64) -> Option<&Overlay> {
        self.overlays.get(&id)
    }

    /// Whether [`Patches::work`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.ended.is_empty() || self.open.values().any(Patch::has_work)
    }

    /// Does a slice of what is to be done; who came to an end by that, and how.
    pub(super) fn work(&mut self, root: &Root) -> Option<(u64, Result<(), Errno>)> {
        self.ended.pop_front().or_else(|| self.slice(root))
    }

    fn slice(&mut self, root: &Root) -> Option<(u64, Result<(), Errno>)> {
        let (id, patch) = self.open.iter_mut().find(|(_, patch)| patch.has_work())?;
        let (id, sealed) = (*id, patch.sealed.is_some());
        let ended = match patch.slice(&mut self.buffer) {
            Ok(false) => return None,
            Ok(true) => {
                root.staging.is_complete(id, patch.shape.len());
                if let Some(overlay) = self.open.remove(&id).and_then(|patch| patch.overlay) {
                    self.overlays.insert(id, overlay);
                }
                Ok(())
            }
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                self.give_up(root, id, errno);
                if !sealed {
                    return None;
                }
                self.failed.remove(&id);
                Err(errno)
            }
        };
        Some((id, ended))
    }
}

impl Patch {
    fn has_work(&self) -> bool {
        self.sealed.is_some() || self.done < self.at
    }

    fn step(&mut self, step: &Step<'_>, buffer: &mut PageBuffer) -> io::Result<()> {
        check(step, self.base_shape, self.shape, self.at).map_err(flawed)?;
        let stays = matches!(step, Step::Copy { at, from, .. } if at == from);
        if let Some(overlay) = self.overlay.as_mut().filter(|_| !stays) {
            overlay.push(step.at(), step.len())?;
        }
        let what = match *step {
            Step::Literal { bytes, .. } => {
                self.file.write_all_at(bytes, self.at)?;
                What::Literal
            }
            Step::Hole { at, len } => {
                if self.filled {
                    holes::punch(&self.file, at, len)?;
                }
                What::Hole
            }
            Step::Copy { .. } if stays && (self.cloned || self.overlay.is_some()) => What::Stays,
            Step::Copy { from, .. } => What::Copy(from),
        };
        if !matches!(what, What::Literal) {
            if self.pieces.len() >= PATCH_PIECES_MAX {
                self.advance(u64::MAX, buffer)?;
            }
            self.pieces.push_back(Piece { at: self.at, len: step.len(), what });
        }
        self.at += step.len();
        Ok(())
    }

    /// A slice of what is to be done; true at the end.
    fn slice(&mut self, buffer: &mut PageBuffer) -> io::Result<bool> {
        self.advance(PATCH_SLICE_BYTES, buffer)?;
        let Some(expected) = self.sealed.filter(|_| self.done == self.shape.len()) else { return Ok(false) };
        let digester = std::mem::replace(&mut self.digester, Digester::new(self.shape));
        if digester.finish().map_err(flawed)?.0 == expected { Ok(true) } else { Err(stale()) }
    }

    /// Writes what is to be written, and takes it into the digest, of at most about `budget` bytes.
    fn advance(&mut self, mut budget: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        while budget > 0 && self.done < self.at {
            let (what, most) = match self.pieces.front() {
                Some(piece) if piece.at == self.done => (piece.what, piece.len),
                next => (What::Literal, next.map_or(self.at, |piece| piece.at) - self.done),
            };
            let (passed, cost) = self.pass(what, most, budget, buffer)?;
            budget -= cost.min(budget);
            self.done += passed;
            if let Some(piece) = self.pieces.front_mut().filter(|piece| piece.at < self.done) {
                piece.pass(passed);
                if piece.len == 0 {
                    self.pieces.pop_front();
                }
            }
        }
        Ok(())
    }

    /// Passes at most `most` bytes of one kind; how many, and what they cost of the budget.
    fn pass(&mut self, what: What, most: u64, budget: u64, buffer: &mut PageBuffer) -> io::Result<(u64, u64)> {
        let (source, from) = match what {
            What::Hole => return self.zeros(most),
            What::Literal => (&self.file, self.done),
            What::Stays => (&self.base, self.done),
            What::Copy(from) => (&self.base, from),
        };
        let mut len = most.min(budget).min(PATCH_BUFFER_BYTES - self.done % PATCH_BUFFER_BYTES);
        if !matches!(what, What::Literal) {
            let hole = self.base_holes.hole(&self.base, from).min(most);
            if hole > 0 {
                if self.filled && matches!(what, What::Copy(_)) {
                    holes::punch(&self.file, self.done, hole)?;
                }
                return self.zeros(hole);
            }
            len = len.min(self.base_holes.data(&self.base, from).max(1));
        }
        let buffer = buffer.piece(len as usize);
        // The base has become shorter.
        source.read_exact_at(buffer, from).map_err(|e| if e.kind() == io::ErrorKind::UnexpectedEof { stale() } else { e })?;
        self.digester.update(buffer).map_err(flawed)?;
        if matches!(what, What::Copy(_)) {
            self.file.write_all_at(buffer, self.done)?;
        }
        Ok((len, len))
    }

    fn zeros(&mut self, len: u64) -> io::Result<(u64, u64)> {
        self.digester.zeros(len).map_err(flawed)?;
        // A slice of the time that its bytes would take: a hash for each block.
        Ok((len, (len / HOLE_PASS_SPEEDUP).max(HOLE_BYTES_MIN)))
    }
}
