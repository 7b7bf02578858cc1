//! Cycles that are applied and not yet on stable storage: a thread of the session brings them there, all that wait at once, while the next are applied.
//!
//! Never acknowledges by itself: that is the control connection's, which is woken, in order. A session that asks for no durability has none of this.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::apply::Touched;
use crate::error::{Error, Result};
use crate::limits::CYCLES_IN_FLIGHT_MAX;
use crate::model::op::OpError;
use crate::receiver::session::Session;
use crate::wire::WireError;

/// A cycle that is applied.
pub(super) struct Applied {
    pub(super) cycle: u64,
    pub(super) failures: Vec<OpError>,
    pub(super) touched: Touched,
}

/// Invariant: `unacked` is the length of `waiting` and of `done`, and how many the thread has between them; at most [`CYCLES_IN_FLIGHT_MAX`].
#[derive(Default)]
struct State {
    waiting: Vec<Applied>,
    done: Vec<Applied>,
    unacked: usize,
    ended: bool,
}

/// What the control connection and the thread share.
#[derive(Default)]
pub(super) struct Syncer {
    state: Mutex<State>,
    due: Condvar,
}

impl Syncer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an applied cycle.
    ///
    /// # Errors
    /// The client has more cycles on their way than it may.
    pub(super) fn push(&self, applied: Applied) -> std::result::Result<(), WireError> {
        let mut state = self.lock();
        if state.unacked >= CYCLES_IN_FLIGHT_MAX {
            return Err(WireError::Order("more cycles than may be on their way"));
        }
        state.unacked += 1;
        state.waiting.push(applied);
        self.due.notify_one();
        Ok(())
    }

    /// Those that can be acknowledged, oldest first.
    pub(super) fn take_done(&self) -> Vec<Applied> {
        let mut state = self.lock();
        let done = std::mem::take(&mut state.done);
        state.unacked -= done.len();
        done
    }

    /// Whether any is not acknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().unacked > 0
    }

    /// The session is over.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.due.notify_one();
    }

    /// All that wait, once there are any; `None` when the session is over.
    fn next(&self) -> Option<Vec<Applied>> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let mut state = self.due.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        (!state.ended).then(|| std::mem::take(&mut state.waiting))
    }

    fn done(&self, mut batch: Vec<Applied>) {
        self.lock().done.append(&mut batch);
    }
}

/// Starts the thread of a session, if it needs one.
///
/// # Errors
/// `Socket`: it cannot be started.
pub(super) fn start(session: &Arc<Session>) -> Result<()> {
    if session.syncer.is_none() {
        return Ok(());
    }
    let session = Arc::clone(session);
    let thread = std::thread::Builder::new().name("sync".into());
    thread.spawn(move || run(&session)).map(drop).map_err(|e| Error::socket("start a thread", e))
}

fn run(session: &Session) {
    let Some(syncer) = &session.syncer else { return };
    while let Some(mut batch) = syncer.next() {
        let mut touched = Touched::default();
        batch.iter_mut().for_each(|applied| touched.merge(std::mem::take(&mut applied.touched)));
        if let Err(e) = touched.sync() {
            let why = not_durable(&e);
            tracing::error!("{why}");
            return session.end_in_doubt(why);
        }
        // Nothing of it may keep a filesystem busy.
        drop(touched);
        syncer.done(batch);
        session.acks_are_due();
    }
}

/// What is said where the session has to end.
pub(super) fn not_durable(e: &std::io::Error) -> String {
    format!("changes could not be brought to stable storage: {e}")
}
