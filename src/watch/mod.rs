//! The watcher: kernel events in, *where to look* out.
//!
//! A [`Watch`] owns the kernel's objects and the one thread that reads them. Workers tell it which directories matter through a
//! [`Coverer`]; the planner gets events from [`Batches`]. An event carries the [`Key`] that covering its directory gave.
//! The watcher decides nothing, keeps no tree and no path, and never opens or looks at an entry.
//! `sender` starts it; [`tune`] is called before, since the kernel reads its limits when the objects are made.

mod cookie;
mod fan;
mod ino;
mod reader;
pub mod tune;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::limits::{WATCH_BATCHES_MAX, WATCH_FILESYSTEMS_MAX};
use crate::model::event::Key;
use crate::model::meta::{Kind, Stat};
use crate::model::options::WatchChoice;
use crate::model::path::{Name, Shown};
use crate::ring::{Consumer, ring};
use crate::stats::Stats;
use crate::sys::dir::Dir;
use crate::sys::handle::Filesystem;
use crate::sys::mounts::MountsBelow;
use crate::sys::wake::Bell;
pub use cookie::Cookies;
use fan::{Fan, Served};
use ino::Ino;
pub use reader::Batch;
use reader::{Reader, Shared};

/// How the directories of one device are watched. Decided when its first one is covered.
#[derive(Debug, Clone, Copy)]
enum Backend {
    Fan(Served),
    Ino,
}

#[derive(Debug, Clone)]
struct Device {
    backend: Backend,
    watching: Watching,
}

/// How one device is watched, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watching {
    /// The first directory that was covered there.
    pub place: String,
    /// Type of its filesystem.
    pub filesystem: &'static str,
    /// `fanotify` or `inotify`.
    pub backend: &'static str,
    /// What it can do there, or why it is not a better one; may be empty.
    pub detail: String,
}

impl fmt::Display for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, filesystem, backend, detail } = self;
        if detail.is_empty() {
            write!(f, "{backend}: {place} {filesystem}")
        } else {
            write!(f, "{backend} ({detail}): {place} {filesystem}")
        }
    }
}

/// The kernel's objects. At least one of `fan` and `ino` is there.
struct Kernel {
    choice: WatchChoice,
    fan: Option<Fan>,
    ino: Option<Ino>,
    /// By `st_dev`. No two have the same filesystem number under fanotify, so no two directories have one key.
    devices: RwLock<HashMap<u64, Device>>,
    told_of_limit: AtomicBool,
}

/// The running watcher. Dropping it stops its thread and waits for it; kernel objects go when the last [`Coverer`] and [`Batch`] have gone too.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What covering a directory gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// What its events carry; `None` if there will be none.
    pub key: Option<Key>,
    /// It cannot be watched now, for a limit of the system: it has to be polled.
    pub degraded: bool,
}

/// Has directories watched. Workers share it, each with a clone or all with one.
#[derive(Clone)]
pub struct Coverer(Arc<Kernel>);

/// The planner's end: batches of events.
pub struct Batches {
    ring: Consumer<Batch>,
    shared: Arc<Shared>,
}

