//! Files made from a delta: pieces of what the mirror holds, and literals, in staging.
//!
//! Literals are written when they come. Copies, and the reading back for the digest, wait until their thread has nothing else to do and are done in
//! slices, so that a file of any size holds up no other. What is placed has the digest that the sender took of its source; what the base was is
//! not asked beforehand, for a base that was another one shows in the digest too.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::apply::inplace::{self, Overlay};
use crate::apply::root::Root;
use crate::apply::target::Errno;
use crate::delta::code::{Steps, take_shape};
use crate::delta::patch::check;
use crate::delta::{Digester, Flaw, Shape, Step};
use crate::limits::{DELTA_LITERAL_BYTES_MAX, HOLE_BYTES_MIN, PATCH_COPIES_MAX, PATCH_SLICE_BYTES, PATCHES_MAX};
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
/// Invariant: the steps so far make the content before `at`; what of it is not in `copies` is written.
struct Patch {
    base: File,
    base_shape: Shape,
    file: File,
    shape: Shape,
    at: u64,
    copies: VecDeque<Copy>,
    /// The base's bytes are at the same places already: they share its blocks.
    cloned: bool,
    /// What nothing is written to is no hole of itself: it is cloned, or room was taken for it.
    filled: bool,
    /// Once it is sealed: what is expected, and how far the reading back is.
    sealed: Option<Sealed>,
    base_holes: Holes,
    /// If it goes over its base in place: what of it is another content than the base's. Only that is in `file`.
    overlay: Option<Overlay>,
    /// Counts it among those of the session.
    _open: Arc<()>,
}

/// The reading back of a patch: what is before `at` was taken into the digest.
struct Sealed {
    expected: [u8; 32],
    digester: Digester,
    at: u64,
    holes: Holes,
    /// Which range of the overlay comes next.
    next: usize,
}

