//! The sender: joins watch → plan → work → wire for one mirror.
//!
//! One thread runs the planner and the control link; workers run beside it. A session lasts as long as its connection. After a loss the next one goes on with the tree if the receiver
//! says that the mirror is as it was left (`sender::memory`); otherwise everything is forgotten and it starts from the receiver's manifest, as the first one does. What the files of it do:
//! `sender` runs sessions one after another, `sender::session` is one session, `sender::outbox` sends cycles in order, `sender::crew` hands work to workers.

mod attend;
mod attrs;
mod backoff;
mod catch_up;
mod control;
mod crew;
mod eyes;
mod failures;
mod feeder;
mod finish;
mod memory;
mod mounts;
mod outbox;
mod pulse;
mod root;
mod scrub;
mod session;

use std::hash::{BuildHasher, RandomState};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::{self, Dest};
use crate::control::Reply;
use crate::control::status::State;
use crate::error::{Error, Result};
use crate::limits::{GREET_TIME_MAX, SOCKET_SILENCE_MAX};
use crate::model::options::{Compress, IoChoice};
use crate::model::path::RelPath;
use crate::model::scrub::Finding;
use crate::receiver::{Module, Receiver, Sockets};
use crate::stats::Stats;
use crate::stop::Stop;
use crate::sys::nice;
use crate::sys::wake::Wake;
use crate::watch::tune;
use crate::wire::link::keep_alive;
use crate::wire::{Link, LocalEnd};
use backoff::Backoff;
pub use control::Controls;
use control::Desk;
use failures::FailureLog;
use root::{LOOK_EVERY, SourceRoot};
use session::{End, Session};

/// Name of the embedded receiver's only module.
const LOCAL_MODULE: &str = "local";
/// How long the embedded receiver may take to leave.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How a mirror ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Entries that could not be mirrored.
    pub failing: u64,
    /// Entries that were not looked at any more, or were on their way.
    pub left: u64,
    /// Entries whose deletion was held.
    pub held: u64,
    /// It was asked to end before it was done.
    pub interrupted: bool,
    /// There was no receiver at the end: what changed since it was lost is not mirrored.
    pub is_away: bool,
}

/// Where the mirror is, as something to connect to. Shared with the workers.
pub(crate) enum Peer {
    /// A receiver in this process.
    Local(Receiver),
    /// A server.
    Tcp { host: String, port: u16, io: IoChoice, compress: Compress, timeout: Option<Duration>, stats: Arc<Stats> },
}

/// The other end, reached.
enum Dialled {
    Local(LocalEnd),
    Tcp(TcpStream),
}

impl Peer {
    fn new(config: &config::Mirror, stats: &Arc<Stats>) -> Result<(Self, String, RelPath)> {
        let dest = config.dests.first().ok_or_else(|| Error::Usage("no destination".into()))?;
        Ok(match dest {
            Dest::Local(path) => {
                let module = Module { name: LOCAL_MODULE.into(), root: path.clone(), read_only: false };
                let receiver = Receiver::new(vec![module], Sockets { io: config.io, compress: Compress::None, timeout: None });
                (Self::Local(receiver), LOCAL_MODULE.into(), RelPath::root())
            }
            Dest::Tcp { host, port, module, path } => {
                let peer = Self::Tcp {
                    host: host.clone(),
                    port: *port,
                    io: config.io,
                    compress: config.compress,
                    timeout: config.timeout,
                    stats: Arc::clone(stats),
                };
                (peer, module.clone(), path.clone())
            }
        })
    }