impl Watch {
    /// Starts watching; nothing is reported before the first directory is covered. `bell` is rung whenever there is a new batch.
    /// When something is mounted or unmounted at `source` or below, all events count as lost.
    ///
    /// Under fanotify the whole filesystem of a covered directory is reported, so events of directories that nobody covered come too.
    ///
    /// # Errors
    /// [`Error::File`] when the chosen backend (with [`WatchChoice::Auto`]: both) or the thread cannot be made.
    pub fn start(choice: WatchChoice, source: &Path, bell: Bell, stats: Arc<Stats>) -> Result<(Self, Batches)> {
        let kernel = Arc::new(Kernel::new(choice)?);
        let shared = Shared::new(kernel).map_err(|e| Error::file("making the watcher's eventfd", e))?;
        let (producer, consumer) = ring(WATCH_BATCHES_MAX);
        let mounts = MountsBelow::open(source);
        if let Err(e) = &mounts {
            tracing::warn!("what is mounted in the source cannot be told ({e}): a filesystem that is mounted later is not mirrored");
        }
        let reader = Reader { shared: Arc::clone(&shared), ring: producer, planner: bell, stats, mounts: mounts.ok() };
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || reader.run())
            .map_err(|e| Error::file("starting the watcher's thread", e))?;
        let batches = Batches { ring: consumer, shared: Arc::clone(&shared) };
        Ok((Self { shared, thread: Some(thread) }, batches))
    }

    /// A handle for workers.
    pub fn coverer(&self) -> Coverer {
        Coverer(Arc::clone(&self.shared.kernel))
    }

    /// Leaves out, from now on, what this process itself does on filesystems under fanotify: for a process that writes a mirror beside its
    /// source and would wake itself with each file. Not for one that writes into a source, be it as the receiver of another mirror.
    pub fn ignore_own_process(&self) {
        if let Some(fan) = &self.shared.kernel.fan {
            fan.ignore_pid(nix::unistd::getpid().as_raw());
        }
    }

    /// What is in use, one for each device seen so far.
    pub fn watching(&self) -> Vec<Watching> {
        let devices = self.shared.kernel.devices.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Watching> = devices.values().map(|d| d.watching.clone()).collect();
        all.sort();
        all
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    /// The next batch; `None` when there is none now: there may be one later.
    fn next(&mut self) -> Option<Batch> {
        self.ring.pop()
    }
}

impl Batches {
    /// Whether the watcher has ended: after the batches that are left, there will be none.
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // The reader may be asleep for want of a buffer. With this end gone it stops, but only if it looks.
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.wake();
    }
}

impl Coverer {
    /// Has `dir`, whose metadata are `stat`, watched: from the return on, every change directly in it makes an event with the key that is
    /// returned. So cover first, then list. Covering again gives the same key for as long as the directory is watched.
    ///
    /// # Errors
    /// Of the directory itself, which may be gone; `Unsupported` where only fanotify was chosen and cannot serve its filesystem.
    pub fn cover(&self, dir: &Dir, stat: &Stat) -> io::Result<Covered> {
        let kernel = &*self.0;
        if let (Some(fan), Backend::Fan(served)) = (&kernel.fan, kernel.backend(dir, stat)?) {
            if let Some(key) = fan.cover(dir.as_fd(), served)? {
                return Ok(Covered { key: Some(key), degraded: false });
            }
            // The device number belongs to another filesystem than it did.
            kernel.devices.write().unwrap_or_else(PoisonError::into_inner).remove(&stat.ident.dev);
            if let Backend::Fan(served) = kernel.backend(dir, stat)? {
                let key = fan.cover(dir.as_fd(), served)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
                return Ok(Covered { key: Some(key), degraded: false });
            }
        }
        kernel.cover_by_inotify(dir)
    }

    /// The key of the directory `name` in `parent`, whose metadata are `stat`, without opening it: on filesystems under fanotify only, where
    /// it is the key that [`Coverer::cover`] gives or gave. Else `None`. It sets no mark: a filesystem mark is there already.
    pub fn key_at(&self, parent: &Dir, name: Name<'_>, stat: &Stat) -> Option<Key> {
        if stat.meta.kind != Kind::Dir {
            return None;
        }
        match self.0.known(stat.ident.dev)? {
            Backend::Fan(served) => self.0.fan.as_ref()?.key_at(parent.as_fd(), name, served),
            Backend::Ino => None,
        }
    }

    /// Ends the watch that the key stands for; its last event says [`KEY_DEAD`](crate::model::event::Hint::KEY_DEAD). Under fanotify there is none to end.
    pub fn forget(&self, key: &Key) {
        if let Some(ino) = &self.0.ino {
            ino.forget(key);
        }
    }
}

