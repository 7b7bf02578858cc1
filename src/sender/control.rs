//! What stands between the control socket and the mirror's own thread: requests one way, answers the other.
//!
//! Neither waits for the other. The mirror's thread looks at one flag whenever it comes by, and makes a status only when somebody asked; while there is no
//! session the socket's thread answers from the last one. Also what a signal asks for: new rules, logs opened again.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{self, ControlPlace, Dest};
use crate::control::server::{self, Office, Server};
use crate::control::status::{HeldStatus, MirrorStatus, ReceiverStatus, STATUS_VERSION, State, Status};
use crate::control::{Flushed, Reply, Request, place};
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::path::Shown;
use crate::plan::{Hold, HoldCause, Trouble};
use crate::sender::StopSlot;
use crate::sender::failures::FailureLog;
use crate::stats::Stats;
use crate::sys::wake::Wake;

/// Steers a mirror that runs: for signals. Clones steer the same one.
#[derive(Clone, Default)]
pub struct Controls(pub(super) Arc<Desk>);

impl Controls {
    /// For a mirror that is about to be run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the mirror go on with other rules: its session is ended in good order and another begun.
    pub fn set_filter(&self, filter: Arc<Filter>) {
        self.0.lock().filter = Some(filter);
        self.0.ring();
    }

    /// Has the failure log opened again.
    pub fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.ring();
    }
}

/// What the mirror's thread has to do for others.
pub(super) enum Errand {
    /// Make a status.
    Status(u64),
    /// Approve what is held.
    Approve(u64),
    /// Begin a flush.
    Flush(u64),
}

#[derive(Default)]
struct Inner {
    errands: Vec<Errand>,
    bells: HashMap<u64, Wake>,
    answers: HashMap<u64, Reply>,
    /// Flushes without answer. They outlive sessions.
    flushes: BTreeSet<u64>,
    /// The last status that was made.
    latest: MirrorStatus,
    made: Option<Instant>,
    /// There is no session: what the mirror is at instead.
    away: Option<(State, String)>,
    /// The source is not there.
    lost: Option<Instant>,
    approve_source: Option<u64>,
    /// Since when it may be behind, at least; while there is no session, and until all is equal again.
    behind_since: Option<Instant>,
    hold: Option<Hold>,
    /// Where something was mounted in the source when the last session began, or ended.
    mounts: Vec<PathBuf>,
    filter: Option<Arc<Filter>>,
    reopen: bool,
}

