//! Cookies: a mark in each kernel queue that is in use, to know when all that happened before has been read.
//!
//! A file is made and removed in a directory of our own that every queue reports as well: nothing is written into what is watched, which may be read-only.
//! A queue keeps its order (merging moves an event forwards only), so whoever has read the cookie has read what came before it. If the queue
//! overflows the cookie may be lost with the rest: the overflow counts for it, since everything is looked at after that.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reader::{Batch, Shared, Source};
use super::{Kernel, Watch};
use crate::model::event::{Event, Key};
use crate::sys::dir::Dir;

/// Name of the file.
pub(super) const COOKIE_NAME: &[u8] = b".ringsync-staging-flush";

/// Cookies on their way through the queues of a [`Watch`]. Dropping it removes what is left of them.
pub struct Cookies {
    shared: Arc<Shared>,
    dir: PathBuf,
    /// Under which key the cookie comes through the queue; `None` when it has, or there is no such queue.
    fan: Option<Key>,
    ino: Option<Key>,
    watched: Option<Key>,
}

impl Watch {
    /// Puts a cookie into each queue, in a directory beneath the first of `places` that all of them can report.
    ///
    /// # Errors
    /// Of the last place that was tried; `NotFound` without any.
    pub fn cookies(&self, places: &[PathBuf]) -> io::Result<Cookies> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            match Cookies::make(&self.shared, place) {
                Ok(cookies) => return Ok(cookies),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

impl Cookies {
    fn make(shared: &Arc<Shared>, place: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = place.join(format!("ringsync-flush-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let mut cookies = Self { shared: Arc::clone(shared), dir, fan: None, ino: None, watched: None };
        cookies.put(&shared.kernel)?;
        Ok(cookies)
    }

    fn put(&mut self, kernel: &Kernel) -> io::Result<()> {
        let dir = Dir::open_root(&self.dir)?;
        if let Some(fan) = &kernel.fan {
            self.fan = Some(fan.cover_for_cookie(dir.as_fd())?);
            fan.expect_cookies(true);
        }
        if let Some(ino) = &kernel.ino {
            let key = ino.cover(dir.as_fd())?;
            self.watched = Some(key.clone());
            self.ino = Some(key);
        }
        let file = self.dir.join(std::ffi::OsStr::from_bytes(COOKIE_NAME));
        fs::write(&file, b"")?;
        fs::remove_file(&file)
    }

    /// Looks for the cookies among the events of a batch, after these have been told.
    pub fn look(&mut self, batch: &Batch) {
        let Self { fan, ino, .. } = self;
        let (is_fan, is_ino) = (batch.source != Source::Ino, batch.source != Source::Fan);
        batch.for_each(|event| {
            let is = |key: &Option<Key>| match (event, key) {
                (Event::Overflow, _) => true,
                (Event::At { key: told, .. }, Some(key)) => told == &*key.0,
                (Event::At { .. }, None) => false,
            };
            if is_fan && is(fan) {
                *fan = None;
            }
            if is_ino && is(ino) {
                *ino = None;
            }
        });
    }

    /// Whether all have come.
    pub fn have_come(&self) -> bool {
        self.fan.is_none() && self.ino.is_none()
    }
}

impl Drop for Cookies {
    fn drop(&mut self) {
        let kernel = &self.shared.kernel;
        if let Some(fan) = &kernel.fan {
            fan.expect_cookies(false);
        }
        if let (Some(ino), Some(key)) = (&kernel.ino, &self.watched) {
            ino.forget(key);
        }
        // An empty directory of ours that stays is nobody's harm.
        let _ = fs::remove_dir(&self.dir);
    }
}