impl Kernel {
    fn new(choice: WatchChoice) -> Result<Self> {
        let fan = match choice {
            WatchChoice::Inotify => None,
            WatchChoice::Fanotify => Some(Fan::new().map_err(|e| Error::file("making a fanotify group", e))?),
            WatchChoice::Auto => match Fan::new() {
                Ok(fan) => Some(fan),
                Err(e) => {
                    tracing::info!("no fanotify here ({e}): watching by inotify");
                    None
                }
            },
        };
        let ino = match (choice, Ino::new()) {
            (WatchChoice::Fanotify, _) => None,
            (_, Ok(ino)) => Some(ino),
            (WatchChoice::Auto, Err(e)) if fan.is_some() => {
                tracing::warn!("making an inotify instance: {e}; directories that fanotify cannot serve will be polled");
                None
            }
            (_, Err(e)) => return Err(Error::file("making an inotify instance (see fs.inotify.max_user_instances)", e)),
        };
        Ok(Self { choice, fan, ino, devices: RwLock::default(), told_of_limit: AtomicBool::new(false) })
    }

    fn known(&self, dev: u64) -> Option<Backend> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        devices.get(&dev).map(|d| d.backend)
    }

    /// How the device of `dir` is watched; decides it if it is new.
    fn backend(&self, dir: &Dir, stat: &Stat) -> io::Result<Backend> {
        if let Some(backend) = self.known(stat.ident.dev) {
            return Ok(backend);
        }
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get(&stat.ident.dev) {
            return Ok(device.backend);
        }
        let filesystem = Filesystem::of(dir.as_fd())?;
        // The same number on another device: keys of the two could not be told apart.
        let is_double = devices.values().any(|d| matches!(d.backend, Backend::Fan(served) if served.fsid == filesystem.fsid));
        let (backend, detail) = match &self.fan {
            None => (Backend::Ino, String::new()),
            Some(_) if is_double => (Backend::Ino, "another mount has the same filesystem number".to_owned()),
            Some(_) if devices.len() >= WATCH_FILESYSTEMS_MAX => return Ok(Backend::Ino),
            Some(fan) => match fan.serve(dir, stat.ident.dev) {
                Ok(served) => (Backend::Fan(served), served.abilities().to_owned()),
                Err(e) if fan::is_refusal(&e) => (Backend::Ino, format!("fanotify: {e}")),
                Err(e) => return Err(e),
            },
        };
        let name = if matches!(backend, Backend::Fan(_)) { "fanotify" } else { "inotify" };
        let filesystem = filesystem.type_name().unwrap_or("(unknown file system)");
        let watching = Watching { place: place(dir), filesystem, backend: name, detail };
        if self.choice == WatchChoice::Fanotify && matches!(backend, Backend::Ino) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("fanotify cannot serve this filesystem; it could be: {watching}"),
            ));
        }
        tracing::info!("watching by {watching}");
        devices.insert(stat.ident.dev, Device { backend, watching });
        Ok(backend)
    }

    fn cover_by_inotify(&self, dir: &Dir) -> io::Result<Covered> {
        const DEGRADED: Covered = Covered { key: None, degraded: true };
        let Some(ino) = &self.ino else { return Ok(DEGRADED) };
        match ino.cover(dir.as_fd()) {
            Ok(key) => Ok(Covered { key: Some(key), degraded: false }),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM)) => {
                if !self.told_of_limit.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "inotify watches have run out ({e}): directories from {} on are polled; raise the limit: sysctl fs.inotify.max_user_watches=N",
                        place(dir)
                    );
                }
                Ok(DEGRADED)
            }
            Err(e) => Err(e),
        }
    }
}

/// Where a held directory is now, for people.
fn place(dir: &Dir) -> String {
    let path = dir.place().unwrap_or_else(|| PathBuf::from("?"));
    Shown(path.as_os_str().as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
