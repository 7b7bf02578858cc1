//! Staged files of the mirror in memory, and files with holes: what is never written is zeros there.

use std::collections::BTreeMap;

use ringsync::apply::target::fits;
use ringsync::apply::{Errno, Target};
use ringsync::model::meta::{Extent, Kind, Meta};
use ringsync::model::op::Spot;
use ringsync::model::path::{Name, STAGING_NAME};

use super::{Act, Body, MemTarget, ROOT, allowed, require};

#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) content: Vec<u8>,
    pub(super) received: u64,
    pub(super) failed: Option<Errno>,
}

impl MemTarget {
    /// The staging directory, made if need be; the root's modification time stays.
    pub(super) fn staging(&mut self) -> u64 {
        let name = Name::new(STAGING_NAME).unwrap();
        if let Some(ino) = self.lookup(ROOT, name) {
            return ino;
        }
        let kept = self.nodes[&ROOT].meta.mtime;
        let meta = Meta { kind: Kind::Dir, mode: 0o700, uid: 0, gid: 0, mtime: kept, size: 0, rdev: 0, attrs: 0 };
        let ino = self.create(meta, Body::Dir(BTreeMap::new()));
        self.attach(ROOT, STAGING_NAME, ino);
        self.nodes.get_mut(&ROOT).unwrap().meta.mtime = kept;
        ino
    }

    pub(super) fn remove_empty_staging(&mut self) {
        if !self.has_staging() || !self.staged.is_empty() {
            return;
        }
        let staging = self.staging();
        if self.entries(staging).is_empty() {
            let kept = self.nodes[&ROOT].meta.mtime;
            self.detach(ROOT, STAGING_NAME);
            self.nodes.get_mut(&ROOT).unwrap().meta.mtime = kept;
        }
    }

    pub(super) fn place(&mut self, at: &Spot, meta: &Meta, id: u64) -> Result<(), Errno> {
        let staged = self.staged.get(&id).ok_or(libc::ENOENT)?;
        if let Some(errno) = staged.failed {
            return Err(errno);
        }
        if staged.content.len() as u64 != meta.size || staged.received != meta.size {
            return Err(libc::ENODATA);
        }
        let dir = self.resolve(&at.dir)?;
        if self.lookup(dir, at.name.as_name()).is_some_and(|there| self.is_dir(there)) {
            return Err(libc::EISDIR);
        }
        let staged = self.staged.remove(&id).unwrap();
        let ino = self.create(*meta, Body::File(staged.content));
        self.attach(dir, at.name.as_bytes(), ino);
        Ok(())
    }

    /// A piece of a staged file; without data it is a hole.
    pub(super) fn piece(&mut self, id: u64, offset: u64, len: u64, data: Option<&[u8]>) -> Result<(), Errno> {
        if let Some(errno) = self.staged.get(&id).and_then(|staged| staged.failed) {
            return Err(errno);
        }
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok()).filter(|end| *end <= isize::MAX as usize);
        let checked = self.faulty(Act::Stage(id)).and(end.ok_or(libc::EFBIG));
        let end = match checked {
            Ok(end) => end,
            Err(errno) => {
                self.staged.entry(id).or_default().failed = Some(errno);
                return Err(errno);
            }
        };
        self.staging();
        let Staged { content, received, .. } = self.staged.entry(id).or_default();
        if content.len() < end {
            content.resize(end, 0);
        }
        if let Some(data) = data {
            content[end - data.len()..end].copy_from_slice(data);
        }
        *received += len;
        Ok(())
    }

    /// A file of which only the extents are given.
    pub(super) fn put_filled(&mut self, at: &Spot, meta: &Meta, extents: &[Extent], mut data: &[u8]) -> Result<(), Errno> {
        allowed(at)?;
        require(fits(meta, extents, data))?;
        let mut content = vec![0; meta.size as usize];
        for extent in extents {
            let piece = data.split_off(..extent.len as usize).unwrap();
            content[extent.at as usize..][..piece.len()].copy_from_slice(piece);
        }
        self.put(at, meta, &content)
    }
}
