//! Files put into place: written beside their destination, complete with metadata, then renamed over it.
//!
//! Never writes to a file that has its name already, but where the session asks for that (`inplace`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::apply::dirs::Held;
use crate::apply::inplace::{self, Overlay};
use crate::apply::meta::{Identity, left_behind};
use crate::apply::root::Root;
use crate::apply::temp::{TempName, TempNames};
use crate::model::meta::{Extent, Meta, Time};
use crate::model::path::Name;
use crate::sys::copy;
use crate::sys::dir::stat_fd;
use crate::sys::holes;

/// No file is that old: the time of a new one is always to be set.
pub(super) const NO_TIME: Time = Time { sec: i64::MIN, nsec: 0 };

/// Puts a file with content `data` at `name`.
pub(super) fn put(root: &Root, held: &Held, temps: &mut TempNames, name: Name<'_>, meta: &Meta, data: &[u8]) -> io::Result<()> {
    if let Some((file, there)) = inplace::open(root, held, name) {
        return inplace::overwrite(root, (&file, &there), meta, |file| file.write_all_at(data, 0));
    }
    beside(root, held, temps, name, meta, |mut file| {
        if root.writing.preallocate {
            holes::allocate(file, meta.size)?;
        }
        file.write_all(data)
    })
}

/// Puts a file at `name` that has `data` in the places `extents` and holes between them.
pub(super) fn put_sparse(
    root: &Root,
    held: &Held,
    temps: &mut TempNames,
    name: Name<'_>,
    meta: &Meta,
    (extents, mut data): (&[Extent], &[u8]),
) -> io::Result<()> {
    if let Some((file, there)) = inplace::open(root, held, name) {
        let old = there.meta.size;
        return inplace::overwrite(root, (&file, &there), meta, |file| inplace::spread(file, old, extents, data, meta.size));
    }
    beside(root, held, temps, name, meta, |file| {
        for extent in extents {
            let short = || io::Error::from_raw_os_error(libc::EINVAL);
            file.write_all_at(data.split_off(..extent.len as usize).ok_or_else(short)?, extent.at)?;
        }
        file.set_len(meta.size)
    })
}

/// Puts the staged file `id` at `name`; where that is another filesystem than the staging directory's, a copy of it.
pub(super) fn place(
    root: &Root,
    held: &Held,
    temps: &mut TempNames,
    name: Name<'_>,
    meta: &Meta,
    (id, overlay): (u64, Option<&Overlay>),
) -> io::Result<()> {
    let staged = root.staging.complete(root, id, meta.size)?;
    if let Some(done) = inplace::place(root, held, name, meta, (&staged.file, overlay)) {
        if done.is_ok() {
            root.staging.drop_file(root, id);
        }
        return done;
    }
    let have = stat_fd(staged.file.as_fd())?.meta;
    root.who.settle_fd(staged.file.as_fd(), &have, meta)?;
    match staged.dir.rename(staged.id_name.name(), &held.dir, name) {
        Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
            beside(root, held, temps, name, meta, |file| {
                if copy::copy_sparse(&staged.file, file, meta.size)? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENODATA)) }
            })?;
            root.staging.drop_file(root, id);
            Ok(())
        }
        other => {
            other?;
            root.staging.placed(id);
            Ok(())
        }
    }
}

fn beside(
    root: &Root,
    held: &Held,
    temps: &mut TempNames,
    name: Name<'_>,
    meta: &Meta,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let (temp, file, have) = create(&root.who, held, temps, meta)?;
    let done = fill(&file).and_then(|()| root.who.settle_fd(file.as_fd(), &have, meta));
    let done = done.and_then(|()| held.dir.rename(temp.name(), &held.dir, name));
    if done.is_err()
        && let Err(e) = held.dir.unlink(temp.name())
    {
        left_behind(temp.name(), &e);
    }
    done
}

/// A new file, and the metadata that it has. It has the wanted mode at once if it has the wanted owner at once; otherwise nobody but the process's user may
/// open it until it has.
fn create(who: &Identity, held: &Held, temps: &mut TempNames, meta: &Meta) -> io::Result<(TempName, File, Meta)> {
    let gid = held.gid.get().copied();
    let fits = held.exact && meta.uid == who.uid() && meta.gid == gid.unwrap_or_else(|| who.gid()) && meta.mode & 0o7000 == 0;
    let mode = if fits { meta.mode } else { meta.mode & 0o700 };
    let (temp, file) = temps.with_free(|name| held.dir.create_new(name, mode))?;
    let mut have = Meta { mode, uid: who.uid(), gid: gid.unwrap_or(meta.gid), mtime: NO_TIME, ..*meta };
    if gid.is_none() || !held.exact {
        match stat_fd(file.as_fd()) {
            Ok(stat) => have = Meta { mtime: NO_TIME, ..stat.meta },
            Err(e) => {
                if let Err(e) = held.dir.unlink(temp.name()) {
                    left_behind(temp.name(), &e);
                }
                return Err(e);
            }
        }
        // Two threads can only learn the same.
        let _ = held.gid.set(have.gid);
    }
    Ok((temp, file, have))
}
