//! A receiver as a program: the sockets it listens on, from the start to the signal that ends it.

use std::net::TcpListener;
use std::time::Duration;

use crate::config;
use crate::error::{Error, Result};
use crate::receiver::{Module, Receiver, Sockets, control};
use crate::stop::Stop;
use crate::sys::nice;
use crate::sys::wake::Wake;

/// How long sessions may take to end when the server is asked to.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Serves until `stop`.
///
/// # Errors
/// `Socket`: an address cannot be listened on.
pub fn run(config: &config::Serve, stop: &Stop) -> Result<()> {
    if let Err(e) = nice::set(config.nice) {
        tracing::warn!("niceness {}: {e}", config.nice);
    }
    let modules = config.modules.iter().map(|m| Module { name: m.name.clone(), root: m.path.clone(), read_only: m.read_only }).collect();
    let (mut listeners, mut names) = (Vec::new(), Vec::new());
    for address in &config.listen {
        let failed = |e| Error::socket(format!("failed to listen on {address}"), e);
        let listener = TcpListener::bind(address).map_err(failed)?;
        let name = listener.local_addr().map_err(failed)?.to_string();
        tracing::info!("listening on {name}");
        names.push(name);
        listeners.push(listener);
    }
    let wake = Wake::new().map_err(|e| Error::socket("failed to listen", e))?;
    let waker = wake.clone();
    stop.on_stop(Box::new(move || waker.wake()));
    let receiver = Receiver::new(modules, Sockets { io: config.io, timeout: config.timeout, ..Sockets::default() });
    let control = control::open(config, names, &receiver)?;
    receiver.listen(&listeners, &wake)?;
    drop(control);
    if !receiver.shutdown(SHUTDOWN_PATIENCE) {
        tracing::warn!("sessions are still busy: their staging may be left behind");
    }
    Ok(())
}
