//! What the mirror's thread does for those who ask through the control socket: a status, an approval, a flush. Part of the session.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::status::{FailureStatus, HeldStatus, MirrorStatus, Queues, ReceiverStatus, STATUS_VERSION, State, Status, WatchStatus};
use crate::control::{Flushed, Reply, place};
use crate::limits::{STATUS_PATH_CHARS_MAX, STATUS_PATHS_MAX};
use crate::model::event::Event;
use crate::model::path::{RelPath, Shown};
use crate::plan::{GuardNews, Held, HoldCause, Turn};
use crate::sender::control::{Errand, dest_name};
use crate::sender::failures::cause;
use crate::sender::session::Session;
use crate::watch::Cookies;

/// Flushes that wait, and the one under way.
#[derive(Default)]
pub(super) struct Flushing {
    waiting: Vec<u64>,
    now: Option<Wave>,
}

struct Wave {
    tickets: Vec<u64>,
    /// Until they have come.
    cookies: Option<Cookies>,
    by_full_look: bool,
}

impl Flushing {
    /// With those that waited when the session began.
    pub(super) fn of(waiting: Vec<u64>) -> Self {
        Self { waiting, now: None }
    }

    /// The cookies that are out.
    pub(super) fn cookies(&mut self) -> Option<&mut Cookies> {
        self.now.as_mut()?.cookies.as_mut()
    }

    /// Whether anybody waits.
    pub(super) fn is_on(&self) -> bool {
        self.now.is_some() || !self.waiting.is_empty()
    }
}

