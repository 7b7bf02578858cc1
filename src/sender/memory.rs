//! What outlives a session whose connection was lost: the tree, the watcher, and the clock of both. Until there is a connection again events go on marking what changed, in
//! the thread that waits for it: nothing wakes that thread but an event, the end of the wait, and whoever asks for something.
//!
//! Nothing is looked at meanwhile, and no worker runs. Made by a session that breaks, taken by the next one. Where that cannot go on with the tree, it is dropped, but for what a manifest does not tell
//! of it.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::op::Abilities;
use crate::plan::Planner;
use crate::sender::control::Desk;
use crate::sender::eyes::Eyes;
use crate::sender::session::Session;
use crate::sender::{Outcome, Peer};
use crate::stats::Stats;
use crate::stop::Stop;
use crate::sys::wake::Wake;
use crate::wire::{Link, Token};

/// See the module's comment. Invariant: the planner is suspended, or what it knows is not gone on with, and it has all events that the watcher has seen, but for those that wait in `eyes`.
pub(super) struct Memory {
    pub(super) planner: Planner,
    pub(super) eyes: Eyes,
    pub(super) epoch: Instant,
    /// Of the session that was lost: it is named to the receiver.
    pub(super) token: Token,
}

impl Memory {
    /// Takes what the watcher has seen.
    pub(super) fn listen(&mut self, stats: &Stats) {
        let now = self.epoch.elapsed().as_nanos() as u64;
        let mut nothing = Vec::new();
        for batch in self.eyes.batches.by_ref() {
            batch.for_each(|event| self.planner.event(event, now));
            self.planner.next(now, &mut nothing);
        }
        self.eyes.tell_overflows(stats.overflows.get());
        if self.planner.is_suspended() {
            stats.dirty.set(self.planner.dirty() as u64);
        }
    }

    /// The session to go on with, if that can be done.
    pub(super) fn token(&self) -> Option<Token> {
        self.planner.is_suspended().then_some(self.token)
    }

    /// Whether a session with a receiver that can do so much can go on with it.
    pub(super) fn fits(&self, abilities: Abilities) -> bool {
        self.planner.may_resume(abilities)
    }
}

/// A session that begins anew finds what is not mounted any more by itself: what came and went meanwhile is no news.
pub(super) fn settle_mounts(memory: &mut Option<Memory>, abilities: Abilities, stats: &Stats) {
    if let Some(memory) = memory.as_mut().filter(|memory| !memory.fits(abilities)) {
        memory.eyes.mount_news(stats);
    }
}

/// The next session has other rules, and begins with a manifest.
pub(super) fn set_filter(memory: &mut Option<Memory>, filter: Arc<Filter>) {
    if let Some(memory) = memory {
        memory.planner.set_filter(filter);
    }
}

/// The run is asked to end, and there is no session.
pub(super) fn outcome(memory: &Option<Memory>) -> Outcome {
    let left = memory.as_ref().map_or(0, |memory| memory.planner.left() as u64);
    Outcome { left, interrupted: true, is_away: true, ..Outcome::default() }
}

/// Listens, if there is anybody to.
pub(super) fn listen(memory: &mut Option<Memory>, stats: &Stats) {
    if let Some(memory) = memory {
        memory.listen(stats);
    }
}

/// Waits before a connection is made again; true if the run was asked to end.
pub(super) fn rest(memory: &mut Option<Memory>, (stop, desk): (&Stop, &Desk), stats: &Stats, wait: Duration) -> bool {
    let Some(memory) = memory else { return desk.slot().rest(stop, wait) };
    let Ok(wake) = Wake::new() else { return stop.is_stopped() };
    let deadline = Instant::now() + wait;
    let flushes = desk.flushes();
    desk.slot().wake_by(wake.clone());
    memory.eyes.bell.wake_by(wake.clone());
    loop {
        memory.listen(stats);
        desk.note_away(stats);
        if stop.is_stopped() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Who asks for a flush, or for other rules, is not kept waiting.
        if left.is_zero() || desk.has_filter() || desk.flushes() > flushes {
            return false;
        }
        wake.wait(Some(left));
    }
}

/// Connects in a thread of its own, and listens meanwhile: a host that does not answer takes long to be given up.
///
/// # Errors
/// As [`Peer::connect`]; `Socket` if the run was asked to end.
pub(super) fn connect(memory: &mut Memory, peer: &Arc<Peer>, (stop, desk): (&Stop, &Desk), stats: &Stats) -> Result<Link> {
    let failed = |e| Error::socket("connect", e);
    let wake = Wake::new().map_err(failed)?;
    desk.slot().wake_by(wake.clone());
    memory.eyes.bell.wake_by(wake.clone());
    let (tell, dialled) = mpsc::channel();
    let dial = {
        let (peer, wake) = (Arc::clone(peer), wake.clone());
        move || {
            // Nobody may be waiting any more.
            let _ = tell.send(peer.dial());
            wake.wake();
        }
    };
    std::thread::Builder::new().name("dial".into()).spawn(dial).map_err(failed)?;
    loop {
        memory.listen(stats);
        desk.note_away(stats);
        match dialled.try_recv() {
            Ok(dialled) => return dialled.and_then(|dialled| peer.link(dialled)),
            Err(mpsc::TryRecvError::Empty) if !stop.is_stopped() => drop(wake.wait(None)),
            Err(_) => return Err(failed(std::io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl Session<'_> {
    /// The session broke: what of it the next one may go on with.
    pub(super) fn keep(self, why: &Error) -> Option<Memory> {
        let is_of_use = !self.config.once && !matches!(self.link, Link::Local(_)) && why.is_retryable();
        let now = self.now();
        let Self { mut planner, eyes, crew, link, epoch, token, .. } = self;
        crew.abandon();
        drop(link);
        if !is_of_use {
            return None;
        }
        let eyes = eyes?;
        if !planner.suspend(now) {
            planner.disconnected();
        }
        Some(Memory { planner, eyes, epoch, token })
    }
}
