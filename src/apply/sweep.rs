//! Removes what an earlier session left behind: reserved names, with all that is in them.
//!
//! Never follows a symbolic link, and never holds more than one directory below the given one open: deeper directories are first moved up beside it.

use std::io;
use std::os::fd::AsFd;

use crate::apply::access::with_access;
use crate::apply::meta::Identity;
use crate::apply::root::Root;
use crate::apply::temp::TempNames;
use crate::model::path::{Name, NameBuf};
use crate::sys::dir::{self, Dir};

/// Removes the entries `names` of `dir`, whose modification time stays as it is. What cannot be removed is noted, to be tried again if that may help.
pub(super) fn remove_all(dir: &Dir, root: &Root, names: &[NameBuf]) {
    remove_each(dir, &root.who, names, |name, e| root.leftovers.note(dir, name, &e));
}

/// The same, and says why something is still there.
pub(super) fn clear(dir: &Dir, root: &Root, names: &[NameBuf]) -> io::Result<()> {
    let mut done = Ok(());
    remove_each(dir, &root.who, names, |name, e| {
        root.leftovers.note(dir, name, &e);
        done = Err(e);
    });
    done
}

/// The same in the staging directory.
pub(super) fn remove_staged(dir: &Dir, root: &Root, names: &[NameBuf]) {
    remove_each(dir, &root.who, names, |name, e| root.leftovers.note_staged(name, &e));
}

fn remove_each(dir: &Dir, who: &Identity, names: &[NameBuf], mut failed: impl FnMut(Name<'_>, io::Error)) {
    if names.is_empty() {
        return;
    }
    let mut temps = TempNames::new();
    keeping_time(dir, || {
        for name in names {
            if let Err(e) = with_access(dir, who, || remove(dir, who, &mut temps, name.as_name())) {
                failed(name.as_name(), e);
            }
        }
    });
}

/// Runs `act`, after which `dir` has the modification time that it had.
pub(super) fn keeping_time(dir: &Dir, act: impl FnOnce()) {
    let kept = dir.stat().map(|stat| stat.meta.mtime);
    act();
    if let Err(e) = kept.and_then(|mtime| dir::set_mtime(dir.as_fd(), mtime)) {
        tracing::debug!(error = %e, "the time of a directory could not be restored");
    }
}

fn remove(dir: &Dir, who: &Identity, temps: &mut TempNames, name: Name<'_>) -> io::Result<()> {
    if !remove_plain(dir, name)? {
        return Ok(());
    }
    let mut todo = vec![name.to_owned()];
    while let Some(next) = todo.pop() {
        let next = next.as_name();
        open_up(dir, who, next);
        let inner = dir.open_dir(next)?;
        // Removing while listing may hide entries from the listing: once more until there are none.
        loop {
            let (mut seen, mut result) = (false, Ok(()));
            inner.list(|name| {
                seen = true;
                if result.is_ok() {
                    result = remove_or_raise(&inner, dir, who, temps, name, &mut todo);
                }
            })?;
            result?;
            if !seen {
                break;
            }
        }
        dir.rmdir(next)?;
    }
    Ok(())
}

/// Removes an entry of `inner`, or moves a directory that is not empty up to `dir`, to be emptied there.
fn remove_or_raise(
    inner: &Dir,
    dir: &Dir,
    who: &Identity,
    temps: &mut TempNames,
    name: Name<'_>,
    todo: &mut Vec<NameBuf>,
) -> io::Result<()> {
    if !remove_plain(inner, name)? {
        return Ok(());
    }
    open_up(inner, who, name);
    let (temp, ()) = temps.with_free(|temp| inner.rename_new(name, dir, temp))?;
    todo.push(temp.name().to_owned());
    Ok(())
}

/// Removes anything but a directory that is not empty. Says whether it is one.
fn remove_plain(dir: &Dir, name: Name<'_>) -> io::Result<bool> {
    let removed = match dir.unlink(name) {
        Err(e) if e.raw_os_error() == Some(libc::EISDIR) => dir.rmdir(name),
        other => other,
    };
    match removed {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // XFS and others say EEXIST.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => Ok(true),
        Err(e) => Err(e),
    }
}

/// A directory that is going away anyway may keep us out no longer; where that fails, what follows says why.
fn open_up(dir: &Dir, who: &Identity, name: Name<'_>) {
    if !who.any_access() {
        let _ = dir.set_mode_at(name, 0o700);
    }
}
