//! Files written in place, for who wants no second copy and keeps inodes: readers, and a crash, see them half written.
//!
//! Only a regular file without a further name is written to: another name may be another file in the source by now. Its time of modification is set
//! last, so that one that was left half written differs from the source's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::apply::dirs::Held;
use crate::apply::file::{Finish, NO_TIME};
use crate::apply::root::Root;
use crate::limits::PATCH_RANGES_MAX;
use crate::model::meta::{Extent, Kind, Meta, Stat};
use crate::model::options::Durability;
use crate::model::path::Name;
use crate::sys::copy;
use crate::sys::dir::{set_mode, stat_fd};
use crate::sys::holes::{Holes, punch};
use crate::sys::regular::open_regular_write;

/// What of a file a patch changes: these ranges of what was staged go over the same of the base, which must be the object that it was.
///
/// Invariant: the ranges are in order and do not touch.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    pub(super) base: Stat,
    pub(super) ranges: Vec<Extent>,
}

impl Overlay {
    pub(super) fn new(base: Stat) -> Self {
        Self { base, ranges: Vec::new() }
    }

    /// A further range, behind the others.
    pub(super) fn push(&mut self, at: u64, len: u64) -> io::Result<()> {
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if last.at + last.len == at => last.len += len,
            _ if count >= PATCH_RANGES_MAX => return Err(io::Error::from_raw_os_error(libc::E2BIG)),
            _ => self.ranges.push(Extent { at, len }),
        }
        Ok(())
    }

    /// Whether `there` is the base still.
    fn is_of(&self, there: &Stat) -> bool {
        let (was, is) = (&self.base, there);
        was.ident == is.ident && was.meta.size == is.meta.size && was.meta.mtime == is.meta.mtime
    }
}

/// What is at `name`, if it may be written to.
pub(super) fn open(root: &Root, held: &Held, name: Name<'_>) -> Option<(File, Stat)> {
    if !root.writing.in_place {
        return None;
    }
    // Whatever stands against it (a program that runs, permissions), a new file takes its place then.
    let file = open_regular_write(&held.dir, name).ok()?;
    let stat = stat_fd(file.as_fd()).ok()?;
    may_be_written(&stat).then_some((file, stat))
}

/// Whether it is a file with one name.
pub(super) fn may_be_written(stat: &Stat) -> bool {
    stat.meta.kind == Kind::File && stat.nlink == 1
}

/// Gives the file, which is as `there` says, new content by `fill`, then its length and all other metadata.
pub(super) fn overwrite(
    root: &Root,
    (file, there): (&File, &Stat),
    Finish { meta, attrs }: Finish<'_>,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Who may not read the new content may not read it while it comes.
    let both = there.meta.mode & meta.mode;
    if both != there.meta.mode {
        set_mode(file.as_fd(), both)?;
    }
    fill(file)?;
    file.set_len(meta.size)?;
    if root.is_durable() {
        // The time says that the content is there.
        file.sync_data()?;
    }
    let have = Meta { mtime: NO_TIME, ..stat_fd(file.as_fd())?.meta };
    root.who.settle_fd(file.as_fd(), &have, meta, &root.attrs.of(attrs))?;
    if root.writing.durability == Durability::File { file.sync_all() } else { Ok(()) }
}

/// Writes `data` into the extents and clears what lies between, of a file that was `old` bytes long.
pub(super) fn spread(file: &File, old: u64, extents: &[Extent], mut data: &[u8], size: u64) -> io::Result<()> {
    let mut end = 0;
    for extent in extents {
        clear(file, end, extent.at - end, old)?;
        let piece = data.split_off(..extent.len as usize).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        file.write_all_at(piece, extent.at)?;
        end = extent.at + extent.len;
    }
    clear(file, end, size - end, old)
}

/// Copies these ranges of `from` over the same of `to`, which was `old` bytes long; what is a hole becomes one.
pub(super) fn copy_over(from: &File, to: &File, old: u64, ranges: &[Extent]) -> io::Result<()> {
    let mut holes = Holes::of(from, ranges.last().map_or(0, |last| last.at + last.len));
    for range in ranges {
        let (mut at, end) = (range.at, range.at + range.len);
        while at < end {
            let hole = holes.hole(from, at).min(end - at);
            if hole > 0 {
                clear(to, at, hole, old)?;
                at += hole;
                continue;
            }
            match copy::copy_range(from, at, to, at, holes.data(from, at).clamp(1, end - at))? {
                0 => return Err(io::Error::from_raw_os_error(libc::ENODATA)),
                done => at += done,
            }
        }
    }
    Ok(())
}

/// Makes zeros of what was there, without room where the filesystem can.
fn clear(file: &File, at: u64, len: u64, old: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let end = at.saturating_add(len).min(old);
    if at >= end {
        return Ok(());
    }
    match punch(file, at, end - at) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let mut at = at;
            while at < end {
                let some = (end - at).min(ZEROS.len() as u64);
                file.write_all_at(&ZEROS[..some as usize], at)?;
                at += some;
            }
            Ok(())
        }
        other => other,
    }
}

/// Puts what was staged over the file that is at `name`. `None` if none is there that may be written to.
pub(super) fn place(
    root: &Root,
    held: &Held,
    name: Name<'_>,
    finish: Finish<'_>,
    (staged, overlay): (&File, Option<&Overlay>),
) -> Option<io::Result<()>> {
    let there = open(root, held, name);
    let Some(overlay) = overlay else {
        let (file, there) = there?;
        let all = [Extent { at: 0, len: finish.meta.size }];
        return Some(overwrite(root, (&file, &there), finish, |file| copy_over(staged, file, there.meta.size, &all)));
    };
    // What was staged is of no use without its base.
    Some(match there.filter(|(_, there)| overlay.is_of(there)) {
        Some((file, there)) => overwrite(root, (&file, &there), finish, |file| copy_over(staged, file, there.meta.size, &overlay.ranges)),
        None => Err(io::Error::from_raw_os_error(libc::ESTALE)),
    })
}
