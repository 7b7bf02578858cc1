//! Lists what the mirror holds: every directory with its entries and their metadata.
//!
//! Never follows a symbolic link, never reads content. One thread is enough for few directories; beyond, as many list as there are processors, each with one directory
//! open, and the caller's only passes on what they found: most of the time goes into system calls, two for each entry. What is pending is directories only.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::apply::dirs::open_beneath;
use crate::apply::root::Root;
use crate::apply::sweep;
use crate::apply::target::{Errno, Listed};
use crate::limits::{MANIFEST_BATCH_ENTRIES, MANIFEST_BATCHES_MAX, MANIFEST_THREADS_MAX, PATH_BYTES_MAX};
use crate::model::meta::{Ident, Kind, Stat};
use crate::model::op::Entry;
use crate::model::path::{Name, NameBuf, RelPath, STAGING_NAME};
use crate::sys::dir::Dir;
use crate::sys::xattr::At;

/// So many directories pending are worth the start of threads.
const PENDING_FOR_THREADS: usize = 32;

/// Reports `top` and everything beneath: each directory's entries in a row, after those of its parent. The first listing of the whole root removes leftovers on the way, but
/// nothing that is parked: that is told like anything else, and deleted by who knows whether somebody misses it.
pub(super) fn list(root: &Root, top: &RelPath, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
    let first = open(root, top)?;
    let mut stat = if top.is_root() { root.staging.still(|| first.stat())? } else { first.stat()? };
    if let Some(mode) = root.loosened.was(stat.ident) {
        stat.meta.mode = mode;
    }
    let sweep = top.is_root() && root.is_first_listing();
    stat.meta.attrs = root.attrs.digest(At::Fd(first.as_fd()), Kind::Dir);
    let manifest = Manifest { root, root_dev: root.ident()?.dev, sweep };
    let mut pending = Vec::new();
    manifest.directory(&first, top, &stat, &mut pending, each);
    drop(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MANIFEST_THREADS_MAX);
    while let Some(next) = pending.pop() {
        manifest.below(next, &mut pending, each);
        if threads > 1 && pending.len() >= PENDING_FOR_THREADS {
            manifest.by_threads(threads, std::mem::take(&mut pending), each);
        }
    }
    root.loosened.restore_all();
    Ok(())
}

fn open(root: &Root, path: &RelPath) -> io::Result<Dir> {
    match open_beneath(&root.dir, path) {
        Err(e)
            if e.raw_os_error() == Some(libc::EACCES) && !root.read_only && root.loosened.loosen(&root.dir, &root.who, path, None)? =>
        {
            open_beneath(&root.dir, path)
        }
        other => other,
    }
}

/// A directory still to be listed, as it was seen in its parent. Not its whole path: a peer may have made deep ones with many in each, while parents are few and shared.
struct Pending {
    parent: RelPath,
    name: NameBuf,
    stat: Stat,
}

/// A manifest on its way.
struct Manifest<'a> {
    root: &'a Root,
    root_dev: u64,
    sweep: bool,
}

impl Manifest<'_> {
    /// Lists a directory below the first.
    fn below(&self, Pending { parent, name, stat }: Pending, pending: &mut Vec<Pending>, each: &mut dyn FnMut(Listed)) {
        let Ok(path) = parent.join(name.as_name()) else { return };
        match open(self.root, &path) {
            Ok(dir) => self.directory(&dir, &path, &stat, pending, each),
            Err(e) => each(Listed::Failed { dir: path, errno: errno(&e) }),
        }
    }

    fn directory(&self, dir: &Dir, path: &RelPath, stat: &Stat, pending: &mut Vec<Pending>, each: &mut dyn FnMut(Listed)) {
        each(Listed::Dir { dir: path.clone(), meta: stat.meta });
        let mut leftovers = Vec::new();
        let mut staging = false;
        let mut trouble = Ok(());
        let listed = dir.list(|name| {
            if name.is_reserved() {
                if self.sweep && path.is_root() && name.as_bytes() == STAGING_NAME {
                    staging = true;
                } else if self.sweep && !name.is_parked() {
                    leftovers.push(name.to_owned());
                }
                if self.root.read_only || !name.is_parked() {
                    return;
                }
            }
            match entry(self.root, dir, path, name, (stat.ident.dev, self.root_dev)) {
                Ok((entry, below)) => {
                    pending.extend(below.map(|stat| Pending { parent: path.clone(), name: name.to_owned(), stat }));
                    each(Listed::Entry(entry));
                }
                // Gone since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => trouble = Err(e),
            }
        });
        if staging {
            self.root.staging.sweep(self.root);
        }
        sweep::remove_all(dir, self.root, &leftovers);
        if let Err(e) = listed.and(trouble) {
            each(Listed::Failed { dir: path.clone(), errno: errno(&e) });
        }
    }

    /// Lists all that is pending, and what is beneath, by threads. Where none can be started the caller's does it.
    fn by_threads(&self, threads: usize, mut pending: Vec<Pending>, each: &mut dyn FnMut(Listed)) {
        let shared = Shared::default();
        let (sender, batches) = sync_channel(MANIFEST_BATCHES_MAX);
        std::thread::scope(|scope| {
            let start = |n| {
                let sender = sender.clone();
                let list = || self.list_shared(&shared, sender);
                std::thread::Builder::new().name(format!("list-{n}")).spawn_scoped(scope, list).inspect_err(|e| {
                    tracing::warn!(error = %e, "a thread for the manifest could not be started");
                })
            };
            shared.lock().pending = std::mem::take(&mut pending);
            if (0..threads).filter(|n| start(*n).is_ok()).count() == 0 {
                pending = std::mem::take(&mut shared.lock().pending);
            }
            drop(sender);
            batches.iter().flatten().for_each(&mut *each);
        });
        while let Some(next) = pending.pop() {
            self.below(next, &mut pending, each);
        }
    }

    /// One of the threads.
    fn list_shared(&self, shared: &Shared, sender: SyncSender<Vec<Listed>>) {
        while let Some(next) = shared.next() {
            let mut found = Vec::new();
            let mut batch = Vec::with_capacity(MANIFEST_BATCH_ENTRIES);
            let mut turn = None;
            self.below(next, &mut found, &mut |listed| {
                batch.push(listed);
                if batch.len() == MANIFEST_BATCH_ENTRIES {
                    turn.get_or_insert_with(|| shared.turn());
                    // Received until the last thread has ended.
                    let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(MANIFEST_BATCH_ENTRIES)));
                }
            });
            turn.get_or_insert_with(|| shared.turn());
            let _ = sender.send(batch);
            drop(turn);
            // After the directory itself is told, so that whoever hears of one of these knows it.
            shared.done(found);
        }
    }
}

