//! SIGINT and SIGTERM: the first asks for an end, the second makes one.

use std::io;

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Error, Exit, Result};
use crate::stop::Stop;

/// Has the signals stop `stop`. To be called before any other thread is started, so that every thread leaves them to the one that waits for them.
pub(super) fn listen(stop: &Stop) -> Result<()> {
    let failed = |errno: nix::Error| Error::file("wait for signals", errno.into());
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().map_err(failed)?;
    let stop = stop.clone();
    let wait = move || -> nix::Result<()> {
        let first = signals.wait()?;
        tracing::info!("{first}: finishing what is in flight; a second signal ends at once");
        stop.stop();
        signals.wait()?;
        std::process::exit(Exit::Signal as i32);
    };
    let run = move || {
        if let Err(errno) = wait() {
            tracing::error!("cannot wait for signals: {}", io::Error::from(errno));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(run).map(drop).map_err(|e| Error::file("start a thread", e))
}
