//! The word that ends a run: set once, by a signal or by the embedding program, and heard by every thread.
//!
//! Base room. It ends nothing itself: threads ask [`Stop::is_stopped`] between their steps, and those that sleep register what wakes them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What wakes a sleeper.
type Callback = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    /// Never goes back to false. Set before `callbacks` is locked for calling, read with it locked: so that a callback is either in the list when it is
    /// called through, or called by its own registration.
    stopped: AtomicBool,
    callbacks: Mutex<Vec<Callback>>,
}

/// A handle of the word; clones share it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end after the step in flight. Calling it again changes nothing.
    pub fn stop(&self) {
        if !self.0.stopped.swap(true, Ordering::SeqCst) {
            self.0.callbacks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|call| call());
        }
    }

    /// Whether the run has been asked to end.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Has `callback` called when the run is asked to end, or at once if it has been. It may be called twice, stays registered for as long as any
    /// handle lives, and must neither block nor register another.
    pub fn on_stop(&self, callback: Callback) {
        let mut callbacks = self.0.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped() {
            callback();
        }
        callbacks.push(callback);
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_stopped()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_callback_hears_it_whenever_it_came() {
        for _ in 0..200 {
            let stop = Stop::new();
            let heard = Arc::new(AtomicU32::new(0));
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let heard = heard.clone();
                        let once = AtomicBool::new(false);
                        stop.on_stop(Box::new(move || {
                            if !once.swap(true, Ordering::SeqCst) {
                                heard.fetch_add(1, Ordering::SeqCst);
                            }
                        }));
                    });
                }
                scope.spawn(|| stop.stop());
            });
            assert!(stop.is_stopped());
            assert_eq!(heard.load(Ordering::SeqCst), 2);
        }
    }
}