/// What the threads of a manifest share.
#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    more: Condvar,
    /// Held by whoever tells of a directory: its entries come in a row.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Work {
    pending: Vec<Pending>,
    /// Threads that list, and may find more.
    busy: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory; `None` when there are no more, and will be none.
    fn next(&self) -> Option<Pending> {
        let idle = |work: &mut Work| work.pending.is_empty() && work.busy > 0;
        let mut work = self.more.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let next = work.pending.pop()?;
        work.busy += 1;
        Some(next)
    }

    /// A directory is listed, and these were in it.
    fn done(&self, found: Vec<Pending>) {
        let mut work = self.lock();
        work.busy -= 1;
        let wake = !found.is_empty() || work.busy == 0;
        work.pending.extend(found);
        drop(work);
        if wake {
            self.more.notify_all();
        }
    }
}

/// The entry, and what is to be listed if it is a directory. `dev` is the device of the directory that it is in.
pub(super) fn entry(
    root: &Root,
    dir: &Dir,
    path: &RelPath,
    name: Name<'_>,
    (dev, root_dev): (u64, u64),
) -> io::Result<(Entry, Option<Stat>)> {
    let (mut stat, is_mount) = dir.stat_mount_at(name)?;
    let kind = stat.meta.kind;
    stat.meta.attrs = root.attrs.digest(At::Name(dir, name), kind);
    let below = match kind {
        Kind::Dir if path.as_bytes().len() + 1 + name.as_bytes().len() > PATH_BYTES_MAX => {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        Kind::Dir => Some(stat),
        _ => None,
    };
    let target = if kind == Kind::Symlink { Some(dir.read_link(name)?) } else { None };
    let link_group = match kind {
        Kind::Dir => u64::from(is_mount || stat.ident.dev != dev),
        _ if stat.nlink > 1 => link_group(&stat.ident, root_dev),
        _ => 0,
    };
    Ok((Entry { name: name.to_owned(), meta: stat.meta, target, link_group }, below))
}

/// The inode number; on another filesystem beneath the root one that no inode of the root's is likely to have. Never 0.
fn link_group(ident: &Ident, root_dev: u64) -> u64 {
    if ident.dev == root_dev {
        return ident.ino.max(1);
    }
    // The finalizer of SplitMix64: a bijection that spreads all bits.
    let mut x = ident.ino ^ ident.dev.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).max(1)
}

pub(super) fn errno(e: &io::Error) -> Errno {
    e.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;

    /// Directories wide and deep, one with more entries than a batch: each is told once, after its parent, with its own entries.
    #[test]
    fn many_directories_are_told_each_in_a_row_after_their_parents() {
        let tmp = tempfile::tempdir().unwrap();
        let mut expected = HashSet::new();
        for n in 0..3 * PENDING_FOR_THREADS {
            let deep = format!("d{n}/e/f/{n}");
            fs::create_dir_all(tmp.path().join(&deep)).unwrap();
            for file in 0..if n % 40 == 7 { 3 * MANIFEST_BATCH_ENTRIES } else { 3 } {
                fs::write(tmp.path().join(&deep).join(format!("{file}")), "").unwrap();
                expected.insert(format!("{deep}/{file}"));
            }
            expected.extend([format!("d{n}"), format!("d{n}/e"), format!("d{n}/e/f"), deep]);
        }
        let root = Root::open(tmp.path(), true).unwrap();
        let (mut told, mut dirs, mut current) = (HashSet::new(), HashSet::new(), RelPath::root());
        list(&root, &RelPath::root(), &mut |listed| match listed {
            Listed::Dir { dir, .. } => {
                assert!(dir.is_root() || told.contains(&dir.to_string()), "{dir} before its parent's entry");
                assert!(dirs.insert(dir.clone()), "{dir} twice");
                current = dir;
            }
            Listed::Entry(entry) => assert!(told.insert(current.join(entry.name.as_name()).unwrap().to_string())),
            Listed::Failed { dir, errno } => panic!("{dir}: {errno}"),
        })
        .unwrap();
        assert!(told == expected && dirs.len() == 1 + 4 * 3 * PENDING_FOR_THREADS);
    }
}
