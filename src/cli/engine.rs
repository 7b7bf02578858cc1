//! The one place where the command line calls those who do the work.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::error::{Error, Result};
use crate::receiver::{Module, Receiver, Sockets};
pub(super) use crate::sender::Outcome;
use crate::stats::Stats;
use crate::stop::Stop;
use crate::sys::wake::Wake;

/// How long sessions may take to end when the server is asked to.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Mirrors until it is equal (`once`) or `stop`.
pub(super) fn mirror(config: &config::Mirror, stop: &Stop, stats: Arc<Stats>) -> Result<Outcome> {
    crate::sender::run(config, stop, stats)
}

/// Serves until `stop`.
pub(super) fn serve(config: &config::Serve, stop: &Stop) -> Result<()> {
    let modules = config.modules.iter().map(|m| Module { name: m.name.clone(), root: m.path.clone(), read_only: m.read_only }).collect();
    let mut listeners = Vec::new();
    for address in &config.listen {
        let listener = TcpListener::bind(address).map_err(|e| Error::socket(format!("failed to listen on {address}"), e))?;
        let bound = listener.local_addr().map_err(|e| Error::socket(format!("failed to listen on {address}"), e))?;
        tracing::info!("listening on {bound}");
        listeners.push(listener);
    }
    let wake = Wake::new().map_err(|e| Error::socket("failed to listen", e))?;
    let waker = wake.clone();
    stop.on_stop(Box::new(move || waker.wake()));
    let receiver = Receiver::new(modules, Sockets { io: config.io, ..Sockets::default() });
    receiver.listen(&listeners, &wake)?;
    if !receiver.shutdown(SHUTDOWN_PATIENCE) {
        tracing::warn!("sessions are still busy: their staging may be left behind");
    }
    Ok(())
}
