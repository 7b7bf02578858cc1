//! Looking at the source: the answers to the planner's questions. Never follows a symbolic link, never writes.

use std::io;
use std::os::fd::AsFd;

use crate::model::meta::{Ident, Kind, Stat};
use crate::model::path::{Name, NameBuf, RelPath};
use crate::model::probe::{Ask, DirSeen, Probe, ProbeError, Probed, Seen};
use crate::sys::dir::Dir;
use crate::sys::xattr::At;
use crate::work::Source;
use crate::work::attrs::Collector;

/// How often a name that changes while it is looked at is looked at again.
const TRIES_MAX: usize = 8;

/// Answers a question.
pub fn probe(source: &Source, probe: &Probe) -> Probed {
    Probed { id: probe.id, outcome: look(source, probe) }
}

/// Opens the directory of a question, or of a file to be read, if it is still the one it should be.
pub(super) fn open_dir(source: &Source, path: &RelPath, expect: Option<Ident>) -> Result<(Dir, Stat), ProbeError> {
    let dir = source.root.open_beneath(path).map_err(|e| failure(&e))?;
    let stat = dir.stat().map_err(|e| failure(&e))?;
    if expect.is_some_and(|expect| expect != stat.ident) {
        return Err(ProbeError::Stale);
    }
    Ok((dir, stat))
}

fn look(source: &Source, probe: &Probe) -> Result<DirSeen, ProbeError> {
    let (dir, stat) = open_dir(source, &probe.dir, probe.expect)?;
    let mut seen = DirSeen { stat, key: None, unwatched: false, names: Vec::new(), attrs: Vec::new(), list_error: None };
    let mut attrs = source.carried.collect(&dir, stat.ident.dev);
    match &probe.ask {
        Ask::Names(names) => {
            seen.names = names.iter().map(|name| (name.clone(), look_at(source, &dir, name.as_name(), probe.lazy, &mut attrs))).collect();
        }
        Ask::List => {
            (seen.key, seen.unwatched) = source.cover.cover(&dir, &stat).map_err(|e| failure(&e))?;
            // What changed before it was watched makes no event.
            seen.stat = dir.stat().map_err(|e| failure(&e))?;
            let mut names: Vec<NameBuf> = Vec::new();
            if let Err(e) = dir.list(|name| names.push(name.to_owned())) {
                match failure(&e) {
                    // It has been removed.
                    ProbeError::Stale => return Err(ProbeError::Stale),
                    ProbeError::Failed(errno) => seen.list_error = Some(errno),
                }
            }
            // A name that is gone by now is not there.
            let looked = names.into_iter().map(|name| {
                let what = look_at(source, &dir, name.as_name(), probe.lazy, &mut attrs);
                (name, what)
            });
            seen.names = looked.filter(|(_, what)| *what != Seen::Absent).collect();
        }
    }
    seen.stat.meta.attrs = attrs.look(At::Fd(dir.as_fd()), &seen.stat).map_err(|e| failure(&e))?;
    seen.attrs = attrs.all();
    Ok(seen)
}

fn look_at(source: &Source, dir: &Dir, name: Name<'_>, lazy: bool, attrs: &mut Collector) -> Seen {
    let mut last = libc::EAGAIN;
    for _ in 0..TRIES_MAX {
        let mut stat = match dir.stat_at(name) {
            Ok(stat) => stat,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Seen::Absent,
            Err(e) => return Seen::Failed(errno(&e)),
        };
        if lazy && attrs.leave(&mut stat) {
            return Seen::Present { stat, target: None, key: None };
        }
        // In this order: what changes after the stat has another time of change.
        match attrs.look(At::Name(dir, name), &stat) {
            Ok(digest) => stat.meta.attrs = digest,
            // Gone, or changing: look again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => {
                last = errno(&e);
                continue;
            }
            Err(e) => return Seen::Failed(errno(&e)),
        }
        match stat.meta.kind {
            Kind::Symlink => match dir.read_link(name) {
                Ok(target) => return Seen::Present { stat, target: Some(target), key: None },
                // Replaced in between: look again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => last = errno(&e),
                Err(e) => return Seen::Failed(errno(&e)),
            },
            Kind::Dir => return Seen::Present { stat, target: None, key: source.cover.key_at(dir, name, &stat) },
            _ => return Seen::Present { stat, target: None, key: None },
        }
    }
    Seen::Failed(last)
}

/// The system's error number; `EIO` for an error without one.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn failure(error: &io::Error) -> ProbeError {
    match errno(error) {
        libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE => ProbeError::Stale,
        other => ProbeError::Failed(other),
    }
}
