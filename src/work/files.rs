//! Reading files and packing them into payloads, many small ones into one. A file that changed while it was read is not sent, unless it has
//! been tried often enough.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::limits::{HOLES_LOOK_BYTES_MIN, INLINE_FILE_BYTES_MAX, MMAP_BYTES_MIN, PUT_EXTENTS_MAX};
use crate::model::attrs::{Attrs, Namespaces, UNKNOWN};
use crate::model::cycle::{FileBatch, FileDone, FileTask, Racy, Read};
use crate::model::meta::{Ident, Kind, Stat, Time};
use crate::model::op::Spot;
use crate::model::probe::ProbeError;
use crate::sys::clock::{Grain, coarse_now, grain};
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::mmap::Guarded;
use crate::sys::xattr::At;
use crate::wire::Payload;
use crate::work::probe::{errno, open_dir};
use crate::work::{Source, small, sparse};

/// A change of a file on a filesystem of unknown clock is told from an earlier one if so long is between them.
const UNKNOWN_GRAIN_NS: i64 = 20_000_000;
/// The same where times are whole seconds, or every other one.
const WHOLE_SECONDS_NS: i64 = 2_000_000_000;

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
    let (dir, namespaces) = match open_dir(source, &batch.dir, Some(batch.expect)) {
        Ok((dir, stat)) => {
            let namespaces = source.carried.on(&dir, stat.ident.dev);
            (dir, namespaces)
        }
        Err(why) => {
            let read = if let ProbeError::Failed(errno) = why { Read::Failed(errno) } else { Read::Gone };
            batch.files.iter().for_each(|task| report(task, read));
            return Ok(done);
        }
    };
    let ways = Ways { source, grain: grain(dir.as_fd()), namespaces };
    for task in &batch.files {
        report(task, pack_file(&dir, batch, task, ways, payload));
        if payload.is_full() {
            full(payload)?;
        }
    }
    Ok(done)
}

/// The source, and the ways of a directory's filesystem: how it stamps files, and which attributes of them are carried.
#[derive(Clone, Copy)]
struct Ways<'a> {
    source: &'a Source,
    grain: Grain,
    namespaces: Namespaces,
}

/// The attributes of a file that is being read. They are what they were when it was looked at if its time of change is, where each change gets a time of its own.
fn attrs_of(file: &File, before: &Stat, task: &FileTask, ways: Ways<'_>) -> io::Result<Option<Arc<Attrs>>> {
    if ways.namespaces.is_empty() {
        return Ok(None);
    }
    if ways.grain == Grain::Fine && before.ctime == task.stat.ctime && task.stat.meta.attrs != UNKNOWN {
        return Ok(task.attrs.clone());
    }
    Ok(At::Fd(file.as_fd()).read(ways.namespaces)?.map(Arc::new))
}

fn pack_file(dir: &Dir, batch: &FileBatch, task: &FileTask, ways: Ways<'_>, payload: &mut Payload) -> Read {
    let file = match open_read(dir, task.name.as_name()) {
        Ok(file) => file,
        Err(read) => return read,
    };
    let at = Spot { dir: batch.dir.clone(), name: task.name.clone() };
    // Most files are still as they were when they were looked at: one look after the reading says so.
    if let sent @ Read::Sent { .. } = read_as(&file, &task.stat, &at, task, false, ways, payload) {
        return sent;
    }
    match stat_as(&file, &task.stat.ident) {
        Ok(before) => read_as(&file, &before, &at, task, task.insist, ways, payload),
        Err(read) => read,
    }
}