/// See the module's comment.
#[derive(Default)]
pub(super) struct Desk {
    /// Something of `inner` is for the mirror's thread. Set after it, taken before it is looked at.
    asked: AtomicBool,
    slot: StopSlot,
    began: OnceLock<Instant>,
    inner: Mutex<Inner>,
    /// Only the mirror's thread takes it.
    failures: Mutex<Option<FailureLog>>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.asked.store(true, Ordering::Release);
        self.slot.ring();
    }

    /// What wakes the mirror's thread.
    pub(super) fn slot(&self) -> &StopSlot {
        &self.slot
    }

    /// Says who is mirrored where; before the socket is opened.
    pub(super) fn open(self: &Arc<Self>, config: &config::Mirror) -> Result<Option<Server>> {
        self.began.get_or_init(Instant::now);
        let source = place::source_name(&config.source);
        let mut inner = self.lock();
        inner.latest = MirrorStatus {
            version: STATUS_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            source: Shown(source.as_os_str().as_bytes()).to_string(),
            ..MirrorStatus::default()
        };
        inner.latest.receivers = config.dests.iter().map(|dest| ReceiverStatus { dest: dest_name(dest), ..Default::default() }).collect();
        inner.made = Some(Instant::now());
        inner.away = Some((State::Starting, String::new()));
        drop(inner);
        let path = match &config.control {
            ControlPlace::None => return Ok(None),
            ControlPlace::At(path) => return Server::start(path, Arc::clone(self) as Arc<dyn Office>).map(Some),
            ControlPlace::Derived if config.once => return Ok(None),
            ControlPlace::Derived => derived(config, &source),
        };
        match path.and_then(|path| Server::start(&path, Arc::clone(self) as Arc<dyn Office>)) {
            Ok(server) => Ok(Some(server)),
            // Two of one mirror would undo each other's work.
            Err(e @ Error::Socket { .. }) if is_taken(&e) => Err(e),
            Err(e) => {
                tracing::warn!("{e}: `ringsync status` will not find this mirror; --control PATH puts its socket elsewhere");
                Ok(None)
            }
        }
    }

    // Of the mirror's thread.

    /// How long the mirror has been running.
    pub(super) fn uptime(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Whether there is something to be done: one atomic load.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) && self.asked.swap(false, Ordering::AcqRel)
    }

    /// What there is to be done.
    pub(super) fn errands(&self) -> Vec<Errand> {
        std::mem::take(&mut self.lock().errands)
    }

    /// Leaves something to be done by whoever comes next.
    pub(super) fn put_back(&self, errand: Errand) {
        self.lock().errands.push(errand);
    }

    /// Answers a ticket.
    pub(super) fn reply(&self, ticket: u64, reply: Reply) {
        let mut inner = self.lock();
        if let Reply::Status(status) = &reply
            && let Status::Mirror(status) = &**status
        {
            inner.latest = status.clone();
            inner.made = Some(Instant::now());
        }
        if let Some(bell) = inner.bells.remove(&ticket) {
            inner.answers.insert(ticket, reply);
            bell.wake();
        }
    }

    /// A flush is over.
    pub(super) fn flushed(&self, tickets: &[u64], flushed: &Flushed) {
        for ticket in tickets {
            if self.lock().flushes.remove(ticket) {
                self.reply(*ticket, Reply::Flush(flushed.clone()));
            }
        }
    }

    /// Notes how much a flush has to wait for, for those whose time is over first.
    pub(super) fn note_left(&self, dirty: u64) {
        self.lock().latest.dirty = dirty;
    }

    /// Notes what is heard while there is no session.
    pub(super) fn note_away(&self, stats: &Stats) {
        let latest = &mut self.lock().latest;
        (latest.dirty, latest.events, latest.overflows) = (stats.dirty.get(), stats.events.get(), stats.overflows.get());
        latest.receivers.iter_mut().for_each(|receiver| receiver.reconnects = stats.reconnects.get());
    }

    /// A session begins: the flushes that wait, and what is held.
    pub(super) fn arrive(&self) -> (Vec<u64>, Option<Hold>) {
        let mut inner = self.lock();
        inner.away = None;
        inner.lost = None;
        inner.errands.retain(|errand| !matches!(errand, Errand::Flush(_)));
        (inner.flushes.iter().copied().collect(), inner.hold)
    }

    /// There is no session; `last` is what it last was. Who waits for a status gets that.
    pub(super) fn leave(&self, state: State, reason: &str, last: Option<MirrorStatus>) {
        let mut inner = self.lock();
        if let Some(last) = last {
            inner.latest = last;
            inner.made = Some(Instant::now());
        }
        inner.away = Some((state, reason.to_owned()));
        let mut late = Vec::new();
        inner.errands.retain(|errand| match errand {
            Errand::Status(ticket) | Errand::Approve(ticket) => {
                late.push((*ticket, matches!(errand, Errand::Status(_))));
                false
            }
            Errand::Flush(_) => true,
        });
        for (ticket, is_status) in late {
            let reply = if is_status { inner.status() } else { Reply::Error("the mirror is not connected: try again later".into()) };
            if let Some(bell) = inner.bells.remove(&ticket) {
                inner.answers.insert(ticket, reply);
                bell.wake();
            }
        }
    }

    /// The source is not there, or is again.
    pub(super) fn set_lost(&self, lost: bool) {
        let mut inner = self.lock();
        inner.lost = lost.then(Instant::now);
        inner.approve_source = None;
    }

    /// Somebody approved that the source is another directory.
    pub(super) fn approved_source(&self) -> Option<u64> {
        self.lock().approve_source.take()
    }

    /// Notes since when the mirror may be behind, or that it is not any more.
    pub(super) fn set_behind(&self, since: Option<Instant>) {
        let mut inner = self.lock();
        inner.behind_since = match (inner.behind_since, since) {
            (Some(before), Some(since)) => Some(before.min(since)),
            (_, since) => since,
        };
    }

    /// Since when the mirror may be behind at least.
    pub(super) fn behind_since(&self) -> Option<Instant> {
        self.lock().behind_since
    }

    /// Notes what is held, for the next session.
    pub(super) fn set_hold(&self, hold: Option<Hold>) {
        self.lock().hold = hold;
    }

    /// Something is missing in the source: deletions are held, if not for a reason that ends as late.
    pub(super) fn hold_missing(&self) {
        let mut inner = self.lock();
        if !inner.hold.is_some_and(|hold| hold.cause == HoldCause::Emptied) {
            inner.hold = Some(Hold::unmounted());
        }
    }

    /// A session begins, with this mounted in the source: if something is missing that was before, and the place is still there, deletions are held.
    pub(super) fn compare_mounts(&self, now: Option<Vec<PathBuf>>) {
        let Some(now) = now else { return };
        let before = std::mem::replace(&mut self.lock().mounts, now.clone());
        if before.iter().any(|point| !now.contains(point) && point.is_dir()) {
            self.hold_missing();
        }
    }

    /// What is missing is known to the planner, or of no interest: only what is mounted now can be missed later.
    pub(super) fn set_mounts(&self, now: Option<Vec<PathBuf>>) {
        if let Some(now) = now {
            self.lock().mounts = now;
        }
    }

    /// This is mounted in the source, in the middle of a session or at its end.
    pub(super) fn add_mounts(&self, now: Option<Vec<PathBuf>>) {
        let mounts = &mut self.lock().mounts;
        mounts.extend(now.into_iter().flatten());
        mounts.sort_unstable();
        mounts.dedup();
    }

    /// Whether the source had lost all its entries, or has had none yet.
    pub(super) fn is_emptied(&self) -> bool {
        self.lock().hold.is_some_and(|hold| hold.cause == HoldCause::Emptied)
    }

    /// Rules that take the place of those in use.
    pub(super) fn take_filter(&self) -> Option<Arc<Filter>> {
        self.lock().filter.take()
    }

    /// How many wait for a flush.
    pub(super) fn flushes(&self) -> usize {
        self.lock().flushes.len()
    }

    /// Whether there are such rules.
    pub(super) fn has_filter(&self) -> bool {
        self.lock().filter.is_some()
    }

    /// Has failures noted from now on.
    pub(super) fn set_failure_log(&self, log: Option<FailureLog>) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// Notes what happened to entries in trouble; `now` is on their clock.
    pub(super) fn note_failures(&self, troubles: &[Trouble], now: u64) {
        if let Some(log) = &mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner) {
            log.note(troubles, now);
        }
    }

    /// Opens the failure log again if that was asked for.
    pub(super) fn reopen_if_asked(&self) {
        if std::mem::take(&mut self.lock().reopen)
            && let Some(log) = &mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner)
        {
            log.reopen();
        }
    }
}

