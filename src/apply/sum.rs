//! Answers about what the mirror holds: digests of parts of files, and what is in a directory.
//!
//! Never writes, never opens anything but directories and regular files. Questions wait until their thread has nothing else to do, and are answered in slices, so
//! that they hold up no operation.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use crate::apply::dirs::open_beneath;
use crate::apply::manifest::{self, errno};
use crate::apply::root::Root;
use crate::apply::sign::{self, Signing};
use crate::apply::target::{Errno, may_name_dir};
use crate::buffer::PageBuffer;
use crate::delta::{PartDigest, Signature};
use crate::limits::{LOOK_FILL_BYTES, SUM_FILES_MAX, SUM_READ_BYTES, SUM_SLICE_BYTES, SUMS_WAITING_MAX};
use crate::model::meta::Kind;
use crate::model::op::{Entry, Spot};
use crate::model::path::{Name, RelPath};
use crate::model::scrub::{LookDone, Part, PartSum};
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::quiet::Quiet;
use crate::sys::regular::open_regular;
use crate::sys::xattr::At;

/// The fields of an entry beside its name and target, on the wire, at the most.
const ENTRY_BYTES: usize = 64;

/// A question.
enum Question {
    Sum { id: u64, dir: RelPath, parts: Vec<Part>, sums: Vec<PartSum>, open: Option<Box<Reading>> },
    Look { id: u64, dir: RelPath },
    Sign { id: u64, base: Spot, open: Option<Box<Signing>> },
}

/// A part that is being read.
struct Reading {
    file: Quiet,
    size: u64,
    digest: PartDigest,
}

/// An answer, or a part of one.
#[derive(Debug)]
pub enum Answer {
    /// To `FsTarget::sum`.
    Summed {
        /// The question's number.
        id: u64,
        /// One for each part.
        sums: Vec<PartSum>,
    },
    /// To `FsTarget::look`.
    Looked(LookDone),
    /// To `FsTarget::sign`.
    Signed {
        /// The question's number.
        id: u64,
        /// Nothing more comes.
        last: bool,
        /// As [`put_shape`](crate::delta::code::put_shape) writes it; that of nothing where there is no signature.
        shape: Vec<u8>,
        /// The next blocks.
        blocks: Vec<u8>,
    },
}

/// The questions of one connection. Invariant: at most [`SUMS_WAITING_MAX`].
#[derive(Default)]
pub(super) struct Sums {
    waiting: VecDeque<Question>,
    buffer: PageBuffer,
}

impl Sums {
    /// Takes a question; false if there are too many.
    pub(super) fn sum(&mut self, id: u64, dir: RelPath, parts: Vec<Part>) -> bool {
        self.push(Question::Sum { id, dir, parts, sums: Vec::new(), open: None })
    }

    /// The same.
    pub(super) fn look(&mut self, id: u64, dir: RelPath) -> bool {
        self.push(Question::Look { id, dir })
    }

    /// The same.
    pub(super) fn sign(&mut self, id: u64, base: Spot) -> bool {
        self.push(Question::Sign { id, base, open: None })
    }