/// A part of the base and where it goes.
struct Copy {
    at: u64,
    from: u64,
    len: u64,
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
    buffer: Vec<u8>,
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
        let (copies, _open) = (VecDeque::new(), Arc::clone(&root.patches));
        let patch = Patch { base, base_shape, file, shape, at: 0, copies, cloned, filled, sealed: None, base_holes, overlay, _open };
        self.open.insert(id, patch);
        Ok(())
    }

    /// Notes that `id` cannot be made: said when it is sealed.
    pub(super) fn give_up(&mut self, root: &Root, id: u64, errno: Errno) {
        self.open.remove(&id);
        self.overlays.remove(&id);
        root.staging.drop_file(root, id);
        if self.failed.len() < PATCH_COPIES_MAX {
            self.failed.insert(id, errno);
        }
    }

    /// The next steps of `id`.
    pub(super) fn steps(&mut self, id: u64, data: &[u8]) -> io::Result<()> {
        let Some(patch) = self.open.get_mut(&id).filter(|patch| patch.sealed.is_none()) else { return Ok(()) };
        for step in Steps::new(data).map_err(flawed)? {
            patch.step(&step.map_err(flawed)?)?;
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
                // What is a hole is known once all is copied.
                let (holes, next) = (Holes::none(0), 0);
                patch.sealed = Some(Sealed { expected: digest, digester: Digester::new(patch.shape), at: 0, holes, next });
                None
            }
            _ => Some(libc::EPROTO),
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
        !self.ended.is_empty() || self.open.values().any(|patch| patch.sealed.is_some() || !patch.copies.is_empty())
    }

    /// Does a slice of what is to be done; who came to an end by that, and how.
    pub(super) fn work(&mut self, root: &Root) -> Option<(u64, Result<(), Errno>)> {
        self.ended.pop_front().or_else(|| self.slice(root))
    }

    fn slice(&mut self, root: &Root) -> Option<(u64, Result<(), Errno>)> {
        let (id, patch) = self.open.iter_mut().find(|(_, patch)| patch.sealed.is_some() || !patch.copies.is_empty())?;
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

impl Sealed {
    /// Whether what comes next is the base's, and how far that, or what is not, goes on.
    fn source(&mut self, len: u64, overlay: Option<&Overlay>) -> (bool, u64) {
        let Some(overlay) = overlay else { return (false, len - self.at) };
        while let Some(range) = overlay.ranges.get(self.next) {
            if self.at < range.at {
                return (true, range.at - self.at);
            }
            if self.at < range.at + range.len {
                return (false, range.at + range.len - self.at);
            }
            self.next += 1;
        }
        (true, len - self.at)
    }
}

impl Patch {
    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        check(step, self.base_shape, self.shape, self.at).map_err(flawed)?;
        let stays = matches!(step, Step::Copy { at, from, .. } if at == from);
        if let Some(overlay) = self.overlay.as_mut().filter(|_| !stays) {
            overlay.push(step.at(), step.len())?;
        }
        match *step {
            Step::Literal { bytes, .. } => self.file.write_all_at(bytes, self.at)?,
            Step::Hole { at, len } if self.filled => holes::punch(&self.file, at, len)?,
            Step::Hole { .. } => {}
            Step::Copy { at, from, len } => {
                if !(stays && (self.cloned || self.overlay.is_some())) {
                    if self.copies.len() >= PATCH_COPIES_MAX {
                        self.copy(u64::MAX)?;
                    }
                    self.copies.push_back(Copy { at, from, len });
                }
            }
        }
        self.at += step.len();
        Ok(())
    }

    /// Copies at most about `budget` bytes; what is left of it.
    fn copy(&mut self, mut budget: u64) -> io::Result<u64> {
        while budget > 0
            && let Some(part) = self.copies.front_mut()
        {
            let hole = self.base_holes.hole(&self.base, part.from).min(part.len);
            let done = if hole > 0 {
                if self.filled {
                    holes::punch(&self.file, part.at, hole)?;
                }
                // It costs little, however long it is.
                budget -= HOLE_BYTES_MIN.min(budget);
                hole
            } else {
                let data = self.base_holes.data(&self.base, part.from).max(1);
                let done = copy::copy_range(&self.base, part.from, &self.file, part.at, part.len.min(budget).min(data))?;
                if done == 0 {
                    // The base has become shorter.
                    return Err(stale());
                }
                budget -= done.min(budget);
                done
            };
            part.at += done;
            part.from += done;
            part.len -= done;
            if part.len == 0 {
                self.copies.pop_front();
            }
        }
        Ok(budget)
    }

    /// A slice of the copies, or of the reading back; true at the end.
    fn slice(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let mut budget = self.copy(PATCH_SLICE_BYTES)?;
        let Some(mut sealed) = self.sealed.take() else { return Ok(false) };
        if budget > 0 && sealed.at == 0 {
            sealed.holes = Holes::of(&self.file, self.shape.len());
        }
        while budget > 0 && sealed.at < self.shape.len() {
            let (of_base, most) = sealed.source(self.shape.len(), self.overlay.as_ref());
            let (file, holes) = if of_base { (&self.base, &mut self.base_holes) } else { (&self.file, &mut sealed.holes) };
            let hole = holes.hole(file, sealed.at).min(most);
            let len = if hole > 0 {
                sealed.digester.zeros(hole).map_err(flawed)?;
                // A slice of the time that its bytes would take: a hash for each block.
                budget -= (hole / HOLE_PASS_SPEEDUP).max(HOLE_BYTES_MIN).min(budget);
                hole
            } else {
                let len = holes.data(file, sealed.at).max(1).min(most).min(DELTA_LITERAL_BYTES_MAX as u64);
                buffer.resize(len as usize, 0);
                file.read_exact_at(buffer, sealed.at)?;
                sealed.digester.update(buffer).map_err(flawed)?;
                budget -= len.min(budget);
                len
            };
            sealed.at += len;
        }
        if sealed.at < self.shape.len() || !self.copies.is_empty() {
            self.sealed = Some(sealed);
            return Ok(false);
        }
        let Sealed { expected, digester, .. } = sealed;
        let digest = digester.finish().map_err(flawed)?;
        if digest.0 == expected { Ok(true) } else { Err(stale()) }
    }
}