impl Inner {
    /// The last status, as old as it is.
    fn status(&self) -> Reply {
        let mut status = self.latest.clone();
        status.age_seconds = self.made.map_or(0.0, |made| made.elapsed().as_secs_f64());
        status.uptime_seconds += status.age_seconds;
        let behind = self.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        for receiver in &mut status.receivers {
            receiver.lag_seconds = receiver.lag_seconds.max(behind);
        }
        if let Some((state, reason)) = &self.away {
            status.state = *state;
            status.reason = (!reason.is_empty()).then(|| reason.clone());
            for receiver in &mut status.receivers {
                receiver.state = *state;
                receiver.link.clear();
                if let Some(since) = self.lost {
                    receiver.held = Some(HeldStatus {
                        cause: "source_lost".into(),
                        reason: reason.clone(),
                        count: 0,
                        since_seconds: since.elapsed().as_secs_f64(),
                        paths: Vec::new(),
                    });
                }
            }
        }
        Reply::Status(Box::new(Status::Mirror(status)))
    }
}

impl Office for Desk {
    fn ask(&self, ticket: u64, request: Request, bell: &Wake) {
        let mut inner = self.lock();
        let is_away = inner.away.is_some();
        inner.bells.insert(ticket, bell.clone());
        match request {
            Request::Status if is_away => {
                let status = inner.status();
                inner.answers.insert(ticket, status);
                return;
            }
            Request::Status => inner.errands.push(Errand::Status(ticket)),
            Request::Approve if inner.lost.is_some() => inner.approve_source = Some(ticket),
            Request::Approve if is_away => {
                let text = "the mirror is not connected: what is held is known again when it is".into();
                inner.answers.insert(ticket, Reply::Error(text));
                return;
            }
            Request::Approve => inner.errands.push(Errand::Approve(ticket)),
            Request::Flush(_) => {
                inner.flushes.insert(ticket);
                inner.errands.push(Errand::Flush(ticket));
            }
        }
        drop(inner);
        self.ring();
    }