    fn push(&mut self, question: Question) -> bool {
        let fits = self.waiting.len() < SUMS_WAITING_MAX;
        if fits {
            self.waiting.push_back(question);
        }
        fits
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Does a slice of the oldest question; calls `each` with what is answered by that.
    pub(super) fn work(&mut self, root: &Root, each: &mut dyn FnMut(Answer)) {
        let Some(question) = self.waiting.front_mut() else { return };
        match question {
            Question::Look { id, dir } => look(root, *id, dir, each),
            Question::Sign { id, base, open } => match sign(root, base, open, &mut self.buffer) {
                Ok(None) => return,
                Ok(Some(signature)) => sign::tell(*id, Some(&signature), each),
                Err(e) => {
                    tracing::debug!(error = %e, "a file of the mirror cannot serve as a base");
                    sign::tell(*id, None, each);
                }
            },
            Question::Sum { id, dir, parts, sums, open } => {
                if !slice(root, dir, parts, sums, open, self.buffer.piece(SUM_READ_BYTES)) {
                    return;
                }
                each(Answer::Summed { id: *id, sums: std::mem::take(sums) });
            }
        }
        self.waiting.pop_front();
    }
}

/// Reads on; true when all parts are answered.
fn slice(root: &Root, dir: &RelPath, parts: &[Part], sums: &mut Vec<PartSum>, open: &mut Option<Box<Reading>>, buffer: &mut [u8]) -> bool {
    let held = if may_name_dir(dir) { open_beneath(&root.dir, dir).map_err(|e| errno(&e)) } else { Err(libc::EINVAL) };
    let mut budget = SUM_SLICE_BYTES;
    while let Some(part) = parts.get(sums.len()) {
        // Files of no length cost something too.
        budget = budget.saturating_sub(SUM_SLICE_BYTES / SUM_FILES_MAX as u64);
        if budget == 0 {
            return false;
        }
        if open.is_none() {
            match held.as_ref().map_err(|e| *e).and_then(|dir| begin(dir, part).map_err(|e| errno(&e))) {
                Ok(reading) => *open = Some(Box::new(reading)),
                Err(errno) => {
                    sums.push(PartSum::Failed(errno));
                    continue;
                }
            }
        }
        let Some(reading) = open else { continue };
        let Reading { file, size, digest } = &mut **reading;
        match digest.go_on(buffer, &mut budget, |buffer, at| file.read_at(buffer, at)) {
            Ok(false) => return false,
            Ok(true) => sums.push(PartSum::Read { size: *size, digest: digest.finish() }),
            Err(e) => sums.push(PartSum::Failed(errno(&e))),
        }
        *open = None;
    }
    true
}

/// Reads on; the signature at the end.
fn sign(root: &Root, base: &Spot, open: &mut Option<Box<Signing>>, buffer: &mut PageBuffer) -> io::Result<Option<Signature>> {
    let mut signing = match open.take() {
        Some(signing) => signing,
        None => Box::new(Signing::begin(root, base)?),
    };
    if signing.slice(buffer)? {
        return signing.finish().map(Some);
    }
    *open = Some(signing);
    Ok(None)
}

/// Opens the file of a part. Anything but a regular file is not even opened, since to open a device may do something.
fn begin(dir: &Dir, part: &Part) -> io::Result<Reading> {
    let name = part.name.as_name();
    if name.is_reserved() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let file = open_regular(dir, name)?;
    let meta = stat_fd(file.as_fd())?.meta;
    Ok(Reading { file: Quiet::new(file), size: meta.size, digest: PartDigest::new(part.offset, part.len) })
}

/// Reports the directory and its entries, in parts.
fn look(root: &Root, id: u64, path: &RelPath, each: &mut dyn FnMut(Answer)) {
    let mut part = Vec::new();
    let mut bytes = 0;
    let mut meta = Err(libc::EIO);
    let listed = held_still(root, path).and_then(|(dir, stat)| {
        meta = Ok(stat.meta);
        let mut trouble = Ok(());
        let root_dev = root.ident().map_err(|e| errno(&e))?.dev;
        let listed = dir.list(|name: Name<'_>| {
            if name.is_reserved() {
                return;
            }
            match manifest::entry(root, &dir, path, name, (stat.ident.dev, root_dev)) {
                Ok((mut entry, below)) => {
                    // Perhaps loosened for the moment.
                    if let Some(mode) = below.and_then(|stat| root.loosened.was(stat.ident)) {
                        entry.meta.mode = mode;
                    }
                    bytes += entry_bytes(&entry);
                    part.push(entry);
                    if bytes >= LOOK_FILL_BYTES {
                        bytes = 0;
                        each(Answer::Looked(LookDone { id, last: false, dir: meta, entries: std::mem::take(&mut part) }));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => trouble = Err(e),
            }
        });
        listed.and(trouble).map_err(|e| errno(&e))
    });
    let dir = listed.and(meta);
    each(Answer::Looked(LookDone { id, last: true, dir, entries: part }));
}

fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.name.as_bytes().len() + entry.target.as_ref().map_or(0, |target| target.len())
}

/// The directory, and its metadata as they are while nothing of ours is being made in it.
fn held_still(root: &Root, path: &RelPath) -> Result<(Dir, crate::model::meta::Stat), Errno> {
    if !may_name_dir(path) {
        return Err(libc::EINVAL);
    }
    let dir = open_beneath(&root.dir, path).map_err(|e| errno(&e))?;
    let stat = if path.is_root() { root.staging.still(|| dir.stat()) } else { dir.stat() };
    let mut stat = stat.map_err(|e| errno(&e))?;
    if let Some(mode) = root.loosened.was(stat.ident) {
        stat.meta.mode = mode;
    }
    stat.meta.attrs = root.attrs.digest(At::Fd(dir.as_fd()), Kind::Dir);
    Ok((dir, stat))
}
