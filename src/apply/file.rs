//! Files put into place: written beside their destination, complete with metadata, then renamed over it; new ones without a name until they are complete.
//!
//! Never writes to a file that has its name already, but where the session asks for that (`inplace`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::apply::dirs::Held;
use crate::apply::durable::Temps;
use crate::apply::inplace::{self, Overlay};
use crate::apply::meta::Identity;
use crate::apply::root::Root;
use crate::delta::patch;
use crate::limits::INLINE_FILE_BYTES_MAX;
use crate::model::attrs::{ACL_ACCESS, Attrs};
use crate::model::meta::{Extent, Meta, Time};
use crate::model::path::Name;
use crate::sys::copy;
use crate::sys::dir::stat_fd;
use crate::sys::holes;
use crate::sys::regular::open_regular;

/// No file is that old: the time of a new one is always to be set.
pub(super) const NO_TIME: Time = Time { sec: i64::MIN, nsec: 0 };

/// What a file shall have beside its content.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) meta: &'a Meta,
    pub(super) attrs: Option<&'a Attrs>,
}

/// Puts a file with content `data` at `name`.
pub(super) fn put(root: &Root, held: &Arc<Held>, temps: &mut Temps, name: Name<'_>, finish: Finish<'_>, data: &[u8]) -> io::Result<()> {
    if let Some((file, there)) = inplace::open(root, held, name) {
        return inplace::overwrite(root, (&file, &there), finish, |file| file.write_all_at(data, 0));
    }
    beside(root, held, temps, name, finish, |mut file| {
        if root.writing.preallocate {
            holes::allocate(file, finish.meta.size)?;
        }
        file.write_all(data)
    })
}

/// What a delta makes of the small file at `name`.
pub(super) fn patched(held: &Held, name: Name<'_>, size: u64, digest: &[u8; 32], delta: &[u8]) -> io::Result<Vec<u8>> {
    let mut base = Vec::new();
    open_regular(&held.dir, name)?.take(INLINE_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut base)?;
    let made = patch::patched(&base, delta, size, digest).map_err(|_| io::Error::from_raw_os_error(libc::EPROTO))?;
    made.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
}

/// As [`put`], for a name that nothing should have: without a temporary one, which saves a rename and leaves nothing behind after a crash.
pub(super) fn put_new(root: &Root, held: &Arc<Held>, temps: &mut Temps, name: Name<'_>, finish: Finish<'_>, data: &[u8]) -> io::Result<()> {
    if !root.can_be_unnamed() {
        return put(root, held, temps, name, finish, data);
    }
    match unnamed(root, held, temps, name, finish, data) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        // The filesystem has no such files, or this process may not link them.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT | libc::EPERM | libc::EXDEV)
            ) =>
        {
            root.cannot_be_unnamed();
        }
        other => return other,
    }
    put(root, held, temps, name, finish, data)
}

fn unnamed(root: &Root, held: &Arc<Held>, temps: &mut Temps, name: Name<'_>, finish: Finish<'_>, data: &[u8]) -> io::Result<()> {
    let ((), mut file, have) = create(&root.who, held, finish, |mode| Ok(((), held.dir.create_unnamed(mode)?)))?;
    if root.writing.preallocate {
        holes::allocate(&file, finish.meta.size)?;
    }
    file.write_all(data)?;
    settle(root, held, &file, &have?, finish)?;
    if root.is_durable() {
        temps.wait(held, name, None, file);
        return Ok(());
    }
    held.dir.link_unnamed(&file, name)
}

/// Gives a new file, which has `have`, what it shall have.
fn settle(root: &Root, held: &Held, file: &File, have: &Meta, Finish { meta, attrs }: Finish<'_>) -> io::Result<()> {
    root.who.settle_fd(file.as_fd(), have, meta, &root.attrs.of_new(attrs, held.inherits))
}