    fn answer(&self, ticket: u64) -> Option<Reply> {
        let mut inner = self.lock();
        let reply = inner.answers.remove(&ticket)?;
        inner.bells.remove(&ticket);
        Some(reply)
    }

    fn late(&self, ticket: u64, request: Request) -> Reply {
        let reply = match request {
            Request::Status => self.lock().status(),
            Request::Approve => Reply::Error("the mirror is too busy to answer: try again".into()),
            Request::Flush(_) => {
                let inner = self.lock();
                let failing = inner.latest.receivers.iter().map(|r| r.failing).sum();
                let held = inner.latest.receivers.iter().filter_map(|r| r.held.as_ref()).map(|held| held.count).sum();
                Reply::Flush(Flushed { done: false, left: inner.latest.dirty.max(1), failing, held, by_full_look: false })
            }
        };
        self.gone(ticket);
        reply
    }

    fn gone(&self, ticket: u64) {
        let mut inner = self.lock();
        inner.bells.remove(&ticket);
        inner.answers.remove(&ticket);
        inner.flushes.remove(&ticket);
        inner.errands.retain(|errand| !matches!(errand, Errand::Status(t) | Errand::Approve(t) | Errand::Flush(t) if *t == ticket));
        if inner.approve_source == Some(ticket) {
            inner.approve_source = None;
        }
    }
}

/// Where the socket of a mirror is unless told otherwise.
fn derived(config: &config::Mirror, source: &std::path::Path) -> Result<PathBuf> {
    let dir = place::directory()
        .ok_or_else(|| Error::socket("no place for a control socket", std::io::Error::other("XDG_RUNTIME_DIR is not set")))?;
    place::prepare(&dir).map_err(|e| Error::socket(format!("control socket in {}", dir.display()), e))?;
    server::sweep(&dir);
    let dest = match config.dests.first() {
        Some(Dest::Local(path)) => place::source_name(path).into_os_string().as_bytes().to_vec(),
        Some(dest) => dest.to_string().into_bytes(),
        None => Vec::new(),
    };
    Ok(dir.join(place::of_mirror(source, &dest)))
}

/// A destination for people.
pub(super) fn dest_name(dest: &Dest) -> String {
    match dest {
        Dest::Local(path) => Shown(place::source_name(path).as_os_str().as_bytes()).to_string(),
        Dest::Tcp { .. } => dest.to_string(),
    }
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Socket { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
}
