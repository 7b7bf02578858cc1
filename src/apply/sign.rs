//! Signatures of what the mirror holds, for a sender that has none: it started anew, or the mirror was made by somebody else.
//!
//! Never writes, opens nothing but regular files. Read in slices, as part of the questions of `sum`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::apply::dirs::open_beneath;
use crate::apply::root::Root;
use crate::apply::sum::Answer;
use crate::apply::target::may_name;
use crate::buffer::PageBuffer;
use crate::delta::code::{BLOCK_BYTES, put_blocks, put_shape};
use crate::delta::{Flaw, Shape, Signature, Signer};
use crate::limits::{DELTA_LITERAL_BYTES_MAX, PATCH_SLICE_BYTES, STAGE_CHUNK_BYTES};
use crate::model::op::Spot;
use crate::sys::dir::stat_fd;
use crate::sys::holes::Holes;
use crate::sys::regular::open_regular;

/// A file whose signature is being made: what is before `at` is in it.
pub(super) struct Signing {
    file: File,
    len: u64,
    holes: Holes,
    signer: Signer,
    at: u64,
}

fn flawed(_: Flaw) -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Signing {
    pub(super) fn begin(root: &Root, base: &Spot) -> io::Result<Self> {
        if !may_name(base) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let file = open_regular(&open_beneath(&root.dir, &base.dir)?, base.name.as_name())?;
        let len = stat_fd(file.as_fd())?.meta.size;
        let shape = Shape::of(len).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        Ok(Self { holes: Holes::of(&file, len), signer: Signer::new(shape), at: 0, len, file })
    }

    /// Reads on; true at the end.
    pub(super) fn slice(&mut self, buffer: &mut PageBuffer) -> io::Result<bool> {
        let mut budget = PATCH_SLICE_BYTES;
        while budget > 0 && self.at < self.len {
            let hole = self.holes.hole(&self.file, self.at);
            if hole > 0 {
                self.signer.zeros(hole).map_err(flawed)?;
                self.at += hole;
                continue;
            }
            let len = self.holes.data(&self.file, self.at).min(DELTA_LITERAL_BYTES_MAX as u64);
            let buffer = buffer.piece(len as usize);
            self.file.read_exact_at(buffer, self.at)?;
            self.signer.update(buffer).map_err(flawed)?;
            self.at += len;
            budget -= len.min(budget);
        }
        Ok(self.at == self.len)
    }

    /// All that was read.
    pub(super) fn finish(self) -> io::Result<Signature> {
        self.signer.finish().map_err(flawed)
    }
}

/// Tells a signature in parts that fit into messages; that of nothing where there is none.
pub(super) fn tell(id: u64, signature: Option<&Signature>, each: &mut dyn FnMut(Answer)) {
    let mut shape = Vec::new();
    put_shape(&mut shape, signature.map_or(Shape::EMPTY, Signature::shape));
    let blocks = signature.map_or(&[][..], Signature::blocks);
    let mut parts = blocks.chunks(STAGE_CHUNK_BYTES / BLOCK_BYTES).peekable();
    loop {
        let mut bytes = Vec::new();
        put_blocks(&mut bytes, parts.next().unwrap_or_default());
        let last = parts.peek().is_none();
        each(Answer::Signed { id, last, shape: shape.clone(), blocks: bytes });
        if last {
            return;
        }
    }
}
