//! Parts of large files that earlier sessions left in staging: which are kept, and the digests that tell the sender what they are.
//!
//! Digests are taken in slices, as patches are. A partial file that nobody asks for is removed when a session ends in good order, when the
//! sender says that it needs none, and when it is old.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::apply::root::Root;
use crate::buffer::PageBuffer;
use crate::delta::code::put_shape;
use crate::delta::{Digester, Shape};
use crate::limits::{DELTA_LITERAL_BYTES_MAX, PARTIAL_AGE_MAX, PATCH_SLICE_BYTES};
use crate::model::meta::Kind;
use crate::model::path::{Name, NameBuf};
use crate::sys::clock::coarse_now;
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::holes::Holes;

/// What a sender calls the content that it stages: the same as long as its file is. Zeros for content without a name.
pub type Key = [u8; 16];

/// What is there of a staged file, from its start on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its shape, as `delta::code::put_shape` writes it.
    pub shape: Vec<u8>,
    /// Its digest; zeros for nothing.
    pub digest: [u8; 32],
}

impl Found {
    /// Nothing is there, or nothing that can be read.
    pub fn nothing() -> Self {
        Self::of(Shape::EMPTY, [0; 32])
    }

    fn of(shape: Shape, digest: [u8; 32]) -> Self {
        let mut bytes = Vec::new();
        put_shape(&mut bytes, shape);
        Self { shape: bytes, digest }
    }
}

/// The partial files whose digests one thread takes.
#[derive(Default)]
pub(super) struct Partials {
    reading: VecDeque<Reading>,
    buffer: PageBuffer,
}

/// One of them: what is before `at` is in the digest.
struct Reading {
    id: u64,
    file: File,
    shape: Shape,
    digester: Digester,
    at: u64,
    holes: Holes,
}

impl Partials {
    /// The staged file `id` will have `size` bytes of the content that `key` names: takes up what is there of it. False if that is nothing.
    pub(super) fn begin(&mut self, root: &Root, id: u64, key: &Key, size: u64) -> io::Result<bool> {
        let key = Some(*key).filter(|key| *key != Key::default());
        let Some(file) = root.staging.take_up(root, id, key, size)? else { return Ok(false) };
        let len = stat_fd(file.as_fd())?.meta.size;
        match Shape::of(len) {
            Some(shape) => {
                let holes = Holes::of(&file, len);
                self.reading.push_back(Reading { id, file, shape, digester: Digester::new(shape), at: 0, holes });
                Ok(true)
            }
            None => {
                root.staging.drop_file(root, id);
                Ok(false)
            }
        }
    }

    /// Whether [`Partials::work`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.reading.is_empty()
    }

    /// Forgets `id`.
    pub(super) fn drop_reading(&mut self, id: u64) {
        self.reading.retain(|reading| reading.id != id);
    }

    /// Reads on; who came to an end by that, and what is there of it. What cannot be read is as if it were not there.
    pub(super) fn work(&mut self, root: &Root) -> Option<(u64, Found)> {
        let reading = self.reading.front_mut()?;
        let ended = match reading.slice(&mut self.buffer) {
            Ok(false) => return None,
            Ok(true) => true,
            Err(e) => {
                tracing::debug!(id = reading.id, error = %e, "a part of a file could not be read");
                false
            }
        };
        let Reading { id, shape, digester, .. } = self.reading.pop_front()?;
        let digest = digester.finish().ok().filter(|_| ended);
        if digest.is_none() {
            root.staging.drop_file(root, id);
        }
        Some((id, digest.map_or_else(Found::nothing, |digest| Found::of(shape, digest.0))))
    }
}

impl Reading {
    /// A slice; true at the end.
    fn slice(&mut self, buffer: &mut PageBuffer) -> io::Result<bool> {
        let mut budget = PATCH_SLICE_BYTES;
        let flawed = |_| io::Error::from_raw_os_error(libc::EIO);
        while budget > 0 && self.at < self.shape.len() {
            let hole = self.holes.hole(&self.file, self.at);
            if hole > 0 {
                self.digester.zeros(hole).map_err(flawed)?;
                self.at += hole;
                continue;
            }
            let len = self.holes.data(&self.file, self.at).min(DELTA_LITERAL_BYTES_MAX as u64);
            let buffer = buffer.piece(len as usize);
            self.file.read_exact_at(buffer, self.at)?;
            self.digester.update(buffer).map_err(flawed)?;
            self.at += len;
            budget -= len.min(budget);
        }
        Ok(self.at == self.shape.len())
    }
}

/// Which entries of the staging directory are of no use to a session that begins: all but the partial files that are young, of which it keeps as many as `most`.
pub(super) fn leftovers(dir: &Dir, most: usize) -> io::Result<Vec<NameBuf>> {
    let (mut kept, mut gone) = (0, Vec::new());
    let now = coarse_now();
    dir.list(|name| {
        if kept < most && is_partial(name) && is_young(dir, name, now.sec) {
            kept += 1;
        } else {
            gone.push(name.to_owned());
        }
    })?;
    Ok(gone)
}

/// Whether it is the name of a partial file.
pub(super) fn is_partial(name: Name<'_>) -> bool {
    matches!(name.as_bytes(), [b'k', digits @ ..] if digits.len() == 32 && digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_young(dir: &Dir, name: Name<'_>, now: i64) -> bool {
    dir.stat_at(name).is_ok_and(|stat| {
        let age = now.saturating_sub(stat.meta.mtime.sec);
        stat.meta.kind == Kind::File && stat.nlink == 1 && age < PARTIAL_AGE_MAX.as_secs().cast_signed()
    })
}
