//! What is mounted where: waiting for it to change.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::mounts::parse;

/// What happened to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// There are more.
    Mounted,
    /// One is gone at least.
    Unmounted,
}

/// The mounts at and below a directory.
#[derive(Debug)]
pub struct MountsBelow {
    table: File,
    dir: PathBuf,
    known: Vec<(u64, PathBuf)>,
}

impl MountsBelow {
    /// Those of `dir` now.
    ///
    /// # Errors
    /// The table cannot be read: `/proc` may be missing; or `dir` has no path.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut mounts = Self { table: File::open("/proc/self/mountinfo")?, dir: dir.canonicalize()?, known: Vec::new() };
        mounts.known = mounts.read()?;
        Ok(mounts)
    }

    fn read(&mut self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut content = Vec::new();
        self.table.seek(SeekFrom::Start(0))?;
        self.table.read_to_end(&mut content)?;
        let below = parse(&content).into_iter().filter(|mount| mount.point.starts_with(&self.dir));
        Ok(below.map(|mount| (mount.id, mount.point)).collect())
    }

    /// Where they are, but for one at the directory itself.
    pub fn points(self) -> Vec<PathBuf> {
        let Self { dir, known, .. } = self;
        known.into_iter().map(|(_, point)| point).filter(|point| *point != dir).collect()
    }

    /// Waits until one of `fds` is readable, or the table changes. Where that cannot be told it has changed.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn wait(&mut self, fds: &[BorrowedFd<'_>]) -> io::Result<Change> {
        // The table is always readable: a change of it is an exceptional condition.
        let table = PollFd::new(self.table.as_fd(), PollFlags::POLLPRI);
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).chain([table]).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Change::None),
            Err(e) => return Err(e.into()),
        }
        let has_changed = polled.last().and_then(PollFd::any) == Some(true);
        drop(polled);
        if !has_changed {
            return Ok(Change::None);
        }
        let Ok(now) = self.read() else { return Ok(Change::Unmounted) };
        let before = std::mem::replace(&mut self.known, now);
        Ok(if before.iter().any(|mount| !self.known.contains(mount)) {
            Change::Unmounted
        } else if before.len() < self.known.len() {
            Change::Mounted
        } else {
            Change::None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_rests_is_not_waited_for_in_vain() {
        let tmp = tempfile::tempdir().unwrap();
        let mut mounts = MountsBelow::open(tmp.path()).unwrap();
        let wake = crate::sys::wake::Wake::new().unwrap();
        wake.wake();
        assert_eq!(mounts.wait(&[wake.as_fd()]).unwrap(), Change::None);
        assert!(MountsBelow::open(&tmp.path().join("none")).is_err());
    }
}