impl Session<'_> {
    /// Does what was asked for.
    pub(super) fn attend(&mut self) {
        for errand in self.desk.errands() {
            match errand {
                Errand::Status(ticket) => {
                    self.look_for_source();
                    if self.source_lost {
                        // Answered when the session has ended for it.
                        self.desk.put_back(Errand::Status(ticket));
                        continue;
                    }
                    self.desk.reply(ticket, Reply::Status(Box::new(Status::Mirror(self.status()))));
                }
                Errand::Approve(ticket) => {
                    let count = self.planner.approve();
                    self.desk.set_hold(None);
                    self.desk.set_mounts(self.root.mounts());
                    if count > 0 {
                        tracing::info!(count, "approved: {count} deletions that were held are made");
                    }
                    self.desk.reply(ticket, Reply::Approved(count));
                }
                Errand::Flush(ticket) => self.flushing.waiting.push(ticket),
            }
        }
        self.desk.reopen_if_asked();
    }

    /// Takes the flush under way a step further; true if there is more to be done at once.
    pub(super) fn flush_on(&mut self) -> bool {
        if self.flushing.now.is_none() && !self.flushing.waiting.is_empty() {
            self.begin_flush();
        }
        let Some(wave) = &mut self.flushing.now else { return false };
        if let Some(cookies) = &wave.cookies {
            if !cookies.have_come() {
                return false;
            }
            wave.cookies = None;
            self.planner.owe_all();
            return true;
        }
        let dirty = self.planner.dirty();
        if self.planner.is_paid() {
            let flushed = Flushed {
                done: true,
                left: 0,
                failing: self.planner.unsettled() as u64,
                held: self.planner.deletions_held(0).map_or(0, |held| held.count),
                by_full_look: wave.by_full_look,
            };
            self.desk.flushed(&wave.tickets, &flushed);
            self.flushing.now = None;
            return !self.flushing.waiting.is_empty();
        }
        self.desk.note_left(self.planner.owed().max(self.planner.dirty() + self.planner.in_flight()) as u64);
        self.planner.dirty() > dirty
    }

    fn begin_flush(&mut self) {
        let tickets = std::mem::take(&mut self.flushing.waiting);
        let cookies = self.eyes.as_ref().map(|eyes| eyes.watch.cookies(&self.cookie_places()));
        let cookies = match cookies {
            Some(Ok(cookies)) => Some(cookies),
            Some(Err(e)) => {
                tracing::info!("no mark can be put into the watcher's queues ({e}): everything is looked at for a flush");
                None
            }
            None => None,
        };
        let by_full_look = cookies.is_none();
        if by_full_look {
            let now = self.now();
            self.planner.event(Event::Overflow, now);
            self.planner.owe_all();
        }
        self.desk.note_left((self.planner.dirty() + self.planner.in_flight()) as u64);
        self.flushing.now = Some(Wave { tickets, cookies, by_full_look });
    }

    /// Where cookies may be made: not in the source, and not in a mirror on this host.
    fn cookie_places(&self) -> Vec<PathBuf> {
        let own = place::directory().filter(|dir| place::prepare(dir).is_ok());
        let all = own.into_iter().chain([PathBuf::from("/dev/shm"), std::env::temp_dir()]);
        let source = place::source_name(&self.config.source);
        let locals = self.config.dests.iter().filter_map(|dest| match dest {
            crate::config::Dest::Local(path) => Some(place::source_name(path)),
            crate::config::Dest::Tcp { .. } => None,
        });
        let taken: Vec<PathBuf> = locals.chain([source]).collect();
        all.filter(|place| !taken.iter().any(|taken| place::source_name(place).starts_with(taken))).collect()
    }

    /// Says what the guard held or let go, and has it noted for the next session.
    pub(super) fn tell_guard(&mut self) {
        for news in self.planner.take_guard_news() {
            match news {
                GuardNews::Held(hold, count) => {
                    tracing::error!(
                        count,
                        "deletions are held: {}; `ringsync status` names them, `ringsync approve` has them made",
                        why(hold)
                    );
                }
                GuardNews::Released(_) => tracing::info!("deletions are not held any more: the cause has ended"),
            }
            self.desk.set_hold(self.planner.hold());
        }
    }

    /// Says which entries fail, and notes it in the failure log.
    pub(super) fn report_troubles(&mut self) {
        let troubles = self.planner.take_reports();
        if troubles.is_empty() {
            return;
        }
        for trouble in troubles.iter().filter(|trouble| trouble.turn == Turn::New) {
            let error = std::io::Error::from_raw_os_error(trouble.errno);
            tracing::warn!("{}: {}: {error}; it is tried again", trouble.path, trouble.what);
        }
        self.desk.note_failures(&troubles, self.now());
    }

    /// The session is over: what it was at last is what is told until the next.
    pub(super) fn part(&mut self, state: State, reason: &str) {
        let since = self.planner.oldest_change().map(|at| self.epoch + Duration::from_nanos(at));
        self.desk.set_behind(Some(since.unwrap_or_else(Instant::now)));
        self.desk.add_mounts(self.root.mounts());
        self.desk.set_hold(self.planner.hold());
        self.desk.leave(state, reason, Some(self.status()));
    }

    /// Everything that is known of the mirror.
    fn status(&self) -> MirrorStatus {
        let (stats, planner, now) = (self.stats, &self.planner, self.now());
        let held = planner.deletions_held(STATUS_PATHS_MAX).map(|held| held_status(held, now));
        let state = match &held {
            Some(_) => State::Held,
            None if self.synced => State::Live,
            None if planner.is_filling() => State::Listing,
            None => State::Syncing,
        };
        let oldest = planner.oldest_change().map_or(0.0, |at| seconds(now.saturating_sub(at)));
        let behind = if self.synced { None } else { self.desk.behind_since() };
        let failures = planner.failures(STATUS_PATHS_MAX).into_iter().map(|trouble| FailureStatus {
            path: shown(&trouble.path),
            operation: trouble.what.into(),
            errno: trouble.errno,
            cause: cause(trouble.errno),
            tries: trouble.tries,
            next_try_seconds: trouble.next_at.map(|at| seconds(at.saturating_sub(now))),
        });
        let (cycle_sent, cycle_acknowledged) = planner.cycles();
        let receiver = ReceiverStatus {
            dest: self.config.dests.first().map(dest_name).unwrap_or_default(),
            link: self.link.describe().into(),
            state,
            lag_seconds: behind.map_or(oldest, |since| since.elapsed().as_secs_f64().max(oldest)),
            cycle_sent,
            cycle_acknowledged,
            queues: Queues { outbox: self.outbox.len() as u64, in_flight: planner.in_flight() as u64, workers: self.crew.items() },
            files_found: stats.files_found.get(),
            bytes_found: stats.bytes_found.get(),
            files_sent: stats.files_sent.get(),
            bytes_sent: stats.bytes_sent.get(),
            operations: stats.ops_sent.get(),
            deleted: stats.deleted.get(),
            wire_bytes: stats.wire_bytes.get(),
            retries: stats.failures.get(),
            reconnects: stats.reconnects.get(),
            resumed: stats.resumed.get(),
            failing: planner.failing() as u64,
            failures: failures.collect(),
            held,
        };
        let watching = self.eyes.as_ref().map(|eyes| eyes.watch.watching()).unwrap_or_default();
        let watch = watching.into_iter().map(|w| WatchStatus {
            place: w.place,
            filesystem: w.filesystem.into(),
            backend: w.backend.into(),
            detail: w.detail,
        });
        MirrorStatus {
            version: STATUS_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            source: Shown(place::source_name(&self.config.source).as_os_str().as_bytes()).to_string(),
            state,
            reason: receiver.held.as_ref().map(|held| held.reason.clone()),
            uptime_seconds: self.desk.uptime().as_secs_f64(),
            age_seconds: 0.0,
            watch: watch.collect(),
            events: stats.events.get(),
            overflows: stats.overflows.get(),
            dirty: planner.dirty() as u64,
            delayed: planner.delayed() as u64,
            entries: planner.tree().len() as u64 - 1,
            receivers: vec![receiver],
        }
    }
}

fn held_status(held: Held, now: u64) -> HeldStatus {
    let cause = match held.cause {
        HoldCause::Emptied => "emptied",
        HoldCause::MaxDelete => "max_delete",
        HoldCause::Unmounted => "unmounted",
    };
    HeldStatus {
        cause: cause.into(),
        reason: why(held.cause).into(),
        count: held.count,
        since_seconds: seconds(now.saturating_sub(held.since)),
        paths: held.paths.iter().map(shown).collect(),
    }
}

/// Why deletions are held, and until when.
fn why(cause: HoldCause) -> &'static str {
    match cause {
        HoldCause::Emptied => "the source lost all its entries at once; they are made when that is approved",
        HoldCause::Unmounted => {
            "the source, or what was mounted in it, was missing, and entries are; their deletions are made when that is approved"
        }
        HoldCause::MaxDelete => "more entries are to be deleted than --max-delete allows; they are made when that is approved",
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// A path for people, no longer than there is room for.
fn shown(path: &RelPath) -> String {
    let whole = path.to_string();
    match whole.char_indices().nth(STATUS_PATH_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}
