//! The receiving end: modules, sessions, and a thread for each connection.
//!
//! It joins the wire to the mirror's filesystem and decides only who may change what and when; never what to do. Anything that a peer
//! sends is checked before it is acted on. If one connection of a session breaks, the whole session ends. Started by the command line for a
//! daemon, and by a sender that mirrors to a directory of its own machine.

mod control;
mod daemon;
mod durable;
mod handshakes;
mod places;
mod serve;
mod session;

pub use crate::apply::prepare_process;
pub use daemon::run;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::apply::Root;
use crate::control::status::SessionStatus;
use crate::error::{Error, Exit, Result};
use crate::limits::{
    ACCEPT_PAUSE, HANDSHAKE_TIME_MAX, HANDSHAKES_MAX, LINGER_TIME_MAX, SERVER_INBOX_BYTES_MAX, SESSIONS_MAX, SOCKET_SILENCE_MAX,
    TAKEOVER_TIME, TAKEOVER_TIME_MAX,
};
use crate::model::attrs::Namespaces;
use crate::model::options::{Compress, IoChoice, Writing};
use crate::model::path::{Name, RelPath, Shown};
use crate::receiver::handshakes::{Handshake, Handshakes};
use crate::receiver::places::{Places, Writer};
use crate::receiver::serve::Conn;
use crate::receiver::session::{Session, Stop};
use crate::sys::dir::Dir;
use crate::sys::wake::{Wake, wait_readable};
use crate::wire::link::keep_alive;
use crate::wire::session::{Refusal, greet};
use crate::wire::{Cutter, Incoming, Link, LocalEnd, Message, Messages, Payload, Role, Token};

/// A directory that peers may mirror into, by name.
#[derive(Debug, Clone)]
pub struct Module {
    /// What peers call it.
    pub name: String,
    /// The directory; it must exist when a session starts.
    pub root: PathBuf,
    /// It can be listed, but not changed.
    pub read_only: bool,
}

/// How a receiver drives its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sockets {
    /// io_uring or epoll.
    pub io: IoChoice,
    /// Whether manifests and answers are compressed.
    pub compress: Compress,
    /// How long a client's host may answer nothing; the default is [`SOCKET_SILENCE_MAX`].
    pub timeout: Option<Duration>,
}

struct Inner {
    modules: Vec<Module>,
    sockets: Sockets,
    sessions: Mutex<HashMap<Token, Arc<Session>>>,
    /// A session is gone from the table.
    gone: Condvar,
    handshakes: Arc<Handshakes>,
    /// Taken while `sessions` is, if both are.
    places: Mutex<Places>,
}

/// A receiver. Clones are the same one.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

/// A connection's part in a session; the last one out cleans up.
struct Member<'a> {
    inner: &'a Inner,
    session: Arc<Session>,
    /// What the other connections are to be told; cleared when this one has come to its end in order.
    broken: Option<String>,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.broken.take() {
            self.session.end(Some(why));
        }
        if self.session.leave() {
            self.session.root.end_session(!self.session.ended_well());
            if self.session.is_in_doubt() || self.session.root.has_leftovers() {
                self.inner.places().forget(&self.session.token);
            } else if self.session.is_unused() {
                self.inner.places().was_unused(&self.session.token);
            }
            self.inner.table().remove(&self.session.token);
            self.inner.gone.notify_all();
        }
    }
}

impl Receiver {
    /// A receiver of these modules; nothing runs yet.
    pub fn new(modules: Vec<Module>, sockets: Sockets) -> Self {
        Self(Arc::new(Inner {
            modules,
            sockets,
            sessions: Mutex::default(),
            gone: Condvar::new(),
            handshakes: Arc::default(),
            places: Mutex::default(),
        }))
    }

    /// A connection inside the process; a thread serves its other end.
    ///
    /// # Errors
    /// `Socket`: no descriptors or threads left.
    pub fn connect_local(&self) -> Result<LocalEnd> {
        let (ours, theirs) = Link::pair()?;
        let inner = Arc::clone(&self.0);
        let (handshake, _) =
            inner.handshakes.begin().ok_or_else(|| Error::socket("connect to the receiver", io::ErrorKind::WouldBlock.into()))?;
        spawn(move || inner.serve(Link::local(ours), handshake))?;
        Ok(theirs)
    }

