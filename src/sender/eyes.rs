//! What a live mirror sees with: its watcher, and the way by which workers have directories watched. Part of the session.

use std::sync::Arc;

use crate::config;
use crate::error::Result;
use crate::model::event::Key;
use crate::model::meta::Stat;
use crate::model::path::Name;
use crate::stats::Stats;
use crate::sys::dir::Dir;
use crate::sys::wake::{Bell, Wake};
use crate::watch::{Batches, Coverer, Watch};
use crate::work::Cover;

/// What has directories watched; nothing does for a run that ends when the mirror is equal to what it saw.
pub(super) struct Watched(pub(super) Option<Coverer>);

impl Cover for Watched {
    fn cover(&self, dir: &Dir, stat: &Stat) -> std::io::Result<(Option<Key>, bool)> {
        match &self.0 {
            Some(coverer) => coverer.cover(dir, stat).map(|covered| (covered.key, covered.degraded)),
            None => Ok((None, false)),
        }
    }

    fn key_at(&self, parent: &Dir, name: Name<'_>, stat: &Stat) -> Option<Key> {
        self.0.as_ref()?.key_at(parent, name, stat)
    }
}

/// The watcher of a live mirror, and what it has seen.
pub(super) struct Eyes {
    pub(super) batches: Batches,
    /// Rings whoever takes `batches` now.
    pub(super) bell: Bell,
    /// Dropped after `batches`.
    pub(super) watch: Watch,
    /// Overflows that were told: the first, and then whenever there are twice as many.
    overflows: u64,
    /// Times that something was mounted or unmounted, and unmounts of them, that were seen.
    mounts: (u64, u64),
}

/// What of mounts is news.
pub(super) struct MountNews {
    /// Others are there than before.
    pub(super) any: bool,
    /// One is gone at least.
    pub(super) unmounted: bool,
}

impl Eyes {
    /// Starts the watcher, which rings `wake`.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub(super) fn open(config: &config::Mirror, wake: &Wake, stats: &Arc<Stats>, is_local: bool) -> Result<Self> {
        let bell = Bell::new(wake.clone());
        let (watch, batches) = Watch::start(config.watch, &config.source, bell.clone(), Arc::clone(stats))?;
        if is_local {
            watch.ignore_own_process();
        }
        Ok(Self { batches, bell, watch, overflows: stats.overflows.get(), mounts: (stats.mounts.get(), stats.unmounts.get()) })
    }

    /// What happened to mounts since this was asked last.
    pub(super) fn mount_news(&mut self, stats: &Stats) -> MountNews {
        let now = (stats.mounts.get(), stats.unmounts.get());
        let before = std::mem::replace(&mut self.mounts, now);
        MountNews { any: before.0 != now.0, unmounted: before.1 != now.1 }
    }

    /// Says that there were so many overflows, if that is news.
    pub(super) fn tell_overflows(&mut self, overflows: u64) {
        if overflows >= self.overflows.saturating_mul(2).max(1) {
            self.overflows = overflows;
            tracing::warn!(overflows, "a queue of the kernel overflowed and events were lost: every directory is looked at again");
        }
    }
}
