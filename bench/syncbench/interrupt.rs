//! The wish to end: set by a signal, asked for between steps. It ends nothing itself; what is held is released by its owners' `Drop`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::problem::{Doing, Problem, Result};

static WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// A wait asks so often.
const SLICE: Duration = Duration::from_millis(50);

/// Has SIGINT, SIGTERM and SIGHUP end the run in order.
///
/// # Errors
/// When the system refuses.
pub fn listen() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, WANTED.clone()).doing(|| "listen for signals".into())?;
    }
    Ok(())
}

/// An error once an end is wanted.
///
/// # Errors
/// [`Problem::Interrupted`]
pub fn check() -> Result<()> {
    if WANTED.load(Ordering::Relaxed) { Err(Problem::Interrupted) } else { Ok(()) }
}

/// Sleeps, unless an end is wanted.
///
/// # Errors
/// [`Problem::Interrupted`]
pub fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}
