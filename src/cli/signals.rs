//! SIGINT and SIGTERM: the first asks for an end, the second makes one. SIGHUP: what can be is read and opened again.

use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Error, Exit, Result};
use crate::stop::Stop;

/// Has the signals stop `stop`, and SIGHUP call `reload`; on a terminal it ends the process as it always did, for it says that the terminal is gone. To be
/// called before any other thread is started, so that every thread leaves them to the one that waits for them.
pub(super) fn listen(stop: &Stop, reload: impl Fn() + Send + 'static) -> Result<()> {
    let failed = |errno: nix::Error| Error::file("wait for signals", errno.into());
    let mut signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    if !io::stderr().is_terminal() {
        signals.add(Signal::SIGHUP);
    }
    signals.thread_block().map_err(failed)?;
    let stop = stop.clone();
    let wait = move || -> nix::Result<()> {
        loop {
            match signals.wait()? {
                Signal::SIGHUP => reload(),
                _ if stop.is_stopped() => std::process::exit(Exit::Signal as i32),
                first => {
                    tracing::info!("{first}: finishing what is in flight; a second signal ends at once");
                    stop.stop();
                }
            }
        }
    };
    let run = move || {
        if let Err(errno) = wait() {
            tracing::error!("cannot wait for signals: {}", io::Error::from(errno));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(run).map(drop).map_err(|e| Error::file("start a thread", e))
}