/// Puts a file at `name` that has `data` in the places `extents` and holes between them.
pub(super) fn put_sparse(
    root: &Root,
    held: &Arc<Held>,
    temps: &mut Temps,
    name: Name<'_>,
    finish: Finish<'_>,
    (extents, mut data): (&[Extent], &[u8]),
) -> io::Result<()> {
    if let Some((file, there)) = inplace::open(root, held, name) {
        let old = there.meta.size;
        return inplace::overwrite(root, (&file, &there), finish, |file| inplace::spread(file, old, extents, data, finish.meta.size));
    }
    beside(root, held, temps, name, finish, |file| {
        for extent in extents {
            let short = || io::Error::from_raw_os_error(libc::EINVAL);
            file.write_all_at(data.split_off(..extent.len as usize).ok_or_else(short)?, extent.at)?;
        }
        file.set_len(finish.meta.size)
    })
}

/// Puts the staged file `id` at `name`; where that is another filesystem than the staging directory's, a copy of it.
pub(super) fn place(
    root: &Root,
    held: &Arc<Held>,
    temps: &mut Temps,
    name: Name<'_>,
    finish: Finish<'_>,
    (id, overlay): (u64, Option<&Overlay>),
) -> io::Result<()> {
    let Finish { meta, attrs } = finish;
    let staged = root.staging.complete(root, id, meta.size)?;
    if let Some(done) = inplace::place(root, held, name, finish, (&staged.file, overlay)) {
        if done.is_ok() {
            root.staging.drop_file(root, id);
        }
        return done;
    }
    let have = stat_fd(staged.file.as_fd())?.meta;
    root.who.settle_fd(staged.file.as_fd(), &have, meta, &root.attrs.of(attrs))?;
    if root.is_durable() {
        staged.file.sync_all()?;
    }
    match staged.dir.rename(staged.id_name.name(), &held.dir, name) {
        Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
            beside(root, held, temps, name, finish, |file| {
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
    held: &Arc<Held>,
    temps: &mut Temps,
    name: Name<'_>,
    finish: Finish<'_>,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let (temp, file, have) = create(&root.who, held, finish, |mode| temps.names.with_free(|name| held.dir.create_new(name, mode)))?;
    let done = have.and_then(|have| fill(&file).and_then(|()| settle(root, held, &file, &have, finish)));
    if done.is_ok() && root.is_durable() {
        temps.wait(held, name, Some(temp), file);
        return Ok(());
    }
    let done = done.and_then(|()| held.dir.rename(temp.name(), &held.dir, name));
    if done.is_err() {
        root.discard(&held.dir, temp.name());
    }
    done
}

/// A new file as `make` makes it with a mode, and the metadata that it has. It has the wanted mode at once if it has the wanted owner at once; otherwise nobody
/// but the process's user may open it until it has; nor before an access control list is set for which the mode's bits would say too much.
fn create<R>(
    who: &Identity,
    held: &Held,
    Finish { meta, attrs }: Finish<'_>,
    make: impl FnOnce(u32) -> io::Result<(R, File)>,
) -> io::Result<(R, File, io::Result<Meta>)> {
    let open = attrs.is_none_or(|attrs| attrs.get(ACL_ACCESS).is_none());
    let gid = held.gid.get().copied();
    let fits = open && held.exact && meta.uid == who.uid() && meta.gid == gid.unwrap_or_else(|| who.gid()) && meta.mode & 0o7000 == 0;
    let mode = if fits { meta.mode } else { meta.mode & 0o700 };
    let (name, file) = make(mode)?;
    let mut have = Ok(Meta { mode, uid: who.uid(), gid: gid.unwrap_or(meta.gid), mtime: NO_TIME, ..*meta });
    if gid.is_none() || !held.exact {
        have = stat_fd(file.as_fd()).map(|stat| Meta { mtime: NO_TIME, ..stat.meta });
        if let Ok(have) = &have {
            // Two threads can only learn the same.
            let _ = held.gid.set(have.gid);
        }
    }
    Ok((name, file, have))
}
