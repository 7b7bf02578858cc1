//! Connections that have not said what they want: how many there may be, and who makes room for whom.
//!
//! Whoever means it says a Hello at once, so when there are too many the one that has been silent for longest goes. Never refuses a new one for old ones that are silent,
//! but while those that were told to go have not left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::limits::HANDSHAKES_MAX;
use crate::sys::wake::Wake;

/// One of them.
#[derive(Default)]
struct Slot {
    evicted: AtomicBool,
    /// Of its thread, once it waits.
    wake: OnceLock<Wake>,
}

/// Invariant: `waiting` has at most [`HANDSHAKES_MAX`], by age; `all`, those that were told to go and have not left included, is at most twice that.
#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Arc<Slot>>,
    all: usize,
}

/// All of a receiver.
#[derive(Default)]
pub(super) struct Handshakes(Mutex<State>);

/// The place of one connection among them.
pub(super) struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    slot: Arc<Slot>,
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, and whether an older one has to go for it. `None`: too many have not left yet.
    pub(super) fn begin(self: &Arc<Self>) -> Option<(Handshake, bool)> {
        let mut state = self.lock();
        if state.all >= 2 * HANDSHAKES_MAX {
            return None;
        }
        let full = state.waiting.len() >= HANDSHAKES_MAX;
        if full {
            state.evict_oldest();
        }
        let (number, slot) = (state.next, Arc::new(Slot::default()));
        state.next += 1;
        state.all += 1;
        state.waiting.insert(number, Arc::clone(&slot));
        Some((Handshake { all: Arc::clone(self), number, slot }, full))
    }

    /// Has the oldest go, for want of descriptors.
    pub(super) fn evict_oldest(&self) {
        self.lock().evict_oldest();
    }
}

impl State {
    fn evict_oldest(&mut self) {
        if let Some((_, slot)) = self.waiting.pop_first() {
            slot.evicted.store(true, Ordering::Release);
            if let Some(wake) = slot.wake.get() {
                wake.wake();
            }
        }
    }
}

impl Handshake {
    /// From now on `wake` tells the connection's thread that it has to go.
    pub(super) fn wait_with(&self, wake: Wake) {
        // Each connection says this once. One that was evicted before it had a wake looks at the flag before it waits.
        let _ = self.slot.wake.set(wake);
    }

    /// Whether it has to go.
    pub(super) fn is_evicted(&self) -> bool {
        self.slot.evicted.load(Ordering::Acquire)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        state.waiting.remove(&self.number);
        state.all -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let all = Arc::new(Handshakes::default());
        let mut held: Vec<Handshake> = (0..HANDSHAKES_MAX).map(|_| all.begin().expect("room").0).collect();
        let wake = Wake::new().unwrap();
        held[0].wait_with(wake.clone());
        let (newest, evicted) = all.begin().expect("room is made");
        assert!(evicted && held[0].is_evicted() && wake.is_set() && !held[1].is_evicted() && !newest.is_evicted());
        // Those that do not leave are bounded too.
        held.push(newest);
        while let Some((more, _)) = all.begin() {
            held.push(more);
        }
        assert_eq!(held.len(), 2 * HANDSHAKES_MAX);
        drop(held.split_off(1));
        assert!(all.begin().is_some_and(|(_, evicted)| !evicted));
    }
}
