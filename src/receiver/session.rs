//! What the connections of one session share, and the order they keep: FILES only while their cycle is open, POST only when all FILES are done.
//!
//! Never does I/O but for the end of the session and a look at where its directory is. One lock, taken once or twice a frame.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::apply::Root;
use crate::control::status::SessionStatus;
use crate::error::Error;
use crate::limits::{CYCLE_OPS_MAX, THREADS_MAX};
use crate::model::op::OpError;
use crate::model::path::RelPath;
use crate::receiver::durable::Syncer;
use crate::sys::wake::Wake;
use crate::wire::{Cutter, Token, WireError};

/// Why a connection's thread stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// The session has ended elsewhere; why, unless it was in good order.
    Ended(Option<String>),
    /// This connection ends it.
    Failed(Error),
}

/// What a client is told while its cycle waits for FILES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// That cycles before it have become durable.
    Acks,
    /// That the server lives: one file can take long on a slow disk, and a client's timeout is as short as its user likes.
    Alive,
}

/// How often. A client's timeout is a second at the least.
const SIGN_OF_LIFE: Duration = Duration::from_millis(400);

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<WireError> for Stop {
    fn from(e: WireError) -> Self {
        Self::Failed(e.into())
    }
}

#[derive(Default)]
struct State {
    /// The cycle whose FILES may be applied.
    open: Option<u64>,
    /// The cycle that was open last, or is.
    latest: Option<u64>,
    /// Files applied of it.
    files: usize,
    /// Those that failed. At most `files`.
    failures: Vec<OpError>,
    /// Set for good at the end; the text says why unless it was in good order.
    ended: Option<Option<String>>,
    attached: Vec<u16>,
    /// Cycles have become durable that the control connection has not acknowledged.
    acks_due: bool,
    /// The first is the control connection's.
    wakes: Vec<Wake>,
    cutters: Vec<Cutter>,
    /// Connections' threads.
    members: usize,
    /// What was acknowledged may not be so.
    in_doubt: bool,
}

/// A session. Invariant: `open` is `None` or `latest`; FILES run only while it is `Some`.
pub(super) struct Session {
    pub(super) token: Token,
    pub(super) root: Arc<Root>,
    /// Device and inode of the root: one session a directory.
    pub(super) place: (u64, u64),
    /// Where the root was opened: a module's directory, and the path in it.
    found: (PathBuf, RelPath),
    /// The mirror is as the session left it that the client had before.
    pub(super) continued: bool,
    threads: u16,
    /// Module and directory, and since when: for people.
    about: (String, String, Instant),
    state: Mutex<State>,
    changed: Condvar,
    /// What makes cycles durable, if they have to be.
    pub(super) syncer: Option<Syncer>,
    /// The control connection was asked for something.
    used: AtomicBool,
}

impl Session {
    pub(super) fn new(
        token: Token,
        root: Arc<Root>,
        (place, continued): ((u64, u64), bool),
        threads: u16,
        (module, found): (String, (PathBuf, RelPath)),
    ) -> Self {
        let about = (module, found.1.to_string(), Instant::now());
        let syncer = root.is_durable().then(Syncer::default);
        Self {
            token,
            root,
            place,
            found,
            continued,
            threads,
            about,
            state: Mutex::default(),
            changed: Condvar::new(),
            syncer,
            used: AtomicBool::new(false),
        }
    }

    /// The control connection is asked for something.
    pub(super) fn is_asked(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether nothing was ever asked of it: the mirror is as it was.
    pub(super) fn is_unused(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && self.lock().attached.is_empty()
    }

    /// Whether the root is still where it was opened; what is written to another place is not in the mirror.
    ///
    /// # Errors
    /// `File`: it is seen not to be.
    pub(super) fn check_place(&self) -> Result<(), Error> {
        let (module, path) = &self.found;
        let path = module.join(OsStr::from_bytes(path.as_bytes()));
        let why = match path.metadata() {
            Ok(stat) if (stat.dev(), stat.ino()) != self.place => "it is another directory than at the start: moved, replaced or unmounted",
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => "it is not there any more",
            // Where it cannot be told, it is.
            Ok(_) | Err(_) => return Ok(()),
        };
        Err(Error::file(format!("the mirror, {}", path.display()), io::Error::other(why)))
    }

    /// What `status` tells of it.
    pub(super) fn describe(&self) -> SessionStatus {
        let (connections, cycle) = {
            let state = self.lock();
            (state.members as u64, state.latest.unwrap_or(0))
        };
        let (module, path, began) = &self.about;
        SessionStatus { module: module.clone(), path: path.clone(), connections, cycle, age_seconds: began.elapsed().as_secs_f64() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the calling connection in; `index` is `None` for the control connection. Says why not.
    pub(super) fn join(&self, index: Option<u16>, wake: Wake, cutter: Option<Cutter>) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Err("the session has ended");
        }
        if let Some(index) = index {
            if index >= self.threads {
                return Err("more content connections than announced");
            }
            if state.attached.contains(&index) || state.attached.len() >= THREADS_MAX {
                return Err("this content connection exists already");
            }
            state.attached.push(index);
        }
        state.wakes.push(wake);
        state.cutters.extend(cutter);
        state.members += 1;
        Ok(())
    }

    /// Counts the calling connection out. Whoever is told that it was the last cleans up; nobody can join any more.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.members -= 1;
        if state.members == 0 {
            state.ended.get_or_insert(None);
            if let Some(syncer) = &self.syncer {
                syncer.end();
            }
        }
        state.members == 0
    }

