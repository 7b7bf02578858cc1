//! Lists what the mirror holds: every directory with its entries and their metadata.
//!
//! Never follows a symbolic link, never reads content, never holds more than one directory open. What is pending is directories only: path and state.

use std::io;

use crate::apply::dirs::open_beneath;
use crate::apply::root::Root;
use crate::apply::sweep;
use crate::apply::target::{Errno, Listed};
use crate::model::meta::{Ident, Kind, Stat};
use crate::model::op::Entry;
use crate::model::path::{Name, RelPath, STAGING_NAME};
use crate::sys::dir::Dir;
use crate::sys::xattr::At;
use std::os::fd::AsFd;

/// Reports `top` and everything beneath. The first listing of the whole root removes leftovers on the way. Later ones remove what is parked: between cycles
/// it was left by one that failed.
pub(super) fn list(root: &Root, top: &RelPath, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
    let first = open(root, top)?;
    let mut stat = if top.is_root() { root.staging.still(|| first.stat())? } else { first.stat()? };
    if let Some(mode) = root.loosened.was(stat.ident) {
        stat.meta.mode = mode;
    }
    let sweep = top.is_root() && root.is_first_listing();
    stat.meta.attrs = root.attrs.digest(At::Fd(first.as_fd()), Kind::Dir);
    let mut manifest = Manifest { root, root_dev: root.ident()?.dev, sweep, below: Vec::new(), each };
    manifest.directory(&first, top, &stat);
    while let Some((path, stat)) = manifest.below.pop() {
        match open(root, &path) {
            Ok(dir) => manifest.directory(&dir, &path, &stat),
            Err(e) => (manifest.each)(Listed::Failed { dir: path, errno: errno(&e) }),
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

/// A manifest on its way.
struct Manifest<'a> {
    root: &'a Root,
    root_dev: u64,
    sweep: bool,
    /// Directories still to be listed, as they were seen in their parents.
    below: Vec<(RelPath, Stat)>,
    each: &'a mut dyn FnMut(Listed),
}

impl Manifest<'_> {
    fn directory(&mut self, dir: &Dir, path: &RelPath, stat: &Stat) {
        (self.each)(Listed::Dir { dir: path.clone(), meta: stat.meta });
        let mut leftovers = Vec::new();
        let mut staging = false;
        let mut trouble = Ok(());
        let listed = dir.list(|name| {
            if name.is_reserved() {
                if self.sweep && path.is_root() && name.as_bytes() == STAGING_NAME {
                    staging = true;
                } else if self.sweep || (name.is_parked() && !self.root.read_only) {
                    leftovers.push(name.to_owned());
                }
                return;
            }
            match entry(self.root, dir, path, name, (stat.ident.dev, self.root_dev)) {
                Ok((entry, below)) => {
                    self.below.extend(below);
                    (self.each)(Listed::Entry(entry));
                }
                // Gone since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => trouble = Err(e),
            }
        });
        if staging && !self.root.staging.sweep(self.root) {
            leftovers.extend(Name::new(STAGING_NAME).ok().map(|name| name.to_owned()));
        }
        sweep::remove_all(dir, &self.root.who, &leftovers);
        if let Err(e) = listed.and(trouble) {
            (self.each)(Listed::Failed { dir: path.clone(), errno: errno(&e) });
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
) -> io::Result<(Entry, Option<(RelPath, Stat)>)> {
    let (mut stat, is_mount) = dir.stat_mount_at(name)?;
    let kind = stat.meta.kind;
    stat.meta.attrs = root.attrs.digest(At::Name(dir, name), kind);
    let below = match kind {
        Kind::Dir => Some((path.join(name).map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?, stat)),
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