    /// Makes a link, in the thread that will use it.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub(crate) fn connect(&self) -> Result<Link> {
        self.dial().and_then(|dialled| self.link(dialled))
    }

    /// Reaches the other end, in any thread.
    ///
    /// # Errors
    /// It cannot be reached.
    fn dial(&self) -> Result<Dialled> {
        match self {
            Self::Local(receiver) => receiver.connect_local().map(Dialled::Local),
            Self::Tcp { host, port, timeout, .. } => {
                dial(host, *port, timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT)).map(Dialled::Tcp)
            }
        }
    }

    /// Makes a link over what was dialled, in the thread that will use it.
    ///
    /// # Errors
    /// `Socket`: it is broken already, or the system lacks something.
    fn link(&self, dialled: Dialled) -> Result<Link> {
        match (self, dialled) {
            (_, Dialled::Local(end)) => Ok(Link::local(end)),
            (Self::Local(_), Dialled::Tcp(stream)) => Link::tcp(stream, IoChoice::default(), Compress::None, None),
            (Self::Tcp { io, compress, timeout, stats, .. }, Dialled::Tcp(stream)) => {
                keep_alive(&stream, timeout.unwrap_or(SOCKET_SILENCE_MAX)).map_err(|e| Error::socket("set up a connection", e))?;
                let is_local = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
                Link::tcp(stream, *io, compress.towards(is_local), Some(Arc::clone(stats)))
            }
        }
    }

    /// How long the other end may take to answer a Hello.
    pub(crate) fn patience(&self) -> Duration {
        match self {
            Self::Tcp { timeout: Some(timeout), .. } => *timeout,
            Self::Local(_) | Self::Tcp { timeout: None, .. } => GREET_TIME_MAX,
        }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

/// Connects to the first address of the host that answers.
fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
    use std::net::ToSocketAddrs;
    let addresses = (host, port).to_socket_addrs().map_err(|e| Error::socket(format!("failed to find {host}"), e))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some(Error::socket(format!("failed to connect to {host} ({address})"), e)),
        }
    }
    Err(last.unwrap_or_else(|| Error::socket(format!("failed to find {host}"), std::io::ErrorKind::NotFound.into())))
}

/// Mirrors until the mirror is equal (`config.once`) or the run is asked to end.
///
/// # Errors
/// The first connection cannot be made, or what only a person can mend.
pub fn run(config: &config::Mirror, stop: &Stop, stats: Arc<Stats>, controls: &Controls) -> Result<Outcome> {
    run_with(config, stop, stats, None, controls)
}

/// Compares mirror and source, and tells `hear` of each difference, while it runs. What is repaired is said by `config.scrub`.
///
/// # Errors
/// As [`run`].
pub fn verify(config: &config::Mirror, stop: &Stop, stats: Arc<Stats>, hear: &dyn Fn(&Finding)) -> Result<Outcome> {
    run_with(config, stop, stats, Some(hear), &Controls::new())
}

fn run_with(config: &config::Mirror, stop: &Stop, stats: Arc<Stats>, hearer: scrub::Hearer<'_>, controls: &Controls) -> Result<Outcome> {
    if let Err(e) = nice::set(config.nice) {
        tracing::warn!("niceness {}: {e}", config.nice);
    }
    if config.tune && !config.once {
        tune::raise(None);
    }
    let (peer, module, path) = Peer::new(config, &stats)?;
    let peer = Arc::new(peer);
    let desk = &controls.0;
    desk.slot().register(stop);
    desk.set_failure_log(config.failure_log.as_deref().map(FailureLog::open).transpose()?);
    let server = desk.open(config)?;
    let result = sessions(config, (stop, hearer), &stats, &peer, (&module, &path), desk);
    drop(server);
    desk.set_failure_log(None);
    if let Peer::Local(receiver) = &*peer
        && !receiver.shutdown(SHUTDOWN_PATIENCE)
    {
        tracing::warn!("the receiver is still busy: its staging may be left behind");
    }
    result
}