    /// Whether it has ended because the client said so.
    pub(super) fn ended_well(&self) -> bool {
        self.lock().ended == Some(None)
    }

    /// Ends the session because storage failed: what it left is not gone on from.
    pub(super) fn end_in_doubt(&self, why: String) {
        self.lock().in_doubt = true;
        self.end(Some(why));
    }

    /// Whether it ended so.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.lock().in_doubt
    }

    /// Ends the session for all its connections. The first reason stays.
    pub(super) fn end(&self, why: Option<String>) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(why);
            state.wakes.iter().for_each(Wake::wake);
            self.changed.notify_all();
            if let Some(syncer) = &self.syncer {
                syncer.end();
            }
        }
    }

    /// Cuts its connections: they may be blocked in sending to a client that takes nothing, and hear nothing else.
    pub(super) fn cut(&self) {
        self.lock().cutters.iter().for_each(Cutter::cut);
    }

    /// Wakes the control connection: cycles can be acknowledged.
    pub(super) fn acks_are_due(&self) {
        let mut state = self.lock();
        state.acks_due = true;
        if let Some(control) = state.wakes.first() {
            control.wake();
        }
        self.changed.notify_all();
    }

    /// Waits until cycles can be acknowledged.
    pub(super) fn wait_acks(&self) -> Result<(), Stop> {
        let mut state = self.lock();
        while !std::mem::take(&mut state.acks_due) {
            alive(&state)?;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Whether it goes on.
    pub(super) fn check_alive(&self) -> Result<(), Stop> {
        alive(&self.lock())
    }

    /// Lets FILES of `cycle` be applied.
    pub(super) fn open(&self, cycle: u64) {
        let mut state = self.lock();
        state.open = Some(cycle);
        state.latest = Some(cycle);
        state.files = 0;
        self.changed.notify_all();
    }

    /// Waits until FILES of `cycle` may be applied.
    pub(super) fn wait_open(&self, cycle: u64) -> Result<(), Stop> {
        let mut state = self.lock();
        loop {
            alive(&state)?;
            if state.open == Some(cycle) {
                return Ok(());
            }
            if state.latest.is_some_and(|latest| cycle <= latest) {
                return Err(WireError::Order("a file of a cycle that is complete").into());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts `files` of the open cycle as applied; `failures` of them failed and are taken out.
    pub(super) fn count(&self, files: usize, failures: &mut Vec<OpError>) -> Result<(), Stop> {
        if files == 0 {
            return Ok(());
        }
        let mut state = self.lock();
        state.files += files;
        state.failures.append(failures);
        if state.files > CYCLE_OPS_MAX {
            return Err(WireError::Order("more files than a cycle has").into());
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all `files` of the open cycle are applied, and closes it. Adds what failed to `failures`. Gives up when nothing happens for `stall`.
    /// Calls `say` now and then meanwhile, and when earlier cycles are to be acknowledged: the client may wait for that.
    pub(super) fn close(
        &self,
        files: usize,
        failures: &mut Vec<OpError>,
        stall: Duration,
        mut say: impl FnMut(Say) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut state = self.lock();
        let mut seen = state.files;
        let mut since = Instant::now();
        let mut said = since;
        while state.files < files {
            alive(&state)?;
            let what =
                if std::mem::take(&mut state.acks_due) { Some(Say::Acks) } else { (said.elapsed() >= SIGN_OF_LIFE).then_some(Say::Alive) };
            if let Some(what) = what {
                drop(state);
                say(what)?;
                said = Instant::now();
                state = self.lock();
                continue;
            }
            if state.files != seen {
                (seen, since) = (state.files, Instant::now());
            }
            let left = stall.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout(stall.as_secs()).into());
            }
            state = self.changed.wait_timeout(state, left.min(SIGN_OF_LIFE)).unwrap_or_else(PoisonError::into_inner).0;
        }
        alive(&state)?;
        if state.files > files {
            return Err(WireError::Order("more files than the Close says").into());
        }
        state.open = None;
        failures.append(&mut state.failures);
        Ok(())
    }
}

fn alive(state: &State) -> Result<(), Stop> {
    match &state.ended {
        None => Ok(()),
        Some(why) => Err(Stop::Ended(why.clone())),
    }
}
