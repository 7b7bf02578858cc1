//! Small files with holes: where their data is, and reading it. Large ones are walked by `stage` and `patch`.

use std::fs::File;
use std::io;

use crate::model::meta::{Extent, Meta};
use crate::sys::holes::Holes;
use crate::work::files::read_into;

/// Where the file has data; `None` if it has no holes.
pub(super) fn extents(file: &File, meta: &Meta) -> Option<Vec<Extent>> {
    let mut holes = Holes::of(file, meta.size);
    if holes.is_dense() {
        return None;
    }
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < meta.size {
        let len = holes.data(file, at);
        if len > 0 {
            extents.push(Extent { at, len });
        }
        at += len.max(holes.hole(file, at)).max(1);
    }
    Some(extents)
}

/// Fills `buffer` with what stands in the extents, one behind the other; false if the file ends before.
pub(super) fn read(file: &File, extents: &[Extent], mut buffer: &mut [u8]) -> io::Result<bool> {
    for extent in extents {
        // The buffer was made for these extents.
        let Some(piece) = buffer.split_off_mut(..extent.len as usize) else { return Ok(false) };
        if !read_into(file, extent.at, piece)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills `buffer`, which is zeros, with what stands in the extents, each at its place; false if the file ends before.
pub(super) fn read_spread(file: &File, extents: &[Extent], buffer: &mut [u8]) -> io::Result<bool> {
    for Extent { at, len } in extents {
        let Some(piece) = buffer.get_mut(*at as usize..).and_then(|rest| rest.get_mut(..*len as usize)) else { return Ok(false) };
        if !read_into(file, *at, piece)? {
            return Ok(false);
        }
    }
    Ok(true)
}