fn sessions(
    config: &config::Mirror,
    (stop, hearer): (&Stop, scrub::Hearer<'_>),
    stats: &Arc<Stats>,
    peer: &Arc<Peer>,
    module: (&str, &RelPath),
    desk: &Desk,
) -> Result<Outcome> {
    let mut config = config.clone();
    let mut root = SourceRoot::open(&config.source)?;
    let mut backoff = Backoff::new();
    let mut connected_once = false;
    // Only what has worked once and does not any more may work again by itself.
    let mut worked_once = false;
    // Of a session that was lost; the next one takes it.
    let mut memory = None;
    loop {
        if let Some(filter) = desk.take_filter() {
            config.filter = Arc::clone(&filter);
            memory::set_filter(&mut memory, filter);
        }
        let connection = session::connect(&config, (stop, desk), peer, module, (&mut memory, stats));
        let connection = connection.map_err(|e| match e {
            // What a server cannot open is tried again only where it has been there.
            Error::File { source, .. } if !worked_once => Error::Handshake(source.to_string()),
            e => e,
        });
        let began = connection.is_ok().then(Instant::now);
        connected_once |= connection.is_ok();
        let started =
            connection.and_then(|connection| Session::start(&config, (stop, desk), stats, peer, (connection, &mut memory), &root, hearer));
        worked_once |= started.is_ok();
        let ended = started.and_then(|session| session.run(&mut memory));
        let why = match ended {
            Ok(End::Done(outcome)) => return Ok(outcome),
            Ok(End::NewRules) => continue,
            Ok(End::SourceLost) => {
                tracing::error!(
                    "the source {} is missing or another directory than it was: nothing is deleted; waiting until it is back",
                    config.source.display()
                );
                if config.once {
                    return Err(root.lost());
                }
                if !wait_for_source(&mut root, &config, desk, stop) {
                    return Ok(Outcome { interrupted: true, ..Outcome::default() });
                }
                continue;
            }
            Err(_) if stop.is_stopped() => return Ok(memory::outcome(&memory)),
            // The directory of the mirror may be another one, or gone: the next session looks.
            Err(e @ Error::File { .. }) if worked_once && !config.once => e,
            Err(e) if config.once || peer.is_local() => return Err(e),
            Err(e) if connected_once && e.is_retryable() => e,
            Err(e) => return Err(e),
        };
        let random = BuildHasher::hash_one(&RandomState::new(), 0);
        let wait = backoff.wait(began.map_or(Duration::ZERO, |began| began.elapsed()), random);
        tracing::warn!("{why}; connecting again in {} ms", wait.as_millis());
        desk.leave(State::Reconnecting, &why.to_string(), None);
        stats.reconnects.add(1);
        desk.note_away(stats);
        if memory::rest(&mut memory, (stop, desk), stats, wait) {
            return Ok(memory::outcome(&memory));
        }
    }
}

/// Waits until the source is there, or another directory takes its place: one that is approved, or that follows an empty one, as when a disk is mounted late. False if the run was
/// asked to end first.
fn wait_for_source(root: &mut SourceRoot, config: &config::Mirror, desk: &Desk, stop: &Stop) -> bool {
    let came = loop {
        if root.reopen() {
            tracing::info!("the source is back: what it does not have any more is deleted when that is approved");
            if let Some(ticket) = desk.approved_source() {
                desk.reply(ticket, Reply::Approved(0));
            }
            break true;
        }
        if desk.is_emptied()
            && let Ok(other) = SourceRoot::open(&config.source)
        {
            tracing::info!("the source was empty and is another directory from now on: deletions are still held");
            *root = other;
            break true;
        }
        if let Some(ticket) = desk.approved_source() {
            match SourceRoot::open(&config.source) {
                Ok(approved) => {
                    tracing::info!("approved: the source is another directory from now on");
                    *root = approved;
                    desk.set_hold(None);
                    desk.reply(ticket, Reply::ApprovedSource);
                    break true;
                }
                Err(e) => desk.reply(ticket, Reply::Error(format!("there is nothing to approve: {e}"))),
            }
        }
        if desk.slot().rest(stop, LOOK_EVERY) {
            break false;
        }
    };
    desk.set_lost(false);
    came
}

/// Wakes whoever waits now when the run is asked to end: one registration for a run, however many sessions it has.
#[derive(Clone, Default)]
pub(crate) struct StopSlot(Arc<Mutex<Option<Wake>>>);

impl StopSlot {
    /// Has the end of the run ring.
    fn register(&self, stop: &Stop) {
        let slot = self.clone();
        stop.on_stop(Box::new(move || slot.ring()));
    }

    /// Wakes whoever waits now.
    pub(crate) fn ring(&self) {
        if let Some(wake) = &*self.lock() {
            wake.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Wake>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on it is this one that is woken; a stop that came before is found by asking [`Stop`].
    pub(crate) fn wake_by(&self, wake: Wake) {
        *self.lock() = Some(wake);
    }

    /// Waits; true if the run was asked to end.
    fn rest(&self, stop: &Stop, wait: Duration) -> bool {
        let Ok(wake) = Wake::new() else { return stop.is_stopped() };
        self.wake_by(wake.clone());
        if !stop.is_stopped() {
            wake.wait(Some(wait));
        }
        stop.is_stopped()
    }
}
