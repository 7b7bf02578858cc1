//! Which times the filesystem of a mirror's root can hold: tried with a file that never has a name, so that a session which only looks may do it as well.
//!
//! What cannot be tried is taken for held: filesystems without such files, and roots that cannot be written to.

use std::io;
use std::os::fd::AsFd;

use crate::model::meta::Time;
use crate::model::times::Times;
use crate::sys::dir::{Dir, set_mtime, stat_fd};

/// The times that files in the directory can have.
pub(super) fn times(dir: &Dir) -> Times {
    match samples(dir) {
        Ok([sample, first, last]) => Times::by_samples(sample, first, last).unwrap_or_default(),
        Err(e) => {
            tracing::debug!(error = %e, "which times the mirror can hold is not known");
            Times::ALL
        }
    }
}

/// What becomes of a time that is as fine as can be, of the earliest and of the latest.
fn samples(dir: &Dir) -> io::Result<[Time; 3]> {
    let file = dir.create_unnamed(0o600)?;
    let sample = |sec, nsec| {
        set_mtime(file.as_fd(), Time { sec, nsec })?;
        stat_fd(file.as_fd()).map(|stat| stat.meta.mtime)
    };
    Ok([sample(1, 999_999_999)?, sample(i64::MIN, 0)?, sample(i64::MAX, 0)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_in_memory_holds_them_all() {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(times(&Dir::open_root(tmp.path()).unwrap()), Times::ALL);
        // Nor is anything made up where nothing can be tried.
        assert_eq!(times(&Dir::open_root(std::path::Path::new("/proc")).unwrap()), Times::ALL);
    }
}