    /// Accepts connections until `stop` is woken; each is served by its own thread. Sessions go on when it returns.
    ///
    /// # Errors
    /// `Socket`: a listener cannot be used.
    pub fn listen(&self, listeners: &[TcpListener], stop: &Wake) -> Result<()> {
        for listener in listeners {
            listener.set_nonblocking(true).map_err(|e| Error::socket("listen", e))?;
        }
        let mut fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        fds.push(stop.as_fd());
        loop {
            wait_readable(&fds, None).map_err(|e| Error::socket("listen", e))?;
            if stop.clear() {
                return Ok(());
            }
            for listener in listeners {
                match listener.accept() {
                    Ok((stream, peer)) => self.accepted(stream, peer.ip().is_loopback()),
                    Err(e)
                        if matches!(
                            e.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                        ) => {}
                    Err(e) => {
                        tracing::warn!(error = %e, "a connection could not be accepted");
                        self.0.handshakes.evict_oldest();
                        if stop.wait(Some(ACCEPT_PAUSE)) {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn accepted(&self, stream: TcpStream, is_local: bool) {
        let Some((handshake, full)) = self.0.handshakes.begin() else {
            tracing::debug!("too many connections that say nothing: a new one was closed");
            return;
        };
        if full {
            tracing::debug!(limit = HANDSHAKES_MAX, "too many connections that say nothing: the oldest was closed");
        }
        let inner = Arc::clone(&self.0);
        let compress = inner.sockets.compress.towards(is_local);
        let spawned = spawn(move || {
            let silence = inner.sockets.timeout.unwrap_or(SOCKET_SILENCE_MAX);
            let linked = stream.set_nonblocking(false).and_then(|()| keep_alive(&stream, silence)).map_err(|e| Error::socket("accept", e));
            match linked.and_then(|()| Link::tcp(stream, inner.sockets.io, compress, None)) {
                Ok(link) => inner.serve(link.with_inbox(SERVER_INBOX_BYTES_MAX), handshake),
                Err(e) => tracing::warn!(error = %e, "a connection could not be served"),
            }
        });
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "a connection could not be served");
        }
    }

    /// Ends all sessions and waits, no longer than `patience`, until their threads have left and what they staged is gone. Says whether they have.
    pub fn shutdown(&self, patience: Duration) -> bool {
        let sessions = self.0.table();
        for session in sessions.values() {
            session.end(Some("the receiver is shutting down".into()));
        }
        self.0.wait_until(sessions, patience, |sessions| sessions.is_empty()).is_some()
    }

    /// What `status` tells of the sessions, the oldest first.
    fn describe(&self) -> Vec<SessionStatus> {
        let mut all: Vec<SessionStatus> = self.0.table().values().map(|session| session.describe()).collect();
        all.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds));
        all
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.0.table().len()
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name("receive".into());
    thread.spawn(work).map(drop).map_err(|e| Error::socket("start a thread", e))
}

fn refusal(code: Exit, text: impl Into<String>) -> Refusal {
    Refusal { code, text: text.into() }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, HashMap<Token, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the table is as `done` says; `None` when `patience` is over.
    fn wait_until<'a>(
        &self,
        mut sessions: MutexGuard<'a, HashMap<Token, Arc<Session>>>,
        patience: Duration,
        done: impl Fn(&HashMap<Token, Arc<Session>>) -> bool,
    ) -> Option<MutexGuard<'a, HashMap<Token, Arc<Session>>>> {
        let deadline = Instant::now() + patience;
        while !done(&sessions) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            sessions = self.gone.wait_timeout(sessions, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(sessions)
    }

    /// Serves one connection to its end.
    fn serve(&self, mut link: Link, handshake: Handshake) {
        handshake.wait_with(link.wake());
        let ended = match first_frame(&mut link, &handshake) {
            // It makes room for others, at once.
            _ if handshake.is_evicted() => return,
            Ok(Some(payload)) => self.serve_from(&mut link, &payload, handshake),
            Ok(None) => Ok(()),
            Err(e) => Err(Stop::Failed(e)),
        };
        let said = match ended {
            Ok(()) | Err(Stop::Ended(None)) => None,
            Err(Stop::Ended(Some(why))) => Some((Exit::Socket, why)),
            Err(Stop::Failed(e)) => {
                tracing::info!(error = %e, "a connection ended");
                // There is nobody left to tell.
                (!matches!(e, Error::Socket { .. })).then(|| (e.exit(), e.to_string()))
            }
        };
        if let Some((code, text)) = said {
            let mut out = Payload::over(link.buffer());
            out.fatal(code as u8, &text);
            // It was about to be closed anyway.
            let _ = link.send(out.take());
        }
        if let Err(e) = link.close(LINGER_TIME_MAX) {
            tracing::debug!(error = %e, "a connection was not closed in good order");
        }
    }

    fn serve_from(&self, link: &mut Link, payload: &[u8], handshake: Handshake) -> std::result::Result<(), Stop> {
        let mut messages = Messages::new(payload);
        let Some(first) = messages.next() else { return Ok(()) };
        let (member, version, index) = match self.admit(first?, link) {
            Ok(admitted) => admitted,
            Err(Refusal { code, text }) => {
                tracing::info!(%text, "a connection was refused");
                let mut out = Payload::over(link.buffer());
                out.refused(code as u8, &text);
                return link.send(out.take()).map_err(Stop::Failed);
            }
        };
        drop(handshake);
        let mut member = member;
        let session = Arc::clone(&member.session);
        let mut out = Payload::over(link.buffer());
        out.welcome(version, &session.token, session.root.abilities(), session.continued && index.is_none());
        let conn = Conn::new(link, &session, out);
        let ended = match index {
            Some(_) => conn.content(messages),
            None => durable::start(&session).map_err(Stop::Failed).and_then(|()| conn.control(messages)),
        };
        member.broken = match &ended {
            Err(Stop::Failed(e)) => Some(format!("another connection of the session failed: {e}")),
            Ok(()) | Err(Stop::Ended(_)) => None,
        };
        ended
    }

    /// Answers a Hello: opens a session, or joins one.
    fn admit(&self, first: Message<'_>, link: &Link) -> std::result::Result<(Member<'_>, u16, Option<u16>), Refusal> {
        let (version, role) = greet(first)?;
        let (session, index) = match role {
            // One that waited until the server could be asked for nothing, and has given up since, is in nobody's way.
            Role::Control { .. } if !link.has_peer() => return Err(refusal(Exit::Socket, "the client has gone")),
            Role::Control { module, path, threads, attrs, read_only, writing, continues } => {
                (self.open((&module, &path), (threads, read_only, &continues), (attrs, writing), (link.wake(), cutter(link)?))?, None)
            }
            Role::Content { token, index } => {
                let found = self.table().get(&token).cloned();
                let session = found.ok_or_else(|| refusal(Exit::Socket, "the session does not exist any more"))?;
                session.join(Some(index), link.wake(), cutter(link)?).map_err(|why| refusal(Exit::Socket, why))?;
                (session, Some(index))
            }
        };
        Ok((Member { inner: self, session, broken: Some("a thread of the receiver failed".into()) }, version, index))
    }

    /// Opens a session that has its control connection, which can be woken and cut by what `member` has, as its first member.
    fn open(
        &self,
        (module, path): (&str, &RelPath),
        (threads, read_only, last): (u16, bool, &Token),
        how: (Namespaces, Writing),
        member: (Wake, Option<Cutter>),
    ) -> std::result::Result<Arc<Session>, Refusal> {
        let Some(module) = self.modules.iter().find(|m| m.name == module) else {
            return Err(refusal(Exit::Handshake, format!("Unknown module '{}'", Shown(module.as_bytes()))));
        };
        let read_only = read_only || module.read_only;
        if path.names().any(Name::is_reserved) {
            return Err(refusal(Exit::Usage, format!("'{path}' is a name that ringsync keeps for itself")));
        }
        let cannot = |e: io::Error| refusal(Exit::File, format!("cannot open '{path}' in module '{}': {e}", module.name));
        let dir = Dir::open_root(&module.root).and_then(|root| open_or_make(&root, path, read_only)).map_err(cannot)?;
        let ident = dir.stat().map_err(cannot)?.ident;
        let place = (ident.dev, ident.ino);
        let token = new_token().map_err(|e| refusal(Exit::File, format!("no random numbers: {e}")))?;

        // A client that lost its connection may be back before we notice: its old session must have left before the mirror is listed. Who only reads is in
        // nobody's way.
        let stands_in_the_way = |s: &Session| s.place == place && !read_only && !s.root.is_read_only();
        let sessions = self.table();
        for older in sessions.values().filter(|s| stands_in_the_way(s)) {
            tracing::warn!(module = module.name, %path, "a new session takes the place of an older one");
            older.end(Some("another session has taken over".into()));
        }
        let are_gone = |all: &HashMap<Token, Arc<Session>>| !all.values().any(|s| stands_in_the_way(s));
        let sessions = self.wait_until(sessions, TAKEOVER_TIME, are_gone).or_else(|| {
            let sessions = self.table();
            sessions.values().filter(|s| stands_in_the_way(s)).for_each(|older| older.cut());
            self.wait_until(sessions, TAKEOVER_TIME_MAX, are_gone)
        });
        let Some(mut sessions) = sessions else {
            return Err(refusal(Exit::Socket, "an older session of this directory does not come to its end"));
        };
        if sessions.len() >= SESSIONS_MAX {
            return Err(refusal(Exit::Socket, format!("max connections ({SESSIONS_MAX}) reached -- try again later")));
        }
        let about = (module.name.clone(), (module.root.clone(), path.clone()));
        let writer = (!read_only).then(|| Writer { token, ident, path: dir.place(), how });
        let continued = writer.is_some_and(|writer| self.places().begin(writer, last));
        let root = Root::new(dir, read_only, how);
        if continued {
            tracing::info!(module = module.name, %path, "a client goes on where it was");
            root.goes_on();
        }
        let session = Arc::new(Session::new(token, root, (place, continued), threads, about));
        session.join(None, member.0, member.1).map_err(|why| refusal(Exit::Socket, why))?;
        sessions.insert(token, Arc::clone(&session));
        Ok(session)
    }
}

/// What cuts a member's connection.
fn cutter(link: &Link) -> std::result::Result<Option<Cutter>, Refusal> {
    link.cutter().map_err(|e| refusal(Exit::Socket, format!("cannot keep a connection: {e}")))
}

/// Opens the directory at `path`; its last component is made if only that is missing, as a copy's destination is.
fn open_or_make(root: &Dir, path: &RelPath, read_only: bool) -> io::Result<Dir> {
    match (root.open_beneath(path), path.split()) {
        (Err(e), Some((parent, name))) if e.kind() == io::ErrorKind::NotFound && !read_only => {
            let parent = root.open_beneath(&parent)?;
            match parent.mkdir(name, 0o755) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
                _ => parent.open_dir(name),
            }
        }
        (opened, _) => opened,
    }
}

/// The first frame; `None` where none will come, or the connection has to go.
fn first_frame(link: &mut Link, handshake: &Handshake) -> Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
    while !handshake.is_evicted() {
        let left = deadline.saturating_duration_since(Instant::now());
        match link.wait(Some(left))? {
            Incoming::Frame(payload) => return Ok(Some(payload)),
            Incoming::TimedOut if left.is_zero() => return Err(Error::Timeout(HANDSHAKE_TIME_MAX.as_secs())),
            Incoming::Woken | Incoming::TimedOut => {}
            Incoming::Closed => return Ok(None),
        }
    }
    Ok(None)
}

fn new_token() -> io::Result<Token> {
    let mut token = Token::default();
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(token)
}
