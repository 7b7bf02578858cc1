//! Reading files and packing them into payloads, many small ones into one. A file that changed while it was read is not sent, unless it has
//! been tried often enough.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::limits::{HOLE_BYTES_MIN, INLINE_FILE_BYTES_MAX, MMAP_BYTES_MIN, PUT_EXTENTS_MAX};
use crate::model::cycle::{FileBatch, FileDone, FileTask, Racy, Read};
use crate::model::meta::{Ident, Kind, Stat, Time};
use crate::model::op::Spot;
use crate::model::path::Name;
use crate::model::probe::{Ask, Probe, ProbeError};
use crate::sys::clock::{Grain, coarse_now, grain};
use crate::sys::dir::{Dir, stat_blocks, stat_fd};
use crate::sys::mmap::Guarded;
use crate::wire::Payload;
use crate::work::probe::{errno, open_dir};
use crate::work::{Source, sparse};

/// A change of a file on a filesystem of unknown clock is told from an earlier one if so long is between them.
const UNKNOWN_GRAIN_NS: i64 = 20_000_000;

/// Reads the files of a batch and puts them into `payload`, which `full` takes away whenever it is full. Reports what became of each.
///
/// # Errors
/// Of `full`.
pub fn pack<E>(
    source: &Source,
    batch: &FileBatch,
    payload: &mut Payload,
    mut full: impl FnMut(&mut Payload) -> Result<(), E>,
) -> Result<Vec<FileDone>, E> {
    let mut done = Vec::with_capacity(batch.files.len());
    let mut report = |task: &FileTask, read| done.push(FileDone { cycle: batch.cycle, node: task.node, read });
    let probe = Probe { id: 0, dir: batch.dir.clone(), expect: Some(batch.expect), ask: Ask::List };
    let dir = match open_dir(source, &probe) {
        Ok((dir, _)) => dir,
        Err(why) => {
            let read = if let ProbeError::Failed(errno) = why { Read::Failed(errno) } else { Read::Gone };
            batch.files.iter().for_each(|task| report(task, read));
            return Ok(done);
        }
    };
    let grain = grain(dir.as_fd());
    for task in &batch.files {
        report(task, pack_file(&dir, batch, task, (grain, source.sparse), payload));
        if payload.is_full() {
            full(payload)?;
        }
    }
    Ok(done)
}

fn pack_file(dir: &Dir, batch: &FileBatch, task: &FileTask, (grain, told): (Grain, bool), payload: &mut Payload) -> Read {
    let (file, before, blocks) = match open_with_blocks(dir, task.name.as_name(), &task.ident) {
        Ok(opened) => opened,
        Err(read) => return read,
    };
    let Some(len) = usize::try_from(before.meta.size).ok().filter(|len| *len <= INLINE_FILE_BYTES_MAX) else {
        // It has grown: it is looked at again and goes another way.
        return Read::Gone;
    };
    let mark = payload.mark();
    let at = Spot { dir: batch.dir.clone(), name: task.name.clone() };
    // What has room for all its bytes is not asked for holes.
    let has_holes = before.meta.size.saturating_sub(blocks) >= HOLE_BYTES_MIN;
    let filled = match if has_holes { sparse::extents(&file, &before.meta) } else { None } {
        None => read_into(&file, 0, payload.put(task.index, &at, &before.meta, len)),
        Some(extents) if told && extents.len() <= PUT_EXTENTS_MAX => {
            sparse::read(&file, &extents, payload.put_sparse(task.index, &at, &before.meta, &extents))
        }
        Some(extents) => sparse::read_spread(&file, &extents, payload.put(task.index, &at, &before.meta, len)),
    };
    let read = match filled {
        Ok(true) => settle(&file, &before, grain, task.insist),
        Ok(false) => Read::Changed,
        Err(e) => Read::Failed(errno(&e)),
    };
    if !matches!(read, Read::Sent { .. }) {
        payload.rollback(mark);
    }
    read
}

/// Opens a file if it is the object it should be.
pub(super) fn open(dir: &Dir, name: Name<'_>, ident: &Ident) -> Result<(File, Stat), Read> {
    open_with_blocks(dir, name, ident).map(|(file, stat, _)| (file, stat))
}

/// [`open`], and how many bytes it takes on its filesystem.
fn open_with_blocks(dir: &Dir, name: Name<'_>, ident: &Ident) -> Result<(File, Stat, u64), Read> {
    let file = dir.open_read(name).map_err(|e| match e.raw_os_error() {
        // Gone, or something else by now: a symbolic link, a socket or device without a driver, a directory.
        Some(libc::ENOENT | libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EISDIR | libc::ESTALE) => Read::Gone,
        _ => Read::Failed(errno(&e)),
    })?;
    let (stat, blocks) = stat_blocks(file.as_fd()).map_err(|e| Read::Failed(errno(&e)))?;
    if stat.meta.kind != Kind::File || stat.ident != *ident {
        return Err(Read::Gone);
    }
    Ok((file, stat, blocks))
}

/// Fills `buffer` from `offset` on; false if the file ends before.
pub(super) fn read_into(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    if buffer.len() as u64 >= MMAP_BYTES_MIN {
        let map = Guarded::map(file, offset, buffer.len())?;
        return Ok(map.read(|bytes| buffer.copy_from_slice(bytes)).is_ok());
    }
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Compares the file after the reading with what it was before.
pub(super) fn settle(file: &File, before: &Stat, grain: Grain, insist: bool) -> Read {
    let after = match stat_fd(file.as_fd()) {
        Ok(after) => after,
        Err(e) => return Read::Failed(errno(&e)),
    };
    let changed = after.ctime != before.ctime || after.meta.size != before.meta.size || after.meta.mtime != before.meta.mtime;
    if changed && !insist {
        return Read::Changed;
    }
    Read::Sent { meta: before.meta, ctime: before.ctime, racy: racy(before.ctime, coarse_now(), grain), changed }
}

/// Whether a change at `now` or later would get another time than `ctime`.
fn racy(ctime: Time, now: Time, grain: Grain) -> Racy {
    match grain {
        Grain::Fine if now <= ctime => Racy::Reuse,
        Grain::Tick if now <= ctime => Racy::Yes,
        Grain::Unknown if now.as_nanos() - ctime.as_nanos() < UNKNOWN_GRAIN_NS => Racy::Yes,
        _ => Racy::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_grain_is_doubted() {
        let at = |nsec| Time { sec: 5, nsec };
        for (ctime, now, grain, expected) in [
            (at(4), at(4), Grain::Tick, Racy::Yes),
            (at(4), at(5), Grain::Tick, Racy::No),
            (at(4), at(4), Grain::Fine, Racy::Reuse),
            (at(9), at(4), Grain::Fine, Racy::Reuse),
            (at(4), at(19_000_000), Grain::Unknown, Racy::Yes),
            (at(4), at(21_000_000), Grain::Unknown, Racy::No),
        ] {
            assert_eq!(racy(ctime, now, grain), expected, "{ctime:?} {now:?} {grain:?}");
        }
    }
}