/// Reads a file that was as `before` says; what was put into `payload` goes again if it is not sent.
fn read_as(file: &File, before: &Stat, at: &Spot, task: &FileTask, insist: bool, ways: Ways<'_>, payload: &mut Payload) -> Read {
    let Some(len) = usize::try_from(before.meta.size).ok().filter(|len| *len <= INLINE_FILE_BYTES_MAX) else {
        // It has grown: it is looked at again and goes another way.
        return Read::Gone;
    };
    let begun = coarse_now();
    let mark = payload.mark();
    let mut before = *before;
    let attrs = match attrs_of(file, &before, task, ways) {
        Ok(attrs) => attrs,
        Err(e) => return Read::Failed(errno(&e)),
    };
    before.meta.attrs = attrs.as_ref().map_or(0, |attrs| attrs.digest());
    if let Some(attrs) = &attrs {
        payload.attrs(attrs);
    }
    let mut signature = None;
    let filled = match if len >= HOLES_LOOK_BYTES_MIN { sparse::extents(file, &before.meta) } else { None } {
        None if small::is_apt(ways.source, task, &before.meta, begun) => {
            small::put(ways.source, task, (at, &before.meta), file, payload).map(|put| put.map(|made| signature = made).is_some())
        }
        None => read_into(file, 0, payload.put(task.index, at, &before.meta, len, task.new)),
        Some(extents) if ways.source.sparse && extents.len() <= PUT_EXTENTS_MAX => {
            sparse::read(file, &extents, payload.put_sparse(task.index, at, &before.meta, &extents))
        }
        Some(extents) => sparse::read_spread(file, &extents, payload.put(task.index, at, &before.meta, len, task.new)),
    };
    let read = match filled {
        Ok(true) => settle(file, &before, begun, ways.grain, insist),
        Ok(false) => Read::Changed,
        Err(e) => Read::Failed(errno(&e)),
    };
    if matches!(read, Read::Sent { .. }) {
        small::sent(ways.source, task, signature);
    } else {
        payload.rollback(mark);
    }
    read
}

fn open_read(dir: &Dir, name: crate::model::path::Name<'_>) -> Result<File, Read> {
    dir.open_read(name).map_err(|e| match e.raw_os_error() {
        // Gone, or something else by now: a symbolic link, a socket or device without a driver, a directory.
        Some(libc::ENOENT | libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EISDIR | libc::ESTALE) => Read::Gone,
        _ => Read::Failed(errno(&e)),
    })
}

fn stat_as(file: &File, ident: &Ident) -> Result<Stat, Read> {
    let stat = stat_fd(file.as_fd()).map_err(|e| Read::Failed(errno(&e)))?;
    if stat.meta.kind != Kind::File || stat.ident != *ident { Err(Read::Gone) } else { Ok(stat) }
}

/// Opens a file if it is the object it should be.
pub(super) fn open(dir: &Dir, name: crate::model::path::Name<'_>, ident: &Ident) -> Result<(File, Stat), Read> {
    let file = open_read(dir, name)?;
    let stat = stat_as(&file, ident)?;
    Ok((file, stat))
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

/// Compares the file after the reading, which began at `begun`, with what it was before.
pub(super) fn settle(file: &File, before: &Stat, begun: Time, grain: Grain, insist: bool) -> Read {
    let after = match stat_fd(file.as_fd()) {
        Ok(after) => after,
        Err(e) => return Read::Failed(errno(&e)),
    };
    let changed = after.ctime != before.ctime
        || after.meta.size != before.meta.size
        || after.meta.mtime != before.meta.mtime
        || after.ident != before.ident;
    if changed && !insist {
        return Read::Changed;
    }
    Read::Sent { meta: before.meta, ctime: before.ctime, racy: racy(before.ctime, begun, grain), changed }
}

/// Whether a change at `now` or later, so one during the reading too, would get another time than `ctime`.
fn racy(ctime: Time, now: Time, grain: Grain) -> Racy {
    // Of a filesystem with whole seconds, perhaps (ext4 with small inodes), or with two of them (FAT), which neither its kind nor the kernel's release tells.
    if ctime.nsec == 0 && now.as_nanos() - ctime.as_nanos() < WHOLE_SECONDS_NS {
        return Racy::Yes;
    }
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
            (at(0), at(999_999_999), Grain::Fine, Racy::Yes),
            (at(0), Time { sec: 6, nsec: 999_999_999 }, Grain::Tick, Racy::Yes),
            (at(0), Time { sec: 7, nsec: 0 }, Grain::Fine, Racy::No),
        ] {
            assert_eq!(racy(ctime, now, grain), expected, "{ctime:?} {now:?} {grain:?}");
        }
    }
}
